"""Store URLs: each opens its engine, and a wrong one says what would be right."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from runwire.connect import open_store
from runwire.errors import ConfigurationError
from runwire.memory import MemoryStore
from runwire.pubsub import Commit
from runwire.sqlite import SqliteStore

SECRET = "hunter2"


async def refused(url: str) -> str:
    """The message with which a URL is refused."""
    with pytest.raises(ConfigurationError) as caught:
        async with open_store(url):
            pass
    assert SECRET not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "url", ["", "runs.db", "/var/lib/runs.db", f"mysql://root:{SECRET}@host/db", "http://[", "sqlite"]
)
async def test_an_unknown_scheme_lists_what_is_supported(url: str) -> None:
    """A URL of no engine is refused with the list of those there are."""
    message = await refused(url)
    for scheme in (
        "memory://",
        "sqlite:///",
        "redis://",
        "rediss://",
        "unix://",
        "redis+sentinel://",
        "redis+cluster://",
    ):
        assert scheme in message


@pytest.mark.parametrize(
    "url",
    [
        f"memory://user:{SECRET}@name",
        f"memory://name?password={SECRET}",
        f"memory://name/{SECRET}",
        f"memory://name#{SECRET}",
    ],
)
async def test_memory_takes_a_name_only(url: str) -> None:
    """Options, paths and credentials mean nothing to memory://, so they are not swallowed."""
    assert "memory://name" in await refused(url)


async def test_no_message_holds_a_password() -> None:
    """A password in a URL that cannot be parsed is not repeated."""
    for url in [
        f"redis://user:{SECRET}@host:{SECRET}/0",
        f"redis://user:{SECRET}@[host/0",
        f"redis://user:{SECRET}@host\u2100/0",
        f"nosuch://user:{SECRET}@host/0?x={SECRET}",
        f"sqlite://user:{SECRET}@host/runs.db",
        f"sqlite:///runs.db#{SECRET}",
    ]:
        await refused(url)


async def test_memory_without_a_name_is_a_store_of_its_own() -> None:
    """Two calls, two stores."""
    async with open_store("memory://") as first, open_store("memory://") as second:
        assert isinstance(first, MemoryStore)
        await first.commit(Commit("default/run", create=True))
        assert await second.get("default/run") is None


async def test_memory_with_a_name_is_shared_while_it_is_open() -> None:
    """The same name, the same store; once nobody has it open it is gone."""
    async with open_store("memory://shared") as first, open_store("memory://shared") as second:
        assert first is second
        await first.commit(Commit("default/run", create=True))
        async with open_store("memory://other") as other:
            assert await other.get("default/run") is None
    del first, second
    async with open_store("memory://shared") as later:
        assert await later.get("default/run") is None


async def test_sqlite_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three slashes are relative to the working directory, four absolute, and percent signs are decoded."""
    monkeypatch.chdir(tmp_path)
    async with open_store("sqlite:///relative.db") as store:
        assert isinstance(store, SqliteStore)
    async with open_store(f"sqlite:///{tmp_path}/absolute.db?synchronous=full"):
        pass
    async with open_store("sqlite:///with%20space%3F.db"):
        pass
    assert set(os.listdir(tmp_path)) == {"relative.db", "absolute.db", "with space?.db"}


@pytest.mark.parametrize(
    "url, advice",
    [
        ("sqlite://runs.db", "three slashes"),
        ("sqlite://host/runs.db", "three slashes"),
        ("sqlite:", "names no file"),
        ("sqlite:///", "names no file"),
        ("sqlite:///folder/", "names no file"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///runs.db?mode=ro", "synchronous=normal|full"),
        ("sqlite:///runs.db?synchronous=off", "'normal' nor 'full'"),
        ("sqlite:///runs.db?synchronous=", "'normal' nor 'full'"),
        ("sqlite:///runs.db?synchronous=full&synchronous=normal", "twice"),
        ("sqlite:///no/such/folder/runs.db", "create it first"),
        ("sqlite:///runs%00.db", "zero byte"),
    ],
)
async def test_a_wrong_sqlite_url_says_what_is_right(
    url: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each mistake has its own sentence, and no file is made."""
    monkeypatch.chdir(tmp_path)
    assert advice in await refused(url)
    assert os.listdir(tmp_path) == []


async def test_a_folder_is_no_store(tmp_path: Path) -> None:
    """The path of a folder is refused."""
    assert "is a folder" in await refused(f"sqlite:///{tmp_path}")


async def test_a_device_is_no_store() -> None:
    """What is no file is refused; trying again would be no help."""
    assert "is a device" in await refused("sqlite:////dev/null")


async def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    """Any other file is refused and left as it is."""
    file = tmp_path / "notes.txt"
    file.write_bytes(b"these are notes, and many of them\n" * 100)
    before = file.read_bytes()
    assert "no SQLite database" in await refused(f"sqlite:///{file}")
    assert file.read_bytes() == before


async def test_a_database_of_something_else(tmp_path: Path) -> None:
    """Another program's database is refused and gets no tables of ours."""
    file = tmp_path / "other.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")
    assert "something else" in await refused(f"sqlite:///{file}")
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)


async def test_a_newer_schema(tmp_path: Path) -> None:
    """A file of a later version is refused with what to do, and not changed."""
    file = tmp_path / "runs.db"
    async with open_store(f"sqlite:///{file}"):
        pass
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 99")
    message = await refused(f"sqlite:///{file}")
    assert "schema 99" in message
    assert "use that version" in message


async def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    """A file of zero bytes, as mktemp makes it, is taken."""
    file = tmp_path / "runs.db"
    file.touch()
    async with open_store(f"sqlite:///{file}") as store:
        await store.commit(Commit("default/run", create=True))


async def test_redis_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package the URL is refused with the extra to install."""
    monkeypatch.setattr("runwire.connect.find_spec", lambda name: None)
    message = await refused(f"redis://user:{SECRET}@127.0.0.1:6379/0")
    assert "runwire[redis]" in message
