"""Pauses before something is tried again. Tests skip them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_skipped: ContextVar[bool] = ContextVar("runwire_pauses_skipped", default=False)


async def pause(seconds: float) -> None:
    """Waits for this long."""
    await asyncio.sleep(0.0 if _skipped.get() else max(0.0, seconds))


@contextmanager
def skipped() -> Iterator[None]:
    """Inside, and in all tasks that begin there, no pause takes time. For `runwire.testing`."""
    token = _skipped.set(True)
    try:
        yield
    finally:
        _skipped.reset(token)
