"""A worker of scorers that are carried out here, and not in the scorer service.

    worker = ScorerWorker(ScorerClient("127.0.0.1:50052"))

    @worker.scorer("brevity", version="1")
    async def brevity(work: ScorerWork) -> float:
        return 1.0 / (1 + len(str(work.output).split()))

    await worker.run()

docs/external-scorers.md explains what the service promises; any other language does the same with three RPCs.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration

from runwire.backoff import Backoff
from runwire.client.scorer import ScorerClient
from runwire.errors import ClaimLost, NotFound, RunwireError, ScorerNotFound, Unavailable
from runwire.scorer.v1 import scorer_port_pb2 as pb
from runwire.scorer.v1 import scorer_run_pb2, scorer_run_requested_pb2
from runwire.scorer_errors import NonRetriableError, NotScorable, ProviderUnavailable
from runwire.times import duration
from runwire.values import Json, carry_struct, carry_text, from_struct, from_value, to_struct

logger = logging.getLogger("runwire.client")

_PAUSES: Final = Backoff(0.2, 5.0, jitter=0.5)
_MAX_TEXT_BYTES: Final = 64 * 1024
_MAX_METADATA_BYTES: Final = 64 * 1024
_MAX_SAMPLE_BYTES: Final = 3 * 1024 * 1024
"""Less than what a client of gRPC takes by default, with room for the rest of an answer."""
_WAIT_SECONDS: Final = 2.0
"""How long a claim waits for work; so long may it take until the worker has drained."""

Function = Callable[["ScorerWork"], Any]


@dataclass(eq=False)
class ScorerWork:
    """A scorer run that is to be scored."""

    claimed: pb.ClaimedScorerRun
    steps: dict[str, Any]
    """Results of steps that an earlier attempt completed."""
    _extend: Callable[[ScorerWork], Awaitable[None]] = field(repr=False)

    @property
    def sample(self) -> scorer_run_requested_pb2.Sample:
        """The run, as it was asked to be scored."""
        return self.claimed.sample

    @property
    def input(self) -> Json:
        """Of the run."""
        return from_value(self.claimed.sample.input)

    @property
    def output(self) -> Json:
        """Of the run."""
        return from_value(self.claimed.sample.output)

    @property
    def options(self) -> dict[str, Any]:
        """Settings that came with the request."""
        return from_struct(self.claimed.options)

    async def keep(self, step: str, result: Json) -> None:
        """Keeps the result of a step, so that a later attempt finds it in `steps`; and renews the lease."""
        self.steps[step] = result
        await self._extend(self)


@dataclass(frozen=True)
class _Scorer:
    described: pb.ExternalScorer
    function: Function

    @property
    def version(self) -> pb.ScorerVersion:
        return pb.ScorerVersion(scorer_id=self.described.scorer_id, version=self.described.version)


@dataclass(eq=False)
class _Held:
    work: ScorerWork
    task: asyncio.Task[None]


class ScorerWorker:
    """Claims scorer runs, has them carried out, renews their leases and reports how they ended."""

    def __init__(
        self,
        client: ScorerClient,
        *,
        name: str = "scorers",
        concurrency: int = 16,
        lease_seconds: float = 30.0,
        grace_seconds: float = 10.0,
    ) -> None:
        """At most `concurrency` scorer runs at once. What is silent for `lease_seconds`, because this process died, is
        given to another worker. `name` is the beginning of the worker's name; the rest is random, so that it is another
        after each start."""
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {concurrency!r}")
        if not 1 <= lease_seconds <= 86_400:
            raise ValueError(f"lease_seconds must be 1 to 86400, got {lease_seconds!r}")
        self.name = f"{name}-{os.getpid()}-{os.urandom(4).hex()}"
        self._client = client
        self._concurrency = concurrency
        self._lease_seconds = lease_seconds
        self._grace_seconds = grace_seconds
        self._scorers: dict[tuple[str, str], _Scorer] = {}
        self._held: dict[str, _Held] = {}
        self._changed = asyncio.Event()
        """Something was taken or let go, or the end has begun."""
        self._stopping = False
        self._alone_waiting = False

    def scorer(
        self,
        scorer_id: str,
        *,
        version: str,
        description: str = "",
        lower_is_better: bool = False,
        options_schema: Mapping[str, Json] | None = None,
        timeout_seconds: float | None = None,
        retries: int | None = None,
    ) -> Callable[[Function], Function]:
        """Makes a function a scorer: of a ScorerWork, async or not. It returns a number, a `Score` of this package, or
        anything that has `value` and perhaps `label`, `reason` and `metadata`; it raises NotScorable, NonRetriableError
        or RetryAfter of `runwire.scorer_errors`, and anything else for what another attempt may heal. One that is not
        async runs in a thread."""
        described = pb.ExternalScorer(
            scorer_id=scorer_id,
            version=version,
            description=description,
            direction=(
                scorer_run_pb2.SCORE_DIRECTION_LOWER_IS_BETTER
                if lower_is_better
                else scorer_run_pb2.SCORE_DIRECTION_HIGHER_IS_BETTER
            ),
            options_schema=None if options_schema is None else to_struct(options_schema),
            timeout=None if timeout_seconds is None else duration(timeout_seconds),
            retries=retries,
        )

        def add(function: Function) -> Function:
            self._scorers[scorer_id, version] = _Scorer(described, function)
            return function

        return add

    @property
    def in_hand(self) -> int:
        """How many scorer runs it has."""
        return len(self._held)

    def stop(self) -> None:
        """Claims no more; `run` returns when what it has is reported or handed back."""
        self._stopping = True
        self._changed.set()

    async def run(self) -> None:
        """Works until `stop` is called. Raises what the service refuses for good, such as ScopeMissing."""
        if not self._scorers:
            raise ValueError("this worker has no scorers: add one with @worker.scorer(...)")
        try:
            async with asyncio.TaskGroup() as group:
                await self._register()
                renewing = group.create_task(self._renew_forever(), name="leases of scorer runs")
                while not self._stopping:
                    await self._turn(group)
                await self._drain()
                renewing.cancel()
        except ExceptionGroup as several:
            refused, _ = several.split(RunwireError)
            if refused is None:
                raise
            raise refused.exceptions[0] from None

    async def _register(self) -> None:
        failures = 0
        for scorer in self._scorers.values():
            while not self._stopping:
                try:
                    await self._client.register_scorer(scorer.described)
                    break
                except Unavailable as error:
                    failures += 1
                    await self._pause(failures, error)

    async def _turn(self, group: asyncio.TaskGroup) -> None:
        """One claim, once there is room."""
        self._changed.clear()
        wants_all = self._alone_waiting or any(held.work.claimed.alone for held in self._held.values())
        if self._held and (wants_all or len(self._held) >= self._concurrency):
            await self._changed.wait()
            return
        try:
            answer = await self._client.claim_scorer_runs(self._request())
        except Unavailable as error:
            await self._pause(1, error)
            return
        except ScorerNotFound:
            await self._register()  # the database was re-created
            return
        self._alone_waiting = answer.alone_waiting and not answer.scorer_runs
        for claimed in answer.scorer_runs:
            work = ScorerWork(claimed, from_struct(claimed.steps), self._extend)
            task = group.create_task(self._carry_out(work), name=f"score {claimed.scorer_run_id}")
            self._held[claimed.scorer_run_id] = _Held(work, task)

    def _request(self) -> pb.ClaimScorerRunsRequest:
        return pb.ClaimScorerRunsRequest(
            worker=self.name,
            scorers=[scorer.version for scorer in self._scorers.values()],
            max_scorer_runs=min(100, self._concurrency - len(self._held)),
            # With something in hand it is looked for more often, so that a place that becomes free is used.
            wait=duration(_WAIT_SECONDS),
            lease=duration(self._lease_seconds),
            in_hand=len(self._held),
            max_sample_bytes=_MAX_SAMPLE_BYTES,
        )

    async def _pause(self, failures: int, error: Unavailable) -> None:
        logger.warning("the worker of scorers waits: %s", error)
        try:
            async with asyncio.timeout(_PAUSES.pause(failures)):
                await self._changed.wait()
        except TimeoutError:
            pass

    # Carrying out

    async def _carry_out(self, work: ScorerWork) -> None:
        report = self._report_of(work)
        try:
            await self._score(work, report)
            await self._send(report)
        finally:  # also where it is cancelled: its claim was lost, or `_drain` hands it back
            self._held.pop(work.claimed.scorer_run_id, None)
            self._changed.set()

    async def _score(self, work: ScorerWork, report: pb.ReportScorerRunRequest) -> None:
        """Fills in how the attempt ended, whatever the function does."""
        claimed = work.claimed
        function = self._scorers[claimed.scorer_id, claimed.scorer_version].function
        try:
            if inspect.iscoroutinefunction(function):
                found = await function(work)
            else:
                found = await asyncio.to_thread(function, work)
            report.score.CopyFrom(score_of(found))
        except NotScorable as error:
            report.not_scorable.reason = _text(error.reason)
        except Exception as error:
            report.error.CopyFrom(error_of(error))
        if work.steps:
            report.steps.CopyFrom(carry_struct(work.steps))

    async def _send(self, report: pb.ReportScorerRunRequest) -> None:
        """Reports an end until it is taken, or the claim is lost."""
        failures = 0
        while True:
            try:
                await self._client.report_scorer_run(report)
                return
            except (ClaimLost, NotFound) as error:
                logger.warning("not taken: %s", error)
                return
            except Unavailable as error:
                failures += 1
                logger.warning("scorer run %s is not reported yet: %s", report.scorer_run_id, error)
                await asyncio.sleep(_PAUSES.pause(failures))

    def _report_of(self, work: ScorerWork) -> pb.ReportScorerRunRequest:
        claimed = work.claimed
        return pb.ReportScorerRunRequest(
            worker=self.name,
            scorer_run_id=claimed.scorer_run_id,
            claim=claimed.claim,
            scorer_version=claimed.scorer_version,
        )

    # Leases

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self._lease_seconds / 3)
            for held in list(self._held.values()):
                try:
                    await self._extend(held.work)
                except (ClaimLost, NotFound) as error:
                    logger.warning("stopped: %s", error)
                    held.task.cancel()
                except Unavailable as error:
                    logger.warning("the lease of %s is not renewed: %s", held.work.claimed.scorer_run_id, error)

    async def _extend(self, work: ScorerWork) -> None:
        report = self._report_of(work)
        report.extension.lease.CopyFrom(_whole(self._lease_seconds))
        if work.steps:
            report.steps.CopyFrom(carry_struct(work.steps))
        await self._client.report_scorer_run(report)

    # Ending

    async def _drain(self) -> None:
        """Lets what runs finish within the grace, and hands the rest back."""
        try:
            async with asyncio.timeout(self._grace_seconds):
                while self._held:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            for held in list(self._held.values()):
                held.task.cancel()
                report = self._report_of(held.work)
                report.release.SetInParent()
                try:
                    await self._client.report_scorer_run(report)
                except RunwireError as error:
                    logger.warning("%s was not handed back: %s", held.work.claimed.scorer_run_id, error)


def score_of(found: Any) -> scorer_run_pb2.Score:
    """What a scorer returned, as a message. Raises NonRetriableError for what is no score."""
    if isinstance(found, scorer_run_pb2.Score):
        return found
    value: Any = getattr(found, "value", found)
    label, reason, metadata = (getattr(found, name, None) for name in ("label", "reason", "metadata"))
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise NonRetriableError(f"a score must be a finite number, got {value!r:.200}", reason="bad_score")
    score = scorer_run_pb2.Score(value=number, label=_text(label), reason=_text(reason))
    if metadata:
        score.metadata.CopyFrom(carry_struct(metadata, _MAX_METADATA_BYTES))
    return score


def error_of(error: Exception) -> pb.AttemptError:
    """What a scorer raised, as a message."""
    said = pb.AttemptError(message=_text(str(error)), error_class=type(error).__name__)
    if isinstance(error, NonRetriableError):
        said.non_retriable = True
        said.reason = error.reason
    elif isinstance(error, ProviderUnavailable):
        said.retry_after.CopyFrom(duration(min(error.delay_seconds or 0.0, 7 * 86_400.0)))
        said.reason = error.reason
    return said


def _text(given: Any) -> str:
    return "" if given is None else carry_text(given if isinstance(given, str) else str(given), _MAX_TEXT_BYTES)


def _whole(seconds: float) -> Duration:
    return duration(max(1.0, seconds))
