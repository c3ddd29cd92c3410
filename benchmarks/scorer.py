"""Persisted scorer runs a second of one worker process, beside job libraries that persist a row a job.

    make bench-scorer                      everything; peers go into .venv-bench
    make bench-scorer ARGS="--rounds 1"    quicker
    make bench-scorer ARGS=--only-rows     the cost of intake, claim and finish per row

All requests wait in Redis when a worker starts. The rate is that of the rows: from the first to the last, by their
own times. Rounds are interleaved, the medians are shown. All of them sync each transaction to disk.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.engine import Connection

from runwire.connect import open_store
from runwire.pubsub import Commit, Message, Schedule
from runwire.scorer.v1 import scorer_run_requested_pb2
from scorer_service.queue.jobs import Jobs, Offer
from scorer_service.results.database import open_database
from scorer_service.results.migrate import migrate
from scorer_service.results.records import Finished, NewRun, ScoreRecord, State
from tests.servers import PostgresServer, RedisServer, postgres_folders, redis_servers, start_redis

ROOT: Final = Path(__file__).parent.parent
BENCH_VENV: Final = ROOT / ".venv-bench"
PEERS: Final = ["dramatiq[redis]==2.2.0", "taskiq-redis==1.2.4", "aiosqlite", "asyncpg", "psycopg[binary]"]
SAMPLE: Final = "A cursor is a position in the log of a run. " * 10
LIMIT_SECONDS: Final = 180.0


def prepare_peers() -> Path:
    """The peers' own environment; nothing of ours depends on them."""
    python = BENCH_VENV / "bin" / "python"
    if not (BENCH_VENV / ".installed").exists():
        print(f"installing {', '.join(PEERS)} into {BENCH_VENV.name}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(BENCH_VENV)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PEERS], check=True)
        (BENCH_VENV / ".installed").touch()
    return python


class SyncingPostgres(PostgresServer):
    """A PostgreSQL that syncs each transaction to disk, which that of the tests does not."""

    def command(self) -> list[str]:
        return [*super().command(), "-c", "fsync=on", "-c", "synchronous_commit=on"]


def start_syncing_postgres() -> PostgresServer:
    return SyncingPostgres(postgres_folders()[0]).start()


class Worker:
    """One worker process, ended with all its children."""

    def __init__(self, command: list[str], environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment},
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def cpu_seconds(self) -> float:
        """Of the process and its children, so far."""
        return sum(seconds for group, _, seconds in _processes() if group == self._process.pid)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def _processes() -> Iterator[tuple[int, int, float]]:
    """Process group, parent and seconds of processor time of every process."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        yield int(fields[2]), int(fields[1]), (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Rate:
    """What a round came to."""

    rows_a_second: float
    cpu_microseconds: float
    """Of worker and database, for a row."""


def measure(count: int, table: Results, worker: Worker, postgres: PostgresServer) -> Rate:
    """Waits until all rows are there. Processor time counts from the first rows on, so that starting does not."""

    def cpu() -> float:
        database = sum(seconds for _, parent, seconds in _processes() if parent == postgres.pid)
        return worker.cpu_seconds() + database

    wait_for(1, lambda: table.times()[0], 0.01)
    before, cpu_before = table.times()[0], cpu()
    wait_for(count, lambda: table.times()[0], 0.5)
    spent = cpu() - cpu_before
    _, first, last = table.times()
    return Rate((count - 1) / (last - first), spent / max(1, count - before) * 1e6)


def wait_for(count: int, rows: Callable[[], int], pause: float) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while rows() < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"only {rows()} of {count} rows after {LIMIT_SECONDS:g} s")
        time.sleep(pause)


# Ours


async def _send(url: str, count: int) -> None:
    async with open_store(url) as store:
        bodies = []
        for number in range(count):
            message = scorer_run_requested_pb2.ScorerRunRequested(
                scorer_run_id=f"{number:032x}", tenant="default", scorer_id="no-op"
            )
            message.sample.run_id = f"run-{number}"
            message.sample.output.string_value = SAMPLE
            message.sampling.rate, message.sampling.sampled = 1.0, True
            bodies.append(Message("scorer-requests", message.SerializeToString()))
        for start in range(0, count, 200):
            topic = f"default/{uuid.uuid4().hex}"
            messages = bodies[start : start + 200]
            await store.commit(Commit(topic, create=True, queue="none", schedule=Schedule.NEVER, messages=messages))


async def _migrate(url: str) -> None:
    async with open_database(url) as database:
        await migrate(database)


_DONE: Final = f"SELECT count(*), min(end_time), max(end_time) FROM scorer_runs WHERE state = {int(State.SUCCEEDED)}"


def ours(redis: RedisServer, postgres: PostgresServer, results: str, count: int) -> Rate:
    """One process of the scorer service."""
    redis.execute("FLUSHALL")
    asyncio.run(_send(redis.url, count))
    asyncio.run(_migrate(results))
    table = Results(results, _DONE)
    environment = {
        "RUNWIRE_STORE": redis.url,
        "RUNWIRE_RESULTS": results,
        "RUNWIRE_SCORERS": "benchmarks.scorer_noop",
        "RUNWIRE_SCORER_LISTEN": "127.0.0.1:0",
        "RUNWIRE_LOG_LEVEL": "ERROR",
        "RUNWIRE_SCORER_CONCURRENCY": "1024",  # it claims as many at once, and a no-op needs no more care
    }
    with Worker([sys.executable, "-m", "scorer_service"], environment) as worker:
        return measure(count, table, worker, postgres)


# Peers

_TABLE: Final = "CREATE TABLE results (job_id INTEGER PRIMARY KEY, score DOUBLE PRECISION, done DOUBLE PRECISION)"
_ASK: Final = "SELECT count(*), min(done), max(done) FROM results"


class Results:
    """Asks a database how far it is."""

    def __init__(self, url: str, question: str) -> None:
        self._url = url
        self._question = question

    def make(self) -> None:
        """Makes the table that a peer writes to."""
        self._run(_TABLE)

    def _run(self, statement: str) -> Any:
        if self._url.startswith("sqlite"):
            with sqlite3.connect(self._url.removeprefix("sqlite:///"), timeout=30) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                return connection.execute(statement).fetchone()
        return asyncio.run(_run_postgres(self._url, statement))

    def times(self) -> tuple[int, float, float]:
        count, first, last = self._run(self._question)
        return int(count), float(first or 0), float(last or 0)


async def _run_postgres(url: str, statement: str) -> Any:
    import asyncpg

    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchrow(statement)
    finally:
        await connection.close()


def peer(name: str, python: Path, redis: RedisServer, postgres: PostgresServer, results: str, count: int) -> Rate:
    """One worker process of a job library, 32 jobs at once."""
    redis.execute("FLUSHALL")
    table = Results(results, _ASK)
    table.make()
    environment = {"BENCH_REDIS": redis.url, "BENCH_RESULTS": results, "PYTHONPATH": str(ROOT)}
    enqueue = [str(python), "-m", "benchmarks.scorer_peers.enqueue", name, str(count)]
    subprocess.run(enqueue, cwd=ROOT, env={**os.environ, **environment}, check=True)
    scripts = python.parent
    commands = {
        "dramatiq": [scripts / "dramatiq", "benchmarks.scorer_peers.dramatiq_worker", "-p", "1", "-t", "32"],
        "taskiq": [
            scripts / "taskiq",
            "worker",
            "benchmarks.scorer_peers.taskiq_worker:broker",
            "-w",
            "1",
            "--max-async-tasks",
            "32",
        ],
    }
    with Worker([str(word) for word in commands[name]], environment) as worker:
        return measure(count, table, worker, postgres)


# Rows


async def _row_costs(url: str, count: int, batch: int) -> tuple[float, float, float, float]:
    """Microseconds a row of intake, claim and finish, and the bytes that it takes with its sample and all indexes."""
    async with open_database(url) as database:
        await migrate(database)
        empty = await database.read(_size)
        jobs = Jobs(database, worker="bench")
        await jobs.register(["no-op"])
        rows = [
            NewRun(uuid.uuid4().hex, "default", "no-op", run_id=f"run-{n}", sample=f"{SAMPLE}{n}".encode())
            for n in range(count)
        ]
        spent = [0.0, 0.0, 0.0]
        for start in range(0, count, 256):
            began = time.perf_counter()
            await jobs.add(rows[start : start + 256])
            spent[0] += time.perf_counter() - began
        score = ScoreRecord(1.0, "", "", "{}", 1, None)
        for _ in range(count // batch):
            began = time.perf_counter()
            claimed = (await jobs.claim({"no-op": Offer(batch)}, batch)).jobs
            between = time.perf_counter()
            await jobs.finish([Finished(job, State.SUCCEEDED, "1", score) for job in claimed])
            spent[1] += between - began
            spent[2] += time.perf_counter() - between
        size = await database.read(_size) - empty
    claimed_rows = count // batch * batch
    return spent[0] / count * 1e6, spent[1] / claimed_rows * 1e6, spent[2] / claimed_rows * 1e6, size / count


def _size(connection: Connection) -> int:
    """Bytes of the database."""
    if connection.dialect.name == "postgresql":
        return int(connection.execute(text("SELECT pg_database_size(current_database())")).scalar_one())
    pages = [int(connection.execute(text(f"PRAGMA {what}")).scalar_one()) for what in ("page_count", "page_size")]
    return pages[0] * pages[1]


def show_rows(postgres: PostgresServer, folder: Path, count: int) -> None:
    print("| microseconds a row | batch | intake (256) | claim | finish | bytes a row |")
    print("|---|--:|--:|--:|--:|--:|")
    for batch in (1, 64, 256):
        number = min(count, 300 if batch == 1 else count)
        for engine in ("SQLite", "PostgreSQL"):
            url = _fresh(engine, postgres, folder)
            costs = asyncio.run(_row_costs(url, number, batch))
            print(f"| {engine} | {batch} | " + " | ".join(f"{cost:.0f}" for cost in costs) + " |")


def _fresh(engine: str, postgres: PostgresServer, folder: Path) -> str:
    if engine == "SQLite":
        return f"sqlite:///{folder}/{uuid.uuid4().hex}.db"
    return postgres.url(postgres.create_database())


def show_rates(redis: RedisServer, postgres: PostgresServer, folder: Path, rounds: int, count: int) -> None:
    python = prepare_peers()
    peer_count = max(500, count // 4)
    runs: dict[tuple[str, str], list[Rate]] = {}
    for _ in range(rounds):
        for engine in ("SQLite", "PostgreSQL"):
            contenders: list[tuple[str, Callable[[str], Rate]]] = [
                ("runwire", lambda url: ours(redis, postgres, url, count)),
                ("dramatiq", lambda url: peer("dramatiq", python, redis, postgres, url, peer_count)),
                ("taskiq-redis", lambda url: peer("taskiq", python, redis, postgres, url, peer_count)),
            ]
            for name, contender in contenders:
                rate = contender(_fresh(engine, postgres, folder))
                runs.setdefault((engine, name), []).append(rate)
                print(
                    f"{engine} {name}: {rate.rows_a_second:.0f} rows/s, {rate.cpu_microseconds:.0f} us", file=sys.stderr
                )
    rates = {key: statistics.median(rate.rows_a_second for rate in found) for key, found in runs.items()}
    costs = {key: statistics.median(rate.cpu_microseconds for rate in found) for key, found in runs.items()}
    print("| one worker process, a row a job | SQLite rows/s | PostgreSQL rows/s | SQLite CPU | PostgreSQL CPU |")
    print("|---|--:|--:|--:|--:|")
    for name in ("runwire", "dramatiq", "taskiq-redis"):
        cells = [f"{rates[engine, name]:.0f}" for engine in ("SQLite", "PostgreSQL")]
        cells += [f"{costs[engine, name]:.0f} us" for engine in ("SQLite", "PostgreSQL")]
        print(f"| {name} | {' | '.join(cells)} |")
    print(
        "\nCPU: processor time of worker and database for a row, which does not depend on what else the machine does."
    )
    for engine in ("SQLite", "PostgreSQL"):
        best = max(rates[engine, "dramatiq"], rates[engine, "taskiq-redis"])
        least = min(costs[engine, "dramatiq"], costs[engine, "taskiq-redis"])
        print(
            f"{engine}: {rates[engine, 'runwire'] / best:.1f} x the rows/s of the better peer (target 3 x), "
            f"1/{least / costs[engine, 'runwire']:.1f} of the processor time of the better peer"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=10_000, help="scorer runs a round (peers: a quarter)")
    parser.add_argument("--only-rows", action="store_true")
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="runwire-bench-") as folder,
        start_redis(redis_servers()[-1]) as redis,
        start_syncing_postgres() as postgres,
    ):
        if not given.only_rows:
            show_rates(redis, postgres, Path(folder), given.rounds, given.count)
            print()
        show_rows(postgres, Path(folder), min(given.count, 5_000))


if __name__ == "__main__":
    main()
