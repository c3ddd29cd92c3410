"""Readers of one log against everything that may happen to it, as a hypothesis state machine.

Two processes read one memory store, each through a PubSub that loses, doubles, holds back and repeats live entries
(also those of a log that is long gone) and a cache that is slow, fails, and gives short pages. One of them, or a third
that nobody reads at, writes; the answers to its commits, of which its own readers are told at once, come late, also
after all else that happens meanwhile. The log is appended to,
closed, trimmed, cleared, created again, expires, and its store fails over to a replica that lagged behind. Readers come
from anywhere with any bounds, are slow, and leave at any moment, also in the middle of coming.

What must hold is in `reader.Reader`, item by item, and in `everything_is_delivered`, after an idle check: every reader
has everything or an error, never silence.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runwire import frames, tail
from runwire.caching_pubsub import CachingPubSub, Idle, Start
from runwire.cursor import CursorCodec
from runwire.errors import StoreUnavailable
from runwire.memory import MemoryStore
from runwire.pubsub import Commit, Committed, Entry, Page
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
MAX_READERS = 6
MAX_CURSORS = 24
MAX_SNAPSHOTS = 8
FULL_SPEED = 1_000_000

which = st.integers(min_value=0, max_value=63)
"""One of those there are, counted round."""
sometimes = st.sampled_from([False, False, True])
processes = st.sampled_from([0, 0, 0, 1])
"""Which process: the second is there for cursors that go from one to the other."""
# One draw each for a whole commit, reader or fault: drawing is what takes the time.
Commits = list[tuple[tuple[int, ...], tuple[Fate, Fate], int | None]]
commits: st.SearchStrategy[Commits] = st.lists(
    st.sampled_from(list(product([(1,), (60,), (10, 0), (1, 10, 60)], product(Fate, repeat=2), [None, None, 0, 1]))),
    max_size=4,
)
"""Of each commit, the sizes of its events, what becomes of its entry on the way to each process, and which process
writes it; None: one that nobody reads at."""


class Manner(NamedTuple):
    """How somebody reads."""

    max_events: int
    max_bytes: int
    notify_gaps: bool
    credit: int


manners = st.sampled_from(
    [Manner(*of) for of in product([1, 2, 7, 256], [1, 50, 100, 256 * 1024], [False, True], [FULL_SPEED, 0, 2])]
)


visitors = st.none() | manners


class Troubles(NamedTuple):
    """How a process gets on with its store."""

    before: int
    after: int
    subscribing: int
    failures: int
    page_events: int


troubles = st.sampled_from(
    [Troubles(*of) for of in product([0, 1, 3], [0, 1, 3], [0, 2], [0, 0, 0, 1, 3], [1, 4, 9, 2048])]
)


class Process:
    """One replica of the service, with its own view of the store."""

    def __init__(self, store: MemoryStore) -> None:
        self.pubsub = FaultyPubSub(store.pubsub, lambda: self.fate)
        self.cache = FaultyCache(store)
        self.log = CachingPubSub(self.pubsub, self.cache)
        self.replica = Replica(self.log, lambda: self.failed)
        self.fate = Fate.PASS
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
        for process in self.processes:
            process.cache.arrived = partial(self._arrived, process)
            process.cache.answered = partial(self._answered, process)
        self.elsewhere = CachingPubSub(self.store.pubsub, self.store)
        self.answers: list[asyncio.Task[Committed]] = []
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

    @initialize(commits=commits, troubles=troubles, manners=st.lists(manners, max_size=2))
    def begin(self, commits: Commits, troubles: Troubles, manners: list[Manner]) -> None:
        """There is a log, and somebody reads it."""
        self.create(None, [])
        self.misbehave(0, troubles)
        for manner in manners:
            self._visit(manner)
        self._append_all(commits)

    @precondition(lambda self: not self.state.epoch)
    @rule(visitor=visitors, commits=commits)
    def create(self, visitor: Manner | None, commits: Commits) -> None:
        """The log begins, perhaps not for the first time. A visitor comes before its first event."""
        head = at_once(self.store.commit(Commit(TOPIC, create=True, queue="runs"))).head
        self.store._topics[TOPIC].topic.attempt = 1
        self.lasts = []
        self.history.become(State(head.epoch))
        self._replicate()
        self._visit(visitor)
        self._append_all(commits)

    def _visit(self, visitor: Manner | None) -> None:
        if visitor:
            self._start(Start.EARLIEST, self.processes[0].replica, visitor)
            self.loop.settle()

    @precondition(lambda self: self.state.readable and not self.state.final)
    @rule(commits=commits, final=sometimes)
    def append(self, commits: Commits, final: bool) -> None:
        """Commits, the last of which may close the log."""
        self._append_all(commits, final)

    def _append_all(self, commits: Commits, final: bool = False) -> None:
        for number, (sizes, fates, writer) in enumerate(commits, 1):
            for process, fate in zip(self.processes, fates, strict=True):
                process.fate = fate
            self._append([self._text(size) for size in sizes], 4 if final and number == len(commits) else 0, writer)
            self._replicate()
        for process in self.processes:
            process.fate = Fate.PASS

    def _append(self, texts: list[bytes], final: int, writer: int | None) -> None:
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
        committed = at_once(self.elsewhere.publish(commit))
        if writer is not None:
            process = self.processes[writer]
            process.cache.committed[commit.check] = committed
            self.answers.append(self.loop.create_task(process.log.publish(commit)))

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
    @rule(sure=sometimes, heard=st.booleans(), again=st.booleans(), visitor=visitors, commits=commits)
    def clear(self, sure: bool, heard: bool, again: bool, visitor: Manner | None, commits: Commits) -> None:
        """The log is gone, whether anybody heard of it or not, and perhaps there is a new one at once."""
        if not sure:
            return
        for process in self.processes:
            process.fate = Fate.PASS if heard else Fate.DROP
        self.history.become(NOTHING)
        at_once(self.store.clear(TOPIC))
        if again:
            self.create(visitor, commits)

    @precondition(lambda self: self.state.final)
    @rule(seconds=st.sampled_from([30.0, 80.0, 150.0]), swept=st.booleans())
    def grow_old(self, seconds: float, swept: bool) -> None:
        """A closed log expires, and its tombstone later."""
        self.clock += seconds
        self._expire()
        if swept:
            at_once(self.store.sweep())

    def _expire(self) -> None:
        state = self.state
        if not state.final:
            return
        if self.clock >= self.expire_time + TOMBSTONE_SECONDS:
            self.history.become(NOTHING)
        elif self.clock >= self.expire_time and not state.expired:
            self.history.become(State(state.epoch, state.tip, state.last + 1, expired=True))

    def _replicate(self) -> None:
        """A replica of the store has everything up to here."""
        self.snapshots.append((snapshot(self.store), self.state, list(self.lasts), self.expire_time))
        del self.snapshots[:-MAX_SNAPSHOTS]

    @precondition(lambda self: self.snapshots)
    @rule(back=st.integers(1, MAX_SNAPSHOTS), visitor=visitors, commits=commits, final=sometimes)
    def fail_over(self, back: int, visitor: Manner | None, commits: Commits, final: bool) -> None:
        """The store continues from what a replica has; nobody is told. A visitor comes before the next event."""
        del self.snapshots[max(1, len(self.snapshots) - back) :]
        kept, state, self.lasts, self.expire_time = self.snapshots[-1]
        self.lasts = list(self.lasts)
        roll_back(self.store, kept)
        self.history.become(state)
        self._expire()
        self._visit(visitor)
        if self.state.readable and not self.state.final:
            self._append_all(commits, final)

    # Readers

    @precondition(lambda self: len(self.readers) < MAX_READERS)
    @rule(start=st.one_of(st.sampled_from(Start), which), process=processes, manner=manners, settled=st.booleans())
    def come(self, start: Start | int, process: int, manner: Manner, settled: bool) -> None:
        """A reader connects: again, or with the cursor of any earlier item."""
        if isinstance(start, Start):
            self._start(start, self.processes[process].replica, manner)
        elif self.cursors:
            self._start(self.cursors[start % len(self.cursors)], self.processes[process].replica, manner)
        if settled:
            self.loop.settle()

    def _start(self, start: Cursor | Start, replica: Replica, manner: Manner) -> None:
        credit = asyncio.Semaphore(manner.credit)
        reader = Reader(TOPIC, self.history, replica, start, *manner[:3], self._keep, credit)
        task = self.loop.create_task(reader.run())
        task.add_done_callback(self._ended)
        self.readers.append((reader, task))

    def _keep(self, cursor: Cursor) -> None:
        assert self.codec.decode(self.codec.encode(cursor.position)) == cursor.position
        self.cursors.append(cursor)
        del self.cursors[:-MAX_CURSORS]

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
            manner = Manner(gone.max_events, gone.max_bytes, gone.notify_gaps, FULL_SPEED)
            self._start(gone.place, gone.replica, manner)

    @precondition(lambda self: self.readers)
    @rule(reader=which, items=st.sampled_from([1, 3, FULL_SPEED]))
    def read(self, reader: int, items: int) -> None:
        """A slow reader takes something."""
        _credit(self.readers[reader % len(self.readers)][0], items)

    # What goes wrong

    @rule(process=processes, index=which, kind=st.sampled_from(["any", "fitting", "dead"]))
    def arrive(self, process: int, index: int, kind: str) -> None:
        """What was held back, or came long ago, comes now. Of the worst kind is what some reader lacks by its sequence,
        but is of a log that is gone."""
        pubsub = self.processes[process].pubsub
        held = [*pubsub.held, *pubsub.seen]
        if kind != "any":
            places = {reader.place.position.sequence for reader, _ in self.readers if reader.place}
            held = [one for one in held if one.entry and one.entry.first - 1 in places]
        if kind == "dead":
            held = [one for one in held if one.entry and not self._is_stored(one.entry)]
        if held:
            self._deliver(process, held[index % len(held)])

    def _is_stored(self, entry: Entry) -> bool:
        return self.state.holds(entry.epoch, self.history.events[entry.epoch, entry.check])

    @rule(process=processes)
    def miss(self, process: int) -> None:
        """A connection was lost and is there again."""
        self.processes[process].pubsub.miss(TOPIC)

    def _deliver(self, process: int, held: Held) -> None:
        if held.entry is not None:
            self._mislead(self.processes[process], held.entry)
        self.processes[process].pubsub.deliver(held)

    def _mislead(self, process: Process, entry: Entry) -> None:
        """Notes what a process is given that is lost already, but continues what its readers have found."""
        if self._is_stored(entry):
            return
        tip = self.history.events[entry.epoch, entry.check]
        before = tip.at(entry.first - 1) if entry.first > 1 else None
        moment = min((reader.moment for reader, _ in self.readers), default=self.history.moment)
        if any(state.holds(entry.epoch, before) for state in self.history.since(moment)):
            process.replica.misled = self.history.moment

    def _arrived(self, process: Process, page: Page) -> None:
        """A read that was answered before a fail-over arrives after it."""
        for entry in page.entries:
            self._mislead(process, entry)

    def _answered(self, process: Process, committed: Committed) -> None:
        """So does the answer to a commit."""
        assert committed.entry is not None
        self._mislead(process, committed.entry)

    @rule(process=processes, troubles=troubles)
    def misbehave(self, process: int, troubles: Troubles) -> None:
        """Reads take their time, fail, and bring little."""
        chosen = self.processes[process]
        chosen.cache.before, chosen.cache.after, chosen.pubsub.latency, failures, chosen.cache.page_events = troubles
        chosen.fail_reads(failures)

    # Time

    @rule(count=st.integers(1, 6))
    def turn(self, count: int) -> None:
        self.loop.turn(count)

    @rule(seconds=st.sampled_from([0.0, 0.0, 4.0, 12.0]))
    def pass_time(self, seconds: float) -> None:
        self.loop.pass_time(seconds)

    @rule(process=processes)
    def check(self, process: int) -> None:
        """The idle check, at its own pace."""
        task = self.loop.create_task(self._check(self.processes[process]))
        task.add_done_callback(self._ended)
        self.checks.append(task)

    async def _check(self, process: Process) -> None:
        begun = self.history.moment
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
        tasks: Sequence[asyncio.Task[Any]] = [*self.answers, *self.checks, *(task for _, task in self.readers)]
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
