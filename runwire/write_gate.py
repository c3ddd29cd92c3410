"""Lets streams that are being opened go before writes to open ones.

grpc.aio accepts about one new stream a turn of the event loop, and every write that completes resumes a handler in the
next turn. With hundreds of writes in flight a turn takes tens of milliseconds, and new streams wait for seconds: 23..45
opened a second. With about 8 writes in flight a turn is short: 280..770 (measured). So while streams are being opened,
and shortly after, few writes pass at a time; otherwise there is no bound.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

_PLACES: Final = 8
_SECONDS: Final = 0.1
"""How long after an opening another one is expected."""


class WriteGate:
    """Passes writes through, first come first served."""

    def __init__(self) -> None:
        self._narrow_until = 0.0
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def opening(self) -> None:
        """A stream is being opened."""
        self._narrow_until = asyncio.get_running_loop().time() + _SECONDS

    def enter_now(self) -> Admission | None:
        """A place, if one is to be had without waiting."""
        if self._in_flight < _PLACES or asyncio.get_running_loop().time() >= self._narrow_until:
            self._in_flight += 1
            return Admission(self)
        return None

    async def enter(self) -> Admission:
        """Waits for a place, where places are few."""
        if (admission := self.enter_now()) is not None:
            return admission
        place = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._leave()
            raise
        return Admission(self)

    def _leave(self) -> None:
        self._in_flight -= 1
        if not self._waiting:
            return
        wide = asyncio.get_running_loop().time() >= self._narrow_until
        while self._waiting and (wide or self._in_flight < _PLACES):
            place = self._waiting.popleft()
            if not place.done():
                self._in_flight += 1
                place.set_result(None)


class Admission:
    """A place in the gate. It is given up once: when the write is done, or stalled, whichever comes first."""

    __slots__ = ("_gate",)

    def __init__(self, gate: WriteGate) -> None:
        self._gate: WriteGate | None = gate

    def close(self) -> None:
        gate, self._gate = self._gate, None
        if gate is not None:
            gate._leave()
