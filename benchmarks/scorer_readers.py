"""What those who watch and count cost those who are scored.

    make bench-scorer-readers                           everything, on SQLite and PostgreSQL (minutes)
    make bench-scorer-readers ARGS="--engine sqlite"    one engine
    make bench-scorer-readers ARGS="--counted 0"        without the statistics of a million rows

A service process has `--rows` scorer runs that have ended, and is sent `--rate` requests a second: first in quiet, then
beside watches and askers of statistics in a process of their own. The time from request to score is that of the rows,
the ratio is of one run. Statistics of `--counted` rows are asked for ten times a second, as one process answers them.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.processes import cpu_seconds, service
from benchmarks.scorer import SAMPLE, start_syncing_postgres
from runwire.connect import open_store
from runwire.loop import repeat
from runwire.pubsub import Commit, Message, Schedule, Store
from runwire.scorer.v1 import scorer_run_requested_pb2, scorer_service_pb2_grpc
from runwire.scorer.v1 import scorer_service_pb2 as pb
from runwire.scorer_requests import scorer_run_id
from scorer_service.answers.statistics import Statistics
from scorer_service.answers.tallied import Window
from scorer_service.results.database import open_database
from scorer_service.results.migrate import migrate
from scorer_service.results.records import State
from tests.servers import PostgresServer, redis_servers, start_redis

CHANNELS: Final = 20
_TICK_SECONDS: Final = 0.02

_COLUMNS: Final = """
INSERT INTO scorer_runs (scorer_run_id, tenant, run_id, agent_id, scorer_id, scorer_version, wanted_version, state,
    priority, lane, claims, deliveries, create_time, start_time, end_time, rate, siblings, options, labels, traceparent,
    tracestate, sample_id, fingerprint, score_value, score_direction, score_metadata, revision)
"""
_VALUES: Final = """
SELECT {key}, 'default', 'old-' || (n / 3), 'agent-' || (n % 20), 'scorer-' || (n % 6), '1', '',
    CASE WHEN n % 10 = 0 THEN {failed} ELSE {succeeded} END, 1, 1, 1, 1, {now} - n * 0.5, {now} - n * 0.5 + 0.1,
    {now} - n * 0.5 + 0.1 + (n % 997) / 100.0, 1.0, 3, '{{}}', '{{}}', '', '', '', '',
    CASE WHEN n % 10 = 0 THEN NULL ELSE (n % 101) / 100.0 END, 1, '{{}}', 5
"""
_STATES: Final = {"failed": int(State.FAILED), "succeeded": int(State.SUCCEEDED)}


async def fill(url: str, rows: int) -> None:
    """A database with so many scorer runs that have ended, of six scorers."""
    async with open_database(url) as database:
        await migrate(database)
    now = time.time()
    if url.startswith("sqlite"):
        values = _VALUES.format(key="printf('%032x', n)", now=now, **_STATES)
        numbers = f"WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < {rows})"
        with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
            connection.execute(f"{_COLUMNS} {numbers} {values} FROM t")
            connection.execute("UPDATE counters SET value = 10 WHERE name = 'revision'")
            connection.execute("ANALYZE")
        return
    import asyncpg

    values = _VALUES.format(key="lpad(to_hex(n), 32, '0')", now=now, **_STATES)
    connection = await asyncpg.connect(url)
    await connection.execute(f"{_COLUMNS} {values} FROM generate_series(1, {rows}) AS n", timeout=300)
    await connection.execute("VACUUM ANALYZE scorer_runs", timeout=300)
    await connection.close()


# Requests


async def send(store: Store, name: str, rate: int, seconds: float) -> None:
    """Requests at a steady rate; each says when it was made."""
    began, sent = time.monotonic(), 0
    while (elapsed := time.monotonic() - began) < seconds:
        due = int(elapsed * rate) - sent
        messages = [Message("scorer-requests", _request(f"{name}-{sent + n}")) for n in range(due)]
        if messages:
            topic = f"default/{uuid.uuid4().hex}"
            await store.commit(Commit(topic, create=True, queue="none", schedule=Schedule.NEVER, messages=messages))
        sent += due
        await asyncio.sleep(_TICK_SECONDS)


def _request(run_id: str) -> bytes:
    message = scorer_run_requested_pb2.ScorerRunRequested(
        scorer_run_id=scorer_run_id("default", run_id, "no-op", ""), tenant="default", scorer_id="no-op"
    )
    message.sample.run_id = run_id
    message.sample.output.string_value = SAMPLE
    message.sampling.rate, message.sampling.sampled = 1.0, True
    message.sibling_count = 1
    message.request_time.GetCurrentTime()
    return message.SerializeToString()


async def latencies(url: str, name: str, skip: int) -> tuple[list[float], int]:
    """Seconds from request to score of those after the first `skip`, and how many have none yet."""
    from sqlalchemy import select

    from scorer_service.results.schema import scorer_runs

    row = scorer_runs.c
    query = select(row.run_id, row.end_time - row.create_time).where(
        row.scorer_id == "no-op", row.tenant == "default", row.run_id.like(f"{name}-%")
    )
    async with open_database(url) as database:
        lines = await database.read(lambda connection: connection.execute(query).all())
    late = [line[1] for line in lines if int(line[0].rpartition("-")[2]) >= skip]
    return sorted(seconds for seconds in late if seconds is not None), sum(seconds is None for seconds in late)


# Readers, in a process of their own


async def read(address: str, name: str, given: argparse.Namespace) -> None:
    """Watches and asks for a while; prints what it saw."""
    channels = [
        grpc.aio.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(CHANNELS)
    ]
    stubs: list[Any] = [scorer_service_pb2_grpc.ScorerServiceStub(channel) for channel in channels]
    frames, asked, checks, not_serving = [0], list[float](), [0], [0]

    async def watch(number: int) -> None:
        run_id = "" if number < given.everything else f"{name}-{number * 4}"
        request = pb.WatchScorerRunsRequest(run_id=run_id, all_runs=not run_id)
        async for _ in stubs[number % CHANNELS].WatchScorerRuns(request):
            frames[0] += 1
        await asyncio.Event().wait()

    async def ask(number: int) -> None:
        while True:
            began = time.monotonic()
            await stubs[number % CHANNELS].GetScorerStats(pb.GetScorerStatsRequest())
            asked.append(time.monotonic() - began)
            await asyncio.sleep(given.pause)

    async def check() -> None:
        health: Any = health_pb2_grpc.HealthStub(channels[0])
        while True:
            answer = await health.Check(health_pb2.HealthCheckRequest())
            checks[0] += 1
            not_serving[0] += answer.status != health_pb2.HealthCheckResponse.SERVING
            await asyncio.sleep(0.1)

    try:
        async with asyncio.timeout(given.seconds + 3), asyncio.TaskGroup() as group:
            for number in range(given.watches):
                group.create_task(watch(number))
            print("reading", flush=True)
            for number in range(given.askers):
                group.create_task(ask(number))
            group.create_task(check())
    except TimeoutError:
        pass
    print(
        f"{given.watches} watches read {frames[0]} frames; {given.askers} askers {len(asked)} answers, p50 "
        f"{_at(sorted(asked), 50) * 1000:.0f} ms, p99 {_at(sorted(asked), 99) * 1000:.0f} ms; "
        f"{not_serving[0]} of {checks[0]} health checks NOT_SERVING"
    )


def _at(ordered: Sequence[float], percent: int) -> float:
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else float("nan")


async def beside_readers(url: str, store_url: str, given: argparse.Namespace) -> None:
    """One service, in quiet and beside its readers, in turn."""
    found: dict[str, list[float]] = {"quiet": [], "beside": []}
    spent = dict.fromkeys(found, 0.0)
    skip, said, missing = given.rate * 2, "", 0
    settings = {"store": store_url, "results": url, "scorers": "benchmarks.scorer_noop", "scorer_migrate": "1"}
    with service("scorer_service", **settings) as (address, pid):
        async with open_store(store_url) as store:
            for turn in range(given.rounds):
                for kind in ("quiet", "beside"):
                    name, before = f"{kind}-{turn}", cpu_seconds(pid)
                    readers = _start(address, name, given) if kind == "beside" else None
                    if readers is not None and readers.stdout is not None:
                        await asyncio.to_thread(readers.stdout.readline)
                        await asyncio.sleep(2)
                    await send(store, name, given.rate, given.seconds)
                    if readers is not None:
                        said = (await asyncio.to_thread(readers.communicate))[0].strip()
                    await asyncio.sleep(2)
                    spent[kind] += cpu_seconds(pid) - before
                    late, unscored = await latencies(url, name, skip)
                    found[kind] += late
                    missing += unscored
    quiet, beside = sorted(found["quiet"]), sorted(found["beside"])
    for kind, seconds in (("quiet", quiet), ("beside readers", beside)):
        print(f"  {kind}: p50 {_at(seconds, 50) * 1000:.0f} ms, p99 {_at(seconds, 99) * 1000:.0f} ms of {len(seconds)}")
    print(f"  p50 {_at(beside, 50) / _at(quiet, 50):.2f} x that in quiet (target 2 x); {missing} not scored")
    print(f"  processor time of the service: {spent['quiet']:.1f} s in quiet, {spent['beside']:.1f} s beside readers")
    print(f"  {said}; load average {os.getloadavg()[0]:.1f}", flush=True)


def _start(address: str, name: str, given: argparse.Namespace) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.scorer_readers", "--read", address, name]
    for option in ("watches", "everything", "askers", "pause", "seconds"):
        command += [f"--{option}", str(getattr(given, option))]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


# Statistics


async def count(url: str, rows: int) -> None:
    """A pass by itself, and what 12 who ask ten times a second wait."""
    spent, waited = list[float](), list[float]()
    async with open_database(url) as database:
        for _ in range(5):
            began = time.perf_counter()
            await Statistics(database).ask(Window("default"))
            spent.append(time.perf_counter() - began)
        made = Statistics(database)

        async def ask() -> None:
            while True:
                began = time.perf_counter()
                await made.ask(Window("default"))
                waited.append(time.perf_counter() - began)
                await asyncio.sleep(0.1)

        try:
            async with asyncio.timeout(15), asyncio.TaskGroup() as group:
                group.create_task(repeat("statistics", made.run_once))
                for _ in range(12):
                    group.create_task(ask())
        except TimeoutError:
            pass
    waited.sort()
    print(
        f"  statistics of {rows} rows: a pass takes {statistics.median(spent) * 1000:.0f} ms; 12 who ask ten times a "
        f"second wait {_at(waited, 50) * 1000:.1f} ms (p50), {_at(waited, 99) * 1000:.0f} ms (p99); target 200 ms",
        flush=True,
    )


def _measure(engine: str, folder: Path, postgres: PostgresServer | None, given: argparse.Namespace) -> None:
    def fresh() -> str:
        if postgres is not None:
            return postgres.url(postgres.create_database())
        return f"sqlite:///{folder}/{uuid.uuid4().hex}.db"

    print(engine, flush=True)
    if given.rows:
        with start_redis(redis_servers()[-1]) as redis:
            url = fresh()
            asyncio.run(fill(url, given.rows))
            asyncio.run(beside_readers(url, redis.url, given))
    if given.counted:
        url = fresh()
        asyncio.run(fill(url, given.counted))
        asyncio.run(count(url, given.counted))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["sqlite", "postgresql"])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--counted", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=500)
    parser.add_argument("--watches", type=int, default=1_000)
    parser.add_argument("--everything", type=int, default=0, help="of the watches: of all runs, from the first on")
    parser.add_argument("--askers", type=int, default=12)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds between an answer and the asker's next call")
    parser.add_argument("--seconds", type=float, default=12.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--read", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        asyncio.run(read(*given.read, given))
        return
    with tempfile.TemporaryDirectory(prefix="runwire-bench-") as folder:
        if given.engine != "postgresql":
            _measure("SQLite", Path(folder), None, given)
        if given.engine != "sqlite":
            with start_syncing_postgres() as postgres:
                _measure("PostgreSQL", Path(folder), postgres, given)


if __name__ == "__main__":
    main()
