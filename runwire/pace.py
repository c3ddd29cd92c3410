"""How much may be begun at once, so that what is under way is not kept waiting.

Everything in a process shares one event loop, and one way into its store. Sixteen calls that are worked on at once, or
a hundred runs that begin at once, make each turn of the loop and each transaction as long as all of them take together,
and a live event needs five turns and a commit from its agent to its reader. Fewer at once do not make either slower:
they make turns and transactions shorter.

While something is being begun it is looked how late the loop is and how long commits of live events take. Late: a
quarter as much at once, down to one. Not late: twice as much. Where even the least is nearly as late as the whole was,
something else is to blame (an agent that blocks the loop, a slow disk), and nobody is held up for it for a while; and
now and then the whole is tried again, to see what it would be like now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

LATE_SECONDS: Final = 0.004
"""More than that, on average, is late."""
LOOKS: Final = 8
"""After so many it is decided: noise of the machine must not look like an effect."""
LEAST: Final = 1 / 64
VAIN: Final = 4
"""So many decisions in a row show that less does not help."""
HOLD: Final = 20
"""So many decisions long nothing is made less where that was seen not to help."""
TRY: Final = 40
"""After so many decisions at less than the whole, this being late, the whole is tried."""
_LOOK_SECONDS: Final = 0.01
_LINGER_SECONDS: Final = 0.5
"""For this long after something was begun it is looked on."""
_HELPS: Final = 0.75
"""The part of the lateness that is left at most where less at once helps."""


class Pace:
    """Of one process. To be used on one event loop."""

    def __init__(self) -> None:
        self.share = 1.0
        """The part of what may be begun at once that may be now."""
        self._heeding: list[Callable[[], object]] = []
        self._lags: list[float] = []
        self._took = 0.0
        self._commits = 0
        self._whole = 0.0
        """How late it was when all was allowed, the last time."""
        self._late = 0
        """Decisions since then that found it late."""
        self._vain = 0
        """Decisions in a row that found the least hardly better than the whole."""
        self._held = 0
        self._looks = False
        self._until = 0.0

    def of(self, most: int) -> int:
        """How many may be begun at once now where it is at most `most`."""
        return max(1, int(most * self.share))

    def heed(self, changed: Callable[[], object]) -> None:
        """`changed` is called whenever the share has changed."""
        self._heeding.append(changed)

    def begins(self) -> None:
        """Something is begun, or waits to be: it is looked how late it is, from now on and for a while."""
        loop = asyncio.get_running_loop()
        self._until = loop.time() + _LINGER_SECONDS
        if not self._looks:
            self._looks = True
            self._look_later(loop)

    def took(self, seconds: float) -> None:
        """A commit of live events took so long."""
        self._took += seconds
        self._commits += 1

    def note(self, lag_seconds: float) -> None:
        """The loop was so late."""
        commit = self._took / self._commits if self._commits else 0.0
        self._took, self._commits = 0.0, 0
        self._lags.append(lag_seconds + commit)
        if len(self._lags) == LOOKS:
            late, self._lags = sum(self._lags) / LOOKS, []
            self._decide(late)

    def _decide(self, late: float) -> None:
        least = self.share == LEAST
        self._vain = self._vain + 1 if least and late > max(LATE_SECONDS, _HELPS * self._whole) else 0
        if self._held:
            self._held -= 1
        elif late <= LATE_SECONDS:
            self._set(min(1.0, 2 * self.share))
        elif self.share == 1.0:
            self._whole, self._late = late, 0
            self._set(0.25)
        elif self._vain == VAIN:
            self._held = HOLD
            self._set(1.0)
        else:
            self._late += 1
            self._set(1.0 if self._late == TRY else max(LEAST, self.share / 4))

    def _set(self, share: float) -> None:
        if share != self.share:
            self.share = share
            for changed in self._heeding:
                changed()

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + _LOOK_SECONDS
        loop.call_at(due, self._look_now, loop, due)

    def _look_now(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        now = loop.time()
        self.note(now - due)
        self._looks = now < self._until
        if self._looks:
            self._look_later(loop)
