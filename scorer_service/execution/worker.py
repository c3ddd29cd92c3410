"""Claims scorer runs, has them carried out, renews their leases and writes how they ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from runwire import metrics
from runwire.errors import Unavailable
from runwire.loop import Wakeup, repeat
from scorer_service.execution import telling
from scorer_service.execution.executor import Executor, Limits, handed_back
from scorer_service.queue.aside import Aside
from scorer_service.queue.jobs import Held, Jobs, Offer
from scorer_service.queue.rates import Rate
from scorer_service.registry import Registry
from scorer_service.results.faults import write_in_parts
from scorer_service.results.records import OPEN, Finished, Job
from scorer_service.scoring import Scorer

logger = logging.getLogger("scorer_service")

POLL_SECONDS: Final = 0.25
"""How long other processes' work may lie until it is seen."""
MAX_THREADS: Final = 32
"""Most runs at once of a scorer that is not async, unless it says otherwise."""
_GRACE_AFTER_TIMEOUT_SECONDS: Final = 30.0
_SILENT_SECONDS: Final = 1.0
"""From when on a scorers' loop that does not answer gets no more work."""
_BLOCKED_SECONDS: Final = 30.0
"""How long it must not have answered to be given up, once an attempt should have ended."""
MAX_ASTRAY: Final = 32
"""How many attempts that were ended and cannot be stopped may still run, until this process ends."""
MAX_SAMPLE_BYTES: Final = 128 * 1024 * 1024
"""Most bytes of samples that are held at once, unless it is a single one."""


_ASIDE_SECONDS: Final = 1.0
"""How often to look whether something that cannot be written is to be tried again."""


def _key(done: Finished) -> tuple[str, int]:
    return done.job.scorer_run_id, done.job.token


@dataclass(slots=True)
class _Held:
    """A job that this process holds."""

    job: Job
    give_up_at: float
    """Monotonic time after which its lease is not renewed: the attempt should be over, so the loop is stuck."""


class Worker:
    """One per process."""

    def __init__(
        self,
        jobs: Jobs,
        registry: Registry,
        limits: Limits,
        executor: Executor,
        claiming: Wakeup,
        *,
        concurrency: int,
        processes: int = 1,
        judge_rate: Rate | None = None,
        grace_seconds: float = 10.0,
        max_sample_bytes: int = MAX_SAMPLE_BYTES,
        on_stuck: Callable[[str], None] = lambda why: None,
    ) -> None:
        """Waking `claiming` says that there may be new work. `executor` is to tell this worker what becomes of it."""
        self._jobs = jobs
        self._registry = registry
        self._limits = limits
        self._executor = executor
        self._concurrency = concurrency
        self._processes = processes
        self._judge_rate = judge_rate
        self._grace_seconds = grace_seconds
        self._max_sample_bytes = max_sample_bytes
        self._sample_bytes = 0
        """Of all samples that are held."""
        self._is_used_up = False
        self._on_stuck = on_stuck
        """Called, with words, when scorers have used this process up: it has to end, and another to continue."""
        self._held: dict[str, _Held] = {}
        self._finished: list[Finished] = []
        self._unwritten: dict[tuple[str, int], Job] = {}
        """What has ended and is not known to be written: its lease is renewed until it is."""
        self._aside: Aside[tuple[str, int], Finished] = Aside()
        """Ends that cannot be written, nobody knows why."""
        self._given_up: set[tuple[str, int]] = set()
        self._renewed_at = time.monotonic()
        self._sparing_until = 0.0
        self._behind = False
        """The database was away: first what ended is written, then leases are renewed, then work is claimed."""
        self._steps: dict[Job, str] = {}
        self._hungry = False
        """There may be more than there was room for: claim as soon as there is room."""
        self._claiming, self._finishing, self._renewing = claiming, Wakeup(), Wakeup()
        self._emptied = asyncio.Event()
        self._emptied.set()

    async def run(self) -> None:
        """Works until `stop` was called and what runs is finished or handed back."""
        with metrics.SCORER_RUNNING.of(lambda: self.running):
            await self._run()

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(repeat("finishing", self.finish_once, self._finishing), name="finish")
            group.create_task(repeat("lease renewal", self.renew_once, self._renewing), name="renew")
            await repeat("claiming", self.claim_once, self._claiming)
            await self._drain()
            self._renewing.stop()
            self._finishing.stop()
        await self._finish_the_rest()

    def stop(self) -> None:
        """Claims no more."""
        self._claiming.stop()

    def resume(self) -> None:
        """The database is there again: ends the pauses after errors."""
        for wakeup in (self._finishing, self._renewing, self._claiming):
            wakeup.wake()

    @property
    def name(self) -> str:
        """Of this process, in the database and in the log."""
        return self._jobs.worker

    @property
    def running(self) -> int:
        """How many jobs this process holds."""
        return len(self._held)

    async def claim_once(self) -> float:
        """Claims what there is room for; returns how long to wait for more."""
        try:
            if self._behind or self._overdue():
                await self._catch_up()
            return await self._claim()
        except Unavailable:
            self._behind = True
            raise

    def _overdue(self) -> bool:
        """Whether leases may be over, as nothing could renew them: this process stood still, or the database did."""
        return time.monotonic() - self._renewed_at > self._jobs.lease_seconds * 2 / 3 and bool(self._leases())

    async def _catch_up(self) -> None:
        """Finishes, then renews: what a claim would find otherwise is this worker's own work."""
        while self._finished:
            await self.finish_once()
        await self.renew_once()
        self._behind = False
        self._sparing_until = time.monotonic() + self._jobs.lease_seconds / 2

    def _leases(self) -> list[Job]:
        return [*(held.job for held in self._held.values()), *self._unwritten.values()]

    def _known(self) -> Held:
        running = frozenset((job.scorer_run_id, job.token) for job in self._leases())
        return Held(running, frozenset(self._given_up), time.monotonic() < self._sparing_until)

    async def _claim(self) -> float:
        limit = self._concurrency - len(self._held)
        room = self._max_sample_bytes - self._sample_bytes
        if limit <= 0 or room <= 0 or len(self._unwritten) > 2 * self._concurrency or self._blocked():
            self._hungry = True
            return POLL_SECONDS
        offers, full = self._offers()
        # A sample that is larger than all the room may be held by itself.
        claimed = await self._jobs.claim(offers, limit, max_bytes=room, or_one=not self._held, held=self._known())
        self._take(claimed.jobs)
        alone = await self._claim_alone() if claimed.alone else ()
        # There may be more, if all places were taken, or those of some scorer.
        self._hungry = len(claimed.jobs) >= limit or full
        return 0.0 if claimed.jobs or alone else POLL_SECONDS

    async def _claim_alone(self) -> Sequence[Job]:
        """What killed its workers, or ran beside what did, gets a process of its own, one at a time: so it can harm no
        other, nor be harmed, and nothing waits for it."""
        if any(held.job.alone for held in self._held.values()):
            return ()
        offers = {scorer.id: Offer(1, self._rate(scorer), shared=scorer.process) for scorer in self._registry}
        claimed = await self._jobs.claim(offers, 1, alone=True, held=self._known())
        self._take(claimed.jobs)
        return claimed.jobs

    def _blocked(self) -> bool:
        """Whether a scorer keeps the others from running: what was claimed now would only be lost with it."""
        return self._executor.silent_seconds() >= _SILENT_SECONDS

    def _offers(self) -> tuple[dict[str, Offer], bool]:
        """What there is room for, and whether some scorer has as much as it may."""
        held = Counter(one.job.scorer_id for one in self._held.values() if not one.job.alone)
        astray = self._executor.astray()
        processes = self._processes - sum(held[scorer.id] for scorer in self._registry if scorer.process)
        offers, full = {}, False
        for scorer in self._registry:
            # What cannot be stopped has the place of what could run; but one place is left.
            slots = max(1, (scorer.concurrency or self._default_slots(scorer)) - astray[scorer.id]) - held[scorer.id]
            if scorer.process:  # no job is to wait for a process while its time runs
                slots = min(slots, processes)
            if slots > 0:
                offers[scorer.id] = Offer(slots, self._rate(scorer), shared=scorer.process)
            full = full or slots <= 0
        return offers, full

    def _rate(self, scorer: Scorer) -> Rate | None:
        return self._judge_rate if scorer.judge else None

    def _default_slots(self, scorer: Scorer) -> int:
        return min(self._concurrency, MAX_THREADS) if scorer.threaded else self._concurrency

    def _take(self, jobs: Sequence[Job]) -> None:
        if not jobs:
            return
        for job in jobs:
            limit = self._executor.timeout_of(job) + _GRACE_AFTER_TIMEOUT_SECONDS
            self._held[job.scorer_run_id] = _Held(job, time.monotonic() + limit)
            self._sample_bytes += len(job.sample)
        self._emptied.clear()
        self._executor.submit(jobs)

    # Called by the executor, on the service's loop

    def deliver(self, finished: Sequence[Finished]) -> None:
        """Takes the ends of attempts."""
        for done in finished:
            held = self._held.get(done.job.scorer_run_id)
            if held is not None and held.job.token == done.job.token:
                self._release(done.job)
                self._unwritten[_key(done)] = done.job
            self._given_up.discard(_key(done))
            self._steps.pop(done.job, None)
        self._finished += finished
        self._finishing.wake()
        free = self._concurrency - len(self._held)
        # Not for each place that becomes free: a claim costs nearly the same for one row as for many.
        if (self._hungry and free * 4 >= self._concurrency) or not self._held:
            self._claiming.wake()
        if not self._held:
            self._emptied.set()

    def _release(self, job: Job) -> None:
        del self._held[job.scorer_run_id]
        self._sample_bytes -= len(job.sample)

    def on_step(self, job: Job, steps: str) -> None:
        """Takes the results of steps, in case this process dies."""
        held = self._held.get(job.scorer_run_id)
        if held is not None and held.job.token == job.token:
            self._steps[job] = steps
            self._finishing.wake()

    # Writing

    async def finish_once(self) -> float:
        """Writes all that gathered since the last time, in one transaction."""
        steps, self._steps = self._steps, {}
        if steps:
            try:
                await self._jobs.keep_steps(steps)
            except Unavailable:
                self._steps = steps | self._steps
                raise
        self._finished += self._aside.take_due()
        if not self._finished:
            return _ASIDE_SECONDS if self._aside else 60.0
        batch, self._finished = self._finished[: 2 * self._concurrency], self._finished[2 * self._concurrency :]
        try:
            await self._write(batch)
        except Unavailable:
            self._finished = batch + self._finished
            self._behind = True
            raise
        soon = [done.delay_seconds for done in batch if done.state in OPEN and done.delay_seconds < 1.0]
        if soon:
            asyncio.get_running_loop().call_later(min(soon), self._claiming.wake)  # rather than at the next poll
        return 0.0

    async def _write(self, batch: Sequence[Finished]) -> None:
        """Writes ends. What cannot be written, nobody knows why, is kept and tried again: a score is never replaced by
        a failure because of what a database said."""
        refused: list[Finished] = []

        async def write(part: Sequence[Finished]) -> None:
            refused.extend(await self._jobs.finish(part))

        stuck = await write_in_parts(batch, write)
        for done in refused:
            logger.warning("refused: %s was claimed by another worker, redriven or cancelled", done.job.scorer_run_id)
        for done, error in stuck:
            pause = self._aside.put(_key(done), done)
            logger.error(
                "the end of %s cannot be written: %s: %s; it is kept and tried again in %.0f s",
                *(done.job.scorer_run_id, type(error).__name__, error, pause),
            )
        kept = {_key(done) for done, _ in stuck}
        unwritten = kept.union(map(_key, refused))
        telling.written((done for done in batch if _key(done) not in unwritten), self._jobs.worker)
        metrics.SCORER_REFUSED.add(len(refused))
        for done in batch:
            if _key(done) not in kept:
                self._aside.drop(_key(done))
                self._unwritten.pop(_key(done), None)

    async def renew_once(self) -> float:
        """Renews the leases of all that runs, and stops what was lost."""
        now = time.monotonic()
        overdue = [held.job for held in self._held.values() if held.give_up_at < now]
        if overdue and self._executor.silent_seconds() >= _BLOCKED_SECONDS:
            # Not renewed, nor handed back: one of them has blocked the loop, and the end of its lease is its loss.
            for job in overdue:
                logger.error("%s does not end: scorer %s blocks its loop?", job.scorer_run_id, job.scorer_id)
                self._release(job)
                self._given_up.add((job.scorer_run_id, job.token))
            self.end_process("a scorer blocked the event loop of the scorers for good")
            return self._jobs.lease_seconds / 3
        self._count_astray()
        lost_ids = await self._jobs.extend(self._leases())
        self._renewed_at = now
        lost = [held.job for held in self._held.values() if held.job.scorer_run_id in lost_ids]
        # What finished meanwhile is not lost: its row is no longer RUNNING.
        lost = [job for job in lost if (held := self._held.get(job.scorer_run_id)) and held.job.token == job.token]
        metrics.SCORER_LEASES_LOST.add(len(lost))
        for job in lost:
            logger.warning("lost %s: claimed by another worker, redriven or cancelled", job.scorer_run_id)
        self._executor.cancel(lost)
        if not self._held:
            self._emptied.set()
        return self._jobs.lease_seconds / 3

    def _count_astray(self) -> None:
        astray = self._executor.astray()
        if (count := astray.total()) >= MAX_ASTRAY:
            worst = ", ".join(f"{scorer_id} ({number})" for scorer_id, number in astray.most_common(5))
            self.end_process(f"{count} attempts of scorers do not end: {worst}")

    # Ending

    def end_process(self, why: str) -> None:
        """Says, once, that scorers have used this process up."""
        if not self._is_used_up:
            self._is_used_up = True
            logger.critical("%s; this process ends, another one has to continue", why)
            self._on_stuck(why)

    async def _drain(self) -> None:
        """Lets what runs finish within the grace, then hands the rest back."""
        try:
            async with asyncio.timeout(self._grace_seconds):
                await self._emptied.wait()
        except TimeoutError:
            logger.info("handing back %d scorer runs", len(self._held))
            self._executor.cancel([held.job for held in self._held.values()])
            try:
                async with asyncio.timeout(2.0):
                    await self._emptied.wait()
            except TimeoutError:
                # Stuck in a thread or a blocked loop: the rows are free for others all the same.
                self.deliver([handed_back(held.job, held.job.steps) for held in list(self._held.values())])

    async def _finish_the_rest(self) -> None:
        """What cannot be written now is done again when its lease ends."""
        try:
            async with asyncio.timeout(5.0):
                while self._finished:
                    await self.finish_once()
        except (TimeoutError, Unavailable):
            logger.warning("%d results could not be written; they will be found again", len(self._finished))
