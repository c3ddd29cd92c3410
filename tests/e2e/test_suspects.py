"""Runs that kill the process that executes them, beside others that do nothing wrong."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runwire.agent.v1 import run_pb2
from runwire.client import supply
from runwire.values import from_value
from tests.e2e.ledger import Ledger
from tests.e2e.processes import AgentProcess, Processes, processes
from tests.e2e.proof import client
from tests.e2e.test_lifecycle import outcomes, supervised, until
from tests.service.replica import ENDED, eventually

LIMIT_SECONDS = 600.0
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
    """The runs, once they have ended."""
    async with client(server.address) as agent:

        async def ended(run_id: str) -> bool:
            return (await agent.get_run(run_id)).state in ENDED

        for run in runs:
            await eventually(partial(ended, run.run_id), LIMIT_SECONDS)
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
            ended_good = await ends(server, good)
            print(f"\nthe innocents after {time.monotonic() - begun:.1f} s")
            ended_bad = await ends(server, bad)
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


@asynccontextmanager
async def reformed(
    start: Processes, ledger: Ledger, name: str, then: str, **fields: Any
) -> AsyncIterator[tuple[AgentProcess, AgentProcess, run_pb2.Run]]:
    """A server, the worker that executes a suspect in a process of its own, and the run, once it is executed there."""
    server = start.start("serve")
    async with client(server.address) as agent:
        run = await agent.start_run("reforms", {"name": name, "then": then}, **fields)
    for number in (1, 2):
        worker = start.launch("work")
        await worker.wait()
        assert ledger.done[f"{name} begins"] == number
    worker = start.start("work")
    child, parent = (await ledger.wait_for_value(f"{name} in ")).split(" of ")
    assert int(parent) == worker.pid != int(child)
    yield server, worker, run


async def test_a_suspect_that_ends(sqlite_url: str, ledger: Ledger) -> None:
    """In a process of its own it ends as any other; what it logs is where the worker's lines are, and the process ends
    with its worker."""
    with processes(sqlite_url, **ledger.environment) as start:
        async with reformed(start, ledger, "a", "end") as (server, worker, run):
            [ended] = await ends(server, [run])
            assert ended.state == run_pb2.RUN_STATE_SUCCEEDED
            assert outcomes(ended) == ["worker_lost", "worker_lost", "finished"]
            assert "a says so" in worker.errors
            worker.terminate()
            assert await worker.wait() == 0
            assert await gone(int(from_value(ended.output)))  # type: ignore[arg-type]


async def test_a_suspect_that_is_cancelled(sqlite_url: str, ledger: Ledger) -> None:
    """By a call to another replica."""
    with processes(sqlite_url, **ledger.environment) as start:
        async with reformed(start, ledger, "a", "hang") as (server, _, run), client(server.address) as agent:
            await agent.cancel_run(run.run_id)
            [ended] = await ends(server, [run])
            assert ended.state == run_pb2.RUN_STATE_CANCELLED


async def test_a_suspect_that_waits(sqlite_url: str, ledger: Ledger) -> None:
    """It is suspended, and answered, and continues."""
    with processes(sqlite_url, **ledger.environment) as start:
        async with reformed(start, ledger, "a", "ask") as (server, _, run), client(server.address) as agent:
            await until(server.address, run.run_id, "run_suspended")
            await agent.resume_run(run.run_id, [supply("suspend/question", "yes")])
            [ended] = await ends(server, [run])
            assert (ended.state, from_value(ended.output)) == (run_pb2.RUN_STATE_SUCCEEDED, "yes")


async def test_a_deadline_of_a_suspect(sqlite_url: str, ledger: Ledger) -> None:
    """It is kept there too."""
    with processes(sqlite_url, **ledger.environment) as start:
        async with reformed(start, ledger, "a", "hang", run_timeout=12.0) as (server, _, run):
            [ended] = await ends(server, [run])
            assert (ended.state, ended.error.reason) == (run_pb2.RUN_STATE_FAILED, "deadline_exceeded")


@pytest.mark.parametrize("then", ["hang", pytest.param("block", marks=pytest.mark.chaos)])
async def test_sigterm_with_a_suspect(sqlite_url: str, ledger: Ledger, then: str) -> None:
    """SIGTERM drains the processes of suspects with their worker: the run is handed back, also where it blocks its
    process, and nothing is left of either."""
    with processes(sqlite_url, **ledger.environment, RUNWIRE_SHUTDOWN_GRACE_SECONDS=0.2) as start:
        async with reformed(start, ledger, "a", then) as (server, worker, run), client(server.address) as agent:
            child = int((await ledger.wait_for_value("a in ")).split(" of ")[0])
            worker.terminate()
            assert await worker.wait() == 0
            assert await gone(child)
            ended = await agent.get_run(run.run_id)
            assert outcomes(ended)[-1] == "released" if then == "hang" else ended.state == run_pb2.RUN_STATE_RUNNING


async def test_a_suspect_does_not_outlive_its_worker(sqlite_url: str, ledger: Ledger) -> None:
    """The worker is killed by kill -9 while its suspect blocks its own process: that one is gone at once."""
    with processes(sqlite_url, **ledger.environment) as start:
        async with reformed(start, ledger, "a", "block") as (_, worker, __):
            child = int((await ledger.wait_for_value("a in ")).split(" of ")[0])
            worker.kill()
            await eventually(lambda: gone(child))


async def gone(pid: int) -> bool:
    """Whether there is no such process, or one that has ended and that nobody has asked for."""
    return state_of(pid) in ("", "Z")


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return ""


async def begun_alone(ledger: Ledger, times: int) -> bool:
    return len([line for line in ledger.lines if line.startswith("a in ")]) == times


async def test_a_child_that_dies_is_told_of(sqlite_url: str, ledger: Ledger) -> None:
    """How the process of a suspect ended is in the worker's log, in the record of the attempt and in the run's error;
    the loss is counted at once, and not when its lease ends."""
    with processes(sqlite_url, **ledger.environment, RUNWIRE_MAX_LOSSES=2) as start:
        async with reformed(start, ledger, "a", "hang") as (server, worker, run):
            for number in (1, 2):
                await ledger.wait_for("a begins", 2 + number)
                await eventually(partial(begun_alone, ledger, number))
                child = [line for line in ledger.lines if line.startswith("a in ")][-1].split()[2]
                os.kill(int(child), signal.SIGKILL)
            [ended] = await ends(server, [run])
            assert (ended.state, ended.error.reason) == (run_pb2.RUN_STATE_FAILED, "worker_lost")
            assert "killed by SIGKILL" in ended.error.message
            assert outcomes(ended) == ["worker_lost"] * 4 + ["finished"]
            assert [attempt.HasField("end_time") for attempt in ended.attempts] == [False, False, True, True, True]
            assert worker.errors.count("its process was killed by SIGKILL") == 2
