"""Lets only so many writes to streams be in flight, so that opening a stream is never starved.

grpc.aio accepts about one new stream a turn of the event loop, and every write that completes resumes a handler in the
next turn. With hundreds of writes in flight a turn takes tens of milliseconds, and new streams wait for seconds; with
about 8, a turn is short (measured: 23..45 against 280..770 streams opened a second). But a turn that is long for other
reasons, such as the agents' own work, would then let only 8 writes through. So the gate opens with the time that a
write takes, which is about a turn: writes get at most half of each turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

_LEAST: Final = 8
_MOST: Final = 1024
_WRITE_SECONDS: Final = 65e-6
"""What one message costs a Python server (measured)."""
_SHARE: Final = 0.2
_SMOOTHING: Final = 0.05


class WriteGate:
    """Passes writes through, a bounded number at a time, first come first served."""

    def __init__(self) -> None:
        self.capacity: float = _LEAST
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> Passage:
        """Waits for a place."""
        loop = asyncio.get_running_loop()
        if self._in_flight >= self.capacity:
            place = loop.create_future()
            self._waiting.append(place)
            try:
                await place
            except asyncio.CancelledError:
                if place.done() and not place.cancelled():
                    self._leave()
                raise
        else:
            self._in_flight += 1
        return Passage(self, loop.time())

    def completed(self, seconds: float) -> None:
        """A write took so long: the gate adapts."""
        wanted = seconds * _SHARE / _WRITE_SECONDS
        self.capacity += _SMOOTHING * (min(max(wanted, _LEAST), _MOST) - self.capacity)
        self._leave()

    def _leave(self) -> None:
        self._in_flight -= 1
        while self._waiting and self._in_flight < self.capacity:
            place = self._waiting.popleft()
            if not place.done():
                self._in_flight += 1
                place.set_result(None)


class Passage:
    """A place in the gate. It is given up once: by `close` or, if the write is stalled, by `give_up` before that."""

    __slots__ = ("_gate", "_since")

    def __init__(self, gate: WriteGate, since: float) -> None:
        self._gate: WriteGate | None = gate
        self._since = since

    def close(self, now: float) -> None:
        """The write is done."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate.completed(now - self._since)

    def give_up(self) -> None:
        """The write goes on, but its reader is stalled, and must not hold up others."""
        gate, self._gate = self._gate, None
        if gate is not None:
            gate._leave()
