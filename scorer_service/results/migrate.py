"""`python -m scorer_service migrate`, and the check at start that it was done."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import inspect, select, text
from sqlalchemy.engine import Connection

from runwire.errors import ConfigurationError
from scorer_service.results.database import Database
from scorer_service.results.faults import DatabaseRefuses
from scorer_service.results.schema import HEAD, NEEDS, VERSION_TABLE, counters, scorer_runs

_ADVISORY_LOCK = 0x52756E77697265  # "Runwire": one migration at a time
_FIRST = "0001"
"""The only version whose number stood in Alembic's common table."""
_LIMIT_SECONDS = 3600.0


async def migrate(database: Database) -> tuple[str, str]:
    """Brings the schema to HEAD; returns the versions before and after. Safe to call from several processes. A schema
    of a newer release that this one can work with is left as it is. Raises ConfigurationError, also where the role
    may not make tables."""

    def work(connection: Connection) -> str:
        if not database.embedded:  # SQLite has begun with BEGIN IMMEDIATE, which is such a lock
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        before = _version(connection)
        if before < HEAD:
            _take_over(connection)
            _upgrade(connection)
        else:
            _refuse_newer(connection, before)
        return before

    try:
        before = await database.write(work, limit_seconds=_LIMIT_SECONDS)
    except DatabaseRefuses as error:
        raise ConfigurationError(
            f"the tables cannot be made: {error}; run `python -m scorer_service migrate` as a role that may create them"
        ) from error
    return before, max(before, HEAD)


async def check(database: Database) -> None:
    """Raises ConfigurationError, saying what to do, unless this release can work with the schema."""

    def work(connection: Connection) -> str:
        version = _version(connection)
        if version > HEAD:
            _refuse_newer(connection, version)
        return version

    version = await database.read(work)
    if version < HEAD:
        found = f"is at version {version}" if version else "has no tables yet"
        raise ConfigurationError(
            f"the results database {found} and this service needs {HEAD}: "
            "run `python -m scorer_service migrate --results URL`, or start with --migrate"
        )


def _refuse_newer(connection: Connection, version: str) -> None:
    """Migrations only add, so an older release works beside a newer one, unless a migration says that it must not."""
    needs = connection.execute(select(counters.c.value).where(counters.c.name == NEEDS)).scalar()
    if version > HEAD and (needs is None or needs > int(HEAD)):
        raise ConfigurationError(
            f"the results database is at version {version}, made by a newer release; this one knows {HEAD}: "
            "run the newer release"
        )


def _version(connection: Connection) -> str:
    """The version of the schema; empty where there is none."""
    tables = inspect(connection)
    if tables.has_table(VERSION_TABLE):
        found = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}"))
        return str(found.scalar_one_or_none() or "")
    return _FIRST if _is_of_before(connection) else ""


def _is_of_before(connection: Connection) -> bool:
    """Whether the tables are there that were made before the table of versions had a name of our own."""
    tables = inspect(connection)
    if not tables.has_table(scorer_runs.name):
        return False
    common = text("SELECT version_num FROM alembic_version")
    if tables.has_table("alembic_version") and _FIRST in connection.execute(common).scalars().all():
        return True
    raise ConfigurationError(
        f"the results database has a table {scorer_runs.name!r} that no release of ours has made: give it another one"
    )


def _take_over(connection: Connection) -> None:
    """Notes in a table of our own what the common one said. That is left as it is: others may use it, and a release
    from before looks there."""
    if _version(connection) == _FIRST and not inspect(connection).has_table(VERSION_TABLE):
        connection.execute(text(f"CREATE TABLE {VERSION_TABLE} (version_num VARCHAR(32) NOT NULL PRIMARY KEY)"))
        connection.execute(text(f"INSERT INTO {VERSION_TABLE} VALUES ('{_FIRST}')"))


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def main(url: str) -> str:
    """Migrates the database at `url`; returns what was done, in a sentence."""
    from scorer_service.results.database import open_database

    async def run() -> tuple[str, str]:
        async with open_database(url) as database:
            await database.reach()
            return await migrate(database)

    before, after = asyncio.run(run())
    return f"the schema is at {after}" + ("" if before == after else f" (was {before or 'empty'})")
