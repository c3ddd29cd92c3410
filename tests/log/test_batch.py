"""Joining and cutting entries, against a model that handles one event at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire import frames
from runwire.batch import Batch, batches, check_at, cut
from runwire.errors import EventsLost
from runwire.pubsub import Entry, Position

EPOCH = "0123456789abcdef"

texts = st.lists(st.binary(max_size=40), min_size=1, max_size=30, unique=True)
bounds = st.tuples(st.integers(1, 12), st.one_of(st.integers(1, 200), st.just(256 * 1024)))


def entries_of(events: list[bytes], sizes: list[int], final: int = 0) -> list[Entry]:
    """The events in entries of these sizes, again and again."""
    found: list[Entry] = []
    previous, first = b"", 1
    while first <= len(events):
        chosen = events[first - 1 : first - 1 + sizes[len(found) % len(sizes)]]
        last, check = first + len(chosen) - 1, frames.event_check(chosen[-1])
        body = b"".join(map(frames.frame, chosen))
        found.append(Entry(EPOCH, first, last, body, check, previous, final if last == len(events) else 0))
        previous, first = check, last + 1
    return found


def position_after(events: list[bytes], sequence: int) -> Position:
    return Position(EPOCH, sequence, frames.event_check(events[sequence - 1]) if sequence else b"")


def expected(events: list[bytes], entries: list[Entry], after: int, most: int, size: int) -> list[list[bytes]]:
    """Batches as the naive model makes them: whole entries join while they fit; one that is too large is cut."""
    made: list[list[bytes]] = []
    room = False
    for entry in entries:
        pieces = [events[s - 1] for s in range(max(entry.first, after + 1), entry.last + 1)]
        for piece in split(pieces, most, size):
            if room and len(made[-1]) + len(piece) <= most and framed(made[-1]) + framed(piece) <= size:
                made[-1] += piece
            else:
                made.append(list(piece))
                room = True
    return made


def split(events: list[bytes], most: int, size: int) -> list[list[bytes]]:
    found: list[list[bytes]] = []
    for event in events:
        if found and len(found[-1]) < most and framed(found[-1]) + framed([event]) <= size:
            found[-1].append(event)
        else:
            found.append([event])
    return found


def framed(events: list[bytes]) -> int:
    return sum(len(frames.frame(event)) for event in events)


@given(texts, st.lists(st.integers(1, 7), min_size=1, max_size=4), bounds, st.data())
def test_batches_are_the_events_within_the_bounds(
    events: list[bytes], sizes: list[int], bound: tuple[int, int], data: st.DataObject
) -> None:
    """From any place: the same events, in order, no byte changed, within both bounds, a larger event alone, and no
    batch smaller than it must be; every position names the event that it is after."""
    most, size = bound
    after = data.draw(st.integers(0, len(events)))
    entries = entries_of(events, sizes)
    found = list(batches(entries, position_after(events, after), max_events=most, max_bytes=size))
    assert [list(frames.events(batch.body)) for batch in found] == expected(events, entries, after, most, size)
    assert b"".join(batch.body for batch in found) == b"".join(map(frames.frame, events[after:]))
    sequence = after
    for batch in found:
        assert batch.first == sequence + 1
        sequence += batch.count
        assert batch.position == position_after(events, sequence)
        assert batch.count <= most
        assert len(batch.body) <= size or batch.count == 1
    assert sequence == len(events)


@given(texts, bounds, st.data())
def test_cut_pieces_continue_one_another(events: list[bytes], bound: tuple[int, int], data: st.DataObject) -> None:
    """The pieces of an entry join to what it was, each knows the event before it, and only the last ends the log."""
    (entry,) = entries_of(events, [len(events)], final=4)
    after = data.draw(st.integers(0, len(events)))
    pieces = list(cut(entry, after, *bound))
    assert b"".join(piece.body for piece in pieces) == b"".join(map(frames.frame, events[after:]))
    place = position_after(events, after)
    for piece in pieces:
        assert (piece.epoch, piece.first, piece.previous) == (EPOCH, place.sequence + 1, place.check)
        place = position_after(events, piece.last)
        assert piece.check == place.check
        assert piece.final == (4 if piece.last == len(events) else 0)
    assert place.sequence == len(events)


@given(texts, st.data())
def test_the_check_of_any_event(events: list[bytes], data: st.DataObject) -> None:
    """check_at gives what the writer of that event would."""
    (entry,) = entries_of(events, [len(events)])
    moved = replace(entry, first=entry.first + 5, last=entry.last + 5)
    sequence = data.draw(st.integers(1, len(events)))
    assert check_at(entry, sequence) == check_at(moved, sequence + 5) == frames.event_check(events[sequence - 1])


def test_a_whole_entry_is_passed_on_as_it_is() -> None:
    """Where an entry is a batch, its bytes are not copied."""
    (entry,) = entries_of([b"a", b"b"], [2])
    (batch,) = batches([entry], Position(EPOCH, 0), max_events=2, max_bytes=100)
    assert batch == Batch(Position(EPOCH, 2, entry.check), 2, entry.body)
    assert list(batches([], Position(EPOCH, 0), max_events=2, max_bytes=100)) == []


EVENTS = [b"a", b"b", b"c", b"d", b"e", b"f"]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_hole_is_a_loss(after: int) -> None:
    """Entries that leave out an event are no batch: in the middle, and at the place itself."""
    entries = entries_of(EVENTS, [2])
    with pytest.raises(EventsLost, match="the log continues at 5, after 2"):
        list(batches([entries[0], entries[2]], position_after(EVENTS, after), max_events=9, max_bytes=99))
    with pytest.raises(EventsLost, match=f"the log continues at 5, after {after}"):
        list(batches([entries[2]], position_after(EVENTS, after), max_events=9, max_bytes=99))


def test_another_log_is_a_loss() -> None:
    """Entries of another epoch, although their sequences and checks fit."""
    entries = [replace(entry, epoch="f" * 16) for entry in entries_of(EVENTS, [2])]
    with pytest.raises(EventsLost, match="re-created"):
        list(batches(entries, position_after(EVENTS, 2), max_events=9, max_bytes=99))


@pytest.mark.parametrize("sizes", [[2], [3], [6]])
def test_other_events_are_a_loss(sizes: list[int]) -> None:
    """The event at the reader's place is another one now, whether an entry begins after it or lies across it."""
    changed = [b"a", b"x", *EVENTS[2:]]
    with pytest.raises(EventsLost, match="event 2 was replaced"):
        list(batches(entries_of(changed, sizes), position_after(EVENTS, 2), max_events=9, max_bytes=99))


def test_a_place_whose_event_nobody_knows_is_not_checked() -> None:
    """A position without a check continues with whatever comes next."""
    found = list(batches(entries_of(EVENTS, [2]), Position(EPOCH, 2), max_events=9, max_bytes=99))
    assert found[0].first == 3
    assert found[-1].position == position_after(EVENTS, 6)


def test_events_before_a_loss_are_not_given_out() -> None:
    """What would be in the same batch as the loss is not: a batch is whole or it is not there."""
    entries = entries_of(EVENTS, [1])
    found = batches([*entries[:3], entries[4]], Position(EPOCH, 0), max_events=2, max_bytes=99)
    assert next(found).position.sequence == 2
    with pytest.raises(EventsLost):
        next(found)


@pytest.mark.parametrize("body", [b"\x0a", b"\x0a\x05abc", b"\x12\x01a", b"\x0a\xff\xff\xff\xff\xff\xff\x01"])
def test_bytes_that_are_no_events_are_refused(body: bytes) -> None:
    """A damaged body is an error, and never a wrong piece."""
    entry = Entry(EPOCH, 1, 3, body, b"\0" * 8)
    with pytest.raises(ValueError, match="byte"):
        list(cut(entry, 0, 1, 10))
