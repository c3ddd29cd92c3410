"""The store itself: each call is one script, or one for each shard."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from types import MappingProxyType
from typing import Final

from runwire.errors import StoreUnavailable
from runwire.pubsub import (
    MAX_CLAIM_BYTES,
    MAX_RECEIVE_BYTES,
    MAX_SCAN_LOOKS,
    Claim,
    Commit,
    Committed,
    Delivery,
    Depth,
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
from runwire.redis.appends import Appends, is_append
from runwire.redis.boards import Boards
from runwire.redis.channels import Subscriptions
from runwire.redis.checks import server_risks
from runwire.redis.client import Client, Lane
from runwire.redis.commits import not_found, refusal_of, repeatable, words_of
from runwire.redis.doorbells import Doorbells
from runwire.redis.link import Reply, Word
from runwire.redis.live import RedisPubSub
from runwire.redis.messages import Messages
from runwire.redis.records import ENTRY_HEADER_BYTES, fields_of, head_of, microseconds, page_of, seconds, understood
from runwire.redis.scripts import CLEAR, COMMIT, GET, HEADS, LISTED, READ, SCAN, SWEEP, TRIM
from runwire.redis.shards import Shards, all_at_once
from runwire.redis.work import Work
from runwire.scan import Place, newest
from runwire.topic import entry_of, validate
from runwire.turns import Wanted

_SCAN_ROUNDS: Final = 4
"""How often the shards are asked for a page, where their shares of it differ much, little is found, or some of it is
expired and not swept yet."""
_SWEEP_TOPICS: Final = 100
_TRIM_ENTRIES: Final = 32
"""Of one script, while the server does nothing else."""


class RedisStore:
    """See `runwire.pubsub.Store`. `listening` is closed when the store is."""

    announces = True
    reopens = True

    def __init__(self, client: Client, channels: Subscriptions, shards: Shards, listening: AsyncExitStack) -> None:
        self._client = client
        self._shards = shards
        self.pubsub: PubSub = RedisPubSub(client, channels, shards)
        doorbells = Doorbells(channels, shards, listening)
        self._work = Work(client, shards, doorbells)
        self._appends = Appends(client, shards)
        self._boards = Boards(client, shards)
        self._messages = Messages(client, shards, doorbells)

    # The log

    async def commit(self, commit: Commit) -> Committed:
        validate(commit)
        if is_append(commit) and (committed := await self._appends.add(commit)) is not None:
            return committed
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
        words = (before, self._shards.live(topic), _TRIM_ENTRIES)
        trimmed = _TRIM_ENTRIES
        while trimmed >= _TRIM_ENTRIES:
            reply = await self._client.run(TRIM, self._shards.of(topic), names, words)
            with understood():
                trimmed = int(reply)

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
        shard = self._shards.of(topic)
        wanted = ("all",) if fields is None else ("named", *fields)
        reply = await self._client.run(GET, shard, names, (self._shards.prefix(shard), topic, *wanted))
        with understood():
            return Stored(topic, head_of(reply[0]), fields_of(reply[1])) if reply else None

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
        found: list[Stored] = []
        lists = tuple(dict.fromkeys((index, *also)))
        for _ in range(_SCAN_ROUNDS):
            places, before = await self._places(lists, before, since, limit - len(found))
            found += await self._listed([topic for _, topic in places], fields)
            if before is None or len(found) == limit:
                break
        return Scan(found, before)

    async def _places(
        self, lists: Sequence[str], before: Place | None, since: float, limit: int
    ) -> tuple[Sequence[Place], Place | None]:
        """Asks every shard, at once, for its share of a page and a little more."""
        share = limit / len(self._shards)
        part = min(limit, math.ceil(share + 3 * math.sqrt(share)))
        looks = max(part, MAX_SCAN_LOOKS // (_SCAN_ROUNDS * len(self._shards)))
        bound: tuple[Word, Word] = (microseconds(before[0]), before[1]) if before else ("", "")
        replies = await all_at_once(
            self._client.ask(
                SCAN,
                shard,
                [f"{self._shards.prefix(shard)}index:{name}" for name in lists],
                (microseconds(since), *bound, part, looks),
            )
            for shard in self._shards
        )
        with understood():
            return newest([_places_of(reply) for reply in replies], limit)

    async def _listed(self, topics: Sequence[str], fields: Sequence[str]) -> Sequence[Stored]:
        """Heads and fields, in this order, of the topics that are there and not expired."""
        shards = self._shards.by_shard(topics)
        replies = await all_at_once(
            self._client.ask(
                LISTED,
                shard,
                [key(topics[i]) for key in (self._shards.head, self._shards.fields) for i in places],
                fields,
            )
            for shard, places in shards.items()
        )
        found: dict[int, Stored] = {}
        with understood():
            for places, reply in zip(shards.values(), replies, strict=True):
                for i, values in zip(places, reply, strict=True):
                    if values:
                        found[i] = Stored(topics[i], head_of(values[0]), fields_of(values[1]))
        return [found[i] for i in sorted(found)]

    async def sweep(self, limit: int = 1000) -> int:
        removed = 0
        problems: list[StoreUnavailable] = []
        for shard in self._shards.in_turn():
            if removed >= limit:
                break
            prefix = self._shards.prefix(shard)
            part = min(limit - removed, _SWEEP_TOPICS)
            try:
                reply = await self._client.ask(SWEEP, shard, (f"{prefix}ends",), (prefix, part))
                with understood():
                    removed += int(reply)
            except StoreUnavailable as error:
                problems.append(error)
        if len(problems) == len(self._shards):
            raise problems[0]
        return removed

    async def ping(self) -> None:
        await self._client.ping()

    async def risks(self) -> Sequence[Risk]:
        found = await server_risks(self._client)
        return list(dict.fromkeys(risk for risks in found.values() for risk in risks))

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
        wanted = Wanted(tuple(dict.fromkeys(queues)), holder, limit, lease_seconds, alone, max_bytes, weights)
        return await self._work.claim(wanted, wait_seconds)

    async def extend(self, leases: Sequence[Lease], *, lease_seconds: float) -> Sequence[LeaseState]:
        return await self._work.extend(leases, lease_seconds)

    # What is told to operators

    async def depths(self) -> Sequence[Depth]:
        return await self._boards.depths()

    async def queued(self, queues: Sequence[str], tenant: str) -> int:
        return await self._work.queued(tuple(dict.fromkeys(queues)), tenant)

    async def put_up(self, board: str, name: str, value: bytes, *, seconds: float) -> None:
        await self._boards.put_up(board, name, value, seconds)

    async def notices(self, board: str) -> Sequence[Notice]:
        return await self._boards.notices(board)

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


def _places_of(reply: Reply) -> tuple[Sequence[Place], Place | None]:
    """What lua/scan.lua returned."""
    end, *flat = reply
    places = [(seconds(flat[i]), flat[i + 1].decode()) for i in range(0, len(flat), 2)]
    return places, (seconds(end[0]), end[1].decode()) if end else None
