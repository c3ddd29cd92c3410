"""The migrations make the tables that the code expects."""

from __future__ import annotations

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.engine import Connection

from runwire.errors import ConfigurationError, StoreUnavailable
from scorer_service import database as databases
from scorer_service import migrate, revisions, schema
from scorer_service.jobs import Jobs
from scorer_service.queries import Queries
from scorer_service.records import NewRun
from scorer_service.watch import Watch
from tests.servers import free_port


def test_head_is_the_newest_migration() -> None:
    """The version that the service asks for is the one that migrations/ ends with."""
    config = Config()
    config.set_main_option("script_location", "scorer_service/migrations")
    assert ScriptDirectory.from_config(config).get_current_head() == schema.HEAD


async def test_the_migrations_make_the_schema(empty_url: str) -> None:
    """Tables, columns and indexes are those of schema.py, on both databases."""

    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
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


async def test_a_newer_database_is_refused(empty_url: str) -> None:
    """An older release does not touch what a newer one has made."""
    async with databases.open_database(empty_url) as database:
        await migrate.migrate(database)
        await database.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")))
        for work in (migrate.check, migrate.migrate):
            with pytest.raises(ConfigurationError, match="newer release"):
                await work(database)


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
