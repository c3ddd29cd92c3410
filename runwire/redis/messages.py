"""Messages to other services: one stream a shard and queue, read by one consumer group. See docs/wire.md."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from runwire.pubsub import Delivery
from runwire.redis.client import Client
from runwire.redis.doorbells import POLL_SECONDS, Doorbells
from runwire.redis.link import Word
from runwire.redis.scripts import ACKNOWLEDGE, RECEIVE
from runwire.redis.shards import Shards, all_at_once

GROUP: Final = "workers"
"""The consumer group of every message queue."""
DEFAULT_LEASE_SECONDS: Final = 60.0
"""How long a message is in the hands of a consumer whose name does not say it."""

_FORGET_CONSUMER_SECONDS: Final = 600.0
_LOOK_AT_CONSUMERS_SECONDS: Final = 60.0
_MOST_CONSUMER_NAMES: Final = 64


class Messages:
    """`receive`, `acknowledge` and `backlog` of the store."""

    def __init__(self, client: Client, shards: Shards, doorbells: Doorbells) -> None:
        self._client = client
        self._shards = shards
        self._doorbells = doorbells
        self._consumers: dict[str, dict[str, None]] = {}
        """Names that this process has had, by queue, oldest first: it may acknowledge what is in their hands."""
        self._looked_at_consumers: dict[tuple[str, int], float] = {}

    async def receive(
        self, queue: str, consumer: str, limit: int, lease_seconds: float, wait_seconds: float
    ) -> Sequence[Delivery]:
        name = self._consumer(queue, consumer, lease_seconds)
        return await self._doorbells.wait_for(
            "messages", [queue], wait_seconds, lambda: self._receive(queue, name, limit)
        )

    async def _receive(self, queue: str, name: str, limit: int) -> tuple[Sequence[Delivery], float]:
        """Messages, and the seconds until there may be more."""
        deliveries: list[Delivery] = []
        wait = POLL_SECONDS
        for shard in self._shards.in_turn():
            if len(deliveries) >= limit:
                break
            next_end, *found = await self._client.run(
                RECEIVE,
                shard,
                (self._shards.messages(shard, queue),),
                (
                    GROUP,
                    name,
                    limit - len(deliveries),
                    int(DEFAULT_LEASE_SECONDS * 1000),
                    self._forget_after(queue, shard),
                ),
                repeatable=False,
            )
            deliveries += (Delivery(f"{shard}/{place.decode()}", body, count) for place, body, count in found)
            wait = min(wait, int(next_end) / 1000) if next_end else wait
        return deliveries, wait

    async def acknowledge(self, queue: str, message_ids: Sequence[str]) -> None:
        ids: dict[int, list[str]] = {}
        for message_id in message_ids:
            shard, slash, place = message_id.partition("/")
            if slash and shard.isdecimal() and int(shard) < len(self._shards):
                ids.setdefault(int(shard), []).append(place)
        names = tuple(self._consumers.get(queue, ()))
        await all_at_once(
            self._client.run(
                ACKNOWLEDGE, shard, (self._shards.messages(shard, queue),), (GROUP, len(names), *names, *places)
            )
            for shard, places in ids.items()
        )

    async def backlog(self, queue: str) -> int:
        lengths = await all_at_once(
            self._client.call(shard, "XLEN", self._shards.messages(shard, queue)) for shard in self._shards
        )
        return sum(lengths)

    def _consumer(self, queue: str, consumer: str, lease_seconds: float) -> str:
        """The consumer's name in the group, which says its lease to those who look for ended ones."""
        name = f"{consumer}:{max(1, round(lease_seconds * 1000))}"
        names = self._consumers.setdefault(queue, {})
        names.pop(name, None)
        names[name] = None
        if len(names) > _MOST_CONSUMER_NAMES:
            del names[next(iter(names))]
        return name

    def _forget_after(self, queue: str, shard: int) -> Word:
        """Now and then: milliseconds after which a consumer without messages is forgotten."""
        now = time.monotonic()
        before = self._looked_at_consumers.get((queue, shard))
        if before is not None and now - before < _LOOK_AT_CONSUMERS_SECONDS:
            return ""
        self._looked_at_consumers[queue, shard] = now
        return int(_FORGET_CONSUMER_SECONDS * 1000)
