"""What an error says about the work that met it: real errors of both databases, and of what lies between."""

from __future__ import annotations

import asyncio
import sqlite3
import ssl
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from runwire.errors import StoreUnavailable
from scorer_service.results.database import Database, open_database
from scorer_service.results.faults import DatabaseRefuses, Verdict, mapped, retires, verdict, write_in_parts


class Said(Exception):
    """An error of PostgreSQL as the driver has it."""

    def __init__(self, state: str) -> None:
        super().__init__(f"the server said {state}")
        self.sqlstate = state


def of_postgres(state: str) -> DBAPIError:
    return DBAPIError("SELECT 1", None, Said(state))


def of_sqlite(code: int) -> DBAPIError:
    origin = sqlite3.OperationalError("said by SQLite")
    origin.sqlite_errorcode = code  # type: ignore[misc]
    return DBAPIError("SELECT 1", None, origin)


PASSING_STATES = [
    *("08000", "08001", "08003", "08004", "08006", "08P01", "25006", "25P02", "25P03", "25P04", "40001", "40P01"),
    *("40003", "53000", "53100", "53200", "53300", "53400", "55006", "55P03", "57014", "57P01", "57P02", "57P03"),
    *("57P04", "57P05", "58000", "58030", "72000", "26000", "42P05"),
]


@pytest.mark.parametrize("state", PASSING_STATES)
def test_what_passes_is_waited_for(state: str) -> None:
    """Fail-overs, shutdowns, full disks, locks, deadlocks: StoreUnavailable, in words."""
    error = of_postgres(state)
    assert verdict(error) is Verdict.PASSING
    ours = mapped(error)
    assert type(ours) is StoreUnavailable
    assert f"the server said {state}" in str(ours)


@pytest.mark.parametrize("state", ["28000", "28P01", "3D000", "42501", "F0000"])
def test_what_somebody_has_to_change_is_said_so(state: str) -> None:
    """Waited for too, and told apart."""
    assert verdict(of_postgres(state)) is Verdict.REFUSED
    assert isinstance(mapped(of_postgres(state)), DatabaseRefuses)


@pytest.mark.parametrize("state", ["22021", "22003", "23505", "23514", "42P01", "42703", "54000", "P0001", "XX000"])
def test_what_nobody_knows_stays_as_it_is(state: str) -> None:
    """No mistake is hidden, and none is called a fault of the data."""
    assert verdict(of_postgres(state)) is Verdict.UNKNOWN
    assert mapped(of_postgres(state)) is None


@pytest.mark.parametrize(
    "code, expected",
    [
        (sqlite3.SQLITE_BUSY, Verdict.PASSING),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, Verdict.PASSING),
        (sqlite3.SQLITE_LOCKED, Verdict.PASSING),
        (sqlite3.SQLITE_IOERR_WRITE, Verdict.PASSING),
        (sqlite3.SQLITE_FULL, Verdict.PASSING),
        (sqlite3.SQLITE_READONLY, Verdict.REFUSED),
        (sqlite3.SQLITE_READONLY_DBMOVED, Verdict.REFUSED),
        (sqlite3.SQLITE_CANTOPEN, Verdict.REFUSED),
        (sqlite3.SQLITE_CORRUPT, Verdict.REFUSED),
        (sqlite3.SQLITE_NOTADB, Verdict.REFUSED),
        (sqlite3.SQLITE_CONSTRAINT, Verdict.UNKNOWN),
        (sqlite3.SQLITE_TOOBIG, Verdict.UNKNOWN),
        (sqlite3.SQLITE_ERROR, Verdict.UNKNOWN),
    ],
)
def test_what_sqlite_says(code: int, expected: Verdict) -> None:
    """By its result codes, extended ones too."""
    assert verdict(of_sqlite(code)) is expected


@pytest.mark.parametrize(
    "error, expected",
    [
        (ConnectionRefusedError(111, "Connection refused"), Verdict.PASSING),
        (TimeoutError(), Verdict.PASSING),
        (PoolTimeout(), Verdict.PASSING),
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), Verdict.REFUSED),
        (ValueError("no such thing"), Verdict.UNKNOWN),
        (OverflowError(), Verdict.UNKNOWN),
        (MemoryError(), Verdict.UNKNOWN),
        (DBAPIError("SELECT 1", None, ValueError("connection refused by a scorer")), Verdict.UNKNOWN),
    ],
)
def test_what_is_no_database(error: BaseException, expected: Verdict) -> None:
    """The network passes, a certificate does not, and the word "connection" in a text says nothing."""
    assert verdict(error) is expected


def test_a_session_that_turned_read_only_is_given_up() -> None:
    """So is one that the server ends; a row that it does not take is no reason."""
    assert retires(of_postgres("25006"))
    assert retires(of_postgres("57P01"))
    assert not retires(of_postgres("23505"))
    assert not retires(of_postgres("40001"))


async def refused_by(database: Database, statement: str) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - what it is, is the question
        await database.write(lambda connection: connection.execute(text(statement)))
    return caught.value


@pytest.mark.parametrize(
    "statement, kind",
    [
        ("SET TRANSACTION READ ONLY; ", None),
        ("SELECT 1/0", DBAPIError),
        ("SELECT * FROM no_such_table", DBAPIError),
        ("SELECT pg_terminate_backend(pg_backend_pid())", StoreUnavailable),
        ("SET LOCAL statement_timeout = 1; ", None),
        ("INSERT INTO counters VALUES ('revision', 1)", DBAPIError),
    ],
)
async def test_what_postgresql_really_says(filled_postgres_url: str, statement: str, kind: Any) -> None:
    """Errors of the real server through the real driver, and the next work continues."""
    async with open_database(filled_postgres_url) as database:
        if kind is None:
            setting = statement.partition(";")[0]

            def work(connection: Any) -> None:
                connection.execute(text(setting))
                connection.execute(text("UPDATE counters SET value = value"))
                connection.execute(text("SELECT pg_sleep(10)"))

            with pytest.raises(StoreUnavailable):
                await database.write(work)
        else:
            assert isinstance(await refused_by(database, statement), kind)
        assert await database.write(lambda connection: connection.execute(text("SELECT 1")).scalar_one()) == 1


async def test_a_lock_that_somebody_holds_passes(filled_postgres_url: str) -> None:
    """A table that another session has locked is waited for, not longer than a piece of work may take."""
    locked, gate = asyncio.Event(), asyncio.Event()
    async with (
        open_database(filled_postgres_url) as other,
        open_database(filled_postgres_url, work_seconds=0.5) as database,
        asyncio.TaskGroup() as group,
    ):
        from sqlalchemy.util import await_only

        def lock(connection: Any) -> None:
            connection.execute(text("LOCK TABLE scorer_runs"))
            locked.set()
            await_only(gate.wait())

        holding = group.create_task(other.write(lock))
        await locked.wait()
        with pytest.raises(StoreUnavailable, match="in time"):
            await database.write(lambda connection: connection.execute(text("UPDATE scorer_runs SET revision = 0")))
        gate.set()
        await holding
        await database.write(lambda connection: connection.execute(text("UPDATE scorer_runs SET revision = 0")))


async def test_items_that_cannot_be_written_are_found() -> None:
    """Each by itself, with few attempts, and everything else is written once."""
    written: list[int] = []
    attempts = 0

    async def write(part: Any) -> None:
        nonlocal attempts
        attempts += 1
        if {3, 77} & set(part):
            raise ValueError("one of these")
        written.extend(part)

    stuck = await write_in_parts(range(100), write)
    assert [item for item, _ in stuck] == [3, 77]
    assert sorted(written) == [number for number in range(100) if number not in (3, 77)]
    assert attempts < 40


async def test_an_outage_is_not_searched_for_a_culprit() -> None:
    """What passes ends the search at once."""

    async def write(part: Any) -> None:
        raise StoreUnavailable("away")

    with pytest.raises(StoreUnavailable):
        await write_in_parts([1, 2, 3], write)
