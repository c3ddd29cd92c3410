"""Opening the file, its schema, and which error of SQLite means what."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from runwire.errors import ConfigurationError, RunwireError, StoreUnavailable

BUSY_SECONDS: Final = 5.0
"""How long one process waits for another's transaction."""

_APPLICATION_ID: Final = 0x52754E57  # "RuNW": tells a store from any other SQLite file
_SCHEMA_VERSION: Final = 1
_ADDED_COLUMNS: Final = (
    "token TEXT NOT NULL DEFAULT ''",
    "holder TEXT NOT NULL DEFAULT ''",
    "alone INTEGER NOT NULL DEFAULT 0",
    "alone_losses INTEGER NOT NULL DEFAULT 0",
    "lease REAL NOT NULL DEFAULT 0",
    "suspect INTEGER NOT NULL DEFAULT 0",
    "overdue INTEGER NOT NULL DEFAULT 0",
)
"""Of `topics`, since the first files were written. What is only added keeps the version: processes of the version
before name the columns that they use, and continue beside this one."""
_ADDED_TABLES: Final = ("boards", "topics_by_tenant", "turns")
"""Tables and indexes that came later, too."""
_SYNCHRONOUS: Final = ("normal", "full")
_STARTING_SECONDS: Final = 0.02
_WAL_LIMIT_BYTES: Final = 64 * 1024 * 1024
_CHECKPOINT_PAGES: Final = 1000
"""Of the log beside the file, after which a commit brings it into the file. SQLite's own default, also where a
distribution has changed it."""


@dataclass(frozen=True)
class Database:
    """Where the file is and how it is to be opened."""

    path: Path
    synchronous: str = "normal"

    @classmethod
    def from_url(cls, url: str) -> Database:
        """Of `sqlite:///relative.db` or `sqlite:////absolute.db`, with `?synchronous=full` if wished."""
        parts = urlsplit(url)
        if parts.netloc:
            raise ConfigurationError(
                "a sqlite URL has three slashes before a relative path, four before an absolute one: "
                "sqlite:///runs.db, sqlite:////var/lib/runwire/runs.db"
            )
        path = unquote(parts.path[1:])
        if not path or path.endswith("/") or parts.fragment:
            raise ConfigurationError("the sqlite URL names no file; it should look like sqlite:///runs.db")
        if path == ":memory:":
            raise ConfigurationError("sqlite:///:memory: is not supported: use memory://")
        if "\0" in path:
            raise ConfigurationError("the path of the sqlite URL holds a zero byte")
        return cls(Path(path), _synchronous(parts.query))

    def identity(self) -> tuple[int, int] | None:
        """Tells the file from one that took its place; None where there is none."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def create(self) -> None:
        """Makes the file and its tables where there are none yet.

        Raises ConfigurationError if it cannot be used, with what to do.
        """
        try:
            if not self.path.parent.is_dir():
                raise ConfigurationError(f"the folder of {str(self.path)!r} does not exist: create it first")
            if self.path.is_dir():
                raise ConfigurationError(f"{str(self.path)!r} is a folder: name a file in it")
            if self.path.exists() and not self.path.is_file():
                raise ConfigurationError(f"{str(self.path)!r} is a device or a pipe: name a file")
        except OSError as error:
            raise ConfigurationError(
                f"{str(self.path)!r} cannot be reached: {error.strerror} (check that this user may enter its folders)"
            ) from error
        try:
            with _closing(self.connect(BUSY_SECONDS)) as connection:
                self._set_up(connection)
        except sqlite3.Error as error:
            if _passing(error):
                raise ours(error) from error
            raise ConfigurationError(
                f"{str(self.path)!r} cannot be used as a store: {error}{_advice(error)}"
            ) from error

    def connect(self, busy_seconds: float = BUSY_SECONDS) -> sqlite3.Connection:
        """A connection in autocommit mode, for one thread at a time; it waits this long for other processes."""
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        connection.execute(f"PRAGMA synchronous = {self.synchronous}")
        connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT_BYTES}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        # Builds of distributions overwrite what is deleted with zeros: to forget a run would write as much as the run.
        connection.execute("PRAGMA secure_delete = OFF")
        connection.execute(f"PRAGMA busy_timeout = {int(busy_seconds * 1000)}")
        return connection

    def _set_up(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN")  # one snapshot: another process may be making the tables just now
        ours = _check_ours(connection, self.path)
        connection.execute("COMMIT")
        if _use_wal(connection) != "wal":
            raise ConfigurationError(
                f"{str(self.path)!r} lies where SQLite cannot share memory between processes (a network drive?): "
                "use a local disk"
            )
        if ours:
            _add_what_came_later(connection)
            return
        connection.execute("BEGIN IMMEDIATE")
        if _check_ours(connection, self.path):  # another process was faster
            connection.execute("ROLLBACK")
            return
        for statement in _statements(_schema()):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
        connection.execute("COMMIT")


def _synchronous(query: str) -> str:
    options = parse_qsl(query, keep_blank_values=True)
    for name, value in options:
        if name != "synchronous":
            raise ConfigurationError(f"a sqlite URL has no option {name!r}; supported is synchronous=normal|full")
        if value not in _SYNCHRONOUS:
            raise ConfigurationError(f"synchronous={value!r} is neither 'normal' nor 'full'")
    if len(options) > 1:
        raise ConfigurationError("synchronous is given twice")
    return options[0][1] if options else "normal"


def _check_ours(connection: sqlite3.Connection, path: Path) -> bool:
    """Whether the file holds a store already; False where it is empty. Anything else is refused."""
    application = _pragma(connection, "application_id")
    version = _pragma(connection, "user_version")
    if application == _APPLICATION_ID and version == _SCHEMA_VERSION:
        return True
    if application == _APPLICATION_ID:
        raise ConfigurationError(
            f"{str(path)!r} was written by another version of Runwire (schema {version}, this one has "
            f"{_SCHEMA_VERSION}): use that version, or another file"
        )
    if application or version or connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise ConfigurationError(f"{str(path)!r} is a database of something else: name another file")
    return False


def _add_what_came_later(connection: sqlite3.Connection) -> None:
    """Brings a file of an earlier version up to this one."""
    if _is_complete(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    if not _is_complete(connection):  # another process may have been faster
        if not _has_columns(connection):
            for column in _ADDED_COLUMNS:
                connection.execute(f"ALTER TABLE topics ADD COLUMN {column}")
            connection.execute("CREATE INDEX topics_by_lane ON topics (queue, suspect, due) WHERE due IS NOT NULL")
            connection.execute("DROP INDEX topics_by_due")
        for statement in _statements(_schema()):
            if "IF NOT EXISTS" in statement:
                connection.execute(statement)
    connection.execute("COMMIT")


def _is_complete(connection: sqlite3.Connection) -> bool:
    names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
    return _has_columns(connection) and names.issuperset(_ADDED_TABLES)


def _has_columns(connection: sqlite3.Connection) -> bool:
    names = {row[1] for row in connection.execute("PRAGMA table_info(topics)")}
    return all(column.split(" ")[0] in names for column in _ADDED_COLUMNS)


def _schema() -> str:
    return files("runwire.sqlite").joinpath("schema.sql").read_text()


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    value: int = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return value


def _use_wal(connection: sqlite3.Connection) -> str:
    """Switches to WAL mode, which lasts. SQLite does not wait here while another process does the same."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            mode: str = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            return mode
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
        time.sleep(_STARTING_SECONDS)


def _statements(script: str) -> Iterator[str]:
    """The statements of a script. (`executescript` would end the transaction.)"""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def _closing(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    try:
        yield connection
    finally:
        connection.close()


class Handle:
    """One thread's connection. It is made when needed, and again after an error or when the file was replaced."""

    def __init__(self, database: Database, busy_seconds: float = BUSY_SECONDS) -> None:
        self._database = database
        self._busy_seconds = busy_seconds
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None

    def connection(self) -> sqlite3.Connection:
        """Raises sqlite3.Error, or StoreUnavailable where the file is gone and cannot be made again."""
        identity = self._database.identity()
        if self._connection is not None and identity == self._identity and identity is not None:
            return self._connection
        self.close()
        try:
            self._database.create()
        except ConfigurationError as error:
            # Right when the service started, so it may be right again.
            raise StoreUnavailable(f"the store is gone: {error}") from error
        identity = self._database.identity()
        connection = self._database.connect(self._busy_seconds)
        if identity is None or identity != self._database.identity():
            # Which of the two it is cannot be told, and a file without a name would take commits that nobody finds.
            connection.close()
            raise StoreUnavailable("the store's file was replaced while it was opened")
        self._connection, self._identity = connection, identity
        return connection

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def harms_all(error: Exception) -> bool:
    """Whether it is the file or the disk that fails, and so everything that is asked of it: no use in trying each piece
    of work by itself."""
    faults = (sqlite3.ProgrammingError, sqlite3.InterfaceError, sqlite3.IntegrityError, sqlite3.DataError)
    return isinstance(error, StoreUnavailable) or (isinstance(error, sqlite3.Error) and not isinstance(error, faults))


def ours(error: Exception) -> Exception:
    """What the caller gets for an error of a store that was opened well: the one place where SQLite's become ours.

    Refusals of our own checks stay what they are. Whatever else there is says nothing of what was asked.
    """
    if isinstance(error, (RunwireError, ValueError)) and not isinstance(error, sqlite3.Error):
        return error
    return StoreUnavailable(f"the SQLite store fails: {error}")


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process holds the file."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _passing(error: sqlite3.Error) -> bool:
    """Whether it may be gone by itself: another process holds the file, or the disk is full or failing."""
    return is_busy(error) or _code(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PROTOCOL)


def _code(error: sqlite3.Error) -> int:
    """The primary result code."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _advice(error: sqlite3.Error) -> str:
    if _code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
        return " (check that this user may write the file and its folder)"
    if _code(error) in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
        return " (it is no SQLite database, or a damaged one: name another file)"
    return ""
