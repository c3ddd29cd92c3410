"""The steps of one attempt at a pydantic-ai agent: what is told to the log, and what is remembered in the journal.

Step k is the k-th request to the model with the tools that its response calls. After a crash the agent's loop runs
again from its beginning, and what the journal holds is returned instead of being done:

    model/<step>                     response of the model, recorded when it is complete
    tool/<step>/<call>               result of a tool: what it returned, or that it asked the model to try again
    began/<step>/<call>/<n>          a tool that must not be repeated was begun for the n-th time
    unknown/<step>/<call>            it died inside, and the model was told so
    unit/<step>/<call>/<name>/<n>    anything else that pydantic-ai wants done once

A tool that waits for an approval, or for somebody else to execute it, has no result yet and leaves no entry. Calls are
told apart by their step and id, never by the order in which parallel ones arrive.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Literal

from pydantic_ai.durable_exec import JSON_CODEC, record_durable_unit
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
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ThinkingPart,
    ThinkingPartDelta,
    ToolCallPart,
    ToolReturnPart,
)
from pydantic_core import from_json, to_json

from agent_service.context import Retry, RunContext, within_step
from agent_service.current import within_call
from agent_service.pydantic_ai_events import finished, is_deferred, outcome_of, result_of, started
from runwire.agent.v1 import run_event_pb2, run_pb2

AfterCrash = Literal["tell_model", "suspend"]
"""What is done about a tool that must not be repeated and was cut by a crash."""
Body = Callable[[], Awaitable[Any]]

UNKNOWN_AFTER_CRASH: Final = (
    "unknown_after_crash: the system stopped while this tool was running. Nobody knows whether it took effect, and it "
    "was not run again."
)
"""What the model is told of a tool that must not be repeated and was cut by a crash."""

_PASSING: Final = (ModelRateLimitError, ModelUnavailableError, ModelServerError, ModelConnectionError)
"""Errors of a provider after which the same request may succeed."""


@dataclass(frozen=True, slots=True)
class _Call:
    """The tool call that a task is about."""

    part: ToolCallPart
    after_crash: AfterCrash | None
    """None: the tool may be repeated."""


_call: Final[ContextVar[_Call | None]] = ContextVar("runwire_tool_call", default=None)


class Steps:
    """Tells and remembers the steps of one attempt. `run.usage` is kept at what the whole run has used."""

    def __init__(self, run: RunContext, retry: Retry, stall_seconds: float) -> None:
        self._run = run
        self._journal = run.journal
        self._retry = retry
        self._stall_seconds = stall_seconds
        self.number = 0
        """Of the latest request to the model."""
        self._usage = run_pb2.Usage()
        """Of the present step."""
        self._finished = {number for number, step in run.past.steps.items() if step.finished}
        self._told = {(number, call_id) for number, step in run.past.steps.items() for call_id in step.told}
        """Tool calls whose end is in the log."""
        self._parts: dict[str, ToolCallPart] = {}
        self._answered: set[str] = set()
        self._units: Counter[str] = Counter()
        self._silence: asyncio.Timeout | None = None
        self._count_remembered()

    # Requests to the model

    async def request(self, body: Body) -> Any:
        """The payload of the next request: remembered, or that of `body`, which may be tried several times."""
        await self.finish()
        self.number += 1
        key = f"model/{self.number}"
        payload = self._recall(key)
        if payload is None:
            try:
                payload = await self._ask(body)
            except BaseException:
                # Another model may be asked instead: that is the same step, so that a replay finds its response.
                self.number -= 1
                raise
            await self._journal.record(key, to_json(payload))
            _add(self._run.usage, _usage(payload))
        self._usage = _usage(payload)
        self._parts.clear()
        return payload

    async def _ask(self, body: Body) -> Any:
        tries = 0
        while True:
            self._finished.discard(self.number)
            self._told = {(number, call) for number, call in self._told if number != self.number}
            await self._tell(run_event_pb2.StepStarted(name="model"))
            try:
                return await self._unless_silent(body)
            except _PASSING as error:
                tries += 1
                if tries >= self._retry.attempts:
                    raise
                delay = max(self._retry.delay(tries), min(error.retry_after or 0.0, self._retry.max_delay_seconds))
            await asyncio.sleep(delay)

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
        if self.number and self.number not in self._finished:
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
                    if text:
                        await self._tell(run_event_pb2.TextDelta(text=text))
                case (
                    PartStartEvent(part=ThinkingPart(content=thought))
                    | PartDeltaEvent(delta=ThinkingPartDelta(content_delta=thought))
                ):
                    if thought:
                        await self._tell(run_event_pb2.ReasoningDelta(text=thought))
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
        await self._run.emit_in(self.number, event)

    # Tools

    @contextmanager
    def calling(self, part: ToolCallPart, after_crash: AfterCrash | None = None) -> Iterator[None]:
        """What is done in it is done for this tool call."""
        token = _call.set(_Call(part, after_crash))
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
            await self._begin(call)
            payload = await self._execute(call.part, body)
            if is_deferred(payload):
                return payload
            self._told.add((self.number, call.part.tool_call_id))
            end = finished(call.part, *result_of(payload))
            await self._journal.record(key, to_json(payload), step=self.number, tool_call_finished=end)
            self._run.usage.tool_calls += 1
        self._usage.tool_calls += 1
        return payload

    async def _begin(self, call: _Call) -> None:
        beginning = started(call.part)
        if call.after_crash is None:
            await self._tell(beginning)
        else:
            key = f"began/{self._id(call.part)}/{self._times_begun(call.part) + 1}"
            await self._journal.record(key, b"1", step=self.number, tool_call_started=beginning)

    async def _execute(self, part: ToolCallPart, body: Body) -> Any:
        try:
            return await body()
        except Exception:
            # It ends the run, whose error says more.
            self._told.add((self.number, part.tool_call_id))
            await self._tell(finished(part, None, run_event_pb2.TOOL_CALL_OUTCOME_FAILED))
            raise

    def died_inside(self, part: ToolCallPart) -> bool:
        """Whether a tool that must not be repeated was begun for this call and never ended."""
        return self._times_begun(part) > 0 and self._journal.get(f"tool/{self._id(part)}") is None

    async def give_up(self, part: ToolCallPart) -> str:
        """Tells, once, that nobody knows whether the tool took effect; returns what the model is told."""
        key = f"unknown/{self._id(part)}"
        self._told.add((self.number, part.tool_call_id))
        if self._journal.get(key) is None:
            end = finished(part, UNKNOWN_AFTER_CRASH, run_event_pb2.TOOL_CALL_OUTCOME_UNKNOWN_AFTER_CRASH)
            await self._journal.record(key, b"1", step=self.number, tool_call_finished=end)
        return UNKNOWN_AFTER_CRASH

    def request_id(self, part: ToolCallPart) -> str:
        """Of the question to a person that this call waits for. One that died inside is asked about anew each time."""
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
        return f"{self.number}/{part.tool_call_id}"

    # Anything else

    async def unit(self, name: str, body: Body) -> Any:
        """The payload of something else that is done once, named by its place in the run."""
        call = _call.get()
        place = f"unit/{self.number}/{call.part.tool_call_id if call else ''}/{name}"
        self._units[place] += 1
        key = f"{place}/{self._units[place]}"
        payload = self._recall(key)
        if payload is None:
            payload = await body()
            # Alone in a list, because None is a result too.
            await self._journal.record(key, to_json([payload]))
            return payload
        return payload[0]

    def _recall(self, key: str) -> Any:
        data = self._journal.get(key)
        record_durable_unit(executed=data is None)
        return None if data is None else from_json(data)

    def _count_remembered(self) -> None:
        """What earlier attempts used: the journal knows it even where an attempt died."""
        self._run.usage.Clear()
        for key in sorted(self._journal.keys()):
            if key.startswith("model/"):
                _add(self._run.usage, _usage(from_json(self._journal.get(key) or b"")))
            elif key.startswith("tool/"):
                self._run.usage.tool_calls += 1


def _usage(payload: Any) -> run_pb2.Usage:
    usage = JSON_CODEC.load(ModelResponse, payload).usage
    return run_pb2.Usage(requests=1, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens)


def _add(total: run_pb2.Usage, more: run_pb2.Usage) -> None:
    total.requests += more.requests
    total.input_tokens += more.input_tokens
    total.output_tokens += more.output_tokens
