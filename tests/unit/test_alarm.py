"""The time-out of a reader that waits again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from runwire.alarm import Alarm
from tests.log.stepped_loop import SteppedLoop
from tests.servers import MISSING


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    loop = SteppedLoop()
    yield loop
    loop.close()


async def _waits(loop: SteppedLoop, alarm: Alarm, limits: list[float], woken: list[int]) -> list[float]:
    """When each wait ended; those numbered in `woken` are woken by something else at once."""
    ends = []
    for number, limit in enumerate(limits):
        waiter: asyncio.Future[None] = loop.create_future()
        alarm.set(waiter, limit)
        if number in woken:
            waiter.set_result(None)
        await waiter
        ends.append(round(loop.time(), 3))
    return ends


@pytest.mark.parametrize(
    "limits, woken, expected",
    [
        ([5.0], [], [5.0]),
        ([5.0, 5.0, 5.0], [], [5.0, 10.0, 15.0]),
        ([5.0, 9.0], [0], [0.0, 9.0]),
        ([9.0, 5.0], [0], [0.0, 5.0]),
        ([1.0, 9.0, 2.0], [1], [1.0, 1.0, 3.0]),
    ],
)
def test_each_wait_ends_at_its_own_time(
    loop: SteppedLoop, limits: list[float], woken: list[int], expected: list[float]
) -> None:
    """Whatever timer an earlier wait has left behind, neither sooner nor later."""

    async def run() -> list[float]:
        alarm = Alarm()
        begin = loop.time()
        ends = await _waits(loop, alarm, limits, woken)
        alarm.close()
        return [round(end - begin, 3) for end in ends]

    task = loop.create_task(run())
    for _ in range(200):
        loop.pass_time(0.1)
    assert [pytest.approx(end, abs=0.35) for end in task.result()] == expected


def test_ten_thousand_waits_that_are_woken_have_one_timer(loop: SteppedLoop) -> None:
    """What it is there for."""

    async def run() -> int:
        alarm = Alarm()
        await _waits(loop, alarm, [10.0] * 10_000, list(range(10_000)))
        return len(loop._scheduled)  # type: ignore[attr-defined]

    task = loop.create_task(run())
    loop.settle()
    assert task.result() <= 1


def test_nobody_is_woken_after_close(loop: SteppedLoop) -> None:
    """A closed alarm leaves its last waiter alone, and no timer."""

    async def run() -> asyncio.Future[None]:
        waiter: asyncio.Future[None] = loop.create_future()
        alarm = Alarm()
        alarm.set(waiter, 1.0)
        alarm.close()
        return waiter

    task = loop.create_task(run())
    loop.settle()
    loop.pass_time(5.0)
    assert not task.result().done()


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_time_that_is_over_at_once(kind: str) -> None:
    """On real loops too, where a timer of no time may be none: the wait ends, and the next one is as good."""
    if kind == "uvloop":
        uvloop = pytest.importorskip("uvloop", reason=f"{MISSING} uvloop: not installed")
        factory = uvloop.new_event_loop
    else:
        factory = asyncio.new_event_loop

    async def run() -> int:
        alarm, ended = Alarm(), 0
        for seconds in (0.0, -1.0, 0.0004, 0.01, 0.0):
            for _ in range(2):
                waiter = asyncio.get_running_loop().create_future()
                alarm.set(waiter, seconds)
                alarm.set(waiter, seconds / 2)
                await waiter
                ended += 1
        alarm.close()
        return ended

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(asyncio.wait_for(run(), 10)) == 10
