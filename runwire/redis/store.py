"""The store itself: each call is one script, or one for each shard."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack

from runwire.errors import StoreUnavailable
from runwire.pubsub import (
    MAX_RECEIVE_BYTES,
    Claim,
    Commit,
    Committed,
    Delivery,
    Head,
    Lease,
    LeaseState,
    Page,
    PubSub,
    Stored,
)
from runwire.redis.channels import Channels
from runwire.redis.client import Client, Lane
from runwire.redis.commits import not_found, refusal_of, repeatable, words_of
from runwire.redis.doorbells import Doorbells
from runwire.redis.link import Word
from runwire.redis.live import RedisPubSub
from runwire.redis.messages import Messages
from runwire.redis.records import ENTRY_HEADER_BYTES, fields_of, head_of, microseconds, page_of, seconds, understood
from runwire.redis.scripts import CLEAR, COMMIT, GET, HEADS, READ, SCAN, SWEEP, TRIM
from runwire.redis.shards import Shards, all_at_once
from runwire.redis.work import Wanted, Work
from runwire.topic import entry_of, validate


class RedisStore:
    """See `runwire.pubsub.Store`. `listening` is closed when the store is."""

    announces = True

    def __init__(self, client: Client, channels: Channels, shards: Shards, listening: AsyncExitStack) -> None:
        self._client = client
        self._shards = shards
        self.pubsub: PubSub = RedisPubSub(client, channels, shards)
        doorbells = Doorbells(channels, shards, listening)
        self._work = Work(client, shards, doorbells)
        self._messages = Messages(client, shards, doorbells)

    # The log

    async def commit(self, commit: Commit) -> Committed:
        validate(commit)
        shards = self._shards
        shard = shards.of(commit.topic)
        names = shards.topic(commit.topic)
        words = words_of(shards.prefix(shard), commit)
        reply = await self._client.run(COMMIT, shard, names, words, repeatable=repeatable(commit))
        with understood():
            if reply[0] == b"ok":
                head = head_of(reply[2])
                return Committed(head, entry_of(commit, head.epoch), seconds(reply[1]))
            refusal = refusal_of(commit, reply)
        raise refusal

    async def read(self, topic: str, after: int, *, max_events: int = 2048, max_bytes: int = 1024 * 1024) -> Page:
        reply = await self._client.run(
            READ,
            self._shards.of(topic),
            (self._shards.head(topic), self._shards.log(topic)),
            (after, max_events, max_bytes, ENTRY_HEADER_BYTES),
            lane=Lane.READS,
        )
        with understood():
            if len(reply) == 1:
                raise not_found(topic)
            return page_of(reply[1], reply[2], after)

    async def heads(self, topics: Sequence[str]) -> Sequence[Head | None]:
        found: list[Head | None] = [None] * len(topics)
        shards = self._shards.by_shard(topics)
        replies = await all_at_once(
            self._client.ask(HEADS, shard, [self._shards.head(topics[i]) for i in places], ())
            for shard, places in shards.items()
        )
        with understood():
            for places, reply in zip(shards.values(), replies, strict=True):
                for i, values in zip(places, reply, strict=True):
                    found[i] = head_of(values) if values else None
        return found

    async def trim(self, topic: str, before: int) -> None:
        names = (self._shards.head(topic), self._shards.log(topic))
        await self._client.run(TRIM, self._shards.of(topic), names, (before, self._shards.live(topic)))

    async def clear(self, topic: str) -> None:
        shards = self._shards
        shard = shards.of(topic)
        names = shards.topic(topic)
        await self._client.run(CLEAR, shard, names, (shards.prefix(shard), topic))

    # Topics

    async def now(self) -> float:
        there = (shard for shard in self._shards if not self._client.is_away(shard))
        reply = await self._client.call(next(there, 0), "TIME")
        with understood():
            return int(reply[0]) + int(reply[1]) / 1_000_000

    async def get(self, topic: str, fields: Sequence[str] | None = None) -> Stored | None:
        names = (self._shards.head(topic), self._shards.fields(topic))
        args = ("all",) if fields is None else ("named", *fields)
        reply = await self._client.run(GET, self._shards.of(topic), names, args)
        with understood():
            return Stored(topic, head_of(reply[0]), fields_of(reply[1])) if reply else None

    async def scan(
        self,
        index: str,
        *,
        fields: Sequence[str],
        before: tuple[float, str] | None = None,
        since: float = 0.0,
        limit: int = 100,
    ) -> Sequence[Stored]:
        bound: tuple[Word, Word] = (microseconds(before[0]), before[1]) if before else ("", "")
        replies = await all_at_once(
            self._client.ask(
                SCAN,
                shard,
                (f"{self._shards.prefix(shard)}index:{index}",),
                (self._shards.prefix(shard), microseconds(since), *bound, limit, *fields),
            )
            for shard in self._shards
        )
        with understood():
            found = [
                Stored(topic.decode(), head_of(head), fields_of(pairs))
                for reply in replies
                for topic, head, pairs in reply
            ]
        found.sort(key=lambda stored: (stored.head.create_time, stored.topic), reverse=True)
        return found[:limit]

    async def sweep(self, limit: int = 1000) -> int:
        removed = 0
        problems: list[StoreUnavailable] = []
        for shard in self._shards.in_turn():
            if removed >= limit:
                break
            prefix = self._shards.prefix(shard)
            try:
                reply = await self._client.ask(SWEEP, shard, (f"{prefix}ends",), (prefix, limit - removed))
                with understood():
                    removed += int(reply)
            except StoreUnavailable as error:
                problems.append(error)
        if len(problems) == len(self._shards):
            raise problems[0]
        return removed

    async def ping(self) -> None:
        await self._client.ping()

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
    ) -> Sequence[Claim]:
        return await self._work.claim(Wanted(queues, holder, limit, lease_seconds, alone), wait_seconds)

    async def extend(self, leases: Sequence[Lease], *, lease_seconds: float) -> Sequence[LeaseState]:
        return await self._work.extend(leases, lease_seconds)

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
        return await self._messages.receive(queue, consumer, limit, lease_seconds, wait_seconds, max_bytes)

    async def acknowledge(self, queue: str, message_ids: Sequence[str]) -> None:
        await self._messages.acknowledge(queue, message_ids)

    async def backlog(self, queue: str) -> int:
        return await self._messages.backlog(queue)
