"""From the bytes of a request to a message that keeps all bounds, or to an error that names what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from runwire import bounds
from runwire.errors import InvalidRequest, RequestMalformed
from runwire.threads import off_loop

_MOST_LEVELS: Final = 8
"""How deep a field that does not parse is looked for."""
_WHOLE: Final = "google.protobuf."
"""Messages that are named as a whole."""


async def read(parse: Callable[[bytes], Any] | None, data: bytes) -> Any:
    """The message that `parse` makes of `data`, without fields that this version does not know: they could not be kept,
    and may be nested as deep as one likes. A large one is read in a thread.

    Raises RequestMalformed for bytes that do not parse, and InvalidRequest for what is out of its bounds.
    """
    return await off_loop(len(data), parsed, parse, data)


def parsed(parse: Callable[[bytes], Any] | None, data: bytes) -> Any:
    """As `read`, at once."""
    if parse is None:
        return data
    try:
        message = parse(data)
    except Exception as error:
        raise _malformed(getattr(parse, "__self__", None), data, error) from None
    if isinstance(message, Message) and message.DESCRIPTOR.full_name.startswith("runwire."):
        message.DiscardUnknownFields()
        if wrong := bounds.violations(message):
            raise InvalidRequest(wrong)
    return message


def _malformed(kind: Any, data: bytes, error: Exception) -> RequestMalformed:
    descriptor = getattr(kind, "DESCRIPTOR", None)
    path = _culprit(descriptor, data, 0) if isinstance(descriptor, Descriptor) else ""
    name = descriptor.full_name if isinstance(descriptor, Descriptor) else "message"
    problem = "cannot be parsed"
    if "depth" in str(error).lower() or "recursion" in str(error).lower():
        problem = "is nested deeper than protobuf reads"
    return RequestMalformed(f"the request is no {name}: {path or 'it'} {problem}", path or "request", problem)


def _culprit(descriptor: Descriptor, data: bytes, level: int) -> str:
    """The path of the first field that does not parse by itself; empty where there is none such."""
    seen: dict[int, int] = {}
    for number, content in _delimited(data):
        field = descriptor.fields_by_number.get(number)
        if field is None:
            continue
        index = seen[number] = seen.get(number, -1) + 1
        if (inner := _inner_culprit(field, content, level)) is not None:
            place = f"{field.name}[{index}]" if field.is_repeated else field.name
            return f"{place}.{inner}" if inner else place
    return ""


def _inner_culprit(field: FieldDescriptor, content: bytes, level: int) -> str | None:
    """None: the field parses. Empty: it does not, and it is not known what in it."""
    if field.type == FieldDescriptor.TYPE_STRING:
        try:
            content.decode()
        except UnicodeDecodeError:
            return ""
    elif (kind := field.message_type) is not None:
        try:
            message_factory.GetMessageClass(kind).FromString(content)
        except DecodeError:
            whole = kind.full_name.startswith(_WHOLE) or kind.GetOptions().map_entry or level >= _MOST_LEVELS
            return "" if whole else _culprit(kind, content, level + 1)
    return None


def _delimited(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, content) of the length-delimited fields of a message, as far as its bytes make sense."""
    place, size = 0, len(data)
    while place < size:
        tag, place = _varint(data, place)
        kind = tag & 7
        if kind == 0:
            _, place = _varint(data, place)
        elif kind == 1:
            place += 8
        elif kind == 5:
            place += 4
        elif kind == 2:
            length, place = _varint(data, place)
            yield tag >> 3, data[place : place + length]
            place += length
        else:
            return


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
    return value, place
