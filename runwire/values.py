"""Values in and out: Python and JSON as google.protobuf.Value and Struct, and back. Nothing else converts.

What somebody asks for is checked before it is accepted (`check_value`, `check_struct`, `to_value`): a request that
could not be read back is refused, with the path of what is wrong.

What agents, tools and scorers produce is never refused: it is paid for. `carry_value`, `carry_struct` and `carry_text`
raise nothing, whatever they are given, and carry what JSON, or a reader in some language, could not hold like this:

    nested more than MAX_DEPTH deep     the rest as text: `[too deep] ` and its JSON, cut at 16,384 characters
    larger than the room there is       all of it as text: `[too large] ` and its JSON, cut at 65,536 characters
    a value inside itself               `[cycle]`
    an integer beyond 2^53              its decimal digits as text; beyond 4,000 digits hexadecimal ones
    NaN and infinities                  `NaN`, `Infinity`, `-Infinity`
    lone surrogates                     U+FFFD; the two halves of one character are joined
    bytes                               their text where they are UTF-8, else base64
    sets, tuples and the like           lists
    dataclasses, pydantic models        objects, by field
    enums                               their values
    dates, times                        ISO 8601; decimals, UUIDs, paths: their text
    keys that are no text               their text (`true`, `null`, `1`); a key twice: with ` (2)` behind it
    anything else                       its repr, cut at 1,000 characters
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import cache
from typing import Any, Final
from uuid import UUID

from google.protobuf import duration_pb2, json_format, struct_pb2, timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

MAX_DEPTH: Final = 30
"""Objects and lists inside one another. Protobuf reads 100 messages inside one another in most languages, and an object
is three of them. The deepest place of a Value (an answer's arguments, in an event, in a frame) is 5 deep, which leaves
5 messages for envelopes of others."""
MAX_CARRIED_BYTES: Final = 1024 * 1024
"""Of one value that is carried."""

_TYPES: Final = "None, bool, int, float, str, a list or a dict with str keys"
_EXACT: Final = 2**53
_MAX_DIGITS: Final = 4_000
_MAX_DEEP: Final = 16_384
_MAX_LARGE: Final = 65_536
_MAX_REPR: Final = 1_000
_MAX_PROBLEMS: Final = 20
_NODE_BYTES: Final = 4
"""What a value costs on the wire at least, beside its text."""
_NOT_FINITE: Final = re.compile(rb"\x11.{6}[\xf0-\xff][\x7f\xff]", re.DOTALL)
"""Value.number_value with an exponent of ones."""
_DEEP: Final = "[too deep] "
_LARGE: Final = "[too large] "
_CYCLE: Final = "[cycle]"
_CUT: Final = " ..."

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
"""What a Value can hold."""


# Given by somebody, and checked


def to_value(value: Json | struct_pb2.Value) -> struct_pb2.Value:
    """`value` as a Value; one that is a Value already is returned as it is.

    Raises TypeError, with the path, for a type JSON does not have, and ValueError for what a Value would change or
    nobody could read: NaN, infinity, integers beyond 2^53, lone surrogates, and more than MAX_DEPTH levels.
    """
    if isinstance(value, struct_pb2.Value):
        return value
    target = struct_pb2.Value()
    _fill(target, value, "value", 0)
    return target


def to_struct(value: Mapping[str, Json] | struct_pb2.Struct) -> struct_pb2.Struct:
    """`value` as a Struct. Raises as `to_value`."""
    return value if isinstance(value, struct_pb2.Struct) else to_value(value).struct_value


def check_value(value: struct_pb2.Value, path: str) -> dict[str, str]:
    """What is wrong with a Value that somebody sent, by path; nothing, where everybody can read it back."""
    found: dict[str, str] = {}
    _check(value, path, 0, found)
    return found


def check_struct(value: struct_pb2.Struct, path: str) -> dict[str, str]:
    """As `check_value`."""
    found: dict[str, str] = {}
    _check_fields(value, path, 0, found)
    return found


def _check(value: struct_pb2.Value, path: str, level: int, found: dict[str, str]) -> None:
    kind = value.WhichOneof("kind")
    if kind == "number_value":
        if not math.isfinite(value.number_value):
            found[path] = f"is {value.number_value!r}; it must be finite"
    elif kind == "struct_value":
        _check_fields(value.struct_value, path, level, found)
    elif kind == "list_value":
        if level >= MAX_DEPTH:
            found[path] = _too_deep()
            return
        for index, item in enumerate(value.list_value.values):
            if len(found) >= _MAX_PROBLEMS:
                return
            _check(item, f"{path}[{index}]", level + 1, found)
    elif kind is None:
        found[path] = "holds no value: null is one too"


def _check_fields(value: struct_pb2.Struct, path: str, level: int, found: dict[str, str]) -> None:
    if level >= MAX_DEPTH:
        found[path] = _too_deep()
        return
    for key, item in value.fields.items():
        if len(found) >= _MAX_PROBLEMS:
            return
        _check(item, f"{path}.{key}", level + 1, found)


def _too_deep() -> str:
    return f"is nested more than {MAX_DEPTH} deep"


def _fill(target: struct_pb2.Value, value: object, path: str, level: int) -> None:
    if value is None:
        target.null_value = struct_pb2.NULL_VALUE
    elif isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int | float):
        target.number_value = _exact(value, path)
    elif isinstance(value, str):
        target.string_value = _readable(value, path)
    elif isinstance(value, Mapping):
        _fill_struct(target.struct_value, value, path, level)
    elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        if level >= MAX_DEPTH:
            raise ValueError(f"{path} {_too_deep()}")
        target.list_value.SetInParent()
        for index, item in enumerate(value):
            _fill(target.list_value.values.add(), item, f"{path}[{index}]", level + 1)
    else:
        raise TypeError(f"{path} is {type(value).__name__!r}; it must be {_TYPES}")


def _fill_struct(target: struct_pb2.Struct, value: Mapping[object, object], path: str, level: int) -> None:
    if level >= MAX_DEPTH:
        raise ValueError(f"{path} {_too_deep()}")
    target.SetInParent()
    for key, item in value.items():
        if not isinstance(key, str):
            raise TypeError(f"{path} has the key {key!r}; keys must be str")
        _fill(target.fields[_readable(key, path)], item, f"{path}.{key}", level + 1)


def _exact(value: int | float, path: str) -> float:
    if isinstance(value, int) and abs(value) > _EXACT:
        raise ValueError(f"{path} is {_digits(value)}; integers beyond 2^53 lose digits: send a string")
    if not math.isfinite(value):
        raise ValueError(f"{path} is {value!r}; it must be finite")
    return float(value)


def _readable(text: str, path: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{path} holds a lone surrogate at character {error.start}, which UTF-8 does not have"
        ) from None
    return text


# Back


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


# Produced, and carried whatever it is


def carry_value(value: object, most_bytes: int = MAX_CARRIED_BYTES) -> struct_pb2.Value:
    """`value` as a Value of at most about `most_bytes` that every client reads. Raises nothing: see the top."""
    target = struct_pb2.Value()
    try:
        _Carrier(most_bytes).fill(target, value, 0)
        if target.ByteSize() <= most_bytes:
            return target
    except Exception:
        # Too large, or something that misbehaves in its own code: what can be told of it is told as text.
        pass
    limit = max(0, min(_MAX_LARGE, most_bytes // 4 - 64))
    text = _joined(value)[:limit] + _CUT if isinstance(value, str) else json_text(value, limit)
    return struct_pb2.Value(string_value=_LARGE + text)


def carry_struct(value: object, most_bytes: int = MAX_CARRIED_BYTES) -> struct_pb2.Struct:
    """As `carry_value`. What is no object, or too large, stands under the key `value`."""
    carried = carry_value(value, most_bytes)
    if carried.HasField("struct_value"):
        return carried.struct_value
    return struct_pb2.Struct(fields={"value": carried})


def carry_text(text: str, most_bytes: int = MAX_CARRIED_BYTES) -> str:
    """`text` as UTF-8 can hold it, cut with ` ...` beyond `most_bytes`."""
    whole = _joined(text)
    encoded = whole.encode()
    if len(encoded) <= most_bytes:
        return whole
    return encoded[: max(0, most_bytes - len(_CUT))].decode(errors="ignore") + _CUT


def cleaned(data: Any) -> Any:
    """JSON data without lone surrogates, for callers that serialise it themselves. Raises nothing for JSON."""
    if isinstance(data, str):
        return _joined(data)
    if isinstance(data, Mapping):
        return {cleaned(key): cleaned(item) for key, item in data.items()}
    if isinstance(data, list | tuple):
        return [cleaned(item) for item in data]
    return data


class _TooLarge(Exception):
    """There is no room for all of a value."""


class _Carrier:
    """Fills one Value, as far as there is room."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._open: set[int] = set()
        """Ids of the containers around the present place."""

    def fill(self, target: struct_pb2.Value, value: object, level: int) -> None:
        self._spend(_NODE_BYTES)
        plain = _plain(value)
        if plain is None:
            target.null_value = struct_pb2.NULL_VALUE
        elif isinstance(plain, bool):
            target.bool_value = plain
        elif isinstance(plain, float):
            target.number_value = plain
        elif isinstance(plain, str):
            self._fill_text(target, plain)
        elif id(value) in self._open:
            target.string_value = _CYCLE
        elif level >= MAX_DEPTH:
            self._fill_text(target, _DEEP + json_text(plain, _MAX_DEEP))
        else:
            self._open.add(id(value))
            self._fill_container(target, plain, level)
            self._open.discard(id(value))

    def _fill_container(self, target: struct_pb2.Value, plain: Any, level: int) -> None:
        if isinstance(plain, Mapping):
            target.struct_value.SetInParent()
            for key, item in _entries(plain, self._spend):
                self.fill(target.struct_value.fields[key], item, level + 1)
        else:
            target.list_value.SetInParent()
            for item in plain:
                self.fill(target.list_value.values.add(), item, level + 1)

    def _fill_text(self, target: struct_pb2.Value, text: str) -> None:
        self._spend(len(text))
        target.string_value = text

    def _spend(self, size: int) -> None:
        self._room -= size
        if self._room < 0:
            raise _TooLarge


def _entries(value: Mapping[Any, Any], spend: Any) -> Iterator[tuple[str, Any]]:
    """With keys that are text, each once."""
    seen: set[str] = set()
    for key, item in value.items():
        text = name = _key(key)
        number = 1
        while text in seen:
            number += 1
            text = f"{name} ({number})"
        seen.add(text)
        spend(len(text) + _NODE_BYTES)
        yield text, item


def _key(key: object) -> str:
    if isinstance(key, str) and not isinstance(key, Enum):
        return _joined(key)
    plain = _plain(key)
    if isinstance(plain, str):
        return plain
    return json_text(plain, _MAX_REPR)


def _plain(value: object) -> Any:
    """`value` as None, bool, float, clean text, a mapping, or a list, one level of it."""
    try:
        return _plain_unguarded(value)
    except Exception:
        return f"<{_joined(type(value).__name__)}>"


def _plain_unguarded(value: Any) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return _joined(str(value))
    if isinstance(value, int):
        return float(value) if abs(value) <= _EXACT else _digits(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else _name(value)
    if isinstance(value, Mapping):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return _bytes_text(bytes(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    if isinstance(value, Message):
        return _of_message(value)
    if (text := _text_of(value)) is not None:
        return _joined(text)
    if isinstance(value, Collection) and not isinstance(value, type):
        return list(value)
    return _of_object(value)


def _text_of(value: Any) -> str | None:
    """Of the small types of the standard library that JSON writes as text."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return f"PT{value.total_seconds():.15g}S"
    if isinstance(value, Decimal | UUID | Fraction):
        return str(value)
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    return None


def _of_message(value: Message) -> Any:
    if isinstance(value, struct_pb2.Value):
        kind = value.WhichOneof("kind")
        return None if kind is None or kind == "null_value" else _plain(getattr(value, kind))
    if isinstance(value, struct_pb2.Struct):
        return dict(value.fields)
    if isinstance(value, struct_pb2.ListValue):
        return list(value.values)
    return json_format.MessageToDict(value, preserving_proto_field_name=True)


def _of_object(value: Any) -> Any:
    kind = type(value)
    if callable(getattr(kind, "model_dump", None)):
        return value.model_dump(mode="python")
    if callable(getattr(kind, "tolist", None)):  # arrays and their numbers
        return _plain(value.tolist())
    return _joined(repr(value)[:_MAX_REPR])


def _joined(text: str) -> str:
    """Without lone surrogates."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _digits(value: int) -> str:
    # Python refuses to write more digits than it is set to, and needs long for them.
    return str(value) if value.bit_length() < _MAX_DIGITS * 3 else hex(value)


def _name(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _bytes_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return base64.b64encode(data).decode()


@dataclasses.dataclass(frozen=True, slots=True)
class _Inner:
    """A value inside another one, of which the text is still to be written."""

    value: object


def json_text(value: object, most: int) -> str:
    """The JSON of any value, in the forms above, cut with ` ...` beyond `most` characters. However deep it is, and also
    if it holds itself: only as much of it is looked at as is written."""
    written: list[str] = []
    room = most
    open_pieces = [_pieces(value)]
    while open_pieces:
        piece = _next(open_pieces[-1])
        if piece is None:
            open_pieces.pop()
        elif isinstance(piece, _Inner):
            open_pieces.append(_pieces(piece.value))
        elif len(piece) > room:
            written.append(piece[:room] + _CUT)
            break
        else:
            written.append(piece)
            room -= len(piece)
    return "".join(written)


def _next(pieces: Iterator[str | _Inner]) -> str | _Inner | None:
    try:
        return next(pieces, None)
    except Exception:
        return None  # a collection that cannot be gone through to its end


def _pieces(value: object) -> Iterator[str | _Inner]:
    plain = _plain(value)
    if isinstance(plain, Mapping):
        yield "{"
        for index, (key, item) in enumerate(_entries(plain, lambda size: None)):
            yield f"{', ' if index else ''}{json.dumps(key, ensure_ascii=False)}: "
            yield _Inner(item)
        yield "}"
    elif isinstance(plain, list):
        yield "["
        for index, item in enumerate(plain):
            if index:
                yield ", "
            yield _Inner(item)
        yield "]"
    elif isinstance(plain, float):
        yield json.dumps(_number(plain))
    else:
        yield json.dumps(plain, ensure_ascii=False)


# What was stored before it was checked


def may_be_unreadable(data: bytes) -> bool:
    """Whether a serialised message may hold a number that is not finite. A look at the bytes, so that not every message
    that was stored has to be gone through; it may err on this side."""
    return _NOT_FINITE.search(data) is not None


def make_readable(message: Message) -> None:
    """Makes a message readable for everybody, in place: Values and Structs that are not are carried, times and
    durations that are none are cleared. What is well is left as it is."""
    for field in _to_make_readable(message.DESCRIPTOR):
        if field.is_repeated:
            items = getattr(message, field.name)
            for item in items.values() if _is_map(field) else items:
                _make_one_readable(item, None)
        elif message.HasField(field.name):
            _make_one_readable(getattr(message, field.name), lambda name=field.name: message.ClearField(name))


def _make_one_readable(message: Message, clear: Any) -> None:
    if isinstance(message, struct_pb2.Value):
        if check_value(message, ""):
            message.CopyFrom(carry_value(message))
    elif isinstance(message, struct_pb2.Struct):
        if check_struct(message, ""):
            message.CopyFrom(carry_struct(message))
    elif isinstance(message, timestamp_pb2.Timestamp | duration_pb2.Duration):
        if clear is not None and not is_time(message):
            clear()
    else:
        make_readable(message)


def is_time(message: timestamp_pb2.Timestamp | duration_pb2.Duration) -> bool:
    """Whether it is a time between the years 1 and 9999, or a duration of less than 10,000 years."""
    try:
        message.ToJsonString()
    except ValueError:
        return False
    return True


_LEAVES: Final = frozenset(
    {
        "google.protobuf.Value",
        "google.protobuf.Struct",
        "google.protobuf.Timestamp",
        "google.protobuf.Duration",
    }
)


@cache
def _to_make_readable(descriptor: Descriptor) -> tuple[FieldDescriptor, ...]:
    """Fields that hold such values, at any depth."""
    return tuple(field for field in descriptor.fields if _needs_mending(field, ()))


def _needs_mending(field: FieldDescriptor, above: tuple[str, ...]) -> bool:
    inner = field.message_type
    if inner is None or inner.full_name in above:
        return False
    if _is_map(field):
        return _needs_mending(inner.fields_by_name["value"], above)
    return inner.full_name in _LEAVES or any(_needs_mending(each, (*above, inner.full_name)) for each in inner.fields)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry
