"""A support agent: it looks orders up, gives money back, and asks a person before it gives back much.

    runwire dev --agents examples.support.agent --scorers examples.support.agent
    runwire chat support

Without a key a local stand-in for a model speaks; SUPPORT_MODEL=openai:gpt-5-mini names a real one.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.exceptions import ApprovalRequired

from agent_service import Retry, ScorerRef, current_idempotency_key, durable_agent
from agent_service import RunContext as Run
from examples.support.stand_in import stand_in
from scorer_service import NotScorable, Sample, Score, scorer

ASK_FROM = 50.0
"""Money that a person decides about."""


@dataclass
class Shop:
    """Stands for your database: orders by number, and what was given back, by idempotency key."""

    orders: dict[int, tuple[str, float]] = field(default_factory=lambda: {7: ("A-1", 20.0), 8: ("A-1", 300.0)})
    refunds: dict[str, float] = field(default_factory=dict)

    async def close(self) -> None:
        self.orders.clear()


@asynccontextmanager
async def shop() -> AsyncIterator[Shop]:
    """One for all runs of the process."""
    opened = Shop()
    try:
        yield opened
    finally:
        await opened.close()


@dataclass
class Deps:
    """What the tools of one run need."""

    shop: Shop
    account: str


def deps(run: Run) -> Deps:
    """Whose orders they are comes from the caller who starts the run, and not from what the model says."""
    return Deps(run.resources, str(run.context.get("account", "A-1")))


agent = Agent(
    os.environ.get("SUPPORT_MODEL") or stand_in,
    name="support",
    deps_type=Deps,
    instructions=(
        "You help customers of a shop with their orders. Look an order up before you speak of it. "
        "Promise nothing that a tool has not done."
    ),
)


@agent.tool
async def find_order(ctx: RunContext[Deps], number: int) -> str:
    """Looks up an order.

    Args:
        number: As it stands on the bill.
    """
    account, price = ctx.deps.shop.orders.get(number, ("", 0.0))
    if account != ctx.deps.account:
        raise ModelRetry(f"There is no order {number}: ask the customer for the number.")
    return f"Order {number}: {price:.2f} euros, paid."


@agent.tool
async def refund(ctx: RunContext[Deps], number: int, reason: str) -> str:
    """Gives the money of an order back.

    Args:
        number: The order.
        reason: Why, in the customer's words.
    """
    account, price = ctx.deps.shop.orders.get(number, ("", 0.0))
    if account != ctx.deps.account:
        raise ModelRetry(f"There is no order {number}.")
    if price >= ASK_FROM and not ctx.tool_call_approved:
        raise ApprovalRequired(metadata={"order": number, "euros": price, "reason": reason})
    # The same key after a crash: the money goes back once.
    ctx.deps.shop.refunds.setdefault(current_idempotency_key(), price)
    return f"{price:.2f} euros of order {number} go back."


@scorer(id="promises-kept", version="1")
async def promises_kept(sample: Sample) -> Score | NotScorable:
    """1 if the agent speaks of money that goes back only where `refund` was executed."""
    said = sample.output_text.lower()
    if "go back" not in said and "refunded" not in said:
        return NotScorable("it promised nothing")
    done = any(call.tool_name == "refund" and call.outcome == "succeeded" for call in sample.tool_calls)
    return Score(float(done), reason="refund was executed" if done else "nothing was given back")


support = durable_agent(
    agent,
    version="1",
    lifespan=shop,
    deps=deps,
    tool_retry=Retry(attempts=5, delay_seconds=0.5, on=(ConnectionError, TimeoutError)),
    scorers=[ScorerRef("promises-kept")],
)
