"""The queue as an external worker sees it: the rows of its tenant, by the same claims, leases and ends as any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from sqlalchemy import Integer, Select, bindparam, exists, func, literal, select
from sqlalchemy.engine import Connection

from scorer_service.queue import statements
from scorer_service.queue.backlog import Backlog
from scorer_service.queue.jobs import Jobs, Offer, _Place, _Room
from scorer_service.queue.rows import job_of
from scorer_service.results.database import Database
from scorer_service.results.records import Finished, Job
from scorer_service.results.schema import NOW, Lane, scorer_runs, scorers

c = scorer_runs.c

_OF_PLACE: Final = (
    c.tenant == bindparam("tenant"),
    c.scorer_id == bindparam("scorer_id"),
    c.wanted_version == bindparam("version"),
)


def _there_is(lane: Lane) -> Any:
    found = select(1).where(*_OF_PLACE, c.lane == literal(int(lane), Integer), c.due_time <= NOW)
    return exists(found).label(lane.name)


_DUE: Final = select(*[_there_is(lane) for lane in statements.LANES])
_PAUSED: Final = select(scorers.c.paused).where(scorers.c.scorer_id == bindparam("scorer_id"))
_CANDIDATES: Final[Select[Any]] = statements.CANDIDATES.where(c.tenant == bindparam("tenant"))
_COUNT: Final = select(func.count()).select_from(
    select(1)
    .where(*_OF_PLACE, c.lane.in_([int(lane) for lane in Lane]), c.due_time <= NOW)
    .limit(bindparam("most", type_=Integer))
    .subquery()
)
_JOB: Final = select(*statements.OF_JOB, c.state, c.worker, c.due_time, NOW.label("now")).where(
    c.scorer_run_id == bindparam("scorer_run_id")
)
_TRACES: Final = select(c.scorer_run_id, c.traceparent, c.tracestate).where(
    c.scorer_run_id.in_(bindparam("ids", expanding=True))
)


@dataclass(frozen=True, slots=True)
class Held:
    """A scorer run as it is found when somebody reports."""

    job: Job
    state: int
    worker: str
    due_time: float | None
    now: float


class Claims(Jobs):
    """The queue of one external worker."""

    def __init__(
        self,
        database: Database,
        *,
        worker: str,
        tenant: str,
        versions: Mapping[str, Sequence[str]],
        lease_seconds: float,
        max_losses: int,
        backlog: Backlog,
    ) -> None:
        super().__init__(database, worker=worker, lease_seconds=lease_seconds, max_losses=max_losses)
        self.backlog = backlog
        self._tenant = tenant
        self._versions = versions

    async def _due(self, offers: Mapping[str, Offer]) -> list[_Place]:
        def look(connection: Connection) -> list[_Place]:
            found = []
            for scorer_id in offers:
                if is_paused(connection, scorer_id):
                    continue
                for version in ["", *self._versions[scorer_id]]:
                    values = {"tenant": self._tenant, "scorer_id": scorer_id, "version": version}
                    there = connection.execute(_DUE, values).one()
                    lanes = [lane for lane, due in zip(statements.LANES, there, strict=True) if due]
                    found += [_Place(scorer_id, version, lane) for lane in lanes]
            return sorted(found, key=lambda each: -each.lane)

        return await self._database.look(look)

    def _candidates(
        self,
        connection: Connection,
        wanted: Sequence[_Place],
        offers: Mapping[str, Offer],
        limit: int,
        room: _Room,
        *,
        spared: bool,
    ) -> list[Any]:
        taken: list[Any] = []
        for index, each in enumerate(wanted):
            rest = limit - len(taken)
            values = {
                "tenant": self._tenant,
                "scorer_id": each.scorer_id,
                "version": each.version,
                "lane": int(each.lane),
                "count": -(-rest // (len(wanted) - index)),  # so that one scorer does not take all
                "not_state": 0,
            }
            found = connection.execute(_CANDIDATES, values).all() if rest else []
            fitting = room.take([row.size or 0 for row in found])
            taken += found[:fitting]
            if fitting < len(found):
                break
        return taken

    def finish_on(self, connection: Connection, finished: Sequence[Finished]) -> list[Finished]:
        """`finish` as a part of the caller's transaction."""
        return self._finish(connection, finished)

    async def traces(self, jobs: Sequence[Job]) -> dict[str, tuple[str, str]]:
        """The trace contexts of jobs, by id."""
        ids = {"ids": [job.scorer_run_id for job in jobs]}
        rows = await self._database.read(lambda connection: connection.execute(_TRACES, ids).all())
        return {row.scorer_run_id: (row.traceparent, row.tracestate) for row in rows}


def is_paused(connection: Connection, scorer_id: str) -> bool:
    """Whether PauseScorer holds it."""
    return bool(connection.execute(_PAUSED, {"scorer_id": scorer_id}).scalar())


def count_due(connection: Connection, tenant: str, scorer_id: str, version: str, most: int) -> int:
    """How many scorer runs are due that ask for this version, up to `most`."""
    values = {"tenant": tenant, "scorer_id": scorer_id, "version": version, "most": most}
    return int(connection.execute(_COUNT, values).scalar_one())


def held(connection: Connection, scorer_run_id: str) -> Held | None:
    """A scorer run as it is now, no matter who has it; its sample is left out."""
    row = connection.execute(_JOB, {"scorer_run_id": scorer_run_id}).first()
    if row is None:
        return None
    job = job_of(row, b"")
    if row.start_time is None:
        job = replace(job, start_time=row.now)
    return Held(job, row.state, row.worker, row.due_time, row.now)
