"""Loops that outlive whatever happens in one of their turns."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

from runwire.errors import StoreUnavailable

_CALM_SECONDS: Final = 60.0

log = logging.getLogger("agent_service.endurance")


async def endure(
    name: str,
    turn: Callable[[], Awaitable[object]],
    *,
    retry_seconds: float,
    until: asyncio.Event | None = None,
) -> None:
    """Takes turn after turn, until cancelled, or until `until` is set at the end of one.

    Rule: **a long-lived loop survives every exception, and says so once.** A turn that fails costs itself: it is told
    in the log when it begins to fail and when it works again, and not in between. A turn may itself be a loop: that it
    had worked for a while before it failed makes the failure a new one.
    """
    failing = False
    while until is None or not until.is_set():
        begun = time.monotonic()
        try:
            await turn()
        except Exception as error:
            if not failing or time.monotonic() - begun > _CALM_SECONDS:
                expected = isinstance(error, StoreUnavailable)
                log.log(
                    logging.WARNING if expected else logging.ERROR,
                    "%s: it fails, and goes on: %s",
                    name,
                    error if expected else type(error).__name__,
                    exc_info=None if expected else error,
                )
            failing = True
            await asyncio.sleep(retry_seconds)
        else:
            if failing:
                log.info("%s: it works again", name)
            failing = False
