"""What an agent does to its process, and what comes of it: it is told from real processes by what they continue
doing."""

import time

import pytest

from runwire.agent.v1 import run_pb2
from tests.e2e.ledger import Ledger
from tests.e2e.processes import processes
from tests.e2e.proof import client, followed
from tests.e2e.workflows import LEAVING


async def test_nothing_that_a_run_does_ends_the_service(sqlite_url: str, ledger: Ledger) -> None:
    """sys.exit() and its like in a body, a gathered step, a callback, a background task, a thread; a loop that is
    closed or stopped; every task cancelled: that run fails (a loop that was stopped costs it nothing), at once and in
    its first attempt; the run beside it succeeds, and the service continues."""
    with processes(sqlite_url, **ledger.environment, RUNWIRE_LEASE_SECONDS=60) as start:
        it = start.start("all")
        async with client(it.address) as agent:
            beside = await agent.start_run("innocent", {"name": "beside", "seconds": 3.0})
            runs = {way: await agent.start_run("leaves", way) for way in (*LEAVING, "stop")}
            for way, run in runs.items():
                await followed(it.address, run.run_id)
                ended = await agent.get_run(run.run_id)
                wanted = run_pb2.RUN_STATE_SUCCEEDED if way == "stop" else run_pb2.RUN_STATE_FAILED
                assert (ended.state, ended.attempt) == (wanted, 1), way
                assert ended.error.reason == ("" if way == "stop" else "agent_error"), way
            await followed(it.address, beside.run_id)
            assert (await agent.get_run(beside.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
        assert it.running
        it.terminate()
        assert await it.wait() == 0
    assert ledger.done["beside begins"] == 1


@pytest.mark.parametrize(
    "how, code", [("thread", 0), ("own thread", 0), pytest.param("loop", 1, marks=pytest.mark.chaos)]
)
async def test_sigterm_while_something_is_blocked(sqlite_url: str, ledger: Ledger, how: str, code: int) -> None:
    """A tool that blocks a thread, or the event loop, does not keep the process: what can be handed back is, and the
    process ends within its grace and its guard."""
    with processes(sqlite_url, **ledger.environment, RUNWIRE_SHUTDOWN_GRACE_SECONDS=0.2) as start:
        server, worker = start.start_all("serve", "work")
        async with client(server.address) as agent:
            run = await agent.start_run("stuck", how)
            await ledger.wait_for(f"{how} is stuck")
            begun = time.monotonic()
            worker.terminate()
            assert await worker.wait() == code
            assert time.monotonic() - begun < 25
            if code == 0:
                assert [each.outcome for each in (await agent.get_run(run.run_id)).attempts] == ["released"]
                assert "still runs" in worker.errors
            else:
                assert "does not end" in worker.errors


async def test_no_tool_of_an_agent_ends_the_service(sqlite_url: str, ledger: Ledger) -> None:
    """sys.exit() in a tool of a pydantic-ai agent, also in a thread or in a task of its own: that run fails."""
    with processes(sqlite_url, **ledger.environment, RUNWIRE_LEASE_SECONDS=60) as start:
        it = start.start("all", agents="tests.e2e.agents,tests.e2e.workflows")
        async with client(it.address) as agent:
            for tool in ("quit_at_once", "quit_in_a_thread", "quit_aside"):
                run = await agent.start_run("quitter", tool)
                await followed(it.address, run.run_id)
                ended = await agent.get_run(run.run_id)
                assert (ended.state, ended.error.reason, ended.attempt) == (run_pb2.RUN_STATE_FAILED, "agent_error", 1)
            beside = await agent.start_run("innocent", {"name": "beside", "seconds": 0.1})
            await followed(it.address, beside.run_id)
        assert it.running
