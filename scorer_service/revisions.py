"""The numbers of writes, by which they can be watched in order.

A row carries the number of the write that changed it last. A reader that has seen everything up to n must never miss a
lower number that commits later. So it reads only up to the newest number that is *settled*: all writes up to it have
ended.

SQLite has one writer: a counter in a row is settled as it stands. PostgreSQL has many, and they must not wait for each
other: there the number is that of the transaction (xid8), and settled is what lies below the oldest transaction that
still runs. A transaction of another database of that server that writes for long so delays those who watch, and nobody
else.
"""

from __future__ import annotations

import secrets
from typing import Final

from sqlalchemy import BigInteger, literal_column, select, update
from sqlalchemy.engine import Connection

from scorer_service.schema import EPOCH, NOW, REVISION, counters, scorer_runs

_COUNTER: Final = counters.c.name == REVISION
_COUNT: Final = update(counters).where(_COUNTER).values(value=counters.c.value + 1).returning(counters.c.value, NOW)
_COUNTED: Final = select(counters.c.value).where(_COUNTER)

_XID: Final = select(literal_column("pg_current_xact_id()::text::bigint", BigInteger), NOW)
_XMIN: Final = select(literal_column("pg_snapshot_xmin(pg_current_snapshot())::text::bigint - 1", BigInteger))

_XMAX: Final = literal_column("pg_snapshot_xmax(pg_current_snapshot())::text::bigint", BigInteger)


def next_revision(connection: Connection) -> tuple[int, float]:
    """Number of this transaction, and the database's clock."""
    line = connection.execute(_XID if _is_postgresql(connection) else _COUNT).one()
    return int(line[0]), float(line[1])


def settled_revision(connection: Connection) -> int:
    """All writes up to this number have ended, and can be read by what is executed next."""
    return int(connection.execute(_XMIN if _is_postgresql(connection) else _COUNTED).scalar_one())


def mend(connection: Connection) -> bool:
    """Makes the numbers fit this server, if the database was brought here from one that was further; whether it was."""
    if not _is_postgresql(connection):
        return False
    revision = scorer_runs.c.revision
    if connection.execute(select(revision).where(revision >= _XMAX).limit(1)).first() is None:
        return False
    connection.execute(update(scorer_runs).values(revision=0))
    # Cursors that were given out before mean nothing here.
    connection.execute(update(counters).where(counters.c.name == EPOCH).values(value=secrets.randbits(62)))
    return True


def _is_postgresql(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"
