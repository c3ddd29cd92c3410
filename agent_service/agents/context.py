"""RunContext: what an agent or a workflow is given to run with."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, get_type_hints

from google.protobuf import struct_pb2
from pydantic import TypeAdapter
from pydantic_core import PydanticSerializationError, to_json

from agent_service.agents.pauses import pause
from agent_service.log.history import Past
from agent_service.log.journal import Journal
from agent_service.log.turns import TurnEnded, Turns
from agent_service.log.writer import LogWriter
from runwire import tracing
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.backoff import Backoff
from runwire.bounds import MAX_TIMEOUT_SECONDS
from runwire.times import timestamp
from runwire.values import carry_struct, carry_text, carry_value, cleaned, from_struct, from_value

Result = TypeVar("Result")

BODY_STEP: Final = 1
"""Step of what a workflow emits outside of `RunContext.step`."""
MAX_NAME_LENGTH: Final = 256
"""Of steps, sleeps and requests."""
_INLINE_SLEEP_SECONDS: Final = 2.0
"""A shorter sleep keeps its worker: handing the run back costs more."""

MAX_PENDING_VALUE_BYTES: Final = 256 * 1024
"""Of what a request shows to the person who answers it, and of the form that it asks for: several may wait at once."""
_MAX_NAME_BYTES: Final = 1024
_PIECE_LENGTH: Final = 65_536
"""Characters of a piece of text: far below what an event may have."""

_current_step: ContextVar[int] = ContextVar("runwire_step", default=0)


def received_key(number: int) -> str:
    """Where the journal keeps what the n-th `receive` of a workflow returns."""
    return f"receive/{number}"


@contextmanager
def within_step(step: int) -> Iterator[None]:
    """What is emitted in it belongs to this step. For adapters that number their steps themselves."""
    token = _current_step.set(step)
    try:
        yield
    finally:
        _current_step.reset(token)


class NonRetriable(Exception):
    """Raised in a step: do not try it again."""


class EndOfConversation(Exception):
    """No message will come any more."""


class BudgetExceeded(Exception):
    """The run used up more than it may. Ends it FAILED with reason `budget_exceeded`."""


class ModelFailed(Exception):
    """The model's provider failed for good. Ends the run FAILED with reason `model_error`."""


class Suspended(BaseException):
    """Unwinds an agent that waits. Not an Exception: `except Exception` must let it pass."""

    def __init__(self, pending: list[run_pb2.PendingRequest], due_in: float | None = None) -> None:
        super().__init__(f"waits for {[request.request_id for request in pending]}")
        self.pending = pending
        self.due_in = due_in
        """Seconds until the run continues without an answer; None: it waits for the answer."""


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a step is tried: exponential back-off with full jitter. Raises ValueError for what makes no sense."""

    attempts: int = 1
    delay_seconds: float = 1.0
    max_delay_seconds: float = 60.0
    factor: float = 2.0
    on: type[Exception] | tuple[type[Exception], ...] = Exception
    """After what it is tried again; anything else is raised at once."""

    def __post_init__(self) -> None:
        for name, least in (("attempts", 1), ("delay_seconds", 0), ("max_delay_seconds", 0), ("factor", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be at least {least}")
        for each in self.on if isinstance(self.on, tuple) else (self.on,):
            if not (isinstance(each, type) and issubclass(each, Exception)):
                raise ValueError(f"on is {self.on!r}; it must be a class of exceptions, or a tuple of them")

    def delay(self, tries: int) -> float:
        """Seconds to wait after `tries` failures; see `runwire.backoff`."""
        return Backoff(self.delay_seconds, self.max_delay_seconds, self.factor).pause(tries)


ONCE: Final = Retry()

Arguments = ParamSpec("Arguments")
_MAX_UNSEEN: Final = 64


class NeverAwaited(RuntimeError):
    """A workflow returned and had not awaited something that it began: it was not done."""


def _awaited_once(
    method: Callable[Concatenate[RunContext, Arguments], Coroutine[Any, Any, Result]],
) -> Callable[Concatenate[RunContext, Arguments], Coroutine[Any, Any, Result]]:
    """A method whose result must be awaited: a workflow that forgets it is told (see `end_body`), and does not succeed
    without what it believes done."""

    @wraps(method)
    def begin(ctx: RunContext, *args: Arguments.args, **given: Arguments.kwargs) -> Coroutine[Any, Any, Result]:
        begun = method(ctx, *args, **given)
        ctx.watch(begun)
        return begun

    return begin  # type: ignore[return-value] # mypy names the first argument


class RunContext:
    """One attempt at a run.

    `emit` appends to the run's log, `step` does a thing once, `sleep` and `suspend` wait without holding a worker.
    After a crash or a suspension the body is executed again from its beginning, in a new attempt: finished steps
    return what is remembered, and events outside of steps are told again (readers discard those of the attempt
    before; see the supersede rule in run_event.proto).
    """

    def __init__(
        self,
        *,
        run: run_pb2.Run,
        tenant: str,
        past: Past,
        writer: LogWriter,
        journal: Journal,
        answers: Mapping[str, run_event_pb2.Answer],
        now: Callable[[], float],
        turns: Turns | None = None,
        context: Mapping[str, Any] | None = None,
        resources: Any = None,
    ) -> None:
        self.run_id = run.run_id
        self.agent_id = run.agent_id
        self.agent_version = run.agent_version
        self.tenant = tenant
        self.attempt = run.attempt
        self.labels: Mapping[str, str] = dict(run.labels)
        self.context: Mapping[str, Any] = context or {}
        """What the caller who started the run says to the agent's code: `StartRunRequest.context`."""
        self.resources = resources
        """What the agent's `lifespan` has opened for all runs of this process."""
        self.model = run.model.model
        """The model that the run asked for, one that the agent offers; empty: the agent's own."""
        self.model_settings: Mapping[str, Any] = from_struct(run.model.settings)
        self.past = past
        """What was done before this attempt began."""
        self.journal = journal
        self.answers = answers
        """Answers to requests of this run, by request id."""
        self.usage = run_pb2.Usage()
        self.usage.CopyFrom(run.usage)
        """Of the whole run. Adapters add to it; it is stored when the run ends or is suspended."""
        self.now = now
        """The store's clock, in seconds since the Unix epoch."""
        self.turns = turns
        """Of a conversation."""
        self.first_step = turns.first_step if turns is not None else BODY_STEP
        """Of this run, or in a conversation of its present turn."""
        self.base_usage = turns.base_usage if turns is not None else run_pb2.Usage()
        """Of the turns before the present one."""
        self._received = 0
        self._writer = writer
        self._numbers = {step.name: number for number, step in past.steps.items() if number != self.first_step}
        self._next_number = max(past.steps, default=self.first_step) + 1
        self._started: set[str] = set()
        self._sleeps = 0
        self._body_started = False
        self._unseen: list[Coroutine[Any, Any, Any]] = []
        """What was begun and may not have been awaited."""
        self.only_model_steps = False
        """Whether its steps are the requests to a model, which an adapter numbers: there are no others beside them."""
        self._cancelled = asyncio.Event()
        self.heeds_cancellation = False

    # Cancellation

    @property
    def cancelled(self) -> bool:
        """Whether somebody asked to cancel the run. An agent that looks (or calls `wait_cancelled`) has a grace of a
        few seconds to end in its own way; one that never did is cancelled at once, as asyncio cancels tasks."""
        self.heeds_cancellation = True
        return self._cancelled.is_set()

    async def wait_cancelled(self) -> None:
        """Returns once cancellation is asked for."""
        self.heeds_cancellation = True
        await self._cancelled.wait()

    def cancel(self) -> None:
        """Tells the agent. Called by the worker."""
        self._cancelled.set()

    # Events

    async def emit_text(self, text: str) -> None:
        """Appends a TextDelta, or several where the text is long. Nothing is appended for an empty text. Lone
        surrogates are replaced."""
        if not isinstance(text, str):
            raise TypeError(f"emit_text: expected str, got {type(text).__name__}")
        for piece in (text,) if _is_plain(text) else pieces(text):
            await self._tell(text_delta=run_event_pb2.TextDelta(text=piece))

    async def emit_custom(self, type: str, data: Mapping[str, Any]) -> None:
        """Appends an event of your own kind. What JSON cannot hold is carried as `runwire.values` says."""
        await self.emit(run_event_pb2.CustomEvent(type=carry_text(type, _MAX_NAME_BYTES), data=carry_struct(data)))

    async def emit(self, event: Any) -> None:
        """Appends an event: TextDelta, ReasoningDelta, CustomEvent, or another payload of RunEvent.

        It belongs to the step it is emitted in. Returns once queued; waits only where too much is unwritten.
        Raises TypeError for something that is no payload.
        """
        name = _PAYLOADS.get(type(event))
        if name is None:
            raise TypeError(f"{type(event).__name__} is no payload of RunEvent; there are {sorted(_PAYLOADS.values())}")
        await self._tell(**{name: event})

    async def emit_in(self, step: int, event: Any) -> None:
        """As `emit`, in a step given by number. For adapters that number their steps themselves."""
        await self._writer.emit(step, **{_PAYLOADS[type(event)]: event})

    async def begin_body(self) -> None:
        """Starts the step of events outside of steps again, if an earlier attempt began it."""
        if self.first_step in self.past.steps and not self._replays:
            await self._body()

    def watch(self, begun: Coroutine[Any, Any, Any]) -> None:
        """Remembers it until it is awaited."""
        if len(self._unseen) >= _MAX_UNSEEN:
            self._unseen = [each for each in self._unseen if _is_unbegun(each)][:_MAX_UNSEEN]
        self._unseen.append(begun)

    def check_awaited(self) -> None:
        """Raises NeverAwaited for what was begun and not awaited."""
        forgotten = [each for each in self._unseen if _is_unbegun(each)]
        self._unseen.clear()
        for each in forgotten:
            each.close()
        if forgotten:
            names = ", ".join(sorted({f"ctx.{_name(each).rpartition('.')[2]}" for each in forgotten}))
            raise NeverAwaited(f"{names} was called and never awaited, so it was not done: await {names}(...)")

    async def end_body(self) -> None:
        """Finishes the step of events outside of steps, if it was begun. Raises NeverAwaited."""
        self.check_awaited()
        if self._body_started:
            await self._writer.emit(self.first_step, step_finished=run_event_pb2.StepFinished(name=self.agent_id))

    async def _tell(self, **payload: Any) -> None:
        step = _current_step.get()
        if not step and self._replays:
            return
        await self._writer.emit(step or (self.first_step if self._body_started else await self._body()), **payload)

    async def _body(self) -> int:
        if not self._body_started:
            self._body_started = True
            await self._writer.emit(self.first_step, step_started=run_event_pb2.StepStarted(name=self.agent_id))
        return self.first_step

    # Conversations

    @property
    def _replays(self) -> bool:
        """Whether what is done now was done in an earlier turn, and told then."""
        return self.turns is not None and self._received < self.turns.received

    @_awaited_once
    async def receive(self, message_type: Any = Any, *, output: Any = None) -> Any:
        """The next message of the conversation, as `message_type`. Ends the present turn, with this `output`, and
        waits without holding a worker.

        Raises EndOfConversation once no message will come, RuntimeError in a run that is no conversation, and
        pydantic.ValidationError for a message that is not of the type.
        """
        if self.only_model_steps:
            raise RuntimeError("receive: the messages of an agent's conversation are given to its model")
        if self.turns is None:
            raise RuntimeError("receive: this run is no conversation: start it with StartRunRequest.conversation")
        data = self.journal.get(received_key(self._received + 1))
        if data is None:
            if self.turns.inbox.is_over:
                self._received += 1
                raise EndOfConversation("no message will come: the conversation was ended")
            await self.end_body()
            raise TurnEnded(output)
        self._received += 1
        await self.begin_body()
        value = struct_pb2.Value.FromString(data)
        return TypeAdapter(message_type).validate_python(from_value(value))

    async def messages(self, message_type: Any = Any) -> AsyncIterator[Any]:
        """All further messages, until the conversation is ended: `async for message in ctx.messages()`."""
        while True:
            try:
                message = await self.receive(message_type)
            except EndOfConversation:
                return
            yield message

    # Steps

    @_awaited_once
    async def step(
        self,
        name: str,
        function: Callable[..., Awaitable[Result]],
        *args: Any,
        retry: Retry = ONCE,
        timeout_seconds: float | None = None,
    ) -> Result:
        """Does `await function(*args)` once: its result is remembered, and returned without doing it again after a
        crash. `name` identifies the step within the run and must not depend on chance or on the order of things.

        The result must be what pydantic can turn into JSON and back by the function's return annotation (without
        one: JSON types), at most 1 MiB. `retry` and `timeout_seconds` (of one try) guard it. Raises what the last
        try raised, TimeoutError, ValueError for a name used twice, JournalEntryTooLarge.
        """
        _check_step(name, function, retry, timeout_seconds)
        if self.only_model_steps:
            raise RuntimeError(
                f"step {name!r}: tools of an agent have no steps of their own; the result of a tool is remembered as a "
                "whole: make it a tool of its own, or use a workflow"
            )
        name = carry_text(name)
        key = f"step/{name}"
        self._begin(key)
        adapter: TypeAdapter[Any] = TypeAdapter(_return_type(function))
        remembered = self.journal.get(key)
        if remembered is None:
            remembered = await self._do(key, name, function, args, adapter, retry, timeout_seconds)
        return adapter.validate_json(remembered)  # type: ignore[no-any-return]

    async def _do(
        self,
        key: str,
        name: str,
        function: Callable[..., Awaitable[Any]],
        args: tuple[Any, ...],
        adapter: TypeAdapter[Any],
        retry: Retry,
        timeout_seconds: float | None,
    ) -> bytes:
        number = self._number(name)

        async def once() -> Any:
            # Each try begins the step again: readers discard what a try that failed had said.
            await self._writer.emit(number, step_started=run_event_pb2.StepStarted(name=name))
            made = function(*args)
            if not inspect.isawaitable(made):
                raise TypeError(f"step {name!r}: {_name(function)} is not async: it returned {type(made).__name__}")
            return await made

        with within_step(number), tracing.span(f"step {name}", runwire__step__name=name, runwire__step=number):
            result = await _try(once, retry, timeout_seconds)
        try:
            data = _dump(adapter, result)
        except (PydanticSerializationError, ValueError, TypeError) as error:
            raise TypeError(f"step {name!r}: what {_name(function)} returned cannot be remembered: {error}") from None
        # Each step is asked for once in an attempt.
        finished = run_event_pb2.StepFinished(name=name)
        await self.journal.record(key, data, step=number, keep=False, step_finished=finished)
        return data

    def _begin(self, key: str) -> None:
        """Raises ValueError for a name that cannot be, and for what was begun before in this attempt: two things would
        share what is remembered."""
        kind, _, name = key.partition("/")
        if not 0 < len(name) <= MAX_NAME_LENGTH or not name.isprintable():
            raise ValueError(f"{kind}: a name has 1 to {MAX_NAME_LENGTH} printable characters, got {name[:200]!r}")
        if key in self._started:
            raise ValueError(f"{kind} {name!r} was begun before in this run: each {kind} needs its own name")
        self._started.add(key)

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = self._next_number
            self._next_number += 1
        return self._numbers[name]

    async def gather(self, *unnamed: Any, **steps: Awaitable[Any]) -> dict[str, Any]:
        """Awaits several at once, by name: `await ctx.gather(a=ctx.step("a", f), b=ctx.step("b", g))`. If one fails
        the others are cancelled, and its error is raised. Raises TypeError for one without a name, and for one that
        cannot be awaited."""
        _check_gather(unnamed, steps)
        tasks: dict[str, asyncio.Task[Any]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for name, awaitable in steps.items():
                    tasks[name] = group.create_task(_awaited(awaitable), name=f"gather-{name}")
        except BaseExceptionGroup as failed:
            raise _first(failed) from None
        return {name: task.result() for name, task in tasks.items()}

    # Waiting

    @_awaited_once
    async def sleep(self, duration: float | timedelta, *, name: str = "") -> None:
        """Waits, in seconds or as a timedelta, across crashes: the moment is remembered. A sleep longer than a few
        seconds holds no worker. `name` tells sleeps apart; without one they are told apart by their order."""
        seconds = _seconds(duration, "duration")
        self._sleeps += 1
        name = carry_text(name)
        key = f"sleep/{name or self._sleeps}"
        self._begin(key)
        moment = self.journal.get(key)
        if moment is None:
            moment = repr(self.now() + seconds).encode()
            await self.journal.record(key, moment)
        remaining = float(moment) - self.now()
        if remaining > _INLINE_SLEEP_SECONDS:
            pending = run_pb2.PendingRequest(request_id=key, kind=run_pb2.PENDING_KIND_TIME, name=name or "sleep")
            pending.deadline.CopyFrom(timestamp(float(moment)))
            raise Suspended([pending], due_in=remaining)
        await asyncio.sleep(max(0.0, remaining))

    @_awaited_once
    async def suspend(
        self,
        name: str,
        data: Any = None,
        *,
        answer_type: Any = Any,
        timeout: float | timedelta | None = None,
    ) -> Any:
        """Waits until somebody answers by ResumeRun, holding no worker; returns the answer's data as `answer_type`.

        `data` tells the person who answers what it is about. Raises TimeoutError if nobody answered within `timeout`.
        """
        name = carry_text(name)
        request_id = f"suspend/{name}"
        self._begin(request_id)
        answer = self.answers.get(request_id)
        if answer is not None:
            return TypeAdapter(answer_type).validate_python(from_value(answer.data))
        pending = run_pb2.PendingRequest(
            request_id=request_id, kind=run_pb2.PENDING_KIND_DATA, name=name, arguments=_to_value(data)
        )
        if answer_type is not Any:
            pending.schema.CopyFrom(carry_struct(TypeAdapter(answer_type).json_schema(), MAX_PENDING_VALUE_BYTES))
        due_in = await self._deadline(request_id, pending, timeout)
        raise Suspended([pending], due_in=due_in)

    async def _deadline(
        self, request_id: str, pending: run_pb2.PendingRequest, timeout: float | timedelta | None
    ) -> float | None:
        if timeout is None:
            return None
        seconds = _seconds(timeout, "timeout")
        moment = self.journal.get(request_id)
        if moment is None:
            moment = repr(self.now() + seconds).encode()
            await self.journal.record(request_id, moment)
        remaining = float(moment) - self.now()
        if remaining <= 0:
            raise TimeoutError(f"nobody answered {request_id!r} in time")
        pending.deadline.CopyFrom(timestamp(float(moment)))
        return remaining

    def idempotency_key(self, tool_call: str) -> str:
        """A key for `tool_call`, the same in every attempt and in no other run: give it to whatever a tool calls, so
        that a call that is repeated after a crash takes effect once."""
        return hashlib.sha256(f"{self.tenant}\0{self.run_id}\0{tool_call}".encode()).hexdigest()[:32]


async def _try(function: Callable[[], Awaitable[Any]], retry: Retry, timeout_seconds: float | None) -> Any:
    tries = 0
    while True:
        try:
            async with asyncio.timeout(timeout_seconds):
                return await function()
        except NonRetriable:
            raise
        except Exception as error:
            tries += 1
            if tries >= retry.attempts or not isinstance(error, retry.on):
                raise
        await pause(retry.delay(tries))


def _is_unbegun(each: Coroutine[Any, Any, Any]) -> bool:
    return inspect.iscoroutine(each) and inspect.getcoroutinestate(each) == inspect.CORO_CREATED


def _check_step(name: Any, function: Any, retry: Any, timeout_seconds: Any) -> None:
    """Raises TypeError or ValueError, with what to write, for what `step` cannot do."""
    if callable(name) or inspect.isawaitable(name):
        _close(name)
        raise TypeError('step: its name is missing: ctx.step("name", function, *arguments)')
    if not isinstance(name, str):
        raise TypeError(f"step: its name must be str, got {type(name).__name__}")
    if inspect.isawaitable(function):
        _close(function)
        raise TypeError(f"step {name!r}: do not call it: ctx.step({name!r}, function, argument)")
    if not callable(function):
        raise TypeError(f"step {name!r}: expected an async function, got {type(function).__name__}")
    if not isinstance(retry, Retry):
        raise TypeError(f"step {name!r}: retry is {retry!r}; it must be a Retry: retry=Retry(attempts=3)")
    is_number = isinstance(timeout_seconds, int | float) and not isinstance(timeout_seconds, bool)
    if timeout_seconds is not None and not (is_number and timeout_seconds > 0):
        raise TypeError(f"step {name!r}: timeout_seconds is {timeout_seconds!r}; it must be a number above 0")


def _check_gather(unnamed: Sequence[Any], steps: Mapping[str, Any]) -> None:
    wrong = [name for name, step in steps.items() if not inspect.isawaitable(step)]
    if not unnamed and not wrong:
        return
    for step in (*unnamed, *steps.values()):
        _close(step)
    if unnamed:
        raise TypeError('gather: give each a name: ctx.gather(a=ctx.step("a", f), b=ctx.step("b", g))')
    raise TypeError(f"gather: {', '.join(wrong)} cannot be awaited: call the function, as ctx.step(...)")


def _close(step: Any) -> None:
    """So that Python does not complain, too, of something that was never awaited."""
    if inspect.iscoroutine(step):
        step.close()


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", None) or type(function).__name__


async def _awaited(awaitable: Awaitable[Result]) -> Result:
    return await awaitable


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """The first error of a group; what ends the attempt (Suspended, OwnershipLost) before an ordinary one."""
    flat: list[BaseException] = []
    for error in group.exceptions:
        flat.append(_first(error) if isinstance(error, BaseExceptionGroup) else error)
    return next((error for error in flat if not isinstance(error, Exception)), flat[0])


def _return_type(function: Callable[..., Any]) -> Any:
    try:
        return get_type_hints(function).get("return", Any)
    except (TypeError, NameError):
        return Any


def _is_plain(text: str) -> bool:
    """Whether it is one piece as it stands, as most are that a model says."""
    return type(text) is str and text.isascii() and 0 < len(text) <= _PIECE_LENGTH


def pieces(text: str) -> Iterator[str]:
    """A text as events carry it: in pieces, none of them empty."""
    clean = carry_text(text, len(text) * 4)
    for start in range(0, len(clean), _PIECE_LENGTH):
        yield clean[start : start + _PIECE_LENGTH]


def _to_value(data: Any) -> struct_pb2.Value:
    try:
        plain = TypeAdapter(Any).dump_python(data, mode="json")
    except Exception:
        plain = data
    return carry_value(plain, MAX_PENDING_VALUE_BYTES)


def _dump(adapter: TypeAdapter[Any], result: Any) -> bytes:
    """A step's result as it is remembered, such that it can be read back: numbers that are not finite by their names,
    as pydantic reads them, and no lone surrogates. Raises what pydantic raises where it has no JSON for a type."""
    try:
        data = adapter.dump_json(result)
    except PydanticSerializationError:
        data = None
    if data is not None and b"null" not in data:
        return data
    plain = adapter.dump_python(result)
    if _holds_nan(plain):
        # pydantic writes null for it, which is no number when it is read.
        return to_json(cleaned(plain), inf_nan_mode="constants")
    return data or to_json(cleaned(adapter.dump_python(result, mode="json")))


def _holds_nan(plain: Any) -> bool:
    if isinstance(plain, Mapping):
        return any(map(_holds_nan, plain.values()))
    if isinstance(plain, list | tuple | set | frozenset):
        return any(map(_holds_nan, plain))
    return isinstance(plain, float) and not math.isfinite(plain)


def _seconds(duration: Any, name: str) -> float:
    if not isinstance(duration, timedelta | int | float):
        raise TypeError(f"{name} is {duration!r}; it must be a number of seconds or a timedelta")
    seconds = duration.total_seconds() if isinstance(duration, timedelta) else float(duration)
    if not abs(seconds) <= MAX_TIMEOUT_SECONDS:
        raise ValueError(f"{name} is {seconds!r} s; it must be a number of at most {MAX_TIMEOUT_SECONDS} s")
    return seconds


_PAYLOADS: Final[Mapping[type, str]] = {
    run_event_pb2.StepStarted: "step_started",
    run_event_pb2.TextDelta: "text_delta",
    run_event_pb2.ReasoningDelta: "reasoning_delta",
    run_event_pb2.ToolCallDelta: "tool_call_delta",
    run_event_pb2.OutputDelta: "output_delta",
    run_event_pb2.CitationAdded: "citation_added",
    run_event_pb2.ToolCallRetried: "tool_call_retried",
    run_event_pb2.ToolCallStarted: "tool_call_started",
    run_event_pb2.ToolCallFinished: "tool_call_finished",
    run_event_pb2.StepFinished: "step_finished",
    run_event_pb2.CustomEvent: "custom",
}
