"""One look at a service, without patience: for `runwire doctor`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Final

import grpc

from runwire.agent.v1 import agent_service_pb2, agent_service_pb2_grpc
from runwire.client.access import Access
from runwire.client.status import error_of
from runwire.scorer.v1 import scorer_service_pb2, scorer_service_pb2_grpc

# HealthCheckResponse{status: SERVING}. The base install has no stubs of the health service.
_SERVING: Final = b"\x08\x01"


@dataclass(frozen=True)
class Probe:
    """What a service answered."""

    response: Any
    """ListAgentsResponse or ListScorersResponse."""
    serving: bool
    """What it says of its health."""
    version: str
    """Of the service; empty if it does not tell."""
    seconds: float
    """How long the answer took."""
    clock_skew_seconds: float | None
    """By how much its clock is ahead of ours, to within half of `seconds`; None if it does not tell."""


def probe_agent_service(target: str, access: Access, timeout: float) -> Probe:
    """Raises the errors of `runwire.errors`; Unavailable if there is no answer within `timeout` seconds."""
    with access.channel(target) as channel:
        stub: Any = agent_service_pb2_grpc.AgentServiceStub(channel)
        request = agent_service_pb2.ListAgentsRequest(page_size=1000)
        return _probe(channel, stub.ListAgents, request, "runwire.agent.v1.AgentService", access, timeout)


def probe_scorer_service(target: str, access: Access, timeout: float) -> Probe:
    """As `probe_agent_service`."""
    with access.channel(target) as channel:
        stub: Any = scorer_service_pb2_grpc.ScorerServiceStub(channel)
        request = scorer_service_pb2.ListScorersRequest(page_size=1000)
        return _probe(channel, stub.ListScorers, request, "runwire.scorer.v1.ScorerService", access, timeout)


def _probe(channel: grpc.Channel, method: Any, request: Any, service: str, access: Access, timeout: float) -> Probe:
    try:
        # The first call pays for the connection; the second one tells how far away the service is.
        metadata = access.metadata()
        method(request, metadata=metadata, timeout=timeout)
        began = time.time()
        response, call = method.with_call(request, metadata=metadata, timeout=timeout)
        ended = time.time()
        serving = _health(channel, service, timeout)
    except grpc.RpcError as failure:
        raise error_of(failure) from failure
    told_by = {key: str(value) for key, value in call.trailing_metadata() or ()}
    told = told_by.get("runwire-time")
    return Probe(
        response=response,
        serving=serving,
        version=told_by.get("runwire-version", ""),
        seconds=ended - began,
        clock_skew_seconds=None if told is None else float(told) - (began + ended) / 2,
    )


def _health(channel: grpc.Channel, service: str, timeout: float) -> bool:
    check: Any = channel.unary_unary("/grpc.health.v1.Health/Check")
    name = service.encode()
    return bool(check(b"\x0a" + bytes((len(name),)) + name, timeout=timeout) == _SERVING)
