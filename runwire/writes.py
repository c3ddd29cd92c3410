"""The writes to clients that are under way, and how long they may be.

One timer for all of them, as they are in order: thousands begin and end between two looks at it, and each costs no more
than its place in a table.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final

from runwire.write_gate import Admission

STALLED_SECONDS: Final = 0.5
"""A write that takes longer gives up its place in the gate, and its time-out begins."""


class Writes:
    """Those of one server. To be used on one event loop."""

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = 0.0
        """When the timer goes off. Kept here: uvloop's timer of no time does not know."""
        self._going: dict[Write, float] = {}
        """When each stands still, the first one first."""
        self._stalled: dict[Write, float] = {}
        """When each has for too long."""

    def begin(self, admission: Admission) -> Write:
        """To be entered: `with writes.begin(admission): await context.write(frame)`. Raises TimeoutError in there
        where the client does not read for `limit_seconds`; closes the admission at the end, or once it stalls."""
        return Write(self, admission)

    def _add(self, write: Write) -> None:
        loop = asyncio.get_running_loop()
        self._going[write] = moment = loop.time() + STALLED_SECONDS
        if self._timer is None or self._looks_at > moment:
            self._look_at(loop, moment)

    def _remove(self, write: Write) -> None:
        if self._going.pop(write, None) is None:
            self._stalled.pop(write, None)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now, self._timer = loop.time(), None
        for write in _due(self._going, now):
            del self._going[write]
            self._stalled[write] = now + self._limit_seconds
            write.admission.close()
        for write in _due(self._stalled, now):
            del self._stalled[write]
            write.give_up()
        following = [next(iter(table.values())) for table in (self._going, self._stalled) if table]
        if following:
            self._look_at(loop, min(following))

    def _look_at(self, loop: asyncio.AbstractEventLoop, moment: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at, self._timer = moment, loop.call_at(moment, self._look)


def _due(table: dict[Write, float], now: float) -> list[Write]:
    found = []
    for write, moment in table.items():
        if moment > now:
            break
        found.append(write)
    return found


class Write:
    """One write, made by the task that enters it."""

    __slots__ = ("_cancelling", "_given_up", "_task", "_writes", "admission")

    def __init__(self, writes: Writes, admission: Admission) -> None:
        self._writes = writes
        self._given_up = False
        self.admission = admission

    def __enter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling = task, task.cancelling()
        self._writes._add(self)

    def give_up(self) -> None:
        """Ends it with TimeoutError."""
        self._given_up = True
        self._task.cancel()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._writes._remove(self)
        self.admission.close()
        # As asyncio.timeout tells its own cancellation from another's.
        if self._given_up and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
