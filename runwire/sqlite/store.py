"""The SQLite store as callers see it, on the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import Final, TypeVar

from runwire.bell import Bell, Waited, messages_in, work_in
from runwire.hub import Hub
from runwire.loop import wait_for
from runwire.pubsub import (
    MAX_CLAIM_BYTES,
    MAX_RECEIVE_BYTES,
    Claim,
    Commit,
    Committed,
    Deliver,
    Delivery,
    Depth,
    Entry,
    Head,
    Lease,
    LeaseState,
    Notice,
    Page,
    PubSub,
    Risk,
    Scan,
    Stored,
)
from runwire.sqlite import tables
from runwire.sqlite.database import Database
from runwire.sqlite.reader import Reader
from runwire.sqlite.tables import Transaction
from runwire.sqlite.watcher import Watcher
from runwire.sqlite.writer import Writer
from runwire.topic import validate
from runwire.turns import Wanted

T = TypeVar("T")

_RECHECK_SECONDS: Final = 5.0
"""Who waits looks for itself now and then, whatever the watcher says."""


@asynccontextmanager
async def open_sqlite(url: str) -> AsyncIterator[SqliteStore]:
    """The store in the file of a `sqlite:` URL, made where there is none; see `runwire.connect.open_store`.

    Leaving the context finishes the writes that were handed in.
    """
    database = Database.from_url(url)
    await asyncio.to_thread(database.create)
    store = SqliteStore(database)
    store.start()
    try:
        yield store
    finally:
        await store.close()


class SqlitePubSub:
    """The subscribers of this process, also told of what other processes commit."""

    def __init__(self, hub: Hub, watcher: Watcher) -> None:
        self._hub = hub
        self._watcher = watcher

    async def publish(self, topic: str, entry: Entry) -> None:
        """Reaches this process only. `commit` tells every process, so nobody needs to call this."""
        await self._hub.publish(topic, entry)

    @asynccontextmanager
    async def subscribe(self, topic: str, deliver: Deliver) -> AsyncIterator[None]:
        async with self._hub.subscribe(topic, deliver):
            await self._watcher.follow()
            yield


class SqliteStore:
    """See `runwire.pubsub.Store`. Made by `open_sqlite`; to be used on one event loop."""

    announces = True
    reopens = True

    def __init__(self, database: Database) -> None:
        self._hub = Hub()
        self._bell = Bell()
        self._watcher = Watcher(database, self._hub, self._bell)
        self._writer = Writer(database, committed=self._committed, settled=self._settled)
        self._reader = Reader(database)
        self.pubsub: PubSub = SqlitePubSub(self._hub, self._watcher)

    def start(self) -> None:
        self._writer.start()
        self._watcher.start()

    async def close(self) -> None:
        """Finishes what was handed in."""
        self._writer.close()
        self._reader.close()
        self._watcher.close()
        for waited in self._bell.awaited():
            self._bell.ring(waited)  # who waits finds the store closed
        await asyncio.to_thread(self._join)

    def _join(self) -> None:
        self._writer.join()
        self._watcher.join()
        self._reader.join()

    def _committed(self, transaction: Transaction) -> None:
        """On the writer's thread."""
        if transaction.entry_ids:
            self._watcher.seen.wrote(transaction.entry_ids[0], transaction.entry_ids[-1])

    def _settled(self, transaction: Transaction) -> None:
        for topic, entry in transaction.live:
            self._hub.deliver(topic, entry)
        for waited in transaction.bells:
            self._bell.ring(waited)

    # The log

    async def commit(self, commit: Commit) -> Committed:
        validate(commit)
        return await self._writer.write(partial(tables.commit, commit=commit), len(commit.events))

    async def read(self, topic: str, after: int, *, max_events: int = 2048, max_bytes: int = 1024 * 1024) -> Page:
        return await self._reader.read(
            lambda connection, now: tables.read(connection, now, topic, after, max_events, max_bytes)
        )

    async def heads(self, topics: Sequence[str]) -> Sequence[Head | None]:
        return await self._reader.read(lambda connection, now: tables.heads(connection, now, topics))

    async def trim(self, topic: str, before: int) -> None:
        while await self._writer.write(lambda tx: tables.trim(tx, topic, before)):
            pass

    async def clear(self, topic: str) -> None:
        await self._writer.write(lambda tx: tables.forget(tx, topic))

    # Runs and their fields

    async def now(self) -> float:
        return time.time()

    async def get(self, topic: str, fields: Sequence[str] | None = None) -> Stored | None:
        return await self._reader.read(lambda connection, now: tables.get(connection, now, topic, fields))

    async def scan(
        self,
        index: str,
        *,
        also: Sequence[str] = (),
        fields: Sequence[str],
        before: tuple[float, str] | None = None,
        since: float = 0.0,
        limit: int = 100,
    ) -> Scan:
        lists = tuple(dict.fromkeys((index, *also)))
        return await self._reader.read(
            lambda connection, now: tables.scan(connection, now, lists, fields, before, since, limit)
        )

    # Work

    async def claim(
        self,
        queues: Sequence[str],
        *,
        holder: str,
        limit: int,
        lease_seconds: float,
        wait_seconds: float = 0.0,
        alone: bool = False,
        max_bytes: int = MAX_CLAIM_BYTES,
        weights: Mapping[str, int] = MappingProxyType({}),
    ) -> Sequence[Claim]:
        wanted = Wanted(queues, holder, limit, lease_seconds, alone, max_bytes, weights)
        return await self._wait_for(
            [work_in(queue, alone) for queue in queues],
            lambda tx: tables.claim(tx, wanted),
            wait_seconds,
        )

    async def extend(self, leases: Sequence[Lease], *, lease_seconds: float) -> Sequence[LeaseState]:
        return await self._writer.write(lambda tx: tables.extend(tx, leases, lease_seconds))

    # What is told to operators

    async def depths(self) -> Sequence[Depth]:
        return await self._reader.read(tables.depths)

    async def queued(self, queues: Sequence[str], tenant: str) -> int:
        return await self._reader.read(lambda connection, now: tables.queued(connection, now, queues, tenant))

    async def put_up(self, board: str, name: str, value: bytes, *, seconds: float) -> None:
        await self._writer.write(lambda tx: tables.put_up(tx, board, name, value, seconds))

    async def notices(self, board: str) -> Sequence[Notice]:
        return await self._reader.read(lambda connection, now: tables.notices_on(connection, now, board))

    # Messages

    async def receive(
        self,
        queue: str,
        *,
        consumer: str,
        limit: int,
        lease_seconds: float,
        wait_seconds: float = 0.0,
        max_bytes: int = MAX_RECEIVE_BYTES,
    ) -> Sequence[Delivery]:
        return await self._wait_for(
            [messages_in(queue)],
            lambda tx: tables.receive(tx, queue, consumer, limit, lease_seconds, max_bytes),
            wait_seconds,
        )

    async def _wait_for(
        self, waited: Sequence[Waited], take: Callable[[Transaction], list[T]], wait_seconds: float
    ) -> Sequence[T]:
        """What `take` finds, as soon as it finds anything."""
        deadline = time.monotonic() + wait_seconds
        with self._bell.listen(*waited) as rung:
            self._watcher.wake()
            while True:
                rung.clear()
                found = await self._writer.write(take)
                remaining = deadline - time.monotonic()
                if found or remaining <= 0:
                    return found
                await wait_for(rung, min(remaining, _RECHECK_SECONDS))
                rung.clear()

    async def acknowledge(self, queue: str, message_ids: Sequence[str]) -> None:
        await self._writer.write(lambda tx: tables.acknowledge(tx, queue, message_ids))

    async def backlog(self, queue: str) -> int:
        return await self._reader.read(lambda connection, now: tables.backlog(connection, queue))

    # Upkeep

    async def sweep(self, limit: int = 1000) -> int:
        return await self._writer.write(lambda tx: tables.sweep(tx, limit))

    async def ping(self) -> None:
        await self._reader.read(lambda connection, now: connection.execute("SELECT 1").fetchone())

    async def risks(self) -> Sequence[Risk]:
        return []
