"""One log in a memory store, and one process that reads it through everything that can go wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

from runwire import frames
from runwire.batch import Batch
from runwire.caching_pubsub import CachingPubSub, Item, Opened, Start
from runwire.memory import MemoryStore
from runwire.pubsub import Commit, Entry, Head, Position, Schedule
from tests.log.faulty_pubsub import FaultyPubSub
from tests.log.faulty_store import FaultyCache

LIMIT_SECONDS = 10.0
TOPIC = "default/run"
RETENTION_SECONDS = 100.0
TOMBSTONE_SECONDS = 100.0


def event(sequence: int, text: str = "") -> bytes:
    """The bytes of an event."""
    return f"event {sequence} {text}".encode()


def events(first: int, last: int, text: str = "") -> list[bytes]:
    return [event(sequence, text) for sequence in range(first, last + 1)]


def check(sequence: int, text: str = "") -> bytes:
    return frames.event_check(event(sequence, text)) if sequence else b""


def entry(first: int, last: int, epoch: str = "0" * 16, text: str = "", **changes: Any) -> Entry:
    """Events `first..last` in one entry, that continues those of the same text."""
    body = b"".join(map(frames.frame, events(first, last, text)))
    made = {"body": body, "check": check(last, text), "previous": check(first - 1, text)} | changes
    return Entry(epoch, first, last, **made)


class OneLog:
    """The log, its writer in another process, and the process under test. The store's clock is `clock`."""

    def __init__(self, topic: str = TOPIC, store: MemoryStore | None = None) -> None:
        self.topic = topic
        self.clock = 1000.0
        self.store = store or MemoryStore(lambda: self.clock)
        self.pubsub = FaultyPubSub(self.store.pubsub)
        self.cache = FaultyCache(self.store)
        self.log = CachingPubSub(self.pubsub, self.cache)
        self.elsewhere = CachingPubSub(self.store.pubsub, self.store)
        self._newest = b""

    async def create(self, *sizes: int) -> None:
        """A new log, with entries of so many events."""
        await self.store.commit(Commit(self.topic, create=True, queue=self.topic, schedule=Schedule.DUE))
        await self.store.claim([self.topic], holder="somebody", limit=1, lease_seconds=1e6)
        for size in sizes:
            await self.append(size)

    async def head(self) -> Head:
        head = (await self.store.heads([self.topic]))[0]
        assert head is not None
        return head

    async def append(
        self, size: int = 1, text: str = "", *, told: bool = True, here: bool = False, final: int = 0
    ) -> Entry:
        """One commit, by another process, or `here`. Not `told`: nobody hears of it."""
        head = await self.head()
        added = entry(head.last + 1, head.last + size, text=text)
        commit = Commit(
            self.topic,
            attempt=1,
            first=added.first,
            last=added.last,
            events=added.body,
            check=added.check,
            previous=head.check,
            final=final,
            retention=RETENTION_SECONDS,
            tombstone=TOMBSTONE_SECONDS,
        )
        committed = await (
            (self.log if here else self.elsewhere).publish(commit) if told else self.store.commit(commit)
        )
        assert committed.entry is not None
        return committed.entry

    async def finish(self, **options: Any) -> Entry:
        """The last event."""
        return await self.append(final=4, **options)

    @asynccontextmanager
    async def reader(self, start: Position | Start = Start.EARLIEST, **options: Any) -> AsyncIterator[Reader]:
        """A reader, which has its first item."""
        async with aclosing(self.log.subscribe_with_replay(self.topic, start, **options)) as items:
            reader = Reader(items)
            opened = await reader.next()
            assert isinstance(opened, Opened)
            yield reader

    async def read(self, start: Position | Start = Start.EARLIEST, **options: Any) -> Sequence[Item]:
        """All items of a closed log."""
        async with self.reader(start, **options) as reader:
            await reader.rest()
            return reader.items


class Reader:
    """What a reader was given so far."""

    def __init__(self, items: AsyncIterator[Item]) -> None:
        self._source = items
        self.items: list[Item] = []

    async def next(self) -> Item:
        """The next item, which must come soon."""
        async with asyncio.timeout(LIMIT_SECONDS):
            item = await anext(self._source)
        self.items.append(item)
        return item

    async def until(self, kind: type[Item]) -> Item:
        """Reads up to an item of this kind."""
        while not isinstance(item := await self.next(), kind):
            pass
        return item

    async def until_sequence(self, sequence: int) -> None:
        """Reads until it stands there."""
        while not self.items or self.items[-1].position.sequence < sequence:
            await self.next()

    async def rest(self) -> None:
        """Reads to the end of the stream."""
        async with asyncio.timeout(LIMIT_SECONDS):
            async for item in self._source:
                self.items.append(item)

    @property
    def events(self) -> list[bytes]:
        return events_of(self.items)


def events_of(items: Sequence[Item]) -> list[bytes]:
    """The events in the batches among the items, which must continue one another."""
    found: list[bytes] = []
    after: int | None = None
    for item in items:
        if isinstance(item, Batch):
            assert after in (None, item.first - 1), f"{item.first} after {after}"
            found += frames.events(item.body)
            after = item.position.sequence
    return found
