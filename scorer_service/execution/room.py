"""Room in memory, in bytes, for samples."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Room:
    """So many bytes at once, given out in the order in which they are asked for. Belongs to one event loop."""

    def __init__(self, size_bytes: int) -> None:
        self._size = self._free = size_bytes
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def hold(self, size_bytes: int) -> AsyncIterator[Held]:
        """Waits for room and keeps it. What is larger than all the room there is gets all of it."""
        held = Held(self, await self._take(min(size_bytes, self._size)))
        try:
            yield held
        finally:
            held.shrink(0)

    async def _take(self, size: int) -> int:
        if self._waiting or size > self._free:
            asked = size, asyncio.get_running_loop().create_future()
            self._waiting.append(asked)
            try:
                await asked[1]
            except asyncio.CancelledError:
                if asked in self._waiting:
                    self._waiting.remove(asked)
                    self._give(0)
                elif not asked[1].cancelled():
                    self._give(size)
                raise
        else:
            self._free -= size
        return size

    def _give(self, size: int) -> None:
        self._free += size
        while self._waiting and self._waiting[0][0] <= self._free:
            wanted, future = self._waiting.popleft()
            self._free -= wanted
            if future.cancelled():
                self._free += wanted
            else:
                future.set_result(None)


class Held:
    """Room that somebody has."""

    def __init__(self, room: Room, size: int) -> None:
        self._room = room
        self._size = size

    def shrink(self, size_bytes: int) -> None:
        """Gives back what is more than this."""
        if size_bytes < self._size:
            self._room._give(self._size - size_bytes)
            self._size = size_bytes
