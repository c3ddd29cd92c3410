"""Agents for the tests of the command line: one that fails, one that asks, one that calls a tool and returns data."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from agent_service import RunContext, durable_agent, workflow
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
    return str(await ctx.suspend("continue", {}, answer_type=str))


def _wait_for(path: Path) -> None:
    while not path.exists():
        time.sleep(0.02)


async def _speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    """Deletes what it is told to, if it may; counts, and on once there is a file; repeats all that it was told."""
    told = [part for message in messages for part in message.parts if part.part_kind == "user-prompt"]
    last = messages[-1].parts[-1]
    if last.part_kind == "user-prompt" and str(last.content).startswith("delete"):
        yield {1: DeltaToolCall("delete", json_args=f'{{"what": "{str(last.content)[7:]}"}}', tool_call_id="d")}
    elif last.part_kind == "user-prompt" and str(last.content).startswith("count"):
        yield "0 1 2 3 4 "
        await asyncio.to_thread(_wait_for, Path(str(last.content)[6:]))
        yield "5 6 7 8 9 "
    else:
        yield f"so: {getattr(last, 'content', '')}; told {', '.join(str(part.content) for part in told)}"


def _janitor() -> Agent:
    agent = Agent(FunctionModel(stream_function=_speak), name="janitor")

    @agent.tool_plain(requires_approval=True)
    async def delete(what: str) -> str:
        return f"deleted {what}"

    return agent


janitor = durable_agent(_janitor())
