"""Runs that kill the process that executes them, beside others that do nothing wrong."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from runwire.agent.v1 import run_pb2
from tests.e2e.ledger import Ledger
from tests.e2e.processes import AgentProcess, Processes, processes
from tests.e2e.proof import client, followed
from tests.e2e.test_lifecycle import supervised

LIMIT_SECONDS = 100.0
WAYS = ("exit", "kill", "segfault")


@asynccontextmanager
async def workers(start: Processes, count: int, **environment: object) -> AsyncIterator[list[int]]:
    """So many workers, started again as a supervisor does; how often they died is there once the block is left."""
    stop, deaths = asyncio.Event(), [0] * count

    async def one(number: int) -> None:
        deaths[number] = await supervised(start, stop, environment=environment)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))
        try:
            yield deaths
        finally:
            stop.set()


async def ends(server: AgentProcess, runs: Sequence[run_pb2.Run]) -> list[run_pb2.Run]:
    async with asyncio.TaskGroup() as group:
        for run in runs:
            group.create_task(followed(server.address, run.run_id))
    async with client(server.address) as agent:
        return [await agent.get_run(run.run_id) for run in runs]


async def poison_beside_innocents(
    url: str, ledger: Ledger, hows: Sequence[str], innocents: int, seconds: float, **environment: Any
) -> float:
    """Returns the seconds until the last one had ended."""
    with processes(url, **ledger.environment) as start:
        server = start.start("serve")
        begun = time.monotonic()
        async with client(server.address) as agent:
            good = [
                await agent.start_run("innocent", {"name": f"good {number}", "seconds": seconds})
                for number in range(innocents // 2)
            ]
            bad = [await agent.start_run("dies", {"name": how, "how": how}) for how in hows]
            good += [
                await agent.start_run("innocent", {"name": f"good {number}", "seconds": seconds})
                for number in range(innocents // 2, innocents)
            ]
        async with workers(start, 2, **environment):
            ended_good, ended_bad = await ends(server, good), await ends(server, bad)
        took = time.monotonic() - begun
    assert [run.state for run in ended_good] == [run_pb2.RUN_STATE_SUCCEEDED] * innocents
    for run in ended_bad:
        assert (run.state, run.error.reason) == (run_pb2.RUN_STATE_FAILED, "worker_lost")
        assert "with nothing beside it" in run.error.message
    return took


@pytest.mark.parametrize("how", WAYS)
async def test_a_run_that_kills_its_process(sqlite_url: str, ledger: Ledger, how: str) -> None:
    """Whichever way it dies: it ends FAILED, `worker_lost`, saying how; its innocent neighbours, none of which got
    further between two deaths, succeed."""
    took = await poison_beside_innocents(
        sqlite_url, ledger, [how], 4, 1.5, RUNWIRE_MAX_LOSSES=2, RUNWIRE_LEASE_SECONDS=1
    )
    assert 2 + 2 <= ledger.done[f"{how} dies"] <= 2 + 2 + 1
    print(f"\n{took:.1f} s")


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_one_poison_beside_fifty_innocents(every_url: str, ledger: Ledger) -> None:
    """One run that kills its process, fifty with one step of 6 seconds, two workers under a supervisor."""
    took = await poison_beside_innocents(every_url, ledger, ["kill"], 50, 6.0, RUNWIRE_LEASE_SECONDS=5)
    print(f"\n{took:.1f} s")


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_three_poisons_beside_twenty_innocents(every_url: str, ledger: Ledger) -> None:
    """Three at once."""
    took = await poison_beside_innocents(every_url, ledger, WAYS, 20, 3.0, RUNWIRE_LEASE_SECONDS=2)
    print(f"\n{took:.1f} s")
