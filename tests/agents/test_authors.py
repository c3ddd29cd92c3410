"""What authors of agents met: what works with `agent.run` works when it is served, and mistakes are told in words."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic_ai import Agent, ModelResponse, TextPart
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.exceptions import ApprovalRequired
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import RunContext as ToolContext
from pydantic_ai.usage import UsageLimits

from agent_service import Retry, RunContext, current_idempotency_key, current_run, durable_agent
from agent_service.log import record
from agent_service.pydantic_ai.steps import AfterCrash
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.client import supply
from runwire.fold import RunView
from runwire.values import from_struct, to_struct
from tests.agents.stage import Stage

FAST = Retry(attempts=3, delay_seconds=0.0)


async def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Calls the first tool, then says what it returned."""
    returned = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
    if returned or not info.function_tools:
        return ModelResponse([TextPart("; ".join(str(part.content) for part in returned) or "whole")])
    return ModelResponse([ToolCallPart(info.function_tools[0].name, {}, "a")])


async def end_of(stage: Stage, die_after: int | None) -> RunView:
    """The end of a run whose first attempt dies with the commit of this number."""
    before = asyncio.all_tasks()
    await stage.start("x")
    await stage.attempt(die_after=die_after)
    # pydantic-ai leaves a task of an agent that a tool was running; of a process that died nothing is left.
    for task in asyncio.all_tasks() - before:
        task.cancel()
    if (view := await stage.view()).state not in record.TERMINAL:
        await stage.attempt()
        view = await stage.view()
    return view


async def test_a_model_that_cannot_stream() -> None:
    """Its whole answer is told as one piece, in its step, and its tools run as those of any other."""
    agent = Agent(FunctionModel(answer), name="mute")
    agent.tool_plain(name="look")(lambda: "seen")
    view = await Stage(durable_agent(agent)).finish("x")
    assert (view.output, view.error) == ("seen", None)
    assert view.text == "seen"
    assert [call.tool_call_id for call in view.tool_calls] == ["a"]


class Guard(AbstractCapability[Any]):
    """Changes what the model said."""

    async def after_model_request(self, ctx: Any, *, request_context: Any, response: ModelResponse) -> ModelResponse:
        return ModelResponse([TextPart("I must not say")], usage=response.usage)


class Cache(AbstractCapability[Any]):
    """Answers in the place of the model."""

    async def wrap_model_request(self, ctx: Any, *, request_context: Any, handler: Any) -> ModelResponse:
        return ModelResponse([TextPart("as before")])


@pytest.mark.parametrize(
    "capability, text, requests", [(Guard(), "I must not say", 1), (Cache(), "as before", 0)], ids=["guard", "cache"]
)
async def test_an_answer_that_is_not_the_providers(capability: Any, text: str, requests: int) -> None:
    """What a guard or a cache says stands in the log, and nothing else, also if the process dies at any commit."""
    agent = Agent(TestModel(custom_output_text="the secret"), name="guarded", capabilities=[capability])
    for die_after in (None, 1, 2, 3, 4):
        stage = Stage(durable_agent(agent))
        view = await end_of(stage, die_after)
        assert (view.output, view.text) == (text, text)
        assert view.usage.requests == requests


async def test_dependencies_may_be_made_by_an_async_function() -> None:
    """`deps` is awaited where it must be."""
    agent = Agent(FunctionModel(answer), name="dependent", deps_type=str)

    @agent.tool
    def look(ctx: ToolContext[str]) -> str:
        return ctx.deps

    async def deps(run: RunContext) -> str:
        return f"of {run.agent_id}"

    assert (await Stage(durable_agent(agent, deps=deps)).finish("x")).output == "of dependent"


def delegating(asked: list[str]) -> Agent[None, str]:
    """An agent whose tool runs another one, which makes two requests."""

    async def helper_says(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.append("helper")
        return await answer(messages, info)

    async def says(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        asked.append("agent")
        done = sum(isinstance(message, ModelRequest) for message in messages) - 1
        if done == 2:
            return ModelResponse([TextPart("done")])
        return ModelResponse([ToolCallPart("delegate", {}, f"call-{done}")])

    helper = Agent(FunctionModel(helper_says), name="helper")
    helper.tool_plain(name="look")(lambda: "seen")
    agent = Agent(FunctionModel(says), name="delegating")

    @agent.tool
    async def delegate(ctx: ToolContext[None]) -> str:
        return (await helper.run("look", usage=ctx.usage)).output

    return agent


async def test_what_other_agents_use_is_counted() -> None:
    """Requests, tokens and tool calls of an agent that a tool runs are a part of the run's usage and of its steps'."""
    asked: list[str] = []
    view = await Stage(durable_agent(delegating(asked))).finish("x")
    assert view.output == "done"
    assert (len(asked), view.usage.requests, view.usage.tool_calls) == (7, 7, 4)
    assert sum(step.usage.requests for step in view.steps.values()) == 7


async def test_what_other_agents_used_is_remembered() -> None:
    """After a crash at any commit a limit counts what was used before it, and the sum is that of a run without one."""
    for die_after in range(1, 12):
        asked: list[str] = []
        stage = Stage(durable_agent(delegating(asked), limits=UsageLimits(request_limit=6), tool_retry=FAST))
        view = await end_of(stage, die_after)
        assert view.error is not None
        assert view.error.reason == "budget_exceeded"
        assert view.usage.requests == 6


@pytest.mark.parametrize("failures, repeatable, calls", [(2, True, 3), (9, True, 3), (9, False, 1)])
async def test_a_tool_is_tried_again(failures: int, repeatable: bool, calls: int) -> None:
    """A tool that raises is called again with the same key; what its last try raised ends the run; one that must not be
    repeated is called once."""
    keys: list[str] = []
    agent = Agent(FunctionModel(answer), name="shaky")

    @agent.tool_plain
    def shake() -> str:
        keys.append(current_idempotency_key())
        if len(keys) <= failures:
            raise ConnectionError(f"try {len(keys)}")
        return "held"

    policy: dict[str, AfterCrash] = {} if repeatable else {"shake": "tell_model"}
    view = await Stage(durable_agent(agent, tool_retry=FAST, not_repeatable=policy)).finish("x")
    assert (len(keys), len(set(keys))) == (calls, 1)
    if failures < calls:
        assert view.output == "held"
    else:
        assert view.error is not None
        assert (view.error.error_class, view.error.message) == ("ConnectionError", f"try {calls}")


async def test_an_approval_has_words_both_ways() -> None:
    """Why a tool asks, and which call it is, reaches whoever decides; what that person says reaches the tool."""
    agent = Agent(FunctionModel(answer), name="careful")

    @agent.tool
    def delete(ctx: ToolContext[None]) -> str:
        if not ctx.tool_call_approved:
            raise ApprovalRequired(metadata={"why": "it is the last copy", "files": 3})
        return f"deleted, as {ctx.tool_call_metadata}"

    stage = Stage(durable_agent(agent))
    await stage.start("x")
    await stage.attempt()
    (pending,) = (await stage.run()).pending
    assert pending.tool_call_id == "a"
    assert from_struct(pending.metadata) == {"why": "it is the last copy", "files": 3}
    answered = run_event_pb2.Answer(
        request_id=pending.request_id, approve=run_event_pb2.Approve(), metadata=to_struct({"ticket": "T-1"})
    )
    await stage.resume(answered)
    await stage.attempt()
    view = await stage.view()
    assert view.state == run_pb2.RUN_STATE_SUCCEEDED
    assert view.output == "deleted, as {'ticket': 'T-1'}"


@pytest.mark.parametrize(
    "misuse, said",
    [
        (lambda run: run.step("a", asyncio.sleep, 0), "tools of an agent have no steps of their own"),
        (lambda run: run.receive(), "are given to its model"),
    ],
)
async def test_what_tools_cannot_do(misuse: Any, said: str) -> None:
    """A tool that uses what is a workflow's is told so; it would have taken the number of a request to the model."""
    agent = Agent(FunctionModel(answer), name="confused")

    @agent.tool_plain
    async def look() -> str:
        await misuse(current_run())
        return "seen"

    view = await Stage(durable_agent(agent, tool_retry=FAST)).finish("x")
    assert view.error is not None
    assert said in view.error.message


async def test_a_tool_that_sleeps_and_asks() -> None:
    """What waits without a worker works within a tool: the run is suspended, and the tool is called again."""
    agent = Agent(FunctionModel(answer), name="waiting")
    calls: list[int] = []

    @agent.tool_plain
    async def look() -> str:
        calls.append(1)
        return str(await current_run().suspend("which", answer_type=str))

    stage = Stage(durable_agent(agent))
    await stage.start("x")
    await stage.attempt()
    assert [each.request_id for each in (await stage.run()).pending] == ["suspend/which"]
    await stage.resume(supply("suspend/which", "this"))
    await stage.attempt()
    assert ((await stage.view()).output, len(calls)) == ("this", 2)
