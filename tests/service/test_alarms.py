"""Planted faults of the agent service: each raises the expression of its alert, over what the service really shows, and
a line of the log names the entry of the run book. Where nothing is wrong nothing is raised."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from agent_service import RunContext, fleet, workflow
from agent_service.log.record import queue_of
from runwire import telemetry
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc, run_pb2
from runwire.pubsub import Commit, Schedule
from tests.deploy.alarms import entries, raised
from tests.deploy.promql import Evaluation
from tests.service.faults import FaultyStore
from tests.service.replica import LIMIT_SECONDS, Replica, Watch, mortal_worker, replica, topic_of
from tests.service.test_errors import bulk
from tests.service.test_runs import echo, fails
from tests.service.test_telling import Lines, lines  # noqa: F401 - a fixture
from tests.unit.test_metrics import read


class Alarms:
    """What was shown before the fault, and what is now."""

    def __init__(self, address: str, lines: Lines) -> None:  # noqa: F811
        self._address = address
        self._lines = lines
        self._before = read(address)

    def now(self) -> set[str]:
        return set(raised(self._before, read(self._address)))

    async def until(self, alert: str) -> set[str]:
        """Waits until it is raised; all that are."""
        async with asyncio.timeout(LIMIT_SECONDS):
            while alert not in (found := await asyncio.to_thread(self.now)):  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.05)
        assert alert in entries(self._lines.stream.getvalue())
        return found


@pytest.fixture
def measured(
    lines: Lines,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Any]:
    """A replica on SQLite whose metrics are read."""
    monkeypatch.setattr(fleet, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(fleet, "_PATIENCE_SECONDS", 0.0)

    @asynccontextmanager
    async def start(url: str, *agents: Any, **settings: Any) -> AsyncIterator[tuple[Replica, Alarms]]:
        async with (
            telemetry.measured("agent", "sqlite", "127.0.0.1:0") as address,
            replica(url, *agents, **settings) as it,
        ):
            yield it, await asyncio.to_thread(Alarms, address, lines)

    return start


async def test_nothing_is_wrong(sqlite_url: str, measured: Any) -> None:
    """Runs that end well raise nothing."""
    async with measured(sqlite_url, echo) as (it, alarms):
        for _ in range(3):
            await it.do("echo", "x")
        assert await asyncio.to_thread(alarms.now) == set()


async def test_no_worker(sqlite_url: str, measured: Any) -> None:
    """A run that nobody can do."""
    async with measured(sqlite_url, echo, role="serve") as (it, alarms):
        await it.start("echo", "x")
        assert await alarms.until("RunwireNobodyCanDoRuns") == {"RunwireNobodyCanDoRuns"}


async def test_an_agent_that_fails(sqlite_url: str, measured: Any) -> None:
    """An agent all of whose runs fail."""
    async with measured(sqlite_url, echo, fails) as (it, alarms):
        await it.do("echo", "x")
        await it.do("fails", "x")
        assert await alarms.until("RunwireRunsFail") == {"RunwireRunsFail"}


async def test_a_poison_run(sqlite_url: str, measured: Any) -> None:
    """A run that kills each worker, also alone, until it is given up."""
    async with measured(sqlite_url, echo, max_losses=1, role="serve") as (it, alarms):
        run = await it.start("echo", "x")
        for alone in (False, False, True):
            (claim,) = await it.store.claim(
                [queue_of("echo", "")], holder="h", limit=1, lease_seconds=30, wait_seconds=5, alone=alone
            )
            lost = Commit(claim.topic, claim.head.attempt, token=claim.token, schedule=Schedule.LOST)
            await it.store.commit(lost)
            await it.store.commit(Commit(topic_of(run.run_id), schedule=Schedule.WAKE))
        async with mortal_worker(sqlite_url, echo, max_losses=1):
            done = await it.ended(run.run_id)
        assert (done.state, done.error.reason) == (run_pb2.RUN_STATE_FAILED, "worker_lost")
        assert "RunwireRunsKillWorkers" in await alarms.until("RunwireRunsKillWorkers")


async def test_a_stuck_stream(sqlite_url: str, measured: Any) -> None:
    """A client that opens a stream and does not read."""
    async with measured(sqlite_url, bulk, write_timeout_seconds=0.5) as (it, alarms):
        run = await it.start("bulk", [1_000_000] * 40)
        async with grpc.aio.insecure_channel(it.address, options=[("grpc.http2.bdp_probe", 0)]) as channel:
            stub: Any = agent_service_pb2_grpc.AgentServiceStub(channel)
            call = stub.WatchRun(pb.WatchRunRequest(run_id=run.run_id))
            await Watch(call).next()
            assert await alarms.until("RunwireStreamsCut") == {"RunwireStreamsCut"}
            call.cancel()


async def test_a_store_that_is_away(sqlite_url: str, measured: Any) -> None:
    """A store that takes no commits while a run has something to say."""
    go_on = asyncio.Event()

    @workflow(id="speaks")
    async def speaks(ctx: RunContext, input: Any) -> None:
        await ctx.emit_text("begun")
        await go_on.wait()
        await ctx.emit_text("more")

    async with measured(sqlite_url, speaks, wrap=FaultyStore) as (it, alarms):
        run = await it.start("speaks")
        async with it.watch(run.run_id) as watch:
            await watch.until_event("text_delta")
            it.store.down = True
            go_on.set()
            assert "RunwireStoreTakesNoCommits" in await alarms.until("RunwireStoreTakesNoCommits")
            it.store.down = False
        assert (await it.ended(run.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED


@pytest.mark.parametrize("text", ["up", "sum(x) >", "rate(x)", "sum(x[5m", "avg(x) > 1"])
def test_what_is_no_expression_of_ours(text: str) -> None:
    """The evaluation refuses what it does not understand; a name that there is not selects nothing."""
    if text == "up":
        assert Evaluation(text, {}, {}).result() == {}
        return
    with pytest.raises((ValueError, IndexError)):
        Evaluation(text, {}, {}).result()
