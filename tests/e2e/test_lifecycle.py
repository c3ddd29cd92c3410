"""What becomes of runs and streams when processes are stopped, killed or kept busy."""

import asyncio
import sqlite3
import time
from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc, run_pb2
from runwire.client import AgentClient, supply
from runwire.fold import fold
from runwire.values import from_value
from tests.e2e.ledger import Ledger
from tests.e2e.processes import AgentProcess, Processes, processes
from tests.e2e.proof import client, followed, prove_requests, prove_run
from tests.servers import free_port

pytestmark = pytest.mark.timeout(120)
LIMIT_SECONDS = 60.0


def outcomes(run: run_pb2.Run) -> list[str]:
    return [attempt.outcome for attempt in run.attempts]


async def until(address: str, run_id: str, payload: str) -> None:
    """Returns when a reader has seen an event of this kind."""
    async with asyncio.timeout(LIMIT_SECONDS), client(address) as agent, agent.watch(run_id) as stream:
        async for event in stream:
            if event.HasField(payload):  # type: ignore[arg-type]
                return
    raise AssertionError(f"it ended without {payload}")


async def frames_until_end(
    address: str, run_id: str, opened: asyncio.Semaphore
) -> tuple[list[pb.WatchRunResponse], grpc.StatusCode]:
    """All frames of one stream, and its status; `opened` is told of the first."""
    frames: list[pb.WatchRunResponse] = []
    async with asyncio.timeout(LIMIT_SECONDS), grpc.aio.insecure_channel(address) as channel:
        call: Any = agent_service_pb2_grpc.AgentServiceStub(channel).WatchRun(pb.WatchRunRequest(run_id=run_id))
        try:
            async for frame in call:
                frames.append(frame)
                if frame.HasField("opened"):
                    opened.release()
        except grpc.aio.AioRpcError:
            pass
        return frames, await call.code()


async def test_sigterm(sqlite_url: str, ledger: Ledger) -> None:
    """SIGTERM: every stream gets `closing` and UNAVAILABLE, runs that end within the grace end there, the others are
    handed back and finished elsewhere at once, the process says nothing wrong and exits with 0."""
    with processes(sqlite_url, **ledger.environment, RUNWIRE_LEASE_SECONDS=60) as start:
        first, other = start.start_all("all", "serve", environment={"RUNWIRE_SHUTDOWN_GRACE_SECONDS": 4})
        async with client(first.address) as agent:
            short = await agent.start_run("owned", {"name": "short", "count": 20, "pause": 0.05})
            long = await agent.start_run("hangs", "long")
        await ledger.wait_for("long hangs")
        async with asyncio.TaskGroup() as group:
            opened = asyncio.Semaphore(0)
            streams = [
                # Of the run that has not ended by then, however long it takes to open them.
                group.create_task(frames_until_end(first.address, long.run_id, opened))
                for _ in range(10)
            ]
            reader = group.create_task(followed(other.address, short.run_id))
            for _ in streams:
                await opened.acquire()
            first.terminate()
        for stream in streams:
            frames, code = stream.result()
            assert code is grpc.StatusCode.UNAVAILABLE
            assert frames[-1].closing.reason == pb.CLOSE_REASON_DRAINING
        assert await first.wait() == 0
        assert "Traceback" not in first.errors
        assert "ERROR" not in first.errors
        ended, _ = await prove_run(sqlite_url, other.address, short.run_id, reader.result())
        assert outcomes(ended) == ["finished"]
        async with client(other.address) as agent:
            assert outcomes(await agent.get_run(long.run_id)) == ["released"]
            begun = time.monotonic()
            start.start("work")
            await ledger.wait_for("long hangs", 2)
            # Far below the lease: it was handed back, and not found by its end.
            assert time.monotonic() - begun < 30
            await agent.cancel_run(long.run_id)
            await until(other.address, long.run_id, "run_finished")


async def test_sigterm_when_idle(store_url: str) -> None:
    """A process with nothing to do ends at once, by SIGTERM and by SIGINT, whatever its role."""
    with processes(store_url) as start:
        for process in start.start_all("all", "serve", "work"):
            begun = time.monotonic()
            process.terminate()
            assert await process.wait() == 0
            assert time.monotonic() - begun < 10
            assert "Traceback" not in process.errors


@pytest.mark.chaos
async def test_sigterm_with_an_agent_that_does_not_end(sqlite_url: str, ledger: Ledger) -> None:
    """An agent that swallows its cancellation cannot keep the process: its run is handed back, and the process ends,
    soon after the grace, saying that something was wrong."""
    with processes(sqlite_url, **ledger.environment, RUNWIRE_SHUTDOWN_GRACE_SECONDS=0.2) as start:
        server, worker = start.start_all("serve", "work")
        async with client(server.address) as agent:
            run = await agent.start_run("stubborn", "run")
            await ledger.wait_for("run is stubborn")
            begun = time.monotonic()
            worker.terminate()
            assert await worker.wait() == 1
            assert time.monotonic() - begun < 25
            assert "does not end" in worker.errors
            assert outcomes(await agent.get_run(run.run_id)) == ["released"]


@pytest.mark.chaos
async def test_sigterm_while_the_store_does_not_answer(sqlite_url: str, ledger: Ledger) -> None:
    """A process whose store is kept by somebody else ends all the same, soon after the grace; its run continues
    elsewhere once the store answers."""
    with processes(sqlite_url, **ledger.environment, RUNWIRE_SHUTDOWN_GRACE_SECONDS=0.2) as start:
        server, worker = start.start_all("serve", "work")
        async with client(server.address) as agent:
            run = await agent.start_run("owned", {"name": "run", "count": 60, "pause": 0.05})
            await ledger.wait_for_value("run pid ")
            with sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None) as other:
                other.execute("BEGIN IMMEDIATE")
                worker.terminate()
                assert await worker.wait() == 1
                other.execute("ROLLBACK")
            other.close()
            await asyncio.to_thread(start.start, "work")
            events = await followed(server.address, run.run_id)
        ended, view = await prove_run(sqlite_url, server.address, run.run_id, events)
    assert ended.state == run_pb2.RUN_STATE_SUCCEEDED
    assert view.text == "".join(f"{number} " for number in range(60))


async def test_a_client_finds_the_next_server(sqlite_url: str, ledger: Ledger) -> None:
    """A server is stopped and another one takes its address: the client's stream continues without a gap."""
    address = f"127.0.0.1:{free_port()}"
    with processes(sqlite_url, **ledger.environment) as start:
        server = start.start("serve", listen=address)
        start.start("work")
        async with asyncio.TaskGroup() as group:
            async with client(address) as agent:
                run = await agent.start_run("owned", {"name": "run", "count": 60, "pause": 0.05})
            reader = group.create_task(followed(address, run.run_id))
            for _ in range(2):
                await asyncio.sleep(0.5)
                server.terminate()
                assert await server.wait() == 0
                server = await asyncio.to_thread(start.start, "serve", listen=address)
        await prove_run(sqlite_url, address, run.run_id, reader.result())


async def test_an_answer_after_everything_was_killed(store_url: str, ledger: Ledger) -> None:
    """A run that waits for a person survives the death of every process: it is answered on another one and continues
    where it was."""
    with processes(store_url, **ledger.environment, RUNWIRE_LEASE_SECONDS=30) as start:
        first = start.start("all")
        async with client(first.address) as agent:
            run = await agent.start_run("asks", "run")
        await until(first.address, run.run_id, "run_suspended")
        first.kill()
        second = start.start("serve")  # one that works might begin the next step before it is killed
        async with client(second.address) as agent:
            waiting = await agent.get_run(run.run_id)
            assert waiting.state == run_pb2.RUN_STATE_SUSPENDED
            assert from_value(waiting.pending[0].arguments) == {"about": "run"}
            await agent.resume_run(run.run_id, [supply("suspend/question", "forty-two")])
        second.kill()
        third = start.start("all")
        events = await followed(third.address, run.run_id)
        ended, _ = await prove_run(store_url, third.address, run.run_id, events)
    assert (ended.state, from_value(ended.output)) == (run_pb2.RUN_STATE_SUCCEEDED, "forty-two")
    assert ledger.done == {"run before": 1, "run after": 1}


async def test_a_sleep_across_a_restart(store_url: str, ledger: Ledger) -> None:
    """A sleeping run holds no worker, survives the death of every process, and wakes at its moment."""
    with processes(store_url, **ledger.environment, RUNWIRE_LEASE_SECONDS=30) as start:
        first = start.start("all")
        async with client(first.address) as agent:
            run = await agent.start_run("sleeps", {"name": "run", "seconds": 4})
        await until(first.address, run.run_id, "run_suspended")
        first.kill()
        second = start.start("all")
        events = await followed(second.address, run.run_id)
        ended, _ = await prove_run(store_url, second.address, run.run_id, events)
    assert from_value(ended.output) == "awake"
    assert ended.end_time.ToMicroseconds() - ended.start_time.ToMicroseconds() >= 4_000_000
    assert outcomes(ended) == ["suspended", "finished"]
    assert ledger.done == {"run before": 1, "run after": 1}


async def test_cancel_from_another_replica(store_url: str, ledger: Ledger) -> None:
    """CancelRun at a process that only serves stops the run in the process that executes it."""
    with processes(store_url, **ledger.environment, RUNWIRE_LEASE_SECONDS=30) as start:
        server, _ = start.start_all("serve", "work")
        async with client(server.address) as agent:
            run = await agent.start_run("hangs", "run")
            await until(server.address, run.run_id, "text_delta")
            await agent.cancel_run(run.run_id, reason="enough")
            events = await followed(server.address, run.run_id)
        ended, view = await prove_run(store_url, server.address, run.run_id, events)
    assert ended.state == run_pb2.RUN_STATE_CANCELLED
    assert view.text == "hanging"
    assert outcomes(ended) == ["finished"]


async def supervised(start: Processes, stop: asyncio.Event, **given: Any) -> int:
    """Starts a worker again whenever it has died, as a supervisor does; returns how often it died."""
    deaths = 0
    while not stop.is_set():
        worker = await asyncio.to_thread(start.launch, "work", **given)
        async with asyncio.TaskGroup() as group:
            dying, stopping = group.create_task(worker.wait(900.0)), group.create_task(stop.wait())
            await asyncio.wait({dying, stopping}, return_when=asyncio.FIRST_COMPLETED)
            deaths += not worker.running
            worker.kill()
            stopping.cancel()
    return deaths


async def test_a_run_that_kills_its_worker(sqlite_url: str, ledger: Ledger) -> None:
    """A run whose agent ends its process costs two workers; from then on it is executed in processes of its own, and it
    fails with `worker_lost` after a bounded number of attempts. Other runs of those workers come to their ends."""
    with processes(sqlite_url, **ledger.environment, RUNWIRE_MAX_LOSSES=3) as start:
        server = start.start("serve")
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            supervising = group.create_task(supervised(start, stop))
            async with client(server.address) as agent:
                bad = await agent.start_run("kills", "bad")
                good = await agent.start_run("twenty", {"name": "good", "pause": 0.01})
            events = await followed(server.address, bad.run_id)
            await followed(server.address, good.run_id)
            stop.set()
        ended, _ = await prove_run(sqlite_url, server.address, bad.run_id, events)
    assert (ended.state, ended.error.reason) == (run_pb2.RUN_STATE_FAILED, "worker_lost")
    assert (ledger.done["bad kills"], supervising.result()) == (5, 2)
    assert outcomes(ended) == ["worker_lost"] * 5 + ["finished"]


async def test_a_blocked_event_loop_keeps_its_lease(store_url: str, ledger: Ledger) -> None:
    """An agent that blocks its process for longer than the lease is executed once: no other worker takes its run, and
    the runs beside it continue where they are."""
    with processes(store_url, **ledger.environment, RUNWIRE_LEASE_SECONDS=2) as start:
        server, *_ = start.start_all("serve", "work", "work")
        async with client(server.address) as agent:
            run = await agent.start_run("blocks", {"name": "run", "seconds": 5})
            events = await followed(server.address, run.run_id)
        ended, _ = await prove_run(store_url, server.address, run.run_id, events)
    assert (ended.state, ended.attempt) == (run_pb2.RUN_STATE_SUCCEEDED, 1)
    assert ledger.done == {"run blocks": 1}


async def test_a_deadline_after_its_worker_died(sqlite_url: str, ledger: Ledger) -> None:
    """A run whose worker is dead when its timeout passes is ended by the next worker, which does not execute it."""
    with processes(sqlite_url, **ledger.environment) as start:
        server, worker = start.start_all("serve", "work")
        async with client(server.address) as agent:
            run = await agent.start_run("hangs", "run", run_timeout=2.0)
            await ledger.wait_for("run hangs")
            worker.kill()
            await asyncio.sleep(2.0)
            start.start("work")
            events = await followed(server.address, run.run_id)
        ended, _ = await prove_run(sqlite_url, server.address, run.run_id, events)
    assert (ended.state, ended.error.reason) == (run_pb2.RUN_STATE_FAILED, "deadline_exceeded")
    assert ledger.done == {"run hangs": 1}


async def test_a_deadline_in_a_blocked_process_is_kept_when_it_can_be(sqlite_url: str, ledger: Ledger) -> None:
    """A timeout that passes while the event loop is blocked is found as soon as it is free."""
    with processes(sqlite_url, **ledger.environment) as start:
        server, _ = start.start_all("serve", "work")
        async with client(server.address) as agent:
            run = await agent.start_run("blocks", {"name": "run", "seconds": 2}, run_timeout=1.0)
            events = await followed(server.address, run.run_id)
    view = fold(events)
    assert view.state in (run_pb2.RUN_STATE_FAILED, run_pb2.RUN_STATE_SUCCEEDED)
    assert view.text == "blocking "


async def test_scorers_are_asked_although_everything_dies_at_the_end(store_url: str, ledger: Ledger) -> None:
    """The requests to scorers are there although all processes are killed in the moment a reader sees the end."""
    with processes(store_url, **ledger.environment) as start:
        process = start.start("all")
        runs: list[str] = []
        async with client(process.address) as agent:
            for number in range(3):
                run = await agent.start_run("twenty", {"name": str(number), "pause": 0})
                runs.append(run.run_id)
        await killed_at_the_end(process, runs[-1])
        await prove_ended_asked(store_url, start.start("serve"), runs)


async def killed_at_the_end(process: AgentProcess, run_id: str) -> None:
    await until(process.address, run_id, "run_finished")
    process.kill()


async def prove_ended_asked(url: str, server: AgentProcess, runs: Sequence[str]) -> None:
    """Every run that has ended has asked; one that has not ended has not."""
    async with client(server.address) as agent:
        ended = [run_id for run_id in runs if (await agent.get_run(run_id)).state == run_pb2.RUN_STATE_SUCCEEDED]
    assert runs[-1] in ended
    await prove_requests(url, {run_id: ["s"] for run_id in ended})


async def test_the_same_request_at_two_processes(store_url: str, ledger: Ledger) -> None:
    """StartRun with one request id, at once at two processes: one run, executed once."""
    with processes(store_url, **ledger.environment) as start:
        servers = start.start_all("all", "all")
        async with AgentClient(servers[0].address) as one, AgentClient(servers[1].address) as two:
            runs = await asyncio.gather(
                *(agent.start_run("asks", "same", request_id="same") for agent in (one, two) * 10)
            )
            assert len({run.run_id for run in runs}) == 1
            await ledger.wait_for("same before")
            await until(servers[1].address, runs[0].run_id, "run_suspended")
    assert ledger.done == {"same before": 1}


async def test_a_file_that_two_processes_create_at_once(sqlite_url: str, ledger: Ledger) -> None:
    """Processes that start on a file that is not there yet all come up, and share it."""
    with processes(sqlite_url, **ledger.environment) as start:
        servers = start.start_all("all", "all", "all", "all")
        async with client(servers[0].address) as agent:
            run = await agent.start_run("count", {"count": 3})
        logs = [await followed(server.address, run.run_id) for server in servers]
    assert all(log == logs[0] for log in logs)
