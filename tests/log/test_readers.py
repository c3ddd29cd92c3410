"""Readers of CachingPubSub: every way in which others lost data, and every fault that was found here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from itertools import permutations

import pytest

from runwire import caching_pubsub
from runwire.batch import Batch
from runwire.caching_pubsub import CaughtUp, Ended, Gap, Idle, Opened, Start
from runwire.cursor import CursorCodec
from runwire.errors import (
    CursorAhead,
    CursorEpochMismatch,
    CursorExpired,
    CursorMismatch,
    EventsLost,
    RunExpired,
    RunNotFound,
    ServerDraining,
    StoreUnavailable,
)
from runwire.memory import MemoryStore
from runwire.pubsub import MAX_COMMIT_EVENTS, Deliver, Head, Position
from tests.log.faulty_pubsub import Fate, Held
from tests.log.faulty_store import roll_back, snapshot
from tests.log.one_log import (
    LIMIT_SECONDS,
    RETENTION_SECONDS,
    TOMBSTONE_SECONDS,
    OneLog,
    Reader,
    check,
    event,
    events,
    events_of,
)
from tests.log.stepped_loop import SteppedLoop, at_once


@pytest.fixture
def one() -> OneLog:
    return OneLog()


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    """A loop that is driven by hand, with a clock of its own."""
    loop = SteppedLoop()
    yield loop
    for task in asyncio.all_tasks(loop):
        task.cancel()
    loop.settle()
    loop.close()


async def turn_until(condition: Callable[[], object]) -> None:
    """Turns the loop until something holds that no signal tells of."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    pytest.fail("it never came to hold")


# The plain case


@pytest.mark.parametrize("most", [1, 2, 3, 5, 256])
async def test_a_closed_log_is_read_to_its_end(one: OneLog, most: int) -> None:
    """Opened, all events in batches within the bound, CaughtUp once, and Ended as the last item."""
    await one.create(3, 1, 4)
    await one.finish()
    items = await one.read(max_events=most)
    assert isinstance(items[0], Opened)
    assert events_of(items) == events(1, 9)
    assert all(item.count <= most for item in items if isinstance(item, Batch))
    assert [type(item) for item in items if not isinstance(item, Batch)] == [Opened, CaughtUp, Ended]
    assert items[-1] == Ended((await one.head()).position, 4)


async def test_live_and_replayed_bytes_are_the_same(one: OneLog) -> None:
    """What a reader gets as it is written equals, byte for byte, what is read later."""
    await one.create()
    async with one.reader() as reader:
        await reader.until(CaughtUp)
        for size in (1, 4, 2):
            await one.append(size, text="é\0")
            await reader.until_sequence((await one.head()).last)
        await one.finish(text="é\0")
        await reader.rest()
    live = b"".join(item.body for item in reader.items if isinstance(item, Batch))
    replayed = b"".join(item.body for item in await one.read() if isinstance(item, Batch))
    stored = b"".join(entry.body for entry in (await one.store.read(one.topic, 0)).entries)
    assert live == replayed == stored


async def test_an_empty_log_is_caught_up_with_at_once(one: OneLog) -> None:
    """Nothing to replay: Opened and CaughtUp, and then what comes."""
    await one.create()
    async with one.reader() as reader:
        assert isinstance(await reader.next(), CaughtUp)
        await one.append(2)
        await reader.until_sequence(2)
        assert reader.events == events(1, 2)


async def test_latest_begins_behind_the_newest_event(one: OneLog) -> None:
    """A reader at LATEST gets what is committed after it came, and nothing before."""
    await one.create(3)
    async with one.reader(Start.LATEST) as reader:
        assert isinstance(await reader.next(), CaughtUp)
        await one.finish()
        await reader.rest()
    assert reader.events == events(4, 4)


# Live messages: lost, doubled, late, out of order


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
async def test_entries_out_of_order_lose_nothing(one: OneLog, order: tuple[int, ...]) -> None:
    """Whatever the order in which live entries arrive, the reader gets the log."""
    await one.create(2)
    async with one.reader() as reader:
        await reader.until(CaughtUp)
        one.pubsub.fate = lambda: Fate.HOLD
        for _ in range(3):
            await one.append(2)
        arriving = [one.pubsub.held[index] for index in order]
        for held in arriving:
            one.pubsub.deliver(held)
        await reader.until_sequence(8)
        assert reader.events == events(1, 8)


@pytest.mark.parametrize("lost", range(3))
async def test_a_lost_entry_is_read_when_the_next_one_comes(one: OneLog, lost: int) -> None:
    """A gap in what arrives is noticed by the next entry that does arrive."""
    await one.create()
    async with one.reader() as reader:
        await reader.until(CaughtUp)
        for number in range(4):
            one.pubsub.fate = lambda number=number: Fate.DROP if number == lost else Fate.DOUBLE
            await one.append(2)
        await reader.until_sequence(8)
        assert reader.events == events(1, 8)


async def test_a_lost_last_entry_is_found_by_the_idle_check(one: OneLog) -> None:
    """Also where no other entry follows: the end of the log, of all entries, must not get lost."""
    await one.create(1)
    async with one.reader() as reader:
        await reader.until(CaughtUp)
        await one.finish(told=False)
        await one.log.run_once()
        await reader.rest()
    assert isinstance(reader.items[-1], Ended)
    assert reader.events == events(1, 2)


async def test_a_late_entry_of_a_dead_log_is_not_taken(one: OneLog) -> None:
    """An entry of the log that was there before, although its sequence is the next one."""
    await one.create()
    async with one.reader() as old:
        await old.until(CaughtUp)
        await one.append(2, "old")
    (late,) = one.pubsub.seen
    await one.store.clear(one.topic)
    await one.create()
    async with one.reader() as reader:
        await reader.until(CaughtUp)
        one.pubsub.deliver(late)
        await one.append(1, "new")
        await reader.until_sequence(1)
        assert reader.events == events(1, 1, "new")


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("turns", range(14))
async def test_the_end_may_come_while_a_reader_opens(one: OneLog, turns: int, told: bool) -> None:
    """A log that is closed before, between or after subscribing and reading ends for the reader."""
    await one.create(1)
    one.cache.before = one.cache.after = one.pubsub.latency = 2
    reading = asyncio.create_task(one.read())
    for _ in range(turns):
        await asyncio.sleep(0)
    await one.finish(told=told)
    await turn_until(lambda: reading.done() or one.log.readers)
    for _ in range(20):
        await one.log.run_once()
    items = await reading
    assert events_of(items) == events(1, 2)
    assert isinstance(items[-1], Ended)


async def test_a_store_that_goes_away_is_no_end(one: OneLog) -> None:
    """A cut is an error: the stream never just stops."""
    await one.create(1)
    async with one.reader() as reader:
        await reader.until(CaughtUp)
        one.cache.failures = 1
        one.pubsub.miss(one.topic)
        with pytest.raises(StoreUnavailable):
            await reader.next()


# Logs that are gone, or another one


async def test_a_reader_of_nothing_is_told(one: OneLog) -> None:
    """No log, no silence: at every start, and with a cursor of the log that was there."""
    await one.create(2)
    cursor = (await one.head()).position
    await one.store.clear(one.topic)
    for start in (Start.EARLIEST, Start.LATEST, cursor):
        with pytest.raises(RunNotFound):
            await one.read(start)
    for after in (None, cursor):
        with pytest.raises(RunNotFound):
            await one.log.get_history(one.topic, after)
    assert one.log.readers == 0
    assert one.store.hub.empty()


async def test_a_reader_of_an_expired_log_is_told_how_it_ended(one: OneLog) -> None:
    """Known, but purged: RunExpired with the final state; once the tombstone is gone, RunNotFound."""
    await one.create(2)
    await one.finish()
    cursor = (await one.head()).position
    one.clock += RETENTION_SECONDS
    for start in (Start.EARLIEST, Start.LATEST, cursor):
        with pytest.raises(RunExpired) as raised:
            await one.read(start)
        assert raised.value.metadata["final_state"] == "4"
    with pytest.raises(RunExpired):
        await one.log.get_history(one.topic, cursor)
    one.clock += TOMBSTONE_SECONDS
    with pytest.raises(RunNotFound):
        await one.read()
    assert one.store.hub.empty()


async def clear(one: OneLog) -> None:
    await one.store.clear(one.topic)


async def clear_unheard(one: OneLog) -> None:
    one.pubsub.fate = lambda: Fate.DROP
    await one.store.clear(one.topic)


async def create_anew(one: OneLog) -> None:
    await clear_unheard(one)
    await one.create(5, 5)


async def fail_over_to_an_empty_replica(one: OneLog) -> None:
    one.store._topics = {}


DISASTERS = [clear, clear_unheard, create_anew, fail_over_to_an_empty_replica]


@pytest.mark.parametrize("disaster", DISASTERS)
async def test_an_attached_reader_is_told_that_its_log_is_gone(
    one: OneLog, disaster: Callable[[OneLog], Awaitable[None]]
) -> None:
    """Cleared, re-created or lost: attached readers get EventsLost, not silence."""
    await one.create(2)
    async with one.reader() as fast, one.reader() as slow:
        await fast.until(CaughtUp)
        await disaster(one)
        await one.log.run_once()
        for reader in (fast, slow):
            with pytest.raises(EventsLost):
                await reader.rest()
    assert one.store.hub.empty()


@pytest.mark.parametrize("swept", [False, True])
async def test_an_attached_reader_is_told_that_its_log_has_expired(one: OneLog, swept: bool) -> None:
    """A reader too slow to have all of a closed log before it is purged gets EventsLost, not silence."""
    await one.create(2)
    async with one.reader() as reader:
        await one.finish(told=False)
        one.clock += RETENTION_SECONDS
        if swept:
            await one.store.sweep()
        await one.log.run_once()
        with pytest.raises(EventsLost):
            await reader.rest()


async def test_after_a_disaster_new_readers_get_the_new_log(one: OneLog) -> None:
    """The index of the new log starts over: who comes now gets all of it and its end, and who was there is told."""
    await one.create(2)
    async with one.reader() as old:
        await old.until(CaughtUp)
        await create_anew(one)
        async with one.reader() as new:
            one.pubsub.fate = lambda: Fate.PASS
            await one.finish()
            await new.rest()
        assert new.events == events(1, 11)
        assert isinstance(new.items[-1], Ended)
        with pytest.raises(EventsLost):
            await old.rest()


async def test_an_old_position_is_not_taken_for_one_of_the_new_log(one: OneLog) -> None:
    """The epoch tells logs apart, also where the new one is longer; and new positions carry the new epoch."""
    await one.create(2)
    await one.finish()
    cursors = [item.position for item in await one.read()]
    await one.store.clear(one.topic)
    await one.create(5)
    await one.finish()
    for cursor in cursors:
        with pytest.raises(CursorEpochMismatch):
            await one.read(cursor)
        with pytest.raises(CursorEpochMismatch):
            await one.log.get_history(one.topic, cursor)
    epoch = (await one.head()).epoch
    assert {item.position.epoch for item in await one.read()} == {epoch}


async def test_a_cursor_of_another_log_is_refused() -> None:
    """A cursor is bound to its topic, and so to its tenant: it opens nothing else."""
    cursor = CursorCodec("tenant-a/run").encode(Position("0" * 16, 1, check(1)))
    with pytest.raises(CursorMismatch):
        CursorCodec("tenant-b/run").decode(cursor)


async def test_a_cursor_beyond_the_tail_is_refused(one: OneLog) -> None:
    """It says where the tail is."""
    await one.create(2)
    ahead = Position((await one.head()).epoch, 3)
    with pytest.raises(CursorAhead) as raised:
        await one.read(ahead)
    assert raised.value.metadata["latest_sequence"] == "2"


# Fail-over: the store is rolled back, and written anew


@asynccontextmanager
async def rolled_back(one: OneLog, *sizes: int) -> AsyncIterator[Reader]:
    """A reader at event 10 of a log that fell back to event 4, and continued with entries of these sizes."""
    await one.create(4)
    replica = snapshot(one.store)
    async with one.reader() as reader:
        await reader.until(CaughtUp)
        await one.append(3, "old")
        await one.append(3, "old")
        await reader.until_sequence(10)
        roll_back(one.store, replica)
        for size in sizes:
            await one.append(size, "new", told=False)
        yield reader


ROLL_BACKS = [(), (2,), (6,), (3, 3), (6, 1), (8,), (3, 5), (7, 7), (2, 250)]


@pytest.mark.parametrize("sizes", ROLL_BACKS, ids=str)
async def test_an_attached_reader_is_told_of_a_roll_back(one: OneLog, sizes: tuple[int, ...]) -> None:
    """However the new entries lie across the place where the reader stands, it gets the error and no event."""
    async with rolled_back(one, *sizes) as reader:
        await one.log.run_once()
        with pytest.raises(EventsLost):
            await reader.next()


async def test_a_reader_is_told_of_the_loss_of_what_it_was_promised(one: OneLog) -> None:
    """A log that falls back to where a reader stands, short of what was there when it came: an error, not silence."""
    await one.create(1)
    async with one.reader():
        await one.append(told=False)
        replica = snapshot(one.store)
        await one.append(told=False)
        one.cache.page_events = 1
        async with one.reader() as reader:
            roll_back(one.store, replica)
            with pytest.raises(EventsLost):
                await reader.until(CaughtUp)
            assert reader.events == events(1, 2)


async def test_the_end_of_a_lost_log_is_not_that_of_its_successor(one: OneLog) -> None:
    """The last entry of before a fail-over comes late, just when a reader comes that reads the log of after it."""
    await one.create(3)
    replica = snapshot(one.store)
    async with one.reader() as old:
        await old.until(CaughtUp)
        lost = await one.append(1, "old", told=False, final=4)
        roll_back(one.store, replica)
        await one.append(1, "new", told=False)
        one.cache.after = 1000
        reads = one.cache.reads
        coming = asyncio.create_task(one.read())
        await turn_until(lambda: one.cache.reads > reads)
        one.pubsub.deliver(Held(one.topic, lost))
        one.cache.after = 0
        with pytest.raises(EventsLost, match="replaced"):
            await coming


@pytest.mark.parametrize("sizes", ROLL_BACKS, ids=str)
async def test_who_comes_after_a_roll_back_sees_nothing_of_before(one: OneLog, sizes: tuple[int, ...]) -> None:
    """Even before the idle check, and although others of the same process still stand in the old log."""
    async with rolled_back(one, *sizes) as old:
        await one.finish(text="new", told=False)
        for start in (Start.EARLIEST, Position(old.items[0].position.epoch, 4, check(4))):
            items = await one.read(start, max_events=3)
            after = items[0].position.sequence
            assert events_of(items) == [*events(1, 4), *events(5, sum(sizes) + 5, "new")][after:]
            assert isinstance(items[-1], Ended)


@pytest.mark.parametrize(
    "sizes, trimmed",
    [
        *(((sizes), False) for sizes in [(6,), (3, 3), (6, 1), (8,), (3, 5)]),
        ((6,), True),
        ((3, 3), True),
        ((6, 1), True),
    ],
    ids=str,
)
async def test_a_cursor_of_the_old_log_is_refused_after_a_roll_back(
    one: OneLog, sizes: tuple[int, ...], trimmed: bool
) -> None:
    """Also where the event at the cursor was trimmed, as long as the one after it was not."""
    async with rolled_back(one, *sizes) as old:
        cursor = old.items[-1].position
    assert cursor.sequence == 10
    await one.finish(text="new")
    if trimmed:
        await one.store.trim(one.topic, 11)
    with pytest.raises(CursorEpochMismatch):
        await one.read(cursor)
    with pytest.raises(CursorEpochMismatch):
        await one.log.get_history(one.topic, cursor)


async def test_a_cursor_at_the_end_of_a_trimmed_log_is_checked(one: OneLog) -> None:
    """The head alone shows that the last event is another one."""
    async with rolled_back(one, 5) as old:
        cursor = old.items[-1].position
    await one.finish(text="new")
    await one.store.trim(one.topic, 11)
    with pytest.raises(CursorEpochMismatch):
        await one.read(cursor)


async def test_the_first_position_of_a_trimmed_log_is_checked_too(one: OneLog) -> None:
    """A reader that saw nothing but Opened, or a Gap, also notices a log that was written again."""
    await one.create(4)
    replica = snapshot(one.store)
    await one.append(2, "old")
    await one.append(2, "old")
    start = Position((await one.head()).epoch, 4, check(4))
    await one.store.trim(one.topic, 7)
    async with one.reader() as reader:
        opened = reader.items[0].position
    async with one.reader(start, notify_gaps=True) as reader:
        gap = await reader.next()
    assert isinstance(gap, Gap)
    assert opened == gap.position == Position(start.epoch, 6, check(6, "old"))
    roll_back(one.store, replica)
    await one.append(4, "new")
    with pytest.raises(CursorEpochMismatch):
        await one.read(opened)


# Cursors, and where they lead


async def test_every_item_is_a_place_to_go_on_from(one: OneLog) -> None:
    """Cut after any item: its position leads to exactly the rest, so nothing hangs on a batch that was not handled."""
    await one.create(3, 1, 4, 2)
    await one.finish()
    items = await one.read(max_events=2)
    for number, item in enumerate(items):
        rest = await one.read(item.position, max_events=3)
        assert events_of(items[: number + 1]) + events_of(rest) == events(1, 11)
        assert isinstance(rest[-1], Ended)


async def test_a_second_cut_before_any_event_loses_nothing(one: OneLog) -> None:
    """Connected and cut again and again before an event came: Opened has the same position each time."""
    await one.create(5)
    position = Position((await one.head()).epoch, 2, check(2))
    for _ in range(3):
        async with one.reader(position) as reader:
            position = reader.items[-1].position
    async with one.reader(position) as reader:
        await reader.until(CaughtUp)
        assert reader.events == events(3, 5)


@pytest.mark.parametrize("notify", [False, True])
async def test_the_edge_of_trimming_is_exact(notify: bool) -> None:
    """For every cursor and every trimming: all events after the cursor, or the error; nothing is lost on the edge."""
    for kept_from in (1, 4, 5, 9, 11):
        for sequence in range(11):
            one = OneLog()
            await one.create(3, 1, 4, 2)
            await one.store.trim(one.topic, kept_from)
            head = await one.head()
            await one.finish()
            cursor = Position(head.epoch, sequence, check(sequence))
            if sequence + 1 >= head.earliest:
                assert events_of(await one.read(cursor)) == events(sequence + 1, 11)
            elif notify:
                items = await one.read(cursor, notify_gaps=True)
                gap = items[1]
                assert isinstance(gap, Gap)
                assert (gap.first, gap.last) == (sequence + 1, head.earliest - 1)
                assert events_of(items) == events(head.earliest, 11)
            else:
                with pytest.raises(CursorExpired) as raised:
                    await one.read(cursor)
                assert raised.value.earliest_sequence == head.earliest
                assert raised.value.latest_sequence == 11


async def test_history_goes_on_after_a_full_entry(one: OneLog) -> None:
    """A page that the event at the cursor fills by itself is not the end of the log."""
    full = MAX_COMMIT_EVENTS
    await one.create(full, full, 3)
    position, found = None, []
    for _ in range(3):
        history = await one.log.get_history(one.topic, position, max_events=full)
        assert history.batch is not None
        found += events_of([history.batch])
        position = history.batch.position
    assert found == events(1, 2 * full + 3)
    assert (await one.log.get_history(one.topic, position, max_events=full)).batch is None


async def test_history_goes_on_after_a_large_event(one: OneLog) -> None:
    """The same where the bytes fill the page."""
    await one.create()
    for _ in range(2):
        await one.append(text="x" * 1_500_000)
    first = await one.log.get_history(one.topic)
    assert first.batch is not None
    second = await one.log.get_history(one.topic, first.batch.position)
    assert second.batch is not None
    assert second.batch.first == 2


@pytest.mark.parametrize("most", [1, 2, 5, 300])
async def test_history_pages_join_to_the_log(one: OneLog, most: int) -> None:
    """From any position, in pages of any size."""
    await one.create(3, 1, 4, 2)
    for after in range(11):
        position, found = Position((await one.head()).epoch, after, check(after)), []
        while batch := (await one.log.get_history(one.topic, position, max_events=most)).batch:
            assert batch.count <= most
            found += events_of([batch])
            position = batch.position
        assert found == events(after + 1, 10)


# Slow readers


async def test_a_slow_reader_reads_the_store_by_itself(one: OneLog) -> None:
    """Off the ring, nothing is skipped; and while it is slow, the process keeps no more than the ring."""
    await one.create()
    async with one.reader() as slow, one.reader() as fast:
        for number in range(1, 600):
            await one.append(1)
            await fast.until_sequence(number)
        await one.finish()
        await slow.rest()
        await fast.rest()
    assert slow.events == fast.events == events(1, 600)


async def test_a_slow_reader_is_told_what_was_trimmed(one: OneLog) -> None:
    """Trimmed faster than read: CursorExpired, or a Gap to those who asked for it and then the rest."""
    await one.create()
    async with one.reader() as strict, one.reader(notify_gaps=True) as lenient:
        for _ in range(400):
            await one.append(1)
        await one.store.trim(one.topic, 301)
        await one.finish()
        with pytest.raises(CursorExpired) as raised:
            await strict.rest()
        assert raised.value.earliest_sequence == 301
        await lenient.rest()
    gap = next(item for item in lenient.items if isinstance(item, Gap))
    assert (gap.first, gap.last) == (1, 300)
    assert lenient.events == events(301, 401)


async def test_a_long_outage_of_messages_is_made_up_for_at_once(one: OneLog) -> None:
    """More was missed than one read brings: one word that something was missed, and the reader has all of it."""
    await one.create(1)
    async with one.reader() as reader:
        await reader.until(CaughtUp)
        one.cache.page_events = 20
        for _ in range(10):
            await one.append(10, told=False)
        one.pubsub.miss(one.topic)
        await reader.until_sequence(101)
        assert reader.events == events(1, 101)


async def test_who_comes_while_the_others_lag_is_not_slowed_down(one: OneLog) -> None:
    """A newcomer whose replay reaches beyond what the process knows continues reading, without waiting for a check."""
    await one.create(1)
    async with one.reader() as lagging:
        await lagging.until(CaughtUp)
        for _ in range(40):
            await one.append(20, told=False)
        async with one.reader() as reader:
            await reader.until(CaughtUp)
            assert reader.events == events(1, 801)


@pytest.mark.parametrize("newcomer", ["none", "latest", "cursor"])
async def test_a_thousand_readers_read_a_lost_entry_once(one: OneLog, newcomer: str) -> None:
    """The readers at the tail share one read of what was lost, also where somebody comes who knows more."""
    await one.create(1)
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(one.reader()) for _ in range(1000)]
        for reader in readers:
            await reader.until(CaughtUp)
        waiting = [asyncio.create_task(reader.until_sequence(5)) for reader in readers]
        await asyncio.sleep(0)
        for _ in range(4):
            await one.append(1, told=False)
        one.cache.before = 3
        one.cache.reads = 0
        if newcomer == "latest":
            await stack.enter_async_context(one.reader(Start.LATEST))
        elif newcomer == "cursor":
            await stack.enter_async_context(one.reader(Position((await one.head()).epoch, 4, check(4))))
        else:
            one.pubsub.miss(one.topic)
        own = one.cache.reads
        await one.log.run_once()
        async with asyncio.timeout(LIMIT_SECONDS):
            await asyncio.gather(*waiting)
        assert one.cache.reads <= 2
        assert own <= 2
        assert all(reader.events == events(1, 5) for reader in readers)


async def test_a_store_that_is_away_is_asked_once(one: OneLog) -> None:
    """Readers that wait for the same read share its failure; they do not each try, one after the other."""
    await one.create(1)
    async with AsyncExitStack() as stack:
        readers = [await stack.enter_async_context(one.reader()) for _ in range(50)]
        for reader in readers:
            await reader.until(CaughtUp)
        waiting = [asyncio.create_task(reader.next()) for reader in readers]
        await asyncio.sleep(0)
        one.cache.reads, one.cache.before, one.cache.failures = 0, 5, 50
        one.pubsub.miss(one.topic)
        async with asyncio.timeout(LIMIT_SECONDS):
            results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, StoreUnavailable) for result in results)
        assert one.cache.reads == 1


async def test_a_store_that_confirms_nothing_is_asked_once_or_twice(
    one: OneLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers that come while subscribing fails do not each try it, one by one: the last would wait for long."""
    await one.create(1)
    attempts = 0
    come = asyncio.Event()

    @asynccontextmanager
    async def unconfirmed(topic: str, deliver: Deliver) -> AsyncIterator[None]:
        nonlocal attempts
        attempts += 1
        await come.wait()
        raise StoreUnavailable("the server does not confirm it")
        yield

    monkeypatch.setattr(one.pubsub, "subscribe", unconfirmed)
    readers = [asyncio.create_task(one.read()) for _ in range(50)]
    await turn_until(lambda: one.log.readers == 50)
    come.set()
    async with asyncio.timeout(LIMIT_SECONDS):
        results = await asyncio.gather(*readers, return_exceptions=True)
    assert all(isinstance(result, StoreUnavailable) for result in results)
    assert attempts == 2
    monkeypatch.undo()
    await one.finish()
    assert events_of(await one.read()) == events(1, 2)


async def test_a_failed_read_leaves_the_tail_as_it_was(one: OneLog) -> None:
    """Whoever comes next, or reads on, gets everything."""
    await one.create(1)
    async with one.reader() as unlucky, one.reader() as other:
        await unlucky.until(CaughtUp)
        await one.append(2, told=False)
        one.cache.failures = 1
        one.pubsub.miss(one.topic)
        with pytest.raises(StoreUnavailable):
            await unlucky.next()
        await other.until_sequence(3)
        assert other.events == events(1, 3)
        await one.append(1)
        await other.until_sequence(4)


async def test_who_leaves_in_the_middle_of_reading_for_all_hands_over(one: OneLog) -> None:
    """The reader that reads for the others is cut: one of those that began to wait meanwhile reads at once."""
    await one.create(1)
    async with one.reader() as first, one.reader() as second:
        await first.until(CaughtUp)
        await second.until(CaughtUp)
        leader = asyncio.create_task(first.next())
        await asyncio.sleep(0)
        await one.append(2, told=False)
        one.cache.before = 1000
        one.pubsub.miss(one.topic)
        reads = one.cache.reads
        await turn_until(lambda: one.cache.reads > reads)
        follower = asyncio.create_task(second.until_sequence(3))
        for _ in range(3):
            await asyncio.sleep(0)
        one.cache.before = 0
        leader.cancel()
        await follower
        assert second.events == events(1, 3)


# Idle


def open_at_once(loop: SteppedLoop, one: OneLog, **options: float) -> list[object]:
    """Starts a reader on a loop that is driven by hand; its items come into the list."""
    items: list[object] = []

    async def read() -> None:
        async with aclosing(one.log.subscribe_with_replay(one.topic, **options)) as source:
            async for item in source:
                items.append(item)

    loop.create_task(read())
    loop.settle()
    return items


def idles(items: list[object]) -> list[int]:
    return [item.position.sequence for item in items if isinstance(item, Idle)]


def test_idle_comes_in_every_interval(loop: SteppedLoop, one: OneLog) -> None:
    """Without news there is an Idle every `idle_seconds`, and none earlier; an event starts the interval again."""
    at_once(one.create(2))
    items = open_at_once(loop, one, idle_seconds=10.0)
    loop.pass_time(8.9)
    assert idles(items) == []
    loop.pass_time(2.2)
    assert idles(items) == [2]
    loop.pass_time(8.0)
    at_once(one.append(1))
    loop.settle()
    loop.pass_time(8.0)
    assert idles(items) == [2]
    loop.pass_time(3.1)
    assert idles(items) == [2, 3]


def test_idle_is_not_put_off_by_others(loop: SteppedLoop, one: OneLog) -> None:
    """Readers that come and go, and late messages, are no news: a client that hears nothing would think us dead."""
    at_once(one.create(2))
    items = open_at_once(loop, one, idle_seconds=10.0)
    late = one.pubsub
    for _ in range(6):
        loop.pass_time(4.0)
        open_at_once(loop, one, idle_seconds=100.0)
        late.miss(one.topic)
        loop.settle()
    assert idles(items) == [2, 2]


def test_idle_does_not_overtake_an_event(loop: SteppedLoop, one: OneLog) -> None:
    """An event that is on its way comes after an Idle below it, never after one at or above it."""
    at_once(one.create(2))
    items = open_at_once(loop, one, idle_seconds=10.0)
    one.pubsub.fate = lambda: Fate.HOLD
    at_once(one.append(2))
    loop.pass_time(12.0)
    assert idles(items) == [2]
    one.pubsub.release(0)
    loop.settle()
    loop.pass_time(12.0)
    assert idles(items) == [2, 4]
    assert events_of([item for item in items if isinstance(item, Batch)]) == events(1, 4)


def test_ten_thousand_intervals_leave_nothing_behind(loop: SteppedLoop, one: OneLog) -> None:
    """A reader that only ever hears Idle costs what it cost on the first day."""
    at_once(one.create(1))
    items = open_at_once(loop, one, idle_seconds=1.0)
    loop.pass_time(2.0)
    size = len(loop._scheduled)
    for _ in range(10_000):
        loop.pass_time(2.0)
    assert len(idles(items)) == 10_001
    # asyncio drops cancelled timers in bulk, once there are a hundred.
    assert len(loop._scheduled) <= size + 100
    tail = one.log._channels[one.topic].tail
    assert len(tail._waiting) <= 1


# Coming and going


async def test_the_last_reader_takes_the_subscription_with_it(one: OneLog) -> None:
    """One subscription for all readers of a topic, from the first to the last."""
    await one.create(1)
    async with one.reader():
        async with one.reader():
            assert one.log.readers == 2
            assert len(one.store.hub._subscribers[one.topic]) == 1
        assert one.store.hub.subscribed(one.topic)
    assert one.log.readers == 0
    assert one.store.hub.empty()


async def test_one_comes_while_the_last_one_goes(one: OneLog) -> None:
    """A reader that comes while the subscription is being given up has one of its own."""
    await one.create(1)
    one.pubsub.latency = 2
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(one.reader())
        leaving = asyncio.create_task(stack.aclose())
        await asyncio.sleep(0)
        async with one.reader() as second:
            await leaving
            await one.finish()
            await second.rest()
    assert second.events == events(1, 2)
    assert len(first.items) == 1
    assert one.store.hub.empty()


async def test_cut_at_any_moment_of_opening(one: OneLog) -> None:
    """A reader cancelled at any turn of its opening leaves no subscription behind, and the next one is not harmed."""
    await one.create(2)
    one.pubsub.latency = one.cache.before = one.cache.after = 1
    for turns in range(20):
        opening = asyncio.create_task(one.reader().__aenter__())
        for _ in range(turns):
            await asyncio.sleep(0)
        opening.cancel()
        results = await asyncio.gather(opening, return_exceptions=True)
        if isinstance(results[0], Reader):
            break
        assert one.log.readers == 0
        assert one.store.hub.empty()
    else:
        pytest.fail("the opening never got to its end")


@pytest.mark.parametrize("turns", range(1, 12))
async def test_who_waits_for_an_opening_that_is_cut_opens_itself(one: OneLog, turns: int) -> None:
    """Two readers come, the first is cancelled while it opens the subscription for both: the second continues."""
    await one.create(2)
    one.pubsub.latency = one.cache.before = one.cache.after = 2
    first = asyncio.create_task(one.read())
    await asyncio.sleep(0)
    second = asyncio.create_task(one.read())
    for _ in range(turns):
        await asyncio.sleep(0)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await one.finish()
    async with asyncio.timeout(LIMIT_SECONDS):
        items = await second
    assert events_of(items) == events(1, 3)
    assert one.store.hub.empty()


async def test_who_waits_for_an_opening_that_fails_opens_itself(one: OneLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where subscribing fails: one error for one reader."""
    await one.create(2)
    await one.finish()
    failing = iter([True, False])
    subscribe = one.pubsub.subscribe

    @asynccontextmanager
    async def unreliable(topic: str, deliver: Deliver) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        if next(failing):
            raise StoreUnavailable("the server does not confirm it")
        async with subscribe(topic, deliver):
            yield

    monkeypatch.setattr(one.pubsub, "subscribe", unreliable)
    first, second = await asyncio.gather(one.read(), one.read(), return_exceptions=True)
    assert isinstance(first, StoreUnavailable)
    assert not isinstance(second, BaseException), repr(second)
    assert events_of(second) == events(1, 3)
    assert one.store.hub.empty()


async def test_drain_ends_every_reader_now_and_from_now_on(one: OneLog) -> None:
    """Waiting, in the middle of a replay, or not there yet: ServerDraining, with a cursor to continue from
    elsewhere."""
    await one.create(5)
    elsewhere = OneLog(store=one.store)
    async with one.reader(max_events=1) as waiting, one.reader(max_events=1) as replaying:
        await waiting.until(CaughtUp)
        task = asyncio.create_task(waiting.next())
        await replaying.next()
        await asyncio.sleep(0)
        one.log.drain()
        with pytest.raises(ServerDraining):
            await task
        with pytest.raises(ServerDraining):
            await replaying.rest()
    with pytest.raises(ServerDraining):
        await one.read()
    await one.finish()
    assert replaying.events + events_of(await elsewhere.read(replaying.items[-1].position)) == events(1, 6)
    assert one.store.hub.empty()


# The idle check


async def test_the_check_looks_at_all_topics_in_few_round_trips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of topics: each reader hears of its own log, and only of that."""
    monkeypatch.setattr(caching_pubsub, "_HEADS_AT_ONCE", 7)
    store = MemoryStore()
    first = OneLog("default/0", store)
    logs = [first, *(OneLog(f"default/{number}", store) for number in range(1, 20))]
    for one in logs[1:]:
        one.log = first.log
    async with AsyncExitStack() as stack:
        readers = []
        for one in logs:
            await one.create(1)
            readers.append(await stack.enter_async_context(one.reader()))
            await readers[-1].until(CaughtUp)
        for one in logs:
            await one.append(1, told=False)
        await store.clear("default/11")
        await first.log.run_once()
        for number, reader in enumerate(readers):
            if number == 11:
                with pytest.raises(EventsLost):
                    await reader.next()
            else:
                await reader.until_sequence(2)


async def test_the_check_goes_on_where_a_part_of_the_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node of a cluster is dead: readers of logs that lie elsewhere still hear of a lost last entry."""
    store = MemoryStore()
    away, there = OneLog("default/away", store), OneLog("default/there", store)
    there.log = away.log
    await away.create(1)
    await there.create(1)
    heads = away.cache.heads

    async def partly(topics: Sequence[str]) -> Sequence[Head | None]:
        if gone.intersection(topics):
            raise StoreUnavailable("this part is away")
        return await heads(topics)

    async with away.reader(), there.reader() as reader:
        await there.append(1, told=False)
        monkeypatch.setattr(away.cache, "heads", partly)
        gone = {away.topic, there.topic}
        with pytest.raises(StoreUnavailable):
            await away.log.run_once()
        gone = {away.topic}
        await away.log.run_once()
        await reader.until_sequence(2)


async def test_the_check_leaves_alone_who_is_just_opening(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that left and comes again during the check, and is not open yet, has lost nothing."""
    monkeypatch.setattr(caching_pubsub, "_HEADS_AT_ONCE", 1)
    store = MemoryStore()
    one, other = OneLog("default/one", store), OneLog("default/other", store)
    other.log = one.log
    await one.create(1)
    await other.create(1)
    one.cache.before = 3
    async with one.reader(), AsyncExitStack() as stack:
        await stack.enter_async_context(other.reader())
        checking = asyncio.create_task(one.log.run_once())
        await asyncio.sleep(0)
        await stack.aclose()
        async with AsyncExitStack() as again:
            coming = asyncio.create_task(again.enter_async_context(other.reader()))
            await asyncio.gather(checking, coming)
            reader = coming.result()
            await other.finish()
            await reader.rest()
    assert reader.events == events(1, 2)


def test_the_idle_check_survives_an_outage(loop: SteppedLoop, one: OneLog) -> None:
    """`run` looks every few seconds, and continues after the store was away."""
    at_once(one.create(1))
    items = open_at_once(loop, one, idle_seconds=1000.0)
    loop.create_task(one.log.run())
    loop.settle()
    one.cache.failures = 1
    at_once(one.append(1, told=False))
    loop.pass_time(3.0)
    assert events_of([item for item in items if isinstance(item, Batch)]) == events(1, 1)
    loop.pass_time(3.0)
    assert events_of([item for item in items if isinstance(item, Batch)]) == events(1, 2)


# Publishing


async def test_nobody_sees_an_event_that_is_not_stored(one: OneLog) -> None:
    """A refused commit is told to nobody."""
    await one.create(1)
    async with one.reader() as reader:
        await reader.until(CaughtUp)
        await one.store.claim([one.topic], holder="somebody", limit=1, lease_seconds=1)
        head = await one.head()
        assert head.attempt == 1
        one.store._topics[one.topic].topic.attempt = 2
        with pytest.raises(Exception, match="superseded"):
            await one.append(1)
        assert one.pubsub.seen == []
        assert event(2) not in reader.events


async def test_that_nobody_could_be_told_is_no_error(one: OneLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit took effect: the writer continues, and readers find it in the log."""
    await one.create(1)

    async def away(topic: str, entry: object) -> None:
        raise StoreUnavailable("no connection")

    async with one.reader() as reader:
        await reader.until(CaughtUp)
        monkeypatch.setattr(one.pubsub, "publish", away)
        await one.append(1)
        await one.log.run_once()
        await reader.until_sequence(2)


async def test_subscribe_is_live_only(one: OneLog) -> None:
    """The plain subscription hands over entries as they come, and nothing of before."""
    await one.create(1)
    got: list[object] = []
    async with one.log.subscribe(one.topic, got.append):
        added = await one.append(1)
        assert got == [added]


# What is written in this process


def test_an_event_that_was_written_here_needs_no_echo(loop: SteppedLoop, one: OneLog) -> None:
    """Readers have it once it is stored, though no message comes; and once, though one comes late."""
    at_once(one.create(2))
    items = open_at_once(loop, one)
    one.pubsub.fate = lambda: Fate.HOLD
    written = at_once(one.append(2, here=True))
    loop.settle()
    assert events_of(items) == events(1, 4)
    at_once(one.store.pubsub.publish(one.topic, written))
    one.pubsub.release(0)
    loop.settle()
    assert events_of(items) == events(1, 4)
    assert one.cache.reads == 1
