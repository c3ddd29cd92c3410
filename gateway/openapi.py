"""The OpenAPI document, made from the table of resources and the descriptors of the protos: it cannot differ."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

from google.protobuf.descriptor import FieldDescriptor

from gateway.resources import RESOURCES, Resource
from runwire.agent.v1 import agent_service_pb2, run_event_pb2
from runwire.scorer.v1 import scorer_run_pb2

_INTEGERS: Final = {FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_SINT32}
_LONGS: Final = {FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_SINT64}
_WELL_KNOWN: Final[dict[str, dict[str, Any]]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?\d+(\.\d+)?s$", "description": "Seconds: `1.5s`."},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {"description": "Any JSON."},
}
_PROBLEM: Final = {
    "type": "object",
    "required": ["title", "status", "detail", "reason"],
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "reason": {"type": "string", "description": "As in google.rpc.ErrorInfo."},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
        "retryAfterSeconds": {"type": "number"},
        "violations": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "description": {"type": "string"}},
            },
        },
    },
}


@cache
def document() -> dict[str, Any]:
    """OpenAPI 3.1."""
    schemas = _Schemas()
    paths: dict[str, Any] = {}
    for resource in RESOURCES:
        paths.setdefault(resource.path, {})[resource.verb.lower()] = _operation(resource, schemas)
    paths.update(_streams(schemas))
    paths.update(_foreign())
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Runwire gateway",
            "version": "1",
            "description": "Bodies are protobuf JSON: 64-bit integers are strings, and empty fields are left out.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {**schemas.made, "Problem": _PROBLEM},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }


class _Schemas:
    """Schemas of messages, each made once."""

    def __init__(self) -> None:
        self.made: dict[str, Any] = {}

    def reference(self, message: Any) -> dict[str, Any]:
        if message.full_name in _WELL_KNOWN:
            return _WELL_KNOWN[message.full_name]
        if message.name not in self.made:
            self.made[message.name] = {}  # a message may hold itself
            self.made[message.name] = {
                "type": "object",
                "properties": {each.camelcase_name: self.of(each) for each in message.fields},
            }
        return {"$ref": f"#/components/schemas/{message.name}"}

    def of(self, found: FieldDescriptor) -> dict[str, Any]:
        if found.message_type is not None and found.message_type.GetOptions().map_entry:
            return {"type": "object", "additionalProperties": self._one(found.message_type.fields_by_name["value"])}
        return {"type": "array", "items": self._one(found)} if found.is_repeated else self._one(found)

    def _one(self, found: FieldDescriptor) -> dict[str, Any]:
        if found.message_type is not None:
            return self.reference(found.message_type)
        if found.enum_type is not None:
            return {"type": "string", "enum": [value.name for value in found.enum_type.values]}
        if found.type == FieldDescriptor.TYPE_BOOL:
            return {"type": "boolean"}
        if found.type in _INTEGERS:
            return {"type": "integer", "format": "int32"}
        if found.type in _LONGS:
            return {"type": "string", "format": "int64"}
        if found.type == FieldDescriptor.TYPE_BYTES:
            return {"type": "string", "format": "byte"}
        return {"type": "number"} if found.type == FieldDescriptor.TYPE_DOUBLE else {"type": "string"}


def _operation(resource: Resource, schemas: _Schemas) -> dict[str, Any]:
    method = resource.method
    shown = method.output_type.fields_by_name[resource.show].message_type if resource.show else method.output_type
    operation: dict[str, Any] = {
        "operationId": resource.rpc,
        "summary": resource.summary,
        "tags": [resource.service],
        "parameters": [_in_path(name) for name in re.findall(r"{(\w+)}", resource.path)],
        "responses": {
            str(resource.status): _answer(schemas.reference(shown)),
            "default": {
                "description": "Anything else",
                "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
            },
        },
    }
    if resource.verb == "POST":
        body = {"schema": schemas.reference(method.input_type)}
        operation["requestBody"] = {"content": {"application/json": body}}
    else:
        operation["parameters"] += _in_query(resource, schemas)
    return operation


def _in_path(name: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def _in_query(resource: Resource, schemas: _Schemas) -> list[dict[str, Any]]:
    outer = resource.method.input_type
    fields = [each for each in outer.fields if each.name != resource.within]
    if resource.within:
        inner: Any = outer.fields_by_name[resource.within].message_type
        fields += inner.fields
    short = {full: name for name, full in resource.names.items()}
    return [
        {
            "name": short.get(each.camelcase_name, each.camelcase_name),
            "in": "query",
            "schema": {"type": "array", "items": {"type": "string", "pattern": "^[^=]+=.*$"}}
            if each.message_type is not None and each.message_type.GetOptions().map_entry
            else schemas.of(each),
        }
        for each in fields
        if f"{{{each.camelcase_name}}}" not in resource.path
    ]


def _answer(schema: dict[str, Any], kind: str = "application/json") -> dict[str, Any]:
    return {"description": "Done", "content": {kind: {"schema": schema}}}


def _streams(schemas: _Schemas) -> dict[str, Any]:
    """The paths of `gateway.streams`."""
    last = {
        "name": "Last-Event-ID",
        "in": "header",
        "schema": {"type": "string"},
        "description": "The last id that was seen; `?cursor=` says the same. Without: from the beginning.",
    }
    page = schemas.reference(agent_service_pb2.ListRunEventsResponse.DESCRIPTOR)
    event = schemas.reference(run_event_pb2.RunEvent.DESCRIPTOR)
    scorer_run = schemas.reference(scorer_run_pb2.ScorerRun.DESCRIPTOR)
    of_run = _answer(event, "text/event-stream")
    of_run["content"]["application/json"] = {"schema": page}
    run_id = _in_path("runId")
    runs = {
        "name": "run",
        "in": "query",
        "required": True,
        "schema": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": 50},
    }
    return {
        "/v1/runs/{runId}/events": {
            "get": {
                "operationId": "WatchRun",
                "summary": "The events of a run as they come (Accept: text/event-stream), or a page of them",
                "parameters": [run_id, last],
                "responses": {"200": of_run, "204": {"description": "This reader has had the end"}},
            }
        },
        "/v1/events": {
            "get": {
                "operationId": "WatchRuns",
                "summary": "The events of several runs in one stream",
                "parameters": [runs, last],
                "responses": {"200": _answer(page, "text/event-stream")},
            }
        },
        "/v1/runs/{runId}/scorer-runs/events": {
            "get": {
                "operationId": "WatchScorerRuns",
                "summary": "The scorer runs of a run as they change",
                "parameters": [run_id, last],
                "responses": {"200": _answer(scorer_run, "text/event-stream")},
            }
        },
    }


def _foreign() -> dict[str, Any]:
    """The paths of other protocols. Their own documents have the rest; what stands here is what is taken from them."""
    id = _in_path("id")
    after = {"name": "starting_after", "in": "query", "schema": {"type": "integer", "minimum": 0}}
    stream = {"name": "stream", "in": "query", "schema": {"type": "boolean"}}
    response = {"type": "object", "description": "A response, as the OpenAI Responses API has it."}
    answer = {"200": _answer(response)}
    answer["200"]["content"]["text/event-stream"] = {"schema": {"type": "object", "required": ["type"]}}
    capabilities = _answer({"type": "object", "description": "AgentCapabilities of AG-UI 1.0."})
    joined = _answer({"type": "object", "required": ["type"], "description": "An AG-UI event."}, "text/event-stream")
    return {
        "/v1/models": {"get": _other("ListModels", "The agents, as models", {"200": _answer({"type": "object"})})},
        "/v1/responses": {"post": _other("CreateResponse", "Start a run as a response", answer, body=_CREATE)},
        "/v1/responses/{id}": {
            "get": _other("GetResponse", "A response, or its events", answer, [id, stream, after]),
        },
        "/v1/responses/{id}/cancel": {
            "post": _other("CancelResponse", "Cancel the run of a response", {"200": _answer(response)}, [id])
        },
        "/v1/agui/{agentId}": {
            "post": _other(
                "RunAgUi", "Start, join or answer a run by AG-UI", {"200": joined}, [_in_path("agentId")], body=_RUN
            )
        },
        "/v1/agui/{agentId}/capabilities": {
            "get": _other(
                "GetAgUiCapabilities", "What AG-UI clients may expect", {"200": capabilities}, [_in_path("agentId")]
            )
        },
    }


def _other(
    id: str,
    summary: str,
    responses: dict[str, Any],
    parameters: list[dict[str, Any]] | None = None,
    *,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    operation = {"operationId": id, "summary": summary, "parameters": parameters or [], "responses": responses}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation


_CREATE: Final = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "model": {"type": "string", "description": "The agent."},
        "input": {"description": "Text, one message of a user, or the answers to what a response waits for."},
        "stream": {"type": "boolean"},
        "background": {"type": "boolean"},
        "metadata": {"type": "object", "additionalProperties": {"type": "string"}, "description": "Labels of the run."},
        "previous_response_id": {"type": "string", "description": "The response that `input` answers."},
    },
}
_RUN: Final = {
    "type": "object",
    "required": ["threadId", "runId", "messages"],
    "description": "RunAgentInput of AG-UI 1.0.",
    "properties": {
        "threadId": {"type": "string"},
        "runId": {"type": "string", "description": "The same id joins the same run."},
        "messages": {"type": "array", "items": {"type": "object"}},
        "resume": {"type": "array", "items": {"type": "object"}, "description": "Answers to interrupts."},
    },
}
