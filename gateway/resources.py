"""The unary RPCs of both services as HTTP resources: one table, from which routes and the OpenAPI document are made."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.config import MAX_BODY_BYTES
from gateway.services import Services
from runwire.agent.v1 import agent_service_pb2
from runwire.errors import InvalidRequest
from runwire.scorer.v1 import scorer_service_pb2

_SERVICES: Final = {
    "AgentService": agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"],
    "ScorerService": scorer_service_pb2.DESCRIPTOR.services_by_name["ScorerService"],
}


@dataclass(frozen=True)
class Resource:
    """One RPC as method and path. Fields of the request come from the path, and from the query (GET) or from a body
    of protobuf JSON (POST)."""

    service: str
    rpc: str
    verb: str
    path: str
    summary: str
    status: int = 200
    show: str = ""
    """The field of the answer that is the resource; empty: the whole answer."""
    within: str = ""
    """The field of the request that query and body speak of; empty: the request itself. What it lacks is looked for in
    the request."""
    names: dict[str, str] = field(default_factory=dict)
    """Names in the query, where they are not those of fields."""

    @property
    def method(self) -> MethodDescriptor:
        return _SERVICES[self.service].methods_by_name[self.rpc]

    @property
    def repeatable(self) -> bool:
        """Whether the call may be made again when its answer is lost."""
        return self.method.GetOptions().idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN

    def request(self) -> Message:
        return GetMessageClass(self.method.input_type)()


_AGENT, _SCORER = "AgentService", "ScorerService"
_RUN = {"agent": "agentId", "state": "states", "label": "labels"}
_SCORER_RUN = {"run": "runId", "agent": "agentId", "scorer": "scorerId", "state": "states"}

RESOURCES: Final = (
    Resource(_AGENT, "ListAgents", "GET", "/v1/agents", "The agents that can be run"),
    Resource(_AGENT, "StartRun", "POST", "/v1/agents/{agentId}/runs", "Start a run", status=201, show="run"),
    Resource(_AGENT, "ListRuns", "GET", "/v1/runs", "Runs, newest first", names=_RUN),
    Resource(_AGENT, "GetRun", "GET", "/v1/runs/{runId}", "One run", show="run"),
    Resource(_AGENT, "CancelRun", "POST", "/v1/runs/{runId}/cancel", "Ask a run to stop", show="run"),
    Resource(_AGENT, "ResumeRun", "POST", "/v1/runs/{runId}/answers", "Answer what a run waits for", show="run"),
    Resource(_AGENT, "CreateRunToken", "POST", "/v1/runs/{runId}/tokens", "A token that reads one run, for minutes"),
    Resource(_AGENT, "ForkRun", "POST", "/v1/runs/{runId}/forks", "Continue with a failed run in another", status=201,
             show="run"),
    Resource(_AGENT, "SendMessage", "POST", "/v1/runs/{runId}/messages", "Give a message to a conversation"),
    Resource(_AGENT, "EndConversation", "POST", "/v1/runs/{runId}/end", "End a conversation after its messages",
             show="run"),
    Resource(_AGENT, "ListTurns", "GET", "/v1/runs/{runId}/turns", "The turns of a conversation, oldest first"),
    Resource(_AGENT, "ListWorkers", "GET", "/v1/workers", "The processes that execute runs"),
    Resource(_AGENT, "ListQueues", "GET", "/v1/queues", "What waits, by agent, and who could do it"),
    Resource(_AGENT, "DeleteRuns", "POST", "/v1/runs/delete", "Delete ended runs for good"),
    Resource(_SCORER, "DeleteScorerRuns", "POST", "/v1/scorer-runs/delete", "Delete the scorer runs of runs for good"),
    Resource(_SCORER, "ListScorers", "GET", "/v1/scorers", "The scorers that there are"),
    Resource(_SCORER, "PauseScorer", "POST", "/v1/scorers/{scorerId}/pause", "Hold a scorer's work", show="scorer"),
    Resource(_SCORER, "ResumeScorer", "POST", "/v1/scorers/{scorerId}/resume", "End a pause", show="scorer"),
    Resource(_SCORER, "GetScorerStats", "GET", "/v1/scorer-stats", "Counts, coverage, ages and latencies by scorer",
             names={"scorer": "scorerId"}),
    Resource(_SCORER, "ListScorerWorkers", "GET", "/v1/scorer-workers", "The processes that do scorer runs"),
    Resource(_SCORER, "ListScorerQueues", "GET", "/v1/scorer-queues", "What waits, by scorer, and who could do it"),
    Resource(_SCORER, "ListScorerRuns", "GET", "/v1/scorer-runs", "Scorer runs, newest first",
             within="filter", names=_SCORER_RUN),
    Resource(_SCORER, "GetScorerRun", "GET", "/v1/scorer-runs/{scorerRunId}", "One scorer run", show="scorer_run"),
    Resource(_SCORER, "RequestScorerRun", "POST", "/v1/scorers/{scorerId}/scorer-runs", "Score a sample",
             status=201, show="scorer_run"),
    Resource(_SCORER, "RetryScorerRuns", "POST", "/v1/scorer-runs/retry", "Redrive scorer runs, or score them again"),
    Resource(_SCORER, "SetScorerBudget", "POST", "/v1/scorer-budgets", "Say what judges may spend", show="budget"),
    Resource(_SCORER, "ListScorerBudgets", "GET", "/v1/scorer-budgets", "What judges may spend, and did"),
    Resource(_SCORER, "SubmitScore", "POST", "/v1/runs/{runId}/scores", "Say what a person thinks of a run", status=201,
             show="scorer_run"),
    Resource(_SCORER, "RegisterScorer", "POST", "/v1/scorers", "Say what a scorer is that is carried out elsewhere",
             show="scorer"),
    Resource(_SCORER, "ClaimScorerRuns", "POST", "/v1/scorer-runs/claim", "Take scorer runs of such scorers"),
    Resource(_SCORER, "ReportScorerRun", "POST", "/v1/scorer-runs/{scorerRunId}/report", "Say how an attempt ended"),
    Resource(_SCORER, "CancelScorerRuns", "POST", "/v1/scorer-runs/cancel", "Cancel scorer runs"),
)  # fmt: skip
"""Every unary RPC but ListRunEvents, which `events` serves beside its stream. A test holds that none is missing."""


def routes(services: Callable[[Request], Services]) -> list[Route]:
    """A route for each resource. Those without parameters in the path come first: `/v1/scorer-runs/retry` is no id."""
    ordered = sorted(RESOURCES, key=lambda each: each.path.count("{"))
    return [Route(each.path, _handler(each, services), methods=[each.verb], name=each.rpc) for each in ordered]


def _handler(resource: Resource, services: Callable[[Request], Services]) -> Callable[[Request], Any]:
    async def handle(request: Request) -> Response:
        asked = await request_of(resource, request)
        answer = await services(request).call(resource.service, resource.rpc, asked, repeat=resource.repeatable)
        shown = getattr(answer, resource.show) if resource.show else answer
        headers = {"Location": f"/v1/runs/{shown.run_id}"} if resource.rpc in ("StartRun", "ForkRun") else None
        return Response(json_of(shown), resource.status, headers, "application/json")

    return handle


def json_of(message: Message) -> str:
    """Protobuf JSON in one line: 64-bit integers are strings there, and what is empty is left out."""
    return json_format.MessageToJson(message, indent=None, ensure_ascii=False)


async def request_of(resource: Resource, request: Request) -> Any:
    """The RPC's request. Raises InvalidRequest, and HTTPException for a body that is too large."""
    if resource.verb == "GET":
        members = _from_query(resource, request)
    else:
        members = await body_of(request)
    for name, value in request.path_params.items():
        if members.setdefault(name, value) != value:
            raise InvalidRequest({name: f"{members[name]!r} is not {value!r}, which the path says"})
    return parsed(members, resource.request())


def parsed(members: dict[str, Any], message: Message) -> Any:
    """`message` with these members. Raises InvalidRequest."""
    try:
        return json_format.ParseDict(members, message, max_recursion_depth=100)
    except (json_format.ParseError, ValueError, RecursionError) as error:
        text = " ".join(str(error).split())
        found = re.search(r'Failed to parse (\w+) field|no field named "(\w+)"', text)
        raise InvalidRequest({(found[1] or found[2]) if found else "body": text}) from None


async def body_of(request: Request) -> dict[str, Any]:
    """The members of a JSON object. An empty body is an empty object. Raises InvalidRequest, HTTPException."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MAX_BODY_BYTES:
            raise HTTPException(413, f"a request has at most {MAX_BODY_BYTES} bytes")
    try:
        members = json.loads(data) if data.strip() else {}
    except (ValueError, RecursionError) as error:
        raise InvalidRequest({"body": f"is no JSON: {error}"}) from None
    if not isinstance(members, dict):
        raise InvalidRequest({"body": "must be a JSON object"})
    return members


def _from_query(resource: Resource, request: Request) -> dict[str, Any]:
    """Members from `?name=value`: repeated where a field is, KEY=VALUE for a map, short names for enums."""
    whole: dict[str, Any] = {}
    inner, outer_type = whole, resource.method.input_type
    inner_type: Any = outer_type
    if resource.within:
        within = outer_type.fields_by_name[resource.within]
        inner, inner_type = whole.setdefault(within.camelcase_name, {}), within.message_type
    for given, value in request.query_params.multi_items():
        if given == "access_token":
            continue
        name = resource.names.get(given, given)
        for members, kind in ((inner, inner_type), (whole, outer_type)):
            found = kind.fields_by_camelcase_name.get(name) or kind.fields_by_name.get(name)
            if found is not None and found.name != resource.within:
                _put(members, found, value, given)
                break
        else:
            raise InvalidRequest({given: "is no parameter of this path"})
    return whole


def _put(members: dict[str, Any], found: FieldDescriptor, value: str, given: str) -> None:
    name = found.camelcase_name
    if found.message_type is not None and found.message_type.GetOptions().map_entry:
        key, equals, text = value.partition("=")
        if not equals:
            raise InvalidRequest({given: f"{value!r} is no KEY=VALUE"})
        members.setdefault(name, {})[key] = text
        return
    read = _read(found, value, given)
    if found.is_repeated:
        members.setdefault(name, []).append(read)
    elif name in members:
        raise InvalidRequest({given: "is given twice"})
    else:
        members[name] = read


def _read(found: FieldDescriptor, value: str, given: str) -> Any:
    if found.type == FieldDescriptor.TYPE_BOOL:
        if value not in ("true", "false"):
            raise InvalidRequest({given: f"{value!r} is neither true nor false"})
        return value == "true"
    if found.enum_type is not None:
        prefix = found.enum_type.values[0].name.removesuffix("UNSPECIFIED")
        full = value if value.startswith(prefix) else prefix + value.upper().replace("-", "_").replace(" ", "_")
        if full not in found.enum_type.values_by_name:
            known = ", ".join(each.name.removeprefix(prefix).lower() for each in found.enum_type.values[1:])
            raise InvalidRequest({given: f"{value!r} is none of {known}"})
        return full
    return value
