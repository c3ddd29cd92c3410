"""Messages to other services: one stream a shard and queue, read by one consumer group. See docs/wire.md."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Final

from runwire.errors import StoreUnavailable
from runwire.pubsub import RECEIVE_CHUNK, Delivery
from runwire.redis.client import Client
from runwire.redis.doorbells import POLL_SECONDS, Doorbells
from runwire.redis.link import Reply
from runwire.redis.records import understood
from runwire.redis.scripts import ACKNOWLEDGE, RECEIVE
from runwire.redis.shards import Shards, all_at_once, each_of_them

GROUP: Final = "workers"
"""The consumer group of every message queue."""
DEFAULT_LEASE_SECONDS: Final = 60.0
"""How long a message is in the hands of a consumer whose name does not say it."""

_FORGET_SECONDS: Final = 600.0
"""A consumer without messages that has not asked for any for this long is gone."""
_MAX_CONSUMER_NAMES: Final = 64


class Messages:
    """`receive`, `acknowledge` and `backlog` of the store."""

    def __init__(self, client: Client, shards: Shards, doorbells: Doorbells) -> None:
        self._client = client
        self._shards = shards
        self._doorbells = doorbells
        self._consumers: dict[str, dict[str, None]] = {}
        """Names that this process has had, by queue, oldest first: it may acknowledge what is in their hands."""
        self._late: dict[str, list[tuple[float, Delivery]]] = {}
        """Messages that came when their caller was not waiting any more, with the end of their lease: they are in this
        consumer's hands, and the next caller's."""

    async def receive(
        self, queue: str, consumer: str, limit: int, lease_seconds: float, wait_seconds: float, max_bytes: int
    ) -> Sequence[Delivery]:
        name = self._consumer(queue, consumer, lease_seconds)
        return await self._doorbells.wait_for(
            "messages", [queue], wait_seconds, lambda: self._receive(queue, name, limit, lease_seconds, max_bytes)
        )

    async def _receive(
        self, queue: str, name: str, limit: int, lease_seconds: float, max_bytes: int
    ) -> tuple[Sequence[Delivery], float]:
        """Messages, and the seconds until there may be more."""
        deliveries = self._take_late(queue, limit)
        max_bytes -= sum(len(delivery.body) for delivery in deliveries)
        wait = POLL_SECONDS
        times = _milliseconds(DEFAULT_LEASE_SECONDS), _milliseconds(_FORGET_SECONDS)
        problems: list[StoreUnavailable] = []
        for shard in self._shards.in_turn():
            if len(deliveries) >= limit or max_bytes <= 0 or (deliveries and problems):
                break
            try:
                reply = await self._client.poll(
                    RECEIVE,
                    shard,
                    (self._shards.messages(shard, queue),),
                    (GROUP, name, limit - len(deliveries), *times, RECEIVE_CHUNK, max_bytes),
                    repeatable=False,
                    unclaimed=partial(self._keep_late, queue, shard, time.monotonic() + lease_seconds),
                )
                with understood():
                    wait = min(wait, int(reply[0]) / 1000) if reply[0] else wait
                    found = _deliveries_of(shard, reply[1:])
            except StoreUnavailable as error:
                problems.append(error)  # what others gave is in this consumer's hands, and must not be forgotten
                continue
            deliveries += found
            max_bytes -= sum(len(delivery.body) for delivery in found)
        if len(problems) == len(self._shards):
            raise problems[0]
        return deliveries, wait

    def _keep_late(self, queue: str, shard: int, lease_end: float, reply: Reply) -> None:
        late = self._late.setdefault(queue, [])
        late += ((lease_end, delivery) for delivery in _deliveries_of(shard, reply[1:]))

    def _take_late(self, queue: str, limit: int) -> list[Delivery]:
        now = time.monotonic()
        late = [(lease_end, delivery) for lease_end, delivery in self._late.pop(queue, ()) if lease_end > now]
        if late[limit:]:
            self._late[queue] = late[limit:]
        return [delivery for _, delivery in late[:limit]]

    async def acknowledge(self, queue: str, message_ids: Sequence[str]) -> None:
        ids: dict[int, list[str]] = {}
        for message_id in message_ids:
            shard, slash, place = message_id.partition("/")
            if slash and shard.isdecimal() and int(shard) < len(self._shards):
                ids.setdefault(int(shard), []).append(place)
        names = tuple(self._consumers.get(queue, ()))
        await each_of_them(
            self._client.run(
                ACKNOWLEDGE, shard, (self._shards.messages(shard, queue),), (GROUP, len(names), *names, *places)
            )
            for shard, places in ids.items()
        )

    async def backlog(self, queue: str) -> int:
        lengths = await all_at_once(
            self._client.ask_for(shard, "XLEN", self._shards.messages(shard, queue)) for shard in self._shards
        )
        with understood():
            return sum(int(length) for length in lengths)

    def _consumer(self, queue: str, consumer: str, lease_seconds: float) -> str:
        """The consumer's name in the group, which says its lease to those who look for ended ones."""
        name = f"{consumer}:{_milliseconds(lease_seconds)}"
        names = self._consumers.setdefault(queue, {})
        names.pop(name, None)
        names[name] = None
        if len(names) > _MAX_CONSUMER_NAMES:
            del names[next(iter(names))]
        return name


def _deliveries_of(shard: int, found: Reply) -> list[Delivery]:
    return [Delivery(f"{shard}/{place.decode()}", body, count) for place, body, count in found]


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
