"""How long a write to a client may be under way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from runwire import writes as writes_module
from runwire.write_gate import WriteGate
from runwire.writes import STALLED_SECONDS, Writes
from tests.log.stepped_loop import SteppedLoop
from tests.servers import MISSING

LIMIT_SECONDS = 4.0


@pytest.fixture
def loop() -> Iterator[SteppedLoop]:
    loop = SteppedLoop()
    yield loop
    loop.close()


async def _write(writes: Writes, gate: WriteGate, taken: asyncio.Event) -> str:
    try:
        with writes.begin(await gate.enter()):
            await taken.wait()
    except TimeoutError:
        return "given up"
    return "written"


def test_a_write_that_stands_still_gives_up_its_place_and_then_itself(loop: SteppedLoop) -> None:
    """Its place after a moment, itself after the limit; one that is taken in time is no concern."""
    writes, gate, taken = Writes(LIMIT_SECONDS), WriteGate(), asyncio.Event()
    stuck = loop.create_task(_write(writes, gate, asyncio.Event()))
    slow = loop.create_task(_write(writes, gate, taken))
    loop.settle()
    assert gate._in_flight == 2
    loop.pass_time(STALLED_SECONDS + 0.1)
    assert gate._in_flight == 0
    loop.pass_time(LIMIT_SECONDS - 1.0)
    taken.set()
    loop.settle()
    assert slow.result() == "written"
    assert not stuck.done()
    loop.pass_time(1.1)
    assert stuck.result() == "given up"
    assert not writes._going
    assert not writes._stalled


def test_a_write_that_is_cancelled_is_cancelled(loop: SteppedLoop) -> None:
    """Whoever else cancels the task: that is no time-out, also where it comes with one."""
    writes, gate = Writes(LIMIT_SECONDS), WriteGate()
    early, both = (loop.create_task(_write(writes, gate, asyncio.Event())) for _ in range(2))
    loop.settle()
    early.cancel()
    loop.pass_time(STALLED_SECONDS + 0.1)
    assert early.cancelled()
    (write,) = writes._stalled
    both.cancel()
    write.give_up()
    loop.settle()
    assert both.cancelled()
    assert gate._in_flight == 0
    assert not writes._stalled


def test_writes_begun_later_have_their_own_time(loop: SteppedLoop) -> None:
    """One timer serves all: none ends early or late because of another."""
    writes, gate, ends = Writes(LIMIT_SECONDS), WriteGate(), []

    async def write(number: int) -> None:
        await _write(writes, gate, asyncio.Event())
        ends.append((number, round(loop.time() - begin, 1)))

    begin = loop.time()
    for number in range(3):
        loop.create_task(write(number))
        for _ in range(10):
            loop.pass_time(0.1)
    for _ in range(100):
        loop.pass_time(0.1)
    total = STALLED_SECONDS + LIMIT_SECONDS
    assert ends == [(number, pytest.approx(number + total, abs=0.25)) for number in range(3)]


@pytest.mark.parametrize("kind", ["asyncio", "uvloop"])
def test_a_limit_of_hardly_any_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On real loops too, where a timer of no time may be none: each write is given up, and others begin meanwhile."""
    monkeypatch.setattr(writes_module, "STALLED_SECONDS", 0.0002)
    if kind == "uvloop":
        uvloop = pytest.importorskip("uvloop", reason=f"{MISSING} uvloop: not installed")
        factory = uvloop.new_event_loop
    else:
        factory = asyncio.new_event_loop

    async def run() -> list[str]:
        writes, gate = Writes(0.0002), WriteGate()
        tasks = []
        for _ in range(20):
            tasks.append(asyncio.create_task(_write(writes, gate, asyncio.Event())))
            await asyncio.sleep(0.0001)
        return await asyncio.wait_for(asyncio.gather(*tasks), 10)

    with asyncio.Runner(loop_factory=factory) as runner:
        assert runner.run(run()) == ["given up"] * 20
