"""What is told to operators: how much waits in each queue, and what processes say of themselves."""

from __future__ import annotations

from collections.abc import Sequence

from runwire.pubsub import MAX_COUNTED, Depth, Notice
from runwire.redis.client import Client
from runwire.redis.records import microseconds, seconds, understood
from runwire.redis.scripts import DEPTHS, NOTICES, PUT_UP
from runwire.redis.shards import Shards, all_at_once


class Boards:
    """`depths`, `put_up` and `notices` of the store."""

    def __init__(self, client: Client, shards: Shards) -> None:
        self._client = client
        self._shards = shards

    async def depths(self) -> Sequence[Depth]:
        replies = await all_at_once(
            self._client.ask(DEPTHS, shard, (self._shards.queues(shard),), (self._shards.prefix(shard),))
            for shard in self._shards
        )
        found: dict[str, Depth] = {}
        with understood():
            for reply in replies:
                for name, due, ahead, oldest in reply:
                    queue = name.decode()
                    part = Depth(queue, int(due), int(ahead), seconds(oldest) if oldest else 0.0)
                    found[queue] = _sum(found[queue], part) if queue in found else part
        return [_bounded(found[queue]) for queue in sorted(found)]

    async def put_up(self, board: str, name: str, value: bytes, time: float) -> None:
        words = (name, value, microseconds(time))
        await self._client.run(PUT_UP, self._shards.of(board), self._shards.board(board), words)

    async def notices(self, board: str) -> Sequence[Notice]:
        reply = await self._client.run(NOTICES, self._shards.of(board), self._shards.board(board), ())
        with understood():
            found = [_notice(name, packed) for name, packed in reply]
        return sorted(found, key=lambda notice: notice.name)


def _notice(name: bytes, packed: bytes) -> Notice:
    time, _, value = packed.partition(b" ")
    return Notice(name.decode(), value, seconds(time))


def _sum(one: Depth, other: Depth) -> Depth:
    oldest = [depth.oldest_due for depth in (one, other) if depth.due]
    return Depth(one.queue, one.due + other.due, one.ahead + other.ahead, min(oldest, default=0.0))


def _bounded(depth: Depth) -> Depth:
    return Depth(depth.queue, min(depth.due, MAX_COUNTED), min(depth.ahead, MAX_COUNTED), depth.oldest_due)
