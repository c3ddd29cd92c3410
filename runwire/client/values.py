"""Python values as google.protobuf.Value and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

from google.protobuf import struct_pb2

_TYPES: Final = "None, bool, int, float, str, a list or a dict with str keys"
_EXACT: Final = 2**53

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
"""What a Value can hold."""


def to_value(value: Json | struct_pb2.Value) -> struct_pb2.Value:
    """`value` as a Value; one that is a Value already is returned as it is.

    Raises TypeError, with the path, for a type JSON does not have, and ValueError for a number a Value would change:
    NaN, infinity, and integers beyond 2^53.
    """
    if isinstance(value, struct_pb2.Value):
        return value
    target = struct_pb2.Value()
    _fill(target, value, "value")
    return target


def to_struct(value: Mapping[str, Json] | struct_pb2.Struct) -> struct_pb2.Struct:
    """`value` as a Struct. Raises as `to_value`."""
    return value if isinstance(value, struct_pb2.Struct) else to_value(value).struct_value


def from_value(value: struct_pb2.Value) -> Json:
    """What `value` holds. Whole numbers come back as int: JSON does not tell 3 from 3.0. None where it is unset."""
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return from_struct(value.struct_value)
    if kind == "list_value":
        return [from_value(item) for item in value.list_value.values]
    if kind == "number_value":
        return _number(value.number_value)
    if kind == "string_value":
        return value.string_value
    return value.bool_value if kind == "bool_value" else None


def from_struct(value: struct_pb2.Struct) -> dict[str, Json]:
    """What `value` holds."""
    return {key: from_value(item) for key, item in value.fields.items()}


def _number(value: float) -> int | float:
    return int(value) if value.is_integer() and abs(value) <= _EXACT else value


def _fill(target: struct_pb2.Value, value: object, path: str) -> None:
    if value is None:
        target.null_value = struct_pb2.NULL_VALUE
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int | float):
        target.number_value = _exact(value, path)
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, Mapping):
        _fill_struct(target.struct_value, value, path)
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        target.list_value.SetInParent()
        for index, item in enumerate(value):
            _fill(target.list_value.values.add(), item, f"{path}[{index}]")
    else:
        raise TypeError(f"{path} is {type(value).__name__!r}; it must be {_TYPES}")


def _fill_struct(target: struct_pb2.Struct, value: Mapping[object, object], path: str) -> None:
    target.SetInParent()
    for key, item in value.items():
        if not isinstance(key, str):
            raise TypeError(f"{path} has the key {key!r}; keys must be str")
        _fill(target.fields[key], item, f"{path}.{key}")


def _exact(value: int | float, path: str) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{path} is {value!r}; it must be finite")
    if isinstance(value, int) and abs(value) > _EXACT:
        raise ValueError(f"{path} is {value!r}; integers beyond 2^53 lose digits: send a string")
    return float(value)
