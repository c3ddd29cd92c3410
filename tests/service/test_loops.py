"""Every long-lived loop of the agent service survives an exception that nobody expected, and says so once."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from agent_service import RunContext, app, workflow
from agent_service.execution.leases import Leases
from agent_service.execution.orphans import Orphans
from agent_service.execution.suspects import Children
from agent_service.execution.worker import Worker
from agent_service.fleet import Fleet, Presence
from runwire.agent.v1 import run_pb2
from runwire.backoff import Backoff
from runwire.caching_pubsub import CachingPubSub
from tests.service.faults import failing_lookups
from tests.service.replica import eventually, replica
from tests.service.test_runs import echo

FAILURES = 3

LOOPS: dict[str, tuple[Any, str]] = {
    "claims": (Worker, "run_once"),
    "suspects": (Worker, "_claim_for_children"),
    "sweep": (Worker, "_sweep"),
    "idle processes": (Children, "_look"),
    "idle check": (CachingPubSub, "run"),
    "health": (app, "_watch_store"),
    "leases": (Leases, "_extend"),
    "presence": (Presence, "_say"),
    "orphans": (Orphans, "look"),
    "queues": (Fleet, "watch_once"),
}
"""What does a turn of each, by the name of its task."""

HARMLESS = {"lease-beat", "worker", "runwire-sqlite-watcher"}
"""Long-lived tasks that have no loop, or one in which nothing can raise."""


class Failing:
    """Raises so often before it does what it is in the place of."""

    def __init__(self, function: Callable[..., Awaitable[Any]], times: int = FAILURES) -> None:
        self._function = function
        self.left = times
        self.recovered = asyncio.Event()

    def method(self) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            if self.left:
                self.left -= 1
                raise RuntimeError("injected")
            self.recovered.set()
            return await self._function(*args, **kwargs)

        return call


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_service.execution.worker._PAUSES", Backoff(0.02, 0.02))
    monkeypatch.setattr("runwire.loop.PAUSES", Backoff(0.02, 0.02))
    monkeypatch.setattr("agent_service.execution.worker._SWEEP_SECONDS", 0.02)
    monkeypatch.setattr("agent_service.execution.suspects._LOOK_SECONDS", 0.02)
    monkeypatch.setattr("agent_service.app._HEALTH_SECONDS", 0.02)


@pytest.mark.parametrize("name", LOOPS)
async def test_a_loop_outlives_an_exception(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Its turn raises three times: it continues, the log says so once, and a run is executed as ever."""
    place, attribute = LOOPS[name]
    failing = Failing(getattr(place, attribute))
    monkeypatch.setattr(place, attribute, failing.method())
    with caplog.at_level(logging.WARNING):
        async with replica(sqlite_url, held, echo, suspect_processes=1, lease_seconds=4.0) as it:
            run = await it.start("held")
            await asyncio.wait_for(failing.recovered.wait(), 10)
            assert (await it.do("echo", "x")).state == run_pb2.RUN_STATE_SUCCEEDED
            await it.cancel(run.run_id)
            assert (await it.ended(run.run_id)).state == run_pb2.RUN_STATE_CANCELLED
    complaints = [each for each in caplog.records if "injected" in str(each.exc_info) or "injected" in each.message]
    assert len(complaints) == 1, caplog.text


@workflow(id="held")
async def held(ctx: RunContext, input: Any) -> None:
    """Something to hold a lease for."""
    await asyncio.Event().wait()


async def test_no_loop_is_left_out(sqlite_url: str) -> None:
    """Every task that a replica with nothing to do runs under a name is one of those above."""
    async with replica(sqlite_url, echo, suspect_processes=1):
        named = {task.get_name() for task in asyncio.all_tasks() if not task.get_name().startswith("Task-")}
    assert named <= set(LOOPS) | HARMLESS
    assert {"claims", "suspects", "sweep", "idle check", "health"} <= named


async def test_a_run_whose_wake_cannot_be_looked_up(sqlite_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A fault while it is looked up why a run was woken costs nothing but time: it is looked up again."""

    async with replica(sqlite_url, held, wrap=failing_lookups(RuntimeError("injected")), lease_seconds=1.0) as it:
        run = await it.start("held")

        async def running() -> bool:
            return (await it.get(run.run_id)).state == run_pb2.RUN_STATE_RUNNING

        await eventually(running)
        await it.cancel(run.run_id)
        done = await it.ended(run.run_id)
        assert it.store.failures == 2  # type: ignore[attr-defined]
    assert (done.state, done.attempt) == (run_pb2.RUN_STATE_CANCELLED, 1)
