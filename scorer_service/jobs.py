"""The queue: rows of `scorer_runs`, in batches, each batch one transaction.

    add      PENDING rows, and rows that are terminal from the start; what is there already is left alone
    claim    rows that are due, leased to this worker; a lease that ran out is a loss, unless it was this worker's own
    extend   renews leases and tells which of them are lost
    finish   the end of an attempt, taken only from whom the row was last claimed by

A row whose workers died `max_losses - 1` times goes to the lane ALONE: from there it is carried out in a process of its
own, where it cannot take others with it, nor be taken by them. So nobody waits for it, and only what was alone is found
guilty: if that process dies, the executor ends the row FAILED, `worker_lost`. A worker that dies with it says nothing
about it, and ends it only when that has happened again and again.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from runwire.errors import StoreUnavailable
from scorer_service import schema
from scorer_service.backlog import Backlog
from scorer_service.batches import Update, among, insert_new
from scorer_service.database import Database, database_time
from scorer_service.pace import FIRST_PER_SECOND, Pace
from scorer_service.records import OPEN, Error, Finished, Job, NewRun, Priority, State, microseconds, printable
from scorer_service.revisions import next_revision
from scorer_service.schema import (
    NOW,
    Lane,
    attempts,
    counters,
    holders,
    rate_limits,
    samples,
    scorer_runs,
    scorers,
)

row = scorer_runs.c


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit shared by all replicas: so many attempts a second, on average, under this name."""

    name: str
    per_second: float | None
    """None: no limit but what is learned."""
    burst: int
    adaptive: bool = False
    """Whether the provider's answers slow it down further: see `pace`."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What a worker can take of one scorer."""

    slots: int
    rate: Rate | None = None
    shared: bool = False
    """The slots are those of all offers that are shared, together: the processes."""


@dataclass(frozen=True, slots=True)
class Held:
    """What a worker knows of its own leases, as pairs of scorer run and token. A claim renews those that it holds and
    takes none of them again: after an outage all leases are over, and nobody died. A lease of its own that it does
    not know is a claim whose answer was lost, and no loss either."""

    running: frozenset[tuple[str, int]] = frozenset()
    """Running, or ended and not written yet."""
    given_up: frozenset[tuple[str, int]] = frozenset()
    """Those that it does not renew any more, because they do not end: losses."""
    spare_others: bool = False
    """The database was away: leases of other workers are over too, and are left alone until these had time to renew
    them."""


@dataclass(frozen=True, slots=True)
class Claimed:
    """What a claim found."""

    jobs: Sequence[Job]
    alone: bool
    """There is work that wants a process to itself: claim it with `alone`."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where there is work: a scorer in a version ('': any), and a lane."""

    scorer_id: str
    version: str
    lane: Lane


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
        self.backlog = Backlog(export_backlog)
        self._known_due: list[_Place] = []
        self._due_until = 0.0

    async def register(self, scorers: Iterable[str] | Mapping[str, Sequence[str]]) -> None:
        """Says that this process has these scorers (in these versions): only what was registered can be claimed. See
        `holders` for what goes on saying so."""
        versions = scorers if isinstance(scorers, Mapping) else dict.fromkeys(scorers, ())
        await self._database.write(lambda connection: register(connection, self.worker, versions))

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
        # Of a request that is there already what was exported may be exported again, under the same name.
        self.backlog.add(connection, [(new.scorer_run_id, 0) for new in new_runs if new.state is State.FAILED])

    # Out of the queue

    async def claim(
        self,
        offers: Mapping[str, Offer],
        limit: int,
        *,
        alone: bool = False,
        max_bytes: float = math.inf,
        or_one: bool = False,
        held: Held | None = None,
    ) -> Claimed:
        """Takes up to `limit` rows that are due, of the scorers offered, registered and not paused, in a version that
        was registered: HIGH before NORMAL, those due longest first; and no more than have `max_bytes` of samples
        together, or (with `or_one`) one that has more. With `alone`: one row of the lane ALONE. Without `held` every
        lease that ran out is a loss."""
        due = await self._due(offers)
        waiting_alone = any(each.lane is Lane.ALONE for each in due)
        wanted = [each for each in due if (each.lane is Lane.ALONE) == alone]
        if not wanted or limit <= 0:
            return Claimed((), waiting_alone)

        def work(connection: Connection) -> list[Job]:
            room, spared = _Room(max_bytes, or_one), held is not None and held.spare_others
            candidates = self._candidates(connection, wanted, offers, 1 if alone else limit, room, spared=spared)
            mine, candidates = self._sort_out(candidates, held)
            if mine:
                renewed = {"ids": mine, "me": self.worker, "lease": self.lease_seconds}
                connection.execute(_EXTEND, renewed).all()
            return self._take(connection, candidates, offers, held) if candidates else []

        jobs = await self._database.write(work)
        if len(jobs) < limit:
            self.look_again()  # there was less than we knew of
        return Claimed(jobs, waiting_alone)

    def look_again(self) -> None:
        """Forgets what is known of the work that is due."""
        self._due_until = 0.0

    async def _due(self, offers: Mapping[str, Offer]) -> list[_Place]:
        """Which scorers have work that is due, in which versions and lanes: highest lane first, scorers in random
        order. What was found is believed for a moment, as long as there was enough of it."""
        if time.monotonic() >= self._due_until:
            values = {"scorer_ids": sorted(offers), "me": self.worker}
            lines = await self._database.look(lambda connection: connection.execute(_DUE, values).all())
            self._known_due = [
                _Place(line[0], line[1], lane)
                for line in lines
                for lane, there in zip(_LANES, line[2:], strict=True)
                if there
            ]
            self._due_until = time.monotonic() + _BELIEF_SECONDS if self._known_due else 0.0
        random.shuffle(self._known_due)
        return sorted((each for each in self._known_due if each.scorer_id in offers), key=lambda each: -each.lane)

    def _sort_out(self, candidates: Sequence[Any], held: Held | None) -> tuple[list[str], list[Any]]:
        """Those that this worker holds, and the others."""
        if held is None:
            return [], list(candidates)
        mine = {
            line.scorer_run_id
            for line in candidates
            if line.worker == self.worker and (line.scorer_run_id, line.claims) in held.running
        }
        return sorted(mine), [line for line in candidates if line.scorer_run_id not in mine]

    def _is_loss(self, line: Any, held: Held | None) -> bool:
        """Whether somebody may have died on it."""
        if line.state != State.RUNNING:
            return False
        if held is None or line.worker != self.worker:
            return True
        return (line.scorer_run_id, line.claims) in held.given_up

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
        used: Counter[str] = Counter()
        for index, each in enumerate(wanted):
            offer = offers[each.scorer_id]
            rest = limit - len(taken)
            fair = -(-rest // (len(wanted) - index))  # so that one scorer does not take all
            place = "" if offer.shared else each.scorer_id
            count = min(fair, rest, offer.slots - used[place])
            if count <= 0:
                continue
            gate = _Gate(connection, offer.rate)
            permits = gate.room(count)
            if permits <= 0:
                continue
            values = {"scorer_id": each.scorer_id, "version": each.version, "lane": int(each.lane), "count": permits}
            values["not_state"] = int(State.RUNNING) if spared else 0
            rows = connection.execute(_CANDIDATES, values).all()
            fitting = room.take([line.size or 0 for line in rows])
            gate.take(fitting)
            used[place] += fitting
            taken += rows[:fitting]
            if fitting < len(rows):
                break  # those that have waited longest are next, however large they are
        return taken

    def _take(
        self, connection: Connection, candidates: Sequence[Any], offers: Mapping[str, Offer], held: Held | None
    ) -> list[Job]:
        """Leases the candidates, except those that must not run (again, or beside others)."""
        revision, now = next_revision(connection)
        lost = [line for line in candidates if self._is_loss(line, held)]
        if lost:
            record_ends(connection, lost, now, _lease_ended)
            self.backlog.add(connection, [(line.scorer_run_id, line.claims) for line in lost])
        ended, apart, taken = [], [], []
        for line in candidates:
            died = self._is_loss(line, held)
            losses = line.losses + died
            # With a process of its own that died nothing else did.
            beside_others = died or not offers[line.scorer_id].shared
            if died and line.lane == Lane.ALONE and losses >= self._max_losses * _PATIENCE:
                message = f"its worker died {losses} times: the last one was {line.worker or 'unknown'}"
                ended.append((line, losses, Error("worker_lost", message)))
            elif line.deadline is not None and line.deadline < now:
                ended.append(
                    (line, losses, Error("deadline_exceeded", "its deadline passed before it could be scored"))
                )
            elif line.size is None:
                ended.append((line, losses, Error("sample_lost", "its sample is not kept any more")))
            elif losses and losses >= self._max_losses - 1 and beside_others and line.lane != Lane.ALONE:
                apart.append((line, losses))
            else:
                taken.append(line.scorer_run_id)
        if ended:
            rows = [_ended_row(line, losses, error, now, revision) for line, losses, error in ended]
            connection.execute(_END, rows)
            # Their failure is exported, also where no attempt was ever made.
            self.backlog.add(connection, [(line.scorer_run_id, line.claims) for line, _, _ in ended])
        if apart:
            rows = [
                {"id": line.scorer_run_id, "losses": losses, "revision": revision, "now": now} for line, losses in apart
            ]
            connection.execute(_SET_APART, rows)
        if not taken:
            return []
        values = {
            "ids": taken,
            "worker": self.worker,
            "now": now,
            "due": now + self.lease_seconds,
            "rev": revision,
            "lost": [line.scorer_run_id for line in lost],
        }
        claimed = (connection.execute(_TAKE, values)).all()
        by_id = {line.scorer_run_id: line for line in candidates}
        bodies = _large_bodies(connection, [by_id[key].sample_id for key in taken if by_id[key].body is None])
        return [_job(line, by_id[line.scorer_run_id], bodies) for line in claimed]

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
        refused = await self._database.write(lambda connection: self._finish(connection, finished))
        await self._learn(finished)
        return refused

    async def _learn(self, finished: Sequence[Finished]) -> None:
        """Tells the paces of judge models how their providers took what was asked. A lost word of it does no harm."""
        by_model: dict[str, list[Finished]] = {}
        for done in finished:
            if done.asked is not None:
                by_model.setdefault(done.asked.model, []).append(done)
        if not by_model:
            return
        try:
            await self._database.write(lambda connection: _learn(connection, by_model))
        except StoreUnavailable:
            pass

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
            history = [self._attempt_row(done, now) for done in ours if _is_history(done)]
            if history:
                insert_new(connection, attempts, history)
            tried = [done for done in ours if not done.waited or _is_history(done)]
            self.backlog.add(connection, [(done.job.scorer_run_id, done.job.token) for done in tried])
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
            "spent": done.spent,
            "exchanges": done.exchanges,
        }

    async def refused(self) -> int:
        """How many finishes were refused so far, by any worker."""
        count = select(counters.c.value).where(counters.c.name == schema.ZOMBIES)
        return int(await self._database.read(lambda connection: connection.execute(count).scalar_one()))


# Statements, built once: SQLAlchemy compiles each of them once for a database.

_LANES: Final = (Lane.HIGH, Lane.NORMAL, Lane.ALONE)


def _there_is(lane: Lane) -> Any:
    # The lane is written into the statement, not bound: a bound one would have three names.
    found = select(1).where(
        row.scorer_id == holders.c.scorer_id,
        row.wanted_version == holders.c.version,
        row.lane == literal(int(lane), Integer),
        row.due_time <= NOW,
    )
    return exists(found)


_DUE: Final = (
    select(holders.c.scorer_id, holders.c.version, *[_there_is(lane).label(lane.name) for lane in _LANES])
    .select_from(holders.join(scorers, scorers.c.scorer_id == holders.c.scorer_id))
    .where(
        holders.c.worker == bindparam("me"),
        among(holders.c.scorer_id, "scorer_ids"),
        scorers.c.paused.is_(False),
    )
    .where(or_(*[_there_is(lane) for lane in _LANES]))
)

_INLINE_BYTES: Final = 16_384
"""Samples up to this size are read with their rows, larger ones once it is known that there is room for them."""

_CANDIDATES: Final[Select[Any]] = (
    select(
        row.scorer_run_id,
        row.scorer_id,
        row.sample_id,
        row.state,
        row.lane,
        row.losses,
        row.claims,
        row.worker,
        row.start_time,
        row.deadline,
        row.steps,
        func.length(samples.c.body).label("size"),
        case((func.length(samples.c.body) <= _INLINE_BYTES, samples.c.body)).label("body"),
    )
    .select_from(scorer_runs.outerjoin(samples, samples.c.sample_id == row.sample_id))
    .where(
        row.scorer_id == bindparam("scorer_id"),
        row.wanted_version == bindparam("version"),
        row.state != bindparam("not_state", type_=SmallInteger),
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
        losses=row.losses + case((among(row.scorer_run_id, "lost"), 1), else_=0),
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
        row.losses,
        row.lane,
        row.waits,
        row.waiting_since,
        row.deadline,
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
        error_message="its worker died; from now on it is tried in a process of its own",
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
        "plus_waits": Integer(),
        "now": Double(),
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
            waits=row.waits + value("plus_waits"),
            waiting_since=case(
                (value("plus_waits") > 0, func.coalesce(row.waiting_since, value("now"))),
                (value("plus_failures") > 0, None),
                else_=row.waiting_since,
            ),
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
_UNLIMITED: Final = 1e9
_PATIENCE: Final = 3
"""How many times as many workers may die with a row that has a process of its own: they die of something else."""


def register(connection: Connection, worker: str, versions: Mapping[str, Sequence[str]]) -> None:
    """Says that a process has these versions of these scorers. Whoever has any has '' too: what asks for none."""
    if not versions:
        return
    now = database_time(connection)
    insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
    known, mine = insert(scorers), insert(holders)
    known = known.on_conflict_do_update(index_elements=["scorer_id"], set_={"seen_time": known.excluded.seen_time})
    mine = mine.on_conflict_do_update(
        index_elements=["worker", "scorer_id", "version"], set_={"seen_time": mine.excluded.seen_time}
    )
    connection.execute(known, [{"scorer_id": name, "paused": False, "seen_time": now} for name in sorted(versions)])
    pairs = sorted({(name, version) for name, listed in versions.items() for version in ["", *listed]})
    rows = [{"worker": worker, "scorer_id": name, "version": version, "seen_time": now} for name, version in pairs]
    connection.execute(mine, rows)


def _count(connection: Connection, name: str, number: int) -> None:
    connection.execute(update(counters).where(counters.c.name == name).values(value=counters.c.value + number))


class _Gate:
    """The rate of an offer, for one claim."""

    def __init__(self, connection: Connection, rate: Rate | None) -> None:
        self._connection = connection
        self._rate = rate
        if rate is not None:
            self._now, self._pace = _pace(connection, rate.name)
            if not rate.adaptive:
                self._pace = Pace(self._pace.next_time, per_second=_UNLIMITED)

    def room(self, count: int) -> int:
        """How many of so many attempts may be made now."""
        if self._rate is None:
            return count
        return min(count, self._pace.room(self._now, self._rate.per_second, self._rate.burst))

    def take(self, count: int) -> None:
        """Uses permits."""
        if self._rate is None or not count:
            return
        self._pace.take(self._now, count, self._rate.per_second)
        values = {"next_time": self._pace.next_time}
        if self._rate.adaptive:
            values["blocked_until"] = self._pace.blocked_until
        limited = update(rate_limits).where(rate_limits.c.name == self._rate.name)
        self._connection.execute(limited.values(**values))


def _pace(connection: Connection, name: str) -> tuple[float, Pace]:
    """The database's clock, and the pace of a model, locked until the transaction ends."""
    insert_new(connection, rate_limits, [{"name": name, "next_time": 0.0}])
    line = connection.execute(select(rate_limits, NOW).where(rate_limits.c.name == name).with_for_update()).one()
    first = FIRST_PER_SECOND if line.per_second is None else line.per_second
    return line[-1], Pace(line.next_time, first, line.cautious, line.cut_time, line.blocked_until, line.failures)


def _learn(connection: Connection, by_model: Mapping[str, Sequence[Finished]]) -> None:
    for model in sorted(by_model):
        now, pace = _pace(connection, model)
        for done in sorted(by_model[model], key=lambda done: done.job.start_time):
            asked, sent = done.asked, done.job.start_time
            assert asked is not None
            if asked.answered == "rate_limited":
                pace.refused(now, sent, asked.delay_seconds)
            elif asked.answered == "provider_unavailable":
                pace.failed(now, sent)
            else:
                pace.answered(now, sent)
        limited = update(rate_limits).where(rate_limits.c.name == model)
        connection.execute(limited.values(**asdict(pace)))


class _Room:
    """So many bytes of samples, for one claim."""

    def __init__(self, size_bytes: float, or_one: bool) -> None:
        self._free = size_bytes
        self._or_one = or_one

    def take(self, sizes: Sequence[int]) -> int:
        """How many of them fit, from the first on."""
        for count, size in enumerate(sizes):
            if size > self._free and not self._or_one:
                return count
            self._free -= size
            self._or_one = False
        return len(sizes)


def _large_bodies(connection: Connection, sample_ids: Sequence[str]) -> dict[str, bytes]:
    """Samples that were not read with their rows; scorers of one run share them."""
    if not sample_ids:
        return {}
    found = connection.execute(
        select(samples.c.sample_id, samples.c.body).where(samples.c.sample_id.in_(set(sample_ids)))
    )
    return {line.sample_id: line.body for line in found}


def _is_history(done: Finished) -> bool:
    """Whether an attempt is recorded by itself. The row is the record of the one that succeeded, unless that asked a
    judge; and waiting is no attempt, unless it cost something."""
    return done.spent is not None or (done.state is not State.SUCCEEDED and not done.waited)


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
        "plus_waits": int(done.waited),
        "now": now,
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
                "start_time": now if line.start_time is None else line.start_time,  # of a row that is damaged
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


def _job(line: Any, candidate: Any, bodies: Mapping[str, bytes]) -> Job:
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
        sample=bodies[candidate.sample_id] if candidate.body is None else candidate.body,
        losses=line.losses,
        alone=line.lane == Lane.ALONE,
        waits=line.waits,
        waiting_since=line.waiting_since,
        deadline=line.deadline,
    )
