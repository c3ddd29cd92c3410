"""The ring that all readers of a topic share: its bounds, what it takes, and who waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import pytest

from runwire import tail as tails
from runwire.alarm import Alarm
from runwire.errors import EventsLost
from runwire.pubsub import Entry, Head, Page, Position
from runwire.tail import MAX_BYTES, MAX_ENTRIES, Tail
from tests.log.one_log import check, entry
from tests.log.stepped_loop import SteppedLoop

EPOCH = "0" * 16


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    loop = SteppedLoop()
    yield loop
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.settle()
    loop.close()


def head(last: int, *, earliest: int = 1, final: int = 0, text: str = "") -> Head:
    return Head(EPOCH, 1, earliest, last, check(last, text), final, False, 0.0, 0.0)


def begun(last: int = 0) -> Tail:
    """A tail of a log with so many events."""
    tail = Tail()
    tail.begin(head(last))
    return tail


def places(tail: Tail, sequence: int) -> list[tuple[int, int]] | None:
    found = tail.after(sequence)
    return None if found is None else [(one.first, one.last) for one in found]


# What it takes


def test_it_takes_what_continues_it() -> None:
    """Same epoch, next sequence, and the check of the event before."""
    tail = begun(2)
    tail.offer(entry(3, 4))
    tail.offer(entry(5, 5, final=4))
    assert places(tail, 2) == [(3, 4), (5, 5)]
    assert places(tail, 3) == [(3, 4), (5, 5)]
    assert places(tail, 4) == [(5, 5)]
    assert places(tail, 5) == []
    assert tail.position == Position(EPOCH, 5, check(5))
    assert tail.final == 4
    assert not tail.stale


@pytest.mark.parametrize(
    "offered",
    [
        None,
        entry(4, 4),
        entry(2, 4),
        entry(3, 3, epoch="f" * 16),
        entry(1, 2, epoch="f" * 16),
        entry(3, 3, previous=check(2, "another")),
        entry(3, 3, previous=b""),
    ],
    ids=["missed", "a hole", "across", "next of another log", "old of another log", "after another event", "unchained"],
)
def test_anything_else_only_says_that_the_log_must_be_read(offered: Entry | None) -> None:
    """It is neither taken nor believed."""
    tail = begun(2)
    tail.offer(offered)
    assert tail.stale
    assert tail.position == Position(EPOCH, 2, check(2))
    assert tail.error is None


@pytest.mark.parametrize("offered", [entry(1, 2), entry(2, 2), entry(1, 1)])
def test_what_it_has_is_no_news(offered: Entry) -> None:
    """Doubled and late entries are ignored: nobody need read."""
    tail = begun(2)
    tail.offer(offered)
    assert not tail.stale


def test_what_comes_before_it_began_makes_it_read() -> None:
    """An entry may arrive while the head is on its way; which of them is newer, only reading tells."""
    tail = Tail()
    tail.offer(entry(1, 1))
    tail.begin(head(1))
    assert tail.stale


# What is read from the log


def test_a_page_fills_what_was_missed() -> None:
    """Entries that it has are skipped, those that follow are taken, and it is stale no more."""
    tail = begun()
    tail.offer(entry(1, 2))
    tail.offer(entry(5, 6))
    missed = tail.missed
    tail.fill(Page(head(6), [entry(1, 2), entry(3, 4), entry(5, 6)]), missed)
    assert places(tail, 0) == [(1, 2), (3, 4), (5, 6)]
    assert not tail.stale


def test_what_is_missed_during_a_read_is_not_made_up_for_by_it() -> None:
    """A word that comes while the log is read may be of what that read did not see."""
    tail = begun()
    tail.offer(None)
    missed = tail.missed
    tail.offer(None)
    tail.fill(Page(head(0), []), missed)
    assert tail.stale


def test_a_page_that_does_not_reach_the_head_is_not_all() -> None:
    """After a long outage the log is read on at once."""
    tail = begun()
    tail.offer(None)
    tail.fill(Page(head(9), [entry(1, 2)]), tail.missed)
    assert tail.last == 2
    assert tail.stale


def test_a_page_from_further_on_is_not_taken() -> None:
    """A newcomer may know more than the tail: the others read what lies between, once and together."""
    tail = begun(2)
    tail.extend(Page(head(8), [entry(7, 8)]))
    assert tail.position.sequence == 2
    assert tail.stale


@pytest.mark.parametrize(
    "rewritten",
    [
        [entry(3, 4, text="new")],
        [entry(2, 4, text="new")],
        [entry(1, 1, text="new"), entry(2, 3, text="new")],
        [replace(entry(3, 3), epoch="f" * 16)],
    ],
    ids=["after another event", "across", "from the beginning", "another log"],
)
def test_a_page_of_another_log_ends_all_readers(rewritten: list[Entry]) -> None:
    """The log was rolled back and rewritten: whatever the tail has is not to be given out any more."""
    tail = begun(2)
    tail.extend(Page(head(rewritten[-1].last, text="new"), rewritten))
    assert isinstance(tail.error, EventsLost)
    assert tail.last == 2


def test_what_was_trimmed_before_it_could_be_read() -> None:
    """The tail continues at the head; readers before it find nothing in the ring, and learn it from the log."""
    tail = begun(2)
    tail.offer(None)
    tail.fill(Page(head(9, earliest=8, final=4), [entry(8, 9)]), tail.missed)
    assert tail.position == Position(EPOCH, 9, check(9))
    assert tail.final == 4
    assert places(tail, 2) is None
    assert places(tail, 8) is None
    assert places(tail, 9) == []


# Bounds


def test_it_holds_so_many_entries() -> None:
    """The oldest leave, and who stands before them has fallen off."""
    tail = begun()
    for sequence in range(1, MAX_ENTRIES + 11):
        tail.offer(entry(sequence, sequence))
    assert places(tail, 9) is None
    assert len(places(tail, 10) or []) == MAX_ENTRIES
    assert len(tail._entries) == len(tail._lasts) == MAX_ENTRIES


def test_it_holds_so_many_bytes() -> None:
    """Large entries push out more than one."""
    tail = begun()
    size = MAX_BYTES // 4
    for sequence in range(1, 8):
        tail.offer(entry(sequence, sequence, body=bytes(size)))
    assert places(tail, 2) is None
    assert places(tail, 3) == [(4, 4), (5, 5), (6, 6), (7, 7)]
    tail.offer(entry(8, 8, body=bytes(2 * size)))
    assert places(tail, 5) == [(6, 6), (7, 7), (8, 8)]
    assert tail.size_bytes == sum(len(one.body) for one in tail._entries) == MAX_BYTES


def test_the_newest_entry_stays_however_large() -> None:
    """A single event may be larger than the ring is to be."""
    tail = begun()
    tail.offer(entry(1, 1))
    tail.offer(entry(2, 2, body=bytes(2 * MAX_BYTES)))
    assert places(tail, 1) == [(2, 2)]
    assert places(tail, 0) is None
    tail.offer(entry(3, 3))
    assert places(tail, 2) == [(3, 3)]


def test_a_reader_that_fell_off_is_told_at_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """For entries of any size, the ring gives exactly what follows a place, or None."""
    monkeypatch.setattr(tails, "MAX_ENTRIES", 3)
    tail = begun()
    lasts = [0, 2, 3, 7, 8, 12, 13]
    for before, last in pairwise(lasts):
        tail.offer(entry(before + 1, last))
    for sequence in range(14):
        expected = [(a + 1, b) for a, b in pairwise(lasts) if b > sequence]
        assert places(tail, sequence) == (expected if sequence >= 7 else None), sequence


# Waiting


async def wait(tail: Tail, seconds: float) -> None:
    alarm = Alarm()
    try:
        await tail.wait(seconds, alarm)
    finally:
        alarm.close()


def test_news_wake_every_reader(loop: SteppedLoop) -> None:
    """An entry, a word that something was missed, an error: each wakes all who wait, once."""
    tail = begun()
    for news in (lambda: tail.offer(entry(1, 1)), lambda: tail.offer(None), lambda: tail.fail(EventsLost("gone"))):
        waiting = [loop.create_task(wait(tail, 100.0)) for _ in range(3)]
        loop.settle()
        assert not any(task.done() for task in waiting)
        news()
        loop.settle()
        assert all(task.done() for task in waiting)
    assert not tail._waiting


def test_no_news_wake_nobody(loop: SteppedLoop) -> None:
    """A doubled entry, and a page that tells nothing new."""
    tail = begun(2)
    waiting = loop.create_task(wait(tail, 100.0))
    loop.settle()
    tail.offer(entry(1, 2))
    tail.extend(Page(head(2), [entry(1, 2)]))
    loop.settle()
    assert not waiting.done()


def test_the_end_of_one_wait_is_no_matter_to_others(loop: SteppedLoop) -> None:
    """A time-out and a cancellation end that reader's wait alone."""
    tail = begun()
    short, long, cut = (loop.create_task(wait(tail, limit)) for limit in (1.0, 100.0, 100.0))
    loop.settle()
    cut.cancel()
    loop.pass_time(2.0)
    assert short.done()
    assert short.exception() is None
    assert cut.cancelled()
    assert not long.done()
    tail.offer(entry(1, 1))
    loop.settle()
    assert long.done()


def test_ten_thousand_waits_leave_nothing(loop: SteppedLoop) -> None:
    """Time-outs and cancellations leave neither futures nor callbacks."""
    tail = begun()

    async def wait_often() -> None:
        alarm = Alarm()
        for _ in range(10_000):
            await tail.wait(1.0, alarm)
        alarm.close()

    task = loop.create_task(wait_often())
    loop.settle()
    for _ in range(10_000):
        loop.pass_time(1.5)
        assert len(tail._waiting) <= 1
    assert task.done()
    assert not tail._waiting
    cancelled = [loop.create_task(wait(tail, 100.0)) for _ in range(1000)]
    loop.settle()
    for task in cancelled:
        task.cancel()
    loop.settle()
    assert not tail._waiting


def test_a_reader_woken_and_cancelled_at_once(loop: SteppedLoop) -> None:
    """News and a cancellation in the same turn: the cancellation is not lost, and the others are woken."""
    tail = begun()
    first, second = (loop.create_task(wait(tail, 100.0)) for _ in range(2))
    loop.settle()
    first.cancel()
    tail.offer(entry(1, 1))
    loop.settle()
    assert first.cancelled()
    assert second.done()
