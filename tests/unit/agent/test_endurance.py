"""Loops that outlive whatever happens in one of their turns."""

import asyncio
import logging

import pytest

from agent_service import endurance
from agent_service.endurance import endure
from runwire.errors import StoreUnavailable


@pytest.mark.parametrize(
    "error", [RuntimeError("injected"), StoreUnavailable("injected"), ExceptionGroup("x", [OSError()])]
)
async def test_a_failure_is_told_once(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Turns that fail in a row are told of once, and so is that they work again; a later failure is a new one."""
    turns = [error, error, None, None, error, None]
    done = asyncio.Event()

    async def turn() -> None:
        if not turns:
            done.set()
        elif (failure := turns.pop(0)) is not None:
            raise failure

    with caplog.at_level(logging.INFO, logger="agent_service.endurance"):
        await endure("it", turn, retry_seconds=0.0, until=done)
    told = [record.getMessage().split(":")[1].strip() for record in caplog.records]
    assert told == ["it fails, and goes on", "it works again"] * 2


async def test_a_turn_that_worked_for_long_fails_anew(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn that is a loop itself never succeeds: its failures are told, unless they come one upon the other."""
    monkeypatch.setattr(endurance, "_CALM_SECONDS", 0.0)
    done = asyncio.Event()
    left = 3

    async def turn() -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()
        await asyncio.sleep(0.001)
        raise RuntimeError("injected")

    await endure("it", turn, retry_seconds=0.0, until=done)
    assert caplog.text.count("it fails, and goes on") == 3


async def test_a_cancellation_ends_it() -> None:
    """It is no failure."""
    task = asyncio.create_task(endure("it", asyncio.Event().wait, retry_seconds=0.0))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
