"""The steps of one attempt at a pydantic-ai agent: what is told to the log, and what is remembered in the journal.

Step k is the k-th request to the model with the tools that its response calls. After a crash the agent's loop runs
again from its beginning, and what the journal holds is returned instead of being done:

    steer/<step>/<n>                 message of the conversation that was given to the model with that request
    model/<step>                     response of the model, recorded when it is complete
    tool/<step>/<call>               result of a tool: what it returned, or that it asked the model to try again
    began/<step>/<call>/<n>          a tool that must not be repeated was begun for the n-th time
    unknown/<step>/<call>            it died inside, and the model was told so
    failed/<step>/<call>/<n>         the tool raised for the n-th time (see `tries`)
    answer/<step>                    the answer was not the model's own (a cache, a guard), and was told
    unit/<step>/<call>/<name>/<n>    anything else that pydantic-ai wants done once

A tool that waits for an approval, or for somebody else to execute it, has no result yet and leaves no entry. Calls are
told apart by their step and id, never by the order in which parallel ones arrive.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from google.protobuf import struct_pb2
from pydantic_ai.durable_exec import JSON_CODEC
from pydantic_ai.exceptions import (
    ModelConnectionError,
    ModelRateLimitError,
    ModelServerError,
    ModelTimeoutError,
    ModelUnavailableError,
)
from pydantic_ai.messages import (
    AgentStreamEvent,
    FunctionToolCallEvent,
    FunctionToolResultEvent,
    ModelResponse,
    NativeToolCallPart,
    NativeToolReturnPart,
    PartDeltaEvent,
    PartEndEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolCallPartDelta,
    ToolReturnPart,
    UserContent,
)
from pydantic_ai.usage import RunUsage
from pydantic_core import PydanticSerializationError, from_json, to_json

from agent_service.agents.context import Retry, RunContext, pieces, within_step
from agent_service.agents.current import within_call
from agent_service.agents.pauses import pause
from agent_service.pydantic_ai.events import (
    citations,
    finished,
    is_deferred,
    native,
    outcome_of,
    result_of,
    started,
)
from agent_service.pydantic_ai.growth import Growth
from agent_service.pydantic_ai.prompt import read
from agent_service.pydantic_ai.replay import record_durable_unit
from agent_service.pydantic_ai.tries import Failure, ToolPolicy, Tries
from runwire import tracing
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.values import carry_text, cleaned

logger = logging.getLogger("agent_service")

AfterCrash = Literal["tell_model", "suspend"]
"""What is done about a tool that must not be repeated and was cut by a crash."""
Body = Callable[[], Awaitable[Any]]

UNKNOWN_AFTER_CRASH: Final = (
    "unknown_after_crash: the system stopped while this tool was running. Nobody knows whether it took effect, and it "
    "was not run again."
)
"""What the model is told of a tool that must not be repeated and was cut by a crash."""

_DELEGATED: Final = "runwire_delegated"
"""In the entry of a tool call: requests, input tokens, output tokens and tool calls of the agents that it ran."""
_PASSING: Final = (ModelRateLimitError, ModelUnavailableError, ModelServerError, ModelConnectionError)
"""Errors of a provider after which the same request may succeed."""


@dataclass(frozen=True, slots=True)
class _Call:
    """The tool call that a task is about."""

    part: ToolCallPart
    usage: RunUsage
    """What pydantic-ai counts for the whole run. Agents that the tool runs add to it, if they are given it."""
    after_crash: AfterCrash | None
    """None: the tool may be repeated."""


_call: Final[ContextVar[_Call | None]] = ContextVar("runwire_tool_call", default=None)


class Steps:
    """Tells and remembers the steps of one attempt. `run.usage` is kept at what the whole run has used."""

    def __init__(self, run: RunContext, retry: Retry, policy: ToolPolicy, stall_seconds: float) -> None:
        self._run = run
        self._journal = run.journal
        self._retry = retry
        self._tries = Tries(run.journal, run.now, policy)
        self._stall_seconds = stall_seconds
        self.number = run.first_step - 1
        """Of the latest request to the model."""
        self._usage = run_pb2.Usage()
        """Of the present step."""
        self._finished = {number for number, step in run.past.steps.items() if step.finished}
        self._told = {(number, call_id) for number, step in run.past.steps.items() for call_id in step.told}
        """Tool calls whose end is in the log."""
        self._parts: dict[str, ToolCallPart] = {}
        self._answered: set[str] = set()
        self._units: Counter[str] = Counter()
        self._own = run_pb2.Usage()
        """Of this agent's own requests and tool calls, in this attempt, remembered ones included."""
        self._delegated = run_pb2.Usage()
        """Of other agents, as far as it stands in the journal."""
        self._answer: tuple[str, str] | None = None
        """What was told of the latest request, until `answered` has seen it: thoughts, and text."""
        self._said: list[str] = []
        """Text that was told since the present step began."""
        self._texts: dict[int, list[str]] = {}
        """All text of each step, in a conversation."""
        self.given: list[str | list[UserContent]] = []
        """Messages that have steered the present turn."""
        self._silence: asyncio.Timeout | None = None
        self.growth = Growth(self._tell)
        self._native: set[tuple[str, str]] = set()
        """Parts that the provider executed, and that were told since the present step began."""
        self._count_remembered()

    @property
    def text(self) -> str:
        """What was said in the present turn of a conversation."""
        return "".join(piece for _, pieces in sorted(self._texts.items()) for piece in pieces)

    async def steered(self) -> list[str | list[UserContent]]:
        """Messages of the conversation to give to the model with its next request: those that are remembered, and
        where the request is still to be made those that have come since."""
        if self._run.turns is None:
            return []
        step = self.number + 1
        messages: list[str | list[UserContent]] = []
        while (data := self._journal.get(f"steer/{step}/{len(messages) + 1}")) is not None:
            messages.append(read(struct_pb2.Value.FromString(data)))
        while self._journal.get(f"model/{step}") is None and (message := await self._run.turns.steer()) is not None:
            value = message.value or struct_pb2.Value()
            received = run_event_pb2.MessageReceived(message=value, message_number=message.number, mode=message.mode)
            await self._journal.record(
                f"steer/{step}/{len(messages) + 1}",
                value.SerializeToString(),
                also=self._run.turns.consume(message),
                message_received=received,
            )
            messages.append(read(value))
        self.given += messages
        return messages

    # Requests to the model

    async def request(self, body: Body) -> Any:
        """The payload of the next request: remembered, or that of `body`, which may be tried several times."""
        await self.finish()
        self.number += 1
        key = f"model/{self.number}"
        payload = self._recall(key)
        if payload is None:
            try:
                payload = await self._traced_ask(body)
            except BaseException:
                # Another model may be asked instead: that is the same step, so that a replay finds its response.
                self.number -= 1
                raise
            await self._tell_unsaid(payload)
            await self._tell_sources(_response(payload))
            await self._journal.record(key, _json(payload))
            _add(self._run.usage, _usage(payload))
        self._usage = _usage(payload)
        self._texts.setdefault(self.number, [_spoken(_response(payload))[1]])
        _add(self._own, self._usage)
        self._answer = _spoken(_response(payload))
        self._parts.clear()
        return payload

    async def _tell_unsaid(self, payload: Any) -> None:
        """Tells the text of a response that came without being streamed."""
        if not self._said:
            await self._tell_text(_spoken(_response(payload))[1])

    async def answered(self, response: ModelResponse) -> None:
        """Takes the response that the agent continues with. If it is not what was told, because a cache answered, or
        because a guard has changed it, the step is told again with this text."""
        told, self._answer = self._answer, None
        thoughts, text = _spoken(response)
        if told is not None and told[1] == text:
            return
        if told is None:
            await self.finish()
            self.number += 1
            self._usage = run_pb2.Usage()
            self._parts.clear()
        key = f"answer/{self.number}"
        if self._journal.get(key) is not None:
            return
        self._finished.discard(self.number)
        await self._tell(run_event_pb2.StepStarted(name="model"))
        for piece in pieces(thoughts):
            await self._tell(run_event_pb2.ReasoningDelta(text=piece))
        await self._tell_text(text)
        self._native.clear()
        await self._tell_sources(response)
        await self._journal.record(key, b"1")

    async def _tell_sources(self, response: ModelResponse) -> None:
        """Tells what the provider executed itself, unless that was told while it happened, and what it cites."""
        for part in response.parts:
            if isinstance(part, NativeToolCallPart | NativeToolReturnPart):
                await self._tell_native(part)
        for citation in citations(response):
            await self._tell(citation)

    async def _tell_native(self, part: NativeToolCallPart | NativeToolReturnPart) -> None:
        if (key := (part.tool_call_id, part.part_kind)) not in self._native:
            self._native.add(key)
            await self._tell(native(part))

    async def _tell_text(self, text: str) -> None:
        for piece in pieces(text):
            await self._tell(run_event_pb2.TextDelta(text=piece))

    async def _traced_ask(self, body: Body) -> Any:
        with tracing.span("chat", kind="client", gen_ai__operation__name="chat", runwire__step=self.number) as span:
            payload = await self._ask(body)
            if tracing.is_on():
                response = _response(payload)
                span.rename(f"chat {response.model_name or 'model'}")
                span.set(
                    gen_ai__response__model=response.model_name,
                    gen_ai__provider__name=response.provider_name,
                    gen_ai__response__id=response.provider_response_id,
                    gen_ai__usage__input_tokens=response.usage.input_tokens,
                    gen_ai__usage__output_tokens=response.usage.output_tokens,
                )
                span.say("gen_ai.output.messages", lambda: _spoken(response)[1])
            return payload

    async def _ask(self, body: Body) -> Any:
        tries = 0
        while True:
            self._finished.discard(self.number)
            self._told = {(number, call) for number, call in self._told if number != self.number}
            self._said.clear()
            self._native.clear()
            self.growth.clear()
            await self._tell(run_event_pb2.StepStarted(name="model"))
            try:
                return await self._unless_silent(body)
            except _PASSING as error:
                tries += 1
                if tries >= self._retry.attempts:
                    raise
                delay = max(self._retry.delay(tries), min(error.retry_after or 0.0, self._retry.max_delay_seconds))
            await pause(delay)

    async def _unless_silent(self, body: Body) -> Any:
        """Gives a provider up that sends nothing for too long."""
        try:
            async with asyncio.timeout(self._stall_seconds) as self._silence:
                return await body()
        except TimeoutError:
            if self._silence is None or not self._silence.expired():
                raise
            raise ModelTimeoutError("model", f"the model sent nothing for {self._stall_seconds:g} s") from None
        finally:
            self._silence = None

    async def finish(self) -> None:
        """Tells that the present step is done, unless the log says so."""
        if self.number >= self._run.first_step and self.number not in self._finished:
            self._finished.add(self.number)
            await self._tell(run_event_pb2.StepFinished(name="model", usage=self._usage))

    # Events

    async def hear(self, _context: Any, events: AsyncIterable[AgentStreamEvent]) -> None:
        """Tells what pydantic-ai tells: text while the model speaks, and the end of tool calls that were not
        executed here."""
        async for event in events:
            self._heard()
            match event:
                case (
                    PartStartEvent(part=TextPart(content=text))
                    | PartDeltaEvent(delta=TextPartDelta(content_delta=text))
                ):
                    for piece in pieces(text):
                        self._said = [piece]
                        await self._tell(run_event_pb2.TextDelta(text=piece))
                case (
                    PartStartEvent(part=ThinkingPart(content=thought))
                    | PartDeltaEvent(delta=ThinkingPartDelta(content_delta=thought))
                ):
                    for piece in pieces(thought or ""):
                        await self._tell(run_event_pb2.ReasoningDelta(text=piece))
                case PartStartEvent(index=index, part=ToolCallPart() as part):
                    await self.growth.begin(index, part)
                case PartDeltaEvent(index=index, delta=ToolCallPartDelta() as delta):
                    await self.growth.grow(index, delta)
                case PartEndEvent(part=NativeToolCallPart() | NativeToolReturnPart() as part):
                    await self._tell_native(part)
                case PartEndEvent(index=index, part=ToolCallPart()):
                    await self.growth.end(index)
                case FunctionToolCallEvent(part=part):
                    self._parts[part.tool_call_id] = part
                case FunctionToolResultEvent(part=part):
                    await self._tell_result(part)

    def _heard(self) -> None:
        """Puts off giving the provider up."""
        if self._silence is not None:
            self._silence.reschedule(asyncio.get_running_loop().time() + self._stall_seconds)

    async def _tell_result(self, result: ToolReturnPart) -> None:
        """Of a call that no tool was executed for: wrong arguments, an unknown tool, a denial, somebody else's
        result. A call that was skipped because the run was over is not told."""
        key = (self.number, result.tool_call_id)
        skipped = result.outcome == "success" and result.tool_call_id not in self._answered
        if key in self._told or skipped:
            return
        self._told.add(key)
        part = self._parts.get(result.tool_call_id) or ToolCallPart(result.tool_name, {}, result.tool_call_id)
        await self._tell(started(part))
        await self._tell(finished(part, result.model_response_object(), outcome_of(result)))

    async def _tell(self, event: Any) -> None:
        if self._run.turns is not None:
            if isinstance(event, run_event_pb2.StepStarted):
                self._texts[self.number] = []
            elif isinstance(event, run_event_pb2.TextDelta):
                self._texts.setdefault(self.number, []).append(event.text)
        await self._run.emit_in(self.number, event)

    # Tools

    @contextmanager
    def calling(self, part: ToolCallPart, usage: RunUsage, after_crash: AfterCrash | None = None) -> Iterator[None]:
        """What is done in it is done for this tool call."""
        token = _call.set(_Call(part, usage, after_crash))
        try:
            with within_call(f"{self.number}/{part.tool_call_id}"), within_step(self.number):
                yield
        finally:
            _call.reset(token)

    async def tool(self, body: Body) -> Any:
        """The payload of the current tool call: remembered, or that of `body`."""
        call = _call.get()
        assert call is not None, "a tool is executed outside of a tool call"
        key = f"tool/{self._id(call.part)}"
        payload = self._recall(key)
        if payload is None:
            failures = self._tries.of(self._id(call.part))
            if failures and failures[-1].is_end:
                self._told.add((self.number, call.part.tool_call_id))
                raise failures[-1].again()
            await self._begin(call)
            payload = await self._traced_execute(call, body, failures)
            if is_deferred(payload):
                return payload
            self._told.add((self.number, call.part.tool_call_id))
            end = finished(call.part, *result_of(payload))
            delegated = self._take_delegated(call.usage)
            data = _json({**payload, _DELEGATED: delegated} if any(delegated) else payload)
            await self._journal.record(key, data, step=self.number, tool_call_finished=end)
            self._run.usage.tool_calls += 1
        elif delegated := payload.pop(_DELEGATED, None):
            self._count_delegated(delegated, call.usage)
        self._usage.tool_calls += 1
        self._own.tool_calls += 1
        return payload

    def _take_delegated(self, usage: RunUsage) -> tuple[int, int, int, int]:
        """What other agents have used that stands in no entry yet. Of tools that run at once it is told with the one
        that ends first: the sum is right."""
        known = self._delegated
        more = (
            usage.requests - self._own.requests - known.requests,
            usage.input_tokens - self._own.input_tokens - known.input_tokens,
            usage.output_tokens - self._own.output_tokens - known.output_tokens,
            usage.tool_calls - self._own.tool_calls - known.tool_calls,
        )
        taken = tuple(max(0, count) for count in more)
        _add(known, _of_counts(taken))
        _add(self._run.usage, _of_counts(taken))
        _add(self._usage, _of_counts(taken))
        return taken  # type: ignore[return-value]

    def _count_delegated(self, delegated: Sequence[int], usage: RunUsage) -> None:
        """Lets pydantic-ai count what a remembered call had used, so that limits hold over attempts."""
        used = _of_counts(delegated)
        usage.incr(
            RunUsage(
                requests=used.requests,
                input_tokens=used.input_tokens,
                output_tokens=used.output_tokens,
                tool_calls=used.tool_calls,
            )
        )
        _add(self._delegated, used)
        _add(self._usage, used)

    async def _begin(self, call: _Call) -> None:
        beginning = started(call.part)
        if call.after_crash is None:
            await self._tell(beginning)
        else:
            key = f"began/{self._id(call.part)}/{self._times_begun(call.part) + 1}"
            await self._journal.record(key, b"1", step=self.number, tool_call_started=beginning)

    async def _traced_execute(self, call: _Call, body: Body, failures: list[Failure]) -> Any:
        part = call.part
        with tracing.span(
            f"execute_tool {part.tool_name}",
            gen_ai__operation__name="execute_tool",
            gen_ai__tool__name=part.tool_name,
            gen_ai__tool__call__id=part.tool_call_id,
            runwire__step=self.number,
        ) as span:
            span.say("gen_ai.tool.call.arguments", part.args_as_json_str)
            payload = await self._execute(call, body, failures)
            span.say("gen_ai.tool.call.result", lambda: payload)
            return payload

    async def _execute(self, call: _Call, body: Body, failures: list[Failure]) -> Any:
        """What the tool returned, or what the model is told of its failure. Raises what it raised for the last time."""
        name = self._id(call.part)
        while True:
            if failures and failures[-1].told_model:
                return {"kind": "tool_failed", "message": failures[-1].words()}
            if failures:
                await self._tries.pause(failures[-1])
            try:
                return await body()
            except Exception as error:
                repeatable = call.after_crash is None
                last = await self._tries.failed(name, call.part, failures, error, self.number, repeatable)
                failures.append(last)
                if last.is_end:
                    self._told.add((self.number, call.part.tool_call_id))
                    raise
                logger.warning(
                    "tool %s: %s in try %d: %s", call.part.tool_name, last.error_class, len(failures), last.message
                )

    def died_inside(self, part: ToolCallPart) -> bool:
        """Whether a tool that must not be repeated was begun for this call and never ended."""
        if self._times_begun(part) == 0 or self._journal.get(f"tool/{self._id(part)}") is not None:
            return False
        return not self._tries.of(self._id(part))  # where it raised it was not cut

    async def give_up(self, part: ToolCallPart) -> str:
        """Tells, once, that nobody knows whether the tool took effect; returns what the model is told."""
        key = f"unknown/{self._id(part)}"
        self._told.add((self.number, part.tool_call_id))
        if self._journal.get(key) is None:
            end = finished(part, UNKNOWN_AFTER_CRASH, run_event_pb2.TOOL_CALL_OUTCOME_UNKNOWN_AFTER_CRASH)
            await self._journal.record(key, b"1", step=self.number, tool_call_finished=end)
        return UNKNOWN_AFTER_CRASH

    def request_id(self, part: ToolCallPart) -> str:
        """Of the question to a person that this call waits for. One that died inside is asked about again each time."""
        if self.died_inside(part):
            return f"unknown/{self._id(part)}/{self._times_begun(part)}"
        return f"tool/{self._id(part)}"

    def answer(self, part: ToolCallPart) -> run_event_pb2.Answer | None:
        """What was answered to `request_id`."""
        answer = self._run.answers.get(self.request_id(part))
        if answer is not None:
            self._answered.add(part.tool_call_id)
        return answer

    def _times_begun(self, part: ToolCallPart) -> int:
        times = 0
        while self._journal.get(f"began/{self._id(part)}/{times + 1}") is not None:
            times += 1
        return times

    def _id(self, part: ToolCallPart) -> str:
        return f"{self.number}/{carry_text(part.tool_call_id)}"

    # Anything else

    async def unit(self, name: str, body: Body) -> Any:
        """The payload of something else that is done once, named by its place in the run."""
        call = _call.get()
        place = carry_text(f"unit/{self.number}/{call.part.tool_call_id if call else ''}/{name}")
        self._units[place] += 1
        key = f"{place}/{self._units[place]}"
        payload = self._recall(key)
        if payload is None:
            payload = await body()
            # Alone in a list, because None is a result too.
            await self._journal.record(key, _json([payload]))
            return payload
        return payload[0]

    def _recall(self, key: str) -> Any:
        data = self._journal.get(key)
        record_durable_unit(executed=data is None)
        return None if data is None else from_json(data)

    def _count_remembered(self) -> None:
        """What earlier attempts used: the journal knows it even where an attempt died."""
        self._run.usage.CopyFrom(self._run.base_usage)
        for key in sorted(self._journal.keys()):
            if key.startswith("model/"):
                _add(self._run.usage, _usage(from_json(self._journal.get(key) or b"")))
            elif key.startswith("tool/"):
                self._run.usage.tool_calls += 1
                payload = from_json(self._journal.get(key) or b"{}")
                _add(self._run.usage, _of_counts(payload.get(_DELEGATED, (0, 0, 0, 0))))


def _response(payload: Any) -> ModelResponse:
    return cast(ModelResponse, JSON_CODEC.load(ModelResponse, payload))


def _spoken(response: ModelResponse) -> tuple[str, str]:
    """The thoughts and the text of a response."""
    thoughts = "".join(part.content for part in response.parts if isinstance(part, ThinkingPart))
    return thoughts, "".join(part.content for part in response.parts if isinstance(part, TextPart))


def _of_counts(counts: Sequence[int]) -> run_pb2.Usage:
    requests, input_tokens, output_tokens, tool_calls = counts
    return run_pb2.Usage(
        requests=requests, input_tokens=input_tokens, output_tokens=output_tokens, tool_calls=tool_calls
    )


def _json(payload: Any) -> bytes:
    """A payload as it is remembered. Lone surrogates, which a model may send as half an emoji, are replaced."""
    try:
        return to_json(payload)
    except (PydanticSerializationError, UnicodeEncodeError):
        return to_json(cleaned(payload))


def _usage(payload: Any) -> run_pb2.Usage:
    usage = _response(payload).usage
    return run_pb2.Usage(requests=1, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)


def _add(total: run_pb2.Usage, more: run_pb2.Usage) -> None:
    total.requests += more.requests
    total.input_tokens += more.input_tokens
    total.output_tokens += more.output_tokens
    total.tool_calls += more.tool_calls
