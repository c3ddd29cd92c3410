"""A time-out for a task that waits again and again, and is nearly always woken by something else first."""

from __future__ import annotations

import asyncio


class Alarm:
    """Wakes one waiter at its time. Setting it again costs nothing: the timer that is there goes off, too early, and is
    set to what then is left. (asyncio.timeout makes a timer for each wait, which is a third of what a live event costs
    its reader.)"""

    __slots__ = ("_due", "_loop", "_rings_at", "_timer", "_waiter")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = 0.0
        """When the timer goes off. Kept here: uvloop's timer of no time does not know."""
        self._waiter: asyncio.Future[None] | None = None

    def set(self, waiter: asyncio.Future[None], seconds: float) -> None:
        """In so many seconds `waiter` is done, if it is not before. The one before it is forgotten."""
        self._waiter, self._due = waiter, self._loop.time() + seconds
        if self._timer is None or self._rings_at > self._due:
            self._set_timer()

    def close(self) -> None:
        """Wakes nobody any more."""
        self._waiter = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at, self._timer = self._due, self._loop.call_at(self._due, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return  # nobody waits: the next one sets a timer
        if self._loop.time() < self._due:
            self._set_timer()
        else:
            self._waiter.set_result(None)
