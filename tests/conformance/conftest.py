"""Fixtures of the conformance suite: every test runs once for each engine of backends.BACKENDS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import pytest

from runwire.connect import open_store
from runwire.pubsub import Store
from tests.conformance.backends import BACKENDS, Backend
from tests.redis.places import (  # noqa: F401 - fixtures
    own_redis_server,
    own_redis_url,
    redis_6_2_server,
    redis_6_2_url,
    redis_cluster,
    redis_cluster_url,
    valkey_server,
    valkey_url,
)


@pytest.fixture(params=list(BACKENDS))
def backend(request: pytest.FixtureRequest) -> Backend:
    """The engine under test."""
    return BACKENDS[request.param]


@pytest.fixture
def store_url(request: pytest.FixtureRequest, backend: Backend) -> str:
    """An empty place of the engine under test."""
    url: str = request.getfixturevalue(backend.url_fixture)
    return url


@pytest.fixture
def process_url(backend: Backend, store_url: str) -> str:
    """The same, for tests that share the data between processes."""
    if not backend.processes:
        pytest.skip("this engine lives in one process")
    return store_url


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    """One connection to an empty place."""
    async with open_store(store_url) as opened:
        yield opened


@pytest.fixture
async def two_stores(store_url: str) -> AsyncIterator[tuple[Store, Store]]:
    """Two independent connections to the same empty place, like those of two processes."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(open_store(store_url))
        second = await stack.enter_async_context(open_store(store_url))
        yield first, second


@pytest.fixture
def memory_url() -> str:
    return f"memory://{uuid4().hex}"


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"
