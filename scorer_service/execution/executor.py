"""Carries out scorers, on an event loop and threads of their own.

A scorer that blocks its event loop, or works the CPU hard, so stalls neither the leases of this process nor its
answers to clients: those live on the service's loop, and the scorers on another one in another thread, which continues
whatever they do to it (see `guard`). Functions that are not async get a thread each (see `threads`); those with
`process=True`, and what is to run alone, a process (see `processes`).

Each attempt ends when its time is over, whatever its scorer does. What cannot be stopped is left behind and counted:
`astray` tells how much of it there is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from runwire.errors import Unavailable
from runwire.scorer.v1 import scorer_run_requested_pb2 as wire
from scorer_service.execution import telling
from scorer_service.execution.guard import GuardedLoop
from scorer_service.execution.outcomes import class_name, delay_of, reason_of, record_of, steps_text, words
from scorer_service.execution.pauses import in_time, pause_until, waited_seconds
from scorer_service.execution.processes import Place, Processes, ProcessLost
from scorer_service.execution.room import Room
from scorer_service.execution.threads import SCORER, Threads
from scorer_service.meter import METER, Meter
from scorer_service.registry import Registry
from scorer_service.results.records import Error, Finished, Job, State, kept_steps
from scorer_service.samples import from_wire
from scorer_service.scoring import (
    Judge,
    NonRetriableError,
    NotScorable,
    ProviderUnavailable,
    RetryPolicy,
    Score,
    Scorer,
    evaluate,
)

logger = logging.getLogger("scorer_service")

_STORE_DELAY_SECONDS: Final = 30.0
"""Longest pause until the store is asked again for a sample."""
_HEED_SECONDS: Final = 2.0
"""How long a scorer that is stopped may take to end; then it is left behind."""
_LARGE_BYTES: Final = 16_384
"""Samples from here on are unpacked in threads, and so are code scorers of them carried out."""
_COPIES: Final = 4
"""About how many times a fetched sample is in memory while it is put together and scored."""

Fetch = Callable[[Job], Awaitable[bytes]]
"""Fetches a sample that was left out of its message."""


class Listener(Protocol):
    """Who gave the jobs. Called on the service's loop."""

    def deliver(self, finished: Sequence[Finished]) -> None:
        """Takes the ends of attempts."""

    def on_step(self, job: Job, steps: str) -> None:
        """Takes the results of steps, in case this process dies."""

    def end_process(self, why: str) -> None:
        """Nothing can be scored here any more."""


@dataclass(frozen=True)
class Limits:
    """What applies where a scorer does not say otherwise."""

    timeout_seconds: float
    retry: RetryPolicy
    concurrency: int
    max_losses: int = 3
    max_fetched_bytes: int = 16 * 1024 * 1024
    """Of one sample that is fetched."""
    fetched_bytes: int = 128 * 1024 * 1024
    """Of all samples that were fetched, with their copies."""
    keep_content: bool = False
    """Whether prompts and answers of judges are kept."""


_NO_METER: Final = Meter()
"""Of scorers that ask nobody."""


class _Attempt:
    """An attempt on its way."""

    def __init__(self, job: Job, scorer: Scorer | None, steps: dict[str, Any], meter: Meter) -> None:
        self.job = job
        self.scorer = scorer
        self.steps = steps
        self.meter = meter
        self.task: asyncio.Task[None]
        self.timer: asyncio.TimerHandle | None = None
        self.stop = ""
        """Why it was stopped: `cancelled` or `timeout`."""
        self.done = False
        self.fetching = False
        self.due = self.stalled = self.granted = 0.0

    @property
    def version(self) -> str:
        return self.scorer.version if self.scorer else ""


class Executor:
    """Runs jobs and delivers how each ended. Started by `start_executor`; its methods belong to the service's loop."""

    def __init__(
        self,
        registry: Registry,
        limits: Limits,
        judge: Judge | None,
        processes: Callable[[], Processes],
        fetch: Fetch,
        worker: str = "",
    ) -> None:
        """`worker` names this process in the log."""
        self._worker = worker
        self._registry = registry
        self._limits = limits
        self._judge = judge
        self._make_processes = processes
        self._fetch = fetch
        self._listener: Listener
        self._home = asyncio.get_running_loop()
        self._threads = Threads(limits.concurrency)
        self._guard = GuardedLoop("scorers", self._threads, self._died)
        self._loop = self._guard.loop
        self._finished: deque[Finished] = deque()
        self._attempts: dict[tuple[str, int], _Attempt] = {}
        self._astray: Counter[str] = Counter()
        self._processes: Processes
        self._room: Room
        self._closing = False
        self._closed: asyncio.Task[None]
        self._asked_time: float | None = None

    # Called on the service's loop

    def submit(self, jobs: Sequence[Job]) -> None:
        """Starts jobs. Each is delivered once, finished; one that is cancelled comes back PENDING."""
        if not self._guard.call(self._start, jobs):
            self._listener.deliver([_lost(job, job.steps) for job in jobs])

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Stops jobs, as far as they can be stopped: a thread cannot."""
        self._guard.call(self._cancel, [(job.scorer_run_id, job.token) for job in jobs])

    def silent_seconds(self) -> float:
        """For how long the scorers' loop has not answered, because some scorer blocks it; it is asked by this."""
        asked_time, now = self._asked_time, time.monotonic()
        if asked_time is not None:
            return now - asked_time
        self._asked_time = now
        if not self._guard.call(self._answer):
            self._asked_time = -math.inf
        return 0.0

    def timeout_of(self, job: Job) -> float:
        """The most seconds that an attempt may take."""
        scorer = self._registry.find(job.scorer_id, job.wanted_version)
        return (scorer and scorer.timeout_seconds) or self._limits.timeout_seconds

    def astray(self) -> Counter[str]:
        """How many attempts still run although they were ended, by scorer: threads that cannot be stopped, and
        functions that heed no cancellation."""
        return self._threads.astray() + self._astray

    def _collect(self) -> None:
        finished: list[Finished] = []
        while self._finished:
            finished.append(self._finished.popleft())
        if finished:
            self._listener.deliver(finished)

    def _say_dead(self, why: str) -> None:
        """What was on its way is lost, as with a process that dies: what did it must not get a try for nothing."""
        left = [one for one in self._attempts.values() if not one.done]
        for attempt in left:
            attempt.done = True
        self._collect()
        self._listener.deliver([_lost(attempt.job, steps_text(attempt.version, attempt.steps)) for attempt in left])
        self._listener.end_process(why)

    # Called on the scorers' loop, or in its thread

    def start(self, listener: Listener, ready: Callable[[], object]) -> None:
        self._listener = listener
        self._guard.start()
        self._guard.call(self._open, ready)

    def _open(self, ready: Callable[[], object]) -> None:
        self._processes = self._make_processes()
        self._room = Room(self._limits.fetched_bytes)
        ready()

    def close(self) -> None:
        """Stops all that runs, and then the loop."""
        self._guard.call(self._close)

    def wait_for_end(self, seconds: float) -> bool:
        """Whether the loop ends within this long. Blocks."""
        return self._guard.ended.wait(seconds)

    def _died(self, why: str) -> None:
        self._at_home(self._say_dead, why)

    def _at_home(self, function: Callable[..., object], *arguments: Any) -> None:
        try:
            self._home.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            pass  # the service is gone already

    def _answer(self) -> None:
        self._asked_time = None

    def _start(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            try:
                self._begin(job)
            except Exception as error:
                logger.exception("%s could not be started", job.scorer_run_id)
                failure = Error("scorer_error", "it could not be started", class_name(error))
                self._finish(Finished(job, State.RETRYING, error=failure, failed=True, delay_seconds=1.0))

    def _begin(self, job: Job) -> None:
        scorer = self._registry.find(job.scorer_id, job.wanted_version)
        steps = kept_steps(job.steps, scorer.version if scorer else "")
        asks = scorer is not None and scorer.judge
        attempt = _Attempt(job, scorer, steps, Meter(with_content=self._limits.keep_content) if asks else _NO_METER)
        attempt.task = self._loop.create_task(self._run(attempt), name=f"score {job.scorer_run_id}")
        # So that a scorer that cancels all tasks there are does not find those of others.
        asyncio.tasks._unregister_task(attempt.task)
        self._attempts[job.scorer_run_id, job.token] = attempt
        attempt.task.add_done_callback(lambda _: self._forget(attempt))

    def _forget(self, attempt: _Attempt) -> None:
        job = attempt.job
        self._attempts.pop((job.scorer_run_id, job.token), None)
        if not attempt.done:  # it was cancelled before it had begun
            error = asyncio.CancelledError() if attempt.task.cancelled() else attempt.task.exception()
            self._end(attempt, self._ending(attempt, error or asyncio.CancelledError()))
        elif attempt.stop == "astray":
            self._astray[job.scorer_id] -= 1

    def _arm(self, attempt: _Attempt) -> None:
        """From now on its time runs."""
        attempt.due = self._loop.time() + self.timeout_of(attempt.job)
        attempt.stalled = self._guard.stalled_seconds
        attempt.timer = self._loop.call_at(attempt.due, self._overdue, attempt)

    def _overdue(self, attempt: _Attempt) -> None:
        # What another scorer took of its time by blocking the loop is given back.
        stolen = self._guard.stalled_seconds - attempt.stalled - attempt.granted
        if stolen > 0.05 and not attempt.done:
            attempt.granted += stolen
            attempt.timer = self._loop.call_later(stolen, self._overdue, attempt)
        else:
            self._stop(attempt, "timeout")

    def _stop(self, attempt: _Attempt, why: str) -> None:
        if attempt.done or attempt.stop:
            return
        attempt.stop = why
        if attempt.timer is not None:
            attempt.timer.cancel()
        attempt.timer = self._loop.call_later(_HEED_SECONDS, self._abandon, attempt)
        attempt.task.cancel()

    def _abandon(self, attempt: _Attempt) -> None:
        """Ends an attempt whose scorer heeds no cancellation."""
        if not attempt.done:
            finished = self._ending(attempt, asyncio.CancelledError())
            attempt.stop = "astray"
            self._astray[attempt.job.scorer_id] += 1
            self._end(attempt, finished)

    def _cancel(self, keys: Sequence[tuple[str, int]]) -> None:
        for key in keys:
            if attempt := self._attempts.get(key):
                self._stop(attempt, "cancelled")

    def _close(self) -> None:
        if not self._closing:
            self._closing = True
            self._cancel(list(self._attempts))
            self._closed = self._loop.create_task(self._end_all())
            asyncio.tasks._unregister_task(self._closed)

    async def _end_all(self) -> None:
        try:
            if tasks := [attempt.task for attempt in self._attempts.values()]:
                await asyncio.wait(tasks, timeout=_HEED_SECONDS)
            await self._processes.close()
        finally:
            self._guard.stop()

    def _end(self, attempt: _Attempt, finished: Finished) -> None:
        """Delivers how an attempt ended, once."""
        if attempt.done:
            return
        attempt.done = True
        if attempt.timer is not None:
            attempt.timer.cancel()
        self._finish(finished)

    def _finish(self, finished: Finished) -> None:
        first = not self._finished
        self._finished.append(finished)
        if first:
            self._at_home(self._collect)

    async def _run(self, attempt: _Attempt) -> None:
        SCORER.set(attempt.job.scorer_id)
        if attempt.meter is not _NO_METER:
            METER.set(attempt.meter)
        with telling.about(attempt.job, self._worker):
            try:
                finished = await self._score(attempt)
            except BaseException as error:  # a scorer may raise anything: SystemExit, a cancellation not ours
                finished = self._ending(attempt, error)
        self._end(attempt, finished)

    async def _score(self, attempt: _Attempt) -> Finished:
        job, scorer = attempt.job, attempt.scorer
        if scorer is None:
            problem = self._registry.problem(job.scorer_id, job.wanted_version)
            return Finished(job, State.FAILED, error=Error("scorer_unknown", problem), steps=job.steps)
        if scorer.judge and self._judge is None:
            raise NonRetriableError(
                "this scorer asks a language model, and the service has none: set --judge-model",
                reason="judge_not_configured",
            )
        message = wire.Sample.FromString(job.sample)
        if message.by_reference:
            async with self._fetched(attempt) as fetched:
                score = await self._evaluate(attempt, scorer, fetched)
        else:
            score = await self._evaluate(attempt, scorer, message)
        meter = attempt.meter
        return Finished(
            job,
            State.SUCCEEDED,
            scorer.version,
            record_of(score, scorer),
            steps=steps_text(scorer.version, attempt.steps),
            spent=meter.text(),
            exchanges=meter.content(),
            asked=meter.asked(),
        )

    @asynccontextmanager
    async def _fetched(self, attempt: _Attempt) -> AsyncIterator[wire.Sample]:
        """A sample that has to be fetched; it waits for room in memory before its time begins to run."""
        async with self._room.hold(self._limits.max_fetched_bytes * _COPIES) as held:
            self._arm(attempt)
            attempt.fetching = True
            body = await self._fetch_elsewhere(attempt.job)
            attempt.fetching = False
            held.shrink(len(body) * _COPIES)
            yield await asyncio.to_thread(wire.Sample.FromString, body)

    async def _fetch_elsewhere(self, job: Job) -> bytes:
        async def fetch() -> bytes:
            return await self._fetch(job)

        try:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(fetch(), self._home))
        except Unavailable as error:
            raise _StoreAway(str(error)) from error

    async def _evaluate(self, attempt: _Attempt, scorer: Scorer, message: wire.Sample) -> Score:
        job, done, options = attempt.job, dict(attempt.steps), _object(attempt.job.options)

        def on_step(name: str, result: Any) -> None:
            attempt.steps[name] = result
            self._at_home(self._listener.on_step, job, steps_text(scorer.version, attempt.steps))

        if scorer.process or job.alone:
            async with self._processes.place(scorer) as place:
                return await self._evaluate_in(place, attempt, message, options, done, on_step)
        if attempt.timer is None:
            self._arm(attempt)
        if message.ByteSize() + len(job.options) <= _LARGE_BYTES:  # most are small: a thread would cost more
            sample = from_wire(message)
        else:
            sample = await asyncio.to_thread(from_wire, message)
            if scorer.is_code:
                work = evaluate(scorer, sample, options, done=done)
                return await asyncio.to_thread(asyncio.run, work)
        return await evaluate(scorer, sample, options, judge=self._judge, done=done, on_step=on_step)

    async def _evaluate_in(
        self,
        place: Place,
        attempt: _Attempt,
        message: wire.Sample,
        options: dict[str, Any],
        done: dict[str, Any],
        on_step: Callable[[str, Any], None],
    ) -> Score:
        if attempt.timer is None:
            self._arm(attempt)
        return await place.score(message.SerializeToString(), options, done, on_step, attempt.meter)

    # How attempts end

    def _ending(self, attempt: _Attempt, error: BaseException) -> Finished:
        """How an attempt ended that raised this. It raises nothing, whatever the exception is."""
        job, version = attempt.job, attempt.version
        try:
            kept = steps_text(version, attempt.steps)
            if attempt.stop == "cancelled":
                return handed_back(job, kept)
            if attempt.stop == "timeout" and isinstance(error, asyncio.CancelledError):
                error = self._out_of_time(attempt)
            return self._failed(attempt, error, kept)
        except BaseException:
            logger.exception("how %s ended cannot be told", job.scorer_run_id)
            failure = Error("scorer_error", "what it raised cannot be told")
            return Finished(job, State.FAILED, version, error=failure, failed=True)

    def _out_of_time(self, attempt: _Attempt) -> Exception:
        seconds = self.timeout_of(attempt.job)
        if attempt.fetching:
            return _StoreAway(f"the sample could not be fetched within {seconds:g} s")
        if attempt.meter.hangs:
            return ProviderUnavailable(f"{attempt.meter.model} did not answer within {seconds:g} s")
        return AttemptTimeout(f"the attempt took longer than {seconds:g} s")

    def _failed(self, attempt: _Attempt, error: BaseException, kept: str) -> Finished:
        job, version, meter = attempt.job, attempt.version, attempt.meter
        name, message = class_name(error), words(error)
        policy = (attempt.scorer and attempt.scorer.retry) or self._limits.retry

        def ended(state: State, reason: str, **how: Any) -> Finished:
            failure = Error(reason, message, name)
            # Waiting is no attempt, and recorded only where it cost something.
            spent = meter.text() if meter.is_paid or not how.get("waited") else None
            said = meter.content() if spent else None
            return Finished(
                job, state, version, error=failure, steps=kept, spent=spent, exchanges=said, asked=meter.asked(), **how
            )

        if isinstance(error, NotScorable):
            return ended(State.NOT_SCORABLE, "not_scorable")
        if isinstance(error, ProcessLost):
            # It was alone there: so it is known what killed it.
            last = job.alone or job.losses + 1 >= self._limits.max_losses
            return ended(State.FAILED if last else State.RETRYING, "worker_lost", lost=True)
        if isinstance(error, _StoreAway):
            pause = random.uniform(0.0, min(_STORE_DELAY_SECONDS, policy.max_delay_seconds))
            return ended(State.RETRYING, "store_unavailable", waited=True, delay_seconds=in_time(job, pause))
        if isinstance(error, ProviderUnavailable):
            reason = reason_of(error, "provider_unavailable")
            if waited_seconds(job) >= policy.wait_seconds:
                return ended(State.FAILED, reason, failed=True)
            return ended(
                State.RETRYING,
                reason,
                waited=True,
                delay_seconds=in_time(job, pause_until(job, policy, delay_of(error))),
            )
        if isinstance(error, NonRetriableError):
            return ended(State.FAILED, reason_of(error, "scorer_error"), failed=True)
        failures = job.failures + 1
        reason = "timeout" if isinstance(error, AttemptTimeout) else "scorer_error"
        if failures > policy.retries:
            return ended(State.FAILED, reason, failed=True)
        return ended(State.RETRYING, reason, failed=True, delay_seconds=random.uniform(0.0, policy.ceiling(failures)))


class _StoreAway(Exception):
    """The store that holds the sample does not answer: no failure of the scorer."""


class AttemptTimeout(Exception):
    """The attempt took longer than it may."""


def _object(text: str) -> dict[str, Any]:
    """A JSON object, mostly an empty one."""
    return {} if text == "{}" else dict(json.loads(text))


def handed_back(job: Job, steps: str) -> Finished:
    """An interrupted job is not a failed attempt."""
    state = State.RETRYING if job.failures or job.waits else State.PENDING
    error = Error("interrupted", "its worker shut down and handed it back")
    return Finished(job, state, job.wanted_version, error=error, steps=steps)


def _lost(job: Job, steps: str) -> Finished:
    error = Error("worker_lost", "something broke the event loop of the scorers of its worker")
    return Finished(job, State.RETRYING, job.wanted_version, error=error, steps=steps, lost=True)


@asynccontextmanager
async def start_executor(executor: Executor, listener: Listener) -> AsyncIterator[None]:
    """Runs the scorers' loop in its thread while the context is open, and tells `listener` what becomes of jobs. A
    thread that never ends is left behind: it must not keep the process from ending."""
    ready = asyncio.Event()
    home = asyncio.get_running_loop()
    executor.start(listener, lambda: home.call_soon_threadsafe(ready.set))
    await ready.wait()
    try:
        yield
    finally:
        executor.close()
        if not await asyncio.to_thread(executor.wait_for_end, _HEED_SECONDS + 1.0):
            logger.warning("a scorer did not stop; it is left behind")
