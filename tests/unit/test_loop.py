"""Loops that outlive whatever happens in one of their turns."""

import asyncio
import logging

import pytest

from runwire import loop
from runwire.backoff import Backoff
from runwire.errors import StoreUnavailable
from runwire.loop import Wakeup, repeat, wait_for

AT_ONCE = Backoff(0.0, 0.0)


@pytest.mark.parametrize(
    "error", [RuntimeError("injected"), StoreUnavailable("injected"), ExceptionGroup("x", [OSError()])]
)
async def test_a_failure_is_told_once(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    """Turns that fail in a row are told of once, and so is that they work again; a later failure is a new one."""
    turns = [error, error, None, None, error, None]
    wakeup = Wakeup()

    async def turn() -> None:
        if not turns:
            wakeup.stop()
        elif (failure := turns.pop(0)) is not None:
            raise failure

    with caplog.at_level(logging.INFO, logger="runwire.loop"):
        await repeat("it", turn, wakeup, pauses=AT_ONCE)
    levels = [record.levelno for record in caplog.records]
    failed = logging.WARNING if isinstance(error, StoreUnavailable) else logging.ERROR
    assert levels == [failed, logging.INFO] * 2


async def test_another_failure_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """What is waited for is said again when it is something else, and at ERROR where it will not pass by itself."""

    class Refused(StoreUnavailable):
        needs_somebody = True

    turns = [StoreUnavailable("a"), StoreUnavailable("a"), StoreUnavailable("b"), Refused("c"), KeyError("d")]
    wakeup = Wakeup()

    async def turn() -> None:
        if not turns:
            wakeup.stop()
            return
        raise turns.pop(0)

    await repeat("it", turn, wakeup, pauses=AT_ONCE)
    assert [(record.levelno, record.getMessage().split(": ")[-1]) for record in caplog.records] == [
        (logging.WARNING, "a"),
        (logging.WARNING, "b"),
        (logging.ERROR, "c"),
        (logging.ERROR, "KeyError"),
    ]


async def test_a_turn_that_worked_for_long_fails_anew(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn that is a loop itself never succeeds: its failures are told, unless they come one upon the other."""
    monkeypatch.setattr(loop, "_CALM_SECONDS", 0.0)
    wakeup = Wakeup()
    left = 3

    async def turn() -> None:
        nonlocal left
        left -= 1
        if not left:
            wakeup.stop()
        await asyncio.sleep(0.001)
        raise RuntimeError("injected")

    await repeat("it", turn, wakeup, pauses=AT_ONCE)
    assert caplog.text.count("it failed, and is tried again") == 3


async def test_a_cancellation_ends_it() -> None:
    """It is no failure."""

    async def turn() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(repeat("it", turn))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_wait_ends_when_it_is_woken() -> None:
    """A loop that waits for long is woken at once, and one that is stopped waits no more."""
    wakeup = Wakeup()
    turns = 0

    async def turn() -> float:
        nonlocal turns
        turns += 1
        if turns == 1:
            wakeup.wake()
        else:
            wakeup.stop()
        return 3600.0

    async with asyncio.timeout(10):
        await repeat("it", turn, wakeup)
    assert turns == 2


async def test_an_event_is_waited_for() -> None:
    """For so many seconds at most; what is set already is not waited for at all."""
    event = asyncio.Event()
    assert not await wait_for(event, 0.0)
    event.set()
    assert await wait_for(event, 3600.0)
    assert event.is_set()
