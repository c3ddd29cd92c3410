"""Budgets on the wire."""

from __future__ import annotations

from runwire.errors import InvalidRequest
from runwire.scorer.v1 import scorer_service_pb2 as pb
from runwire.times import duration, seconds_of
from scorer_service.queue.budgets import Budget


def budget_of(tenant: str, request: pb.SetScorerBudgetRequest) -> Budget:
    """What somebody wants to be spent. Raises InvalidRequest."""
    said = request.budget
    limited = said.HasField("max_tokens") or said.HasField("max_cost_usd")
    if not request.HasField("budget"):
        raise InvalidRequest({"budget": "must be set"})
    if limited and not said.HasField("window"):
        raise InvalidRequest({"budget.window": "must be set"})
    return Budget(
        tenant,
        said.scorer_id,
        seconds_of(said.window),
        said.max_tokens if said.HasField("max_tokens") else None,
        said.max_cost_usd if said.HasField("max_cost_usd") else None,
    )


def shown(budget: Budget) -> pb.ScorerBudget:
    """A budget, with what is spent."""
    return pb.ScorerBudget(
        scorer_id=budget.scorer_id,
        window=duration(budget.window_seconds),
        max_tokens=budget.max_tokens,
        max_cost_usd=budget.max_cost_usd,
        spent_tokens=budget.spent_tokens,
        spent_cost_usd=budget.spent_cost_usd,
    )
