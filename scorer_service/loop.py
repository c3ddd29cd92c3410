"""How every long-lived part of the service goes round."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Final

from runwire.errors import Unavailable
from scorer_service.faults import DatabaseRefuses

log = logging.getLogger("scorer_service")

_FIRST_DELAY_SECONDS: Final = 0.2
_MAX_DELAY_SECONDS: Final = 5.0
_WAITS: Final = "%s waits: %s"


class Bell:
    """Wakes a loop before its time, and ends it."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self.stopped = False

    def ring(self) -> None:
        """Ends the present wait, or the next one if there is none."""
        self._rung.set()

    def stop(self) -> None:
        """Ends the loop when its work under way is done."""
        self.stopped = True
        self._rung.set()

    async def wait(self, seconds: float) -> None:
        """Waits to be rung, at most so long."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await self._rung.wait()
        except TimeoutError:
            pass
        self._rung.clear()


async def repeat(name: str, work: Callable[[], Awaitable[float]], bell: Bell) -> None:
    """Calls `work` until the bell is stopped. It returns how many seconds to wait before the next call.

    What `work` raises ends no service: it is logged, and the next call comes after a delay that grows up to 5 s. A
    database or a store that is down is waited for in this way; why is said once, and again when it is something else.
    """
    failures, said = 0, ""
    while not bell.stopped:
        try:
            delay = await work()
        except Exception as error:
            failures += 1
            ceiling = min(_MAX_DELAY_SECONDS, _FIRST_DELAY_SECONDS * 2.0 ** min(failures - 1, 8))
            delay = random.uniform(0.5, 1.0) * ceiling
            if not isinstance(error, Unavailable):
                log.exception("%s failed; next try in %.1f s", name, delay)
            elif str(error) != said:
                said = str(error)
                log.log(logging.ERROR if isinstance(error, DatabaseRefuses) else logging.WARNING, _WAITS, name, said)
        else:
            if failures:
                log.info("%s goes on", name)
            failures, said = 0, ""
        if delay > 0:
            await bell.wait(delay)
        else:
            await asyncio.sleep(0)
