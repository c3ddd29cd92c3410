"""Databases for the scorer service: every test that takes one runs on SQLite and on PostgreSQL."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from scorer_service.database import Database, open_database
from scorer_service.migrate import migrate
from tests.scorer import scorers


@pytest.fixture(params=["sqlite", "postgresql"])
def results_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a new, empty results database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/scores.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of a new, empty results database, for what does not depend on the kind."""
    return f"sqlite:///{tmp_path}/scores.db"


@pytest.fixture
async def database(results_url: str) -> AsyncIterator[Database]:
    """A results database with its tables."""
    async with open_database(results_url) as opened:
        await migrate(opened)
        yield opened


@pytest.fixture(autouse=True)
def fresh_scorers() -> None:
    """The scorers of the tests have not been called yet."""
    scorers.reset()
