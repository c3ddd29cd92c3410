"""Agents for the tests of the gateway: one that talks, one that asks before it deletes, and a hostile one."""

from __future__ import annotations

from collections.abc import AsyncIterator

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from agent_service import EndOfConversation, RunContext, durable_agent, workflow
from runwire.agent.v1 import run_event_pb2
from runwire.values import to_value

HOSTILE = (
    "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
    "<a href='javascript:alert(1)'>here</a>\u202e\u0007\u0000\u001b[31m</pre></div>"
    "&lt;b&gt; {{ 7 * 7 }} \U0001f600\ufeff\u2028"
)
LARGE_CHARACTERS = 5_000_000


@workflow(id="echo")
async def echo(ctx: RunContext, input: str) -> str:
    """Says what it is told, until nobody tells it anything."""
    said = input
    while True:
        await ctx.emit_text(f"you said {said}")
        try:
            said = await ctx.receive(str, output=said)
        except EndOfConversation:
            return said


@workflow(id="hostile")
async def hostile(ctx: RunContext, input: str) -> str:
    """Says in every way what no page should execute; at length if it is asked to."""
    await ctx.emit_text(HOSTILE)
    await ctx.emit(run_event_pb2.ReasoningDelta(text=HOSTILE))
    call = {"tool_call_id": HOSTILE, "tool_name": HOSTILE}
    await ctx.emit(run_event_pb2.ToolCallStarted(**call, arguments=to_value({HOSTILE: HOSTILE})))
    await ctx.emit(run_event_pb2.ToolCallFinished(**call, result=to_value(HOSTILE), outcome=1))  # type: ignore[arg-type]
    await ctx.emit_custom(HOSTILE, {"__proto__": HOSTILE})
    if input == "large":
        line = "<b>" + "x" * 96 + "\n"
        await ctx.emit_text(line * (LARGE_CHARACTERS // len(line)))
    return HOSTILE


async def _speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    last = messages[-1].parts[-1]
    if last.part_kind == "user-prompt":
        yield "Let me delete it. "
        yield {1: DeltaToolCall("delete", json_args='{"path": "/everything"}', tool_call_id="d")}
    else:
        yield f"It says: {getattr(last, 'content', '')}"


_careful = Agent(FunctionModel(stream_function=_speak), name="careful")


@_careful.tool_plain(requires_approval=True)
async def delete(path: str) -> str:
    """Deletes a path."""
    return f"deleted {path}"


careful = durable_agent(_careful)
