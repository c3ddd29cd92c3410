"""The order of changes: nobody is waited for but those who write scorer runs, and of these nobody is passed."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import suppress

import asyncpg
import pytest
from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only

from scorer_service.answers import feed
from scorer_service.answers.queries import Place, Queries
from scorer_service.answers.watch import Watch
from scorer_service.queue.jobs import Jobs
from scorer_service.results.database import Database, open_database
from scorer_service.results.records import NewRun
from scorer_service.results.revisions import next_revision
from tests.scorer.stage import request, service
from tests.servers import PostgresServer


class Undone(Exception):
    """Ends a write without its rows."""


class Writer:
    """A write of one row whose steps are told apart: a number, a row, the end."""

    def __init__(self, database: Database, jobs: Jobs, name: str, *, fails: bool) -> None:
        self.name, self.fails = name, fails
        self._database, self._jobs = database, jobs
        self._gates = [asyncio.Event() for _ in range(3)]
        self._reached = [asyncio.Event() for _ in range(3)]
        self.step = 0

    async def run(self) -> None:
        def work(connection: Connection) -> None:
            await_only(self._gates[0].wait())
            next_revision(connection)
            self._reached[0].set()
            await_only(self._gates[1].wait())
            self._jobs.add_on(connection, [NewRun(self.name, "default", "a", sample=self.name.encode())])
            self._reached[1].set()
            await_only(self._gates[2].wait())
            if self.fails:
                raise Undone

        with suppress(Undone):
            await self._database.write(work)
        self._reached[2].set()

    async def advance(self) -> None:
        self._gates[self.step].set()
        await self._reached[self.step].wait()
        self.step += 1


@pytest.mark.parametrize("seed", range(8))
async def test_no_order_of_commits_hides_a_change(filled_postgres_url: str, seed: int) -> None:
    """Six writes whose steps are interleaved at random, some of them undone, and a reader that looks after each step:
    it gets every row once, and in the order of revisions."""
    choose = random.Random(seed)
    async with (
        open_database(filled_postgres_url) as database,
        asyncio.timeout(20),
        asyncio.TaskGroup() as group,
    ):
        jobs, queries = Jobs(database, worker="w"), Queries(database)
        writers = [Writer(database, jobs, f"{n:032x}", fails=choose.random() < 0.25) for n in range(6)]
        for writer in writers:
            group.create_task(writer.run())
        seen: list[tuple[int, str]] = []
        place = Place(-1)
        while rest := [writer for writer in writers if writer.step < 3]:
            await choose.choice(rest).advance()
            settled = (await queries.settled()).revision
            assert settled >= place.revision
            changes = await queries.changes(place, settled)
            seen += [(one.run.revision, one.run.scorer_run_id) for one in changes.found]
            place = changes.upto
    assert sorted(name for _, name in seen) == [writer.name for writer in writers if not writer.fails]
    assert seen == sorted(seen)


async def test_the_transactions_of_others_delay_no_watch(
    filled_postgres_url: str, postgres_server: PostgresServer
) -> None:
    """Open transactions that wrote, in this database and in another one of the server, and one that reads: the watch
    of a run ends all the same."""
    there = await asyncpg.connect(filled_postgres_url)
    elsewhere = await asyncpg.connect(postgres_server.url("postgres"))
    try:
        for connection in (there, elsewhere):
            await connection.execute("BEGIN")
            await connection.fetchval("SELECT pg_current_xact_id()::text")
            await connection.execute("SELECT pg_advisory_xact_lock_shared(1, 1), pg_advisory_xact_lock_shared(2)")
        dump = await asyncpg.connect(filled_postgres_url)
        await dump.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        await dump.fetchval("SELECT count(*) FROM scorer_runs")
        async with service(filled_postgres_url) as running:
            await running.score(request("brevity", siblings=1))
            frames = []
            async with asyncio.timeout(10):
                async for frame in running.watch("run-1"):
                    frames.append(frame.WhichOneof("frame"))
        assert frames == ["batch", "ended"]
        await dump.close()
    finally:
        await there.close()
        await elsewhere.close()


async def test_a_write_of_ours_that_hangs_is_told_of(
    filled_postgres_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It delays who watches, who gets everything once it has ended; meanwhile its connection is named in the log, once,
    and the delay can be measured."""
    monkeypatch.setattr(feed, "_LATE_SECONDS", 0.0)
    hanging, gate = asyncio.Event(), asyncio.Event()
    async with open_database(filled_postgres_url) as database, asyncio.TaskGroup() as group, asyncio.timeout(20):
        jobs, watch = Jobs(database, worker="w"), Watch(Queries(database))

        def hang(connection: Connection) -> None:
            jobs.add_on(connection, [NewRun("late", "default", "a", sample=b"1")])
            hanging.set()
            await_only(gate.wait())

        reading = watch.read("default", "", "", 0.0)
        assert not (await anext(reading)).found
        writing = group.create_task(database.write(hang))
        await hanging.wait()
        await jobs.add([NewRun("early", "default", "a", sample=b"2")])
        with caplog.at_level(logging.WARNING, "scorer_service"):
            for _ in range(3):
                await watch.poll_once()
        assert not (await anext(reading)).found
        assert watch.feed.lag_seconds > 0
        assert [record.getMessage().count("idle in transaction") for record in caplog.records] == [1]
        gate.set()
        await writing
        await watch.poll_once()
        frame = await anext(reading)
        assert [one.run.scorer_run_id for one in frame.found] == ["late", "early"]
        assert watch.feed.lag_seconds == 0
        await reading.aclose()
