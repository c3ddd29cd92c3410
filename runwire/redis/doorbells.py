"""Waiting until there is something in a queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final, TypeVar

from runwire.redis.channels import Subscriptions
from runwire.redis.shards import Shards

T = TypeVar("T")

POLL_SECONDS: Final = 0.2
"""Longest time until those who wait look again."""
_MIN_SECONDS: Final = 0.001


class Doorbells:
    """Rung by the scripts that put something into a queue. `listening` is open as long as the store is."""

    def __init__(self, channels: Subscriptions, shards: Shards, listening: AsyncExitStack) -> None:
        self._channels = channels
        self._shards = shards
        self._listening = listening
        self._kept: set[str] = set()

    async def wait_for(
        self,
        kind: str,
        queues: Sequence[str],
        wait_seconds: float,
        look: Callable[[], Awaitable[tuple[Sequence[T], float]]],
    ) -> Sequence[T]:
        """What `look` finds, as soon as it finds anything. It looks when the bell rings, when the time comes that it
        has named, and now and then: a bell may be lost."""
        if wait_seconds <= 0:
            return (await look())[0]
        deadline = time.monotonic() + wait_seconds
        async with AsyncExitStack() as stack:
            rung = await self._listen(stack, kind, queues)
            while True:
                rung.clear()
                found, wait = await look()
                remaining = deadline - time.monotonic()
                if found or remaining <= 0:
                    return found
                await _wait(rung, min(remaining, max(wait, _MIN_SECONDS), POLL_SECONDS))

    async def _listen(self, stack: AsyncExitStack, kind: str, queues: Sequence[str]) -> asyncio.Event:
        """An event that is set, as long as `stack` is open, when something comes into one of the queues."""
        rung = asyncio.Event()
        for shard in self._shards:
            for queue in queues:
                name = self._shards.bell(shard, kind, queue)
                await self._keep_listening(name)
                # Not waited for: where nobody confirms it, who waits looks now and then, as long as a shard answers.
                await stack.enter_async_context(self._channels.listen(name, lambda _: rung.set(), confirmed=False))
        return rung

    async def _keep_listening(self, name: str) -> None:
        """Subscribes once and for all, so that waiting again and again costs nothing."""
        if name in self._kept:
            return
        self._kept.add(name)
        try:
            await self._listening.enter_async_context(self._channels.listen(name, lambda _: None, confirmed=False))
        except BaseException:
            self._kept.discard(name)
            raise


async def _wait(rung: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await rung.wait()
    except TimeoutError:
        pass  # nothing happened; the caller looks for itself
