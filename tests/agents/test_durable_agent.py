"""durable_agent: what a pydantic-ai agent tells the log."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelRetry, RunContext, TextOutput, ToolOutput, ToolReturn
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import DeferredToolRequests
from pydantic_ai.toolsets import AbstractToolset, FunctionToolset, ToolsetTool
from pydantic_ai.usage import UsageLimits

import agent_service
from agent_service import current_idempotency_key, current_run
from agent_service.execution.attempt import Interrupt
from agent_service.pydantic_ai.agent import durable_agent
from agent_service.pydantic_ai.durability import Durability
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.errors import ConfigurationError
from runwire.values import from_struct
from tests.agents.stage import Stage


def tool_call(index: int, name: str, arguments: str, id: str) -> dict[int, DeltaToolCall]:
    return {index: DeltaToolCall(name, arguments, tool_call_id=id)}


async def search_then_answer(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[object]:
    if len(messages) == 1:
        yield {0: DeltaThinkingPart(content="I should ")}
        yield {0: DeltaThinkingPart(content="search.")}
        yield "Looking "
        yield "it up. "
        yield tool_call(2, "search", '{"query": "logs"}', "a")
    else:
        yield "A run "
        yield "is a log."


def librarian() -> Agent[None, str]:
    agent = Agent(FunctionModel(stream_function=search_then_answer), name="librarian")

    @agent.tool_plain
    def search(query: str) -> dict[str, str]:
        return {"found": query.upper()}

    return agent


async def test_tells_every_step() -> None:
    """A step begins, speaks, calls its tools and is finished, and the next begins; usage is told and summed."""
    stage = Stage(durable_agent(librarian()))

    view = await stage.finish("What is a run?")

    assert view.state == run_pb2.RUN_STATE_SUCCEEDED
    assert view.output == "A run is a log."
    first, second = view.steps[1], view.steps[2]
    assert (first.name, first.reasoning, first.text) == ("model", "I should search.", "Looking it up. ")
    [call] = first.tool_calls
    assert (call.tool_call_id, call.tool_name, call.arguments) == ("a", "search", {"query": "logs"})
    assert (call.result, call.outcome) == ({"found": "LOGS"}, run_event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED)
    assert second.text == "A run is a log."
    assert first.finished
    assert second.finished
    assert first.usage.tool_calls == 1
    assert view.usage.requests == 2
    assert view.usage == (await stage.run()).usage
    assert view.usage.output_tokens == first.usage.output_tokens + second.usage.output_tokens > 0


async def test_text_is_in_the_log_while_the_model_speaks() -> None:
    """A reader sees the beginning of a sentence before the model has said its end."""
    heard = asyncio.Event()

    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        yield "to be "
        await heard.wait()
        yield "continued"

    stage = Stage(durable_agent(Agent(FunctionModel(stream_function=speak), name="speaker")))
    await stage.start("speak")
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(stage.attempt())
        async with aclosing(stage.log.subscribe_with_replay(stage.topic)) as items:
            async for _ in items:
                if (await stage.view()).text == "to be ":
                    heard.set()
                    break
    assert (await stage.view()).output == "to be continued"


async def test_cancelled_in_the_middle_of_a_word() -> None:
    """A cancelled run ends at once, and what the model had said is kept."""
    spoke = asyncio.Event()

    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        yield "to be "
        spoke.set()
        await asyncio.Event().wait()

    stage = Stage(durable_agent(Agent(FunctionModel(stream_function=speak), name="speaker")))
    await stage.start("speak")
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(stage.attempt())
        await spoke.wait()
        assert stage.execution is not None
        stage.execution.interrupt(Interrupt.CANCEL)
    view = await stage.view()
    assert (view.state, view.text) == (run_pb2.RUN_STATE_CANCELLED, "to be ")


async def test_the_agent_is_left_as_it_is() -> None:
    """Serving an agent adds nothing to it: it runs by itself as before, and its tools can still be added to."""
    agent = librarian()
    capabilities, toolsets = agent.root_capability, list(agent.toolsets)
    stage = Stage(durable_agent(agent))
    await stage.finish("What is a run?")
    assert agent.root_capability is capabilities
    assert list(agent.toolsets) == toolsets
    async with agent.run_stream("What is a run?") as alone:
        assert await alone.get_output() == "Looking it up. "


class Verdict(BaseModel):
    good: bool
    why: str


def as_is(data: str) -> Verdict:
    return Verdict(good=True, why=data)


@pytest.mark.parametrize(
    "output_type, schema_type",
    [
        (Verdict, "object"),
        ([Verdict, DeferredToolRequests], "object"),
        (list[int], "array"),
        (int | str, None),
        (ToolOutput(Verdict), "object"),
        (TextOutput(as_is), "object"),
        (as_is, "object"),
    ],
)
async def test_outputs_of_every_type(output_type: Any, schema_type: str | None) -> None:
    """The output is what the agent's type says, as JSON, and ListAgents shows its schema where there is one."""
    stage = Stage(durable_agent(Agent(TestModel(), output_type=output_type, name="judge")))
    if schema_type is not None:
        assert from_struct(stage.definition.proto.output_schema)["type"] == schema_type
    view = await stage.finish("judge")
    assert view.state == run_pb2.RUN_STATE_SUCCEEDED, view.error
    assert view.output is not None
    assert not isinstance(view.output, str) or "Verdict" not in view.output


@dataclass
class Things:
    run_id: str


async def test_dependencies_and_the_run_reach_the_tools() -> None:
    """Dependencies are made for each attempt; a tool finds its run and a key of its own, in a thread too, and what it
    emits belongs to the step that called it."""
    keys: list[str] = []
    agent = Agent(TestModel(), deps_type=Things, name="helper")

    @agent.tool
    def in_a_thread(context: RunContext[Things]) -> str:
        keys.append(current_idempotency_key())
        assert current_run().run_id == context.deps.run_id
        return context.deps.run_id

    @agent.tool_plain
    async def aside() -> None:
        keys.append(current_idempotency_key())
        await current_run().emit_custom("aside", {"said": 1})

    stage = Stage(durable_agent(agent, deps=lambda run: Things(run.run_id)))
    view = await stage.finish("help")
    assert view.state == run_pb2.RUN_STATE_SUCCEEDED, view.error
    assert len(set(keys)) == 2
    assert [custom.type for custom in view.steps[1].custom] == ["aside"]
    with pytest.raises(LookupError):
        current_run()
    with pytest.raises(LookupError):
        current_idempotency_key()


async def test_results_that_a_value_cannot_hold() -> None:
    """Results are told as the model sees them; where JSON on the wire would change a number, as text."""
    agent = Agent(TestModel(), name="counter")
    agent.tool_plain(name="big")(lambda: 2**60)
    agent.tool_plain(name="nan")(lambda: [math.nan])
    agent.tool_plain(name="both")(lambda: ToolReturn("seen", content="not shown", metadata={"not": "shown"}))
    agent.tool_plain(name="nothing")(lambda: None)

    view = await Stage(durable_agent(agent)).finish("count")

    assert view.state == run_pb2.RUN_STATE_SUCCEEDED, view.error
    results = {call.tool_name: call.result for call in view.tool_calls}
    assert results == {"big": str(2**60), "nan": '["NaN"]', "both": "seen", "nothing": None} or results["nan"] == [None]


async def test_wrong_calls_are_told_too() -> None:
    """Calls that never reached a tool (unknown name, wrong arguments) and a tool that asks for another try stand in
    the log as failed, with what the model was told."""

    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        if len(messages) == 1:
            yield tool_call(0, "nosuch", "{}", "a")
            yield tool_call(1, "half", '{"n": "x"}', "b")
            yield tool_call(2, "half", '{"n": 3}', "c")
            yield tool_call(3, "half", '{"n": 4}', "d")
        else:
            yield "done"

    agent = Agent(FunctionModel(stream_function=speak), name="halver")

    @agent.tool_plain
    def half(n: int) -> int:
        if n % 2:
            raise ModelRetry("n must be even")
        return n // 2

    view = await Stage(durable_agent(agent)).finish("halve")
    outcomes = {call.tool_call_id: call.outcome for call in view.tool_calls}
    failed, succeeded = run_event_pb2.TOOL_CALL_OUTCOME_FAILED, run_event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED
    assert outcomes == {"a": failed, "b": failed, "c": failed, "d": succeeded}
    results = {call.tool_call_id: str(call.result) for call in view.tool_calls}
    assert "nosuch" in results["a"]
    assert "integer" in results["b"]
    assert "n must be even" in results["c"]


async def test_skipped_calls_are_not_told() -> None:
    """A call that is not executed because the run has its result stands nowhere: nothing was done."""

    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[dict[int, DeltaToolCall]]:
        yield tool_call(0, "final_result", '{"good": true, "why": "it is"}', "a")
        yield tool_call(1, "look", "{}", "b")

    agent = Agent(FunctionModel(stream_function=speak), output_type=Verdict, end_strategy="early", name="judge")
    agent.tool_plain(name="look")(lambda: "seen")
    view = await Stage(durable_agent(agent)).finish("judge")
    assert view.output == {"good": True, "why": "it is"}
    assert view.tool_calls == []


async def test_a_tool_that_fails_ends_the_run() -> None:
    """An exception of a tool ends the run FAILED, and its call stands as failed."""
    agent = Agent(TestModel(), name="breaker")

    @agent.tool_plain
    def break_it() -> str:
        raise RuntimeError("broken")

    view = await Stage(durable_agent(agent)).finish("break")
    assert view.state == run_pb2.RUN_STATE_FAILED
    assert view.error is not None
    assert (view.error.reason, view.error.error_class) == ("agent_error", "RuntimeError")
    assert view.tool_calls[0].outcome == run_event_pb2.TOOL_CALL_OUTCOME_FAILED


async def test_a_result_that_is_too_large_to_remember() -> None:
    """It ends the run with an error that says what to do."""
    agent = Agent(TestModel(), name="hoarder")
    agent.tool_plain(name="hoard")(lambda: "x" * (1024 * 1024))
    view = await Stage(durable_agent(agent)).finish("hoard")
    assert view.error is not None
    assert "store it elsewhere" in view.error.message


@pytest.mark.parametrize(
    "limits",
    [
        UsageLimits(request_limit=2),
        UsageLimits(tool_calls_limit=1),
        UsageLimits(output_tokens_limit=8),
        UsageLimits(total_tokens_limit=60),
    ],
    ids=repr,
)
async def test_budgets(limits: UsageLimits) -> None:
    """A run that uses up what it may have ends FAILED with reason budget_exceeded, and its usage is kept."""
    view, run = await endless(limits)
    assert view.error is not None
    assert view.error.reason == "budget_exceeded"
    assert run.usage == view.usage
    assert run.usage.requests > 0


async def test_budgets_count_over_attempts() -> None:
    """A run that dies does not begin to count again: it makes no more requests in all its attempts than it may."""
    asked: list[int] = []
    view, run = await endless(UsageLimits(request_limit=4), asked=asked, die_after=8)
    assert run.attempt == 2
    assert view.error is not None
    assert view.error.reason == "budget_exceeded"
    assert run.usage.requests == 4
    assert len(asked) <= 5  # one was cut by the crash, and made again


async def endless(
    limits: UsageLimits, *, asked: list[int] | None = None, die_after: int | None = None
) -> tuple[Any, run_pb2.Run]:
    """The end of an agent that never stops by itself."""

    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[dict[int, DeltaToolCall]]:
        if asked is not None:
            asked.append(len(messages))
        yield tool_call(0, "again", "{}", "a")

    agent = Agent(FunctionModel(stream_function=speak), name="endless")
    agent.tool_plain(name="again")(lambda: "again")
    stage = Stage(durable_agent(agent, limits=limits))
    await stage.start("go")
    if die_after is not None:
        assert await stage.attempt(die_after=die_after)
    await stage.attempt()
    view = await stage.view()
    assert view.state == run_pb2.RUN_STATE_FAILED
    return view, await stage.run()


class Own(AbstractToolset[None]):
    """A kind of toolset that pydantic-ai's durable execution does not know."""

    id = "own"

    async def get_tools(self, ctx: RunContext[None]) -> dict[str, ToolsetTool[None]]:
        return {}

    async def call_tool(
        self, name: str, tool_args: dict[str, Any], ctx: RunContext[None], tool: ToolsetTool[None]
    ) -> Any:
        return None


@pytest.mark.parametrize(
    "agent, problem",
    [
        (Agent(TestModel()), "needs a name"),
        (Agent(name="mute"), "model"),
        (Agent(TestModel(), name="a", toolsets=[FunctionToolset()]), "`id`"),
        (Agent(TestModel(), name="a", toolsets=[FunctionToolset(id="x"), FunctionToolset(id="x")]), "same `id`"),
        (Agent(TestModel(), name="a", toolsets=[Own()]), "DynamicToolset"),
        (Agent(TestModel(), name="a", capabilities=[Durability(None)]), "already"),
    ],
    ids=["name", "model", "toolset id", "same id", "unknown toolset", "durable already"],
)
def test_what_cannot_be_served(agent: Agent[None, str], problem: str) -> None:
    """An agent that could not be served durably is refused where it is defined, with what to do."""
    with pytest.raises(ConfigurationError, match=problem):
        durable_agent(agent)


def test_wrong_policy() -> None:
    """A word that is no policy is refused."""
    with pytest.raises(ConfigurationError, match="tell_model"):
        durable_agent(librarian(), not_repeatable={"search": "hope"})  # type: ignore[dict-item]


def test_is_part_of_the_package() -> None:
    """`from agent_service import durable_agent` is the public way."""
    assert agent_service.durable_agent is durable_agent
