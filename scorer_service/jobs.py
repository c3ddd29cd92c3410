"""The queue: rows of `scorer_runs`, in batches, each batch one transaction.

    add      PENDING rows, and rows that are terminal from the start; what is there already is left alone
    claim    rows that are due, leased to this worker; a lease that ran out is a loss
    extend   renews leases and tells which of them are lost
    finish   the end of an attempt, taken only from whom the row was last claimed by

A row whose workers died `max_losses - 1` times has one delivery left, and waits for it in the lane ALONE: there it
cannot take others with it, nor be taken by them. The next loss ends it FAILED, `worker_lost`.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Double,
    Integer,
    Select,
    SmallInteger,
    String,
    Text,
    bindparam,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.engine import Connection

from scorer_service import schema
from scorer_service.batches import Update, among, insert_new
from scorer_service.database import Database
from scorer_service.records import OPEN, Error, Finished, Job, NewRun, Priority, State, microseconds, printable
from scorer_service.revisions import next_revision
from scorer_service.schema import NOW, Lane, attempts, counters, exports, rate_limits, samples, scorer_runs, scorers

row = scorer_runs.c


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit shared by all replicas: so many attempts a second, on average, under this name."""

    name: str
    per_second: float
    burst: int


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker can take of one scorer."""

    slots: int
    rate: Rate | None = None
    shared: bool = False
    """The slots are those of all offers that are shared, together: the processes."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim found."""

    jobs: Sequence[Job]
    alone: bool
    """There is work that wants a worker to itself: claim it with `alone`."""


class Jobs:
    """The queue, as one worker process sees it."""

    def __init__(
        self,
        database: Database,
        *,
        worker: str,
        lease_seconds: float = 30.0,
        max_losses: int = 3,
        export_backlog: int = 0,
    ) -> None:
        self.worker = worker
        self.lease_seconds = lease_seconds
        self._database = database
        self._max_losses = max_losses
        self._export_backlog = export_backlog
        self._known_due: list[tuple[str, Lane]] = []
        self._due_until = 0.0

    async def register(self, scorer_ids: Iterable[str]) -> None:
        """Says that this process has these scorers: only scorers that were registered can be claimed."""
        rows = [{"scorer_id": name, "paused": False, "seen_time": 0.0} for name in sorted(set(scorer_ids))]
        if not rows:
            return

        def work(connection: Connection) -> None:
            insert_new(connection, scorers, rows)
            seen = update(scorers).where(scorers.c.scorer_id.in_([values["scorer_id"] for values in rows]))
            connection.execute(seen.values(seen_time=NOW))

        await self._database.write(work)

    # Into the queue

    async def add(self, new_runs: Sequence[NewRun]) -> None:
        """Puts scorer runs into the queue. Those that are there already are left as they are."""
        if new_runs:
            await self._database.write(lambda connection: self.add_on(connection, new_runs))

    def add_on(self, connection: Connection, new_runs: Sequence[NewRun]) -> None:
        """`add` as a part of the caller's transaction."""
        revision, now = next_revision(connection)
        by_sample = {new.sample_id: new for new in new_runs}
        # In one order everywhere, so that two transactions never wait for each other's rows.
        insert_new(connection, samples, [_sample_row(key, by_sample[key], now) for key in sorted(by_sample)])
        rows = [_new_row(new, now, revision) for new in sorted(new_runs, key=lambda new: new.scorer_run_id)]
        insert_new(connection, scorer_runs, rows)

    # Out of the queue

    async def claim(self, offers: Mapping[str, Offer], limit: int, *, alone: bool = False) -> Claimed:
        """Takes up to `limit` rows that are due, of the scorers offered and not paused: HIGH before NORMAL, those
        due longest first. With `alone`: one row of the lane ALONE."""
        due = await self._due(offers)
        waiting_alone = any(lane is Lane.ALONE for _, lane in due)
        wanted = [pair for pair in due if (pair[1] is Lane.ALONE) == alone]
        if not wanted or limit <= 0:
            return Claimed((), waiting_alone)

        def work(connection: Connection) -> list[Job]:
            candidates = self._candidates(connection, wanted, offers, 1 if alone else limit)
            return self._take(connection, candidates) if candidates else []

        jobs = await self._database.write(work)
        if len(jobs) < limit:
            self.look_again()  # there was less than we knew of
        return Claimed(jobs, waiting_alone)

    def look_again(self) -> None:
        """Forgets what is known of the work that is due."""
        self._due_until = 0.0

    async def _due(self, offers: Mapping[str, Offer]) -> list[tuple[str, Lane]]:
        """Which scorers have work that is due, in which lanes: highest lane first, scorers in random order. What was
        found is believed for a moment, as long as there was enough of it."""
        if time.monotonic() >= self._due_until:
            values = {"scorer_ids": sorted(offers)}
            lines = await self._database.read(lambda connection: connection.execute(_DUE, values).all())
            self._known_due = [
                (line[0], lane) for line in lines for lane, there in zip(_LANES, line[1:], strict=True) if there
            ]
            self._due_until = time.monotonic() + _BELIEF_SECONDS if self._known_due else 0.0
        random.shuffle(self._known_due)
        return sorted((pair for pair in self._known_due if pair[0] in offers), key=lambda pair: -pair[1])

    def _candidates(
        self,
        connection: Connection,
        wanted: Sequence[tuple[str, Lane]],
        offers: Mapping[str, Offer],
        limit: int,
    ) -> list[Any]:
        taken: list[Any] = []
        used: Counter[str] = Counter()
        for index, (scorer_id, lane) in enumerate(wanted):
            offer = offers[scorer_id]
            rest = limit - len(taken)
            fair = -(-rest // (len(wanted) - index))  # so that one scorer does not take all
            place = "" if offer.shared else scorer_id
            count = min(fair, rest, offer.slots - used[place])
            if count <= 0:
                continue
            permits = _permits(connection, offer.rate, count)
            if permits <= 0:
                continue
            found = connection.execute(_CANDIDATES, {"scorer_id": scorer_id, "lane": int(lane), "count": permits})
            rows = found.all()
            if offer.rate is not None and len(rows) < permits:
                _give_back(connection, offer.rate, permits - len(rows))
            used[place] += len(rows)
            taken += rows
        return taken

    def _take(self, connection: Connection, candidates: Sequence[Any]) -> list[Job]:
        """Leases the candidates, except those that must not run (again, or beside others)."""
        revision, now = next_revision(connection)
        lost = [line for line in candidates if line.state == State.RUNNING]
        if lost:
            record_ends(connection, lost, now, _lease_ended)
            self._enqueue_exports(connection, [(line.scorer_run_id, line.claims) for line in lost])
        ended, apart, taken = [], [], []
        for line in candidates:
            losses = line.losses + (line.state == State.RUNNING)
            if losses >= self._max_losses:
                message = f"its worker died {losses} times: the last one was {line.worker or 'unknown'}"
                ended.append((line, losses, Error("worker_lost", message)))
            elif line.deadline is not None and line.deadline < now:
                ended.append(
                    (line, losses, Error("deadline_exceeded", "its deadline passed before it could be scored"))
                )
            elif line.body is None:
                ended.append((line, losses, Error("sample_lost", "its sample is not kept any more")))
            elif losses and losses == self._max_losses - 1 and line.lane != Lane.ALONE:
                apart.append((line, losses))
            else:
                taken.append(line.scorer_run_id)
        if ended:
            rows = [_ended_row(line, losses, error, now, revision) for line, losses, error in ended]
            connection.execute(_END, rows)
        if apart:
            rows = [
                {"id": line.scorer_run_id, "losses": losses, "revision": revision, "now": now} for line, losses in apart
            ]
            connection.execute(_SET_APART, rows)
        if not taken:
            return []
        values = {"ids": taken, "worker": self.worker, "now": now, "due": now + self.lease_seconds, "rev": revision}
        claimed = (connection.execute(_TAKE, values)).all()
        bodies = {line.scorer_run_id: line.body for line in candidates}
        return [_job(line, bodies[line.scorer_run_id]) for line in claimed]

    async def extend(self, jobs: Sequence[Job]) -> set[str]:
        """Renews leases; returns the ids of those that are lost: claimed by another worker, or cancelled."""
        if not jobs:
            return set()
        values = {"ids": [job.scorer_run_id for job in jobs], "me": self.worker, "lease": self.lease_seconds}
        lines = await self._database.write(lambda connection: connection.execute(_EXTEND, values).all())
        held = {line.scorer_run_id: line.claims for line in lines}
        return {job.scorer_run_id for job in jobs if held.get(job.scorer_run_id) != job.token}

    async def keep_steps(self, steps: Mapping[Job, str]) -> None:
        """Keeps the results of completed steps, in case this worker dies."""
        rows = [{"id": job.scorer_run_id, "token": job.token, "to_steps": text} for job, text in steps.items()]
        rows.sort(key=lambda values: str(values["id"]))
        await self._database.write(lambda connection: _KEEP_STEPS.run(connection, rows))

    async def finish(self, finished: Sequence[Finished]) -> list[Finished]:
        """Ends attempts. Returns those that were refused, because the row was claimed again, redriven or cancelled:
        nothing of them is written but their number. Safe to repeat: what is written already is not refused."""
        if not finished:
            return []
        return await self._database.write(lambda connection: self._finish(connection, finished))

    def _finish(self, connection: Connection, finished: Sequence[Finished]) -> list[Finished]:
        # A row may be there twice: lost and claimed again by this very worker.
        by_key = {(done.job.scorer_run_id, done.job.token): done for done in finished}
        ids = sorted({key for key, _ in by_key})
        owners = {(line.scorer_run_id, line.claims): line.state for line in connection.execute(_OWNERS, {"ids": ids})}
        refused = [done for key, done in by_key.items() if key not in owners]
        if refused:
            _count(connection, schema.ZOMBIES, len(refused))
        ours = [by_key[key] for key in owners if owners[key] == State.RUNNING and key in by_key]
        if ours:
            revision, now = next_revision(connection)
            _FINISH.run(connection, [_finished_row(done, now, revision) for done in ours])
            # The row itself is the record of the attempt that succeeded.
            history = [self._attempt_row(done, now) for done in ours if done.state is not State.SUCCEEDED]
            if history:
                insert_new(connection, attempts, history)
            self._enqueue_exports(connection, [(done.job.scorer_run_id, done.job.token) for done in ours])
        return refused

    def _attempt_row(self, done: Finished, now: float) -> dict[str, Any]:
        error = done.error
        return {
            "scorer_run_id": done.job.scorer_run_id,
            "attempt": done.job.token,
            "worker": self.worker,
            "start_time": done.job.start_time,
            "end_time": now,
            "error_reason": error.reason if error else None,
            "error_class": error.error_class if error else None,
            "error_message": printable(error.message) if error else None,
            "partial_results": done.steps,
        }

    def _enqueue_exports(self, connection: Connection, ended: Sequence[tuple[str, int]]) -> None:
        """Remembers attempts to export, as long as there is room: an exporter that is down must not fill the disk."""
        if not self._export_backlog:
            return
        waiting = (connection.execute(select(func.count()).select_from(exports))).scalar_one()
        rows = [
            {"scorer_run_id": key, "attempt": attempt, "due_time": 0.0, "tries": 0}
            for key, attempt in ended[: max(0, self._export_backlog - waiting)]
        ]
        if rows:
            insert_new(connection, exports, rows)
        if len(rows) < len(ended):
            _count(connection, schema.EXPORTS_DROPPED, len(ended) - len(rows))

    async def refused(self) -> int:
        """How many finishes were refused so far, by any worker."""
        count = select(counters.c.value).where(counters.c.name == schema.ZOMBIES)
        return int(await self._database.read(lambda connection: connection.execute(count).scalar_one()))


# Statements, built once: SQLAlchemy compiles each of them once for a database.

_LANES: Final = (Lane.HIGH, Lane.NORMAL, Lane.ALONE)


def _there_is(lane: Lane) -> Any:
    # The lane is written into the statement, not bound: a bound one would have three names.
    found = select(1).where(
        row.scorer_id == scorers.c.scorer_id, row.lane == literal(int(lane), Integer), row.due_time <= NOW
    )
    return exists(found)


_DUE: Final = (
    select(scorers.c.scorer_id, *[_there_is(lane).label(lane.name) for lane in _LANES])
    .where(among(scorers.c.scorer_id, "scorer_ids"), scorers.c.paused.is_(False))
    .where(or_(*[_there_is(lane) for lane in _LANES]))
)

_CANDIDATES: Final[Select[Any]] = (
    select(
        row.scorer_run_id,
        row.state,
        row.lane,
        row.losses,
        row.claims,
        row.worker,
        row.start_time,
        row.deadline,
        row.steps,
        samples.c.body,
    )
    .select_from(scorer_runs.outerjoin(samples, samples.c.sample_id == row.sample_id))
    .where(
        row.scorer_id == bindparam("scorer_id"),
        row.lane == bindparam("lane"),
        row.due_time <= NOW,
    )
    .order_by(row.due_time)
    .limit(bindparam("count", type_=Integer))
    .with_for_update(of=scorer_runs, skip_locked=True)
)

_TAKE: Final = (
    update(scorer_runs)
    .where(among(row.scorer_run_id, "ids"))
    .values(
        state=int(State.RUNNING),
        claims=row.claims + 1,
        deliveries=row.deliveries + 1,
        losses=row.losses + case((row.state == int(State.RUNNING), 1), else_=0),
        worker=bindparam("worker"),
        start_time=bindparam("now"),
        due_time=bindparam("due"),
        revision=bindparam("rev"),
    )
    .returning(
        row.scorer_run_id,
        row.claims,
        row.tenant,
        row.run_id,
        row.agent_id,
        row.scorer_id,
        row.wanted_version,
        row.options,
        row.steps,
        row.failures,
        row.start_time,
    )
)

_END: Final = (
    update(scorer_runs)
    .where(row.scorer_run_id == bindparam("id"))
    .values(
        state=int(State.FAILED),
        due_time=None,
        end_time=bindparam("now"),
        losses=bindparam("to_losses"),
        error_reason=bindparam("reason"),
        error_class="",
        error_message=bindparam("message"),
        revision=bindparam("rev"),
    )
)

_SET_APART: Final = (
    update(scorer_runs)
    .where(row.scorer_run_id == bindparam("id"))
    .values(
        state=int(State.RETRYING),
        lane=int(Lane.ALONE),
        losses=bindparam("losses"),
        due_time=bindparam("now"),
        error_reason="worker_lost",
        error_class="",
        error_message="its worker died; the next try is the last, without other work beside it",
        revision=bindparam("revision"),
    )
)

_EXTEND: Final = (
    update(scorer_runs)
    .where(
        among(row.scorer_run_id, "ids"),
        row.worker == bindparam("me"),
        row.state == int(State.RUNNING),
    )
    .values(due_time=NOW + bindparam("lease"))
    .returning(row.scorer_run_id, row.claims)
)

_KEEP_STEPS: Final = Update(
    {"id": String(), "token": Integer(), "to_steps": Text()},
    lambda value: (
        update(scorer_runs)
        .where(row.scorer_run_id == value("id"), row.claims == value("token"), row.state == int(State.RUNNING))
        .values(steps=value("to_steps"))
    ),
)

_OWNERS: Final = (
    select(row.scorer_run_id, row.claims, row.state)
    .where(among(row.scorer_run_id, "ids"))
    .order_by(row.scorer_run_id)
    .with_for_update()
)

_FINISH: Final = Update(
    {
        "id": String(),
        "token": Integer(),
        "to_state": SmallInteger(),
        "to_due": Double(),
        "to_end": Double(),
        "plus_failures": Integer(),
        "plus_losses": Integer(),
        "to_version": String(),
        "to_steps": Text(),
        "value": Double(),
        "label": Text(),
        "reason": Text(),
        "metadata": Text(),
        "direction": SmallInteger(),
        "judgement": Text(),
        "to_error_reason": String(),
        "to_error_class": String(),
        "to_error_message": Text(),
        "to_revision": BigInteger(),
    },
    lambda value: (
        update(scorer_runs)
        .where(row.scorer_run_id == value("id"), row.claims == value("token"))
        .values(
            state=value("to_state"),
            due_time=value("to_due"),
            end_time=value("to_end"),
            failures=row.failures + value("plus_failures"),
            losses=row.losses + value("plus_losses"),
            scorer_version=value("to_version"),
            steps=value("to_steps"),
            score_value=value("value"),
            score_label=value("label"),
            score_reason=value("reason"),
            score_metadata=value("metadata"),
            score_direction=value("direction"),
            judgement=value("judgement"),
            error_reason=value("to_error_reason"),
            error_class=value("to_error_class"),
            error_message=value("to_error_message"),
            revision=value("to_revision"),
        )
    ),
)

_BELIEF_SECONDS: Final = 0.2


def _count(connection: Connection, name: str, number: int) -> None:
    connection.execute(update(counters).where(counters.c.name == name).values(value=counters.c.value + number))


def _permits(connection: Connection, rate: Rate | None, count: int) -> int:
    """How many of `count` attempts the rate allows now; they are taken. (The generic cell rate algorithm: `next_time`
    runs ahead of the clock by one interval an attempt, by at most the burst.)"""
    if rate is None:
        return count
    insert_new(connection, rate_limits, [{"name": rate.name, "next_time": 0.0}])
    current = select(rate_limits.c.next_time, NOW).where(rate_limits.c.name == rate.name).with_for_update()
    next_time, now = connection.execute(current).one()
    next_time = max(now, next_time)
    room = int((now - next_time) * rate.per_second + rate.burst + 1e-6)
    permits = max(0, min(count, room))
    moved = update(rate_limits).where(rate_limits.c.name == rate.name)
    connection.execute(moved.values(next_time=next_time + permits / rate.per_second))
    return permits


def _give_back(connection: Connection, rate: Rate, permits: int) -> None:
    limit = rate_limits.c
    connection.execute(
        update(rate_limits).where(limit.name == rate.name).values(next_time=limit.next_time - permits / rate.per_second)
    )


def _sample_row(sample_id: str, new: NewRun, now: float) -> dict[str, Any]:
    return {
        "sample_id": sample_id,
        "tenant": new.tenant,
        "owner": new.owner,
        "body": new.sample,
        "create_time": now,
    }


def _new_row(new: NewRun, now: float, revision: int) -> dict[str, Any]:
    """What differs from row to row; the rest has its default."""
    is_open = new.state in OPEN
    return {
        "scorer_run_id": new.scorer_run_id,
        "tenant": new.tenant,
        "run_id": new.run_id,
        "agent_id": new.agent_id,
        "scorer_id": new.scorer_id,
        "scorer_name": new.scorer_name,
        "scorer_version": new.wanted_version,
        "wanted_version": new.wanted_version,
        "state": int(new.state),
        "priority": int(new.priority),
        "lane": int(Lane.HIGH if new.priority is Priority.HIGH else Lane.NORMAL),
        "due_time": now if is_open else None,
        "create_time": microseconds(now if new.create_time is None else new.create_time),
        "end_time": None if is_open else now,
        "deadline": new.deadline,
        "rate": new.rate,
        "siblings": new.siblings,
        "options": new.options,
        "labels": new.labels,
        "traceparent": new.traceparent,
        "tracestate": new.tracestate,
        "sample_id": new.sample_id,
        "fingerprint": new.fingerprint,
        "error_reason": new.error.reason if new.error else None,
        "error_class": new.error.error_class if new.error else None,
        "error_message": printable(new.error.message) if new.error else None,
        "revision": revision,
    }


def _finished_row(done: Finished, now: float, revision: int) -> dict[str, Any]:
    terminal = done.state not in OPEN
    score, error = done.score, done.error
    return {
        "id": done.job.scorer_run_id,
        "token": done.job.token,
        "to_state": int(done.state),
        "to_due": None if terminal else now + done.delay_seconds,
        "to_end": now if terminal else None,
        "plus_failures": int(done.failed),
        "plus_losses": int(done.lost),
        "to_version": done.scorer_version,
        "to_steps": done.steps,
        "value": score.value if score else None,
        "label": score.label if score else None,
        "reason": score.reason if score else None,
        "metadata": score.metadata if score else None,
        "direction": score.direction if score else None,
        "judgement": score.judgement if score else None,
        "to_error_reason": error.reason if error else None,
        "to_error_class": error.error_class if error else None,
        "to_error_message": printable(error.message) if error else None,
        "to_revision": revision,
    }


def record_ends(connection: Connection, held: Sequence[Any], now: float, why: Callable[[Any], Error]) -> None:
    """Ends attempts of rows that a worker held, in its place: it is gone, or will be refused."""
    rows = []
    for line in held:
        error = why(line)
        rows.append(
            {
                "scorer_run_id": line.scorer_run_id,
                "attempt": line.claims,
                "worker": line.worker,
                "start_time": line.start_time,
                "end_time": now,
                "error_reason": error.reason,
                "error_class": error.error_class,
                "error_message": error.message,
                "partial_results": line.steps,
            }
        )
    insert_new(connection, attempts, rows)


def _lease_ended(line: Any) -> Error:
    return Error("worker_lost", f"the lease of worker {line.worker} ended: it died, or could not reach the database")


def _ended_row(line: Any, losses: int, error: Error, now: float, revision: int) -> dict[str, Any]:
    return {
        "id": line.scorer_run_id,
        "to_losses": losses,
        "reason": error.reason,
        "message": error.message,
        "now": now,
        "rev": revision,
    }


def _job(line: Any, body: bytes) -> Job:
    return Job(
        scorer_run_id=line.scorer_run_id,
        token=line.claims,
        tenant=line.tenant,
        run_id=line.run_id,
        agent_id=line.agent_id,
        scorer_id=line.scorer_id,
        wanted_version=line.wanted_version,
        options=line.options,
        steps=line.steps,
        failures=line.failures,
        start_time=line.start_time,
        sample=body,
    )
