"""The process: its first line, its exit codes, and what a signal does to it."""

from __future__ import annotations

import asyncio
import os
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from runwire.connect import open_store
from runwire.errors import ConfigurationError
from runwire.scorer.v1 import scorer_run_pb2 as S
from runwire.scorer.v1 import scorer_service_pb2 as pb
from runwire.scorer.v1 import scorer_service_pb2_grpc
from scorer_service import app, config
from scorer_service.results import schema
from tests.scorer.processes import ScorerProcess
from tests.scorer.stage import SCORERS, eventually, request, send
from tests.servers import free_port, start_postgres


@pytest.fixture
def urls(tmp_path: Path) -> dict[str, str]:
    """Store and results of a fresh embedded service."""
    return {
        "RUNWIRE_STORE": f"sqlite:///{tmp_path}/runs.db",
        "RUNWIRE_RESULTS": f"sqlite:///{tmp_path}/scores.db",
        "RUNWIRE_SCORERS": SCORERS,
        "RUNWIRE_SCORER_LEASE_SECONDS": "1",
    }


async def state_of(address: str, scorer_run_id: str) -> S.ScorerRun | None:
    """The scorer run as a process sees it; None while there is none."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = scorer_service_pb2_grpc.ScorerServiceStub(channel)
        try:
            response = await stub.GetScorerRun(pb.GetScorerRunRequest(scorer_run_id=scorer_run_id), timeout=5)
        except grpc.aio.AioRpcError as error:
            if error.code() == grpc.StatusCode.NOT_FOUND:
                return None
            raise
    return response.scorer_run  # type: ignore[no-any-return]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process that is to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "scorer_service", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **environment},
    )


async def test_it_says_where_it_listens_and_ends_in_order(urls: dict[str, str]) -> None:
    """The first line is the address; health is SERVING; SIGTERM ends it with 0, and nothing was complained of."""
    with ScorerProcess(environment=urls) as process:
        address = process.ready()
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            for name in ("", "runwire.scorer.v1.ScorerService"):
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert process.terminate() == 0
        assert process.line() == ""
        assert not [line for line in process.errors if "ERROR" in line or "Traceback" in line]


async def test_a_killed_worker_loses_nothing(urls: dict[str, str], tmp_path: Path) -> None:
    """kill -9 in the middle of the work: another process does it once the lease has ended."""
    gate = tmp_path / "gate"
    message = request("waiting", input=str(gate))
    with ScorerProcess(environment=urls) as first, ScorerProcess(environment=urls) as second:
        addresses = {first.ready(): first, second.ready(): second}
        async with open_store(urls["RUNWIRE_STORE"]) as store:
            await send(store, [message])

        async def is_running() -> bool:
            found = await state_of(next(iter(addresses)), message.scorer_run_id)
            return found is not None and found.state == S.SCORER_RUN_STATE_RUNNING

        await eventually(is_running)
        # The name of a worker holds its process id, so we know which of them has it.
        database = sqlite3.connect(tmp_path / "scores.db")
        ((worker,),) = database.execute("SELECT worker FROM scorer_runs").fetchall()
        database.close()
        holder = next(process for process in addresses.values() if f"-{process.pid}-" in worker)
        holder.kill()
        gate.touch()
        other = next(address for address, process in addresses.items() if process is not holder)

        async def is_done() -> bool:
            found = await state_of(other, message.scorer_run_id)
            return found is not None and found.state == S.SCORER_RUN_STATE_SUCCEEDED

        await eventually(is_done)
        found = await state_of(other, message.scorer_run_id)
        assert found is not None
        assert [attempt.error.reason for attempt in found.attempts] == ["worker_lost", ""]
        assert found.deliveries == 2


async def test_sigterm_hands_back(urls: dict[str, str], tmp_path: Path) -> None:
    """The next process does at once what the one before could not finish within its grace."""
    gate = tmp_path / "gate"
    message = request("waiting", input=str(gate))
    quick = {**urls, "RUNWIRE_SCORER_GRACE_SECONDS": "0.1", "RUNWIRE_SCORER_LEASE_SECONDS": "600"}
    with ScorerProcess(environment=quick) as process:
        address = process.ready()
        async with open_store(urls["RUNWIRE_STORE"]) as store:
            await send(store, [message])

        async def is_running() -> bool:
            found = await state_of(address, message.scorer_run_id)
            return found is not None and found.state == S.SCORER_RUN_STATE_RUNNING

        await eventually(is_running)
        assert process.terminate() == 0
    gate.touch()
    with ScorerProcess(environment=quick) as process:
        address = process.ready()

        async def is_done() -> bool:
            found = await state_of(address, message.scorer_run_id)
            return found is not None and found.state == S.SCORER_RUN_STATE_SUCCEEDED

        await eventually(is_done)


def test_two_processes_make_one_database(urls: dict[str, str]) -> None:
    """Both start on a file that is not there, and neither trips over the other's migration."""
    with ScorerProcess(environment=urls) as one, ScorerProcess(environment=urls) as two:
        assert one.ready() != two.ready()


def test_a_port_in_use(urls: dict[str, str]) -> None:
    """One line, exit code 2."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        ended = run("--listen", address, **urls)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.count("\n") == 1
    assert address in ended.stderr


@pytest.mark.parametrize(
    "given, words",
    [
        ({"listen": "nonsense"}, "HOST:PORT"),
        ({"scorers": "no_such_module"}, "no_such_module"),
        ({"scorers": "json"}, "has no scorers"),
        ({"scorers": "tests.scorer.scorers:missing"}, "no scorer"),
        ({"results": "mysql://somewhere/db"}, "mysql"),
        ({"results": "nonsense"}, "cannot be parsed"),
        ({"results": "sqlite://"}, "names no file"),
        ({"results": "sqlite:////proc/nowhere/scores.db"}, "folder"),
        ({"results": "sqlite:////proc/scores.db"}, "unable to open"),
        ({"results": f"sqlite:///{__file__}"}, "not a database"),
        ({"results": "postgresql://me@127.0.0.1:99999/scores"}, "port"),
        ({"scorer_lease_seconds": "inf"}, "scorer_lease_seconds"),
        ({"judge_rate": "nan"}, "judge_rate"),
        ({"store": "http://somewhere"}, "http"),
        ({"scorer_concurrency": 0}, "scorer_concurrency"),
        ({"judge_model": "nobody:nothing"}, "nobody:nothing"),
        ({"scorer_export": "carrier-pigeon"}, "scorer_export"),
        ({"log_level": "LOUD"}, "log_level"),
    ],
    ids=lambda value: " ".join(map(str, *value.items())) if isinstance(value, dict) else "",
)
async def test_every_wrong_setting_is_refused(tmp_path: Path, given: dict[str, Any], words: str) -> None:
    """Before anything is served, with what is wrong."""
    results = {"results": f"sqlite:///{tmp_path}/scores.db", "listen": "127.0.0.1:0", "store": "memory://"}
    with pytest.raises(ConfigurationError, match=words):
        await app.run(config.load(**{**results, **given}), print, asyncio.Event())


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--scorers", "no_such_module"], "no_such_module"),
        (["--concurrency", "0"], "scorer_concurrency"),
        (["migrate", "--results", "mysql://somewhere/db"], "mysql"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_settings(urls: dict[str, str], arguments: list[str], words: str) -> None:
    """One line that says what is wrong, exit code 2, nothing on standard output."""
    ended = run("--listen", "127.0.0.1:0", *arguments, **urls)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert words in ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr


def test_a_database_that_is_not_there(urls: dict[str, str]) -> None:
    """One line, exit code 3, and no password."""
    ended = run("--results", f"postgresql://me:secret@127.0.0.1:{free_port()}/scores", **urls)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert "secret" not in ended.stderr


def test_a_password_stays_unsaid(urls: dict[str, str]) -> None:
    """Also where the URL itself is wrong."""
    ended = run("--results", "oracle://me:secret@host/db", **urls)
    assert ended.returncode == 2
    assert "secret" not in ended.stderr


def test_a_server_is_migrated_when_it_is_asked_for(urls: dict[str, str], postgres_url: str) -> None:
    """Without its tables the service says what to run; `migrate` makes them, and says so again when there is nothing
    to do; then it starts."""
    ended = run("--results", postgres_url, **urls)
    assert ended.returncode == 2
    assert "python -m scorer_service migrate" in ended.stderr
    done = run("migrate", "--results", postgres_url)
    assert (done.returncode, done.stderr) == (0, "")
    assert schema.HEAD in done.stdout
    again = run("migrate", RUNWIRE_RESULTS=postgres_url)
    assert (again.returncode, again.stderr) == (0, "")
    with ScorerProcess("--results", postgres_url, environment=urls) as process:
        process.ready()


def test_a_database_that_refuses_us(urls: dict[str, str], postgres_url: str) -> None:
    """One line with what the server says, exit code 2."""
    for arguments in (["--results", f"{postgres_url}_other"], ["migrate", "--results", f"{postgres_url}_other"]):
        ended = run(*arguments, **urls)
        assert (ended.returncode, ended.stdout) == (2, "")
        assert "does not exist" in ended.stderr
        assert ended.stderr.count("\n") == 1, ended.stderr


async def test_a_service_waits_for_its_database(urls: dict[str, str]) -> None:
    """While a database is away, health says so and calls are UNAVAILABLE; afterwards the work continues."""
    with start_postgres() as server:
        environment = {**urls, "RUNWIRE_RESULTS": server.url(), "RUNWIRE_SCORER_MIGRATE": "true"}
        with ScorerProcess(environment=environment) as process:
            address = process.ready()
            await asyncio.to_thread(server.kill)
            async with open_store(urls["RUNWIRE_STORE"]) as store:
                await send(store, [request("brevity")])
            async with grpc.aio.insecure_channel(address) as channel:
                stub: Any = scorer_service_pb2_grpc.ScorerServiceStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.ListScorerRuns(pb.ListScorerRunsRequest(), timeout=10)
                assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
            await asyncio.to_thread(server.start)

            async def is_done() -> bool:
                try:
                    found = await state_of(address, request("brevity").scorer_run_id)
                except grpc.aio.AioRpcError:
                    return False
                return found is not None and found.state == S.SCORER_RUN_STATE_SUCCEEDED

            await eventually(is_done)
