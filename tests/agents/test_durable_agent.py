"""durable_agent: what a pydantic-ai agent tells the log."""

from collections.abc import AsyncIterator

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaThinkingPart, DeltaToolCall, FunctionModel

from agent_service.pydantic_ai_agent import durable_agent
from runwire.agent.v1 import run_event_pb2, run_pb2
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
