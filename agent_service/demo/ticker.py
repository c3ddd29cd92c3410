"""A workflow that says the same thing again and again: for trying streams out, and for loading them."""

from __future__ import annotations

import asyncio
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from agent_service.agents.context import RunContext
from agent_service.agents.definition import workflow


class Ticks(BaseModel):
    """What to say, how often, and how fast."""

    model_config = ConfigDict(extra="forbid")

    count: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    interval_ms: Annotated[float, Field(ge=0, le=60_000)] = 100
    text: Annotated[str, Field(min_length=1, max_length=10_000)] = "tick "


class Ticked(BaseModel):
    count: int


@workflow(id="ticker", version="1")
async def ticker(ctx: RunContext, input: Ticks) -> Ticked:
    """Emits `count` text deltas, `interval_ms` apart."""
    for number in range(input.count):
        if number and input.interval_ms:
            await asyncio.sleep(input.interval_ms / 1000)
        await ctx.emit_text(input.text)
    return Ticked(count=input.count)
