"""How many calls a server works on at once, and how many bytes of requests it holds meanwhile.

A request is not even received before its call has a place: until then the client keeps it, but for what HTTP/2 sends
ahead (64 KiB). So a flood of calls, or of large ones, costs those who send it their time, and nobody else memory; and
between two calls that are worked on the streams of everybody get their turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from runwire.errors import TooManyRequests
from runwire.gate import Gate, Place

MAX_CALLS: Final = 16
MAX_WAITING: Final = 10_000
MAX_REQUEST_BYTES: Final = 128 * 1024 * 1024
"""Of requests that are worked on, together. One that waits for the store holds its bytes, but no place."""


class Calls:
    """The unary calls of one server. To be used on one event loop."""

    def __init__(self, max_calls: int = MAX_CALLS, max_request_bytes: int = MAX_REQUEST_BYTES) -> None:
        self._gate = Gate(max_calls)
        self._max_request_bytes = max_request_bytes
        self._fits = asyncio.Event()
        self._fits.set()
        self.held_bytes = 0
        self.most_held_bytes = 0
        self.waiting = 0

    async def enter(self) -> Place:
        """Waits for a place, in order. Raises TooManyRequests where too many wait already."""
        if self.waiting >= MAX_WAITING:
            raise TooManyRequests(f"{self.waiting} calls wait for this server, as many as it allows")
        self.waiting += 1
        try:
            await self._fits.wait()
            return await self._gate.enter()
        finally:
            self.waiting -= 1

    @asynccontextmanager
    async def holding(self, size_bytes: int) -> AsyncIterator[None]:
        """Counts the bytes of a request while it is worked on."""
        self._add(size_bytes)
        try:
            yield
        finally:
            self._add(-size_bytes)

    def _add(self, size_bytes: int) -> None:
        self.held_bytes += size_bytes
        self.most_held_bytes = max(self.most_held_bytes, self.held_bytes)
        if self.held_bytes < self._max_request_bytes:
            self._fits.set()
        else:
            self._fits.clear()
