"""Databases for the scorer service: every test that takes one runs on SQLite and on PostgreSQL."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest

from scorer_service.results.database import Database, open_database
from scorer_service.results.migrate import migrate
from tests.scorer import scorers
from tests.servers import PostgresServer

_numbers = count(1)


def _migrate(url: str) -> None:
    async def work() -> None:
        async with open_database(url) as database:
            await migrate(database)

    asyncio.run(work())


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with its tables, to copy: quicker than to make them for every test."""
    path = tmp_path_factory.mktemp("template") / "scores.db"
    _migrate(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def postgres_template(postgres_server: PostgresServer) -> str:
    """The name of a PostgreSQL database with its tables, to copy."""
    name = "scorer_template"
    postgres_server.execute(f"CREATE DATABASE {name}")
    _migrate(postgres_server.url(name))
    return name


@pytest.fixture
def sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    """The URL of a results database of one's own, for what does not depend on the kind."""
    shutil.copy(sqlite_template, tmp_path / "scores.db")
    return f"sqlite:///{tmp_path}/scores.db"


@pytest.fixture
def filled_postgres_url(postgres_server: PostgresServer, postgres_template: str) -> Iterator[str]:
    """The URL of a PostgreSQL results database of one's own, with its tables."""
    name = f"scorer_{next(_numbers)}"
    postgres_server.execute(f"CREATE DATABASE {name} TEMPLATE {postgres_template}")
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def results_url(request: pytest.FixtureRequest) -> str:
    """The URL of a results database of one's own, with its tables."""
    return str(request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "filled_postgres_url"))


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a results database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/empty.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
async def database(results_url: str) -> AsyncIterator[Database]:
    """A results database with its tables."""
    async with open_database(results_url) as opened:
        yield opened


@pytest.fixture(autouse=True)
def fresh_scorers() -> None:
    """The scorers of the tests have not been called yet."""
    scorers.reset()
