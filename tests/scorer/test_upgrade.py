"""A rolling upgrade on PostgreSQL: releases from before numbers of our own write on while the new one watches."""

from __future__ import annotations

import asyncio
import importlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from sqlalchemy import text
from sqlalchemy.engine import Connection

from scorer_service.answers.queries import Place, Queries
from scorer_service.queue.jobs import Jobs
from scorer_service.results import migrate, revisions, schema
from scorer_service.results.database import Database, open_database
from scorer_service.results.records import NewRun, State

BEFORE = ("m0001_first_schema", "m0002_holders", "m0003_waits_and_costs", "m0004_scorer_names")
ROLE = """
DO $$ BEGIN CREATE ROLE old_release; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$
"""
GRANTS = "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO old_release"
ROW = """
INSERT INTO scorer_runs (scorer_run_id, tenant, run_id, agent_id, scorer_id, scorer_version, wanted_version, state,
    priority, lane, create_time, rate, siblings, options, labels, traceparent, tracestate, sample_id, fingerprint,
    revision)
SELECT name, 'default', '', '', 'a', '', '', 1, 1, 1, 1.0, 1.0, 0, '{}', '{}', '', '', '', '', $2
FROM unnest($1::text[]) AS name ON CONFLICT DO NOTHING
"""


class OldWriter:
    """A transaction as the release of 0004 makes it: its revision is the number of its transaction."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection
        self._number = 0

    async def begin(self) -> OldWriter:
        await self._connection.execute("SET ROLE old_release")
        await self._connection.execute("BEGIN")
        self._number = await self._connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
        return self

    async def add(self, *names: str) -> OldWriter:
        await self._connection.execute(ROW, names, self._number)
        return self

    async def finish(self, name: str) -> OldWriter:
        changed = "UPDATE scorer_runs SET state = $3, end_time = 2.0, revision = $2 WHERE scorer_run_id = $1"
        await self._connection.execute(changed, name, self._number, int(State.SUCCEEDED))
        return self

    async def end(self, how: str = "COMMIT") -> None:
        await self._connection.execute(how)


@asynccontextmanager
async def old_writers(url: str, count: int) -> AsyncIterator[list[OldWriter]]:
    connections = [await asyncpg.connect(url) for _ in range(count)]
    try:
        yield [OldWriter(connection) for connection in connections]
    finally:
        for connection in connections:
            await connection.close()


def of_before(connection: Connection) -> None:
    """The tables of 0004, and a role that may do with them what that release asks for, and no more."""
    for name in BEFORE:
        with Operations.context(MigrationContext.configure(connection)):
            importlib.import_module(f"scorer_service.migrations.versions.{name}").upgrade()
    connection.execute(text(f"CREATE TABLE {schema.VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
    connection.execute(text(f"INSERT INTO {schema.VERSION_TABLE} VALUES ('0004')"))
    for statement in (ROLE, GRANTS):
        connection.execute(text(statement))


class Reader:
    """A watch of the new release, reduced to what it reads: each change once, in order, and never one from before."""

    def __init__(self, database: Database) -> None:
        self._queries = Queries(database)
        self.place = Place(-1)
        self.seen: list[tuple[int, str, int]] = []

    async def look(self) -> None:
        settled = (await self._queries.settled()).revision
        changes = await self._queries.changes(self.place, settled)
        self.seen += [(one.run.revision, one.run.scorer_run_id, one.run.state) for one in changes.found]
        self.place = changes.upto


@pytest.mark.parametrize("seed", range(4))
async def test_old_writers_are_not_missed(postgres_url: str, seed: int) -> None:
    """Transactions of the old release that are open while the database is migrated, at every step of theirs, and
    others that come after it, beside writes of the new release: whoever watches gets every row, in its last state."""
    choose = random.Random(seed)
    async with open_database(postgres_url) as database, old_writers(postgres_url, 6) as old, asyncio.timeout(20):
        await database.write(of_before)
        await (await old[0].begin()).add("first")
        await old[0].end()
        early, wrote, later = old[1], await old[2].begin(), old[3]
        await wrote.add("wrote-before")
        await early.begin()  # has its number, and writes when the new release has gone on
        async with asyncio.TaskGroup() as group:
            migrating = group.create_task(migrate.migrate(database))
            await wait_for_lock(postgres_url)
            await wrote.finish("first")
            await wrote.end()
            assert await migrating == ("0004", schema.HEAD)
        await database.write(revisions.settle_in)
        jobs, reader = Jobs(database, worker="new"), Reader(database)
        wanted = {"first": int(State.SUCCEEDED), "wrote-before": int(State.PENDING)}
        for number in range(choose.randrange(1, 6)):
            await jobs.add([NewRun(f"new-{number}", "default", "a")])
            wanted[f"new-{number}"] = int(State.PENDING)
        await reader.look()
        steps = [
            lambda: early.add("early-1", "early-2"),
            reader.look,
            lambda: early.finish("wrote-before"),
            reader.look,
        ]
        for step in steps[choose.randrange(2) :]:
            await step()
            await jobs.add([NewRun(f"between-{len(wanted)}", "default", "a")])
            wanted[f"between-{len(wanted)}"] = int(State.PENDING)
        undone = await (await old[4].begin()).add("undone")
        await (await later.begin()).add("later")
        for writer, how in choose.sample([(early, "COMMIT"), (later, "COMMIT"), (undone, "ROLLBACK")], 3):
            await reader.look()
            await writer.end(how)
        await reader.look()
        found = await database.read(lambda c: c.execute(text("SELECT scorer_run_id, state FROM scorer_runs")).all())
        assert {"later", "first", *wanted} <= {name for name, _ in found}
        assert {name: state for _, name, state in reader.seen} == {line.scorer_run_id: line.state for line in found}
        assert reader.seen == sorted(reader.seen)


async def wait_for_lock(url: str) -> None:
    """Until the migration stands at a lock of the table."""
    connection = await asyncpg.connect(url)
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'scorer_runs'::regclass"
    while not await connection.fetchval(waiting):  # noqa: ASYNC110 - the server tells nobody
        await asyncio.sleep(0.01)
    await connection.close()


async def test_a_watch_of_before_is_never_ahead(postgres_url: str) -> None:
    """What the new release writes is beyond every cursor that the old one gives out meanwhile, so a client that comes
    from there misses nothing."""
    async with open_database(postgres_url) as database, asyncio.timeout(20):
        await database.write(of_before)
        await migrate.migrate(database)
        for _ in range(50):  # transactions are counted on by others too, and faster
            await database.write(lambda c: c.execute(text("SELECT pg_current_xact_id()")))
        await Jobs(database, worker="new").add([NewRun("new", "default", "a")])
        settled = text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1")
        place = Place(await database.read(lambda c: c.execute(settled).scalar_one()))
        reader = Reader(database)
        reader.place = place
        await reader.look()
        assert [name for _, name, _ in reader.seen] == ["new"]


async def test_a_process_of_before_that_starts_again_changes_no_row(postgres_url: str) -> None:
    """At its start it takes our numbers for those of another server and sets them all to 0: that touches nothing."""
    async with open_database(postgres_url) as database, asyncio.timeout(20):
        await database.write(of_before)
        await migrate.migrate(database)
        await Jobs(database, worker="new").add([NewRun(f"{number}", "default", "a") for number in range(3)])
        mend = text("UPDATE scorer_runs SET revision = 0")
        assert (await database.write(lambda c: c.execute(mend))).rowcount == 0
        reader = Reader(database)
        await reader.look()
        assert len(reader.seen) == 3


async def test_a_row_of_before_may_be_inserted_by_hand(filled_postgres_url: str) -> None:
    """Numbers that are nobody's are left as they are: a restored dump, and a copy."""
    async with old_writers(filled_postgres_url, 1) as writers:
        connection = writers[0]._connection
        await connection.execute(ROW, ["zero"], 0)
        await connection.execute(ROW, ["five"], 5)
        found = await connection.fetch("SELECT revision FROM scorer_runs ORDER BY revision")
        assert [line["revision"] for line in found] == [0, 5]
