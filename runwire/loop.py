"""How everything long-lived goes round: turn after turn, whatever happens in one of them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from runwire.backoff import Backoff
from runwire.errors import Unavailable

PAUSES: Final = Backoff(0.2, 5.0, jitter=0.5)
_CALM_SECONDS: Final = 60.0
"""A turn that worked for this long before it failed has failed for a new reason."""

logger = logging.getLogger("runwire.loop")


class Wakeup:
    """Wakes a loop before its time, and ends it."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()
        self.stopped = False

    def wake(self) -> None:
        """Ends the present wait, or the next one if there is none."""
        self._woken.set()

    def stop(self) -> None:
        """Ends the loop when its turn under way is done."""
        self.stopped = True
        self._woken.set()

    async def wait(self, seconds: float) -> None:
        """Waits to be woken, for `seconds` at most; not at all once it is stopped."""
        if not self.stopped:
            await wait_for(self._woken, seconds)
            self._woken.clear()


async def wait_for(event: asyncio.Event, seconds: float) -> bool:
    """Waits for an event, for `seconds` at most; whether it is set. It is not cleared."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        pass  # the caller looks for itself
    return event.is_set()


async def repeat(
    name: str,
    turn: Callable[[], Awaitable[float | None]],
    wakeup: Wakeup | None = None,
    *,
    pauses: Backoff = PAUSES,
) -> None:
    """Takes turn after turn until cancelled, or until `wakeup` is stopped. A turn returns how many seconds to wait
    before the next one; None is 0.

    Rule: **a long-lived loop survives every exception, and says so once.** A turn that fails costs itself: that it
    begins to fail, or fails with something else, is logged, and that it works again. A turn may itself be a loop.
    """
    wakeup = wakeup or Wakeup()
    failures, said = 0, ""
    while not wakeup.stopped:
        began = time.monotonic()
        try:
            delay = await turn() or 0.0
        except Exception as error:
            if time.monotonic() - began > _CALM_SECONDS:
                failures, said = 0, ""
            failures += 1
            delay = pauses.pause(failures)
            if (text := _text(error)) != said:
                said = text
                _complain(name, error, text)
        else:
            if failures:
                logger.info("%s works again", name)
            failures, said = 0, ""
        if delay > 0:
            await wakeup.wait(delay)
        else:
            await asyncio.sleep(0)


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if isinstance(error, Unavailable) else type(error).__name__


def _complain(name: str, error: Exception, text: str) -> None:
    if isinstance(error, Unavailable):
        level = logging.ERROR if error.needs_somebody else logging.WARNING
        logger.log(level, "%s waits: %s", name, error)
    else:
        logger.error("%s failed, and is tried again: %s", name, text, exc_info=error)
