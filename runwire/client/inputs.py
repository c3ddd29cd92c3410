"""What a program has at hand as what JSON can hold, where nothing is lost by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any, Final
from uuid import UUID

from google.protobuf import struct_pb2

from runwire.values import MAX_DEPTH, to_value

_AS_TEXT: Final = (Decimal, UUID, PurePath)


def as_value(value: object, path: str = "input") -> struct_pb2.Value:
    """`value` as a Value, in the forms in which pydantic writes and reads it: pydantic models and dataclasses are
    objects, dates and times ISO 8601, bytes their UTF-8 text, sets and tuples lists, enums their values.

    Raises TypeError and ValueError, with the path, for what would not come back as it is.
    """
    if isinstance(value, struct_pb2.Value):
        return value
    return to_value(_plain(value, path, 0))


def _plain(value: Any, path: str, level: int) -> Any:
    if value is None or (isinstance(value, str | bool | int | float) and not isinstance(value, Enum)):
        return value
    if level > MAX_DEPTH:
        raise ValueError(f"{path} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, Enum):
        return _plain(value.value, path, level + 1)
    if hasattr(value, "model_dump") and not isinstance(value, type):
        return _dumped(value, path)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((each.name, getattr(value, each.name)) for each in dataclasses.fields(value))
        return {name: _plain(item, f"{path}.{name}", level + 1) for name, item in fields}
    if isinstance(value, Mapping):
        return {key: _plain(item, f"{path}.{key}", level + 1) for key, item in value.items()}
    if isinstance(value, bytes | bytearray | memoryview):
        return _text(bytes(value), path)
    if isinstance(value, Sequence | Set):
        return [_plain(item, f"{path}[{index}]", level + 1) for index, item in enumerate(value)]
    return _scalar(value)


def _dumped(model: Any, path: str) -> Any:
    try:
        return model.model_dump(mode="json")
    except ValueError as error:
        raise ValueError(f"{path}: {type(model).__name__} cannot be written as JSON: {error}") from None


def _scalar(value: Any) -> Any:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return _iso_duration(value)
    return str(value) if isinstance(value, _AS_TEXT) else value


def _text(data: bytes, path: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ValueError(
            f"{path} is {len(data)} bytes that are no UTF-8 text: send them as base64 (pydantic.Base64Bytes reads it), "
            "or to an agent as a part: image(...), audio(...), document(...) of runwire.parts"
        ) from None


def _iso_duration(value: timedelta) -> str:
    sign, value = ("-", -value) if value < timedelta(0) else ("", value)
    return f"{sign}P{value.days}DT{value.seconds}.{value.microseconds:06}S"
