"""Scores that people give, with who said what and when.

An opinion is a scorer run of its own, SUCCEEDED, so that it is listed, watched, counted and exported as any other. Who
says something else later corrects it: the scorer run shows the newest, the table `opinions` keeps all.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from sqlalchemy import case, func, select, true, update
from sqlalchemy.engine import Connection

from runwire.errors import AlreadyExists
from runwire.scorer_requests import PEOPLE
from scorer_service.queue.jobs import Jobs
from scorer_service.results.batches import insert_into
from scorer_service.results.database import Database, database_time
from scorer_service.results.records import PERSON, NewRun, State
from scorer_service.results.revisions import next_revision
from scorer_service.results.schema import opinions, scorer_runs

_MOST_COMPARED: Final = 10_000
_MOST_SHOWN: Final = 100
_MIDDLE: Final = 0.5
"""From here on a score says yes."""

c = scorer_runs.c


@dataclass(frozen=True, slots=True)
class Said:
    """What somebody says of a run."""

    tenant: str
    run_id: str
    agent_id: str
    labels: Mapping[str, str]
    """Of the run."""
    scorer_id: str
    value: float
    label: str
    comment: str
    author: str
    submitted_by: str
    request_id: str
    owner: str = ""
    """Who submits it, where that one sees its own alone; otherwise empty."""

    @property
    def scorer_run_id(self) -> str:
        """The author's own, for this run and scorer; and the submitter's, where that one sees its own alone."""
        # More parts than that of what a run asks for: it is never one of these.
        # Who sees its own alone corrects its own alone, whomever it calls the author.
        own = (self.owner,) if self.owner else ()
        return _digest("opinion", self.tenant, self.run_id, self.scorer_id, self.author, PEOPLE, *own)

    @property
    def request_key(self) -> str:
        """Names the request within its tenant and caller."""
        return _digest(self.tenant, self.submitted_by, self.request_id)

    @property
    def fingerprint(self) -> str:
        """What was said, so that another request under the same id is found out."""
        return _digest(self.run_id, self.scorer_id, repr(self.value), self.label, self.comment, self.author)


class _Repeated(Exception):
    """Something else was first: the same request, or a removal."""


def _digest(*parts: str) -> str:
    return sha256("\0".join(parts).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the scores of a judge compare with those of people."""

    pairs: int
    agreement: float
    mean_distance: float


class Opinions:
    """Of all tenants."""

    def __init__(self, database: Database, jobs: Jobs) -> None:
        self._database = database
        self._jobs = jobs

    async def submit(self, said: Said) -> str:
        """Records what somebody says; returns the id of its scorer run. Raises AlreadyExists where the request id was
        used for something else."""

        def work(connection: Connection) -> str:
            before = select(opinions.c.scorer_run_id, opinions.c.fingerprint)
            found = connection.execute(before.where(opinions.c.request_key == said.request_key)).first()
            if found is not None:
                if found.fingerprint != said.fingerprint:
                    raise AlreadyExists(f"request id {said.request_id!r} was used for something else")
                return str(found.scorer_run_id)
            self._write(connection, said)
            return said.scorer_run_id

        while True:
            try:
                return await self._database.write(work)
            except _Repeated:
                continue  # the next look finds how it is now

    def _write(self, connection: Connection, said: Said) -> None:
        key = said.scorer_run_id
        new = NewRun(
            scorer_run_id=key,
            tenant=said.tenant,
            scorer_id=said.scorer_id,
            scorer_name=PEOPLE,
            run_id=said.run_id,
            agent_id=said.agent_id,
            state=State.SUCCEEDED,
            labels=json.dumps(dict(said.labels)),
        )
        self._jobs.add_on(connection, [new])
        # Locked: two who correct the same at once come one after the other.
        locked = connection.execute(select(c.scorer_run_id).where(c.scorer_run_id == key).with_for_update())
        if locked.first() is None:
            raise _Repeated  # it was there and has been removed meanwhile: now it can be added
        revision, now = next_revision(connection)
        mine = opinions.c.scorer_run_id == key
        number = connection.execute(select(func.coalesce(func.max(opinions.c.number), 0) + 1).where(mine)).scalar_one()
        row = insert_into(connection, opinions).on_conflict_do_nothing(index_elements=["request_key"])
        if not connection.execute(row, _row(said, number, database_time(connection))).rowcount:
            raise _Repeated
        connection.execute(update(opinions).where(mine, opinions.c.number < number).values(newest=False))
        shown = {
            "score_value": said.value,
            "score_label": said.label,
            "score_reason": said.comment,
            "score_metadata": "{}",
            "score_direction": 1,
            "claims": 1,
            "worker": PERSON + said.author,
            "requested_by": said.submitted_by,
            "start_time": now,
            "end_time": now,
            "revision": revision,
        }
        connection.execute(update(scorer_runs).where(c.scorer_run_id == key).values(**shown))
        self._jobs.backlog.add(connection, [(key, 1)])

    async def of(self, found_id: str) -> Sequence[Any]:
        """The newest rows of an opinion's history, oldest first."""
        query = select(opinions).where(opinions.c.scorer_run_id == found_id)
        query = query.order_by(opinions.c.number.desc()).limit(_MOST_SHOWN)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return list(reversed(rows))

    async def agent_of(self, tenant: str, run_id: str) -> str | None:
        """The agent of a run that was scored; None where nothing is known of it. For runs whose log is gone."""
        query = select(c.agent_id).where(c.tenant == tenant, c.run_id == run_id).limit(1)
        found = await self._database.read(lambda connection: connection.execute(query).first())
        return None if found is None else str(found.agent_id)

    async def agreement(
        self, tenant: str, scorer_id: str, after: float | None, before: float | None
    ) -> dict[tuple[str, str], Agreement]:
        """How each judge agrees with people, by scorer and name, of the opinions that were submitted in a window."""
        said = select(opinions).where(opinions.c.tenant == tenant, opinions.c.newest == true())
        if scorer_id:
            said = said.where(opinions.c.scorer_id == scorer_id)
        if after is not None:
            said = said.where(opinions.c.submit_time > after)
        if before is not None:
            said = said.where(opinions.c.submit_time < before)
        newest = said.order_by(opinions.c.submit_time.desc()).limit(_MOST_COMPARED).subquery()
        same = (c.score_value >= _MIDDLE) == (newest.c.value >= _MIDDLE)
        query = (
            select(
                c.scorer_id,
                c.scorer_name,
                func.count().label("pairs"),
                func.avg(case((same, 1.0), else_=0.0)).label("agreement"),
                func.avg(func.abs(c.score_value - newest.c.value)).label("distance"),
            )
            .select_from(newest)
            .join(
                scorer_runs,
                (c.tenant == newest.c.tenant) & (c.run_id == newest.c.run_id) & (c.scorer_id == newest.c.scorer_id),
            )
            .where(c.state == int(State.SUCCEEDED), c.scorer_name != PEOPLE)
            .group_by(c.scorer_id, c.scorer_name)
        )
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return {
            (row.scorer_id, row.scorer_name): Agreement(row.pairs, float(row.agreement), float(row.distance))
            for row in rows
        }


def _row(said: Said, number: int, now: float) -> dict[str, Any]:
    return {
        "scorer_run_id": said.scorer_run_id,
        "number": number,
        "tenant": said.tenant,
        "scorer_id": said.scorer_id,
        "run_id": said.run_id,
        "value": said.value,
        "label": said.label,
        "comment": said.comment,
        "author": said.author,
        "submitted_by": said.submitted_by,
        "submit_time": now,
        "request_key": said.request_key,
        "fingerprint": said.fingerprint,
        "newest": True,
    }
