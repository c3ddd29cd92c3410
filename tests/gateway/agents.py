"""An agent for the tests of the gateway: one that talks."""

from __future__ import annotations

from agent_service import EndOfConversation, RunContext, workflow


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
