"""Fixtures of the tests with real processes: the places where a store may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.ledger import Ledger
from tests.redis.places import valkey_server, valkey_url  # noqa: F401 - fixtures


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db"


@pytest.fixture(params=["sqlite", pytest.param("valkey", marks=pytest.mark.chaos)])
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store that several processes can share; Redis only with `make chaos`, for time's sake."""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture(params=["sqlite", "valkey"])
def every_url(request: pytest.FixtureRequest) -> str:
    """The same, always on both."""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Where the workflows of this test note what they do."""
    return Ledger(tmp_path / "ledger")
