"""The migrations make the tables that the code expects."""

from __future__ import annotations

import asyncio
import importlib

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.engine import Connection

from runwire.errors import ConfigurationError, StoreUnavailable
from scorer_service.answers.queries import Queries
from scorer_service.answers.watch import Watch
from scorer_service.queue.jobs import Jobs
from scorer_service.results import database as databases
from scorer_service.results import migrate, revisions, schema
from scorer_service.results.records import NewRun
from tests.servers import PostgresServer, free_port


def test_head_is_the_newest_migration() -> None:
    """The version that the service asks for is the one that migrations/ ends with."""
    config = Config()
    config.set_main_option("script_location", "scorer_service/migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == schema.HEAD


async def test_the_migrations_make_the_schema(empty_url: str) -> None:
    """Tables, columns and indexes are those of schema.py, on both databases."""

    def differences(connection: Connection) -> list[object]:
        options = {"compare_type": True, "version_table": schema.VERSION_TABLE}
        context = MigrationContext.configure(connection, opts=options)
        return list(compare_metadata(context, schema.metadata))

    async with databases.open_database(empty_url) as database:
        assert await migrate.migrate(database) == ("", schema.HEAD)
        assert await migrate.migrate(database) == (schema.HEAD, schema.HEAD)
        await migrate.check(database)
        assert await database.read(differences) == []


async def test_several_may_migrate_at_once(empty_url: str) -> None:
    """Four services that start together on an empty database: one migrates, the others find it done."""

    async def one() -> tuple[str, str]:
        async with databases.open_database(empty_url) as database:
            return await migrate.migrate(database)

    befores = sorted(before for before, _ in await asyncio.gather(*[one() for _ in range(4)]))
    assert befores == ["", schema.HEAD, schema.HEAD, schema.HEAD]


async def test_a_database_without_tables_is_refused(empty_url: str) -> None:
    """The message is the command to run."""
    async with databases.open_database(empty_url) as database:
        with pytest.raises(ConfigurationError, match="python -m scorer_service migrate"):
            await migrate.check(database)


async def test_a_newer_database_is_worked_with(empty_url: str) -> None:
    """Old and new processes run side by side during an upgrade: an older release starts on what a newer one has made,
    and changes nothing, unless a migration says that it must not."""
    newer = text(f"UPDATE {schema.VERSION_TABLE} SET version_num = '9999'")
    needs = schema.counters.update().where(schema.counters.c.name == schema.NEEDS)
    async with databases.open_database(empty_url) as database:
        await migrate.migrate(database)
        await database.write(lambda c: c.execute(newer))
        await migrate.check(database)
        assert await migrate.migrate(database) == ("9999", "9999")
        await database.write(lambda c: c.execute(needs.values(value=9999)))
        for work in (migrate.check, migrate.migrate):
            with pytest.raises(ConfigurationError, match="newer release"):
                await work(database)


async def test_a_database_is_shared_with_another_user_of_alembic(empty_url: str) -> None:
    """Their version, though it is called as ours, says nothing of our tables; it stays, and ours are made."""
    async with databases.open_database(empty_url) as database:
        await database.write(lambda c: c.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))")))
        await database.write(lambda c: c.execute(text("INSERT INTO alembic_version VALUES ('0001')")))
        with pytest.raises(ConfigurationError, match="no tables yet"):
            await migrate.check(database)
        assert await migrate.migrate(database) == ("", schema.HEAD)
        theirs = text("SELECT version_num FROM alembic_version")
        assert await database.read(lambda c: c.execute(theirs).scalars().all()) == ["0001"]


async def test_a_database_of_before_is_taken_over(empty_url: str) -> None:
    """Its version stood in Alembic's common table; it is read once, and left for the releases from before."""
    first = importlib.import_module("scorer_service.migrations.versions.m0001_first_schema")

    def as_before(connection: Connection) -> None:
        with Operations.context(MigrationContext.configure(connection)):
            first.upgrade()
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32))"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('0001')"))
        connection.execute(text("INSERT INTO scorers VALUES ('a', TRUE, 1.0)"))

    async with databases.open_database(empty_url) as database:
        await database.write(as_before)
        with pytest.raises(ConfigurationError, match="at version 0001"):
            await migrate.check(database)
        assert await migrate.migrate(database) == ("0001", schema.HEAD)
        assert await migrate.migrate(database) == (schema.HEAD, schema.HEAD)
        await migrate.check(database)
        kept = [text("SELECT scorer_id FROM scorers"), text("SELECT version_num FROM alembic_version")]
        found = [await database.read(lambda c, q=query: c.execute(q).scalars().all()) for query in kept]  # type: ignore[misc]
        assert found == [["a"], ["0001"]]


async def test_somebody_elses_tables_are_left_alone(empty_url: str) -> None:
    """A table of our name that no release made: refused, in one line."""
    async with databases.open_database(empty_url) as database:
        await database.write(lambda c: c.execute(text("CREATE TABLE scorer_runs (x INTEGER)")))
        for work in (migrate.check, migrate.migrate):
            with pytest.raises(ConfigurationError, match="no release of ours"):
                await work(database)


async def test_a_role_that_may_not_make_tables(postgres_server: PostgresServer, postgres_url: str) -> None:
    """One line that says who can."""
    postgres_server.execute("CREATE ROLE visitor LOGIN")
    async with databases.open_database(postgres_url.replace("postgres@", "visitor@")) as database:
        await database.reach()
        with pytest.raises(ConfigurationError, match="as a role that may create them") as caught:
            await migrate.migrate(database)
    assert "\n" not in str(caught.value)


async def test_a_failed_transaction_leaves_nothing(empty_url: str) -> None:
    """What raises is undone."""

    def fail(connection: Connection) -> None:
        connection.execute(text("UPDATE counters SET value = 77"))
        raise RuntimeError("stop")

    async with databases.open_database(empty_url) as database:
        await migrate.migrate(database)
        with pytest.raises(RuntimeError, match="stop"):
            await database.write(fail)
        query = text("SELECT count(*) FROM counters WHERE value = 77")
        assert await database.read(lambda c: c.execute(query).scalar_one()) == 0


async def test_a_server_that_is_away_is_unavailable() -> None:
    """Not a mistake of ours, nor of the caller's."""
    async with databases.open_database(f"postgresql://nobody@127.0.0.1:{free_port()}/x") as database:
        with pytest.raises(StoreUnavailable):
            await database.now()


async def test_a_mistake_of_ours_is_not_hidden(empty_url: str) -> None:
    """A wrong statement is no reason to wait for the database."""
    async with databases.open_database(empty_url) as database:
        with pytest.raises(Exception, match="no_such_table") as caught:
            await database.read(lambda c: c.execute(text("SELECT * FROM no_such_table")))
        assert not isinstance(caught.value, StoreUnavailable)


async def test_numbers_of_another_server_are_gone_on_from(empty_url: str) -> None:
    """A database restored on another PostgreSQL, also without its sequence: watches see all, what is written next comes
    after it, old cursors know, and no row was touched."""
    async with databases.open_database(empty_url) as database:
        await migrate.migrate(database)
        queries = Queries(database)
        jobs = Jobs(database, worker="w")
        await jobs.add([NewRun(f"{number}", "default", "a") for number in range(250)])
        epoch = (await queries.settled()).epoch
        assert not await database.write(revisions.settle_in)
        assert not await database.write(revisions.settle_in)
        if not database.embedded:
            ahead = text("UPDATE scorer_runs SET revision = revision + 1000000000")
            await database.write(lambda c: c.execute(ahead))
            before = await database.read(lambda c: c.execute(text("SELECT max(xmin::text) FROM scorer_runs")).scalar())
            await database.write(lambda c: c.execute(text("UPDATE counters SET value = 5 WHERE name = 'home'")))
            assert await database.write(revisions.settle_in)
            assert not await database.write(revisions.settle_in)
            assert (await queries.settled()).epoch != epoch
            after = await database.read(lambda c: c.execute(text("SELECT max(xmin::text) FROM scorer_runs")).scalar())
            assert before == after
        await jobs.add([NewRun("later", "default", "a")])
        seen = []
        async for frame in Watch(queries).read("default", "", "", 0.0):
            seen += [one.run.scorer_run_id for one in frame.found]
            if not frame.found:
                break
        assert len(set(seen)) == 251
        assert seen[-1] == "later"
