"""How entries, heads and fields look in Redis, and back. lua/head.lua has the other side."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from runwire.errors import EventsLost, StoreUnavailable
from runwire.pubsub import Commit, Entry, Head, Page

_ENTRY: Final = struct.Struct(">QQ8s8sI")
"""first, last, previous, check, final; then the events."""
ENTRY_HEADER_BYTES: Final = _ENTRY.size
_EPOCH_CHARACTERS: Final = 16
_MICROSECONDS: Final = 1_000_000


@contextmanager
def understood() -> Iterator[None]:
    """For reading a reply. What cannot be read is no fault of who asked: StoreUnavailable."""
    try:
        yield
    except (TypeError, ValueError, LookupError, AttributeError, AssertionError, struct.error) as error:
        raise StoreUnavailable(f"Redis answered what is not understood: {error!r}") from error


def microseconds(seconds: float) -> int:
    return round(seconds * _MICROSECONDS)


def seconds(microseconds: bytes | int) -> float:
    return int(microseconds) / _MICROSECONDS


def pack(entry: Entry | Commit) -> bytes:
    """An entry, or what a commit appends, as it is stored: the epoch is the head's. Empty without events."""
    body = entry.body if isinstance(entry, Entry) else entry.events
    if not body:
        return b""
    return _ENTRY.pack(entry.first, entry.last, entry.previous, entry.check, entry.final) + body


def unpack(packed: bytes, epoch: str) -> Entry:
    first, last, previous, check, final = _ENTRY.unpack_from(packed)
    return Entry(epoch, first, last, packed[ENTRY_HEADER_BYTES:], check, previous if first > 1 else b"", final)


def pack_live(entry: Entry) -> bytes:
    """An entry as it is published: with its epoch before it."""
    return entry.epoch.encode() + pack(entry)


def unpack_live(payload: bytes) -> Entry:
    """Raises ValueError on what is no live entry."""
    if len(payload) <= _EPOCH_CHARACTERS + ENTRY_HEADER_BYTES:
        raise ValueError("too short for an entry")
    return unpack(payload[_EPOCH_CHARACTERS:], payload[:_EPOCH_CHARACTERS].decode("ascii"))


def head_of(values: Sequence[Any]) -> Head:
    epoch, attempt, earliest, last, check, final, create_time, expire_time, expired = values
    newest = int(last)
    return Head(
        epoch=epoch.decode(),
        attempt=int(attempt),
        earliest=newest + 1 if expired else int(earliest),
        last=newest,
        check=check,
        final=int(final),
        expired=bool(expired),
        create_time=seconds(create_time),
        expire_time=seconds(expire_time),
    )


def fields_of(pairs: Sequence[bytes]) -> Mapping[str, bytes]:
    return {pairs[i].decode(): pairs[i + 1] for i in range(0, len(pairs), 2)}


def page_of(values: Sequence[Any], packed: Sequence[bytes], after: int) -> Page:
    """Raises EventsLost unless the entries are dense, from the oldest that the head promises above `after`."""
    head = head_of(values)
    entries = [unpack(entry, head.epoch) for entry in packed]
    if head.expired:
        return Page(head, entries)
    wanted = max(after + 1, head.earliest)
    if not entries and wanted <= head.last:
        raise EventsLost(f"events {wanted} to {head.last} are not there")
    for number, entry in enumerate(entries):
        if entry.first > wanted or (number and entry.first != wanted):
            raise EventsLost(f"events {wanted} to {entry.first - 1} are not there")
        wanted = entry.last + 1
    return Page(head, entries)
