"""What each RPC asks of its caller: one line each. An RPC without a line is refused, and fails a test."""

from __future__ import annotations

from typing import Final

from runwire.errors import ScopeMissing
from runwire.identity.principal import (
    ADMIN,
    RUNS_ANSWER,
    RUNS_READ,
    RUNS_WRITE,
    SCORES_READ,
    SCORES_WORK,
    SCORES_WRITE,
    Principal,
)

PUBLIC: Final = ""
"""Asks for nothing: load balancers and tools have no token."""

_AGENT: Final = "/runwire.agent.v1.AgentService/"
_SCALER: Final = "/externalscaler.ExternalScaler/"
_SCORER: Final = "/runwire.scorer.v1.ScorerService/"

RULES: Final = {
    _AGENT + "ListAgents": RUNS_READ,
    _AGENT + "StartRun": RUNS_WRITE,
    _AGENT + "GetRun": RUNS_READ,
    _AGENT + "ListRuns": RUNS_READ,
    _AGENT + "WatchRun": RUNS_READ,
    _AGENT + "ListRunEvents": RUNS_READ,
    _AGENT + "CancelRun": RUNS_WRITE,
    _AGENT + "ResumeRun": RUNS_ANSWER,
    _AGENT + "CreateRunToken": RUNS_READ,
    _AGENT + "SendMessage": RUNS_WRITE,
    _AGENT + "EndConversation": RUNS_WRITE,
    _AGENT + "ListTurns": RUNS_READ,
    _AGENT + "ForkRun": RUNS_WRITE,
    _AGENT + "DeleteRuns": ADMIN,
    # They are of all tenants.
    _AGENT + "ListWorkers": ADMIN,
    _AGENT + "ListQueues": ADMIN,
    _SCALER + "IsActive": ADMIN,
    _SCALER + "StreamIsActive": ADMIN,
    _SCALER + "GetMetricSpec": ADMIN,
    _SCALER + "GetMetrics": ADMIN,
    _SCORER + "ListScorerWorkers": ADMIN,
    _SCORER + "ListScorerQueues": ADMIN,
    _SCORER + "ListScorers": SCORES_READ,
    _SCORER + "GetScorerRun": SCORES_READ,
    _SCORER + "ListScorerRuns": SCORES_READ,
    _SCORER + "WatchScorerRuns": SCORES_READ,
    _SCORER + "RequestScorerRun": SCORES_WRITE,
    _SCORER + "RetryScorerRuns": SCORES_WRITE,
    _SCORER + "CancelScorerRuns": SCORES_WRITE,
    _SCORER + "DeleteScorerRuns": ADMIN,
    # A pause holds for all tenants.
    _SCORER + "PauseScorer": ADMIN,
    _SCORER + "ResumeScorer": ADMIN,
    _SCORER + "GetScorerStats": SCORES_READ,
    _SCORER + "SubmitScore": SCORES_WRITE,
    _SCORER + "SetScorerBudget": ADMIN,
    _SCORER + "ListScorerBudgets": SCORES_READ,
    _SCORER + "RegisterScorer": SCORES_WORK,
    _SCORER + "ClaimScorerRuns": SCORES_WORK,
    _SCORER + "ReportScorerRun": SCORES_WORK,
    "/grpc.health.v1.Health/Check": PUBLIC,
    "/grpc.health.v1.Health/List": PUBLIC,
    "/grpc.health.v1.Health/Watch": PUBLIC,
    # Says what is in the proto files, and no more. RUNWIRE_REFLECTION=false switches it off.
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": PUBLIC,
}


OF_ONE_RUN: Final = frozenset(_AGENT + name for name in ("GetRun", "WatchRun", "ListRunEvents", "ListTurns"))
"""What a run token may call."""

CHANGES: Final = (
    frozenset(
        method for method, scope in RULES.items() if scope in (RUNS_WRITE, RUNS_ANSWER, SCORES_WRITE, SCORES_WORK)
    )
    | {_SCORER + "PauseScorer", _SCORER + "ResumeScorer", _AGENT + "CreateRunToken", _AGENT + "DeleteRuns"}
    | {_SCORER + "DeleteScorerRuns", _SCORER + "SetScorerBudget"}
)
"""What is written into the audit log."""


STARTS: Final = frozenset({_AGENT + "StartRun", _AGENT + "ForkRun", _SCORER + "RequestScorerRun"})
"""What counts against the starts of a tenant."""

STREAMS: Final = frozenset({_AGENT + "WatchRun", _SCORER + "WatchScorerRuns"})
"""What counts against its streams."""

COUNTED: Final = STARTS | STREAMS


def is_public(method: str) -> bool:
    """Whether anybody may call it."""
    return RULES.get(method) == PUBLIC


def check(principal: Principal, method: str) -> None:
    """Raises ScopeMissing if the principal may not call this method, given as `/package.Service/Method`."""
    scope = RULES.get(method, ADMIN)
    if principal.run_id and method not in OF_ONE_RUN:
        raise ScopeMissing("a run token reads its run, and does nothing else", scope=scope)
    if not principal.may(scope):
        raise ScopeMissing(f"this call needs the scope {scope!r}", scope=scope)
