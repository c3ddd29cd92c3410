"""From the bytes of a request to a message that keeps all bounds, or to an error that names what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message

from runwire import bounds, frames
from runwire.errors import InvalidRequest, RequestMalformed
from runwire.threads import off_loop


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
    path = _Search(descriptor).path(descriptor, data) if isinstance(descriptor, Descriptor) else ""
    name = descriptor.full_name if isinstance(descriptor, Descriptor) else "message"
    problem = "cannot be parsed"
    if "depth" in str(error).lower() or "recursion" in str(error).lower():
        problem = "is nested deeper than protobuf reads"
    return RequestMalformed(f"the request is no {name}: {path or 'it'} {problem}", path or "request", problem)


class _Search:
    """Looks for the field that does not parse: each by itself, but as deep in the request as it stands there."""

    def __init__(self, request: Descriptor) -> None:
        self._parse = message_factory.GetMessageClass(request).FromString

    def path(self, kind: Descriptor, data: bytes, above: tuple[int, ...] = ()) -> str:
        """Of the first one in a message of this kind, which the fields `above` lead to; empty if there is none."""
        seen: dict[int, int] = {}
        for number, content in _delimited(data):
            field = kind.fields_by_number.get(number)
            if field is None:
                continue
            index = seen[number] = seen.get(number, -1) + 1
            if self._parses((*above, number), content):
                continue
            place = f"{field.name}[{index}]" if field.is_repeated else field.name
            inner = field.message_type
            if inner is None or not inner.full_name.startswith("runwire.") or inner.GetOptions().map_entry:
                return place
            further = self.path(inner, content, (*above, number))
            return f"{place}.{further}" if further else place
        return ""

    def _parses(self, way: tuple[int, ...], content: bytes) -> bool:
        for number in reversed(way):
            content = frames.varint(number << 3 | 2) + frames.varint(len(content)) + content
        try:
            self._parse(content)
        except DecodeError:
            return False
        return True


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
