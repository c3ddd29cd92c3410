"""How many calls a server works on at once, and how many bytes of requests and answers it holds for them.

A request is not even received before its call has a place: until then the client keeps it, but for what HTTP/2 sends
ahead (64 KiB). So a flood of calls, or of large ones, costs those who send it their time, and nobody else memory; and
between two calls that are worked on the streams of everybody get their turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from runwire.errors import TooManyRequests
from runwire.gate import Gate, Place

MAX_CALLS: Final = 16
MAX_WAITING: Final = 10_000
MAX_REQUEST_BYTES: Final = 128 * 1024 * 1024
"""Of requests that are worked on, together. One that waits for the store holds its bytes, but no place."""

RECEIVING_BYTES: Final = 4 * 1024 * 1024
"""What is kept free for a request that is being received: no more may come."""

_LOOK_SECONDS: Final = 0.1
_MOST_LOOKS: Final = 10
"""After which a request that did not come (its client left, or sends slowly) keeps nothing free, and an answer that is
not read does not count any more. Looks, and not a time: where the loop is late the request may be here, unseen."""


class Calls:
    """The unary calls of one server. To be used on one event loop."""

    def __init__(self, max_calls: int = MAX_CALLS, max_request_bytes: int = MAX_REQUEST_BYTES) -> None:
        self._gate = Gate(max_calls)
        self._max_request_bytes = max_request_bytes
        self._order = asyncio.Lock()
        self._fits = asyncio.Event()
        self._fits.set()
        self.held_bytes = 0
        """Of requests that are here, and kept free for those that are being received."""
        self.most_held_bytes = 0
        self.waiting = 0

    async def enter(self) -> Call:
        """Waits for a place and for room, in order. Raises TooManyRequests where too many wait already."""
        if self.waiting >= MAX_WAITING:
            raise TooManyRequests(f"{self.waiting} calls wait for this server, as many as it allows")
        self.waiting += 1
        try:
            async with self._order:  # one at a time, so that each sees the room that the one before it took
                await self._fits.wait()
                place = await self._gate.enter()
                return Call(self, place)
        finally:
            self.waiting -= 1

    def add(self, size_bytes: int) -> None:
        self.held_bytes += size_bytes
        self.most_held_bytes = max(self.most_held_bytes, self.held_bytes)
        if self.held_bytes < self._max_request_bytes:
            self._fits.set()
        else:
            self._fits.clear()


class Call:
    """A call that is let in, until it is closed."""

    def __init__(self, calls: Calls, place: Place) -> None:
        self._calls = calls
        self._place = place
        self._held_bytes = 0
        self._hold(RECEIVING_BYTES)
        self._is_sending = False
        self._looks = 0
        self._look_later()

    @contextmanager
    def holding(self, size_bytes: int) -> Iterator[None]:
        """Its request is here and worked on; at the end the call is closed, unless it sends an answer."""
        self._timer.cancel()
        self._hold(size_bytes)
        try:
            yield
        finally:
            if not self._is_sending:
                self.close()

    def send(self, size_bytes: int) -> None:
        """Its answer is on the way to the client, until the call is closed, or the client is slow to read it."""
        self._is_sending = True
        self._place.close()
        self._hold(size_bytes)
        self._looks = 0
        self._look_later()

    def close(self) -> None:
        """Gives up its place and its room."""
        self._timer.cancel()
        self._hold(0)
        self._place.close()

    def _hold(self, size_bytes: int) -> None:
        self._calls.add(size_bytes - self._held_bytes)
        self._held_bytes = size_bytes

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._looks += 1
        if self._looks < _MOST_LOOKS:
            self._look_later()
        else:
            self.close()
