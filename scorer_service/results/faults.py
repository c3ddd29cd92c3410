"""What an error of the results database says about the work that met it. Intake, finishing, export and retention all
ask here, and so does the start.

    PASSING   the same work may succeed later, on another connection: a fail-over, a restart, a full disk, a deadlock
    REFUSED   somebody has to change something that is not ours: a password, a right, the file. Waited for, aloud
    UNKNOWN   nobody here knows why. What is written with others is then written alone, and what still cannot be
              written waits in a place of its own, aloud, with growing pauses

There is no verdict "bad data": what is bad, our own validation says before anything is written. Nothing that was
accepted, and no score, is ever replaced by a failure because of what a database said.
"""

from __future__ import annotations

import asyncio
import sqlite3
import ssl
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from typing import Any, Final, TypeVar

from sqlalchemy.exc import DBAPIError, DisconnectionError, InvalidRequestError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from runwire.errors import StoreUnavailable

T = TypeVar("T")


class Verdict(Enum):
    """See the module."""

    PASSING = "passing"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class DatabaseRefuses(StoreUnavailable):
    """The results database is there and will not do it until somebody changes something: REFUSED."""

    needs_somebody = True


_PASSING_STATES: Final = (
    "08",  # connection
    "25",  # read-only, in a transaction that failed: the session is not what we take it for
    "40",  # rolled back: deadlock, serialisation
    "53",  # disk, memory, connections
    "55",  # an object in use, a lock that is not to be had
    "57",  # cancelled, time-out, shutdown, starting up
    "58",  # input and output
    "72",  # snapshot too old
    "26000",  # a prepared statement is gone: a pooler gave us another session
    "42P05",  # a prepared statement is there already: the same
)
_REFUSED_STATES: Final = ("28", "3D", "42501", "F0")
"""Authentication, no such database, no right, the server's own configuration."""
_RETIRING_STATES: Final = ("08", "25", "26000", "42P05", "57P", "58")
"""What a connection that met it will meet again."""
_ROLE_STATES: Final = ("25006", "57P")
"""The server changed its role or goes away: all connections to it are in doubt."""

_PASSING_CODES: Final = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PROTOCOL,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_SCHEMA,
)
_REFUSED_CODES: Final = (
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
)

_SAID: Final = {
    "25006": "takes no writes now (it is read-only: a standby, or in the middle of a fail-over)",
    "53100": "has no room left on its disk",
    "53200": "has no memory left",
    "53300": "has no connections left",
    "55P03": "holds a lock that we wait for",
    "57014": "took too long and was cancelled",
    "57P01": "is shutting down",
    "57P02": "has crashed",
    "57P03": "is starting up or shutting down",
    "28P01": "refuses our password",
    "28000": "does not let us in",
    "3D000": "does not exist",
    "42501": "does not give us the right",
}
_SAID_BY_CODE: Final = {
    sqlite3.SQLITE_FULL: "has no room left on its disk",
    sqlite3.SQLITE_READONLY: "takes no writes: it is read-only",
    sqlite3.SQLITE_CORRUPT: "is damaged",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened",
    sqlite3.SQLITE_BUSY: "is held by another process",
}


def verdict(error: BaseException) -> Verdict:
    """What to do about an error."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return Verdict.REFUSED
    if isinstance(error, (OSError, PoolTimeout, asyncio.TimeoutError, DisconnectionError)):
        return Verdict.PASSING
    if state := sqlstate(error):
        return _of_state(state, error)
    if (code := sqlite_code(error)) is not None:
        if code in _PASSING_CODES:
            return Verdict.PASSING
        return Verdict.REFUSED if code in _REFUSED_CODES else Verdict.UNKNOWN
    if isinstance(error, InvalidRequestError) or (isinstance(error, DBAPIError) and error.connection_invalidated):
        return Verdict.PASSING  # the pool gave out what is closed
    return _of_driver(_origin(error))


def _of_state(state: str, error: BaseException) -> Verdict:
    if state.startswith(_REFUSED_STATES):
        return Verdict.REFUSED
    if state.startswith(_PASSING_STATES):
        return Verdict.PASSING
    if state == "0A000" and "cached" in str(error):  # the tables changed under a statement: it is prepared again
        return Verdict.PASSING
    return Verdict.UNKNOWN


def _of_driver(origin: BaseException) -> Verdict:
    """What asyncpg itself says, by the names of its classes: it may not be installed."""
    names = {kind.__name__ for kind in type(origin).__mro__ if kind.__module__.startswith("asyncpg")}
    if "ClientConfigurationError" in names:
        return Verdict.REFUSED
    if "DataError" in names or not names & {"InterfaceError", "InternalClientError"}:
        return Verdict.UNKNOWN
    return Verdict.PASSING  # closed, busy with something else, or confused: another connection is not


def _origin(error: BaseException) -> BaseException:
    """What the driver raised."""
    origin = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    cause = origin.__cause__
    return cause if cause is not None and type(origin).__module__.startswith("sqlalchemy") else origin


def sqlstate(error: BaseException) -> str:
    """SQLSTATE of an error of PostgreSQL; empty where it has none."""
    for each in (getattr(error, "orig", None), error, error.__cause__, _origin(error)):
        if state := getattr(each, "sqlstate", None):
            return str(state)
    return ""


def sqlite_code(error: BaseException) -> int | None:
    """Primary result code of an error of SQLite; None where it has none."""
    code: Any = getattr(_origin(error), "sqlite_errorcode", None)
    return None if code is None else code & 0xFF  # the rest says more precisely which


def retires(error: BaseException) -> bool:
    """Whether the connection that met it should not be used again."""
    state = sqlstate(error)
    if state:
        return state.startswith(_RETIRING_STATES)
    return not isinstance(error, SQLAlchemyError) or verdict(error) is Verdict.PASSING


def changes_role(error: BaseException) -> bool:
    """Whether all connections to that server are in doubt."""
    return sqlstate(error).startswith(_ROLE_STATES)


def words(error: BaseException) -> str:
    """What happened, in one line, as a sentence about "the results database"."""
    origin = _origin(error)
    detail = (str(origin).strip() or type(origin).__name__).partition("\n")[0].rpartition(">: ")[2]
    if isinstance(error, PoolTimeout):
        return "is asked more than its connections can carry: all of this process are in use"
    said = _SAID.get(sqlstate(error)) or _SAID_BY_CODE.get(sqlite_code(error) or -1)
    if said:
        return f"{said}: {detail}"
    if isinstance(origin, (asyncio.TimeoutError, TimeoutError)):
        return "does not answer in time" + ("" if detail in ("TimeoutError", "") else f": {detail}")
    if isinstance(origin, OSError):
        return f"cannot be reached: {origin.strerror or detail if not origin.args[1:] else detail}"
    return f"cannot be used: {detail}"


def mapped(error: BaseException) -> StoreUnavailable | None:
    """The error as its callers get it; None for what is UNKNOWN, which stays as it is."""
    found = verdict(error)
    if isinstance(error, StoreUnavailable) or found is Verdict.UNKNOWN:
        return None
    kind = DatabaseRefuses if found is Verdict.REFUSED else StoreUnavailable
    return kind(f"the results database {words(error)}")


async def write_in_parts(
    items: Sequence[T], write: Callable[[Sequence[T]], Awaitable[None]]
) -> list[tuple[T, Exception]]:
    """Writes items, together if it goes, else in ever smaller parts; returns those that cannot be written even alone,
    for a reason nobody knows. Raises StoreUnavailable, and then anything may be written or not."""
    if not items:
        return []
    try:
        await write(items)
    except StoreUnavailable:
        raise
    except Exception as error:
        if len(items) == 1:
            return [(items[0], error)]
        half = len(items) // 2
        return [*await write_in_parts(items[:half], write), *await write_in_parts(items[half:], write)]
    return []
