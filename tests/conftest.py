"""What every test can ask for: private servers, and the certainty that nothing keeps running behind its back."""

import asyncio
import inspect
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import settings

from tests.servers import (
    MISSING,
    PostgresServer,
    RedisBinary,
    RedisServer,
    redis_servers,
    start_postgres,
    start_redis,
)

# Two shared cores: a slow example is no fault, and says nothing about the next run.
settings.register_profile("runwire", deadline=None, print_blob=True)
settings.load_profile("runwire")

LEAK_GRACE_SECONDS = 1.0


@pytest.fixture(scope="session", params=[redis_servers()[0]], ids=lambda binary: binary.name)
def redis_server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A private Redis for the session, of the first kind. It is shared: do not kill it, start another.

    The mark `on_every_redis` of tests/servers.py runs a test on every kind.
    """
    binary: RedisBinary = request.param
    with start_redis(binary) as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of the session's private Redis, emptied for this test."""
    redis_server.execute("FLUSHALL")
    return redis_server.url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A private PostgreSQL for the session. It is shared: do not kill it, start another."""
    with start_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL (postgresql://) of a new database that nobody else uses."""
    name = postgres_server.create_database()
    yield postgres_server.url(name)
    postgres_server.drop_database(name)


@pytest.fixture
async def no_leaked_tasks() -> AsyncIterator[None]:
    """Fail an asynchronous test that leaves tasks behind, once its own fixtures have ended.

    Every asynchronous test has this fixture, first, so that it is torn down last.
    """
    before = asyncio.all_tasks()
    yield
    mine = asyncio.current_task()
    left = {task for task in asyncio.all_tasks() - before if task is not mine and not task.done()}
    if left:
        _, left = await asyncio.wait(left, timeout=LEAK_GRACE_SECONDS)
    assert not left, f"left running: {sorted(map(str, left))}"


def pytest_itemcollected(item: pytest.Item) -> None:
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        item.fixturenames.insert(0, "no_leaked_tasks")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say by name and count which parts of the machine were missing, so that a green run hides nothing."""
    pattern = re.compile(rf"{MISSING} (\S+):")
    texts = (str(report.longrepr) for report in terminalreporter.stats.get("skipped", []))
    parts = Counter(found[1] for text in texts if (found := pattern.search(text)))
    said = ", ".join(f"{part} ({number} tests)" for part, number in sorted(parts.items()))
    terminalreporter.write_line(f"skipped parts: {said or 'none'}")
