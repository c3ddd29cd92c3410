"""Fixtures of the service tests: each runs once on every engine named here."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest

from tests.redis.places import valkey_server, valkey_url  # noqa: F401 - fixtures

ENGINES = ("sqlite", "memory", "valkey")


@pytest.fixture(params=ENGINES)
def url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store."""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db"


@pytest.fixture
def memory_url() -> str:
    return f"memory://{uuid4().hex}"


@pytest.fixture(autouse=True)
def short_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that drains waits for the claim that it has made and for calls under way: not in every test."""
    monkeypatch.setattr("agent_service.app._COMING_IN_SECONDS", 0.0)
    monkeypatch.setattr("agent_service.execution.worker._CLAIM_WAIT_SECONDS", 0.1)
