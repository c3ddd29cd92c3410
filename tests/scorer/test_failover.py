"""PostgreSQL changes its role, goes silent, loses its room, or refuses us: nothing is failed for it, nothing lost."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import func, select, text

from runwire.connect import open_store
from runwire.errors import StoreUnavailable
from scorer_service.queue.jobs import Held, Jobs, Offer
from scorer_service.results import migrate, schema
from scorer_service.results.database import Database, open_database
from scorer_service.results.records import NewRun, State
from tests.scorer.stage import Service, eventually, request, send, service
from tests.servers import PostgresServer, start_postgres

OFFERS = {"a": Offer(100)}


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[PostgresServer]:
    """A server that these tests may mistreat."""
    with start_postgres() as server:
        yield server


async def become(server: PostgresServer, role: str) -> None:
    """The server turns into a standby, as far as a session can tell, or back; and ends all sessions, or some."""
    read_only = "on" if role == "standby" else "off"
    await asyncio.to_thread(server.execute, f"ALTER SYSTEM SET default_transaction_read_only = {read_only}")
    await asyncio.to_thread(server.execute, "SELECT pg_reload_conf()")


async def end_sessions(server: PostgresServer) -> None:
    ours = "application_name = 'runwire-scorer'"
    await asyncio.to_thread(server.execute, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {ours}")


async def health_of(running: Service) -> int:
    async with grpc.aio.insecure_channel(running.address) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    return int(answer.status)


@asynccontextmanager
async def flood(running: Service, per_second: float) -> AsyncIterator[list[str]]:
    """Requests at a rate while the block runs; ids of what was sent."""
    sent: list[str] = []
    stopping = asyncio.Event()

    async def send() -> None:
        while not stopping.is_set():
            message = request("threaded", f"run-{len(sent)}")
            await running.send(message)
            sent.append(message.scorer_run_id)
            with suppress(TimeoutError):
                async with asyncio.timeout(1 / per_second):
                    await stopping.wait()

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        try:
            yield sent
        finally:
            stopping.set()


async def fail_over(server: PostgresServer, rounds: int, seconds: float) -> tuple[Counter[int], int, list[float]]:
    """Turns of the role under a flood; how all ended, how many were sent, and how long each return took."""
    returns: list[float] = []
    name = server.create_database()
    url = server.url(name)
    async with service(url, scorer_lease_seconds=6.0) as running, open_database(url) as database:
        async with flood(running, 50) as sent:
            for turn in range(rounds):
                await become(server, "standby")
                if turn % 2:
                    await end_sessions(server)
                await asyncio.sleep(seconds)
                assert await health_of(running) == health_pb2.HealthCheckResponse.NOT_SERVING
                await become(server, "primary")
                began = time.monotonic()
                probe = request("brevity", f"probe-{turn}")
                await running.send(probe)
                sent.append(probe.scorer_run_id)

                async def is_scored(key: str = probe.scorer_run_id) -> bool:
                    row = schema.scorer_runs.c
                    query = select(row.state).where(row.scorer_run_id == key)
                    try:
                        return await database.read(lambda c: c.execute(query).scalar()) == State.SUCCEEDED
                    except StoreUnavailable:
                        return False

                await eventually(is_scored, limit=60)
                returns.append(time.monotonic() - began)
        row = schema.scorer_runs.c

        async def all_ended() -> bool:
            query = select(row.scorer_run_id).where(row.due_time.is_(None))
            return len(await database.read(lambda c: c.execute(query).all())) == len(sent)

        await eventually(all_ended, limit=60)
        lines = await database.read(lambda c: c.execute(select(row.scorer_run_id, row.state)).all())
        assert {line[0] for line in lines} == set(sent), "none is gone, and none is there that was not sent"
        await eventually(lambda: is_serving(running))
    return Counter(line[1] for line in lines), len(sent), returns


async def is_serving(running: Service) -> bool:
    return await health_of(running) == health_pb2.HealthCheckResponse.SERVING


async def test_a_fail_over_fails_nothing(own_postgres: PostgresServer) -> None:
    """Sessions that turn read-only under 50 requests a second, and such that end: every request is scored, no score is
    replaced, and health says NOT_SERVING meanwhile."""
    ended, sent, _ = await fail_over(own_postgres, rounds=2, seconds=2.5)
    assert ended == {State.SUCCEEDED: sent}


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_twenty_fail_overs(own_postgres: PostgresServer, capsys: pytest.CaptureFixture[str]) -> None:
    """Twenty in a row: 0 gone, 0 replaced, and scoring continues within 5 s of a writable server."""
    ended, sent, returns = await fail_over(own_postgres, rounds=20, seconds=4.0)
    with capsys.disabled():
        print(f"\n{sent} requests over 20 fail-overs, all scored; back after {max(returns):.1f} s at most")
    assert ended == {State.SUCCEEDED: sent}
    assert max(returns) < 5.0


@pytest.mark.chaos
@pytest.mark.timeout(300)
@pytest.mark.parametrize("away_seconds", [4.0, 12.0], ids=["longer than a lease", "longer than the orphan time"])
async def test_the_database_is_away(away_seconds: float, capsys: pytest.CaptureFixture[str]) -> None:
    """Two services with different scorers, 3,000 requests, a server that is stopped in the middle: 3,000 of 3,000 are
    scored, none of them twice, and no worker is said to have died."""
    settings = {"scorer_lease_seconds": 3.0, "scorer_orphan_seconds": 6.0, "store": f"memory://{uuid.uuid4().hex}"}
    messages = [request(("threaded", "fresh")[n % 2], f"run-{n}") for n in range(3000)]
    with start_postgres() as server:
        async with (
            open_store(str(settings["store"])) as store,
            service(server.url(), **settings, scorer_concurrency=64),
            service(server.url(), **settings, scorers="tests.scorer.next_scorers", scorer_concurrency=64),
            open_database(server.url()) as database,
        ):
            await send(store, messages)

            async def some_ended() -> bool:
                return await ended(database) > 500

            await eventually(some_ended)
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(away_seconds)
            await asyncio.to_thread(server.start)
            began = time.monotonic()

            async def all_ended() -> bool:
                try:
                    return await ended(database) == 3000
                except StoreUnavailable:
                    return False

            await eventually(all_ended, limit=120)
            row = schema.scorer_runs.c
            query = select(row.state, row.losses, row.deliveries)
            found = Counter(tuple(line) for line in await database.read(lambda c: c.execute(query).all()))
    with capsys.disabled():
        print(f"\naway for {away_seconds} s: all scored {time.monotonic() - began:.1f} s later: {dict(found)}")
    assert {state for state, _, _ in found} == {State.SUCCEEDED}
    assert {losses for _, losses, _ in found} == {0}


async def ended(database: Database) -> int:
    query = select(func.count()).select_from(schema.scorer_runs).where(schema.scorer_runs.c.end_time.is_not(None))
    return int(await database.read(lambda c: c.execute(query).scalar_one()))


@pytest.fixture
async def database(own_postgres: PostgresServer) -> AsyncIterator[Database]:
    """A database of the server of one's own."""
    async with open_database(own_postgres.url(own_postgres.create_database()), work_seconds=2.0) as opened:
        await migrate.migrate(opened)
        yield opened


async def test_whoever_asks_takes_nothing_from_the_worker(database: Database) -> None:
    """While every connection of the readers is in use, the worker writes and looks, health answers, and one more who
    asks is told to come again."""
    async with asyncio.TaskGroup() as group:
        slow = [
            group.create_task(database.read(lambda c: c.execute(text("SELECT pg_sleep(6)")).scalar())) for _ in range(4)
        ]
        await asyncio.sleep(0)
        await eventually(lambda: sleeping(database, 4))
        await database.write(lambda c: c.execute(text("UPDATE counters SET value = value")))
        await database.look(lambda c: c.execute(text("SELECT 1")))
        await database.check()
        with pytest.raises(StoreUnavailable, match="in use"):
            await database.now()
        for task in slow:
            task.cancel()


async def sleeping(database: Database, number: int) -> bool:
    query = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    return bool(await database.look(lambda c: c.execute(query).scalar_one()) == number)


async def test_a_claim_whose_answer_was_lost_is_no_loss(database: Database) -> None:
    """The server ended in mid-commit, or the answer did not come: the row is taken again, and nobody died."""
    jobs = Jobs(database, worker="w", lease_seconds=0.01)
    await jobs.register(["a"])
    await jobs.add([NewRun("one", "default", "a", sample=b"s")])
    for _ in range(5):
        await asyncio.sleep(0.02)
        jobs.look_again()
        (job,) = (await jobs.claim(OFFERS, 10, held=Held())).jobs
    losses = select(schema.scorer_runs.c.losses)
    assert (job.token, await database.read(lambda c: c.execute(losses).scalar())) == (5, 0)


async def test_a_worker_renews_what_it_holds_instead_of_claiming_it(database: Database) -> None:
    """All leases are over, and this worker has the rows: it takes the others' only."""
    jobs = Jobs(database, worker="w", lease_seconds=0.01)
    await jobs.register(["a"])
    await jobs.add([NewRun(f"{number}", "default", "a", sample=b"s") for number in range(100)])
    held = Held(frozenset((job.scorer_run_id, job.token) for job in (await jobs.claim(OFFERS, 100)).jobs))
    assert len(held.running) == 100
    await asyncio.sleep(0.05)
    jobs.lease_seconds = 60.0
    await jobs.add([NewRun("other", "default", "a", sample=b"s")])
    taken: list[str] = []
    for _ in range(3):
        jobs.look_again()
        taken += [job.scorer_run_id for job in (await jobs.claim(OFFERS, 100, held=held)).jobs]
    assert taken == ["other"]


async def test_a_password_that_changed_is_waited_for(own_postgres: PostgresServer) -> None:
    """The role is refused while it runs: said in words, and work continues when it is let in again."""
    name = own_postgres.create_database()
    own_postgres.execute("CREATE ROLE guest LOGIN SUPERUSER")
    url = own_postgres.url(name).replace("postgres@", "guest@")
    async with open_database(url) as database:
        await migrate.migrate(database)
        own_postgres.execute("ALTER ROLE guest NOLOGIN")
        await end_sessions(own_postgres)
        with pytest.raises(StoreUnavailable, match=r"does not let us in|is shutting down"):
            await database.check()
        with pytest.raises(StoreUnavailable):
            await database.write(lambda c: c.execute(text("UPDATE counters SET value = value")))
        own_postgres.execute("ALTER ROLE guest LOGIN")
        await database.write(lambda c: c.execute(text("UPDATE counters SET value = value")))
        await database.check()


async def test_no_connections_left_is_said(own_postgres: PostgresServer) -> None:
    """A database with room for one connection: the second is refused in words, and waits."""
    name = own_postgres.create_database()
    own_postgres.execute("CREATE ROLE crowd LOGIN CONNECTION LIMIT 1")
    url = own_postgres.url(name).replace("postgres@", "crowd@")
    async with open_database(url) as database, asyncio.TaskGroup() as group:
        blocked = group.create_task(database.look(lambda c: c.execute(text("SELECT pg_sleep(5)")).scalar()))
        async with open_database(own_postgres.url(name)) as admin:
            await eventually(lambda: sleeping(admin, 1))
        with pytest.raises(StoreUnavailable, match="no connections left"):
            await database.check()
        blocked.cancel()
