"""What the log and the metrics say of runs, from real runs on a real server."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from agent_service import fleet, workflow
from agent_service.agents.context import RunContext
from runwire import logs, metrics, telemetry
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.values import to_value
from tests.service.replica import TENANT, mortal_worker, replica
from tests.service.test_runs import asks, echo, fails
from tests.unit.test_metrics import read

VOCABULARY = "agent_service.runs"


class Lines:
    """What is written into the log, as the service writes it."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(logs.JsonFormatter(structlog.contextvars.get_contextvars))

    def of(self, run_id: str, logger: str = VOCABULARY) -> list[dict[str, Any]]:
        """The lines that name this run, of this logger."""
        lines = map(json.loads, self.stream.getvalue().splitlines())
        return [line for line in lines if line["logger"] == logger and line.get("run_id") == run_id]


@pytest.fixture
def lines() -> Iterator[Lines]:
    """The whole log, from INFO on."""
    found, root = Lines(), logging.getLogger()
    before = root.level
    root.addHandler(found.handler)
    root.setLevel(logging.INFO)
    yield found
    root.setLevel(before)
    root.removeHandler(found.handler)


@workflow(id="talks", version="3")
async def talks(ctx: RunContext, input: int) -> int:
    logging.getLogger("author").info("in the body")
    await asyncio.to_thread(logging.getLogger("author").info, "in a thread")
    await ctx.step("one", step)
    return input


async def step() -> None:
    logging.getLogger("author").info("in a step")


async def test_a_run_from_its_acceptance_to_its_end(url: str, lines: Lines) -> None:
    """Accepted, claimed, ended, in order and by INFO; each names the run, and inside the attempt also the worker, the
    attempt and the trace; so do the lines of the author, wherever they are written."""
    async with replica(url, talks) as it:
        traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        run = await it.ended((await it.start("talks", 1, traceparent=traceparent)).run_id)
    told = lines.of(run.run_id)
    assert [line["event"] for line in told] == ["run accepted", "run claimed", "run ended"]
    assert {line["level"] for line in told} == {"INFO"}
    inside = told[1:] + lines.of(run.run_id, "author")
    assert [line["event"] for line in inside[2:]] == ["in the body", "in a thread", "in a step"]
    for line in inside:
        assert {name: line[name] for name in ("tenant", "agent_id", "attempt", "worker", "trace_id")} == {
            "tenant": TENANT,
            "agent_id": "talks",
            "attempt": 1,
            "worker": run.attempts[0].worker,
            "trace_id": "0af7651916cd43dd8448eb211c80319c",
        }
    assert told[-1]["state"] == "succeeded"


async def test_what_an_agent_raised_is_one_warning(url: str, lines: Lines) -> None:
    """FAILED is one line, by WARNING, with the class, the words and the author's own line first."""
    async with replica(url, fails) as it:
        run = await it.do("fails", "x")
    [line] = [line for line in lines.of(run.run_id) if line["level"] == "WARNING"]
    assert line["event"].startswith("run failed: ")
    assert "test_runs.py" in line["event"]
    assert (line["state"], line["reason"]) == ("failed", run.error.reason)


async def test_a_suspended_run(url: str, lines: Lines) -> None:
    """It is told that it waits, for how many answers, and that it is claimed again."""
    async with replica(url, asks) as it:
        run = await it.suspended((await it.start("asks", ["a"])).run_id)
        answers = [run_event_pb2.Answer(request_id=each.request_id, data=to_value("x")) for each in run.pending]
        await it.resume(run.run_id, *answers)
        await it.ended(run.run_id)
    told = [line["event"] for line in lines.of(run.run_id)]
    assert told == ["run accepted", "run claimed", "run suspended", "run claimed", "run ended"]
    assert next(line for line in lines.of(run.run_id) if line["event"] == "run suspended")["pending"] == len(answers)


async def test_metrics_of_runs_and_streams(url: str) -> None:
    """A page shows what happened: runs by agent, version, state and reason, how long each took, commits and events by
    engine, streams by how they began and ended."""
    engine = url.partition(":")[0]
    async with telemetry.measured("agent", engine, "127.0.0.1:0") as address, replica(url, echo, fails) as it:
        run = await it.do("echo", "x")
        await it.do("fails", "x")
        events = await it.watched(run.run_id)
        async with it.watch(run.run_id) as watch:
            await watch.next()
        found = read(address)
        ended = {(dict(key)["agent_id"], dict(key)["state"]): n for key, n in found["runwire_runs_ended_total"].items()}
        assert ended == {("echo", "succeeded"): 1.0, ("fails", "failed"): 1.0}
        assert found[f"{metrics.RUN_WAIT_SECONDS.prometheus_name}_count"][(("agent_id", "echo"),)] == 1.0
        assert found[f"{metrics.RUN_FIRST_EVENT_SECONDS.prometheus_name}_count"][(("agent_id", "echo"),)] == 1.0
        assert found[metrics.EVENTS.prometheus_name][(("engine", engine),)] >= len(events)
        assert found[f"{metrics.COMMIT_SECONDS.prometheus_name}_count"][(("engine", engine),)] >= 4
        assert found[metrics.STREAMS_STARTED.prometheus_name][(("start", "earliest"),)] >= 2
        assert found[metrics.STREAMS_ENDED.prometheus_name][(("reason", "ended"),)] >= 1
        assert found[metrics.STREAM_BYTES.prometheus_name][()] > 0
        assert found[metrics.RUNS_RUNNING.prometheus_name][(("agent_id", "echo"),)] == 0.0


async def test_what_nobody_can_do_is_shown(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a worker a run is due, with its age, and it is shown that nobody can do it: what the alert looks at."""
    monkeypatch.setattr(fleet, "_LOOK_SECONDS", 0.05)
    labels = (("agent_id", "talks"),)
    async with telemetry.measured("agent", "x", "127.0.0.1:0") as address, replica(url, talks, role="serve") as it:
        await it.start("talks", 1)
        async with asyncio.timeout(10):
            while (found := await asyncio.to_thread(read, address)).get("runwire_runs_due", {}).get(labels) != 1.0:
                pass  # it is looked at in its own time
        assert found["runwire_runs_workers"][labels] == 0.0
        assert found["runwire_runs_oldest_due_seconds"][labels] >= 0.0


async def test_a_run_that_is_taken_over(sqlite_url: str, lines: Lines) -> None:
    """The next worker says that it took the run over, and from whom; it is counted apart."""
    started = asyncio.Event()

    @workflow(id="dies", version="1")
    async def dies(ctx: RunContext, input: None) -> str:
        if ctx.attempt == 1:
            started.set()
            await asyncio.Event().wait()
        return "done"

    async with replica(sqlite_url, dies, role="serve") as it:
        async with mortal_worker(sqlite_url, dies, lease_seconds=1.0):
            run = await it.start("dies")
            async with asyncio.timeout(10):
                await started.wait()
        async with mortal_worker(sqlite_url, dies, lease_seconds=1.0):
            ended = await it.ended(run.run_id)
    assert ended.state == run_pb2.RUN_STATE_SUCCEEDED
    [line] = [line for line in lines.of(run.run_id) if line["event"] == "run taken over"]
    assert (line["attempt"], line["losses"], line["from_worker"]) == (2, 1, ended.attempts[0].worker)
