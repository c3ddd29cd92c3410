"""Carries out scorers, on an event loop and threads of their own.

A scorer that blocks its event loop, or works the CPU hard, so stalls neither the leases of this process nor its
answers to clients: those live on the service's loop, and the scorers on another one in another thread. Functions that
are not async get a thread each; those with `process=True` a process (see `processes`).

Results of completed steps are kept as {"version": ..., "steps": {name: result}}: what one version of a scorer made is
nothing for another one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from runwire.errors import Unavailable
from runwire.redaction import masked
from runwire.scorer.v1 import scorer_run_requested_pb2 as wire
from scorer_service.processes import Processes, ProcessLost
from scorer_service.records import Error, Finished, Job, ScoreRecord, State, json_text, kept_steps, printable
from scorer_service.registry import Registry
from scorer_service.samples import from_wire
from scorer_service.scoring import (
    BadScore,
    Judge,
    NonRetriableError,
    NotScorable,
    RetryAfter,
    RetryPolicy,
    Sample,
    Score,
    Scorer,
    evaluate,
)

log = logging.getLogger("scorer_service")

MAX_REASON_LENGTH: Final = 16_384
MAX_METADATA_BYTES: Final = 65_536
MAX_STEPS_BYTES: Final = 262_144
MAX_DELAY_SECONDS: Final = 7 * 86_400.0
"""Longest pause that a scorer, or the provider of a judge, may ask for."""
_STORE_DELAY_SECONDS: Final = 30.0
"""Longest pause until the store is asked again for a sample."""

Fetch = Callable[[Job], Awaitable[bytes]]
"""Fetches a sample that was left out of its message."""


@dataclass(frozen=True)
class Limits:
    """What applies where a scorer does not say otherwise."""

    timeout_seconds: float
    retry: RetryPolicy
    concurrency: int


class Executor:
    """Runs jobs and delivers how each ended. Made by `start_executor`; its methods belong to the service's loop."""

    def __init__(
        self,
        registry: Registry,
        limits: Limits,
        judge: Judge | None,
        processes: Processes,
        fetch: Fetch,
        deliver: Callable[[list[Finished]], None],
        on_step: Callable[[Job, str], None],
    ) -> None:
        self._registry = registry
        self._limits = limits
        self._judge = judge
        self._processes = processes
        self._fetch = fetch
        self._deliver = deliver
        self._on_step = on_step
        self._home = asyncio.get_running_loop()
        self._finished: deque[Finished] = deque()
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._cancelled: set[tuple[str, int]] = set()
        self._loop: asyncio.AbstractEventLoop
        self._group: asyncio.TaskGroup
        self._closing: asyncio.Event
        self._asked_time: float | None = None

    # Called on the service's loop

    def submit(self, jobs: Sequence[Job]) -> None:
        """Starts jobs. Each is delivered once, finished; one that is cancelled comes back PENDING."""
        self._loop.call_soon_threadsafe(self._start, jobs)

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Stops jobs, as far as they can be stopped: a thread cannot."""
        self._loop.call_soon_threadsafe(self._cancel, jobs)

    def silent_seconds(self) -> float:
        """For how long the scorers' loop has not answered, because some scorer blocks it; it is asked by this."""
        asked_time, now = self._asked_time, time.monotonic()
        if asked_time is not None:
            return now - asked_time
        self._asked_time = now
        try:
            self._loop.call_soon_threadsafe(self._answer)
        except RuntimeError:  # the loop has ended
            self._asked_time = -math.inf
        return 0.0

    def timeout_of(self, job: Job) -> float:
        """The most seconds that an attempt may take."""
        scorer = self._registry.find(job.scorer_id, job.wanted_version)
        return (scorer and scorer.timeout_seconds) or self._limits.timeout_seconds

    def _collect(self) -> None:
        finished: list[Finished] = []
        while self._finished:
            finished.append(self._finished.popleft())
        if finished:
            self._deliver(finished)

    # Called on the scorers' loop

    async def serve(self, ready: Callable[[], object]) -> None:
        self._loop = asyncio.get_running_loop()
        self._closing = asyncio.Event()
        self._loop.set_default_executor(ThreadPoolExecutor(self._limits.concurrency, "scorer"))
        async with asyncio.TaskGroup() as self._group:
            ready()
            await self._closing.wait()
            self._cancel_all(list(self._tasks))
        await self._processes.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)

    def _answer(self) -> None:
        self._asked_time = None

    def _start(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            key = (job.scorer_run_id, job.token)
            task = self._group.create_task(self._run(job), name=f"score {job.scorer_run_id}")
            self._tasks[key] = task
            task.add_done_callback(lambda _, key=key: self._forget(key))  # type: ignore[misc]

    def _forget(self, key: tuple[str, int]) -> None:
        del self._tasks[key]
        self._cancelled.discard(key)

    def _cancel(self, jobs: Sequence[Job]) -> None:
        self._cancel_all([(job.scorer_run_id, job.token) for job in jobs])

    def _cancel_all(self, keys: Sequence[tuple[str, int]]) -> None:
        for key in keys:
            if task := self._tasks.get(key):
                self._cancelled.add(key)
                task.cancel()

    async def _run(self, job: Job) -> None:
        scorer = self._registry.find(job.scorer_id, job.wanted_version)
        version = scorer.version if scorer else ""
        steps = kept_steps(job.steps, version)
        try:
            finished = await self._attempt(job, scorer, steps)
        except BaseException as error:  # a scorer may raise anything: SystemExit, or a cancellation that is not ours
            if (job.scorer_run_id, job.token) in self._cancelled:
                finished = handed_back(job, _dump_steps(version, steps))
            else:
                finished = self._failed(job, scorer, error, _dump_steps(version, steps))
        first = not self._finished
        self._finished.append(finished)
        if first:
            self._home.call_soon_threadsafe(self._collect)

    async def _attempt(self, job: Job, scorer: Scorer | None, steps: dict[str, Any]) -> Finished:
        if scorer is None:
            problem = self._registry.problem(job.scorer_id, job.wanted_version)
            return Finished(job, State.FAILED, error=Error("scorer_unknown", problem), steps=job.steps)
        score = await self._score(scorer, job, steps)
        try:
            record = record_of(score, scorer)
        except (TypeError, ValueError) as error:
            raise BadScore(f"the score's metadata is not JSON that can be kept: {error}") from None
        return Finished(job, State.SUCCEEDED, scorer.version, record, steps=_dump_steps(scorer.version, steps))

    async def _score(self, scorer: Scorer, job: Job, steps: dict[str, Any]) -> Score:
        if scorer.judge and self._judge is None:
            raise NonRetriableError(
                "this scorer asks a language model, and the service has none: set --judge-model",
                reason="judge_not_configured",
            )
        timeout = scorer.timeout_seconds or self._limits.timeout_seconds

        def on_step(name: str, result: Any) -> None:
            steps[name] = result
            self._home.call_soon_threadsafe(self._on_step, job, _dump_steps(scorer.version, steps))

        scope = asyncio.timeout(timeout)
        try:
            async with scope:
                message = wire.Sample.FromString(job.sample)
                if message.by_reference:
                    message = wire.Sample.FromString(await self._fetch_elsewhere(job))
                if scorer.process:
                    body = message.SerializeToString()
                    return await self._processes.score(scorer, body, _object(job.options), dict(steps), on_step)
                sample: Sample = from_wire(message)
                return await evaluate(
                    scorer, sample, _object(job.options), judge=self._judge, done=dict(steps), on_step=on_step
                )
        except TimeoutError:
            if scope.expired():
                raise AttemptTimeout(f"the attempt took longer than {timeout:g} s") from None
            raise

    async def _fetch_elsewhere(self, job: Job) -> bytes:
        async def fetch() -> bytes:
            return await self._fetch(job)

        try:
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(fetch(), self._home))
        except Unavailable as error:
            raise _StoreAway(str(error)) from error

    def _failed(self, job: Job, scorer: Scorer | None, error: BaseException, kept: str) -> Finished:
        version = scorer.version if scorer else ""
        name = type(error).__name__
        message = printable(masked(_words(error)) or name)
        if isinstance(error, NotScorable):
            return Finished(job, State.NOT_SCORABLE, version, error=Error("not_scorable", message), steps=kept)
        if isinstance(error, ProcessLost):
            lost = Error("worker_lost", message, name)
            return Finished(job, State.RETRYING, version, error=lost, lost=True, steps=kept)
        if isinstance(error, _StoreAway):
            away = Error("store_unavailable", message)
            pause = random.uniform(0.0, min(_STORE_DELAY_SECONDS, self._limits.retry.max_delay_seconds))
            return Finished(job, State.RETRYING, version, error=away, delay_seconds=pause, steps=kept)
        if isinstance(error, NonRetriableError):
            failure = Error(error.reason, message, name)
            return Finished(job, State.FAILED, version, error=failure, failed=True, steps=kept)
        policy = (scorer and scorer.retry) or self._limits.retry
        failures = job.failures + 1
        failure = Error("timeout" if isinstance(error, AttemptTimeout) else "scorer_error", message, name)
        if failures > policy.retries:
            return Finished(job, State.FAILED, version, error=failure, failed=True, steps=kept)
        delay = random.uniform(0.0, policy.ceiling(failures))
        if isinstance(error, RetryAfter):
            delay = min(error.delay_seconds, MAX_DELAY_SECONDS)
        return Finished(job, State.RETRYING, version, error=failure, delay_seconds=delay, failed=True, steps=kept)


class _StoreAway(Exception):
    """The store that holds the sample does not answer: no failure of the scorer."""


class AttemptTimeout(Exception):
    """The attempt took longer than it may."""


def _object(text: str) -> dict[str, Any]:
    """A JSON object, mostly an empty one."""
    return {} if text == "{}" else dict(json.loads(text))


def handed_back(job: Job, steps: str) -> Finished:
    """An interrupted job is not a failed attempt."""
    state = State.RETRYING if job.failures else State.PENDING
    error = Error("interrupted", "its worker shut down and handed it back")
    return Finished(job, state, job.wanted_version, error=error, steps=steps)


def _words(error: BaseException) -> str:
    """What an exception says, if it can."""
    try:
        return str(error)
    except Exception:
        return ""


def _dump_steps(version: str, steps: dict[str, Any]) -> str:
    """The results of steps as they are kept; those that are too large are not, and will be done again."""
    if not steps:
        return "{}"
    try:
        text = json_text({"version": version, "steps": steps})
    except (TypeError, ValueError):
        return "{}"
    return text if len(text.encode()) <= MAX_STEPS_BYTES else "{}"


def record_of(score: Score, scorer: Scorer) -> ScoreRecord:
    """The score as it is stored. Raises BadScore if it is too large, TypeError or ValueError if it is not JSON."""
    metadata = json_text(dict(score.metadata)) if score.metadata else "{}"
    if (size := len(metadata.encode())) > MAX_METADATA_BYTES:
        raise BadScore(f"the score's metadata has {size} bytes; at most {MAX_METADATA_BYTES} are kept")
    judgement = None
    if score.judgement is not None:
        judged = score.judgement
        judgement = json.dumps(
            {
                "model": judged.model,
                "prompt_version": judged.prompt_version or scorer.prompt_version,
                "input_tokens": judged.input_tokens,
                "output_tokens": judged.output_tokens,
                "cost_usd": judged.cost_usd,
            }
        )
    return ScoreRecord(
        value=score.value,
        label=printable(score.label, 255),
        reason=printable(score.reason, MAX_REASON_LENGTH),
        metadata=metadata,
        direction=1 if scorer.direction == "higher" else 2,
        judgement=judgement,
    )


@asynccontextmanager
async def start_executor(executor: Executor) -> AsyncIterator[Executor]:
    """Runs the scorers' loop in its thread while the context is open. A thread that never ends is left behind: it
    must not keep the process from ending."""
    ready = asyncio.Event()
    home = asyncio.get_running_loop()
    ended = asyncio.Event()

    def body() -> None:
        try:
            asyncio.run(executor.serve(lambda: home.call_soon_threadsafe(ready.set)))
        except BaseException:
            log.exception("the scorers' loop failed")
        finally:
            try:
                home.call_soon_threadsafe(ended.set)
            except RuntimeError:
                pass  # the service is gone already

    threading.Thread(target=body, name="scorers", daemon=True).start()
    await ready.wait()
    try:
        yield executor
    finally:
        executor.close()
        try:
            async with asyncio.timeout(2.0):
                await ended.wait()
        except TimeoutError:
            log.warning("a scorer did not stop; it is left behind")
