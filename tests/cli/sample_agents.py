"""Agents for the tests of the command line: one that fails, one that asks, one that calls a tool and returns data."""

from __future__ import annotations

from agent_service import RunContext, workflow
from runwire.agent.v1 import run_event_pb2
from runwire.client import to_value


@workflow(id="broken")
async def broken(ctx: RunContext, input: str) -> str:
    """Says something and fails."""
    await ctx.emit_text("so far so good")
    raise ValueError("no luck today")


@workflow(id="asker")
async def asker(ctx: RunContext, input: str) -> str:
    """Asks for a name."""
    answer = await ctx.suspend("name", {"why": input}, answer_type=str)
    await ctx.emit_text(f"hello {answer}")
    return f"hello {answer}"


@workflow(id="tooled")
async def tooled(ctx: RunContext, input: str) -> dict[str, int]:
    """Calls a tool, says a line, and returns data."""
    await ctx.emit(
        run_event_pb2.ToolCallStarted(tool_call_id="t", tool_name="search", arguments=to_value({"query": input}))
    )
    await ctx.emit(
        run_event_pb2.ToolCallFinished(
            tool_call_id="t",
            tool_name="search",
            result=to_value(["a page"]),
            outcome=run_event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED,
        )
    )
    await ctx.emit_custom("note", {"n": 1})
    await ctx.emit_text("looked it up\n")
    return {"pages": 1}


@workflow(id="anything")
async def anything(ctx: RunContext, input: object) -> None:
    """Takes any input."""


@workflow(id="collector")
async def collector(ctx: RunContext, input: str) -> list[str]:
    """Collects what it is told."""
    heard = [input]
    await ctx.emit_text(f"heard {input}\n")
    async for word in ctx.messages(str):
        heard.append(word)
        await ctx.emit_text(f"heard {word}\n")
    return heard


@workflow(id="sleeper")
async def sleeper(ctx: RunContext, input: str) -> str:
    """Waits for an answer that nobody gives in time."""
    return str(await ctx.suspend("go on", {}, answer_type=str))
