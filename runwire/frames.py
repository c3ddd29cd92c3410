"""Events as pre-framed bytes.

A store keeps events as wire bytes of `repeated RunEvent events = 1`: tag, length, event, and again. A batch frame is
the join of such pieces, so a server neither parses nor encodes an event on its way out. Encoding: protobuf, "Length
Delimited Records" (field 1, wire type 2, hence the tag byte 0x0A).
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Final

MAX_BATCH_EVENTS: Final = 4096
"""Most events of a batch that a reader is given; it is bounded by its bytes before that, where events are not tiny."""

_TAG = b"\x0a"


def varint(value: int) -> bytes:
    """`value`, not negative, as a protobuf base-128 varint."""
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def frame(event: bytes) -> bytes:
    """One serialised event as an element of `repeated RunEvent events = 1`."""
    return _TAG + varint(len(event)) + event


def event_check(event: bytes) -> bytes:
    """8 bytes that tell an event from another one at the same sequence: BLAKE2b of its serialised bytes."""
    return blake2b(event, digest_size=8).digest()


def differ(check: bytes, other: bytes) -> bool:
    """Whether these checks are known, and of different events. An unknown one is empty."""
    return bool(check and other) and check != other


def spans(body: bytes) -> Iterator[tuple[int, int, int]]:
    """(frame start, event start, end) of each event of a body. Raises ValueError on bytes that are no such body."""
    offset, size = 0, len(body)
    while offset < size:
        start = offset
        if body[offset] != 0x0A:
            raise ValueError(f"no event frame at byte {offset}")
        length = shift = 0
        while True:
            offset += 1
            if offset >= size or shift > 28:
                raise ValueError(f"cut or malformed length at byte {start}")
            byte = body[offset]
            length |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        event = offset + 1
        offset = event + length
        if offset > size:
            raise ValueError(f"event at byte {start} is cut")
        yield start, event, offset


def events(body: bytes) -> Iterator[bytes]:
    """The serialised events of a body."""
    return (body[event:end] for _, event, end in spans(body))
