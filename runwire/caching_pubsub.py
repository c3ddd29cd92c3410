"""CachingPubSub: live delivery that never loses, doubles or reorders an event.

A decorator over a PubSub (fast, and free to lose things) and an EventCache (the truth). How a reader goes, after
Centrifugo's recovery and etcd's unsynced watchers:

1. Subscribe to live entries first, then read the log from the reader's own position.
2. A live entry is used only if it continues that position exactly: same epoch, next sequence, and the check of the
   event before it. Anything else (lost, doubled, late, out of order) only says: read the log.
3. Every few seconds the heads of all watched logs are compared with what readers know: that heals a lost last entry,
   and tells readers of a log that vanished, was re-created or rolled back.

Each reader takes what has gathered while it was busy; all readers of a topic in a process share one Tail. There is no
queue per reader.

What is kept for readers (tails, pages that were read and not given out) has one budget in bytes for the process. While
a batch is with its reader, the reader has nothing else that is not counted; what was dropped meanwhile is read again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from bisect import bisect_right
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from operator import attrgetter
from typing import Final, Protocol

from runwire import frames, metrics
from runwire.alarm import Alarm
from runwire.batch import Batch, batches, check_at, whole
from runwire.errors import (
    CursorAhead,
    CursorEpochMismatch,
    CursorExpired,
    EventsLost,
    Fenced,
    RunExpired,
    RunNotFound,
    ServerDraining,
    StoreUnavailable,
)
from runwire.gate import Gate
from runwire.pace import Pace
from runwire.pubsub import (
    MAX_COMMIT_BYTES,
    MAX_COMMIT_EVENTS,
    Commit,
    Committed,
    Deliver,
    Entry,
    EventCache,
    Head,
    Page,
    Position,
    PubSub,
)
from runwire.read_ahead import PAGE_BYTES, Ahead, ReadAhead
from runwire.tail import Rings, Tail

_HEADS_AT_ONCE: Final = 256
_IDLE_JITTER: Final = 0.1
_MAX_OPENINGS: Final = 3
_PAGE_EVENTS: Final = 2048
_READS_AT_ONCE: Final = 32
"""Each brings a page of up to 1 MiB."""
DEFAULT_BUFFER_BYTES: Final = 128 * 1024 * 1024

logger = logging.getLogger("runwire.caching_pubsub")


class Start(Enum):
    """Where a reader without a position begins."""

    EARLIEST = "earliest"
    LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Opened:
    """First item: the reader's place is good, and this is the log."""

    position: Position
    head: Head


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Everything committed before the reader came has been given out."""

    position: Position


@dataclass(frozen=True, slots=True)
class Idle:
    """There is nothing new up to this position."""

    position: Position


@dataclass(frozen=True, slots=True)
class Gap:
    """Events `first..last` are gone; the reader continues after them."""

    position: Position
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Ended:
    """The log is closed and all of it was given out. Last item."""

    position: Position
    final: int


Item = Opened | Batch | CaughtUp | Idle | Gap | Ended


@dataclass(frozen=True, slots=True)
class History:
    """A piece of the log as it stands."""

    head: Head
    batch: Batch | None
    """None: there is nothing after the position."""


class Way(Protocol):
    """The way that a reader's batches take, which may be narrow for now."""

    def frame_bytes(self) -> int:
        """How large a batch may be, if it can be cut to that."""
        ...

    def fits(self, size_bytes: int) -> bool:
        """Whether a batch that cannot be cut may be sent now."""
        ...

    async def room(self, size_bytes: int) -> None:
        """Waits until it may. Who waits holds nothing. Raises SlowConsumer if that takes too long."""
        ...


class CachingPubSub:
    """Logs that can be followed from any position, over any PubSub and EventCache.

    Keeps at most `buffer_bytes` for its readers: half of it in tails, half in pages that were read ahead. `pace` is
    told how long commits of events take.
    """

    def __init__(
        self,
        pubsub: PubSub,
        cache: EventCache,
        *,
        check_seconds: float = 3.0,
        buffer_bytes: int = DEFAULT_BUFFER_BYTES,
        pace: Pace | None = None,
    ) -> None:
        self._pubsub = pubsub
        self._cache = cache
        self._check_seconds = check_seconds
        self._pace = pace
        self._rings = Rings(buffer_bytes // 2)
        self._ahead = ReadAhead(buffer_bytes // 2)
        self._reads = Gate(_READS_AT_ONCE)
        self._channels: dict[str, _Channel] = {}
        self._draining = False

    async def publish(self, commit: Commit) -> Committed:
        """Appends to the log, then tells the subscribers: nobody sees an event that is not stored.

        Raises what EventCache.commit raises. That subscribers could not be told is no error: they read the log.
        """
        committed = await self._commit(commit)
        if committed.entry is None:
            return committed
        # Readers of this process need not wait for it to come back; by its position it is known when it does.
        if (channel := self._channels.get(commit.topic)) is not None:
            channel.tail.offer(committed.entry)
        if not self._cache.announces:
            try:
                await self._pubsub.publish(commit.topic, committed.entry)
            except StoreUnavailable as error:
                logger.warning("live entry of %s not published: %s", commit.topic, error)
        return committed

    async def _commit(self, commit: Commit) -> Committed:
        began = time.perf_counter()
        try:
            committed = await self._cache.commit(commit)
        except Fenced:
            metrics.FENCED.add()
            raise
        except StoreUnavailable:
            metrics.COMMIT_FAILURES.add()
            raise
        took = time.perf_counter() - began
        metrics.COMMIT_SECONDS.record(took)
        if commit.events:
            if self._pace is not None:
                self._pace.took(took)
            metrics.EVENTS.add(commit.last - commit.first + 1)
            metrics.EVENT_BYTES.add(len(commit.events))
        return committed

    def subscribe(self, topic: str, deliver: Deliver) -> AbstractAsyncContextManager[None]:
        """Live entries only, as PubSub.subscribe has them: lossy. Most callers want subscribe_with_replay."""
        return self._pubsub.subscribe(topic, deliver)

    async def get_history(
        self,
        topic: str,
        after: Position | None = None,
        *,
        max_events: int = frames.MAX_BATCH_EVENTS,
        max_bytes: int = MAX_COMMIT_BYTES,
    ) -> History:
        """One batch of the log after a position; None: from the oldest event that is kept.

        Raises as subscribe_with_replay does.
        """
        opening, page = await self._open(
            topic, after or Start.EARLIEST, max_events, min(PAGE_BYTES, 2 * max_bytes), notify_gaps=False
        )
        position = opening.position
        if page.entries and page.entries[-1].last == position.sequence < page.head.last:
            # The entry that holds the position left no room in the page for the one after it.
            page = await self._read_live(topic, position)
            _gap_after(position, page, notify_gaps=False)
        found = batches(page.entries, position, max_events=max_events, max_bytes=max_bytes)
        return History(page.head, next(found, None))

    @property
    def buffered_bytes(self) -> int:
        """What is kept for readers now."""
        return self._rings.used_bytes + self._ahead.used_bytes

    @property
    def most_buffered_bytes(self) -> int:
        """The most that ever was."""
        return self._rings.most_bytes + self._ahead.most_bytes

    async def subscribe_with_replay(
        self,
        topic: str,
        start: Position | Start = Start.EARLIEST,
        *,
        max_events: int = frames.MAX_BATCH_EVENTS,
        max_bytes: int = MAX_COMMIT_BYTES,
        idle_seconds: float = 10.0,
        notify_gaps: bool = False,
        way: Way | None = None,
    ) -> AsyncGenerator[Item]:
        """The log from `start` on, live once it has caught up: each event once, in order, until the log is closed.

        Yields Opened, then batches of at most `max_events` events and `max_bytes` bytes, CaughtUp once, Idle after
        every `idle_seconds` (+- 10 %) without news, and Ended as the last item. Batches are smaller where `way` asks
        for it, and one that cannot be waits for room.

        Raises, at the start: RunNotFound, RunExpired, CursorExpired (events after `start` are gone), CursorAhead,
        CursorEpochMismatch. Later: EventsLost (the log vanished, was replaced or rolled back), CursorExpired
        (trimmed faster than read; with `notify_gaps` a Gap item instead, also at the start), ServerDraining after
        `drain`, StoreUnavailable.
        """
        ahead, alarm = Ahead(self._ahead), Alarm()
        try:
            async with self._attach(topic, start, ahead, notify_gaps) as (tail, opening):
                position, target, caught_up = opening.position, opening.head.last, False
                yield Opened(opening.opened_at, opening.head)
                if opening.gap:
                    yield opening.gap
                while True:
                    if not caught_up and position.sequence >= target:
                        caught_up = True
                        yield CaughtUp(position)
                    found = ahead.after(position.sequence) or await self._next(
                        topic, tail, ahead, position, target, idle_seconds, notify_gaps, alarm
                    )
                    if isinstance(found, Gap):
                        position = found.position
                        yield found
                    elif isinstance(found, Ended):
                        yield found
                        return
                    elif found is None:
                        yield Idle(position)
                    else:
                        batch = _first_batch(found, position, max_events, max_bytes, way)
                        if batch is None:
                            continue  # entries that hold nothing new
                        size = len(batch.body)
                        if way and not way.fits(size):
                            del batch, found
                            ahead.drop()
                            await way.room(size)
                            continue
                        ahead.advance(batch.position.sequence)
                        position = batch.position
                        given = [batch]
                        # While the reader has the batch, nothing of what lies around it is kept by this one.
                        del batch, found
                        yield given.pop()
                        if self._draining:
                            raise _draining()
        finally:
            ahead.drop()
            alarm.close()

    async def run(self) -> None:
        """The idle check, until cancelled. Run it beside the readers."""
        while True:
            await asyncio.sleep(self._check_seconds)
            try:
                await self.run_once()
            except StoreUnavailable as error:
                logger.warning("idle check: %s", error)
            except Exception:  # whatever it is: without the check readers would wait in silence for what they missed
                logger.exception("idle check failed")

    async def run_once(self) -> None:
        """Compares what the readers of each topic know with the heads of the logs. Raises StoreUnavailable."""
        topics = list(self._channels)
        for begin in range(0, len(topics), _HEADS_AT_ONCE):
            some = topics[begin : begin + _HEADS_AT_ONCE]
            try:
                await self._check(some)
            except StoreUnavailable:
                if len(some) == 1:
                    raise
                # Perhaps a part of the store is away, and what lies elsewhere must not wait for it.
                await self._check_one_by_one(some)

    async def _check(self, topics: Sequence[str]) -> None:
        tails = self._open_tails(topics)
        known = [tail.position for tail in tails.values()]
        heads = await self._cache.heads(list(tails))
        for tail, before, head in zip(tails.values(), known, heads, strict=True):
            # Stale: it was told that entries may be missing. Else nothing has said so, and nobody would have looked.
            if head is not None and head.epoch == before.epoch and head.last > tail.last and not tail.stale:
                metrics.HEALED.add()
            _compare(tail, before, head)

    async def _check_one_by_one(self, topics: Sequence[str]) -> None:
        """Raises StoreUnavailable if none of them can be looked at."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._failure_of(topic)) for topic in topics]
        failures = [failure for task in tasks if (failure := task.result())]
        if len(failures) == len(topics):
            raise failures[0]
        if failures:
            logger.warning("idle check: %d of %d logs: %s", len(failures), len(topics), failures[0])

    async def _failure_of(self, topic: str) -> StoreUnavailable | None:
        try:
            await self._check([topic])
        except StoreUnavailable as error:
            return error
        return None

    def _open_tails(self, topics: Sequence[str]) -> dict[str, Tail]:
        """Those of these topics that are followed now, and have got as far as to know their log."""
        channels = ((topic, self._channels.get(topic)) for topic in topics)
        return {topic: channel.tail for topic, channel in channels if channel and channel.tail.epoch}

    def drain(self) -> None:
        """Ends every reader with ServerDraining, now and from now on."""
        self._draining = True
        for channel in self._channels.values():
            channel.tail.wake()

    @property
    def readers(self) -> int:
        """How many readers there are."""
        return sum(channel.tail.readers for channel in self._channels.values())

    @asynccontextmanager
    async def _attach(
        self, topic: str, start: Position | Start, ahead: Ahead, notify_gaps: bool
    ) -> AsyncIterator[tuple[Tail, _Opening]]:
        """A reader's place in the log, and the tail that it shares with others. What was read for it is `ahead`."""
        for _ in range(_MAX_OPENINGS):
            async with self._join(topic) as tail:
                known = tail.position
                # A small page: the first events are to be there soon.
                opening, page = await self._open(
                    topic, start, MAX_COMMIT_EVENTS, self._ahead.page_bytes(), notify_gaps=notify_gaps
                )
                tail.extend(page)
                _compare(tail, known, page.head)
                ahead.keep(page.entries, opening.position.sequence)
                del page
                if tail.stale:
                    await self._refill(topic, tail)
                if tail.error is None:
                    yield tail, opening
                    return
            # Those who were here stand in a log that is no more; this reader's is the one that has taken its place.
        raise StoreUnavailable("the log was replaced again and again while the reader came")

    @asynccontextmanager
    async def _join(self, topic: str) -> AsyncIterator[Tail]:
        channel = self._channels.get(topic)
        if channel is None or channel.tail.error is not None:
            channel = self._channels[topic] = _Channel(self._pubsub, topic, Tail(self._rings))
        channel.tail.readers += 1
        try:
            await channel.open(self._cache)
            yield channel.tail
        finally:
            channel.tail.readers -= 1
            if not channel.tail.readers:
                # Out of the table first: a reader that comes now makes a new one.
                if self._channels.get(topic) is channel:
                    del self._channels[topic]
                await channel.close()

    async def _open(
        self, topic: str, start: Position | Start, max_events: int, max_bytes: int, *, notify_gaps: bool
    ) -> tuple[_Opening, Page]:
        if start is Start.LATEST:
            head = await self._head(topic)
            return _Opening(head.position, head.position, head, None), Page(head, ())
        after = start.sequence if isinstance(start, Position) else 0
        # One event earlier: the event at the position shows whether this is still the log that the reader knows.
        page = await self._page(topic, max(after - 1, 0), max(max_events, MAX_COMMIT_EVENTS), max_bytes)
        if page.head.expired:
            raise _expired(topic, page.head)
        if start is Start.EARLIEST:
            earliest = _before_earliest(page)
            return _Opening(earliest, earliest, page.head, None), page
        _check_position(start, page)
        gap = _gap_after(start, page, notify_gaps)
        return _Opening(start, gap.position if gap else start, page.head, gap), page

    async def _page(self, topic: str, after: int, max_events: int, max_bytes: int) -> Page:
        """EventCache.read, for few readers at a time."""
        with await self._reads.enter():
            return await self._cache.read(topic, after, max_events=max_events, max_bytes=max_bytes)

    async def _head(self, topic: str) -> Head:
        head = (await self._cache.heads([topic]))[0]
        if head is None:
            raise RunNotFound(f"no such run: {topic}")
        if head.expired:
            raise _expired(topic, head)
        return head

    async def _next(
        self,
        topic: str,
        tail: Tail,
        ahead: Ahead,
        position: Position,
        target: int,
        idle_seconds: float,
        notify_gaps: bool,
        alarm: Alarm,
    ) -> Sequence[Entry] | Gap | Ended | None:
        """What comes after `position`; None if nothing came for `idle_seconds`. The log has held `target` events."""
        now = asyncio.get_running_loop().time
        end = now() + idle_seconds * random.uniform(1 - _IDLE_JITTER, 1 + _IDLE_JITTER)
        while True:
            if tail.error is not None:
                raise tail.error.with_traceback(None)
            if self._draining:
                raise _draining()
            entries = tail.after(position.sequence)
            if entries:
                return entries
            if entries is None:
                return await self._read(topic, tail, ahead, position, notify_gaps)
            if tail.stale:
                await self._refill(topic, tail)
            elif position.sequence < target:
                # A read that began after the reader came found the log shorter than it was.
                raise EventsLost(f"the log of {topic} was rolled back to {tail.last}, after {target} was there")
            elif tail.final and frames.differ(position.check, tail.position.check):
                # A live entry of before a fail-over came late, and fitted the tail. No end of this reader's log.
                raise EventsLost(f"event {position.sequence} was replaced under this reader")
            elif tail.final:
                return Ended(position, tail.final)
            elif now() < end:
                await tail.wait(end - now(), alarm)
            else:
                return None

    async def _refill(self, topic: str, tail: Tail) -> None:
        """Reads for all readers at the tail what the live entries left out. One reads, the others wait for it."""
        failure = tail.failure
        async with tail.refill:
            if tail.failure is not failure and tail.failure is not None:
                raise tail.failure.with_traceback(None)
            if not tail.stale or tail.error is not None:
                return
            missed = tail.missed
            try:
                page = await self._read_live(topic, tail.position)
            except EventsLost as error:
                tail.fail(error)
            except StoreUnavailable as error:
                tail.failure = error
                raise
            else:
                tail.fill(page, missed)

    async def _read(
        self, topic: str, tail: Tail, ahead: Ahead, position: Position, notify_gaps: bool
    ) -> Sequence[Entry] | Gap:
        """Reads for one reader, which is behind the ring."""
        metrics.READERS_BEHIND.add()
        page = await self._read_live(topic, position, self._ahead.page_bytes())
        gap = _gap_after(position, page, notify_gaps)
        if gap is not None:
            return gap
        if not page.entries:
            raise EventsLost(f"the log of {topic} was rolled back to {page.head.last}")
        tail.extend(page)
        ahead.keep(page.entries, position.sequence)
        return page.entries

    async def _read_live(self, topic: str, position: Position, max_bytes: int = PAGE_BYTES) -> Page:
        """A page for a reader that has seen this log: that it is not there any more is a loss."""
        try:
            page = await self._page(topic, position.sequence, _PAGE_EVENTS, max_bytes)
        except RunNotFound:
            raise EventsLost(f"the log of {topic} vanished") from None
        if page.head.expired:
            raise EventsLost(f"the log of {topic} was purged")
        if page.head.epoch != position.epoch:
            raise EventsLost(f"the log of {topic} was re-created")
        if page.head.last < position.sequence:
            raise EventsLost(f"the log of {topic} was rolled back to {page.head.last}")
        if not page.entries and page.head.last >= page.head.earliest > position.sequence:
            raise EventsLost(f"events {page.head.earliest} to {page.head.last} of {topic} are not there")
        return page


class _Channel:
    """A Tail and the subscription that feeds it, for all readers of a topic."""

    def __init__(self, pubsub: PubSub, topic: str, tail: Tail) -> None:
        self.tail = tail
        self._pubsub = pubsub
        self._topic = topic
        self._opening = asyncio.Lock()
        self._attempts = 0
        self._failed: tuple[int, StoreUnavailable] | None = None
        """The last attempt to open it that failed, and how."""
        self._subscription: AbstractAsyncContextManager[None] | None = None

    async def open(self, cache: EventCache) -> None:
        before = self._attempts
        async with self._opening:
            if self._failed is not None and self._failed[0] > before:
                # It began after this reader had come. Hundreds of readers, each trying in turn, would take for ever.
                raise self._failed[1].with_traceback(None)
            self._attempts += 1
            try:
                await self._open(cache)
            except StoreUnavailable as error:
                self._failed = self._attempts, error
                raise

    async def _open(self, cache: EventCache) -> None:
        if self._subscription is None:
            # A new one for every attempt: that of a reader that was cut while it subscribed is used up.
            subscription = self._pubsub.subscribe(self._topic, self.tail.offer)
            await subscription.__aenter__()
            self._subscription = subscription
        if not self.tail.epoch:
            head = (await cache.heads([self._topic]))[0]
            if head is None:
                raise RunNotFound(f"no such run: {self._topic}")
            if head.expired:
                raise _expired(self._topic, head)
            self.tail.begin(head)

    async def close(self) -> None:
        self.tail.forget()
        if self._subscription is not None:
            await self._subscription.__aexit__(None, None, None)


@dataclass(frozen=True, slots=True)
class _Opening:
    """How a reader begins."""

    opened_at: Position
    position: Position
    head: Head
    gap: Gap | None


def _first_batch(
    entries: Sequence[Entry], position: Position, max_events: int, max_bytes: int, way: Way | None
) -> Batch | None:
    most = min(max_bytes, way.frame_bytes()) if way else max_bytes
    if len(entries) == 1 and (batch := whole(entries[0], position, max_events, most)) is not None:
        return batch
    start = bisect_right(entries, position.sequence, key=attrgetter("last"))
    return next(batches(entries[start:], position, max_events=max_events, max_bytes=most), None)


def _check_position(position: Position, page: Page) -> None:
    head = page.head
    if position.epoch != head.epoch:
        raise CursorEpochMismatch("the log was re-created since this cursor was given out", epoch=head.epoch)
    if position.sequence > head.last:
        raise CursorAhead(
            f"the cursor is at {position.sequence}, beyond the newest event {head.last}", latest_sequence=head.last
        )
    found = _check_in(page, position.sequence)
    if frames.differ(position.check, found):
        raise CursorEpochMismatch(
            f"event {position.sequence} is not the one this cursor was given out for: the log was rolled back",
            epoch=head.epoch,
        )


def _check_in(page: Page, sequence: int) -> bytes:
    """The check of this event, if the page shows it; trimmed or not, the event after it names it too."""
    if sequence == page.head.last:
        return page.head.check
    for entry in page.entries:
        if entry.first == sequence + 1:
            return entry.previous
        if entry.first <= sequence <= entry.last:
            return check_at(entry, sequence)
    return b""


def _before_earliest(page: Page) -> Position:
    """The place before the oldest event that is kept."""
    sequence = page.head.earliest - 1
    return Position(page.head.epoch, sequence, _check_in(page, sequence))


def _gap_after(position: Position, page: Page, notify_gaps: bool) -> Gap | None:
    """The events after `position` that are gone, if any. Raises CursorExpired if the reader wants no gaps."""
    head = page.head
    if head.earliest <= position.sequence + 1:
        return None
    if notify_gaps:
        return Gap(_before_earliest(page), position.sequence + 1, head.earliest - 1)
    raise CursorExpired(
        f"events {position.sequence + 1} to {head.earliest - 1} are gone",
        earliest_sequence=head.earliest,
        latest_sequence=head.last,
        epoch=head.epoch,
    )


def _expired(topic: str, head: Head) -> RunExpired:
    return RunExpired(f"the events of {topic} are purged", final_state=head.final)


def _compare(tail: Tail, known: Position, head: Head | None) -> None:
    """`known` is the tail's position from before the head was read: the head cannot be older."""
    if head is None or head.expired:
        tail.fail(EventsLost("the log vanished under this reader"))
    elif head.epoch != known.epoch:
        tail.fail(EventsLost("the log was re-created under this reader"))
    elif head.last < known.sequence:
        tail.fail(EventsLost(f"the log was rolled back to {head.last}, after {known.sequence} was read"))
    elif head.last == known.sequence and known.check and head.check != known.check:
        tail.fail(EventsLost(f"event {known.sequence} was replaced under this reader"))
    elif head.last > tail.last:
        tail.offer(None)


def _draining() -> ServerDraining:
    # Soon: another replica is there, and readers that wait see nothing meanwhile.
    return ServerDraining("this server shuts down", retry_delay_seconds=0.1)
