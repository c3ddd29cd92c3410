"""Clients of both services. Needs nothing but grpcio and protobuf.

    from runwire.client import AgentClient, fold

    async with AgentClient("127.0.0.1:50051") as client:
        async with client.run("librarian", "What is a cursor?") as stream:
            async for event in stream:          # each event once, in order, through every cut
                handle(event)
                store(stream.cursor)            # safe to resume from, in another process too

`runwire.client.sync` has the same clients without asyncio. docs/python.md explains both.
"""

from runwire.agent.v1.run_event_pb2 import Answer, RunEvent
from runwire.agent.v1.run_pb2 import (
    RUN_STATE_CANCELLED,
    RUN_STATE_FAILED,
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    RUN_STATE_SUCCEEDED,
    RUN_STATE_SUSPENDED,
    RUN_STATE_WAITING,
    Agent,
    Run,
    RunState,
    ScorerRef,
)
from runwire.client.agent import AgentClient, RunStream
from runwire.client.calls import Stream
from runwire.client.conversation import Conversation, Reply
from runwire.client.requests import approve, deny, scorer_run_filter, supply
from runwire.client.resume import Discontinuity, OnDiscontinuity, ResumePolicy
from runwire.client.scorer import ScorerClient
from runwire.fold import Custom, Fold, RunView, Step, ToolCall, Turn, fold
from runwire.scorer.v1.scorer_run_pb2 import Scorer, ScorerRun, ScorerRunState, ScorerStats
from runwire.scorer_requests import sample_of
from runwire.values import Json, from_struct, from_value, to_struct, to_value

__all__ = [
    "RUN_STATE_CANCELLED",
    "RUN_STATE_FAILED",
    "RUN_STATE_QUEUED",
    "RUN_STATE_RUNNING",
    "RUN_STATE_SUCCEEDED",
    "RUN_STATE_SUSPENDED",
    "RUN_STATE_WAITING",
    "Agent",
    "AgentClient",
    "Answer",
    "Conversation",
    "Custom",
    "Discontinuity",
    "Fold",
    "Json",
    "OnDiscontinuity",
    "Reply",
    "ResumePolicy",
    "Run",
    "RunEvent",
    "RunState",
    "RunStream",
    "RunView",
    "Scorer",
    "ScorerClient",
    "ScorerRef",
    "ScorerRun",
    "ScorerRunState",
    "ScorerStats",
    "Step",
    "Stream",
    "ToolCall",
    "Turn",
    "approve",
    "deny",
    "fold",
    "from_struct",
    "from_value",
    "sample_of",
    "scorer_run_filter",
    "supply",
    "to_struct",
    "to_value",
]
