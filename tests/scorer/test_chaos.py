"""Scoring while processes die. `make chaos ARGS=tests/scorer -s` shows the figures."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text

from runwire.client import AgentClient
from runwire.connect import open_store
from runwire.errors import StoreUnavailable
from runwire.scorer.v1 import scorer_run_pb2 as S
from runwire.scorer_requests import QUEUE
from scorer_service.results import migrate, schema
from scorer_service.results.database import Database, open_database
from scorer_service.results.records import OPEN, State
from tests.e2e.processes import AgentProcess
from tests.scorer.hostile import EVERYTHING
from tests.scorer.processes import ScorerProcess
from tests.scorer.stage import request, send
from tests.servers import PostgresServer, RedisServer, redis_servers, start_postgres, start_redis

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]
SCORERS = "tests.scorer.chaotic"


@dataclass
class Crew:
    """Worker processes that are replaced as they are killed."""

    environment: dict[str, str]
    stack: ExitStack
    processes: list[ScorerProcess] = field(default_factory=list)
    paused: list[ScorerProcess] = field(default_factory=list)
    kills: int = 0
    pauses: int = 0

    def start(self, number: int) -> None:
        for _ in range(number):
            process = ScorerProcess(environment=self.environment)
            self.processes.append(self.stack.enter_context(process))

    def kill_one(self) -> None:
        """kill -9, and another in its place. One that works, if there is: to kill one that starts proves little."""
        awake = [process for process in self.processes if process not in self.paused]
        victim = random.choice([process for process in awake if process.is_ready] or awake)
        self.processes.remove(victim)
        victim.kill()
        self.kills += 1
        self.start(1)

    def replace_the_dead(self) -> int:
        """What ended by itself is started again; returns how many."""
        dead = [process for process in self.processes if not process.running]
        for process in dead:
            self.processes.remove(process)
        self.start(len(dead))
        return len(dead)

    async def pause_one(self, seconds: float) -> None:
        """A process that stands still for longer than its leases becomes a zombie."""
        ready = [process for process in self.processes if process.is_ready]
        if not ready:
            return
        victim = random.choice(ready)
        os.kill(victim.pid, signal.SIGSTOP)
        self.paused.append(victim)
        self.pauses += 1
        await asyncio.sleep(seconds)
        os.kill(victim.pid, signal.SIGCONT)
        self.paused.remove(victim)


async def counts(database: Database) -> dict[int, int]:
    query = select(schema.scorer_runs.c.state, func.count()).group_by(schema.scorer_runs.c.state)
    lines = await database.read(lambda connection: connection.execute(query).all())
    return {line[0]: line[1] for line in lines}


async def until_all_ended(database: Database, total: int, every_second: Callable[[], Any], limit: float) -> None:
    """Waits for so many terminal rows, and does something each second until then."""
    async with asyncio.timeout(limit):
        while True:
            try:
                found = await counts(database)
                if sum(found.values()) >= total and not any(found.get(state) for state in OPEN):
                    return
            except StoreUnavailable:
                pass  # it is being restarted
            await every_second()
            await asyncio.sleep(1.0)


_WATCHED = "CREATE TABLE persisted (scorer_run_id VARCHAR NOT NULL)"
_SQLITE_TRIGGER = """
CREATE TRIGGER persist AFTER UPDATE OF score_value ON scorer_runs WHEN NEW.score_value IS NOT NULL
BEGIN INSERT INTO persisted VALUES (NEW.scorer_run_id); END
"""
_POSTGRES_FUNCTION = """
CREATE FUNCTION persist() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO persisted VALUES (NEW.scorer_run_id); RETURN NULL; END $$
"""
_POSTGRES_TRIGGER = """
CREATE TRIGGER persist AFTER UPDATE OF score_value ON scorer_runs FOR EACH ROW WHEN (NEW.score_value IS NOT NULL)
EXECUTE FUNCTION persist()
"""


async def count_results(database: Database) -> None:
    """From now on the database itself notes every score that is written."""
    statements = [_WATCHED, _SQLITE_TRIGGER] if database.embedded else [_WATCHED, _POSTGRES_FUNCTION, _POSTGRES_TRIGGER]

    def work(connection: Any) -> None:
        for statement in statements:
            connection.execute(text(statement))

    await database.write(work)


async def persisted_lost_and_refused(database: Database) -> tuple[dict[str, int], int, int]:
    """How often a score was written by scorer run, lost attempts, refused finishes."""
    attempts, counters = schema.attempts.c, schema.counters.c

    def work(connection: Any) -> tuple[dict[str, int], int, int]:
        written = text("SELECT scorer_run_id, count(*) FROM persisted GROUP BY scorer_run_id")
        persisted = {line[0]: line[1] for line in connection.execute(written)}
        lost = select(func.count()).where(attempts.error_reason == "worker_lost")
        refused = select(counters.value).where(counters.name == schema.ZOMBIES)
        return persisted, connection.execute(lost).scalar_one(), connection.execute(refused).scalar_one()

    return await database.read(work)


async def storm(
    store_url: str,
    results_url: str,
    *,
    total: int,
    workers: int,
    restarts: Sequence[Callable[[], None]] = (),
    limit: float = 420.0,
) -> str:
    """Sends `total` requests to `workers` processes of which one is killed every second; returns what it came to."""
    environment = {
        "RUNWIRE_STORE": store_url,
        "RUNWIRE_RESULTS": results_url,
        "RUNWIRE_SCORERS": SCORERS,
        "RUNWIRE_SCORER_LEASE_SECONDS": "3",
        "RUNWIRE_SCORER_CONCURRENCY": "16",
        "RUNWIRE_SCORER_MAX_LOSSES": "10",
        "RUNWIRE_LOG_LEVEL": "ERROR",
    }
    pending = list(restarts)
    began = time.monotonic()
    ticks = 0
    with ExitStack() as stack:
        crew = Crew(environment, stack)
        async with open_database(results_url) as database, open_store(store_url) as store, asyncio.TaskGroup() as group:
            await migrate.migrate(database)
            await count_results(database)
            crew.start(workers)

            async def send_all() -> None:
                messages = [request("chaotic", f"run-{number}") for number in range(total)]
                for start in range(0, total, 100):
                    while True:
                        try:
                            await send(store, messages[start : start + 100])
                            break
                        except StoreUnavailable:
                            await asyncio.sleep(0.1)
                    await asyncio.sleep(0.02)

            async def every_second() -> None:
                nonlocal ticks
                ticks += 1
                await asyncio.to_thread(crew.replace_the_dead)
                await asyncio.to_thread(crew.kill_one)
                if ticks % 5 == 2:
                    group.create_task(crew.pause_one(5.0))
                if ticks % 6 == 0 and pending:
                    await asyncio.to_thread(pending.pop(0))

            sending = group.create_task(send_all())
            await until_all_ended(database, total, every_second, limit)
            await sending
            found = await counts(database)
            persisted, lost, refused = await persisted_lost_and_refused(database)
            async with asyncio.timeout(60):
                while await store.backlog(QUEUE):  # noqa: ASYNC110 - other processes acknowledge
                    await asyncio.sleep(0.1)
        assert not pending, "everything was restarted"
        assert found == {State.SUCCEEDED: total}
        assert len(persisted) == total
        assert set(persisted.values()) == {1}, "each result is persisted exactly once"
    return (
        f"{total} requests, {workers} processes: {time.monotonic() - began:.0f} s, {crew.kills} killed, {crew.pauses} "
        f"paused, {len(restarts)} servers restarted; {lost} attempts lost and repeated, {refused} zombie finishes "
        f"refused, {total} results persisted once, 0 lost, 0 entries left"
    )


async def test_ten_thousand_on_postgresql_and_redis(capsys: pytest.CaptureFixture[str]) -> None:
    """10,000 requests, 4 processes of which one is killed each second, database and Redis restarted once each: all
    are scored, each result once, nothing is left on the stream."""
    redis: RedisServer = start_redis(redis_servers()[-1], "--appendonly", "yes", "--appendfsync", "always")
    postgres: PostgresServer = start_postgres()

    def restart_postgres() -> None:
        postgres.kill()
        postgres.start()

    def restart_redis() -> None:
        redis.kill()
        redis.start()

    with redis, postgres:
        said = await storm(
            redis.url, postgres.url(), total=10_000, workers=4, restarts=[restart_postgres, restart_redis]
        )
    with capsys.disabled():
        print(f"\n{said}")


async def test_two_thousand_on_sqlite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same with 2 processes on one SQLite file each for store and results."""
    said = await storm(f"sqlite:///{tmp_path}/runs.db", f"sqlite:///{tmp_path}/scores.db", total=2_000, workers=2)
    with capsys.disabled():
        print(f"\n{said}")


async def test_a_poisoned_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A scorer that kills its worker ends FAILED, worker_lost, after three deaths; 1,000 others, claimed beside it,
    are scored."""
    results = f"sqlite:///{tmp_path}/scores.db"
    environment = {
        "RUNWIRE_STORE": f"sqlite:///{tmp_path}/runs.db",
        "RUNWIRE_RESULTS": results,
        "RUNWIRE_SCORERS": SCORERS,
        "RUNWIRE_SCORER_LEASE_SECONDS": "1.5",
        "RUNWIRE_LOG_LEVEL": "ERROR",
    }
    began, deaths = time.monotonic(), 0
    with ExitStack() as stack:
        crew = Crew(environment, stack)
        async with open_database(results) as database, open_store(environment["RUNWIRE_STORE"]) as store:
            await migrate.migrate(database)
            messages = [request("chaotic", f"run-{number}") for number in range(1_000)]
            poison = request("poison", "poisoned")
            await send(store, [*messages[:300], poison, *messages[300:]])
            crew.start(2)

            async def every_second() -> None:
                nonlocal deaths
                deaths += await asyncio.to_thread(crew.replace_the_dead)

            await until_all_ended(database, 1_001, every_second, 240)
            found = await counts(database)
            columns = schema.scorer_runs.c
            query = select(columns).where(columns.scorer_id == "poison")
            line = await database.read(lambda connection: connection.execute(query).one())
            losses = select(func.max(columns.losses)).where(columns.scorer_id == "chaotic")
            most = await database.read(lambda connection: connection.execute(losses).scalar_one())
    assert found == {State.SUCCEEDED: 1_000, State.FAILED: 1}
    assert (line.state, line.error_reason, line.losses) == (S.SCORER_RUN_STATE_FAILED, "worker_lost", 3)
    with capsys.disabled():
        print(
            f"\npoisoned request: FAILED worker_lost after {line.losses} deaths of a worker ({deaths} restarted), "
            f"1,000 others scored (at most {most} losses each) in {time.monotonic() - began:.0f} s"
        )


def _hostile_and_innocent(hostile: int, innocent: int) -> tuple[list[Any], list[Any]]:
    """Requests for every hostile scorer there is, in turn, and for those that harm nobody."""
    ids = [each.id for each in EVERYTHING if not each.id.startswith("innocent")]
    bad = [request(ids[number % len(ids)], f"bad-{number}") for number in range(hostile)]
    kinds = ("innocent", "innocent-thread")
    return bad, [request(kinds[number % 2], f"good-{number}") for number in range(innocent)]


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
async def test_a_hundred_hostile_scorers(engine: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """100 scorer runs that hang, exit, crash, burn, break their loop, raise and return what is odd or huge, mixed with
    1,000 innocent ones, in one process under a supervisor: each innocent one is scored, once, each hostile one ends,
    and a process that ended by itself said why."""
    bad, good = _hostile_and_innocent(100, 1_000)
    mixed = [message for number, each in enumerate(bad) for message in (*good[number * 10 :][:10], each)]
    began, deaths, unsaid = time.monotonic(), 0, list[str]()
    with ExitStack() as stack:
        postgres = stack.enter_context(start_postgres()) if engine == "postgresql" else None
        results = postgres.url() if postgres else f"sqlite:///{tmp_path}/scores.db"
        environment = {
            "RUNWIRE_STORE": f"sqlite:///{tmp_path}/runs.db",
            "RUNWIRE_RESULTS": results,
            "RUNWIRE_SCORERS": "tests.scorer.hostile:EVERYTHING",
            "RUNWIRE_SCORER_LEASE_SECONDS": "3",
            "RUNWIRE_SCORER_GRACE_SECONDS": "0.2",
            "RUNWIRE_LOG_LEVEL": "ERROR",
        }
        crew = Crew(environment, stack)
        async with open_database(results) as database, open_store(environment["RUNWIRE_STORE"]) as store:
            await migrate.migrate(database)
            await count_results(database)
            await send(store, mixed)
            crew.start(1)

            async def every_second() -> None:
                nonlocal deaths
                ended = [process for process in crew.processes if not process.running]
                for process in ended:
                    code = await asyncio.to_thread(process.wait)
                    if code not in (9, -signal.SIGSEGV) and not any("this process ended" in x for x in process.errors):
                        unsaid.append(f"{code}: {process.errors[-3:]}")
                deaths += await asyncio.to_thread(crew.replace_the_dead)

            await until_all_ended(database, len(mixed), every_second, 280)
            persisted, _, _ = await persisted_lost_and_refused(database)
            columns = schema.scorer_runs.c
            query = select(columns.scorer_id, columns.scorer_run_id, columns.state, columns.losses)
            found = await database.read(lambda connection: connection.execute(query).all())
    innocent = [line for line in found if line.scorer_id.startswith("innocent")]
    assert not unsaid
    assert Counter(line.state for line in innocent) == {State.SUCCEEDED: len(good)}
    assert {persisted[line.scorer_run_id] for line in innocent} == {1}
    with capsys.disabled():
        print(
            f"\n{engine}: {len(good)} innocent scorer runs scored once beside {len(bad)} hostile ones (at most "
            f"{max(line.losses for line in innocent)} losses each), {deaths} processes restarted, in "
            f"{time.monotonic() - began:.0f} s"
        )


async def _ticker_runs(address: str, number: int) -> list[float]:
    """Seconds that each of `number` runs took, from its creation to its end, eight at once."""
    spans: list[float] = []
    places = asyncio.Semaphore(8)
    async with AgentClient(address) as agent, asyncio.TaskGroup() as group:

        async def one() -> None:
            async with places:
                stream = agent.run("ticker", {"count": 5, "interval_ms": 5, "text": "tick "}, scorers=["chaotic"])
                async for _ in stream:
                    pass
                run = await agent.get_run(stream.run_id)
                spans.append((run.end_time.ToNanoseconds() - run.create_time.ToNanoseconds()) / 1e9)

        for _ in range(number):
            group.create_task(one())
    return spans


async def test_agents_do_not_wait_for_scorers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """200 runs with the scorer service down take as long as 200 with it up, and all are scored after it starts."""
    store_url, results = f"sqlite:///{tmp_path}/runs.db", f"sqlite:///{tmp_path}/scores.db"
    environment = {"RUNWIRE_STORE": store_url, "RUNWIRE_RESULTS": results, "RUNWIRE_SCORERS": SCORERS}
    with ExitStack() as stack:
        agent = AgentProcess(store_url, agents="agent_service.demo").wait_started()
        stack.callback(agent.close)
        down = await _ticker_runs(agent.address, 200)
        async with open_database(results) as database, open_store(store_url) as store:
            await migrate.migrate(database)
            assert await store.backlog(QUEUE) == 200

            async def nothing() -> None:
                return

            stack.enter_context(ScorerProcess(environment=environment)).ready()
            await until_all_ended(database, 200, nothing, 60)
            up = await _ticker_runs(agent.address, 200)
            await until_all_ended(database, 400, nothing, 60)
            assert await counts(database) == {State.SUCCEEDED: 400}
    with capsys.disabled():
        print(
            f"\n200 runs with the scorer service down: median {statistics.median(down) * 1000:.0f} ms; with it up: "
            f"{statistics.median(up) * 1000:.0f} ms; all scored"
        )


async def test_a_hundred_agent_services_killed_at_the_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The agent service is killed as soon as a reader has seen a run's last event, 100 times: each run is scored."""
    store_url, results = f"sqlite:///{tmp_path}/runs.db", f"sqlite:///{tmp_path}/scores.db"
    environment = {"RUNWIRE_STORE": store_url, "RUNWIRE_RESULTS": results, "RUNWIRE_SCORERS": SCORERS}
    began = time.monotonic()
    with ExitStack() as stack:
        spare = AgentProcess(store_url, agents="agent_service.demo")
        for _ in range(100):
            agent = spare.wait_started()
            spare = AgentProcess(store_url, agents="agent_service.demo", role="all")
            stack.callback(spare.close)
            async with AgentClient(agent.address) as client:
                stream = client.run("ticker", {"count": 3, "interval_ms": 1, "text": "tick "}, scorers=["chaotic"])
                async for event in stream:
                    if event.HasField("run_finished"):
                        agent.kill()
                        break
            agent.close()
        async with open_database(results) as database, open_store(store_url) as store:
            await migrate.migrate(database)
            arrived = await store.backlog(QUEUE)

            async def nothing() -> None:
                return

            stack.enter_context(ScorerProcess(environment=environment)).ready()
            await until_all_ended(database, 100, nothing, 60)
            assert await counts(database) == {State.SUCCEEDED: 100}
    assert arrived == 100
    with capsys.disabled():
        print(
            f"\n100 agent services killed at the last event of a run: 100 requests arrived, 100 scored "
            f"({time.monotonic() - began:.0f} s)"
        )


async def test_the_service_was_down(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Requests that were made while no scorer service ran are all scored once it does."""
    store_url, results = f"sqlite:///{tmp_path}/runs.db", f"sqlite:///{tmp_path}/scores.db"
    async with open_store(store_url) as store, open_database(results) as database:
        await migrate.migrate(database)
        await send(store, [request("chaotic", f"run-{number}") for number in range(200)])
        environment = {"RUNWIRE_STORE": store_url, "RUNWIRE_RESULTS": results, "RUNWIRE_SCORERS": SCORERS}
        began = time.monotonic()
        with ScorerProcess(environment=environment):

            async def nothing() -> None:
                return

            await until_all_ended(database, 200, nothing, 60)
        assert await counts(database) == {State.SUCCEEDED: 200}
        assert await store.backlog(QUEUE) == 0
    with capsys.disabled():
        print(f"\nservice down for 200 requests: all scored {time.monotonic() - began:.1f} s after its start")
