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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    select,
    update,
)
from sqlalchemy.engine import Connection

from runwire.errors import StoreUnavailable
from scorer_service.queue import budgets, rows, statements
from scorer_service.queue.backlog import Backlog
from scorer_service.queue.holders import register
from scorer_service.queue.rates import Permits, Rate, learn
from scorer_service.results import schema
from scorer_service.results.batches import insert_new
from scorer_service.results.database import Database
from scorer_service.results.records import Error, Finished, Job, NewRun, State
from scorer_service.results.revisions import next_revision
from scorer_service.results.schema import (
    Lane,
    attempts,
    counters,
    samples,
    scorer_runs,
)


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
        `holders` for what keeps saying so."""
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
        insert_new(connection, samples, [rows.sample_row(key, by_sample[key], now) for key in sorted(by_sample)])
        in_order = sorted(new_runs, key=lambda new: new.scorer_run_id)
        insert_new(connection, scorer_runs, [rows.new_row(new, now, revision) for new in in_order])
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
                connection.execute(statements.EXTEND, renewed).all()
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
            found = await self._database.look(lambda connection: connection.execute(statements.DUE, values).all())
            self._known_due = [
                _Place(row[0], row[1], lane)
                for row in found
                for lane, there in zip(statements.LANES, row[2:], strict=True)
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
            row.scorer_run_id
            for row in candidates
            if row.worker == self.worker and (row.scorer_run_id, row.claims) in held.running
        }
        return sorted(mine), [row for row in candidates if row.scorer_run_id not in mine]

    def _is_loss(self, row: Any, held: Held | None) -> bool:
        """Whether somebody may have died on it."""
        if row.state != State.RUNNING:
            return False
        if held is None or row.worker != self.worker:
            return True
        return (row.scorer_run_id, row.claims) in held.given_up

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
            gate = Permits(connection, offer.rate)
            permits = gate.room(count)
            if permits <= 0:
                continue
            values = {"scorer_id": each.scorer_id, "version": each.version, "lane": int(each.lane), "count": permits}
            values["not_state"] = int(State.RUNNING) if spared else 0
            found = connection.execute(statements.CANDIDATES, values).all()
            fitting = room.take([row.size or 0 for row in found])
            gate.take(fitting)
            used[place] += fitting
            taken += found[:fitting]
            if fitting < len(found):
                break  # those that have waited longest are next, however large they are
        return taken

    def _take(
        self, connection: Connection, candidates: Sequence[Any], offers: Mapping[str, Offer], held: Held | None
    ) -> list[Job]:
        """Leases the candidates, except those that must not run (again, or beside others)."""
        revision, now = next_revision(connection)
        candidates = budgets.decline(connection, candidates, now, revision)
        lost = [row for row in candidates if self._is_loss(row, held)]
        if lost:
            rows.record_ends(connection, lost, now, rows.lease_ended)
            self.backlog.add(connection, [(row.scorer_run_id, row.claims) for row in lost])
        lost_ids = {row.scorer_run_id for row in lost}
        ended, set_apart, taken = [], [], []
        for row in candidates:
            died = row.scorer_run_id in lost_ids
            losses = row.losses + died
            error = self._end_of(row, losses, now, died=died)
            if error is not None:
                ended.append((row, losses, error))
            elif self._wants_process(row, losses, beside_others=died or not offers[row.scorer_id].shared):
                set_apart.append({"id": row.scorer_run_id, "losses": losses, "revision": revision, "now": now})
            else:
                taken.append(row)
        if ended:
            connection.execute(statements.END, [rows.ended_row(*end, now, revision) for end in ended])
            # Their failure is exported, also where no attempt was ever made.
            self.backlog.add(connection, [(row.scorer_run_id, row.claims) for row, _, _ in ended])
        if set_apart:
            connection.execute(statements.SET_APART, set_apart)
        return self._lease(connection, taken, lost, now, revision) if taken else []

    def _end_of(self, row: Any, losses: int, now: float, *, died: bool) -> Error | None:
        """Why a row must not be tried any more; None: it may be."""
        if died and row.lane == Lane.ALONE and losses >= self._max_losses * _PATIENCE:
            message = f"its worker died {losses} times: the last one was {row.worker or 'unknown'}"
            return Error("worker_lost", message)
        if row.deadline is not None and row.deadline < now:
            return Error("deadline_exceeded", "its deadline passed before it could be scored")
        if row.size is None:
            return Error("sample_lost", "its sample is not kept any more")
        return None

    def _wants_process(self, row: Any, losses: int, *, beside_others: bool) -> bool:
        """Whether a row is to be tried alone from now on. With a process of its own that died nothing else did."""
        return bool(losses) and losses >= self._max_losses - 1 and beside_others and row.lane != Lane.ALONE

    def _lease(
        self, connection: Connection, taken: Sequence[Any], lost: Sequence[Any], now: float, revision: int
    ) -> list[Job]:
        values = {
            "ids": [row.scorer_run_id for row in taken],
            "worker": self.worker,
            "now": now,
            "due": now + self.lease_seconds,
            "rev": revision,
            "lost": [row.scorer_run_id for row in lost],
        }
        claimed = connection.execute(statements.TAKE, values).all()
        bodies = _large_bodies(connection, [row.sample_id for row in taken if row.body is None])
        by_id = {row.scorer_run_id: row for row in taken}
        found = ((row, by_id[row.scorer_run_id]) for row in claimed)
        return [rows.job_of(row, bodies[one.sample_id] if one.body is None else one.body) for row, one in found]

    async def extend(self, jobs: Sequence[Job]) -> set[str]:
        """Renews leases; returns the ids of those that are lost: claimed by another worker, or cancelled."""
        if not jobs:
            return set()
        values = {"ids": [job.scorer_run_id for job in jobs], "me": self.worker, "lease": self.lease_seconds}
        renewed = await self._database.write(lambda connection: connection.execute(statements.EXTEND, values).all())
        held = {row.scorer_run_id: row.claims for row in renewed}
        return {job.scorer_run_id for job in jobs if held.get(job.scorer_run_id) != job.token}

    async def keep_steps(self, steps: Mapping[Job, str]) -> None:
        """Keeps the results of completed steps, in case this worker dies."""
        in_order = sorted(steps.items(), key=lambda item: item[0].scorer_run_id)
        kept = [{"id": job.scorer_run_id, "token": job.token, "to_steps": text} for job, text in in_order]
        await self._database.write(lambda connection: statements.KEEP_STEPS.run(connection, kept))

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
            await self._database.write(lambda connection: learn(connection, by_model))
        except StoreUnavailable:
            pass

    def _finish(self, connection: Connection, finished: Sequence[Finished]) -> list[Finished]:
        # A row may be there twice: lost and claimed again by this very worker.
        by_key = {(done.job.scorer_run_id, done.job.token): done for done in finished}
        ids = sorted({key for key, _ in by_key})
        owners = {
            (row.scorer_run_id, row.claims): row.state for row in connection.execute(statements.OWNERS, {"ids": ids})
        }
        refused = [done for key, done in by_key.items() if key not in owners]
        if refused:
            count_refused(connection, len(refused))
        ours = [by_key[key] for key in owners if owners[key] == State.RUNNING and key in by_key]
        if ours:
            revision, now = next_revision(connection)
            statements.FINISH.run(connection, [rows.finished_row(done, now, revision) for done in ours])
            history = [rows.attempt_row(done, self.worker, now) for done in ours if rows.is_history(done)]
            if history:
                insert_new(connection, attempts, history)
            tried = [done for done in ours if not done.waited or rows.is_history(done)]
            self.backlog.add(connection, [(done.job.scorer_run_id, done.job.token) for done in tried])
            budgets.spend(connection, ours)
        return refused

    async def refused(self) -> int:
        """How many finishes were refused so far, by any worker."""
        count = select(counters.c.value).where(counters.c.name == schema.ZOMBIES)
        return int(await self._database.read(lambda connection: connection.execute(count).scalar_one()))


_BELIEF_SECONDS: Final = 0.2
_PATIENCE: Final = 3
"""How many times as many workers may die with a row that has a process of its own: they die of something else."""


def count_refused(connection: Connection, number: int) -> None:
    """Counts reports of attempts that came too late."""
    refused = update(counters).where(counters.c.name == schema.ZOMBIES)
    connection.execute(refused.values(value=counters.c.value + number))


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
    return {row.sample_id: row.body for row in found}
