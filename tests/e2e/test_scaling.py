"""Both services scaled by what they themselves tell KEDA, from nothing and back, on Redis and PostgreSQL."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from runwire.agent.v1 import run_pb2
from runwire.client import ScorerClient
from runwire.scorer.v1 import scorer_run_pb2
from tests.e2e.autoscaler import Autoscaler
from tests.e2e.processes import AgentProcess, Processes, processes
from tests.e2e.proof import client
from tests.scorer.processes import ScorerProcess

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]
RUNS = 60
SCORERS = "tests.e2e.leisurely"


class WorkerPod:
    """An agent service that only works."""

    def __init__(self, here: Processes) -> None:
        self._here = here
        self._process: AgentProcess | None = None

    def begin(self) -> None:
        self._process = self._here.launch("work", environment={"RUNWIRE_CONCURRENCY": 4})

    async def end(self) -> int:
        assert self._process is not None
        await asyncio.to_thread(self._process.wait_started)
        self._process.terminate()
        return await self._process.wait()


class ScorerPod:
    """A scorer service."""

    def __init__(self, environment: dict[str, str], stack: ExitStack) -> None:
        self._environment, self._stack = environment, stack
        self._process: ScorerProcess | None = None

    def begin(self) -> None:
        self._process = self._stack.enter_context(ScorerProcess(environment=self._environment))

    async def end(self) -> int:
        assert self._process is not None
        await asyncio.to_thread(self._process.ready)
        self._process.signal(signal.SIGTERM)
        return await asyncio.to_thread(self._process.wait)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


async def test_from_nothing_and_back(valkey_url: str, postgres_url: str, stack: ExitStack) -> None:
    """Workers come from none to three and go, scorers from one to four and back: every run succeeds and is scored once,
    every process that is taken away ends in order, and one more run wakes a worker from none."""
    given = {
        "RUNWIRE_STORE": valkey_url,
        "RUNWIRE_RESULTS": postgres_url,
        "RUNWIRE_SCORERS": SCORERS,
        "RUNWIRE_SCORER_CONCURRENCY": "4",
        "RUNWIRE_SCORER_MIGRATE": "true",
    }
    here = stack.enter_context(processes(valkey_url))
    server = here.start("serve")
    standing = stack.enter_context(ScorerProcess(environment=given))
    scorers_address = await asyncio.to_thread(standing.ready)
    agents = Autoscaler(server.address, lambda: WorkerPod(here), most=3, target=4)
    scorers = Autoscaler(scorers_address, lambda: ScorerPod(given, stack), most=3, target=5, standing=1)
    async with asyncio.TaskGroup() as group, client(server.address) as runs, ScorerClient(scorers_address) as scores:
        tasks = [group.create_task(scaler.run()) for scaler in (agents, scorers)]
        started = [await start(runs) for _ in range(RUNS)]
        async with asyncio.timeout(120):
            ended = [await end_of(runs, run.run_id) for run in started]
            await until_none(agents, scorers)
        began = time.monotonic()
        last = await start(runs)
        async with asyncio.timeout(60):
            async with runs.watch(last.run_id) as stream:
                async for _ in stream:
                    break
            woken = time.monotonic() - began
            ended.append(await end_of(runs, last.run_id))
            await until_none(agents, scorers)
        rows = [row async for row in scores.list_scorer_runs()]
        for task in tasks:
            task.cancel()
    print(f"\nworkers {agents.history}\nscorers {scorers.history}\nawake from none after {woken:.1f} s")
    assert {run.state for run in ended} == {run_pb2.RUN_STATE_SUCCEEDED}
    assert sorted(row.run_id for row in rows) == sorted(run.run_id for run in ended)
    assert {row.state for row in rows} == {scorer_run_pb2.SCORER_RUN_STATE_SUCCEEDED}
    assert max(count for _, count in agents.history) == 3
    assert max(count for _, count in scorers.history) == 3
    assert set(agents.codes + scorers.codes) == {0}


async def start(runs: Any) -> run_pb2.Run:
    input = {"count": 5, "pause": 0.2}
    run: run_pb2.Run = await runs.start_run("count", input, scorers=["leisurely"])
    return run


async def end_of(runs: Any, run_id: str) -> run_pb2.Run:
    async with runs.watch(run_id) as stream:
        async for _ in stream:
            pass
    run: run_pb2.Run = await runs.get_run(run_id)
    return run


async def until_none(*scalers: Autoscaler) -> None:
    """Until all that came have gone again."""
    for scaler in scalers:
        await scaler.until(lambda it: it.pods == 0 and bool(it.history))
