"""The SQL database behind the service: SQLite for one machine, PostgreSQL for several.

Three ways lead to it, and none of them waits for another:

    write, look    the worker and the intake: what keeps the promises
    read           those who ask or watch: a bounded wait for a place, and a bounded time for an answer
    check          health, by one connection of its own

A connection is looked at before it is used, if it has been idle; it is given up where it met what it would meet again
(a session that turned read-only, a server that goes away, a silence), and with a change of the server's role all are.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar
from weakref import WeakSet

from sqlalchemy import create_engine, event, select, text
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, DisconnectionError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.util import await_only

from runwire.errors import ConfigurationError, StoreUnavailable
from scorer_service.results import postgres, schema
from scorer_service.results.faults import DatabaseRefuses, changes_role, mapped, retires, words

SUPPORTED: Final = "sqlite:///relative/file.db, sqlite:////absolute/file.db or postgresql://USER@HOST/DATABASE"
WORK_SECONDS: Final = 10.0
"""Longest that a piece of the worker's work may take, unless it says otherwise: shorter than a lease."""
READ_SECONDS: Final = 20.0
"""Longest that an answer may take."""
READ_WAIT_SECONDS: Final = 5.0
"""Longest that somebody who asks waits for one of the readers' connections."""
HEALTH_SECONDS: Final = 2.0
_BUSY_SECONDS: Final = 10
_READERS: Final = 4
_IDLE_SECONDS: Final = 3.0
"""A connection that nobody used for this long is asked whether it is still there."""
_PING_SECONDS: Final = 3.0
_GOODBYE_SECONDS: Final = 2.0
_RECYCLE_SECONDS: Final = 1800
_READ_ONLY: Final = "the results database takes no writes now (it is read-only: a standby, or in a fail-over)"

T = TypeVar("T")
Work = Callable[[Connection], T]


def parse_url(url: str) -> URL:
    """The URL of a SQLite file, or just the name of PostgreSQL: its URL is read by `postgres`. Raises
    ConfigurationError, without the password."""
    scheme, separator, _ = url.partition("://")
    backend = scheme.partition("+")[0]
    if separator and backend in ("postgresql", "postgres"):
        return URL.create("postgresql+asyncpg")
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(f"the results URL cannot be parsed; supported are {SUPPORTED}") from None
    if backend == "sqlite":
        if not parsed.database or parsed.database == ":memory:":
            raise ConfigurationError("the results URL names no file, as in sqlite:///.runwire/scores.db")
        return parsed.set(drivername="sqlite+pysqlite")
    raise ConfigurationError(f"the results URL has the unknown scheme {backend!r}; supported are {SUPPORTED}")


class _Engine(Protocol):
    """What a kind of database does."""

    embedded: bool

    async def read(self, work: Work[T]) -> T: ...

    async def look(self, work: Work[T]) -> T: ...

    async def write(self, work: Work[T], limit_seconds: float | None) -> T: ...

    async def check(self, *, writes: bool) -> str: ...

    async def dispose(self) -> None: ...


class Database:
    """Runs work on connections. Made by `open_database`.

    Work is a plain function of a SQLAlchemy `Connection`. It runs off the event loop: for SQLite in a thread, one hop
    for a whole transaction; for PostgreSQL on the loop, with asyncpg underneath.

    All of it raises StoreUnavailable for what passes, and DatabaseRefuses, which is one, for what somebody has to
    change: see `faults`. What is neither stays as it is.
    """

    def __init__(self, engine: _Engine, *, work_seconds: float = WORK_SECONDS) -> None:
        self._engine = engine
        self._work_seconds = work_seconds
        self._write_failed = False

    @property
    def embedded(self) -> bool:
        """Whether it is a file of this machine (SQLite)."""
        return self._engine.embedded

    async def read(self, work: Work[T]) -> T:
        """The result of `work`, which only reads, for somebody who asks. Raises StoreUnavailable, also where all
        readers' connections stay in use for READ_WAIT_SECONDS or the answer takes longer than READ_SECONDS."""
        with _MappedErrors():
            return await self._engine.read(work)

    async def look(self, work: Work[T]) -> T:
        """The result of `work`, which only reads, for the worker and the intake: never behind those who ask. Raises
        StoreUnavailable."""
        with _MappedErrors():
            return await self._engine.look(work)

    async def write(self, work: Work[T], *, limit_seconds: float | None = None) -> T:
        """The result of `work`, one transaction: committed when it returns, undone if it raises. Raises
        StoreUnavailable, and then the transaction may have taken effect all the same. `limit_seconds`: longest that it
        may take, where that is not what a worker's work may."""
        try:
            with _MappedErrors():
                result = await self._engine.write(work, limit_seconds or self._work_seconds)
        except StoreUnavailable:
            self._write_failed = True
            raise
        self._write_failed = False
        return result

    async def reach(self) -> None:
        """The first look at it. Raises StoreUnavailable, or ConfigurationError where there is no such database, or it
        does not let us in, or is none, or keeps texts in another encoding than UTF-8."""
        try:
            with _MappedErrors():
                encoding = await self._engine.check(writes=False)
            await self.now()
        except DatabaseRefuses as error:
            raise ConfigurationError(str(error)) from error
        except (DBAPIError, TypeError, ValueError, OverflowError) as error:
            raise ConfigurationError(f"the results database {words(error)}") from error
        if encoding != "UTF8":
            raise ConfigurationError(
                f"the results database keeps texts in the encoding {encoding!r}; it must be UTF8: "
                "CREATE DATABASE ... ENCODING 'UTF8' TEMPLATE template0"
            )

    async def check(self) -> None:
        """Whether it would take a write now, asked by a connection of its own within HEALTH_SECONDS. Where the newest
        write failed, a write is tried. Raises StoreUnavailable, saying why not."""
        with _MappedErrors():
            await self._engine.check(writes=self._write_failed)
        self._write_failed = False

    async def now(self) -> float:
        """The database's clock."""
        return await self.read(database_time)


def database_time(connection: Connection) -> float:
    """The database's clock, within a transaction."""
    return float(connection.execute(select(schema.NOW)).scalar_one())


class _MappedErrors:
    """Turns errors into what `Database` says that it raises."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None and (ours := mapped(error)) is not None:
            raise ours from error


@asynccontextmanager
async def open_database(
    url: str, *, pool_size: int = 8, readers: int = 4, work_seconds: float = WORK_SECONDS
) -> AsyncIterator[Database]:
    """The database at `url`, open while the context is. It is not asked for its schema: see `migrate`.

    For PostgreSQL there are up to `pool_size` connections for the worker, `readers` for who asks, and one for health.
    Raises ConfigurationError for a URL that is wrong.
    """
    parsed = parse_url(url)
    engine: _Engine
    if parsed.get_backend_name() == "sqlite":
        engine = _Threads(parsed)
    else:
        _require_asyncpg()
        engine = _Postgres(postgres.parse(url), pool_size, readers, work_seconds)
    try:
        yield Database(engine, work_seconds=work_seconds)
    finally:
        await asyncio.shield(engine.dispose())


# PostgreSQL


def _require_asyncpg() -> None:
    if find_spec("asyncpg") is None:
        raise ConfigurationError(
            "postgresql:// needs the asyncpg package, which is not installed: pip install 'runwire[postgres]'"
        )


class _Doubt:
    """When the server was last seen to change its role or to go away: what was connected before is not used again."""

    def __init__(self) -> None:
        self.since = 0.0


class _Pool:
    """Connections for one purpose."""

    def __init__(
        self, server: postgres.Server, doubt: _Doubt, *, size: int, wait_seconds: float, must_write: bool
    ) -> None:
        self._server = server
        self._doubt = doubt
        self._must_write = must_write
        self._pooled = False
        self._made: WeakSet[Any] = WeakSet()
        self._engine: AsyncEngine = create_async_engine(
            URL.create("postgresql+asyncpg"),
            creator=self._create,
            pool_size=size,
            max_overflow=0,
            pool_timeout=wait_seconds,
            pool_recycle=_RECYCLE_SECONDS,
            pool_use_lifo=True,
        )
        for name, listener in (("connect", _note_time), ("checkin", _note_time), ("checkout", self._look_at)):
            event.listen(self._engine.sync_engine, name, listener)

    async def run(self, work: Work[T], *, transaction: bool, limit_seconds: float) -> T:
        """The result of `work`. A connection that does not answer in time is given up."""
        async with self._engine.connect() as connection:
            driver: Any = (await connection.get_raw_connection()).driver_connection
            # Its end ends the work, at once. To cancel the work instead would have it ended in order, with questions
            # to a server that does not answer.
            limit = asyncio.get_running_loop().call_later(limit_seconds, driver.terminate)
            try:
                return await self._carry_out(connection, work, transaction)
            except BaseException as error:
                in_time = limit.when() > asyncio.get_running_loop().time()
                await self._end(connection, driver, error)
                if in_time or not isinstance(error, Exception):
                    raise
                raise TimeoutError(f"not within {limit_seconds:g} s") from error
            finally:
                limit.cancel()

    async def _carry_out(self, connection: AsyncConnection, work: Work[T], transaction: bool) -> T:
        # Reading without a transaction saves two round trips, and is no worse: each statement sees what is committed
        # when it begins, either way. Behind a pooler the statements of one piece of work would go to many servers.
        if not transaction and not self._pooled:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
        result = await connection.run_sync(work)
        await connection.commit()
        return result

    async def _end(self, connection: AsyncConnection, driver: Any, error: BaseException) -> None:
        """After an error: undone, or the connection is given up."""
        if changes_role(error):
            self._doubt.since = time.monotonic()
        if not retires(error) and not isinstance(error, asyncio.CancelledError):
            try:
                async with asyncio.timeout(_PING_SECONDS):
                    await connection.rollback()
                return
            except Exception:  # it has gone in the meantime
                pass
        driver.terminate()  # first: to end it in order would wait for the one that does not answer
        if not (connection.invalidated or connection.closed):
            await connection.invalidate()

    # Called by SQLAlchemy

    def _create(self) -> Any:
        connection, greeting = await_only(postgres.connect(self._server))
        if self._must_write and not greeting.writable:
            connection.terminate()
            raise StoreUnavailable(_READ_ONLY)
        self._pooled = greeting.pooled
        self._made.add(connection)
        settings: dict[str, Any] = {}
        if greeting.pooled:  # no statement outlives its transaction, and none has a name
            settings = {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str}

        async def made() -> Any:
            return connection

        module: Any = self._engine.dialect.dbapi
        return module.connect(async_creator_fn=made, **settings)

    def _look_at(self, adapted: Any, record: Any, proxy: Any) -> None:
        made, used = record.info["made"], record.info["used"]
        if made >= self._doubt.since and time.monotonic() - used < _IDLE_SECONDS:
            return
        try:
            if made < self._doubt.since:
                raise DisconnectionError
            adapted.run_async(_ping)
        except Exception as error:
            adapted.driver_connection.terminate()
            raise DisconnectionError from error

    async def dispose(self) -> None:
        try:
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._engine.dispose()
        except (SQLAlchemyError, OSError):
            pass  # a server that is gone cannot be told goodbye
        for connection in list(self._made):
            connection.terminate()


def _note_time(adapted: Any, record: Any) -> None:
    record.info["used"] = time.monotonic()
    record.info.setdefault("made", record.info["used"])


async def _ping(connection: Any) -> None:
    async with asyncio.timeout(_PING_SECONDS):
        await connection.execute("SELECT 1")


class _Postgres:
    """Two pools and one connection, in one doubt."""

    embedded = False

    def __init__(self, server: postgres.Server, pool_size: int, readers: int, work_seconds: float) -> None:
        doubt = _Doubt()
        wait = min(work_seconds, postgres.CONNECT_SECONDS)
        self._work_seconds = work_seconds
        self._workers = _Pool(server, doubt, size=pool_size, wait_seconds=wait, must_write=True)
        self._readers = _Pool(server, doubt, size=readers, wait_seconds=READ_WAIT_SECONDS, must_write=False)
        self._server = server
        self._health: Any = None
        self._asking = asyncio.Lock()

    async def read(self, work: Work[T]) -> T:
        return await self._readers.run(work, transaction=False, limit_seconds=READ_SECONDS)

    async def look(self, work: Work[T]) -> T:
        return await self._workers.run(work, transaction=False, limit_seconds=self._work_seconds)

    async def write(self, work: Work[T], limit_seconds: float | None) -> T:
        return await self._workers.run(work, transaction=True, limit_seconds=limit_seconds or self._work_seconds)

    async def check(self, *, writes: bool) -> str:
        async with self._asking:
            try:
                if self._health is None:
                    self._health, _ = await postgres.connect(self._server)
                async with asyncio.timeout(HEALTH_SECONDS):
                    return await self._ask(writes)
            except BaseException:
                self._hang_up()
                raise

    async def _ask(self, writes: bool) -> str:
        greeting = await postgres.greet(self._health)
        if not greeting.writable:
            raise StoreUnavailable(_READ_ONLY)
        if writes:
            async with self._health.transaction():
                await self._health.execute(_TRIAL)
        return greeting.encoding

    def _hang_up(self) -> None:
        connection, self._health = self._health, None
        if connection is not None:
            connection.terminate()

    async def dispose(self) -> None:
        self._hang_up()
        await self._workers.dispose()
        await self._readers.dispose()


_TRIAL: Final = f"UPDATE counters SET value = value WHERE name = '{schema.EPOCH}'"
"""A write that changes nothing, of a row that nobody else writes."""


# SQLite


class _Threads:
    """SQLite, whose calls block: one thread that writes, one that looks for the worker, a few that read."""

    embedded = True

    def __init__(self, url: URL) -> None:
        self._file = _File(url)
        self._writing = _Thread(self._file, "BEGIN IMMEDIATE", 1, "scores-write")
        self._looking = _Thread(self._file, "BEGIN", 1, "scores-look")
        self._reading = _Thread(self._file, "BEGIN", _READERS, "scores-read")
        self._checking = _Thread(self._file, "BEGIN", 1, "scores-health")
        self._places = asyncio.Semaphore(_READERS)

    async def read(self, work: Work[T]) -> T:
        try:
            async with asyncio.timeout(READ_WAIT_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise StoreUnavailable("the results database is asked more than it can answer now") from None
        return await self._reading.run(work, READ_SECONDS, self._places.release)

    async def look(self, work: Work[T]) -> T:
        return await self._looking.run(work, None)

    async def write(self, work: Work[T], limit_seconds: float | None) -> T:
        # No limit: the transaction is in this process, and what it waits for is bounded by busy_timeout.
        return await self._writing.run(work, None)

    async def check(self, *, writes: bool) -> str:
        def ask(connection: Connection) -> str:
            if not os.access(self._file.path, os.W_OK):
                raise DatabaseRefuses(f"the results database takes no writes: {str(self._file.path)!r} is read-only")
            connection.execute(select(1))
            return "UTF8"

        if writes:
            await self._writing.run(lambda connection: connection.execute(text(_TRIAL)), None)
        return await self._checking.run(ask, None)

    async def dispose(self) -> None:
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        for threads in (self._writing, self._looking, self._reading, self._checking):
            threads.close()


class _File:
    """The file, and which one it was: SQLite would keep writing to one that was moved or removed."""

    def __init__(self, url: URL) -> None:
        make_folder(url)
        self.url = url
        self.path = Path(str(url.database))
        self._known: tuple[int, int] | None = None
        self._lock = threading.Lock()
        self._generation = 0

    def generation(self) -> int:
        """Grows when another file is in its place. Raises DatabaseRefuses while none is."""
        with self._lock:
            try:
                found = self.path.stat()
            except FileNotFoundError:
                if self._known is None:
                    return self._generation  # it is about to be made
                raise DatabaseRefuses(
                    f"the file of the results database, {str(self.path)!r}, was moved or removed"
                ) from None
            if self._known not in (None, (found.st_dev, found.st_ino)):
                self._generation += 1
            self._known = (found.st_dev, found.st_ino)
            return self._generation


class _Thread:
    """Threads with a connection each, for one purpose."""

    def __init__(self, file: _File, begin: str, size: int, name: str) -> None:
        self._file = file
        self._engine = _sqlite_engine(file.url, begin, size)
        self._generation = 0
        self._threads = ThreadPoolExecutor(size, name)

    async def run(self, work: Work[T], limit_seconds: float | None, done: Callable[[], None] = lambda: None) -> T:
        """The result of `work`, in a transaction; interrupted after `limit_seconds`. `done` is called when the thread
        is free again."""
        used: list[sqlite3.Connection] = []
        future = asyncio.get_running_loop().run_in_executor(self._threads, self._call, work, used)

        def end(ended: asyncio.Future[T]) -> None:
            done()
            if not ended.cancelled():
                ended.exception()  # it was told already, or nobody waits for it

        future.add_done_callback(end)
        try:
            async with asyncio.timeout(limit_seconds):
                return await asyncio.shield(future)
        except (TimeoutError, asyncio.CancelledError):
            if limit_seconds is not None:  # nobody waits for the answer any more
                for connection in used:
                    connection.interrupt()
            raise

    def _call(self, work: Work[T], used: list[sqlite3.Connection]) -> T:
        generation = self._file.generation()
        if generation != self._generation:
            self._engine.dispose()
            self._generation = generation
        with self._engine.begin() as connection:
            driver: Any = connection.connection.driver_connection
            used.append(driver)
            try:
                return work(connection)
            finally:
                used.clear()

    def close(self) -> None:
        self._threads.shutdown(wait=True)
        self._engine.dispose()


def _sqlite_engine(url: URL, begin: str, size: int) -> Engine:
    """Several processes may share the file, a commit survives a power cut, and transactions begin with `begin`."""
    engine = create_engine(url, pool_size=size, max_overflow=0, connect_args={"check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # we say BEGIN ourselves
        if begin == "BEGIN":  # who only reads: a damaged text must not take a list with it
            connection.text_factory = lambda text: text.decode("utf-8", "replace")
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
