"""PostgreSQL as people have it: libpq's URLs, poolers, silent networks, encodings."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import text

from runwire.errors import ConfigurationError, StoreUnavailable
from runwire.scorer.v1 import scorer_run_pb2 as S
from scorer_service.answers.queries import Filter, Queries
from scorer_service.answers.statistics import Statistics
from scorer_service.answers.tallied import Window
from scorer_service.queue.jobs import Jobs, Offer
from scorer_service.results import migrate, postgres
from scorer_service.results.database import open_database
from scorer_service.results.records import Finished, NewRun, ScoreRecord, State
from tests.scorer.pgbouncer import PgBouncer
from tests.scorer.stage import request, service
from tests.servers import PostgresServer, free_port

OFFERS = {"a": Offer(100)}
SCORE = ScoreRecord(1.0, "", "", "{}", 1, None)
ONE = text("SELECT 1")


def parsed(url: str) -> dict[str, Any]:
    return dict(postgres.parse(url).arguments)


def test_a_url_with_everything() -> None:
    """Hosts with ports, names with escapes, and options with libpq's meaning."""
    found = parsed(
        "postgresql://me%40home:p%3A%40ss@one:5433,two,[::1]:5434/scores%20db?sslmode=require&connect_timeout=7"
        "&application_name=mine&options=-c%20jit%3Doff&target_session_attrs=primary&channel_binding=prefer"
    )
    assert (found["host"], found["port"]) == (["one", "two", "::1"], [5433, 5432, 5434])
    assert (found["user"], found["password"], found["database"]) == ("me@home", "p:@ss", "scores db")
    assert found["server_settings"] == {"application_name": "mine", "options": "-c jit=off"}
    assert (found["dsn"], found["target_session_attrs"]) == ("postgresql:///?sslmode=require", "primary")


def test_names_from_before() -> None:
    """URLs that worked with the release before."""
    for ssl in ("true", "require"):
        assert parsed(f"postgresql://host/db?ssl={ssl}")["dsn"] == "postgresql:///?sslmode=require"
    assert parsed("postgresql://host?database=db")["database"] == "db"


@pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
def test_names_of_the_scheme(scheme: str) -> None:
    """All that people write."""
    assert parsed(f"{scheme}://me@host/db")["host"] == ["host"]


def test_what_is_left_out_comes_from_the_environment() -> None:
    """PGHOST, PGUSER and their like are read by the driver."""
    assert set(parsed("postgresql:///")) == {"server_settings"}
    assert parsed("postgresql:///db?host=/var/run/postgresql&user=me")["host"] == ["/var/run/postgresql"]


def test_several_hosts_look_for_the_one_that_takes_writes() -> None:
    """Unless the URL says otherwise."""
    assert parsed("postgresql://a,b/db")["target_session_attrs"] == "read-write"
    assert parsed("postgresql://a,b/db?target_session_attrs=any")["target_session_attrs"] == "any"
    assert parsed("postgresql://a/db?port=5433")["port"] == [5433]
    assert parsed("postgresql://a,b/db?port=1,2")["port"] == [1, 2]


@pytest.mark.parametrize(
    "rest, words",
    [
        ("host:port/db", "port that is no number"),
        ("host:99999/db", "port '99999'"),
        ("host:0/db", "port '0'"),
        ("host:-1/db", "port that is no number"),
        ("host:５４３２/db", "port that is no number"),
        ("host/db?service=mine", "'service', which is not supported here"),
        ("a,b/db?port=1,2,3", "2 hosts and 3 ports"),
        ("host/db?sslmode=perhaps", "sslmode='perhaps'"),
        ("host/db?channel_binding=require", "channel_binding='require'"),
        ("host/db?connect_timeout=soon", "connect_timeout='soon'"),
        ("host/db?connect_timeout=0", "connect_timeout='0'"),
        ("host/db?target_session_attrs=standby", "target_session_attrs='standby'"),
        ("host/db?client_encoding=latin1", "client_encoding='latin1'"),
        ("host/db?hostaddr=1.2.3.4", "'hostaddr', which is not supported here"),
        ("host/db?gssencmode=require", "gssencmode='require'"),
        ("host/db?sslmodee=require", "'sslmodee', which libpq does not know"),
        ("host/db?prepared_statement_cache_size=0", "which libpq does not know"),
        (",/db", "host that is none"),
        ("[::1/db", "cannot be parsed"),
    ],
)
def test_wrong_urls(rest: str, words: str) -> None:
    """One line that names what is wrong, and never the password."""
    with pytest.raises(ConfigurationError) as caught:
        postgres.parse(f"postgresql://me:secret@{rest}")
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mark", ["/", "?", "#", "[", "@/", ":", "/?", "?=", "#@"])
def test_a_password_that_is_not_encoded_is_not_repeated(mark: str) -> None:
    """Whatever stands in it, and wherever the URL falls apart because of it."""
    url, said = f"postgresql://me:hunter2{mark}hunter3@host/db", ""
    try:
        assert parsed(url)["password"] == f"hunter2{mark}hunter3"
    except ConfigurationError as error:
        said = str(error)
    assert "hunter" not in said


@pytest.mark.parametrize(
    "option",
    [
        *("sslmode=prefer", "sslmode=disable", "connect_timeout=5", "application_name=me", "channel_binding=prefer"),
        *("options=-c%20statement_timeout%3D9s", "target_session_attrs=read-write", "keepalives=0"),
        *("keepalives_idle=9&keepalives_interval=3&keepalives_count=2&tcp_user_timeout=5000", "gssencmode=disable"),
        *("client_encoding=utf8", "fallback_application_name=me", "sslcompression=0", "load_balance_hosts=disable"),
    ],
)
async def test_the_server_takes_what_the_url_says(postgres_url: str, option: str) -> None:
    """Each option with a real server."""
    async with open_database(f"{postgres_url}?{option}") as database:
        await database.reach()
        await database.check()
        if option.startswith("options"):
            shown = await database.look(lambda c: c.execute(text("SHOW statement_timeout")).scalar_one())
            assert shown == "9s"


async def test_tls_that_is_not_to_be_had_is_said(postgres_url: str) -> None:
    """A server without TLS, and a URL that insists on it."""
    async with open_database(f"{postgres_url}?sslmode=require") as database:
        with pytest.raises(StoreUnavailable, match="rejected SSL upgrade"):
            await database.reach()


async def test_another_encoding_is_refused(postgres_server: PostgresServer) -> None:
    """Texts of every language could not be kept."""
    name = "latin"
    postgres_server.execute(f"CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    async with open_database(postgres_server.url(name)) as database:
        with pytest.raises(ConfigurationError, match="'LATIN1'; it must be UTF8"):
            await database.reach()


@pytest.mark.parametrize(
    "change, words",
    [
        (("postgres@", "nobody-here@"), "does not let us in|refuses our password|does not exist"),
        (("/test_", "/no_such_"), "does not exist"),
    ],
)
async def test_refusals_at_start_are_told_apart(postgres_url: str, change: tuple[str, str], words: str) -> None:
    """No such role, no such database: each in its own words."""
    async with open_database(postgres_url.replace(*change)) as database:
        with pytest.raises(ConfigurationError, match=words):
            await database.reach()


async def test_nobody_listens() -> None:
    """Where, and what the system says."""
    port = free_port()
    async with open_database(f"postgresql://me@127.0.0.1:{port}/db") as database:
        with pytest.raises(StoreUnavailable, match=f"{port}"):
            await database.reach()


async def test_the_host_that_takes_writes_is_found(postgres_server: PostgresServer, postgres_url: str) -> None:
    """Of two hosts the first is dead: the second is used, without a word."""
    several = postgres_url.replace("127.0.0.1:", f"127.0.0.1:{free_port()},127.0.0.1:")
    async with open_database(several) as database:
        await database.reach()
        await migrate.migrate(database)


# A network that forgets


class Relay:
    """A way to a server on which nothing arrives any more, from a moment on, and nobody is told."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.silent = False
        self.accepted = 0
        self._forgotten: set[asyncio.StreamWriter] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def forget(self) -> None:
        """What is connected now is silent for ever; what connects later is not."""
        self._forgotten |= self._writers

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        pair = (writer, there_writer)
        self._writers.update(pair)
        with suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(self._pass_on(reader, there_writer), self._pass_on(there_reader, writer))
        for each in pair:
            each.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if writer not in self._forgotten:
                writer.write(data)
                await writer.drain()
        if writer not in self._forgotten:
            writer.close()


@asynccontextmanager
async def relay(server: PostgresServer) -> AsyncIterator[tuple[Relay, int]]:
    made = Relay(server.port)
    listening = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    try:
        yield made, listening.sockets[0].getsockname()[1]
    finally:
        listening.close()
        for writer in made._writers:
            writer.close()
        await asyncio.sleep(0)


async def test_a_connection_that_fell_silent_costs_less_than_a_lease(
    postgres_server: PostgresServer, filled_postgres_url: str
) -> None:
    """Every connection is forgotten on the way, without a word: the worker, whoever asks and health all continue over
    new ones, before a lease has ended."""
    async with relay(postgres_server) as (way, port):
        url = filled_postgres_url.replace(f":{postgres_server.port}/", f":{port}/")
        async with open_database(url, work_seconds=1.0) as database:
            await database.write(lambda c: c.execute(ONE))
            await database.now()
            await database.check()
            way.forget()
            began = time.monotonic()
            for work in (
                lambda: database.look(lambda c: c.execute(ONE)),
                lambda: database.write(lambda c: c.execute(ONE)),
            ):
                with suppress(StoreUnavailable):
                    await work()
                await work()
            with suppress(StoreUnavailable):
                await database.check()
            await database.check()
            assert time.monotonic() - began < 30.0, "the default lease"


# PgBouncer


@pytest.fixture(scope="module")
def pgbouncer(postgres_server: PostgresServer) -> Iterator[PgBouncer]:
    """A real one in front of the server of the session."""
    with PgBouncer(postgres_server).start() as started:
        yield started


async def test_behind_pgbouncer(pgbouncer: PgBouncer, postgres_server: PostgresServer) -> None:
    """In transaction mode, with two server connections for all: the tables are made, and 300 scorer runs by four
    workers at once are added, claimed, renewed, finished, listed and watched."""
    name = postgres_server.create_database()
    url = pgbouncer.url(name)
    async with open_database(url) as database, open_database(url) as another:
        await database.reach()
        await migrate.migrate(database)
        await migrate.check(another)
        workers = [Jobs(each, worker=f"w{number}") for number, each in enumerate([database, another] * 2)]
        done = 0

        async def work(jobs: Jobs, first: int) -> None:
            nonlocal done
            await jobs.register(["a"])
            await jobs.add(
                [NewRun(f"{n}", "default", "a", run_id=f"{n}", sample=b"s") for n in range(first, first + 75)]
            )
            while done < 300:
                claimed = (await jobs.claim(OFFERS, 7)).jobs
                assert await jobs.extend(claimed) == set()
                assert await jobs.finish([Finished(job, State.SUCCEEDED, "1", SCORE) for job in claimed]) == []
                done += len(claimed)

        async with asyncio.TaskGroup() as group:
            for number, jobs in enumerate(workers):
                group.create_task(work(jobs, number * 75))
        queries = Queries(another)
        assert len((await queries.page(Filter("default"), limit=1000)).found) == 300
        assert (await Statistics(another).ask(Window("default")))[0].counts == {State.SUCCEEDED: 300}
        await another.check()


async def test_a_service_behind_pgbouncer(pgbouncer: PgBouncer, postgres_server: PostgresServer) -> None:
    """The whole of it: requests are scored, and PgBouncer that is restarted is waited for."""
    async with service(pgbouncer.url(postgres_server.create_database())) as running:
        for number in range(5):
            assert (await running.score(request("threaded", f"run-{number}"))).state == S.SCORER_RUN_STATE_SUCCEEDED
        await asyncio.to_thread(pgbouncer.kill)
        await running.send(request("threaded", "meanwhile"))
        await asyncio.to_thread(pgbouncer.start)
        key = request("threaded", "meanwhile").scorer_run_id
        async with asyncio.timeout(20):
            while True:
                try:
                    run = await running.until(key)
                    break
                except Exception:
                    await asyncio.sleep(0.1)
        assert run.state == S.SCORER_RUN_STATE_SUCCEEDED
