"""Removes what is old: terminal scorer runs by age and state, and samples that nothing waits for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import and_, delete, exists, or_, select, update
from sqlalchemy.engine import Connection

from scorer_service.database import Database, database_time
from scorer_service.records import OPEN, TERMINAL, State
from scorer_service.revisions import next_revision
from scorer_service.schema import NOW, attempts, exports, samples, scorer_runs, scorers

row = scorer_runs.c
BATCH: Final = 500
_IDLE_SECONDS: Final = 60.0
_ORPHAN_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Ages:
    """In seconds since creation; 0: for ever."""

    runs: float
    failed: float
    samples: float


class Retention:
    """One per process; several of them share the work."""

    def __init__(self, database: Database, ages: Ages) -> None:
        self._database = database
        self._ages = ages

    async def run_once(self) -> float:
        """Removes one batch of each; returns at once for more while there is more."""
        removed = await self.sweep_runs() + await self.sweep_samples() + await self.sweep_orphans()
        return 0.05 if removed else _IDLE_SECONDS

    async def sweep_runs(self) -> int:
        """Removes up to a batch of scorer runs; returns how many."""

        def work(connection: Connection) -> int:
            now, removed = database_time(connection), 0
            for states, age in self._by_age():
                # One state at a time, as the index has them.
                for state in states:
                    removed += _remove(connection, state, now - age) if age else 0
            return removed

        return await self._database.write(work)

    def _by_age(self) -> list[tuple[list[State], float]]:
        others: list[State] = [state for state in TERMINAL if state is not State.FAILED]
        return [(others, self._ages.runs), ([State.FAILED], self._ages.failed)]

    async def sweep_samples(self) -> int:
        """Removes up to a batch of samples: those of no scorer run, and old ones that no open one needs."""

        def work(connection: Connection) -> int:
            now = database_time(connection)
            used, needed = exists(_users()), exists(_users().where(row.state.in_([int(state) for state in OPEN])))
            # A sample is written in the same transaction as its scorer run, so no fresh one is without.
            unwanted: Any = ~used
            if self._ages.samples:
                unwanted = or_(unwanted, ~needed & (samples.c.create_time < now - self._ages.samples))
            oldest = self._oldest(now)
            if oldest is None:
                return 0
            candidates = select(samples.c.sample_id).where(samples.c.create_time < oldest, unwanted).limit(BATCH)
            ids = connection.execute(candidates).scalars().all()
            if ids:
                connection.execute(delete(samples).where(samples.c.sample_id.in_(ids), unwanted))
            return len(ids)

        return await self._database.write(work)

    async def sweep_orphans(self) -> int:
        """Ends up to a batch of scorer runs that nobody will claim, because no process has had their scorer for an
        hour; returns how many. A redrive makes them due again where there is one."""

        def work(connection: Connection) -> int:
            gone = exists(
                select(1).where(
                    scorers.c.scorer_id == row.scorer_id, scorers.c.seen_time < NOW - _ORPHAN_SECONDS, ~scorers.c.paused
                )
            )
            orphans = select(row.scorer_run_id).where(row.due_time <= NOW, gone).order_by(row.scorer_run_id)
            ids = connection.execute(orphans.limit(BATCH).with_for_update(skip_locked=True)).scalars().all()
            if ids:
                revision, now = next_revision(connection)
                ended = (
                    update(scorer_runs)
                    .where(row.scorer_run_id.in_(ids))
                    .values(
                        state=int(State.FAILED),
                        due_time=None,
                        end_time=now,
                        claims=row.claims + 1,
                        error_reason="scorer_unknown",
                        error_class="",
                        error_message="no process has this scorer any more; redrive it when one does",
                        revision=revision,
                    )
                )
                connection.execute(ended)
            return len(ids)

        return await self._database.write(work)

    def _oldest(self, now: float) -> float | None:
        ages = [age for age in (self._ages.runs, self._ages.failed, self._ages.samples) if age]
        return now - min(ages) if ages else None


def _users() -> Any:
    """The scorer runs that use a sample, found by its owner: there is no index by sample."""
    of_run = and_(row.tenant == samples.c.tenant, row.run_id == samples.c.owner)
    owned = or_(of_run, row.scorer_run_id == samples.c.owner)
    return select(1).where(owned, row.sample_id == samples.c.sample_id)


def _remove(connection: Connection, state: State, before: float) -> int:
    old = (
        select(row.scorer_run_id)
        .where(row.state == int(state), row.create_time < before, row.due_time.is_(None))
        .order_by(row.create_time)
        .limit(BATCH)
        .with_for_update(skip_locked=True)
    )
    ids = connection.execute(old).scalars().all()
    if ids:
        connection.execute(delete(attempts).where(attempts.c.scorer_run_id.in_(ids)))
        connection.execute(delete(exports).where(exports.c.scorer_run_id.in_(ids)))
        connection.execute(delete(scorer_runs).where(row.scorer_run_id.in_(ids)))
    return len(ids)
