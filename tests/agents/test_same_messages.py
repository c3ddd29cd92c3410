"""The model is sent the same under pydantic-ai's own `agent.run` and served here: messages, tools, settings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import (
    Agent,
    DeferredToolRequests,
    DeferredToolResults,
    ModelResponse,
    ModelRetry,
    NativeOutput,
    PromptedOutput,
    RunContext,
    TextOutput,
    ToolDenied,
    ToolOutput,
    ToolReturn,
)
from pydantic_ai.capabilities import AbstractCapability, PrepareTools, ProcessHistory
from pydantic_ai.exceptions import ApprovalRequired, CallDeferred, ToolFailed, UnexpectedModelBehavior
from pydantic_ai.messages import (
    ImageUrl,
    ModelMessage,
    ModelMessagesTypeAdapter,
    TextPart,
    ThinkingPart,
    ToolCallPart,
)
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.tools import ToolApproved, ToolDefinition
from pydantic_ai.toolsets import CombinedToolset, DynamicToolset, ExternalToolset, FunctionToolset
from pydantic_core import to_jsonable_python

from agent_service import durable_agent
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.client import approve, deny, supply
from runwire.parts import image
from tests.agents.stage import Stage

Reply = ModelResponse
Said = str | ToolCallPart | ThinkingPart
_OF_THE_RUN = ("timestamp", "run_id", "conversation_id", "toolset_id")
"""The last is the toolset that a call is remembered by, and nothing that a model is told."""


class Model:
    """Follows a script, and keeps what it is sent."""

    def __init__(self, *script: Said | list[Said], streams: bool = True) -> None:
        self.sent: list[Any] = []
        self._script = script
        self.served = FunctionModel(self._answer, stream_function=self._speak if streams else None, model_name="local")

    def _reply(self, messages: list[ModelMessage], info: AgentInfo) -> list[Said]:
        place = sum(message.kind == "response" for message in messages)
        self.sent.append((_plain(ModelMessagesTypeAdapter.dump_python(messages)), _plain(to_jsonable_python(info))))
        reply = self._script[min(place, len(self._script) - 1)]
        return reply if isinstance(reply, list) else [reply]

    async def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        said = self._reply(messages, info)
        return ModelResponse([TextPart(each) if isinstance(each, str) else each for each in said])

    async def _speak(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[Any]:
        for number, each in enumerate(self._reply(messages, info)):
            if isinstance(each, str):
                yield each
            elif isinstance(each, ThinkingPart):
                yield {number: DeltaThinkingPart(content=each.content)}
            else:
                yield {number: DeltaToolCall(each.tool_name, each.args_as_json_str(), tool_call_id=each.tool_call_id)}


def _plain(value: Any) -> Any:
    """Without what no two runs share; what a model says in pieces and at once is counted alike."""
    if isinstance(value, dict):
        kept = {key: _plain(item) for key, item in value.items() if key not in (*_OF_THE_RUN, "usage")}
        if isinstance(kept.get("args"), str):
            kept["args"] = to_jsonable_python(ToolCallPart("x", kept["args"]).args_as_dict())
        return kept
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def call(tool: str, call_id: str = "a", **arguments: Any) -> ToolCallPart:
    return ToolCallPart(tool, arguments, call_id)


@dataclass
class Case:
    """An agent, what it is asked, and what a person answers."""

    agent: Callable[[Any], Agent[Any, Any]]
    script: tuple[Said | list[Said], ...] = ("done",)
    prompt: Any = "question"
    content: Any = None
    """The prompt as pydantic-ai has it, where that is another."""
    deps: Any = None
    results: Callable[[DeferredToolRequests], DeferredToolResults] | None = None
    answers: Callable[[run_pb2.PendingRequest], run_event_pb2.Answer] | None = None
    streams: bool = True
    fails: bool = False
    requests: int = 1
    """At least so many."""
    more: list[str] = field(default_factory=list)
    """Further messages of a conversation."""


CASES: dict[str, Case] = {}


def case(name: str, *script: Said | list[Said], **given: Any) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    def add(build: Callable[[Any], Any]) -> Callable[[Any], Any]:
        CASES[name] = Case(build, script or ("done",), **given)
        return build

    return add


def made(model: Any, **given: Any) -> Agent[Any, Any]:
    return Agent(model, name="agent", **given)


class City(BaseModel):
    """Where it is."""

    name: str
    people: int = 0


class Country(BaseModel):
    country: str


case("text")(made)
case("instructions")(lambda model: made(model, instructions="Be brief."))
case("system prompt")(lambda model: made(model, system_prompt=("Be brief.", "Be kind.")))
case("settings")(lambda model: made(model, model_settings={"temperature": 0.1, "max_tokens": 7}))
case("without streaming", [call("look", city="Rome")], "done", streams=False, requests=2)(lambda model: tools(model))
case("thoughts", [ThinkingPart("hm"), call("look", city="Rome")], "done", requests=2)(lambda model: tools(model))
case("text beside a call", ["I look.", call("look", city="Rome")], "done", requests=2)(lambda model: tools(model))
case("tool", call("look", city="Rome"), "done", requests=2)(lambda model: tools(model))
case("tools at once", [call("look", "a", city="Rome"), call("look", "b", city="Oslo")], "done", requests=2)(
    lambda model: tools(model)
)
case("wrong arguments", call("look", town=1), call("look", "b", city="Oslo"), "done", requests=3)(
    lambda model: tools(model)
)
case("unknown tool", call("fly"), call("look", "b", city="Oslo"), "done", requests=3)(lambda model: tools(model))
case("parts", prompt=["What?", image("https://e.org/a.png")], content=["What?", ImageUrl("https://e.org/a.png")])(made)
case(
    "conversation", call("look", city="Rome"), "one", call("look", "c", city="Oslo"), "two", more=["again"], requests=4
)(lambda model: tools(model, instructions="Be brief."))
case("output type", call("final_result", name="Rome"), deps=None)(lambda model: made(model, output_type=City))
case("output of several types", call("final_result_Country", country="It"))(
    lambda model: made(model, output_type=[City, Country])
)
case("named output", call("answer", name="Rome"))(
    lambda model: made(model, output_type=ToolOutput(City, name="answer", description="At the end."))
)
case("wrong output", call("final_result", people="many"), call("final_result", "b", name="Rome"), requests=2)(
    lambda model: made(model, output_type=City)
)
case("native output", '{"name": "Rome"}')(lambda model: made(model, output_type=NativeOutput(City)))
case("prompted output", '{"name": "Rome"}')(lambda model: made(model, output_type=PromptedOutput(City)))
case("text function", "rome")(lambda model: made(model, output_type=TextOutput(loud)))
case("list output", call("final_result", response=["a", "b"]))(lambda model: made(model, output_type=list[str]))


def tools(model: Any, **given: Any) -> Agent[Any, Any]:
    agent = made(model, **given)

    @agent.tool_plain
    def look(city: str) -> dict[str, str]:
        """Looks at a city.

        Args:
            city: Its name.
        """
        return {"seen": city}

    return agent


@case("instructions by a function", call("look", city="Rome"), "done", deps="Ada", requests=2)
def dynamic(model: Any) -> Agent[Any, Any]:
    agent = tools(model, deps_type=str, instructions="Be brief.")

    @agent.instructions
    async def of_whom(ctx: RunContext[str]) -> str:
        return f"You speak with {ctx.deps} in step {ctx.run_step}."

    @agent.system_prompt(dynamic=True)
    def prompt(ctx: RunContext[str]) -> str:
        return f"For {ctx.deps}."

    return agent


@case("deps in an async tool", call("whose"), "done", deps="Ada", requests=2)
def with_deps(model: Any) -> Agent[Any, Any]:
    agent = made(model, deps_type=str)

    @agent.tool(retries=3, strict=True)
    async def whose(ctx: RunContext[str]) -> str:
        return f"{ctx.deps} {ctx.tool_name} {ctx.retry}"

    return agent


@case("a tool asks again", call("shy"), call("shy", "b"), "done", requests=3)
def asking_again(model: Any) -> Agent[Any, Any]:
    agent = made(model)

    @agent.tool
    def shy(ctx: RunContext[None]) -> str:
        if not ctx.retry:
            raise ModelRetry("Say please.")
        return f"after {ctx.retry}"

    return agent


@case("a tool fails", call("fail"), "done", requests=2)
def failing(model: Any) -> Agent[Any, Any]:
    agent = made(model)

    @agent.tool_plain
    def fail() -> str:
        raise ToolFailed("There is none.")

    return agent


@case("a tool asks too often", call("never"), requests=2, fails=True)
def asking_too_often(model: Any) -> Agent[Any, Any]:
    agent = made(model)

    @agent.tool_plain
    def never() -> str:
        raise ModelRetry("No.")

    return agent


@case("rich results", call("rich"), "done", requests=2)
def rich(model: Any) -> Agent[Any, Any]:
    agent = made(model)

    @agent.tool_plain(name="rich")
    def give() -> ToolReturn[Any]:
        return ToolReturn(return_value=City(name="Rome"), content=["See", ImageUrl("https://e.org/a.png")])

    return agent


@case("output function", call("final_result", name="Rome"))
def output_function(model: Any) -> Agent[Any, Any]:
    def final(name: str) -> City:
        """Ends it."""
        return City(name=name)

    return made(model, output_type=final)


@case("output validator", "no", "yes", requests=2)
def validated(model: Any) -> Agent[Any, Any]:
    agent = made(model)

    @agent.output_validator
    def check(output: str) -> str:
        if output != "yes":
            raise ModelRetry("Say yes.")
        return output

    return agent


def loud(text: str) -> str:
    return text.upper()


def measure(length: int) -> int:
    """Measures."""
    return length * 2


@case("toolsets", [call("m_measure", length=2), call("measure", "b", length=3)], "done", requests=2)
def toolsets(model: Any) -> Agent[Any, Any]:
    plain = FunctionToolset([measure], id="plain")
    prefixed = FunctionToolset([measure, len_of], id="prefixed").filtered(lambda ctx, tool: tool.name == "measure")
    return made(model, toolsets=[CombinedToolset([plain, prefixed.prefixed("m")])])


def len_of(text: str) -> int:
    return len(text)


@case("a dynamic toolset", call("measure", length=2), "done", requests=2)
def dynamic_toolset(model: Any) -> Agent[Any, Any]:
    return made(model, toolsets=[DynamicToolset(lambda ctx: FunctionToolset([measure], id="inner"), id="dynamic")])


@case("a tool that is prepared", call("look", city="Rome"), "done", requests=2)
def prepared(model: Any) -> Agent[Any, Any]:
    agent = made(model)

    async def once(ctx: RunContext[None], tool: ToolDefinition) -> ToolDefinition | None:
        return replace(tool, description=f"In step {ctx.run_step}.") if ctx.run_step < 2 else None

    @agent.tool_plain(prepare=once)
    def look(city: str) -> str:
        return city

    return agent


@case("tools that are prepared", call("look", city="Rome"), "done", requests=2)
def all_prepared(model: Any) -> Agent[Any, Any]:
    async def describe(ctx: RunContext[None], definitions: list[ToolDefinition]) -> list[ToolDefinition]:
        return [replace(each, description=f"Of {len(definitions)}.") for each in definitions]

    return tools(model, capabilities=[PrepareTools(describe)])


@case("a history processor", call("look", city="Rome"), "done", requests=2)
def processed(model: Any) -> Agent[Any, Any]:
    def shorten(messages: list[ModelMessage]) -> list[ModelMessage]:
        return messages[-2:] if len(messages) > 2 else messages

    return tools(model, capabilities=[ProcessHistory(shorten)])


class Louder(AbstractCapability[Any]):
    """Changes the settings of each request."""

    def get_instructions(self) -> str:
        return "Be loud."


case("a capability", call("look", city="Rome"), "done", requests=2)(lambda model: tools(model, capabilities=[Louder()]))
case("an early end", [call("final_result", "a", name="Rome"), call("look", "b", city="Rome")])(
    lambda model: tools(model, output_type=City, end_strategy="early")
)
case("an exhaustive end", [call("final_result", "a", name="Rome"), call("look", "b", city="Rome")])(
    lambda model: tools(model, output_type=City, end_strategy="exhaustive")
)


def careful(model: Any) -> Agent[Any, Any]:
    agent = made(model, output_type=[str, DeferredToolRequests])

    @agent.tool_plain(requires_approval=True)
    def delete(path: str) -> str:
        return f"deleted {path}"

    @agent.tool
    def ask(ctx: RunContext[None], path: str) -> str:
        if not ctx.tool_call_approved:
            raise ApprovalRequired(metadata={"why": "it is large"})
        return f"asked for {path}"

    @agent.tool_plain
    def hand(path: str) -> str:
        raise CallDeferred()

    return agent


DELETE = call("delete", path="/a")
case(
    "approved", DELETE, "done", requests=2,
    results=lambda asked: DeferredToolResults(approvals={"a": True}),
    answers=lambda asked: approve(asked.request_id),
)(careful)  # fmt: skip
case(
    "approved with other arguments", DELETE, "done", requests=2,
    results=lambda asked: DeferredToolResults(approvals={"a": ToolApproved(override_args={"path": "/b"})}),
    answers=lambda asked: approve(asked.request_id, {"path": "/b"}),
)(careful)  # fmt: skip
case(
    "denied", DELETE, "done", requests=2,
    results=lambda asked: DeferredToolResults(approvals={"a": ToolDenied("Not that one.")}),
    answers=lambda asked: deny(asked.request_id, "Not that one."),
)(careful)  # fmt: skip
case(
    "asked for by the tool", call("ask", path="/a"), "done", requests=2,
    results=lambda asked: DeferredToolResults(approvals={"a": True}),
    answers=lambda asked: approve(asked.request_id),
)(careful)  # fmt: skip
case(
    "executed elsewhere", call("hand", path="/a"), "done", requests=2,
    results=lambda asked: DeferredToolResults(calls={"a": {"size": 3}}),
    answers=lambda asked: supply(asked.request_id, {"size": 3}),
)(careful)  # fmt: skip
case(
    "an external toolset", call("far", x=1), "done", requests=2,
    results=lambda asked: DeferredToolResults(calls={"a": "came"}),
    answers=lambda asked: supply(asked.request_id, "came"),
)(
    lambda model: made(
        model,
        output_type=[str, DeferredToolRequests],
        toolsets=[ExternalToolset([ToolDefinition(name="far", parameters_json_schema={"type": "object"})], id="far")],
    )
)  # fmt: skip


async def under_pydantic_ai(case: Case, model: Model) -> None:
    agent = case.agent(model.served)
    given = {"deps": case.deps} if case.deps is not None else {}
    result = await agent.run(case.content or case.prompt, **given)
    while isinstance(result.output, DeferredToolRequests) and case.results is not None:
        answered = case.results(result.output)
        result = await agent.run(message_history=result.all_messages(), deferred_tool_results=answered, **given)
    for message in case.more:
        result = await agent.run(message, message_history=result.all_messages(), **given)


async def served(case: Case, model: Model) -> None:
    deps = (lambda run: case.deps) if case.deps is not None else None
    stage = Stage(durable_agent(case.agent(model.served), deps=deps))
    if case.more:
        await stage.converse(case.prompt)
        await stage.settle()
        for message in case.more:
            await stage.send(message)
            await stage.settle()
        return
    await stage.start(case.prompt)
    await stage.attempt()
    while pending := (await stage.run()).pending:
        assert case.answers is not None
        await stage.resume(*(case.answers(asked) for asked in pending))
        await stage.attempt()
    assert (await stage.view()).ended


@pytest.mark.parametrize("name", CASES)
async def test_the_model_is_sent_the_same(name: str) -> None:
    """Request by request, messages and all that goes with them are equal."""
    case = CASES[name]
    plain, durable = Model(*case.script, streams=case.streams), Model(*case.script, streams=case.streams)
    try:
        await under_pydantic_ai(case, plain)
    except UnexpectedModelBehavior:
        assert case.fails
    await served(case, durable)
    assert len(plain.sent) >= case.requests
    assert durable.sent == plain.sent


def test_there_are_enough_of_them() -> None:
    """Thirty combinations are what is promised."""
    assert len(CASES) >= 30
