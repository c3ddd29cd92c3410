"""Entries joined and cut into the batches that readers get."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from runwire import frames
from runwire.errors import EventsLost
from runwire.pubsub import Entry, Position
from runwire.value import value


@value
class Batch:
    """Dense events that continue the reader's position."""

    position: Position
    """After the last of them."""
    count: int
    body: bytes
    """The events as wire bytes of `repeated RunEvent events = 1`."""

    @property
    def first(self) -> int:
        return self.position.sequence - self.count + 1


def batches(entries: Sequence[Entry], after: Position, *, max_events: int, max_bytes: int) -> Iterator[Batch]:
    """The events of `entries` above `after`, in batches of at most `max_events` events and `max_bytes` bytes; a
    single larger event goes alone.

    Raises EventsLost where the entries do not continue `after` exactly: another epoch, a hole, or another event at
    that sequence than the one the reader has seen.
    """
    position = after
    bodies: list[bytes] = []
    count = size = 0
    for entry in _pieces(entries, after, max_events, max_bytes):
        _check_continues(position, entry)
        events = entry.last - entry.first + 1
        if bodies and (count + events > max_events or size + len(entry.body) > max_bytes):
            yield Batch(position, count, b"".join(bodies))
            bodies, count, size = [], 0, 0
        bodies.append(entry.body)
        count += events
        size += len(entry.body)
        position = Position(entry.epoch, entry.last, entry.check)
    if bodies:
        yield Batch(position, count, b"".join(bodies))


def whole(entry: Entry, after: Position, max_events: int, max_bytes: int) -> Batch | None:
    """The entry as a batch, if it continues `after` and is within the bounds: as most live entries are, one by one."""
    count = entry.last - after.sequence
    if (
        entry.epoch != after.epoch
        or entry.first != after.sequence + 1
        or frames.differ(after.check, entry.previous)
        or count > max_events
        or len(entry.body) > max_bytes
    ):
        return None
    return Batch(Position(entry.epoch, entry.last, entry.check), count, entry.body)


def _check_continues(position: Position, entry: Entry) -> None:
    if entry.epoch != position.epoch:
        raise EventsLost("the log was re-created under this reader")
    if entry.first != position.sequence + 1:
        raise EventsLost(f"the log continues at {entry.first}, after {position.sequence}", sequence=position.sequence)
    if frames.differ(position.check, entry.previous):
        raise EventsLost(f"event {position.sequence} was replaced under this reader", sequence=position.sequence)


def _pieces(entries: Sequence[Entry], after: Position, max_events: int, max_bytes: int) -> Iterator[Entry]:
    """The entries above `after`, each within the bounds: cut where the position lies inside, or where too large."""
    for entry in entries:
        if entry.last <= after.sequence:
            continue
        inside = entry.epoch == after.epoch and entry.first <= after.sequence
        too_large = entry.last - entry.first >= max_events or len(entry.body) > max_bytes
        if inside or too_large:
            yield from cut(entry, after.sequence if inside else 0, max_events, max_bytes)
        else:
            yield entry


def cut(entry: Entry, after: int, max_events: int, max_bytes: int) -> Iterator[Entry]:
    """The events of one entry above `after`, as entries within the bounds."""
    body = entry.body
    spans = list(frames.spans(body))
    index = max(0, after - entry.first + 1)
    previous = _check_at(body, spans, index - 1) if index else entry.previous
    while index < len(spans):
        end = index + 1
        start = spans[index][0]
        while end < len(spans) and end - index < max_events and spans[end][2] - start <= max_bytes:
            end += 1
        check = _check_at(body, spans, end - 1)
        last = entry.first + end - 1
        final = entry.final if last == entry.last else 0
        yield Entry(entry.epoch, entry.first + index, last, body[start : spans[end - 1][2]], check, previous, final)
        index, previous = end, check


def _check_at(body: bytes, spans: Sequence[tuple[int, int, int]], index: int) -> bytes:
    _, start, end = spans[index]
    return frames.event_check(body[start:end])


def check_at(entry: Entry, sequence: int) -> bytes:
    """`frames.event_check` of the event `sequence`, which lies in `entry`."""
    if sequence == entry.last:
        return entry.check
    return _check_at(entry.body, list(frames.spans(entry.body)), sequence - entry.first)
