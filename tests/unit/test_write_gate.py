"""The gate that writes to streams pass through."""

from __future__ import annotations

import asyncio

import pytest

from runwire.write_gate import WriteGate


async def test_only_so_many_at_once() -> None:
    """The ninth write waits until one of eight is done, and takes its place."""
    gate = WriteGate()
    gate.opening()
    admissions = [await gate.enter() for _ in range(8)]
    async with asyncio.TaskGroup() as group:
        ninth = group.create_task(gate.enter())
        await asyncio.sleep(0)
        assert not ninth.done()
        admissions[0].close()
        async with asyncio.timeout(5):
            await ninth


async def test_a_stalled_write_gives_up_its_place_once() -> None:
    """Eight stalled readers do not hold up a ninth, and their places are not given out twice."""
    gate = WriteGate()
    gate.opening()
    admissions = [await gate.enter() for _ in range(8)]
    for admission in admissions:
        admission.close()
    again = [await gate.enter() for _ in range(8)]
    for admission in admissions:
        admission.close()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await gate.enter()
    assert len(again) == 8


async def test_a_writer_that_is_cancelled_while_it_waits_leaves_no_place_taken() -> None:
    """A stream that is cut while it waits costs the others nothing, also if it was just given its place."""
    gate = WriteGate()
    gate.opening()
    admissions = [await gate.enter() for _ in range(8)]
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(gate.enter()) for _ in range(4)]
        await asyncio.sleep(0)
        admissions.pop().close()
        for task in waiting:
            task.cancel()
    for admission in admissions:
        admission.close()
    async with asyncio.timeout(5):
        assert len([await gate.enter() for _ in range(8)]) == 8


async def test_without_openings_there_is_no_bound() -> None:
    """Writes to many readers do not wait for one another while nobody opens a stream."""
    gate = WriteGate()
    async with asyncio.timeout(5):
        assert len([await gate.enter() for _ in range(1000)]) == 1000


async def test_the_gate_widens_again() -> None:
    """Those who waited while streams were opened all pass once no more are."""
    gate = WriteGate()
    gate.opening()
    admissions = [await gate.enter() for _ in range(8)]
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(gate.enter()) for _ in range(100)]
        await asyncio.sleep(0)
        gate._narrow_until = 0.0
        admissions.pop().close()
        async with asyncio.timeout(5):
            await asyncio.gather(*waiting)
