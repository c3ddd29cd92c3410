"""Readers of one log against everything that may happen to it, as a hypothesis state machine.

Two processes read one memory store, each through a PubSub that loses, doubles, holds back and repeats live entries
(also those of a log that is long gone) and a cache that is slow, fails, and gives short pages. The log is appended to,
closed, trimmed, cleared, created anew, expires, and its store fails over to a replica that lagged behind. Readers come
from anywhere with any bounds, are slow, and leave at any moment, also in the middle of coming.

What must hold is in `reader.Reader`, item by item, and in `everything_is_delivered`, after an idle check: every reader
has everything or an error, never silence.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from runwire import frames, tail
from runwire.caching_pubsub import CachingPubSub, Idle, Start
from runwire.cursor import CursorCodec
from runwire.errors import StoreUnavailable
from runwire.memory import MemoryStore
from runwire.pubsub import Commit
from tests.log.faulty_pubsub import Fate, FaultyPubSub, Held
from tests.log.faulty_store import FaultyCache, Snapshot, roll_back, snapshot
from tests.log.history import NOTHING, History, State
from tests.log.reader import IDLE_SECONDS, Cursor, Reader, Replica
from tests.log.stepped_loop import SteppedLoop, at_once

TOPIC = "default/run"
RETENTION_SECONDS = 100.0
TOMBSTONE_SECONDS = 100.0
RING_ENTRIES = 4
RING_BYTES = 120
MOST_READERS = 6
MOST_CURSORS = 24
FULL_SPEED = 1_000_000

which = st.integers(min_value=0, max_value=63)
"""One of those there are, counted round."""
payload_sizes = st.lists(st.sampled_from([0, 1, 10, 60]), min_size=1, max_size=6)
batch_events = st.sampled_from([1, 2, 3, 7, 256])
batch_bytes = st.sampled_from([1, 20, 50, 100, 256 * 1024])


class Process:
    """One replica of the service, with its own view of the store."""

    def __init__(self, store: MemoryStore) -> None:
        self.pubsub = FaultyPubSub(store.pubsub, self._next_fate)
        self.cache = FaultyCache(store)
        self.log = CachingPubSub(self.pubsub, self.cache)
        self.replica = Replica(self.log, lambda: self.failed)
        self.fates: list[Fate] = []
        self.to_fail = 0

    @property
    def failed(self) -> int:
        """How many reads have failed."""
        return self.to_fail - self.cache.failures

    def fail_reads(self, count: int) -> None:
        self.to_fail += count
        self.cache.failures += count

    def behave(self) -> None:
        """From now on nothing goes wrong; what went wrong already stays so."""
        self.to_fail -= self.cache.failures
        self.cache.failures = 0
        self.fates.clear()

    def _next_fate(self) -> Fate:
        return self.fates.pop(0) if self.fates else Fate.PASS


class LogMachine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(tail, "MAX_ENTRIES", RING_ENTRIES)
        self.patch.setattr(tail, "MAX_BYTES", RING_BYTES)
        self.loop = SteppedLoop()
        self.clock = 1000.0
        self.store = MemoryStore(lambda: self.clock)
        self.processes = [Process(self.store), Process(self.store)]
        self.history = History()
        self.codec = CursorCodec(TOPIC)
        self.lasts: list[int] = []
        """The last sequence of every entry that is in the log."""
        self.expire_time = 0.0
        self.snapshots: list[tuple[Snapshot, State, list[int], float]] = []
        self.readers: list[tuple[Reader, asyncio.Task[None]]] = []
        self.checks: list[asyncio.Task[None]] = []
        self.cursors: list[Cursor] = []
        self.texts = 0
        self.faults: list[BaseException] = []

    # The writer

    @property
    def state(self) -> State:
        return self.history.now

    @precondition(lambda self: not self.state.epoch)
    @rule()
    def create(self) -> None:
        head = at_once(self.store.commit(Commit(TOPIC, create=True, queue="runs"))).head
        claim = self.store._topics[TOPIC].topic
        claim.attempt = 1
        self.lasts = []
        self.history.become(State(head.epoch))

    @precondition(lambda self: self.state.readable and not self.state.final)
    @rule(sizes=payload_sizes, final=st.sampled_from([0, 0, 0, 0, 0, 0, 4]), told=st.booleans(), process=which)
    def append(self, sizes: list[int], final: int, told: bool, process: int) -> None:
        """One commit. Not `told`: the writer died before it could tell anybody."""
        texts = [self._text(size) for size in sizes]
        tip = self.state.tip
        commit = Commit(
            TOPIC,
            attempt=1,
            first=self.state.last + 1,
            last=self.state.last + len(texts),
            events=b"".join(map(frames.frame, texts)),
            check=frames.event_check(texts[-1]),
            previous=tip.check if tip else b"",
            final=final,
            retention=RETENTION_SECONDS,
            tombstone=TOMBSTONE_SECONDS,
        )
        self.history.append(texts, final)
        self.lasts.append(commit.last)
        if final:
            self.expire_time = self.clock + RETENTION_SECONDS
        at_once(self._process(process).log.publish(commit) if told else self.store.commit(commit))

    def _text(self, size: int) -> bytes:
        """No two events are the same."""
        self.texts += 1
        return b"%d:" % self.texts + b"x" * size

    @precondition(lambda self: self.state.readable and self.lasts)
    @rule(entries=which)
    def trim(self, entries: int) -> None:
        count = entries % (len(self.lasts) + 1)
        if count:
            state = self.state
            earliest = self.lasts[count - 1] + 1
            self.lasts = self.lasts[count:]
            self.history.become(State(state.epoch, state.tip, earliest))
            at_once(self.store.trim(TOPIC, earliest))

    @precondition(lambda self: self.state.epoch)
    @rule()
    def clear(self) -> None:
        self.history.become(NOTHING)
        at_once(self.store.clear(TOPIC))

    @rule(seconds=st.sampled_from([30.0, 80.0, 150.0]))
    def pass_store_time(self, seconds: float) -> None:
        self.clock += seconds
        self._expire()

    def _expire(self) -> None:
        state = self.state
        if not state.final:
            return
        if self.clock >= self.expire_time + TOMBSTONE_SECONDS:
            self.history.become(NOTHING)
        elif self.clock >= self.expire_time and not state.expired:
            self.history.become(State(state.epoch, state.tip, state.last + 1, expired=True))

    @rule()
    def sweep(self) -> None:
        at_once(self.store.sweep())

    @precondition(lambda self: len(self.snapshots) < 4)
    @rule()
    def replicate(self) -> None:
        """A replica of the store has everything up to here."""
        self.snapshots.append((snapshot(self.store), self.state, list(self.lasts), self.expire_time))

    @precondition(lambda self: self.snapshots)
    @rule(back=which)
    def fail_over(self, back: int) -> None:
        """The store goes on from what a replica has."""
        del self.snapshots[len(self.snapshots) - back % len(self.snapshots) :]
        kept, state, self.lasts, self.expire_time = self.snapshots[-1]
        self.lasts = list(self.lasts)
        roll_back(self.store, kept)
        self.history.become(state)
        self._expire()

    # Readers

    def _process(self, number: int) -> Process:
        return self.processes[number % len(self.processes)]

    @precondition(lambda self: len(self.readers) < MOST_READERS)
    @rule(
        start=st.one_of(st.sampled_from(Start), which),
        process=which,
        events=batch_events,
        size=batch_bytes,
        gaps=st.booleans(),
        credit=st.sampled_from([FULL_SPEED, FULL_SPEED, 0, 2]),
    )
    def come(self, start: Start | int, process: int, events: int, size: int, gaps: bool, credit: int) -> None:
        """A reader connects: anew, or with the cursor of any earlier item."""
        if isinstance(start, Start):
            begin: Cursor | Start = start
        elif self.cursors:
            begin = self.cursors[start % len(self.cursors)]
        else:
            return
        reader = Reader(
            TOPIC,
            self.history,
            self._process(process).replica,
            begin,
            events,
            size,
            gaps,
            self._keep,
            asyncio.Semaphore(credit),
        )
        self._start(reader)

    def _start(self, reader: Reader) -> None:
        task = self.loop.create_task(reader.run())
        task.add_done_callback(self._ended)
        self.readers.append((reader, task))

    def _keep(self, cursor: Cursor) -> None:
        assert self.codec.decode(self.codec.encode(cursor.position)) == cursor.position
        self.cursors.append(cursor)
        del self.cursors[:-MOST_CURSORS]

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.faults.append(task.exception())

    @precondition(lambda self: self.readers)
    @rule(reader=which, reconnect=st.booleans())
    def leave(self, reader: int, reconnect: bool) -> None:
        """A reader goes, wherever it stands; perhaps it comes back at once with its last cursor."""
        gone, task = self.readers.pop(reader % len(self.readers))
        task.cancel()
        if reconnect and gone.place:
            self._start(
                Reader(
                    TOPIC,
                    self.history,
                    gone.replica,
                    gone.place,
                    gone.max_events,
                    gone.max_bytes,
                    gone.notify_gaps,
                    self._keep,
                    asyncio.Semaphore(FULL_SPEED),
                )
            )

    @precondition(lambda self: self.readers)
    @rule(reader=which, items=st.sampled_from([1, 3, FULL_SPEED]))
    def read(self, reader: int, items: int) -> None:
        """A slow reader takes something."""
        _credit(self.readers[reader % len(self.readers)][0], items)

    # What goes wrong

    @rule(process=which, fates=st.lists(st.sampled_from(Fate), min_size=1, max_size=5))
    def deliver_badly(self, process: int, fates: list[Fate]) -> None:
        self._process(process).fates += fates

    @rule(process=which, index=which)
    def release(self, process: int, index: int) -> None:
        """What was held back arrives: late, and in any order."""
        pubsub = self._process(process).pubsub
        if pubsub.held:
            self._deliver(process, pubsub.held.pop(index % len(pubsub.held)))

    @rule(process=which, back=which)
    def repeat(self, process: int, back: int) -> None:
        """What arrived long ago arrives again."""
        pubsub = self._process(process).pubsub
        if pubsub.seen:
            self._deliver(process, pubsub.seen[-1 - back % len(pubsub.seen)])

    @rule(process=which)
    def miss(self, process: int) -> None:
        self._process(process).pubsub.miss(TOPIC)

    def _deliver(self, process: int, held: Held) -> None:
        entry, state = held.entry, self.state
        if entry is not None:
            tip = self.history.events[entry.epoch, entry.check]
            before = tip.at(entry.first - 1) if entry.first > 1 else None
            if state.holds(entry.epoch, before) and not state.holds(entry.epoch, tip):
                self._process(process).replica.misled = self.history.moment
        self._process(process).pubsub.deliver(held)

    @rule(process=which, before=st.integers(0, 3), after=st.integers(0, 3), subscribing=st.integers(0, 2))
    def slow_down(self, process: int, before: int, after: int, subscribing: int) -> None:
        chosen = self._process(process)
        chosen.cache.before, chosen.cache.after, chosen.pubsub.latency = before, after, subscribing

    @rule(process=which, count=st.integers(1, 3))
    def fail_reads(self, process: int, count: int) -> None:
        self._process(process).fail_reads(count)

    @rule(process=which, events=st.sampled_from([1, 4, 9, 2048]))
    def shorten_pages(self, process: int, events: int) -> None:
        self._process(process).cache.page_events = events

    # Time

    @rule(count=st.integers(1, 6))
    def turn(self, count: int) -> None:
        self.loop.turn(count)

    @rule()
    def settle(self) -> None:
        self.loop.settle()

    @rule(seconds=st.sampled_from([0.5, 4.0, 12.0]))
    def pass_time(self, seconds: float) -> None:
        self.loop.pass_time(seconds)

    @rule(process=which)
    def check(self, process: int) -> None:
        """The idle check, at its own pace."""
        task = self.loop.create_task(self._check(self._process(process)))
        task.add_done_callback(self._ended)
        self.checks.append(task)

    async def _check(self, process: Process) -> None:
        begun = self.state
        try:
            await process.log.run_once()
        except StoreUnavailable:
            return
        process.replica.checked = begun

    @rule()
    def everything_is_delivered(self) -> None:
        """Nothing goes wrong any more, and everybody reads: after one idle check nobody lacks anything."""
        for process in self.processes:
            process.behave()
        for reader, _ in self.readers:
            _credit(reader, FULL_SPEED)
        self.loop.settle()
        for number in range(len(self.processes)):
            self.check(number)
        self.loop.settle()
        for reader, task in self.readers:
            self._is_served(reader, task)
        self.loop.pass_time(2 * IDLE_SECONDS)
        for reader, _ in self.readers:
            assert not reader.live or isinstance(reader.last_item, Idle), f"silence: {reader.last_item}"
        self.readers = [(reader, task) for reader, task in self.readers if reader.live]

    def _is_served(self, reader: Reader, task: asyncio.Task[None]) -> None:
        self.nothing_was_wrong()
        assert reader.live != task.done()
        if not reader.live:
            return
        assert reader.place is not None, "it was never opened"
        assert self.state.readable, f"nobody told it: {self.state}"
        assert reader.place.event is self.state.tip, f"{reader.place} is not all of {self.state}"
        assert reader.caught_up
        assert not self.state.final, "nobody told it that the log is closed"

    @invariant()
    def nothing_was_wrong(self) -> None:
        if self.faults:
            raise self.faults[0]

    def teardown(self) -> None:
        try:
            if sys.exc_info()[0] is None:
                self.everything_is_delivered()
                self._everybody_leaves()
        finally:
            self.patch.undo()
            self._close()

    def _everybody_leaves(self) -> None:
        for _, task in self.readers:
            task.cancel()
        self.loop.settle()
        self.nothing_was_wrong()
        for process in self.processes:
            assert process.log.readers == 0
            assert not process.log._channels
        assert self.store.hub.empty(), "a subscription was left behind"

    def _close(self) -> None:
        tasks: Sequence[asyncio.Task[None]] = [*self.checks, *(task for _, task in self.readers)]
        for task in tasks:
            task.cancel()
        self.loop.turn(20)
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()


def _credit(reader: Reader, items: int) -> None:
    # Releasing a million one by one takes long: a reader at full speed has them from the start.
    if items == FULL_SPEED:
        reader.credit._value += FULL_SPEED - 1
        items = 1
    for _ in range(items):
        reader.credit.release()
