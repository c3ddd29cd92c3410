"""The SQL database behind the service: SQLite for one machine, PostgreSQL for several."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import create_engine, event, select
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from runwire.errors import ConfigurationError, StoreUnavailable
from scorer_service import schema

SUPPORTED: Final = "sqlite:///relative/file.db, sqlite:////absolute/file.db or postgresql://USER@HOST/DATABASE"
_BUSY_SECONDS: Final = 30
_READERS: Final = 4
_CONNECT_SECONDS: Final = 5

T = TypeVar("T")


def parse_url(url: str) -> URL:
    """The database's URL with the driver that we use. Raises ConfigurationError, without the password."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError(f"the results URL cannot be parsed; supported are {SUPPORTED}") from None
    backend = parsed.drivername.partition("+")[0]
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ConfigurationError("the results URL names no file, as in sqlite:///.runwire/scores.db")
        return parsed.set(drivername="sqlite+pysqlite")
    if backend in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+asyncpg")
    raise ConfigurationError(f"the results URL has the unknown scheme {backend!r}; supported are {SUPPORTED}")


class Database:
    """Runs work on connections. Made by `open_database`.

    Work is a plain function of a SQLAlchemy `Connection`. It runs off the event loop: for SQLite in a thread, one hop
    for a whole transaction; for PostgreSQL on the loop, with asyncpg underneath.
    """

    def __init__(self, url: URL, engine: _Threads | AsyncEngine) -> None:
        self.url = url
        self._engine = engine

    @property
    def embedded(self) -> bool:
        """Whether it is a file of this machine (SQLite)."""
        return isinstance(self._engine, _Threads)

    async def read(self, work: Callable[[Connection], T]) -> T:
        """The result of `work`, which only reads. Raises StoreUnavailable."""
        with _mapped_errors():
            if isinstance(self._engine, _Threads):
                return await self._engine.read(work)
            # Without a transaction, which would be two more round trips, and no better: each statement sees what is
            # committed when it begins, either way.
            async with self._engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
                return await connection.run_sync(work)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """The result of `work`, one transaction: committed when it returns, undone if it raises. Raises
        StoreUnavailable, and then the transaction may have taken effect all the same."""
        with _mapped_errors():
            if isinstance(self._engine, _Threads):
                return await self._engine.write(work)
            async with self._engine.begin() as connection:
                return await connection.run_sync(work)

    async def reach(self) -> None:
        """The first look at it. Raises StoreUnavailable, or ConfigurationError where there is no such database, or it
        does not let us in, or is none."""
        try:
            await self.now()
        except (DBAPIError, TypeError, ValueError, OverflowError) as error:
            words = str(error.orig if isinstance(error, DBAPIError) else error).partition("\n")[0]
            raise ConfigurationError(
                f"the results database cannot be used: {words.partition('>: ')[2] or words}"
            ) from error

    async def now(self) -> float:
        """The database's clock."""
        return await self.read(database_time)


def database_time(connection: Connection) -> float:
    """The database's clock, within a transaction."""
    return float(connection.execute(select(schema.NOW)).scalar_one())


class _Threads:
    """SQLite, whose calls block: one thread that writes and a few that read."""

    def __init__(self, url: URL) -> None:
        self._writers = _sqlite_engine(url, "BEGIN IMMEDIATE", 1)
        self._readers = _sqlite_engine(url, "BEGIN", _READERS)
        self._write_thread = ThreadPoolExecutor(1, "scores-write")
        self._read_threads = ThreadPoolExecutor(_READERS, "scores-read")

    async def read(self, work: Callable[[Connection], T]) -> T:
        def call() -> T:
            with self._readers.connect() as connection:
                return work(connection)

        return await asyncio.get_running_loop().run_in_executor(self._read_threads, call)

    async def write(self, work: Callable[[Connection], T]) -> T:
        def call() -> T:
            with self._writers.begin() as connection:
                return work(connection)

        return await asyncio.get_running_loop().run_in_executor(self._write_thread, call)

    async def dispose(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        for threads in (self._write_thread, self._read_threads):
            threads.shutdown(wait=True)
        for engine in (self._writers, self._readers):
            engine.dispose()


class _mapped_errors:
    """Turns errors of the database that pass into StoreUnavailable. What is our own mistake stays as it is."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None and is_passing(error):
            raise StoreUnavailable("the results database does not answer") from error


_PASSING_STATES: Final = ("08", "40", "53", "55", "57")
"""SQLSTATE classes: connection, rollback (deadlock), resources, lock not available, operator intervention."""


_PASSING_CODES: Final = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL)


def is_passing(error: BaseException) -> bool:
    """Whether the same work may succeed later."""
    if isinstance(error, (OSError, PoolTimeout, asyncio.TimeoutError)):
        return True
    if not isinstance(error, DBAPIError):
        return False
    if error.connection_invalidated:
        return True
    original: Any = error.orig
    state = getattr(original, "sqlstate", None) or getattr(getattr(original, "__cause__", None), "sqlstate", None)
    if state is not None:
        return str(state).startswith(_PASSING_STATES)
    if (code := getattr(original, "sqlite_errorcode", None)) is not None:
        return code & 0xFF in _PASSING_CODES  # the low byte: the rest says more precisely which
    return "connection" in str(original).lower()


@asynccontextmanager
async def open_database(url: str, *, pool_size: int = 8) -> AsyncIterator[Database]:
    """The database at `url`, open while the context is. It is not asked for its schema: see `migrate`.

    Raises ConfigurationError for a URL that is wrong.
    """
    parsed = parse_url(url)
    engine = _Threads(parsed) if parsed.get_backend_name() == "sqlite" else _postgres_engine(parsed, pool_size)
    try:
        yield Database(parsed, engine)
    finally:
        await asyncio.shield(_dispose(engine))


async def _dispose(engine: _Threads | AsyncEngine) -> None:
    try:
        await engine.dispose()
    except (SQLAlchemyError, OSError):
        pass  # a server that is gone cannot be told goodbye


def _postgres_engine(url: URL, pool_size: int) -> AsyncEngine:
    if find_spec("asyncpg") is None:
        raise ConfigurationError(
            "postgresql:// needs the asyncpg package, which is not installed: pip install 'runwire[postgres]'"
        )
    return create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=_CONNECT_SECONDS,
        connect_args={"timeout": _CONNECT_SECONDS, "command_timeout": 60},
    )


def _sqlite_engine(url: URL, begin: str, size: int) -> Engine:
    """Several processes may share the file, a commit survives a power cut, and transactions begin with `begin`."""
    make_folder(url)
    engine = create_engine(url, pool_size=size, max_overflow=0, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000}")
        _use_wal(cursor)
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.execute("PRAGMA cache_size = -16000")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine


def _use_wal(cursor: sqlite3.Cursor) -> None:
    """While another process makes the file SQLite is busy without heeding busy_timeout."""
    ends = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > ends:
                raise
        time.sleep(0.01)


def make_folder(url: URL) -> None:
    """Makes the folder of a SQLite file. Raises ConfigurationError if it cannot be made."""
    folder = Path(str(url.database)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot make the folder {folder} of the results database: {error.strerror}") from None
