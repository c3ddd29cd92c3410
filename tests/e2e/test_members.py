"""`--processes 2`: one command, two processes on one port."""

import asyncio
import os
import signal
import socket
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import run_pb2
from tests.e2e.ledger import Ledger
from tests.e2e.processes import AgentProcess, processes
from tests.e2e.proof import client, followed, prove_requests, prove_run
from tests.e2e.test_lifecycle import frames_until_end
from tests.servers import free_port

pytestmark = pytest.mark.timeout(120)
LIMIT_SECONDS = 60.0
TWO = ("--processes", "2")


def members(process: AgentProcess) -> list[int]:
    """Process ids of those that a supervisor has started and that live."""
    found: list[int] = []
    for task in Path(f"/proc/{process.pid}/task").iterdir():
        found += map(int, (task / "children").read_text().split())
    return sorted(found)


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_each_of_them_killed(store_url: str, ledger: Ledger) -> None:
    """kill -9 of one process and then of the other, while 6 runs speak and are followed: each is started again and that
    is said, and every run ends as it would have, read whole and with its scorers asked once."""
    with processes(store_url, **ledger.environment) as start:
        service = start.start(arguments=TWO)
        first = members(service)
        assert len(first) == 2
        async with client(service.address) as agent:
            runs = [
                (await agent.start_run("owned", {"name": f"run {n}", "count": 60, "pause": 0.05})).run_id
                for n in range(6)
            ]
        async with asyncio.TaskGroup() as group:
            await asyncio.gather(*(ledger.wait_for_value(f"run {number} pid ") for number in range(6)))
            readers = [group.create_task(followed(service.address, run_id)) for run_id in runs]
            for number, pid in enumerate(first, start=1):
                os.kill(pid, signal.SIGKILL)
                await until(lambda number=number: service.errors.count("answers again") == number)  # type: ignore[misc]
        for run_id, reader in zip(runs, readers, strict=True):
            run, _ = await prove_run(store_url, service.address, run_id, reader.result())
            assert run.state == run_pb2.RUN_STATE_SUCCEEDED
        await prove_requests(store_url, {run_id: ["s", "t"] for run_id in runs})
        assert service.errors.count("was killed by SIGKILL; it is started again") == 2
        assert not set(first) & set(members(service))
        service.terminate()
        assert await service.wait() == 0


async def test_all_drain_as_one(sqlite_url: str, ledger: Ledger) -> None:
    """SIGTERM to the first process: whoever watches health hears it, streams of both get `closing`, runs that end
    within the grace end, others are handed back, and all processes are gone, with exit code 0."""
    with processes(sqlite_url, **ledger.environment, RUNWIRE_LEASE_SECONDS=60) as start:
        service = start.start(arguments=TWO, environment={"RUNWIRE_SHUTDOWN_GRACE_SECONDS": 3})
        all_of_them = members(service)
        async with client(service.address) as agent:
            short = await agent.start_run("owned", {"name": "short", "count": 20, "pause": 0.05})
            long = await agent.start_run("hangs", "long")
        await ledger.wait_for("long hangs")
        async with asyncio.TaskGroup() as group:
            opened = asyncio.Semaphore(0)
            streams = [group.create_task(frames_until_end(service.address, long.run_id, opened)) for _ in range(12)]
            watched = asyncio.Event()
            health = [group.create_task(_states(service.address, watched)) for _ in range(4)]
            for _ in streams:
                await opened.acquire()
            await watched.wait()
            service.terminate()
        for stream in streams:
            frames, code = stream.result()
            assert code is grpc.StatusCode.UNAVAILABLE
            assert frames[-1].closing.reason == pb.CLOSE_REASON_DRAINING
        serving = health_pb2.HealthCheckResponse
        assert all(task.result() == [serving.SERVING, serving.NOT_SERVING] for task in health)
        assert await service.wait() == 0
        assert not any(map(_lives, all_of_them))
        assert "Traceback" not in service.errors
        other = start.start("serve")
        async with client(other.address) as agent:
            assert (await agent.get_run(short.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
            assert (await agent.get_run(long.run_id)).attempts[-1].HasField("end_time")


async def _states(address: str, watched: asyncio.Event) -> list[int]:
    """What a watcher of health is told until its process ends."""
    found: list[int] = []
    async with asyncio.timeout(LIMIT_SECONDS), grpc.aio.insecure_channel(address) as channel:
        try:
            async for answer in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
                found.append(answer.status)
                watched.set()
        except grpc.aio.AioRpcError:
            pass
    return found


async def test_stopped_while_it_starts(sqlite_url: str) -> None:
    """SIGTERM while the first process is only being started, and has not read its order: nothing is wrong."""
    with processes(sqlite_url) as start:
        service = start.launch(arguments=TWO)
        await until(lambda: members(service))
        service.terminate()
        assert await service.wait() == 0
        assert "ERROR" not in service.errors


async def test_ctrl_c_while_it_starts(sqlite_url: str) -> None:
    """Ctrl-C reaches all processes of the terminal, also one that cannot heed it yet: nothing is wrong, as with
    SIGTERM."""
    with processes(sqlite_url) as start:
        service = start.launch(arguments=TWO)
        await until(lambda: members(service))
        os.killpg(service.pid, signal.SIGINT)
        assert await service.wait() == 0
        assert "Traceback" not in service.errors
        assert "ERROR" not in service.errors


async def test_nobody_stays_without_a_supervisor(sqlite_url: str, ledger: Ledger) -> None:
    """kill -9 of the supervisor: its processes drain and end, nobody holds the port, and another one takes it."""
    with processes(sqlite_url, **ledger.environment) as start:
        service = start.start(arguments=TWO)
        left = members(service)
        service.kill()
        await until(lambda: not any(_lives(pid) for pid in left))
        again = start.start(listen=service.address)
        assert again.address == service.address


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    "store, environment, said",
    [
        ("memory://", {}, "cannot share the store memory://"),
        ("sqlite:///{folder}/runs.db", {"RUNWIRE_AGENTS": "no.such.module"}, "no.such.module"),
        ("sqlite:///{folder}/runs.db", {"RUNWIRE_AGENT_LISTEN": "127.0.0.1:{taken}"}, "cannot listen on 127.0.0.1:"),
    ],
)
async def test_what_is_wrong_is_said_once(tmp_path: Path, store: str, environment: dict[str, str], said: str) -> None:
    """A wrong setting, which every one of them would find, ends all with one line and exit code 2."""
    with processes(store.format(folder=tmp_path)) as start, _taken() as taken:
        given = {name: value.format(taken=taken) for name, value in environment.items()}
        process = start.launch(arguments=TWO, environment=given)
        assert await process.wait() == 2
        assert said in process.errors
        assert process.errors.count("\n") == 1


@contextmanager
def _taken() -> Iterator[int]:
    """A port that somebody listens on, ready to share it."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield int(listening.getsockname()[1])


async def test_one_page_of_metrics(sqlite_url: str, ledger: Ledger) -> None:
    """The page counts the runs of all, also those of a process that was killed after it was asked."""
    with processes(sqlite_url, **ledger.environment) as start:
        page = f"127.0.0.1:{free_port()}"
        service = start.start(arguments=(*TWO, "--metrics", page))
        async with client(service.address) as agent:
            for number in range(6):
                run = await agent.start_run("owned", {"name": f"run {number}", "count": 2, "pause": 0.0})
                await followed(service.address, run.run_id)
        before = await asyncio.to_thread(_samples, page)
        assert _sum(before, "runwire_runs_accepted_total") == 6
        assert _sum(before, "runwire_runs_ended_total") == 6
        os.kill(members(service)[0], signal.SIGKILL)
        await until(lambda: "answers again" in service.errors)
        after = await asyncio.to_thread(_samples, page)
        assert _sum(after, "runwire_runs_ended_total") == 6
        assert all(after[name] >= count for name, count in before.items() if "_total" in name)


def _samples(page: str) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{page}/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    found = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
    assert max(Counter(line.rpartition(" ")[0] for line in lines).values()) == 1
    return found


def _sum(samples: dict[str, float], name: str) -> float:
    return sum(value for key, value in samples.items() if key.partition("{")[0] == name)
