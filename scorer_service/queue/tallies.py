"""Keeps `tallies`: adds up what triggers wrote, and counts what was there before the triggers.

What triggers wrote is taken in the order in which it was written, so that what `tallies` says is always true of some
moment: whatever took a scorer run away was written after what added it. So a number of 0 means that there is none.

What was there before is counted

    on PostgreSQL   by one statement, which locks nothing that others want: what it sees of `scorer_runs` is what it
                    sees of the triggers' rows, and those are dropped with it; what it does not see of the one is all
                    that it leaves of the other
    on SQLite       by id, so many at a time; triggers pass over those whose turn has not come
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import func, select, text, update
from sqlalchemy.engine import Connection

from scorer_service.results.database import Database
from scorer_service.results.schema import scorer_runs, tallied, tally_changes

FOLDED: Final = 5000
"""Most changes that one transaction adds up."""
LEFT: Final = 500
"""So many may wait: they cost a reader nothing."""
COUNTED: Final = 2000
"""Scorer runs from before that one transaction counts, on SQLite."""
_IDLE_SECONDS: Final = 1.0
_PAUSE_SECONDS: Final = 0.02
"""Between steps, where there is more to do: others want to write too."""
_LIMIT_SECONDS: Final = 3600.0
"""Longest that the count may take, on PostgreSQL."""

_LOCK: Final = text("SELECT pg_try_advisory_xact_lock(:key)")
_KEY: Final = 0x52756E77697267
"""One process at a time adds up."""

_KIND: Final = "scorer_id, scorer_name, state, ad_hoc, bin, scale"
# By hour first, which is less than was written by far; what came and went is nothing.
_BY_HOUR: Final = f"""
SELECT tenant, hour, {_KIND}, sum(number) AS number, sum(total) AS total
FROM {{source}} GROUP BY tenant, hour, {_KIND} HAVING sum(number) <> 0 OR sum(total) <> 0
"""
_INTO: Final = f"""
INSERT INTO tallies (tenant, period_hours, start, {_KIND}, number, total)
SELECT tenant, hours, hour - hour % hours AS start, {_KIND}, sum(number), sum(total)
FROM ({{by_hour}}) AS by_hour CROSS JOIN (SELECT 1 AS hours UNION ALL SELECT 24) AS periods WHERE true
GROUP BY tenant, hours, hour - hour % hours, {_KIND}
"""
_ADD: Final = f"""
ON CONFLICT (tenant, period_hours, start, {_KIND})
DO UPDATE SET number = tallies.number + excluded.number, total = tallies.total + excluded.total
"""
_WITHOUT: Final = text("DELETE FROM tallies WHERE number = 0")

_COUNTS: Final = f"""
SELECT tenant, hour, {_KIND}, count(*) AS number, sum(score) AS total
FROM scorer_run_kinds {{where}} GROUP BY tenant, hour, {_KIND}
"""
_COUNT_ALL: Final = text("WITH told AS (DELETE FROM tally_changes) " + _INTO.format(by_hour=_COUNTS.format(where="")))
_SOME: Final = "WHERE scorer_run_id > :above AND scorer_run_id <= :upto"
_COUNT_SOME: Final = text(
    f"INSERT INTO tally_changes (tenant, hour, {_KIND}, number, total) {_COUNTS.format(where=_SOME)}"
)

_OLDEST: Final = "SELECT change_id FROM tally_changes ORDER BY change_id LIMIT :most"
_TAKEN: Final = f"WITH taken AS (DELETE FROM tally_changes WHERE change_id IN ({_OLDEST}) RETURNING *)"
_FOLD_AT_ONCE: Final = text(f"{_TAKEN} {_INTO.format(by_hour=_BY_HOUR.format(source='taken'))} {_ADD}")
_UPTO: Final = "tally_changes WHERE change_id <= :upto"
_FOLD: Final = text(f"{_INTO.format(by_hour=_BY_HOUR.format(source=_UPTO))} {_ADD}")
_FOLDED: Final = text(f"DELETE FROM {_UPTO}")


class Tallies:
    """One per process; several of them share the work."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._complete = False

    async def run_once(self) -> float:
        """One step; returns when to make the next."""
        if not self._complete:
            self._complete = await self._complete_once()
            return _PAUSE_SECONDS if self._complete or self._database.embedded else _IDLE_SECONDS
        return _PAUSE_SECONDS if await self.fold(left=LEFT) == FOLDED else _IDLE_SECONDS

    async def fold(self, *, left: int = 0) -> int:
        """Adds up the oldest changes, FOLDED at most, if there are more than `left`. Returns how many."""
        more = select(tally_changes.c.change_id).order_by(tally_changes.c.change_id).offset(left).limit(1)
        if await self._database.look(lambda connection: connection.execute(more).first()) is None:
            return 0
        return await self._database.write(_fold)

    async def _complete_once(self) -> bool:
        """A step of counting what was there before; whether all is counted."""
        query = select(tallied.c.complete)
        if await self._database.look(lambda connection: connection.execute(query).scalar_one()):
            return True
        if self._database.embedded:
            return await self._database.write(_count_some)
        return await self._database.write(_count_all, limit_seconds=_LIMIT_SECONDS)


def _fold(connection: Connection) -> int:
    if connection.dialect.name == "postgresql":
        if not connection.execute(_LOCK, {"key": _KEY}).scalar_one():
            return 0
        connection.execute(_FOLD_AT_ONCE, {"most": FOLDED})
        folded = FOLDED
    else:
        ids = select(tally_changes.c.change_id).order_by(tally_changes.c.change_id).limit(FOLDED)
        upto = connection.execute(select(func.max(ids.subquery().c.change_id))).scalar_one()
        connection.execute(_FOLD, {"upto": upto})
        folded = connection.execute(_FOLDED, {"upto": upto}).rowcount
    connection.execute(_WITHOUT)
    return folded


def _count_all(connection: Connection) -> bool:
    """On PostgreSQL: counts them all. False where another process is at it."""
    if not connection.execute(_LOCK, {"key": _KEY}).scalar_one():
        return False
    if connection.execute(select(tallied.c.complete)).scalar_one():
        return True  # another process has been quicker
    connection.execute(_COUNT_ALL)
    connection.execute(update(tallied).values(complete=True))
    return True


def _count_some(connection: Connection) -> bool:
    """On SQLite, whose transactions that write wait for each other: counts the next of them; whether they are all."""
    known = connection.execute(select(tallied)).one()
    if known.complete:
        return True  # another process has been quicker
    ids = select(scorer_runs.c.scorer_run_id).where(scorer_runs.c.scorer_run_id > known.upto)
    ids = ids.order_by(scorer_runs.c.scorer_run_id).limit(COUNTED)
    upto = connection.execute(select(func.max(ids.subquery().c.scorer_run_id))).scalar_one()
    if upto is None:
        connection.execute(update(tallied).values(complete=True))
        return True
    connection.execute(_COUNT_SOME, {"above": known.upto, "upto": upto})
    connection.execute(update(tallied).values(upto=upto))
    return False
