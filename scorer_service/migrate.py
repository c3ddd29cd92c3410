"""`python -m scorer_service migrate`, and the check at start that it was done."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import inspect, text
from sqlalchemy.engine import Connection

from runwire.errors import ConfigurationError
from scorer_service.database import Database
from scorer_service.schema import HEAD

_ADVISORY_LOCK = 0x52756E77697265  # "Runwire": one migration at a time


async def migrate(database: Database) -> tuple[str, str]:
    """Brings the schema to HEAD; returns the versions before and after. Safe to call from several processes."""

    def work(connection: Connection) -> str:
        if not database.embedded:  # SQLite has begun with BEGIN IMMEDIATE, which is such a lock
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})"))
        before = _version(connection)
        _refuse_newer(before)
        if before != HEAD:
            _upgrade(connection)
        return before

    return await database.write(work), HEAD


async def check(database: Database) -> None:
    """Raises ConfigurationError, saying what to do, unless the schema is at HEAD."""
    version = await database.read(_version)
    _refuse_newer(version)
    if version != HEAD:
        found = f"is at version {version}" if version else "has no tables yet"
        raise ConfigurationError(
            f"the results database {found} and this service needs {HEAD}: "
            "run `python -m scorer_service migrate --results URL`, or start with --migrate"
        )


def _refuse_newer(version: str) -> None:
    if version > HEAD:
        raise ConfigurationError(
            f"the results database is at version {version}, made by a newer release; this one knows {HEAD}: "
            "run the newer release"
        )


def _version(connection: Connection) -> str:
    """The version of the schema; empty where there is none."""
    if not inspect(connection).has_table("alembic_version"):
        return ""
    found = connection.execute(text("SELECT version_num FROM alembic_version"))
    return str(found.scalar_one_or_none() or "")


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def main(url: str) -> str:
    """Migrates the database at `url`; returns what was done, in a sentence."""
    from scorer_service.database import open_database

    async def run() -> tuple[str, str]:
        async with open_database(url) as database:
            await database.reach()
            return await migrate(database)

    before, after = asyncio.run(run())
    return f"the schema is at {after}" + ("" if before == after else f" (was {before or 'empty'})")
