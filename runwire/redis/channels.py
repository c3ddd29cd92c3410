"""Pub/sub over one connection a process, however many listen."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from runwire.errors import StoreUnavailable
from runwire.redis.client import Client
from runwire.redis.link import Link, LinkLost, ReplyError

logger = logging.getLogger("runwire.redis")

Listener = Callable[[bytes | None], None]
"""Takes a payload; None: messages may have been missed."""

_MAX_CHANNELS_A_COMMAND: Final = 1000
_PAUSE_SECONDS: Final = 0.02
"""Before a lost connection is reopened: a server may let us in and cut us off again and again."""
_DELAY_SECONDS: Final = 0.1
_MAX_DELAY_SECONDS: Final = 1.0


class _Channel:
    """Who listens to a channel of this process."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []
        self.subscribed = asyncio.Event()
        """The server has said that it delivers to us."""


class Subscriptions:
    """Subscriptions, counted by channel. `run` keeps the connection."""

    def __init__(self, client: Client, timeout_seconds: float) -> None:
        self._client = client
        self._timeout = timeout_seconds
        self._channels: dict[bytes, _Channel] = {}
        self._link: Link | None = None
        self._wanted = asyncio.Event()
        """Somebody listens, or did: a store that nobody listens to needs no connection for it."""
        self._unanswered: Counter[bytes] = Counter()
        """SUBSCRIBEs on their way. Only the answer to the last one counts: an UNSUBSCRIBE may lie between."""
        self._renewed: set[bytes] = set()
        """Channels whose listeners are to look when they are subscribed: of a lost connection, or not waited for."""

    @asynccontextmanager
    async def listen(self, name: str, listener: Listener, *, confirmed: bool = True) -> AsyncIterator[None]:
        """Calls `listener` with all that is published in the channel, from entering to leaving.

        Raises StoreUnavailable if the server does not confirm it in time. Not `confirmed`: it is not waited for, and
        `listener` is called with None when it comes.
        """
        key = name.encode()
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = _Channel()
            if self._link is not None:
                self._subscribe(self._link, key)
        channel.listeners.append(listener)
        self._wanted.set()
        if not confirmed and not channel.subscribed.is_set():
            self._renewed.add(key)
        try:
            if confirmed:
                await self._confirmed(channel)
            yield
        finally:
            channel.listeners.remove(listener)
            if not channel.listeners:
                del self._channels[key]
                if self._link is not None:
                    self._link.write("UNSUBSCRIBE", key)

    async def _confirmed(self, channel: _Channel) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await channel.subscribed.wait()
        except TimeoutError:
            raise StoreUnavailable("Redis does not confirm a subscription") from None

    def _subscribe(self, link: Link, *keys: bytes) -> None:
        self._unanswered.update(keys)
        link.write("SUBSCRIBE", *keys)

    async def run(self) -> None:
        """Keeps one connection, until cancelled."""
        await self._wanted.wait()
        delay = _DELAY_SECONDS
        while True:
            try:
                link = await self._client.connect_for_messages(self._take)
            except (LinkLost, ReplyError):
                await asyncio.sleep(delay)
                delay = min(delay * 2, _MAX_DELAY_SECONDS)
                continue
            delay = _DELAY_SECONDS
            try:
                self._begin(link)
                await asyncio.shield(link.lost)
            finally:
                self._end()
                link.close()
            await asyncio.sleep(_PAUSE_SECONDS)

    def _begin(self, link: Link) -> None:
        self._link = link
        self._renewed.intersection_update(self._channels)
        keys = list(self._channels)
        for start in range(0, len(keys), _MAX_CHANNELS_A_COMMAND):
            self._subscribe(link, *keys[start : start + _MAX_CHANNELS_A_COMMAND])

    def _end(self) -> None:
        self._link = None
        self._unanswered.clear()
        for key, channel in self._channels.items():
            if channel.subscribed.is_set():
                channel.subscribed.clear()
                self._renewed.add(key)

    def _take(self, message: list[Any]) -> None:
        kind, key, payload = message
        channel = self._channels.get(key)
        if kind == b"subscribe":
            self._unanswered[key] -= 1
            if self._unanswered[key] <= 0:
                del self._unanswered[key]
                if channel is not None:
                    channel.subscribed.set()
            if key in self._renewed:
                self._renewed.discard(key)
                _deliver(channel, key, None)
        elif kind == b"message":
            _deliver(channel, key, payload)


def _deliver(channel: _Channel | None, key: bytes, payload: bytes | None) -> None:
    for listener in tuple(channel.listeners) if channel else ():
        try:
            listener(payload)
        except Exception:
            logger.exception("a subscriber of %r failed", key)
