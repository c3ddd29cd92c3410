"""One attempt at one run: from its claim to the commit that ends, suspends or hands back the run."""

from __future__ import annotations

import asyncio
import logging
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

from google.protobuf import struct_pb2

from agent_service import record, scoring
from agent_service.config import Settings
from agent_service.context import BudgetExceeded, ModelFailed, RunContext, Suspended
from agent_service.definition import Definition
from agent_service.journal import PREFIX as JOURNAL
from agent_service.journal import Journal
from agent_service.log_writer import EventTooLarge, LogWriter, OwnershipLost, Rider
from runwire import frames
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.caching_pubsub import CachingPubSub
from runwire.client.fold import Fold
from runwire.errors import EventsLost, StoreUnavailable
from runwire.pubsub import Claim, LeaseState, Message, Schedule, Store
from runwire.redaction import masked, redact

_STUBBORN_SECONDS: Final = 10.0
"""How long a body that was cancelled may go on before it is left alone."""
_MAX_ATTEMPTS_KEPT: Final = 50
_MAX_TRACE_LENGTH: Final = 10_000
"""Of the traceback of a failed run in the log of the process."""
MAX_OUTPUT_BYTES: Final = 1024 * 1024
MAX_PENDING_BYTES: Final = 1024 * 1024
"""Of all requests that a run waits for at once, and of the answers that an event tells."""

log = logging.getLogger("agent_service.execution")


class Interrupt(Enum):
    """Why an attempt must stop before its body is done."""

    CANCEL = "cancelled"
    DEADLINE = "deadline_exceeded"
    RELEASE = "released"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run failed."""

    reason: str
    message: str
    error_class: str = ""

    def to_proto(self) -> run_pb2.RunError:
        return run_pb2.RunError(reason=self.reason, message=redact(self.message), error_class=self.error_class)


class Execution:
    """One attempt. `run` does it; the other methods tell it of what happens meanwhile."""

    def __init__(
        self,
        claim: Claim,
        definition: Definition,
        *,
        store: Store,
        log: CachingPubSub,
        settings: Settings,
        worker: str,
        bodies: asyncio.TaskGroup,
    ) -> None:
        self._claim = claim
        self._definition = definition
        self._store = store
        self._log = log
        self._settings = settings
        self._worker = worker
        self._bodies = bodies
        self._tenant, _ = record.split_topic(claim.topic)
        self._claimed_at = time.monotonic()
        self._run = run_pb2.Run.FromString(claim.fields[record.RUN])
        self._fold = Fold()
        self._writer = LogWriter(log, claim, self._now, self._fold.add)
        self._interrupts: asyncio.Queue[Interrupt] = asyncio.Queue(maxsize=8)
        self._woken = asyncio.Event()
        self._journal = Journal(claim.fields, self._writer)
        self._why: Interrupt | None = None
        self._cut = False
        """The body was cancelled by us before it was done."""
        self._restarted = False
        self._lost_events = ""

    @property
    def attempt(self) -> int:
        return self._claim.head.attempt

    def interrupt(self, why: Interrupt) -> None:
        """Stops the attempt, the sooner the more it matters."""
        with suppress(asyncio.QueueFull):
            self._interrupts.put_nowait(why)

    def lease_changed(self, state: LeaseState) -> None:
        """Told by Leases."""
        if state is LeaseState.LOST:
            self.interrupt(Interrupt.LOST)
        else:
            self._woken.set()

    async def run(self) -> None:
        """Executes the attempt. Returns when the run is ended, suspended, handed back, or owned by another worker."""
        try:
            await self._read_log()
        except EventsLost as error:
            # It will not come back: a run that was left alone would be claimed again and again, and never end.
            self._lost_events = str(error)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._writer.run(), name=f"writer {self._claim.topic}"),
                group.create_task(self._watch_for_cancel(), name=f"wakes {self._claim.topic}"),
            ]
            try:
                await self._attempt()
            except OwnershipLost as error:
                log.info("%s: attempt %d stopped: %s", self._claim.topic, self._claim.head.attempt, error)
            finally:
                for task in tasks:
                    task.cancel()

    def _now(self) -> float:
        return self._claim.time + time.monotonic() - self._claimed_at

    async def _read_log(self) -> None:
        """Folds what earlier attempts wrote."""
        position = None
        while self._fold.view.last_sequence < self._claim.head.last:
            history = await self._log.get_history(self._claim.topic, position, max_events=2048, max_bytes=1024 * 1024)
            if history.batch is None:
                return
            position = history.batch.position
            for event in frames.events(history.batch.body):
                self._fold.add(run_event_pb2.RunEvent.FromString(event))

    async def _attempt(self) -> None:
        if record.CANCEL in self._claim.fields:
            await self._begin()
            await self._finish(run_pb2.RUN_STATE_CANCELLED)
        elif (before := self._failure_before()) is not None:
            await self._begin()
            await self._finish(run_pb2.RUN_STATE_FAILED, error=before)
        elif self._still_waits():
            await self._writer.write(_wait(self._waits(), {}))
        else:
            await self._begin(anew=self._changed())
            await self._execute()

    def _failure_before(self) -> Failure | None:
        """What ends the run before its body is executed again."""
        if self._lost_events:
            return Failure("events_lost", f"the run cannot go on, because its log is not whole: {self._lost_events}")
        if self._claim.losses >= self._settings.max_losses:
            return Failure("worker_lost", f"{self._claim.losses} workers in a row died while they executed this run")
        if self._remaining() is not None and self._remaining() <= 0:  # type: ignore[operator]
            return Failure("deadline_exceeded", "the run's timeout has passed")
        if self._changed() and self._definition.on_version_change != "restart":
            return Failure(
                "agent_changed",
                f"the run was started with version {self._run.agent_version!r} of the agent, and this is "
                f"{self._definition.version!r}: its journal may not fit",
            )
        return None

    def _changed(self) -> bool:
        """Whether what was done was done by another version of the agent."""
        return self._claim.head.last > 0 and self._run.agent_version != self._definition.version

    def _remaining(self) -> float | None:
        """Seconds until the run's deadline; None without one."""
        if not self._run.HasField("timeout"):
            return None
        return self._claim.head.create_time + self._run.timeout.ToNanoseconds() / 1e9 - self._now()

    def _still_waits(self) -> bool:
        """Whether a suspended run was claimed although what it waits for has not come."""
        if self._run.state != run_pb2.RUN_STATE_SUSPENDED or self._changed():
            return False
        answered = record.answers(self._claim.fields)
        lapsed = (self._waits() or 1.0) <= 0
        return not lapsed and any(request.request_id not in answered for request in self._run.pending)

    def _waits(self) -> float | None:
        """Seconds until a suspended run goes on without an answer: a request lapses, or the run's deadline."""
        moments = [r.deadline.ToNanoseconds() / 1e9 - self._now() for r in self._run.pending if r.HasField("deadline")]
        remaining = self._remaining()
        return min([*moments, *([remaining] if remaining is not None else [])], default=None)

    async def _begin(self, *, anew: bool = False) -> None:
        """The first commit of the attempt: from here on the attempt before can write nothing. `anew`: what was done
        and said so far does not count."""
        run, first = self._run, self._claim.head.last == 0
        resumed = run.state == run_pb2.RUN_STATE_SUSPENDED
        deletes: Sequence[str] = ()
        payload: dict[str, Any] = {}
        if first or anew:
            self._restarted = anew
            self._journal = Journal({}, self._writer)
            deletes = [name for name in self._claim.fields if name.startswith((JOURNAL, record.ANSWER))]
            run.agent_version = self._definition.version
            payload["run_started"] = run_event_pb2.RunStarted(run_id=run.run_id, agent_id=run.agent_id, input=run.input)
        elif resumed:
            payload["run_resumed"] = run_event_pb2.RunResumed(answers=self._answered())
        self._close_attempt("worker_lost")
        run.state, run.attempt = run_pb2.RUN_STATE_RUNNING, self._claim.head.attempt
        del run.pending[:]
        attempt = run.attempts.add(attempt=run.attempt, worker=self._worker, start_time=record.timestamp(self._now()))
        del run.attempts[:-_MAX_ATTEMPTS_KEPT]
        if not run.HasField("start_time"):
            run.start_time.CopyFrom(attempt.start_time)
        await self._writer.write(Rider(puts=self._puts(), deletes=deletes), **payload)

    def _answered(self) -> list[run_event_pb2.Answer]:
        """The answers to tell of: as far as an event can hold them, those that are too large without their data."""
        answers, room = record.answers(self._claim.fields), MAX_PENDING_BYTES
        told = []
        for answer in (answers[each.request_id] for each in self._run.pending if each.request_id in answers):
            room -= answer.ByteSize()
            told.append(answer if room >= 0 else run_event_pb2.Answer(request_id=answer.request_id))
        return told

    async def _execute(self) -> None:
        context = self._context()
        # In the worker's group: a body that does not heed cancellation must not hold up the end of its run.
        body = self._bodies.create_task(self._body(context), name=f"body {self._claim.topic}")
        try:
            async with asyncio.TaskGroup() as group:
                interrupting = group.create_task(self._interrupt_body(context, body))
                await asyncio.wait({body, interrupting}, return_when=asyncio.FIRST_COMPLETED)
                interrupting.cancel()
            await self._conclude(context, body)
        finally:
            # Whatever ended the attempt: a body without one works for nobody.
            body.cancel()

    def _context(self) -> RunContext:
        return RunContext(
            run=self._run,
            tenant=self._tenant,
            view=self._fold.view,
            writer=self._writer,
            journal=self._journal,
            answers={} if self._restarted else record.answers(self._claim.fields),
            now=self._now,
        )

    async def _body(self, context: RunContext) -> struct_pb2.Value | BaseException:
        """What the definition's body returned, or raised: a failed body must not fail the worker's group."""
        try:
            output = await self._definition.body(context, self._definition.parse_input(self._run.input))
            value = self._definition.dump_output(output)
            if (size := value.ByteSize()) > MAX_OUTPUT_BYTES:
                raise OutputTooLarge(f"the output has {size} bytes, more than the {MAX_OUTPUT_BYTES} allowed")
            return value
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return error  # the agent's own: it awaited something that was cancelled
        except BaseException as error:
            return error

    async def _interrupt_body(self, context: RunContext, body: asyncio.Task[Any]) -> None:
        """Waits for a reason to stop the body, and stops it."""
        try:
            async with asyncio.timeout(self._remaining()):
                self._why = await self._interrupts.get()
        except TimeoutError:
            self._why = Interrupt.DEADLINE
        if self._why is Interrupt.CANCEL:
            context.cancel()
            if context.heeds_cancellation:
                await asyncio.wait({body}, timeout=self._settings.cancel_grace_seconds)
        if not body.done():
            self._cut = True
            body.cancel()
            await asyncio.wait({body}, timeout=_STUBBORN_SECONDS)

    async def _conclude(self, context: RunContext, body: asyncio.Task[struct_pb2.Value | BaseException]) -> None:
        """The last commit of the attempt."""
        self._run.usage.CopyFrom(context.usage)
        if not body.done():
            log.error("%s: its body does not end although it was cancelled", self._claim.topic)
        result = body.result() if body.done() and not body.cancelled() else None
        if isinstance(result, OwnershipLost):
            raise result
        if self._why is Interrupt.LOST:
            raise OwnershipLost("the lease ended")
        if self._why is Interrupt.CANCEL:
            output = result if isinstance(result, struct_pb2.Value) else None
            await self._finish(run_pb2.RUN_STATE_CANCELLED, output=output)
        elif isinstance(result, Suspended):
            await self._suspend(result)
        elif result is None or (self._cut and isinstance(result, BaseException)):
            # What it raised because it was cancelled is no failure of its own.
            await self._conclude_cut()
        elif isinstance(result, BaseException):
            trace = masked("".join(traceback.format_exception(result)))
            log.info("%s failed: %s", self._claim.topic, trace[-_MAX_TRACE_LENGTH:])
            await self._finish(run_pb2.RUN_STATE_FAILED, error=_failure(result))
        else:
            await self._finish(run_pb2.RUN_STATE_SUCCEEDED, output=result)

    async def _conclude_cut(self) -> None:
        if self._why is Interrupt.DEADLINE:
            failure = Failure("deadline_exceeded", "the run's timeout has passed")
            await self._finish(run_pb2.RUN_STATE_FAILED, error=failure)
        elif self._why is Interrupt.RELEASE:
            self._close_attempt("released")
            await self._writer.write(Rider(puts=self._puts(), schedule=Schedule.DUE))
        else:
            raise asyncio.CancelledError

    async def _suspend(self, suspended: Suspended) -> None:
        run = self._run
        suspension = run_event_pb2.RunSuspended(pending=suspended.pending)
        if (size := suspension.ByteSize()) > MAX_PENDING_BYTES:
            too_large = EventTooLarge(f"what the run waits for has {size} bytes, more than {MAX_PENDING_BYTES}")
            await self._finish(run_pb2.RUN_STATE_FAILED, error=_failure(too_large))
            return
        run.state = run_pb2.RUN_STATE_SUSPENDED
        run.pending.extend(suspended.pending)
        self._close_attempt("suspended")
        waits = [seconds for seconds in (suspended.due_in, self._waits()) if seconds is not None]
        await self._writer.write(
            _wait(min(waits, default=None), self._puts()),
            run_suspended=suspension,
        )

    async def _finish(
        self, state: run_pb2.RunState, *, output: struct_pb2.Value | None = None, error: Failure | None = None
    ) -> None:
        """The terminal event, what it asks of scorers and the end of the schedule: one atomic write."""
        run, settings = self._run, self._settings
        run.state = state
        if output is not None:
            run.output.CopyFrom(output)
        if error is not None:
            run.error.CopyFrom(error.to_proto())
        run.end_time.CopyFrom(record.timestamp(self._now()))
        self._close_attempt("finished")
        finished = run_event_pb2.RunFinished(state=state, output=output, usage=run.usage)
        if error is not None:
            finished.error.CopyFrom(run.error)
        rider = Rider(
            puts=self._puts(),
            deletes=self._journal.fields(),
            messages=self._scorer_requests(),
            schedule=Schedule.NEVER,
            final=state,
            retention=settings.retention_seconds,
            tombstone=settings.tombstone_seconds,
        )
        await self._writer.write(rider, run_finished=finished)

    def _scorer_requests(self) -> list[Message]:
        traceparent, _, tracestate = self._claim.fields.get(record.TRACE, b"").decode().partition("\n")
        return list(
            scoring.requests(
                self._tenant,
                self._run,
                self._fold.view,
                max_sample_bytes=self._settings.max_sample_bytes,
                traceparent=traceparent,
                tracestate=tracestate,
            )
        )

    def _puts(self) -> dict[str, bytes]:
        return {record.RUN: self._run.SerializeToString()}

    def _close_attempt(self, outcome: str) -> None:
        if self._run.attempts and not self._run.attempts[-1].outcome:
            attempt = self._run.attempts[-1]
            attempt.outcome = outcome
            if outcome != "worker_lost":
                attempt.end_time.CopyFrom(record.timestamp(self._now()))

    async def _watch_for_cancel(self) -> None:
        """Looks, whenever the lease says that somebody woke the run, whether it was cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            try:
                stored = await self._store.get(self._claim.topic, [record.CANCEL])
            except StoreUnavailable as error:
                # The lease goes on saying that the run was woken.
                log.warning("%s: cannot see why it was woken: %s", self._claim.topic, error)
                continue
            if stored is not None and record.CANCEL in stored.fields:
                self.interrupt(Interrupt.CANCEL)
                return


class OutputTooLarge(Exception):
    """The output is above MAX_OUTPUT_BYTES."""


_REASONS: Final[tuple[tuple[type[BaseException], str], ...]] = (
    (BudgetExceeded, "budget_exceeded"),
    (ModelFailed, "model_error"),
    (OutputTooLarge, "output_too_large"),
)


def _failure(error: BaseException) -> Failure:
    reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), "agent_error")
    return Failure(reason, _words(error), type(error).__name__)


def _words(error: BaseException) -> str:
    try:
        return str(error) or type(error).__name__
    except Exception:
        # It is the agent's class, and may fail in this too.
        return type(error).__name__


def _wait(seconds: float | None, puts: Mapping[str, bytes]) -> Rider:
    """Ends the lease until so many seconds have passed; None: until somebody wakes the run."""
    if seconds is None:
        return Rider(puts=puts, schedule=Schedule.NEVER)
    return Rider(puts=puts, schedule=Schedule.DUE, due_in=max(0.0, seconds))
