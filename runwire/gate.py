"""Few at once, in turn between those who come: so one who asks for much waits for itself.

A place is for work in progress. A holder that has it for longer than STALLED_SECONDS waits for something (a store that
does not answer, a client that does not send) and no longer counts: what stands still holds nobody up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from typing import Final

STALLED_SECONDS: Final = 0.25


class Gate:
    """So many places, given in turn to the callers (`key`), and to the calls of each in order."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._taken = 0
        self._waiting: dict[Hashable, deque[asyncio.Future[None]]] = {}

    @property
    def taken(self) -> int:
        """How many places are taken."""
        return self._taken

    def resize(self, places: int) -> None:
        """From now on there are so many. Nobody who has one loses it."""
        self._places = places
        self._let_in()

    def waiting(self, key: Hashable) -> int:
        """How many of this caller wait."""
        return len(self._waiting.get(key, ()))

    async def enter(self, key: Hashable = None) -> Place:
        """Waits for a place. It must be closed."""
        if self._taken < self._places and not self._waiting:
            self._taken += 1
            return Place(self)
        place = asyncio.get_running_loop().create_future()
        queue = self._waiting.setdefault(key, deque())
        queue.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave()
            else:
                self._forget(key, place)
            raise
        return Place(self)

    def _forget(self, key: Hashable, place: asyncio.Future[None]) -> None:
        queue = self._waiting.get(key)
        if queue is not None and place in queue:
            queue.remove(place)
            if not queue:
                del self._waiting[key]

    def _leave(self) -> None:
        self._taken -= 1
        self._let_in()

    def _let_in(self) -> None:
        while self._waiting and self._taken < self._places:
            key = next(iter(self._waiting))
            queue = self._waiting.pop(key)
            place = queue.popleft()
            if queue:
                self._waiting[key] = queue  # to the end: the others are first now
            if not place.done():
                self._taken += 1
                place.set_result(None)


class Place:
    """A place in a gate, until it is closed or stalled. An asynchronous context manager is not needed: `with`."""

    __slots__ = ("_gate", "_timer")

    def __init__(self, gate: Gate) -> None:
        self._gate: Gate | None = gate
        self._timer = asyncio.get_running_loop().call_later(STALLED_SECONDS, self.close)

    def close(self) -> None:
        """Gives the place up; of effect once."""
        self._timer.cancel()
        gate, self._gate = self._gate, None
        if gate is not None:
            gate._leave()

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
