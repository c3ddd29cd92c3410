"""Disaster: a backup taken beside running services, everything lost, and what readers, runs and scores make of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from runwire.agent.v1 import run_pb2
from runwire.client import ScorerClient, supply
from runwire.errors import CursorError, NotFound
from runwire.scorer.v1 import scorer_run_pb2
from tests.e2e.ledger import Ledger
from tests.e2e.processes import ROOT, processes
from tests.e2e.proof import client
from tests.redis.places import binary
from tests.scorer.processes import ScorerProcess
from tests.servers import PostgresServer, RedisServer, program, start_redis

RUNS = 12


def backup(*arguments: str, tools: Path = Path(), **environment: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    given = os.environ | {"PATH": path} | environment
    command = [sys.executable, str(ROOT / "deploy/backup.py"), *arguments]
    return subprocess.run(command, env=given, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Place:
    """Two stores, and services on them."""

    def __init__(self, store: str, results: str, ledger: Ledger) -> None:
        self._ledger = ledger
        self.environment = {"RUNWIRE_STORE": store, "RUNWIRE_RESULTS": results}

    def start(self, stack: ExitStack) -> tuple[str, str]:
        agents = stack.enter_context(processes(self.environment["RUNWIRE_STORE"], **self._ledger.environment)).start()
        given = self.environment | {"RUNWIRE_SCORERS": "tests.scorer.scorers", "RUNWIRE_SCORER_MIGRATE": "true"}
        scorers = stack.enter_context(ScorerProcess(environment=given | {"RUNWIRE_SCORER_LEASE_SECONDS": "1"}))
        return agents.address, scorers.ready()


async def end_of(runs: Any, run_id: str, after: str = "") -> run_pb2.Run:
    async with runs.watch(run_id, after=after) as stream:
        async for _ in stream:
            pass
    run: run_pb2.Run = await runs.get_run(run_id)
    return run


async def drill(old: Place, new: Place, folder: Path, restore: Any, tools: Path = Path()) -> None:
    """Runs end before the backup, are under way then, or begin later; then the backup is all there is."""
    with ExitStack() as stack:
        agents_address, scorers_address = old.start(stack)
        async with client(agents_address) as runs:
            done = [await runs.start_run("count", {"count": 3}, scorers=["brevity"]) for _ in range(RUNS)]
            for run in done:
                await end_of(runs, run.run_id)
            waiting = await runs.start_run("asks", "restored", scorers=["brevity"])
            async with runs.watch(waiting.run_id) as stream:
                async for event in stream:
                    if event.WhichOneof("payload") == "run_suspended":
                        break
                under_way = await runs.start_run("count", {"count": 20, "pause": 0.1}, scorers=["brevity"])
                saved = await asyncio.to_thread(backup, "save", str(folder), tools=tools, **old.environment)
                assert saved.returncode == 0, saved.stderr
                await runs.resume_run(waiting.run_id, [supply("suspend/question", "yes")])
                async for _ in stream:  # what comes now is not in the backup
                    pass
                cursor = stream.cursor
            later = await runs.start_run("count", {"count": 1})
    await restore()
    with ExitStack() as stack:
        agents_address, scorers_address = new.start(stack)
        async with client(agents_address) as runs, ScorerClient(scorers_address) as scores:
            with pytest.raises(CursorError):
                await end_of(runs, waiting.run_id, after=cursor)
            with pytest.raises(NotFound):
                await runs.get_run(later.run_id)
            assert (await runs.get_run(waiting.run_id)).state == run_pb2.RUN_STATE_SUSPENDED
            await runs.resume_run(waiting.run_id, [supply("suspend/question", "yes")])
            kept = [*done, waiting, under_way]
            for run in kept:
                assert (await end_of(runs, run.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
                async with scores.watch_scorer_runs(run.run_id) as stream:
                    async for _ in stream:
                        pass
            with pytest.raises(CursorError):
                await end_of(runs, waiting.run_id, after=cursor)
            rows = [row async for row in scores.list_scorer_runs()]
    assert sorted(row.run_id for row in rows) == sorted(run.run_id for run in kept)
    assert {row.state for row in rows} == {scorer_run_pb2.SCORER_RUN_STATE_SUCCEEDED}


async def test_on_sqlite(tmp_path: Path, ledger: Ledger) -> None:
    """After a restore every run of the backup succeeds and is scored once; a reader that saw more is told, and what
    came later is not there."""
    old = Place(f"sqlite:///{tmp_path}/runs.db", f"sqlite:///{tmp_path}/scores.db", ledger)
    new = Place(f"sqlite:///{tmp_path}/new-runs.db", f"sqlite:///{tmp_path}/new-scores.db", ledger)

    async def restore() -> None:
        said = await asyncio.to_thread(backup, "restore", str(tmp_path / "backup"), **new.environment)
        assert said.returncode == 0, said.stderr

    await drill(old, new, tmp_path / "backup", restore)


@pytest.mark.chaos
@pytest.mark.timeout(180)
async def test_on_redis_and_postgresql(
    tmp_path: Path, ledger: Ledger, postgres_server: PostgresServer, postgres_url: str, stack: ExitStack
) -> None:
    """The same past one machine: `redis-cli --rdb` and `pg_dump`, restored into another server and another database."""
    program("redis-cli")
    old_redis = stack.enter_context(start_redis(binary("valkey")))
    new_redis = RedisServer(binary("valkey"), "--dbfilename", "dump.rdb")
    name = postgres_server.create_database()
    old, new = Place(old_redis.url, postgres_url, ledger), Place(new_redis.url, postgres_server.url(name), ledger)

    tools = postgres_server.binaries

    async def restore() -> None:
        shutil.copy(tmp_path / "backup/runs.rdb", new_redis.directory / "dump.rdb")
        new_redis.start()
        stack.callback(new_redis.stop)
        said = await asyncio.to_thread(backup, "restore", str(tmp_path / "backup"), tools=tools, **new.environment)
        assert said.returncode == 0, said.stderr

    await drill(old, new, tmp_path / "backup", restore, tools)


def test_mistakes_are_told(tmp_path: Path) -> None:
    """A wrong use ends with 2; nothing is written over, and a failure never leaves a file that looks whole."""
    given = {"RUNWIRE_STORE": f"sqlite:///{tmp_path}/none.db", "RUNWIRE_RESULTS": f"sqlite:///{tmp_path}/none.db"}
    assert backup("keep", str(tmp_path)).returncode == 2
    said = backup("save", str(tmp_path / "b"), **given)
    assert (said.returncode, said.stderr.count("\n")) == (1, 1)
    assert list((tmp_path / "b").iterdir()) == []
    (tmp_path / "b/runs.sqlite").touch()
    (tmp_path / "there.db").touch()
    for words, store in (("never written over", "none.db"), ("move it away", "there.db")):
        verb = "save" if store == "none.db" else "restore"
        said = backup(verb, str(tmp_path / "b"), **given | {"RUNWIRE_STORE": f"sqlite:///{tmp_path}/{store}"})
        assert said.returncode == 1
        assert words in said.stderr
    said = backup("save", str(tmp_path / "c"), RUNWIRE_STORE="redis://u:hunter2@127.0.0.1:1/0")
    assert said.returncode == 1
    assert "hunter2" not in said.stdout + said.stderr
