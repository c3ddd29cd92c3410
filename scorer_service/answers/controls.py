"""What people do to scorer runs: ask for one, redrive, score again, cancel, pause.

What touches many rows goes through them in batches, newest first, one transaction each, and for a bounded time: then it
says where to continue. What a filter selects is fixed when the walk begins, by the number of the newest write: a
redrive leaves alone what was written later, by itself too, so that it touches nothing twice, however often one of its
steps is repeated. A cancellation takes what it finds open at each place, whatever has happened to it since, so that no
claim can escape it: a row is in one place for ever. It looks only at what is open: at each state in its own place of
the index, in one statement.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, case, exists, or_, select, update
from sqlalchemy.engine import Connection

from runwire.errors import AlreadyExists
from runwire.scorer_requests import scorer_run_id
from scorer_service.answers.gate import Gate
from scorer_service.answers.pages import Page, Pages
from scorer_service.answers.queries import Filter, scan, scan_states
from scorer_service.queue.holders import ORPHAN_SECONDS, is_held
from scorer_service.queue.jobs import Jobs
from scorer_service.queue.retention import purge
from scorer_service.queue.rows import record_ends
from scorer_service.registry import Registry
from scorer_service.results.batches import insert_new
from scorer_service.results.database import Database
from scorer_service.results.records import OPEN, PERSON, REDRIVABLE, TERMINAL, Error, NewRun, Priority, State
from scorer_service.results.revisions import newest_revision, next_revision
from scorer_service.results.schema import Lane, samples, scorer_runs, scorers

c = scorer_runs.c
_BATCH: Final = 500
_SCANNED: Final = 2000
"""Most rows that one statement looks at to find those to touch."""
MAX_IDS: Final = 1000
"""Most ids that are told of what was touched."""


@dataclass(frozen=True, slots=True)
class Place:
    """How far a walk is."""

    revision: int
    """The newest number of a write when it began."""
    segment: int = 0
    after: tuple[float, str] | None = None


@dataclass(frozen=True, slots=True)
class Walk:
    """One call's part of a walk: from a place, or from the beginning, up to a number of scorer runs, for about a
    given time."""

    begin: Place | None = None
    most: int | None = None
    seconds: float = 20.0
    key: str = ""
    """Name of the page, by which it is known again."""


_ALL: Final = Walk()


@dataclass(frozen=True, slots=True)
class Touched:
    """How many scorer runs were touched, or would be, the first of them, and where to continue, if that is not all."""

    count: int
    ids: Sequence[str]
    rest: Place | None = None


Touch = Callable[[Connection, Sequence[str]], list[str]]

Selection = Filter | Sequence[str]
"""Scorer runs by filter or by ids."""


class Controls:
    """Writes that people ask for."""

    def __init__(
        self,
        database: Database,
        jobs: Jobs,
        registry: Registry,
        *,
        wake: Callable[[], None],
        orphan_seconds: float = ORPHAN_SECONDS,
    ) -> None:
        self._database = database
        self._jobs = jobs
        self._registry = registry
        self._orphan_seconds = orphan_seconds
        self._wake = wake
        self._gate = Gate("redrives and cancellations of many", at_once=2, waiting=62)
        self._pages: Pages[Place] = Pages()

    async def request(self, new: NewRun) -> None:
        """Puts an ad hoc scorer run into the queue. A repeat changes nothing; raises AlreadyExists for another
        request under the same id."""

        def work(connection: Connection) -> str:
            self._jobs.add_on(connection, [new])
            query = select(c.fingerprint).where(c.scorer_run_id == new.scorer_run_id)
            return str(connection.execute(query).scalar_one())

        if await self._database.write(work) != new.fingerprint:
            raise AlreadyExists("request_id was used before with another request", scorer_run_id=new.scorer_run_id)
        self._wake()

    async def begin(self) -> Place:
        """The beginning of a walk: it fixes what is selected."""
        return Place(await self._database.read(newest_revision))

    async def redrive(
        self, tenant: str, selection: Selection, *, by: str = "", dry_run: bool = False, walk: Walk = _ALL
    ) -> Touched:
        """Makes scorer runs that ended without a score due again, to start over, and notes `by` whom. Those whose
        scorer no process has, or whose sample is not kept any more, are left alone. Raises TooManyRequests."""
        known = or_(c.scorer_id.in_(self._registry.ids), is_held(c.scorer_id, self._orphan_seconds))
        kept = exists(select(1).where(samples.c.sample_id == c.sample_id))
        what = _Wanted(tenant, selection, REDRIVABLE, [known, kept])
        touched = await self._walk(what, walk, _nothing if dry_run else partial(_redrive, by))
        self._wake()
        return touched

    async def cancel(
        self, tenant: str, selection: Selection, *, by: str = "", dry_run: bool = False, walk: Walk = _ALL
    ) -> Touched:
        """Ends scorer runs that are not terminal, and notes `by` whom. A worker that holds one is refused when it
        finishes. Raises TooManyRequests."""
        what = _Wanted(tenant, selection, OPEN, [], moving=True)
        return await self._walk(what, walk, _nothing if dry_run else partial(self._cancel, by))

    def _cancel(self, by: str, connection: Connection, ids: Sequence[str]) -> list[str]:
        revision, now = next_revision(connection)
        held = _record_attempts(connection, ids, now)
        self._jobs.backlog.add(connection, [(row.scorer_run_id, row.claims) for row in held])
        query = (
            update(scorer_runs)
            .where(c.scorer_run_id.in_(ids))
            .values(
                state=int(State.CANCELLED),
                due_time=None,
                end_time=now,
                claims=c.claims + 1,  # so that its holder is refused
                error_reason="cancelled",
                error_class="",
                error_message="cancelled on request",
                cancelled_by=by,
                revision=revision,
            )
        )
        connection.execute(query)
        return list(ids)

    async def delete(self, tenant: str, run_ids: Sequence[str], *, dry_run: bool = False) -> tuple[int, bool]:
        """As `retention.purge`."""
        return await purge(self._database, tenant, run_ids, dry_run=dry_run)

    async def rescore(
        self, tenant: str, selection: Selection, version: str, *, by: str = "", dry_run: bool = False, walk: Walk = _ALL
    ) -> Touched:
        """Scores terminal scorer runs again with another version, as new scorer runs; those that were scored with it,
        or asked for it, before are left alone, and so are those whose sample is not kept any more. All scores of a
        run under a name become one, and so do all scores of one ad hoc request. Raises TooManyRequests."""
        having = [name for name in self._registry.ids if self._registry.find(name, version)]
        known = or_(c.scorer_id.in_(having), is_held(c.scorer_id, self._orphan_seconds, version))
        judged = c.worker.not_like(f"{PERSON}%")  # what people said has no sample
        conditions = [known, c.scorer_version != version, c.wanted_version != version, judged]

        counted: set[str] = set()

        def again(connection: Connection, ids: Sequence[str]) -> list[str]:
            new = self._rescore(connection, ids, version, by, write=not dry_run)
            if dry_run:  # two versions of a score become one of the newer version, which only a write would show
                new = [key for key in new if key not in counted]
                counted.update(new)
            return new

        touched = await self._walk(_Wanted(tenant, selection, TERMINAL, conditions), walk, again)
        self._wake()
        return touched

    def _rescore(self, connection: Connection, ids: Sequence[str], version: str, by: str, *, write: bool) -> list[str]:
        joined = scorer_runs.join(samples, samples.c.sample_id == c.sample_id)
        query = select(scorer_runs, samples.c.body).select_from(joined).where(c.scorer_run_id.in_(ids))
        new = {}
        for row in connection.execute(query.order_by(c.scorer_run_id)):
            again = _again(row, version, by)
            new[again.scorer_run_id] = again
        there = select(c.scorer_run_id).where(c.scorer_run_id.in_(list(new)))
        for key in connection.execute(there).scalars().all():
            del new[key]
        if new and write:
            self._jobs.add_on(connection, list(new.values()))
        return list(new)

    async def _walk(self, what: _Wanted, walk: Walk, touch: Touch) -> Touched:
        """Touches what is wanted, from a place on, until that is all, or enough, or takes too long."""
        async with self._gate:
            place = walk.begin or await self.begin()
            if not isinstance(what.selection, Filter):
                ids = [*what.selection]
                done = [
                    key
                    for start in range(0, len(ids), _BATCH)
                    for key in await self._touch(what, place, ids[start : start + _BATCH], touch)
                ]
                return Touched(len(done), done[:MAX_IDS])
            return await self._walk_on(what, place, walk, touch)

    async def _walk_on(self, what: _Wanted, place: Place, walk: Walk, touch: Touch) -> Touched:
        page = self._pages.page(walk.key, place)
        async with page.lock:
            if not page.done:
                page.rest = await self._carry_out(page, what, walk, touch)
                page.done = True
        return Touched(page.count, page.ids, page.rest)

    async def _carry_out(self, page: Page[Place], what: _Wanted, walk: Walk, touch: Touch) -> Place | None:
        """Touches what is wanted, and notes in the page how far it is. Returns where to continue, if that is not
        all."""
        ends, segments = time.monotonic() + walk.seconds, what.segments()
        while page.place.segment < len(segments):
            query = what.scan(segments[page.place.segment], page.place.after)
            rows = await self._database.read(lambda connection, q=query: connection.execute(q).all())  # type: ignore[misc]
            fitting = [(row.create_time, row.scorer_run_id) for row in rows if row.fits]
            while fitting:
                room = _BATCH if walk.most is None else min(_BATCH, walk.most - page.count)
                if room <= 0 or (page.count and time.monotonic() > ends):
                    return page.place
                batch, fitting = fitting[:room], fitting[room:]
                ids = await self._touch(what, page.place, [key for _, key in batch], touch)
                page.count += len(ids)
                page.ids += ids[: MAX_IDS - len(page.ids)]
                page.place = replace(page.place, after=batch[-1])
            if len(rows) == _SCANNED:
                page.place = replace(page.place, after=(rows[-1].create_time, rows[-1].scorer_run_id))
            else:
                page.place = Place(page.place.revision, page.place.segment + 1)
            if time.monotonic() > ends and page.place.segment < len(segments):
                return page.place
        return None

    async def _touch(self, what: _Wanted, place: Place, ids: Sequence[str], touch: Touch) -> list[str]:
        """Touches those of `ids` that are still as they were selected."""
        # Locked in the order in which workers lock them, so that neither waits for the other.
        wanted = select(c.scorer_run_id).where(c.scorer_run_id.in_(ids), *what.conditions(place.revision))
        wanted = wanted.order_by(c.scorer_run_id)

        def work(connection: Connection) -> list[str]:
            found = connection.execute(wanted.with_for_update()).scalars().all()
            return touch(connection, found) if found else []

        return await self._database.write(work)

    async def pause(self, scorer_id: str, paused: bool, who: tuple[str, str] = ("", "")) -> None:
        """Holds a scorer's work, or lets it continue, and notes who does: tenant and name. What runs already is
        finished."""
        tenant, name = who if paused else ("", "")
        query = (
            update(scorers)
            .where(scorers.c.scorer_id == scorer_id)
            .values(paused=paused, paused_by=name, paused_by_tenant=tenant)
        )

        def work(connection: Connection) -> None:
            # Nobody says by this that a process has it: it may be one that is carried out elsewhere.
            insert_new(connection, scorers, [{"scorer_id": scorer_id, "paused": False, "seen_time": 0.0}])
            connection.execute(query)

        await self._database.write(work)
        self._jobs.look_again()
        self._wake()


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a walk touches."""

    tenant: str
    selection: Selection
    states: Sequence[State]
    others: Sequence[ColumnElement[bool]]
    moving: bool = False
    """Also what has changed since the walk began. Its states change while it is looked for, so that there is no going
    through them one by one."""

    def scan(self, segment: Filter, after: tuple[float, str] | None) -> Select[Any]:
        """The next rows of a segment that may be wanted."""
        several = self.moving and not segment.run_id
        return (scan_states if several else scan)(segment, after, _SCANNED)

    def segments(self) -> list[Filter]:
        """Filters that together select it, each of which walks one index, newest first."""
        assert isinstance(self.selection, Filter)
        asked = self.selection.states
        states = [int(state) for state in self.states if not asked or state in asked]
        if self.moving or self.selection.run_id:
            return [replace(self.selection, states=states)] if states else []
        return [replace(self.selection, states=[state]) for state in states]

    def conditions(self, revision: int) -> list[ColumnElement[bool]]:
        """What holds for a row that is to be touched, in a walk that began at a revision."""
        wanted = self.selection if isinstance(self.selection, Filter) else Filter(self.tenant)
        found = [*wanted.conditions(), *self.others, c.state.in_([int(state) for state in self.states])]
        if not self.moving:
            found.append(c.revision <= revision)
        return found


def _nothing(connection: Connection, ids: Sequence[str]) -> list[str]:
    """A dry run."""
    return list(ids)


def _redrive(by: str, connection: Connection, ids: Sequence[str]) -> list[str]:
    revision, now = next_revision(connection)
    query = (
        update(scorer_runs)
        .where(c.scorer_run_id.in_(ids))
        .values(
            state=int(State.PENDING),
            due_time=now,
            end_time=None,
            lane=case((c.priority == int(Priority.HIGH), int(Lane.HIGH)), else_=int(Lane.NORMAL)),
            deliveries=0,
            failures=0,
            losses=0,
            waits=0,
            waiting_since=None,
            deadline=None,
            redrives=c.redrives + 1,
            redriven_by=by,
            cancelled_by="",
            scorer_version=c.wanted_version,
            steps="{}",
            error_reason=None,
            error_class=None,
            error_message=None,
            revision=revision,
        )
    )
    connection.execute(query)
    return list(ids)


def _record_attempts(connection: Connection, ids: Sequence[str], now: float) -> Sequence[Any]:
    """Those of the scorer runs that a worker holds: it will be refused, and can record nothing itself."""
    columns = (c.scorer_run_id, c.claims, c.worker, c.start_time, c.steps)
    held = select(*columns).where(c.scorer_run_id.in_(ids), c.state == int(State.RUNNING))
    if rows := connection.execute(held).all():
        record_ends(connection, rows, now, lambda row: Error("cancelled", "cancelled on request"))
    return rows


def _again(row: Any, version: str, by: str) -> NewRun:
    """The scorer run that scores the same sample with another version."""
    # A run asks a scorer once under a name; people ask as often as they like. Either way the id comes from what asked
    # first and not from the scorer run in hand, or each version would make a score of every earlier one.
    scored = row.fingerprint or row.run_id or row.scorer_run_id
    new = NewRun(
        scorer_run_id=scorer_run_id(row.tenant, scored, row.scorer_id, version, row.scorer_name),
        tenant=row.tenant,
        scorer_id=row.scorer_id,
        scorer_name=row.scorer_name,
        run_id=row.run_id,
        agent_id=row.agent_id,
        wanted_version=version,
        rate=row.rate,
        options=row.options,
        labels=row.labels,
        traceparent=row.traceparent,
        tracestate=row.tracestate,
        sample=row.body,
        fingerprint=row.fingerprint,
        requested_by=by,
    )
    return replace(new, priority=Priority(row.priority))
