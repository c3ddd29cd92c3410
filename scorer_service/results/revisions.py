"""The numbers of writes, by which they can be watched in order.

A row carries the number of the write that changed it last. A reader that has seen everything up to n must never miss a
lower number that commits later. So it reads only up to the newest number that is *settled*: all writes up to it have
ended, and can be seen by whatever is executed next.

SQLite has one writer: a counter in a row is settled as it stands.

PostgreSQL has many, and they must not wait for each other. There a write

    1. reads L, the newest number that was given out,
    2. takes the advisory lock (our sequence, L), shared and until its transaction ends,
    3. takes its number n from the sequence: n > L.

in that order within one statement, and a reader

    1. reads R, the newest number that was given out,
    2. looks at the advisory locks of our sequence that are held: settled is the least of R and of their L,
    3. reads rows, in a statement of its own.

Why that is right: let n <= settled be the number of a write. As n <= R, it was given out before R was read; its lock
was there before n was, so before the locks were looked at. If the write still held it then, settled <= L < n, which it
is not. So it had let go of it, which PostgreSQL does after the transaction has become visible: a statement that begins
later sees what it wrote. And a write that takes its number later than R was read gets one above R, so above settled.

Only transactions that took a number of ours are waited for: not those of another database or program on that server,
be it a dump, a replication slot, a prepared or a forgotten transaction. A write of ours that hangs delays who watches,
for as long as the connection's own limits let it: see `holdup`.

A release from before migration 0005 writes the number of its transaction instead. During a rolling upgrade a trigger
(migration 0007) gives its rows numbers of the sequence, by the same steps; and the sequence was moved beyond what
transactions will reach, so that what is written now is beyond all cursors from before.

Locks name a number by its low 32 bits, which is enough to tell it from R as long as a write ends before 2^31 others.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from sqlalchemy import BigInteger, Boolean, Double, Integer, String, bindparam, select, text, update
from sqlalchemy.engine import Connection

from scorer_service.results.batches import insert_new
from scorer_service.results.schema import EPOCH, HOME, NOW, REVISION, counters

_COUNTER: Final = counters.c.name == REVISION
_COUNT: Final = update(counters).where(_COUNTER).values(value=counters.c.value + 1).returning(counters.c.value, NOW)
_COUNTED: Final = select(counters.c.value).where(_COUNTER)

# The lock's two halves are signed: the sequence's oid, and the low 32 bits of the number. CASE fixes the order.
_CLASS: Final = "'scorer_revisions'::regclass::oid::bigint::bit(32)::int"
_TAKE: Final = text(
    f"""
    SELECT CASE WHEN pg_try_advisory_xact_lock_shared(
                         {_CLASS}, (SELECT last_value FROM scorer_revisions)::bit(32)::int)
                THEN nextval('scorer_revisions') END AS revision,
           CAST(EXTRACT(EPOCH FROM statement_timestamp()) AS DOUBLE PRECISION) AS now
    """
).columns(revision=BigInteger, now=Double)
_NEWEST: Final = text("SELECT last_value FROM scorer_revisions").columns(last_value=BigInteger)

_HELD: Final = """
    SELECT pid, (CAST(:newest AS bigint) - objid::bigint) & 4294967295 AS behind
    FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 2
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND classid = 'scorer_revisions'::regclass::oid
"""
# One that is "behind" by more than half of all numbers is ahead: it began after `newest` was read.
_BEHIND: Final = text(
    f"SELECT coalesce(max(behind), 0) AS behind FROM ({_HELD}) AS held WHERE behind < 2147483648"
).columns(behind=BigInteger)
_HOLDER: Final = text(
    f"""
    SELECT held.pid, coalesce(activity.state, 'unknown') AS doing,
           CAST(coalesce(EXTRACT(EPOCH FROM clock_timestamp() - activity.xact_start), 0) AS DOUBLE PRECISION) AS age
    FROM ({_HELD}) AS held LEFT JOIN pg_stat_activity AS activity ON activity.pid = held.pid
    WHERE held.behind < 2147483648 ORDER BY held.behind DESC LIMIT 1
    """
).columns(pid=Integer, doing=String, age=Double)


def next_revision(connection: Connection) -> tuple[int, float]:
    """Number of this transaction, and the database's clock. Called again in one transaction, the next number."""
    row = connection.execute(_TAKE if _is_postgresql(connection) else _COUNT).one()
    return int(row[0]), float(row[1])


def newest_revision(connection: Connection) -> int:
    """The newest number that was given out: whatever is written later has a higher one."""
    return int(connection.execute(_NEWEST if _is_postgresql(connection) else _COUNTED).scalar_one())


def settled_revision(connection: Connection) -> tuple[int, int]:
    """The number up to which all writes have ended, and can be read by what is executed next in a transaction of its
    own; and how many numbers were given out since."""
    newest = newest_revision(connection)
    if not _is_postgresql(connection):
        return newest, 0
    behind = int(connection.execute(_BEHIND, {"newest": newest}).scalar_one())
    return newest - behind, behind


@dataclass(frozen=True, slots=True)
class Holdup:
    """The write that keeps what is settled back."""

    pid: int
    """Of its connection, on the PostgreSQL server."""
    doing: str
    """`active`, `idle in transaction`, ... as PostgreSQL says."""
    age_seconds: float
    """Of its transaction."""


def holdup(connection: Connection) -> Holdup | None:
    """The write that keeps what is settled back, if any."""
    if not _is_postgresql(connection):
        return None
    row = connection.execute(_HOLDER, {"newest": newest_revision(connection)}).one_or_none()
    return None if row is None else Holdup(row.pid, row.doing, row.age)


_HOME: Final = text(
    """
    SELECT concat_ws('/', (SELECT oid FROM pg_database WHERE datname = current_database()),
                     'scorer_revisions'::regclass::oid) AS home,
           has_function_privilege('pg_control_system()', 'EXECUTE') AS may_ask
    """
).columns(home=String, may_ask=Boolean)
_SERVER: Final = text("SELECT system_identifier FROM pg_control_system()").columns(system_identifier=BigInteger)
_LOCK: Final = text("SELECT pg_advisory_xact_lock(:key)")
_SETTLE_KEY: Final = 0x52756E77697266
_AHEAD: Final = text(
    """
    SELECT setval('scorer_revisions', newest + 1000000)
    FROM (SELECT max(revision) AS newest FROM scorer_runs) AS rows
    WHERE newest > (SELECT last_value FROM scorer_revisions)
    """
)
"""Far ahead: a process that takes numbers at this moment must not be overtaken from behind."""


def settle_in(connection: Connection) -> bool:
    """Makes the numbers continue where those in the rows end, if the database was brought here from another server;
    whether it was. No row is touched, however many there are: the sequence is moved, which logical replication, for
    one, does not bring along. Cursors that were given out there mean nothing here, and are told so by the epoch."""
    if not _is_postgresql(connection):
        return False
    connection.execute(_LOCK, {"key": _SETTLE_KEY})  # one at a time: a second one finds it done
    connection.execute(_AHEAD)
    home = _home(connection)
    known = connection.execute(select(counters.c.value).where(counters.c.name == HOME)).scalar_one_or_none()
    if known == home:
        return False
    insert_new(connection, counters, [{"name": HOME, "value": home}])
    connection.execute(_SET, {"of": HOME, "to": home})
    if known is None:
        return False  # it was not noted before: it has been here all along
    connection.execute(_SET, {"of": EPOCH, "to": secrets.randbits(62)})
    return True


def _home(connection: Connection) -> int:
    """A number that tells this sequence of this server from others."""
    home = connection.execute(_HOME).one()
    server = connection.execute(_SERVER).scalar_one() if home.may_ask else ""
    return int.from_bytes(blake2b(f"{server}/{home.home}".encode(), digest_size=8).digest(), "big") >> 1


_SET: Final = update(counters).where(counters.c.name == bindparam("of")).values(value=bindparam("to"))


def _is_postgresql(connection: Connection) -> bool:
    return connection.dialect.name == "postgresql"
