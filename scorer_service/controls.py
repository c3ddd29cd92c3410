"""What people do to scorer runs: ask for one, redrive, score again, cancel, pause.

What touches many rows goes through them in batches, newest first, one transaction each; rows that change meanwhile
are touched at most once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import case, exists, select, tuple_, update
from sqlalchemy.engine import Connection

from runwire.errors import AlreadyExists
from scorer_service.database import Database
from scorer_service.jobs import Jobs, record_ends
from scorer_service.queries import Filter
from scorer_service.records import OPEN, REDRIVABLE, TERMINAL, Error, NewRun, Priority, State, scorer_run_id
from scorer_service.registry import Registry
from scorer_service.revisions import next_revision
from scorer_service.schema import Lane, samples, scorer_runs, scorers

row = scorer_runs.c
_BATCH: Final = 500
MAX_IDS: Final = 1000
"""Most ids that are told of what was touched."""


@dataclass(frozen=True, slots=True)
class Touched:
    """How many scorer runs were touched, or would be, and the first of them."""

    count: int
    ids: Sequence[str]


Touch = Callable[[Connection, Sequence[str]], list[str]]

Selection = Filter | Sequence[str]
"""Scorer runs by filter or by ids."""


class Controls:
    """Writes that people ask for."""

    def __init__(self, database: Database, jobs: Jobs, registry: Registry, *, wake: Callable[[], None]) -> None:
        self._database = database
        self._jobs = jobs
        self._registry = registry
        self._wake = wake

    async def request(self, new: NewRun) -> None:
        """Puts an ad hoc scorer run into the queue. A repeat changes nothing; raises AlreadyExists for another
        request under the same id."""

        def work(connection: Connection) -> str:
            self._jobs.add_on(connection, [new])
            query = select(row.fingerprint).where(row.scorer_run_id == new.scorer_run_id)
            return str(connection.execute(query).scalar_one())

        if await self._database.write(work) != new.fingerprint:
            raise AlreadyExists("request_id was used before with another request", scorer_run_id=new.scorer_run_id)
        self._wake()

    async def redrive(self, tenant: str, selection: Selection, *, dry_run: bool = False) -> Touched:
        """Makes scorer runs that ended without a score due again, to begin anew. Those whose scorer is not here, or
        whose sample is not kept any more, are left alone."""
        known = row.scorer_id.in_(self._registry.ids)
        kept = exists(select(1).where(samples.c.sample_id == row.sample_id))
        touched = await self._walk(tenant, selection, REDRIVABLE, [known, kept], None if dry_run else _redrive)
        self._wake()
        return touched

    async def cancel(self, tenant: str, selection: Selection, *, dry_run: bool = False) -> Touched:
        """Ends scorer runs that are not terminal. A worker that holds one is refused when it finishes."""
        return await self._walk(tenant, selection, OPEN, [], None if dry_run else _cancel)

    async def rescore(self, tenant: str, selection: Selection, version: str, *, dry_run: bool = False) -> Touched:
        """Scores terminal scorer runs again with another version, as new scorer runs; those that were scored with it,
        or asked for it, before are left alone, and so are those whose sample is not kept any more."""
        having = [name for name in self._registry.ids if self._registry.find(name, version)]
        conditions = [row.scorer_id.in_(having), row.scorer_version != version, row.wanted_version != version]

        counted: set[str] = set()

        def again(connection: Connection, ids: Sequence[str]) -> list[str]:
            new = self._rescore(connection, ids, version, write=not dry_run)
            if dry_run:  # two versions of a score become one of the newer version, which only a write would show
                new = [key for key in new if key not in counted]
                counted.update(new)
            return new

        touched = await self._walk(tenant, selection, TERMINAL, conditions, again)
        self._wake()
        return touched

    def _rescore(self, connection: Connection, ids: Sequence[str], version: str, *, write: bool) -> list[str]:
        joined = scorer_runs.join(samples, samples.c.sample_id == row.sample_id)
        query = select(scorer_runs, samples.c.body).select_from(joined).where(row.scorer_run_id.in_(ids))
        new = {}
        for line in connection.execute(query.order_by(row.scorer_run_id)):
            again = _again(line, version)
            new[again.scorer_run_id] = again
        there = select(row.scorer_run_id).where(row.scorer_run_id.in_(list(new)))
        for key in connection.execute(there).scalars().all():
            del new[key]
        if new and write:
            self._jobs.add_on(connection, list(new.values()))
        return list(new)

    async def _walk(
        self,
        tenant: str,
        selection: Selection,
        states: Sequence[State],
        conditions: Sequence[Any],
        touch: Touch | None,
    ) -> Touched:
        """Touches the rows of a selection that are in one of these states; without `touch` it counts them."""
        wanted = selection if isinstance(selection, Filter) else Filter(tenant)
        there = [*wanted.conditions(), *conditions, row.state.in_([int(state) for state in states])]
        if not isinstance(selection, Filter):
            there.append(row.scorer_run_id.in_(list(selection)))
        query = select(row.create_time, row.scorer_run_id).where(*there)
        query = query.order_by(row.create_time.desc(), row.scorer_run_id.desc()).limit(_BATCH)
        count, first, place = 0, list[str](), None
        while True:
            page_query = query if place is None else query.where(tuple_(row.create_time, row.scorer_run_id) < place)
            page = await self._database.read(lambda connection, q=page_query: list(connection.execute(q).all()))  # type: ignore[misc]
            ids = [line.scorer_run_id for line in page]
            if ids and touch is not None:
                ids = await self._touch(ids, there, touch)
            count += len(ids)
            first += ids[: MAX_IDS - len(first)]
            if len(page) < _BATCH:
                return Touched(count, first)
            place = (page[-1].create_time, page[-1].scorer_run_id)

    async def _touch(self, ids: Sequence[str], there: Sequence[Any], touch: Touch) -> list[str]:
        """Touches those of `ids` that are still as they were selected."""
        # Locked in the order in which workers lock them, so that neither waits for the other.
        lock = select(row.scorer_run_id).where(row.scorer_run_id.in_(ids), *there)
        lock = lock.order_by(row.scorer_run_id).with_for_update()

        def work(connection: Connection) -> list[str]:
            locked = connection.execute(lock).scalars().all()
            return touch(connection, locked) if locked else []

        return await self._database.write(work)

    async def pause(self, scorer_id: str, paused: bool) -> None:
        """Holds a scorer's work, or lets it go on. What runs already is finished."""
        await self._jobs.register([scorer_id])
        query = update(scorers).where(scorers.c.scorer_id == scorer_id).values(paused=paused)
        await self._database.write(lambda connection: connection.execute(query))
        self._jobs.look_again()
        self._wake()


def _redrive(connection: Connection, ids: Sequence[str]) -> list[str]:
    revision, now = next_revision(connection)
    query = (
        update(scorer_runs)
        .where(row.scorer_run_id.in_(ids))
        .values(
            state=int(State.PENDING),
            due_time=now,
            end_time=None,
            lane=case((row.priority == int(Priority.HIGH), int(Lane.HIGH)), else_=int(Lane.NORMAL)),
            deliveries=0,
            failures=0,
            losses=0,
            waits=0,
            waiting_since=None,
            deadline=None,
            redrives=row.redrives + 1,
            scorer_version=row.wanted_version,
            steps="{}",
            error_reason=None,
            error_class=None,
            error_message=None,
            revision=revision,
        )
    )
    connection.execute(query)
    return list(ids)


def _cancel(connection: Connection, ids: Sequence[str]) -> list[str]:
    revision, now = next_revision(connection)
    _record_attempts(connection, ids, now)
    query = (
        update(scorer_runs)
        .where(row.scorer_run_id.in_(ids))
        .values(
            state=int(State.CANCELLED),
            due_time=None,
            end_time=now,
            claims=row.claims + 1,  # so that whoever holds it is refused
            error_reason="cancelled",
            error_class="",
            error_message="cancelled on request",
            revision=revision,
        )
    )
    connection.execute(query)
    return list(ids)


def _record_attempts(connection: Connection, ids: Sequence[str], now: float) -> None:
    """Those of the scorer runs that a worker holds: it will be refused, and can record nothing itself."""
    columns = (row.scorer_run_id, row.claims, row.worker, row.start_time, row.steps)
    held = select(*columns).where(row.scorer_run_id.in_(ids), row.state == int(State.RUNNING))
    if lines := connection.execute(held).all():
        record_ends(connection, lines, now, lambda line: Error("cancelled", "cancelled on request"))


def _again(line: Any, version: str) -> NewRun:
    """The scorer run that scores the same sample with another version."""
    new = NewRun(
        scorer_run_id=scorer_run_id(line.tenant, line.run_id or line.scorer_run_id, line.scorer_id, version),
        tenant=line.tenant,
        scorer_id=line.scorer_id,
        run_id=line.run_id,
        agent_id=line.agent_id,
        wanted_version=version,
        rate=line.rate,
        options=line.options,
        labels=line.labels,
        traceparent=line.traceparent,
        tracestate=line.tracestate,
        sample=line.body,
    )
    return replace(new, priority=Priority(line.priority))
