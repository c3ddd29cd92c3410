"""Who has which scorer: each process says so again and again, and what nobody has had for long is given up.

A scorer run waits, PENDING, for a process that has its scorer in the version that it asks for. It ends FAILED,
`scorer_unknown`, only when it has been due for the orphan time and nobody has had that in all this time.

That takes somebody who can tell. After an outage, or a jump of the database's clock, all that was said looks old; so
a process gives up nothing until it has seen the others for a while, without interruption, by a clock of its own. And
it says what it has itself in the transaction that gives up, before.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import ColumnElement, bindparam, case, delete, exists, false, or_, select, tuple_, update
from sqlalchemy.engine import Connection

from runwire.pubsub import MAX_COUNTED
from scorer_service.queue.backlog import Backlog
from scorer_service.queue.rows import record_ends
from scorer_service.results.batches import insert_into
from scorer_service.results.database import Database, database_time
from scorer_service.results.records import Error, State
from scorer_service.results.revisions import next_revision
from scorer_service.results.schema import NOW, Lane, external_scorers, holders, scorer_runs, scorers

logger = logging.getLogger("scorer_service")

ORPHAN_SECONDS: Final = 3600.0
_MAX_SECONDS: Final = 60.0
"""Longest pause until a process says again what it has."""
_WATCHED_ROUNDS: Final = 3
_MAX_PAIRS: Final = 1000
"""Of scorers and versions in one look."""
_BATCH: Final = 500
_GONE: Final = Error("scorer_unknown", "no process has had this scorer for a long time; redrive it when one does")

c = scorer_runs.c
Pair = tuple[str, str]
"""Id and version of a scorer."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that has a scorer."""

    scorer_id: str
    version: str
    worker: str
    seen_time: float


@dataclass(slots=True)
class Worker:
    """A process that does scorer runs."""

    name: str
    scorers: list[Pair] = field(default_factory=list)
    seen_time: float = 0.0


@dataclass(frozen=True, slots=True)
class Queue:
    """What is to be done of one version of a scorer."""

    scorer_id: str
    version: str
    """The one that is asked for; empty: any."""
    due: int
    """At most MAX_COUNTED; the same holds for `ahead`."""
    ahead: int
    oldest_due: float
    workers: int
    paused: bool


class Holders:
    """What this process has, and what all of them have."""

    def __init__(
        self,
        database: Database,
        worker: str,
        versions: Mapping[str, Sequence[str]],
        *,
        orphan_seconds: float = ORPHAN_SECONDS,
        backlog: Backlog | None = None,
    ) -> None:
        self._database = database
        self._backlog = backlog or Backlog()
        self._worker = worker
        self._versions = versions
        self._orphan_seconds = orphan_seconds
        self._pause_seconds = min(_MAX_SECONDS, orphan_seconds / 20)
        self._place: Pair = ("", "")
        self._last: tuple[float, float] | None = None
        self._watching_since = 0.0

    async def run_once(self) -> float:
        """Says what is here, and gives up what nobody has; returns when to say it again."""
        given_up = await self.sweep()
        if given_up:
            logger.error("%d scorer runs failed: nobody has had their scorer for %g s", given_up, self._orphan_seconds)
        return self._pause_seconds if given_up < _BATCH else 0.05

    async def sweep(self) -> int:
        """One round; returns how many scorer runs it gave up."""
        wanted = await self._database.look(self._wanted)

        def work(connection: Connection) -> tuple[float, int]:
            register(connection, self._worker, self._versions)
            now = database_time(connection)
            if not self._may_tell(now):
                return now, 0
            old = holders.c.seen_time < now - self._orphan_seconds
            connection.execute(delete(holders).where(old))
            return now, sum(self._give_up(connection, pair, now) for pair in wanted)

        now, given_up = await self._database.write(work)
        self._last = (time.monotonic(), now)
        return given_up

    def _wanted(self, connection: Connection) -> list[Pair]:
        """Scorers and versions that something waits for: a look into the index for each, not at each row."""
        found: list[Pair] = []
        while len(found) < _MAX_PAIRS:
            row = connection.execute(_NEXT_PAIR, {"scorer_id": self._place[0], "version": self._place[1]}).first()
            if row is None:
                self._place = ("", "")
                break
            self._place = (row[0], row[1])
            found.append(self._place)
        return found

    def _may_tell(self, now: float) -> bool:
        """Whether this process has seen the others for long enough."""
        present = time.monotonic()
        if self._last is not None:
            passed, told = present - self._last[0], now - self._last[1]
            steady = passed <= _WATCHED_ROUNDS * self._pause_seconds + 5.0 and abs(told - passed) <= 5.0
        else:
            steady = False
        if not steady:
            self._watching_since = present
        return present - self._watching_since >= self._counts_seconds

    def _give_up(self, connection: Connection, pair: Pair, now: float) -> int:
        """Ends up to a batch of scorer runs, if nobody has what they wait for."""
        scorer_id, version = pair
        long_ago = now - self._orphan_seconds
        held = exists().where(
            holders.c.scorer_id == scorer_id,
            holders.c.version == version,
            holders.c.seen_time >= long_ago,
            or_(holders.c.tenant == "", holders.c.tenant == c.tenant),
        )
        # A process of the release before says only that it has some version.
        seen = false() if version else scorers.c.seen_time >= long_ago
        kept = exists().where(scorers.c.scorer_id == scorer_id, or_(scorers.c.paused, seen))
        mine = (c.scorer_id == scorer_id, c.wanted_version == version, c.due_time < long_ago)
        orphans = select(c.scorer_run_id, c.state, c.claims, c.worker, c.start_time, c.steps)
        orphans = orphans.where(*mine, ~held, ~kept).order_by(c.scorer_run_id).limit(_BATCH)
        rows = connection.execute(orphans.with_for_update(skip_locked=True)).all()
        if rows:
            give_up(connection, rows, _GONE, self._backlog)
        return len(rows)

    @property
    def _counts_seconds(self) -> float:
        """For how long it counts that a process said what it has."""
        return _WATCHED_ROUNDS * self._pause_seconds

    async def workers(self) -> list[Worker]:
        """The processes that there are, in order of their names, and what each has in its hands."""

        def ask(connection: Connection) -> list[Worker]:
            columns = (holders.c.worker, holders.c.scorer_id, holders.c.version, holders.c.seen_time)
            recent = (holders.c.seen_time >= NOW - self._counts_seconds, holders.c.version != "")
            found: dict[str, Worker] = {}
            for name, scorer_id, version, seen_time in connection.execute(
                select(*columns).where(*recent).order_by(*columns)
            ):
                worker = found.setdefault(name, Worker(name))
                worker.scorers.append((scorer_id, version))
                worker.seen_time = max(worker.seen_time, seen_time)
            return list(found.values())

        return await self._database.read(ask)

    async def queues(self) -> tuple[list[Queue], float]:
        """What is to be done, in order, with the database's clock."""
        workers = await self.workers()
        having: dict[Pair, set[str]] = {}
        for worker in workers:
            for scorer_id, version in worker.scorers:
                for pair in ((scorer_id, version), (scorer_id, "")):
                    having.setdefault(pair, set()).add(worker.name)

        def ask(connection: Connection) -> tuple[list[Queue], float]:
            now, found, place = database_time(connection), list[Queue](), ("", "")
            paused = set(connection.execute(select(scorers.c.scorer_id).where(scorers.c.paused)).scalars())
            while len(found) < _MAX_PAIRS:
                line = connection.execute(_NEXT_PAIR, {"scorer_id": place[0], "version": place[1]}).first()
                if line is None:
                    break
                place = (str(line[0]), str(line[1]))
                able = len(having.get(place, ()))
                due, ahead, oldest = _depth(connection, place, now)
                found.append(Queue(*place, due, ahead, oldest, able, place[0] in paused))
            return found, now

        return await self._database.read(ask)

    async def work(self, scorer_ids: frozenset[str]) -> int:
        """How many scorer runs are due, of scorers that are not paused, or in somebody's hands; of these scorers, or of
        all: what there must be processes for."""
        queues, _ = await self.queues()
        running = await self._database.read(lambda connection: connection.execute(_RUNNING).scalars().all())
        wanted = [queue for queue in queues if not scorer_ids or queue.scorer_id in scorer_ids]
        due = sum(queue.due for queue in wanted if not queue.paused)
        return due + sum(not scorer_ids or scorer_id in scorer_ids for scorer_id in running)

    async def all(self, tenant: str) -> list[Holder]:
        """Who has what that does a tenant's scorer runs, as far as it was said within the orphan time."""
        columns = (holders.c.scorer_id, holders.c.version, holders.c.worker, holders.c.seen_time)
        recent = (holders.c.version != "", holders.c.seen_time >= NOW - self._orphan_seconds)
        query = select(*columns).where(*recent, holders.c.tenant.in_(["", tenant]))
        rows = await self._database.read(lambda connection: connection.execute(query.order_by(*columns)).all())
        return [Holder(*row) for row in rows]


def _depth(connection: Connection, pair: Pair, now: float) -> tuple[int, int, float]:
    """How many are due, how many are not yet, and since when the first is."""
    due, ahead, oldest = 0, 0, list[float]()
    for lane in Lane:
        known = {"scorer_id": pair[0], "version": pair[1], "lane": int(lane), "now": now}
        times = connection.execute(_DUE, known).scalars().all()
        due += len(times)
        oldest += times[:1]
        ahead += len(connection.execute(_AHEAD, known).all())
    return min(due, MAX_COUNTED), min(ahead, MAX_COUNTED), min(oldest, default=0.0)


def is_held(scorer_id: ColumnElement[str], orphan_seconds: float, version: str = "") -> ColumnElement[bool]:
    """Whether a process said within the orphan time that it has the scorer (in this version), or the tenant registered
    it as one that is carried out elsewhere."""
    said = select(1).where(
        holders.c.scorer_id == scorer_id,
        holders.c.version == version if version else holders.c.version != "",
        holders.c.seen_time >= NOW - orphan_seconds,
        or_(holders.c.tenant == "", holders.c.tenant == c.tenant),
    )
    registered = select(1).where(external_scorers.c.tenant == c.tenant, external_scorers.c.scorer_id == scorer_id)
    if version:
        registered = registered.where(external_scorers.c.version == version)
    return or_(exists(said), exists(registered))


def by_scorer(found: Iterable[Holder]) -> dict[str, list[Holder]]:
    """Holders by the scorer that they have."""
    listed: dict[str, list[Holder]] = {}
    for one in found:
        listed.setdefault(one.scorer_id, []).append(one)
    return listed


_NEXT_PAIR: Final = (
    select(c.scorer_id, c.wanted_version)
    .where(
        c.due_time.is_not(None),
        tuple_(c.scorer_id, c.wanted_version) > tuple_(bindparam("scorer_id"), bindparam("version")),
    )
    .order_by(c.scorer_id, c.wanted_version)
    .limit(1)
)


_RUNNING: Final = select(c.scorer_id).where(c.state == int(State.RUNNING)).limit(MAX_COUNTED)
_OF_LANE: Final = (
    c.scorer_id == bindparam("scorer_id"),
    c.wanted_version == bindparam("version"),
    c.lane == bindparam("lane"),
)
_DUE: Final = (
    select(c.due_time).where(*_OF_LANE, c.due_time <= bindparam("now")).order_by(c.due_time).limit(MAX_COUNTED)
)
_AHEAD: Final = (
    select(c.due_time).where(*_OF_LANE, c.due_time > bindparam("now")).order_by(c.due_time).limit(MAX_COUNTED)
)


def give_up(connection: Connection, rows: Sequence[Any], error: Error, backlog: Backlog) -> None:
    """Ends scorer runs that are in nobody's hands, FAILED. A process that had one and died left an attempt behind;
    that is exported, and so is the failure, which no attempt records."""
    revision, now = next_revision(connection)
    lost = [row for row in rows if row.state == State.RUNNING]
    if lost:
        record_ends(connection, lost, now, lambda row: Error("worker_lost", f"the lease of {row.worker} ended"))
    ended = (
        update(scorer_runs)
        .where(c.scorer_run_id.in_([row.scorer_run_id for row in rows]))
        .values(
            state=int(State.FAILED),
            due_time=None,
            end_time=now,
            claims=c.claims + 1,
            losses=c.losses + case((c.state == int(State.RUNNING), 1), else_=0),
            error_reason=error.reason,
            error_class="",
            error_message=error.message,
            revision=revision,
        )
    )
    connection.execute(ended)
    backlog.add(connection, [(row.scorer_run_id, row.claims) for row in lost])
    backlog.add(connection, [(row.scorer_run_id, row.claims + 1) for row in rows])


def register(connection: Connection, worker: str, versions: Mapping[str, Sequence[str]]) -> None:
    """Says that a process has these versions of these scorers. One that has any has '' too: what asks for none."""
    if not versions:
        return
    now = database_time(connection)
    known = insert_into(connection, scorers)
    known = known.on_conflict_do_update(index_elements=["scorer_id"], set_={"seen_time": known.excluded.seen_time})
    connection.execute(known, [{"scorer_id": name, "paused": False, "seen_time": now} for name in sorted(versions)])
    see(connection, worker, pairs_of(versions), now)


def pairs_of(versions: Mapping[str, Sequence[str]]) -> frozenset[Pair]:
    """What a worker with these versions can do: '' is what asks for none."""
    return frozenset((name, version) for name, listed in versions.items() for version in ["", *listed])


def see(connection: Connection, worker: str, pairs: Iterable[Pair], now: float, tenant: str = "") -> None:
    """Says that a worker has these scorers and versions; `tenant` is that of an external one."""
    mine = insert_into(connection, holders)
    mine = mine.on_conflict_do_update(
        index_elements=["worker", "scorer_id", "version"], set_={"seen_time": mine.excluded.seen_time}
    )
    rows = [
        {"worker": worker, "scorer_id": name, "version": version, "seen_time": now, "tenant": tenant}
        for name, version in sorted(pairs)
    ]
    connection.execute(mine, rows)
