"""Hands live entries to the subscribers of one process."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runwire.pubsub import Deliver, Entry

logger = logging.getLogger(__name__)


class Hub:
    """Subscribers of this process, by topic: a PubSub without a wire. To be used on one event loop."""

    def __init__(self) -> None:
        self._subscribers: dict[str, list[Deliver]] = {}

    async def publish(self, topic: str, entry: Entry) -> None:
        self.deliver(topic, entry)

    @asynccontextmanager
    async def subscribe(self, topic: str, deliver: Deliver) -> AsyncIterator[None]:
        self._subscribers.setdefault(topic, []).append(deliver)
        try:
            yield
        finally:
            subscribers = self._subscribers[topic]
            subscribers.remove(deliver)
            if not subscribers:
                del self._subscribers[topic]

    def deliver(self, topic: str, entry: Entry | None) -> None:
        """Hands `entry` to the subscribers of `topic`. One that raises does not keep it from the others."""
        for subscriber in tuple(self._subscribers.get(topic, ())):
            try:
                subscriber(entry)
            except Exception:
                logger.exception("a subscriber of %s failed", topic)

    def deliver_to_all(self) -> None:
        """Tells every subscriber that entries may have been missed."""
        for topic in tuple(self._subscribers):
            self.deliver(topic, None)

    def subscribed(self, topic: str) -> bool:
        return topic in self._subscribers

    def empty(self) -> bool:
        """Nobody subscribes to anything."""
        return not self._subscribers
