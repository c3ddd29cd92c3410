"""What the recorded stores hold runs of. A later release must still be able to execute it: do not change it."""

from __future__ import annotations

from typing import Any

from agent_service import RunContext, ScorerRef, workflow

VERSION = "1"


@workflow(id="recorded", version=VERSION, scorers=[ScorerRef("length")])
async def recorded(ctx: RunContext, input: Any) -> str:
    """A step, an answer by somebody, and a step after it."""
    first = await ctx.step("first", _first, input)
    answer = await ctx.suspend("go on", {"first": first}, answer_type=str)
    return await ctx.step("second", _second, first, answer)


async def _first(input: Any) -> str:
    return f"first of {input}"


async def _second(first: str, answer: str) -> str:
    return f"{first}, {answer}"


@workflow(id="recorded-talk", version=VERSION)
async def talk(ctx: RunContext, input: Any) -> None:
    """Repeats each message."""
    while (message := await ctx.receive()) is not None:
        await ctx.emit_text(f"heard {message}")
