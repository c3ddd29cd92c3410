"""Agents for the benchmarks."""

from __future__ import annotations

import asyncio
import time
from statistics import fmean
from typing import Any

from pydantic import BaseModel, Field

from agent_service import RunContext, workflow


class Load(BaseModel):
    """What a run emits."""

    count: int = Field(ge=0)
    per_second: float = Field(0, ge=0)
    """0: as fast as it goes."""
    size: int = Field(100, ge=1)
    """Bytes of each text."""
    lead_seconds: float = 0.0
    """Waits this long before the first event, so that readers can be there."""


@workflow(id="emitter")
async def emitter(ctx: RunContext, input: Load) -> dict[str, Any]:
    """Emits texts at a steady rate."""
    await asyncio.sleep(input.lead_seconds)
    text = "x" * input.size
    start = time.monotonic()
    for number in range(input.count):
        if input.per_second and (wait := start + number / input.per_second - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        await ctx.emit_text(text)
    return {"seconds": time.monotonic() - start}


class Steps(BaseModel):
    """What a run of many steps does."""

    count: int = Field(ge=1)
    window: int = Field(100, ge=1)
    """Steps over which a time is taken."""
    at: list[int] = []
    """After how many steps it is."""


@workflow(id="stepper")
async def stepper(ctx: RunContext, input: Steps) -> dict[str, float]:
    """Does many steps that do nothing. Returns milliseconds of CPU that a step took, by how many there had been."""

    async def nothing() -> None:
        pass

    taken: list[float] = []
    for number in range(input.count):
        begin = time.process_time()
        await ctx.step(f"step-{number}", nothing)
        taken.append(1e3 * (time.process_time() - begin))
    return {str(place): fmean(taken[max(0, place - input.window) : place]) for place in input.at}
