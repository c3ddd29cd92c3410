"""A bound on how many do something at once, and how many wait for it, first come first served."""

from __future__ import annotations

import asyncio
from types import TracebackType

from runwire.errors import TooManyRequests


class Gate:
    """Lets `at_once` in; up to `waiting` more wait, and further ones are refused with TooManyRequests."""

    def __init__(self, name: str, *, at_once: int, waiting: int) -> None:
        self._name = name
        self._room = asyncio.Semaphore(at_once)
        self._most = at_once + waiting
        self._here = 0

    async def __aenter__(self) -> None:
        if self._here >= self._most:
            raise TooManyRequests(f"{self._here} {self._name} are under way or wait already", 1.0)
        self._here += 1
        try:
            await self._room.acquire()
        except BaseException:
            self._here -= 1
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._here -= 1
        self._room.release()
