"""What can be asked about scorer runs. Every query walks an index, and loads no more than is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, case, func, select, true, tuple_, union_all
from sqlalchemy.engine import Connection

from scorer_service.answers.gate import Gate
from scorer_service.results import schema
from scorer_service.results.database import Database
from scorer_service.results.records import OPEN, State
from scorer_service.results.revisions import Holdup, holdup, settled_revision
from scorer_service.results.schema import attempts, counters, samples, scorer_runs, scorers

c = scorer_runs.c


@dataclass(frozen=True, slots=True)
class Filter:
    """Selects scorer runs; all that is set must hold."""

    tenant: str
    run_id: str = ""
    agent_id: str = ""
    scorer_id: str = ""
    states: Sequence[int] = ()
    created_after: float | None = None
    created_before: float | None = None
    scorer_name: str | None = None
    """Empty: the use without a name. None: any."""
    error_reason: str = ""

    def narrowed(self) -> tuple[list[ColumnElement[bool]], list[ColumnElement[bool]]]:
        """The conditions, in those that one index serves, and the rest."""
        one_state = [c.state == self.states[0]] if len(self.states) == 1 else []
        chosen = [
            [c.run_id == self.run_id] if self.run_id else [],
            one_state,
            [c.scorer_id == self.scorer_id] if self.scorer_id else [],
            [c.agent_id == self.agent_id] if self.agent_id else [],
        ]
        narrow, *rest = [conditions for conditions in chosen if conditions] or [[]]
        others = [condition for conditions in rest for condition in conditions]
        if len(self.states) > 1:
            others.append(c.state.in_(self.states))
        if self.scorer_name is not None:
            others.append(c.scorer_name == self.scorer_name)
        if self.error_reason:
            others.append(c.error_reason == self.error_reason)
        return [*self._window(), *narrow], others

    def conditions(self) -> list[ColumnElement[bool]]:
        """All of them."""
        narrow, rest = self.narrowed()
        return [*narrow, *rest]

    def _window(self) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = [c.tenant == self.tenant]
        if self.created_after is not None:
            found.append(c.create_time > self.created_after)
        if self.created_before is not None:
            found.append(c.create_time < self.created_before)
        return found


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt in the form of a row of `attempts`; the one that brought the score is none."""

    scorer_run_id: str
    attempt: int
    worker: str
    start_time: float
    end_time: float
    partial_results: str | None = None
    """None where it was not asked for, or is too large."""
    error_reason: str | None = None
    error_class: str | None = None
    error_message: str | None = None
    spent: str | None = None
    exchanges: str | None = None
    """As `partial_results`."""

    @classmethod
    def of(cls, row: Any) -> Attempt:
        """Of a scorer run that SUCCEEDED."""
        steps = getattr(row, "steps", None)
        return cls(row.scorer_run_id, row.claims, row.worker, row.start_time, row.end_time, steps)

    @classmethod
    def copied(cls, row: Any, steps: str | None, exchanges: str | None) -> Attempt:
        """Of a row of `attempts`, or another Attempt, with these results of steps and exchanges with judges."""
        how = (row.error_reason, row.error_class, row.error_message, row.spent, exchanges)
        return cls(row.scorer_run_id, row.attempt, row.worker, row.start_time, row.end_time, steps, *how)

    @classmethod
    def never_made(cls, row: Any) -> Attempt:
        """Of a scorer run that FAILED without an attempt: its time as a whole, and its error."""
        since = min(row.create_time, row.end_time)  # clocks of producers may be ahead
        error = row.error_reason, row.error_class, row.error_message
        steps = getattr(row, "steps", None)
        return cls(row.scorer_run_id, row.claims, row.worker, since, row.end_time, steps, *error)


@dataclass(slots=True)
class Found:
    """A scorer run with its history."""

    run: Any
    """A row of `scorer_runs`, without `steps` unless they were asked for."""
    attempts: Sequence[Any]
    """The newest rows of `attempts`, or Attempt, oldest first."""
    omitted: int = 0
    """How many attempts there were before these."""
    sample: bytes | None = None
    message: Any = None
    """What is made of it for the wire, kept for the next reader."""

    @property
    def weight(self) -> int:
        """About how many bytes it takes here."""
        texts = [self.run.options, self.run.labels, self.run.score_reason, self.run.score_metadata]
        texts += [attempt.spent for attempt in self.attempts]
        return 1000 + 1000 * len(self.attempts) + sum(len(text) for text in texts if isinstance(text, (str, bytes)))


MAX_ANSWER_WEIGHT: Final = 2 * 1024 * 1024
"""Most weight of one answer: clients take messages of up to 4 MiB unless they say otherwise."""
_CHUNK: Final = 50
"""How many rows are loaded before their weight is looked at."""
_SCANNED: Final = 5000
"""Most rows that one statement looks at to find those that fit a filter."""
_STEPS: Final = 10
"""Most such statements of one page."""
_LISTED_ATTEMPTS: Final = 20
_SHOWN_ATTEMPTS: Final = 100
_STEPS_BYTES: Final = 1024 * 1024
"""Most bytes of kept steps that are read for one answer."""

_COLUMNS: Final = [column for column in c if column.name not in ("steps", "fingerprint")]


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the order of changes: after all of a revision, or within it, after one of its scorer runs."""

    revision: int
    scorer_run_id: str | None = None

    def before(self) -> ColumnElement[bool]:
        """The condition that a scorer run comes later."""
        if self.scorer_run_id is None:
            return c.revision > self.revision
        return tuple_(c.revision, c.scorer_run_id) > (self.revision, self.scorer_run_id)


@dataclass(frozen=True, slots=True)
class Settled:
    """How far changes can be read: see `revisions`."""

    epoch: str
    """Of the database."""
    revision: int
    behind: int
    """How many numbers were given out since: their writes, or some of them, are not over."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some of what fits a filter, and the place after which there may be more; None where there is none."""

    found: Sequence[Found]
    after: tuple[float, str] | None


@dataclass(frozen=True, slots=True)
class Changes:
    """Some changes, and the place up to which there are no others."""

    found: Sequence[Found]
    upto: Place
    whole: bool
    """Whether that is as far as was asked."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the scorer runs of a run are."""

    still_open: bool
    complete: bool
    """Whether all that the run asked for are known to be there."""
    revision: int
    """The newest of its scorer runs'."""


class Queries:
    """Reads, each of them bounded in rows looked at and in bytes. Calls of `get` and `page` by more than a few wait for
    each other, and by too many raise TooManyRequests."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._gate = Gate("lookups of scorer runs", at_once=2, waiting=254)

    async def get(self, tenant: str, scorer_run_id: str, *, with_sample: bool = False) -> Found | None:
        """One scorer run, with the results of steps of its newest attempts as far as they are not too many bytes: those
        that are left out are None."""

        def work(connection: Connection) -> Found | None:
            query = select(*_COLUMNS, _bounded(c.steps).label("steps")).where(
                c.tenant == tenant, c.scorer_run_id == scorer_run_id
            )
            rows = connection.execute(query).all()
            if not rows:
                return None
            found = _with_attempts(connection, rows, _SHOWN_ATTEMPTS)[0]
            found.attempts = _with_results(connection, found.attempts)
            if with_sample:
                body = select(samples.c.body).where(samples.c.sample_id == found.run.sample_id)
                found.sample = connection.execute(body).scalar_one_or_none()
            return found

        async with self._gate:
            return await self._database.read(work)

    async def page(self, wanted: Filter, *, limit: int, after: tuple[float, str] | None = None) -> Page:
        """Scorer runs, newest first by (create_time, id), beginning below `after`: up to `limit`, fewer where they
        weigh too much, or where so many others had to be looked at that a caller should not wait for more."""

        def work(connection: Connection) -> Page:
            place, ids = after, list[tuple[float, str]]()
            for step in range(_STEPS):
                count = _SCANNED if step else limit + 1
                rows = connection.execute(scan(wanted, place, count)).all()
                ids += [(row.create_time, row.scorer_run_id) for row in rows if row.fits]
                place = (rows[-1].create_time, rows[-1].scorer_run_id) if len(rows) == count else None
                if place is None or len(ids) > limit:
                    break
            if len(ids) > limit:
                place = ids[limit - 1]
            found, looked_at = _load(connection, [key for _, key in ids[:limit]])
            return Page(found, place if looked_at == len(ids[:limit]) else ids[looked_at - 1])

        async with self._gate:
            return await self._database.read(work)

    async def settled(self) -> Settled:
        """Epoch of the database, and the revision up to which all can be read by a later call."""
        query = select(counters.c.value).where(counters.c.name == schema.EPOCH)

        def work(connection: Connection) -> Settled:
            return Settled(f"{connection.execute(query).scalar_one():016x}", *settled_revision(connection))

        return await self._database.read(work)

    async def holdup(self) -> Holdup | None:
        """The write that keeps what is settled back, if any."""
        return await self._database.read(holdup)

    async def changes(
        self,
        after: Place,
        upto: int,
        *,
        tenant: str = "",
        run_id: str = "",
        limit: int = 100,
        most_weight: int = MAX_ANSWER_WEIGHT,
    ) -> Changes:
        """Scorer runs (of a tenant, of a run, or all) whose newest change is after a place and up to a revision that is
        settled, in their order: up to `limit`, fewer where they weigh too much."""
        query = select(c.revision, c.scorer_run_id).where(after.before(), c.revision <= upto)
        if tenant:
            query = query.where(c.tenant == tenant)
        # With a run: not in the order of the index by revision, or it might be walked for all of a few.
        first: Any = c.revision + 0 if run_id else c.revision
        if run_id:
            query = query.where(c.run_id == run_id)
        query = query.order_by(first, c.scorer_run_id).limit(limit)

        def work(connection: Connection) -> Changes:
            keys = connection.execute(query).all()
            found, looked_at = _load(connection, [key.scorer_run_id for key in keys], most_weight)
            # What changed again between the two statements comes later, with its new number.
            found = [one for one in found if one.run.revision <= upto]
            if looked_at == len(keys) < limit:
                return Changes(found, Place(upto), True)
            last = keys[looked_at - 1]
            return Changes(found, Place(last.revision, last.scorer_run_id), False)

        return await self._database.read(work)

    async def changes_of(
        self, tenant: str, run_ids: Sequence[str], upto: int, *, limit: int, most_weight: int
    ) -> dict[str, Changes]:
        """For several runs at once: all scorer runs of each whose newest change is not after a revision that is
        settled, in the order of changes. Without the runs that have more than `limit`, or that weigh more than
        `most_weight`, or that too much was read before."""
        place = func.row_number().over(partition_by=c.run_id, order_by=(c.revision, c.scorer_run_id))
        ranked = select(c.run_id, c.scorer_run_id, place.label("place")).where(
            c.tenant == tenant, c.run_id.in_(run_ids), c.revision <= upto
        )
        each = ranked.subquery()
        query = select(each).where(each.c.place <= limit + 1).order_by(each.c.run_id, each.c.place)

        def work(connection: Connection) -> dict[str, Changes]:
            ids: dict[str, list[str]] = {run_id: [] for run_id in run_ids}
            for row in connection.execute(query):
                ids[row.run_id].append(row.scorer_run_id)
            wanted = [key for keys in ids.values() if len(keys) <= limit for key in keys]
            loaded, looked_at = _load(connection, wanted)
            complete, found = set(wanted[:looked_at]), {one.run.scorer_run_id: one for one in loaded}
            result = {}
            for run_id, keys in ids.items():
                # What changed again between the two statements comes later, with its new number.
                these = [found[key] for key in keys if key in found and found[key].run.revision <= upto]
                fits = len(keys) <= limit and sum(one.weight for one in these) <= most_weight
                if fits and complete.issuperset(keys):
                    result[run_id] = Changes(these, Place(upto), True)
            return result

        return await self._database.read(work)

    async def progress(self, tenant: str, run_ids: Sequence[str]) -> dict[str, Progress]:
        """How far some runs are: of those that have scorer runs."""
        # Those that people asked for, now or of another version, have no siblings.
        asked, is_open = func.count().filter(c.siblings > 0), c.state.in_([int(state) for state in OPEN])
        columns = (c.run_id, asked, func.max(c.siblings), func.count().filter(is_open), func.max(c.revision))
        query = select(*columns).where(c.tenant == tenant, c.run_id.in_(run_ids)).group_by(c.run_id)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return {row[0]: Progress(row[3] > 0, row[1] >= row[2], row[4]) for row in rows}

    async def paused(self, tenant: str) -> dict[str, str]:
        """The scorers that are paused, and by whom, as far as it was somebody of this tenant."""
        who = case((scorers.c.paused_by_tenant == tenant, scorers.c.paused_by), else_="")
        query = select(scorers.c.scorer_id, who).where(scorers.c.paused.is_(True))
        return {row[0]: row[1] for row in await self._database.read(lambda connection: connection.execute(query).all())}


def scan(wanted: Filter, after: tuple[float, str] | None, count: int) -> Select[Any]:
    """The next `count` scorer runs of the narrowest index that a filter has, newest first, and whether each of them
    fits the rest of it: however few do, the statement's work is bounded."""
    narrow, rest = wanted.narrowed()
    query = select(c.create_time, c.scorer_run_id, c.state, and_(true(), *rest).label("fits")).where(*narrow)
    if after is not None:
        # The first condition is what an index can be entered with.
        query = query.where(c.create_time <= after[0], tuple_(c.create_time, c.scorer_run_id) < after)
    return query.order_by(c.create_time.desc(), c.scorer_run_id.desc()).limit(count)


def scan_states(wanted: Filter, after: tuple[float, str] | None, count: int) -> Select[Any]:
    """As `scan`, of several states, each of them looked for in its own place of the index: rows of other states cost
    nothing. One statement, so that a row that goes from one state to another meanwhile is in one of them."""
    parts = [scan(replace(wanted, states=[state]), after, count).subquery().select() for state in wanted.states]
    found = union_all(*parts).subquery()
    return select(found).order_by(found.c.create_time.desc(), found.c.scorer_run_id.desc()).limit(count)


def _bounded(text: Any) -> Any:
    """A text column, or NULL where it is larger than one answer may have."""
    return case((func.length(text) <= _STEPS_BYTES, text))


def _load(connection: Connection, ids: Sequence[str], most_weight: int = MAX_ANSWER_WEIGHT) -> tuple[list[Found], int]:
    """Scorer runs by id, in the order of `ids`, as many as make one answer: at least one, where there is one. And how
    many of the ids were looked at for that."""
    found, total = list[Found](), 0
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        rows = connection.execute(select(*_COLUMNS).where(c.scorer_run_id.in_(chunk))).all()
        by_id = {row.scorer_run_id: row for row in rows}
        here = [by_id[key] for key in chunk if key in by_id]
        for one in _with_attempts(connection, here, _LISTED_ATTEMPTS):
            total += one.weight
            if total > most_weight and found:
                return found, start + chunk.index(one.run.scorer_run_id)
            found.append(one)
    return found, len(ids)


_LARGE: Final = (attempts.c.partial_results, attempts.c.exchanges)
_BRIEF: Final = [column for column in attempts.c if column.name not in ("partial_results", "exchanges")]


def _with_attempts(connection: Connection, found: Sequence[Any], most: int) -> list[Found]:
    """With the newest attempts of each, without the results of their steps."""
    if not found:
        return []
    ids = [row.scorer_run_id for row in found]
    history: dict[str, list[Any]] = {}
    place = func.row_number().over(partition_by=attempts.c.scorer_run_id, order_by=attempts.c.attempt.desc())
    total = func.count().over(partition_by=attempts.c.scorer_run_id)
    ranked = (
        select(*_BRIEF, place.label("place"), total.label("total")).where(attempts.c.scorer_run_id.in_(ids)).subquery()
    )
    query = select(ranked).where(ranked.c.place <= most).order_by(ranked.c.attempt)
    for attempt in connection.execute(query):
        history.setdefault(attempt.scorer_run_id, []).append(attempt)
    result = []
    for row in found:
        of_it = history.get(row.scorer_run_id, [])
        omitted = of_it[0].total - len(of_it) if of_it else 0
        if row.state == State.SUCCEEDED and not (of_it and of_it[-1].attempt == row.claims):
            of_it = [*of_it, Attempt.of(row)]
        result.append(Found(row, of_it, omitted))
    return result


def _with_results(connection: Connection, found: Sequence[Any]) -> list[Attempt]:
    """The attempts with the results of their steps, of the newest first, as far as these are not too many bytes."""
    room, complete = _STEPS_BYTES, list[Attempt]()
    for row in reversed(found):
        if isinstance(row, Attempt):
            large = (row.partial_results, row.exchanges)
        else:
            key = (attempts.c.scorer_run_id == row.scorer_run_id, attempts.c.attempt == row.attempt)
            kept = [case((func.length(text) <= room, text)) for text in _LARGE]
            large = tuple(connection.execute(select(*kept).where(*key)).one_or_none() or (None, None))
        steps, exchanges = (text if text is not None and len(text) <= room else None for text in large)
        room -= len(steps or "") + len(exchanges or "")
        complete.append(Attempt.copied(row, steps, exchanges))
    return complete[::-1]
