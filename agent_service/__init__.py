"""Runs AI agents durably and streams their events. The names here are what the author of an agent needs."""

from typing import TYPE_CHECKING, Any

from agent_service.agents.context import BudgetExceeded, EndOfConversation, NonRetriable, Retry, RunContext
from agent_service.agents.current import current_idempotency_key, current_run
from agent_service.agents.definition import Definition, ScorerRef, workflow

if TYPE_CHECKING:
    from agent_service.pydantic_ai.agent import durable_agent

__all__ = [
    "BudgetExceeded",
    "Definition",
    "EndOfConversation",
    "NonRetriable",
    "Retry",
    "RunContext",
    "ScorerRef",
    "current_idempotency_key",
    "current_run",
    "durable_agent",
    "workflow",
]


def __getattr__(name: str) -> Any:
    # On first use: to import pydantic-ai takes a second, and workflows do without.
    if name == "durable_agent":
        from agent_service.pydantic_ai.agent import durable_agent

        return durable_agent
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
