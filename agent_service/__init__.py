"""Runs AI agents durably and streams their events. The names here are what the author of an agent needs."""

from agent_service.context import BudgetExceeded, NonRetriable, Retry, RunContext
from agent_service.definition import Definition, ScorerRef, workflow

__all__ = ["BudgetExceeded", "Definition", "NonRetriable", "Retry", "RunContext", "ScorerRef", "workflow"]
