"""What can be asked about scorer runs. Every query walks an index."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import ColumnElement, func, select, tuple_
from sqlalchemy.engine import Connection

from scorer_service import schema
from scorer_service.database import Database
from scorer_service.records import OPEN, Priority, State
from scorer_service.revisions import settled_revision
from scorer_service.schema import NOW, attempts, counters, samples, scorer_runs, scorers

row = scorer_runs.c


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

    def conditions(self) -> list[ColumnElement[bool]]:
        found: list[ColumnElement[bool]] = [row.tenant == self.tenant]
        if self.run_id:
            found.append(row.run_id == self.run_id)
        if self.agent_id:
            found.append(row.agent_id == self.agent_id)
        if self.scorer_id:
            found.append(row.scorer_id == self.scorer_id)
        if self.states:
            found.append(row.state.in_(self.states))
        if self.created_after is not None:
            found.append(row.create_time > self.created_after)
        if self.created_before is not None:
            found.append(row.create_time < self.created_before)
        return found


@dataclass(frozen=True, slots=True)
class Attempt:
    """The attempt that brought the score, in the form of a row of `attempts`."""

    scorer_run_id: str
    attempt: int
    worker: str
    start_time: float
    end_time: float
    partial_results: str
    error_reason: str | None = None
    error_class: str | None = None
    error_message: str | None = None
    spent: None = None

    @classmethod
    def of(cls, line: Any) -> Attempt:
        """Of a scorer run that SUCCEEDED."""
        return cls(line.scorer_run_id, line.claims, line.worker, line.start_time, line.end_time, line.steps)

    @classmethod
    def never_made(cls, line: Any) -> Attempt:
        """Of a scorer run that FAILED without an attempt: its time as a whole, and its error."""
        error = line.error_reason, line.error_class, line.error_message
        return cls(line.scorer_run_id, line.claims, line.worker, line.create_time, line.end_time, line.steps, *error)


@dataclass(frozen=True, slots=True)
class Found:
    """A scorer run with its history."""

    run: Any
    """A row of `scorer_runs`."""
    attempts: Sequence[Any]
    """Rows of `attempts`, or Attempt, oldest first."""
    sample: bytes | None = None

    @property
    def weight(self) -> int:
        """About how many bytes it is on the wire."""
        texts = (self.run.options, self.run.labels, self.run.score_reason, self.run.score_metadata)
        spent = sum(len(attempt.spent or "") for attempt in self.attempts)
        return 1000 + sum(len(text or "") for text in texts) + 1000 * len(self.attempts) + spent


MAX_ANSWER_WEIGHT: Final = 2 * 1024 * 1024
"""Most weight of one answer: clients take messages of up to 4 MiB unless they say otherwise."""


def within_weight(found: Sequence[Found]) -> int:
    """How many of them make one answer: at least one, where there is one."""
    total = 0
    for count, one in enumerate(found):
        total += one.weight
        if total > MAX_ANSWER_WEIGHT and count:
            return count
    return len(found)


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the order of changes: after all of a revision, or within it, after one of its scorer runs."""

    revision: int
    scorer_run_id: str | None = None

    def before(self) -> ColumnElement[bool]:
        """The condition that a scorer run comes later."""
        if self.scorer_run_id is None:
            return row.revision > self.revision
        return tuple_(row.revision, row.scorer_run_id) > (self.revision, self.scorer_run_id)


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of one scorer."""

    scorer_id: str
    counts: dict[int, int]
    cancelled_ad_hoc: int
    oldest_age: float | None
    latencies: tuple[float, float, float] | None
    """50th, 95th and 99th percentile of the seconds from creation to score."""
    mean_score: float | None
    paused: bool


class Queries:
    """Reads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, tenant: str, scorer_run_id: str, *, with_sample: bool = False) -> Found | None:
        """One scorer run."""

        def work(connection: Connection) -> Found | None:
            found = _with_attempts(
                connection,
                connection.execute(
                    select(scorer_runs).where(row.tenant == tenant, row.scorer_run_id == scorer_run_id)
                ).all(),
            )
            if not found or not with_sample:
                return found[0] if found else None
            body = connection.execute(select(samples.c.body).where(samples.c.sample_id == found[0].run.sample_id))
            return Found(found[0].run, found[0].attempts, body.scalar_one_or_none())

        return await self._database.read(work)

    async def page(self, wanted: Filter, *, limit: int, after: tuple[float, str] | None = None) -> list[Found]:
        """Scorer runs, newest first by (create_time, id), beginning below `after`."""
        query = select(scorer_runs).where(*wanted.conditions())
        if after is not None:
            query = query.where(tuple_(row.create_time, row.scorer_run_id) < after)
        query = query.order_by(row.create_time.desc(), row.scorer_run_id.desc()).limit(limit)
        return await self._database.read(lambda c: _with_attempts(c, c.execute(query).all()))

    async def settled(self) -> tuple[str, int]:
        """Epoch of the database, and the revision up to which all can be read: see `revisions`."""
        query = select(counters.c.value).where(counters.c.name == schema.EPOCH)

        def work(connection: Connection) -> tuple[str, int]:
            return f"{connection.execute(query).scalar_one():016x}", settled_revision(connection)

        return await self._database.read(work)

    async def changes(
        self, tenant: str, run_id: str, after: Place, upto: int | None = None, *, limit: int
    ) -> list[Found]:
        """Scorer runs (of a run, or all) whose newest change is after a place and up to a revision, in their order."""
        query = select(scorer_runs).where(row.tenant == tenant, after.before())
        if upto is not None:
            query = query.where(row.revision <= upto)
        if run_id:
            query = query.where(row.run_id == run_id)
        query = query.order_by(row.revision, row.scorer_run_id).limit(limit)
        return await self._database.read(lambda c: _with_attempts(c, c.execute(query).all()))

    async def progress(self, tenant: str, run_id: str) -> tuple[bool, bool]:
        """Whether any scorer run of a run is open, and whether all that the run asked for are known to be there."""
        # Those that people asked for, now or of another version, have no siblings.
        asked, is_open = func.count().filter(row.siblings > 0), row.state.in_([int(state) for state in OPEN])
        columns = (func.count(), asked, func.max(row.siblings), func.count().filter(is_open))
        query = select(*columns).where(row.tenant == tenant, row.run_id == run_id)
        total, asked_for, siblings, still_open = await self._database.read(lambda c: c.execute(query).one())
        return still_open > 0, total > 0 and asked_for >= siblings

    async def paused(self) -> set[str]:
        """Ids of the scorers that are paused."""
        query = select(scorers.c.scorer_id).where(scorers.c.paused.is_(True))
        return set(await self._database.read(lambda c: c.execute(query).scalars().all()))

    async def stats(
        self, tenant: str, *, scorer_id: str = "", after: float | None = None, before: float | None = None
    ) -> list[Stats]:
        """Counts by scorer over those created in a window."""
        wanted = Filter(tenant, scorer_id=scorer_id, created_after=after, created_before=before).conditions()
        wanted.append(row.scorer_id != "")  # requests that could not be understood are nobody's

        def work(connection: Connection) -> list[Stats]:
            counts: dict[str, dict[int, int]] = {}
            for name, state, count in connection.execute(
                select(row.scorer_id, row.state, func.count()).where(*wanted).group_by(row.scorer_id, row.state)
            ):
                counts.setdefault(name, {})[state] = count
            ad_hoc = _by_scorer(
                connection,
                select(row.scorer_id, func.count())
                .where(*wanted, row.state == int(State.CANCELLED), row.priority == int(Priority.HIGH))
                .group_by(row.scorer_id),
            )
            ages = _by_scorer(
                connection,
                select(row.scorer_id, NOW - func.min(row.create_time))
                .where(*wanted, row.state.in_([int(state) for state in OPEN]))
                .group_by(row.scorer_id),
            )
            means = _by_scorer(
                connection,
                select(row.scorer_id, func.avg(row.score_value))
                .where(*wanted, row.state == int(State.SUCCEEDED))
                .group_by(row.scorer_id),
            )
            latencies = _latencies(connection, wanted)
            paused = set(connection.execute(select(scorers.c.scorer_id).where(scorers.c.paused.is_(True))).scalars())
            return [
                Stats(
                    name,
                    counts[name],
                    ad_hoc.get(name, 0),
                    ages.get(name),
                    latencies.get(name),
                    means.get(name),
                    name in paused,
                )
                for name in sorted(counts)
            ]

        return await self._database.read(work)


def _by_scorer(connection: Connection, query: Any) -> dict[str, Any]:
    return {line[0]: line[1] for line in connection.execute(query)}


def _latencies(connection: Connection, wanted: Iterable[ColumnElement[bool]]) -> dict[str, tuple[float, float, float]]:
    """Percentiles by nearest rank."""
    latency = (row.end_time - row.create_time).label("latency")
    ranked = (
        select(
            row.scorer_id,
            latency,
            func.row_number().over(partition_by=row.scorer_id, order_by=row.end_time - row.create_time).label("place"),
            func.count().over(partition_by=row.scorer_id).label("total"),
        )
        .where(*wanted, row.state == int(State.SUCCEEDED))
        .subquery()
    )
    # Nearest rank without a ceiling function, which SQLite may lack: the first place at or above p * total.
    columns = [
        func.min(ranked.c.latency).filter(ranked.c.place * 100 >= ranked.c.total * percent) for percent in (50, 95, 99)
    ]
    query = select(ranked.c.scorer_id, *columns).group_by(ranked.c.scorer_id)
    return {line[0]: (line[1], line[2], line[3]) for line in connection.execute(query)}


def _with_attempts(connection: Connection, found: Sequence[Any]) -> list[Found]:
    if not found:
        return []
    history: dict[str, list[Any]] = {}
    ids = [line.scorer_run_id for line in found]
    query = select(attempts).where(attempts.c.scorer_run_id.in_(ids)).order_by(attempts.c.attempt)
    for attempt in connection.execute(query):
        history.setdefault(attempt.scorer_run_id, []).append(attempt)
    for line in found:
        known = history.setdefault(line.scorer_run_id, [])
        if line.state == State.SUCCEEDED and not (known and known[-1].attempt == line.claims):
            known.append(Attempt.of(line))
    return [Found(line, history.get(line.scorer_run_id, ())) for line in found]
