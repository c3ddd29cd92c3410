"""A PubSub that does to live entries whatever a PubSub may do to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum

from runwire.pubsub import Deliver, Entry, PubSub


class Fate(Enum):
    """What becomes of a live entry on its way to one process."""

    PASS = "pass"
    DROP = "drop"
    DOUBLE = "double"
    HOLD = "hold"
    """Kept, until `release` delivers it: late, or out of order."""


@dataclass(frozen=True)
class Held:
    """A live entry that is on its way."""

    topic: str
    entry: Entry | None


class FaultyPubSub:
    """Stands before another PubSub, at the side of one receiving process.

    `fate` says of each delivery what becomes of it. Everything that came in is remembered, so that it can be delivered
    again at any later time, also when its log is long gone. `latency` is the number of turns of the event loop that
    subscribing takes before it is in force, and again after.
    """

    def __init__(self, inner: PubSub, fate: Callable[[], Fate] = lambda: Fate.PASS) -> None:
        self._inner = inner
        self.fate = fate
        self.latency = 0
        self.held: list[Held] = []
        self.seen: list[Held] = []
        self._subscriptions: list[tuple[str, Deliver]] = []

    async def publish(self, topic: str, entry: Entry) -> None:
        await self._inner.publish(topic, entry)

    @asynccontextmanager
    async def subscribe(self, topic: str, deliver: Deliver) -> AsyncIterator[None]:
        await turns(self.latency)
        async with self._inner.subscribe(topic, lambda entry: self._take(Held(topic, entry), deliver)):
            subscription = (topic, deliver)
            self._subscriptions.append(subscription)
            try:
                await turns(self.latency)
                yield
            finally:
                self._subscriptions.remove(subscription)

    def release(self, index: int) -> Held:
        """Delivers what was held, to those who subscribe now."""
        held = self.held.pop(index)
        self.deliver(held)
        return held

    def repeat(self, index: int) -> Held:
        """Delivers once more what came in long ago."""
        held = self.seen[index]
        self.deliver(held)
        return held

    def miss(self, topic: str) -> None:
        """Says that entries may have been missed."""
        self.deliver(Held(topic, None))

    def deliver(self, held: Held) -> None:
        for topic, deliver in tuple(self._subscriptions):
            if topic == held.topic:
                deliver(held.entry)

    def _take(self, held: Held, deliver: Deliver) -> None:
        self.seen.append(held)
        fate = self.fate()
        if fate is Fate.HOLD:
            self.held.append(held)
        elif fate is not Fate.DROP:
            deliver(held.entry)
            if fate is Fate.DOUBLE:
                deliver(held.entry)


async def turns(count: int) -> None:
    """Lets so many turns of the event loop pass."""
    for _ in range(count):
        await asyncio.sleep(0)
