"""Removes what is old: terminal scorer runs by age and state, and samples that nothing waits for. Ends what nobody
needs any more: scorer runs whose deadline has passed.

Ages count from the end of a scorer run, by the database's clock: never from a time that a producer wrote, nor from
the end before a redrive.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import and_, delete, exists, func, or_, select
from sqlalchemy.engine import Connection

from scorer_service.queue.aside import Aside
from scorer_service.queue.backlog import Backlog
from scorer_service.queue.holders import give_up
from scorer_service.results.database import Database, database_time
from scorer_service.results.faults import write_in_parts
from scorer_service.results.records import TERMINAL, Error, State
from scorer_service.results.schema import NOW, attempts, exports, opinions, samples, scorer_runs

logger = logging.getLogger("scorer_service")

c = scorer_runs.c
BATCH: Final = 500
_IDLE_SECONDS: Final = 60.0
_DEADLINE_SECONDS: Final = 2.0
"""How long a deadline may have passed until it is noticed."""
_LIMIT_SECONDS: Final = 60.0
"""Longest that a batch may take: nobody waits for it."""
_MAX_ASIDE: Final = 1000
_LATE: Final = Error("deadline_exceeded", "its deadline passed before it could be scored")


@dataclass(frozen=True, slots=True)
class Ages:
    """In seconds since the end; 0: for ever."""

    runs: float
    failed: float
    samples: float


class Retention:
    """One per process; several of them share the work."""

    def __init__(self, database: Database, ages: Ages, *, backlog: Backlog | None = None) -> None:
        self._database = database
        self._backlog = backlog or Backlog()
        self._ages = ages
        self._stuck: Aside[str, str] = Aside()

    async def run_once(self) -> float:
        """Removes one batch of each; returns at once for more while there is more."""
        removed = await self.sweep_runs() + await self.sweep_samples()
        return 0.05 if removed else _IDLE_SECONDS

    async def end_late_once(self) -> float:
        """Ends what its deadline has passed for; returns when to look again."""
        return 0.05 if await self.end_late() >= BATCH else _DEADLINE_SECONDS

    async def end_late(self) -> int:
        """Ends up to a batch of scorer runs whose deadline has passed, wherever they wait: for a worker, a retry, a
        scorer that is paused or not there. What runs is left to its worker. Returns how many."""
        late = (c.deadline < NOW, c.due_time.is_not(None))
        waiting = or_(c.state != int(State.RUNNING), c.due_time < NOW)
        query = select(c.scorer_run_id, c.state, c.claims, c.worker, c.start_time, c.steps)
        query = query.where(*late, waiting).order_by(c.deadline).limit(BATCH)

        def work(connection: Connection) -> int:
            lines = connection.execute(query.with_for_update(skip_locked=True)).all()
            if lines:
                give_up(connection, lines, _LATE, self._backlog)
            return len(lines)

        # Most often there is none: then nobody is kept from writing.
        if not await self._database.look(lambda connection: connection.execute(query.limit(1)).first()):
            return 0
        return await self._database.write(work)

    async def sweep_runs(self) -> int:
        """Removes up to a batch of scorer runs of each state; returns how many."""
        removed = 0
        for state in TERMINAL:
            age = self._ages.failed if state is State.FAILED else self._ages.runs
            removed += await self._remove(state, age) if age else 0
        return removed

    async def _remove(self, state: State, age: float) -> int:
        self._stuck.take_due()
        old = (c.state == int(state), c.end_time < NOW - age, c.scorer_run_id.not_in(self._stuck.keys()))
        query = select(c.scorer_run_id).where(*old).order_by(c.end_time).limit(BATCH)
        ids = await self._database.look(lambda connection: connection.execute(query).scalars().all())
        removed = 0

        async def write(part: Sequence[str]) -> None:
            nonlocal removed
            removed += await self._database.write(lambda c: _delete(c, part, old), limit_seconds=_LIMIT_SECONDS)

        stuck = await write_in_parts(ids, write)
        for key in set(ids) - {each for each, _ in stuck}:
            self._stuck.drop(key)
        for key, error in stuck:
            if len(self._stuck) < _MAX_ASIDE:
                pause = self._stuck.put(key, key)
                logger.error("%s cannot be removed: %s: %s; again in %.0f s", key, type(error).__name__, error, pause)
        return removed

    async def sweep_samples(self) -> int:
        """Removes up to a batch of samples: those of no scorer run, and those whose scorer runs have all ended long
        ago."""

        def work(connection: Connection) -> int:
            now = database_time(connection)
            # A sample is written in the same transaction as its scorer run, so no fresh one is without.
            unwanted: Any = ~exists(_users())
            if self._ages.samples:
                needed = _users().where(or_(c.due_time.is_not(None), c.end_time >= now - self._ages.samples))
                unwanted = ~exists(needed)
            oldest = self._oldest(now)
            if oldest is None:
                return 0
            candidates = select(samples.c.sample_id).where(samples.c.create_time < oldest, unwanted).limit(BATCH)
            ids = connection.execute(candidates).scalars().all()
            if ids:
                connection.execute(delete(samples).where(samples.c.sample_id.in_(ids), unwanted))
            return len(ids)

        return await self._database.write(work, limit_seconds=_LIMIT_SECONDS)

    def _oldest(self, now: float) -> float | None:
        ages = [age for age in (self._ages.runs, self._ages.failed, self._ages.samples) if age]
        return now - min(ages) if ages else None


async def purge(database: Database, tenant: str, run_ids: Sequence[str], *, dry_run: bool = False) -> tuple[int, bool]:
    """Removes up to a batch of the scorer runs of these runs, whatever their state, and their samples where nothing
    else needs them. Returns how many (would be) removed, and whether there may be more."""
    found = select(c.scorer_run_id).where(c.tenant == tenant, c.run_id.in_(run_ids))
    if dry_run:
        count = select(func.count()).select_from(found.subquery())
        return int(await database.look(lambda connection: connection.execute(count).scalar_one())), False

    def work(connection: Connection) -> int:
        query = found.add_columns(c.sample_id).order_by(c.scorer_run_id).limit(BATCH).with_for_update()
        lines = connection.execute(query).all()
        if lines:
            ids = [line.scorer_run_id for line in lines]
            connection.execute(delete(attempts).where(attempts.c.scorer_run_id.in_(ids)))
            connection.execute(delete(exports).where(exports.c.scorer_run_id.in_(ids)))
            connection.execute(delete(opinions).where(opinions.c.scorer_run_id.in_(ids)))
            connection.execute(delete(scorer_runs).where(c.scorer_run_id.in_(ids)))
            unused = (samples.c.sample_id.in_({line.sample_id for line in lines}), ~exists(_users()))
            connection.execute(delete(samples).where(*unused))
        return len(lines)

    count_removed = await database.write(work, limit_seconds=_LIMIT_SECONDS)
    return count_removed, count_removed == BATCH


def _users() -> Any:
    """The scorer runs that use a sample, found by its owner: there is no index by sample."""
    of_run = and_(c.tenant == samples.c.tenant, c.run_id == samples.c.owner)
    owned = or_(of_run, c.scorer_run_id == samples.c.owner)
    return select(1).where(owned, c.sample_id == samples.c.sample_id)


def _delete(connection: Connection, ids: Sequence[str], old: Sequence[Any]) -> int:
    """Removes those of the scorer runs that are still old; returns how many."""
    still = select(c.scorer_run_id).where(c.scorer_run_id.in_(ids), *old).order_by(c.scorer_run_id)
    found = connection.execute(still.with_for_update(skip_locked=True)).scalars().all()
    if found:
        connection.execute(delete(attempts).where(attempts.c.scorer_run_id.in_(found)))
        connection.execute(delete(exports).where(exports.c.scorer_run_id.in_(found)))
        connection.execute(delete(opinions).where(opinions.c.scorer_run_id.in_(found)))
        connection.execute(delete(scorer_runs).where(c.scorer_run_id.in_(found)))
    return len(found)
