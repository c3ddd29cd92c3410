"""The parts of a store: which one a topic belongs to, and the names of its keys and channels."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from zlib import crc32

from runwire.errors import StoreUnavailable
from runwire.redis.topology import tag

T = TypeVar("T")


class Shards:
    """All shards of one store."""

    def __init__(self, count: int, prefix: str) -> None:
        self._count = count
        self._prefixes = [f"{prefix}{tag(shard)}:" for shard in range(count)]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._count))

    def in_turn(self) -> Sequence[int]:
        """All shards, from a random one on, so that none is always the last."""
        start = random.randrange(self._count)
        return (*range(start, self._count), *range(start))

    def of(self, topic: str) -> int:
        """The shard that a topic belongs to."""
        return crc32(topic.encode()) % self._count

    def by_shard(self, topics: Sequence[str]) -> Mapping[int, Sequence[int]]:
        """The places in `topics` that belong to each shard."""
        shards: dict[int, list[int]] = {}
        for place, topic in enumerate(topics):
            shards.setdefault(self.of(topic), []).append(place)
        return shards

    def prefix(self, shard: int) -> str:
        """What the names of all keys and channels of a shard begin with."""
        return self._prefixes[shard]

    def head(self, topic: str) -> str:
        return f"{self.prefix(self.of(topic))}head:{topic}"

    def log(self, topic: str) -> str:
        return f"{self.prefix(self.of(topic))}log:{topic}"

    def fields(self, topic: str) -> str:
        return f"{self.prefix(self.of(topic))}fields:{topic}"

    def topic(self, topic: str) -> tuple[str, str, str]:
        """Head, log and fields."""
        return self.head(topic), self.log(topic), self.fields(topic)

    def head_and_log(self, shard: int, topic: str) -> tuple[str, str]:
        """The same two, of a topic that belongs to this shard."""
        prefix = self._prefixes[shard]
        return f"{prefix}head:{topic}", f"{prefix}log:{topic}"

    def live(self, topic: str) -> str:
        """Channel of a topic's live entries."""
        return f"{self.prefix(self.of(topic))}live:{topic}"

    def tenants(self, shard: int, queues: Iterable[str], alone: bool) -> Sequence[str]:
        """Sets of the tenants that have something planned in these queues, or among their suspects."""
        return [f"{self.prefix(shard)}tenants:{lane_name(alone)}:{queue}" for queue in queues]

    def lanes(self, shard: int, queues: Iterable[str], tenant: str) -> Sequence[str]:
        """Where a tenant's topics have their places by due time."""
        return [f"{self.prefix(shard)}lane:{lane_name(False)}:{queue}/{tenant}" for queue in queues]

    def turn(self, shard: int, pool: str) -> str:
        """Who had the last turn (runwire/turns.py)."""
        return f"{self.prefix(shard)}turn:{pool}"

    def messages(self, shard: int, queue: str) -> str:
        """Stream of a message queue."""
        return f"{self.prefix(shard)}messages:{queue}"

    def queues(self, shard: int) -> str:
        """Set of the queues that something waits in."""
        return f"{self.prefix(shard)}queues"

    def board(self, board: str) -> tuple[str, str]:
        """What is up on a board, and until when."""
        prefix = self.prefix(self.of(board))
        return f"{prefix}board:{board}", f"{prefix}board-ends:{board}"

    def bell(self, shard: int, kind: str, queue: str) -> str:
        """Channel in which it is said that something came into a queue: topics (`due`, `suspects`) or `messages`."""
        return f"{self.prefix(shard)}bell:{kind}:{queue}"


def lane_name(alone: bool) -> str:
    """Of those topics of a queue that only `claim(alone=True)` takes, or of the others."""
    return "suspects" if alone else "due"


async def those_that_answer(calls: Iterable[Coroutine[Any, Any, T]]) -> Sequence[T]:
    """The results of calls to several shards, which go out together, of the shards that can be reached. Raises
    StoreUnavailable if none can."""
    results = await all_at_once(_answer(call) for call in calls)
    found = [result for result in results if not isinstance(result, StoreUnavailable)]
    for result in results:
        if isinstance(result, StoreUnavailable) and not found:
            raise result
    return found


async def _answer(call: Coroutine[Any, Any, T]) -> T | StoreUnavailable:
    try:
        return await call
    except StoreUnavailable as error:
        return error


async def each_of_them(calls: Iterable[Coroutine[Any, Any, T]]) -> None:
    """Makes calls to several shards, which go out together, to their end. Then raises StoreUnavailable if any was not
    answered."""
    for result in await all_at_once(_answer(call) for call in calls):
        if isinstance(result, StoreUnavailable):
            raise result


async def all_at_once(calls: Iterable[Coroutine[Any, Any, T]]) -> Sequence[T]:
    """The results of calls to several shards, which go out together. The first that fails ends the others."""
    coroutines = tuple(calls)
    if len(coroutines) < 2:
        return [await coroutine for coroutine in coroutines]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
