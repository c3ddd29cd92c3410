"""An agent that people talk to, for processes that are killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelRequest
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from agent_service.pydantic_ai.agent import durable_agent

PAUSE_SECONDS: Final = 0.02


async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    """Thinks aloud, calls its tool once a turn, and repeats what it was told last."""
    request = messages[-1]
    assert isinstance(request, ModelRequest)
    await asyncio.sleep(PAUSE_SECONDS)
    if any(part.part_kind == "tool-return" for part in request.parts):
        yield "so: "
        yield " and ".join(str(part.content) for part in request.parts if part.part_kind == "user-prompt")
    else:
        yield "well, "
        await asyncio.sleep(PAUSE_SECONDS)
        yield {1: DeltaToolCall("think", json_args="{}", tool_call_id="t")}


def _chatter() -> Agent:
    agent = Agent(FunctionModel(stream_function=speak), name="chatter")

    @agent.tool_plain
    async def think() -> str:
        await asyncio.sleep(PAUSE_SECONDS)
        return "thought"

    return agent


chatter: Final = durable_agent(_chatter())
