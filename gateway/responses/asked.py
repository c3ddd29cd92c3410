"""What a request for a response asks of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.errors import InvalidRequest, NotSuspended
from runwire.values import to_value

_TAKEN: Final = frozenset(("model", "input", "stream", "background", "metadata", "previous_response_id"))
_WITHOUT_EFFECT: Final = frozenset((
    "store", "include", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention", "reasoning",
    "safety_identifier", "service_tier", "stream_options", "temperature", "text", "top_logprobs", "top_p", "truncation",
    "user",
))  # fmt: skip
"""What an agent has settled for itself. Whatever else is set is refused: it would be missed."""
_ANSWERS: Final = ("mcp_approval_response", "function_call_output")
_TEXTS: Final = ("input_text", "text")


@dataclass(frozen=True)
class Asked:
    """The body of `POST /v1/responses`."""

    model: str
    input: Any
    stream: bool
    background: bool
    labels: dict[str, str]
    previous: str
    """The response that waits for the answers in `input`; empty for a new run."""


def asked_of(body: dict[str, Any]) -> Asked:
    """Reads a body. Raises InvalidRequest."""
    wrong = {
        name: "is not supported here: the agent has it settled"
        for name, value in body.items()
        if name not in _TAKEN | _WITHOUT_EFFECT and value not in (None, [], "", "auto")
    }
    for name in ("stream", "background"):
        if not isinstance(body.get(name) or False, bool):
            wrong[name] = "must be true or false"
    metadata = body.get("metadata") or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        wrong["metadata"] = "must be an object of strings"
    for name in ("model", "previous_response_id"):
        if not isinstance(body.get(name) or "", str):
            wrong[name] = "must be a string"
    previous = body.get("previous_response_id") or ""
    if not body.get("model") and not previous:
        wrong["model"] = "must name an agent"
    if body.get("input") is None:
        wrong["input"] = "must be set"
    if wrong:
        raise InvalidRequest(wrong)
    return Asked(
        model=body.get("model") or "",
        input=body["input"],
        stream=body.get("stream") or False,
        background=body.get("background") or False,
        labels=metadata,
        previous=previous,
    )


def text_of(input: Any) -> str:
    """The text of one message of a user. Raises InvalidRequest for anything else."""
    if isinstance(input, str):
        return input
    if not isinstance(input, list) or not input or not all(isinstance(each, dict) for each in input):
        raise InvalidRequest({"input": "must be text, or a list of messages"})
    if len(input) != 1 or input[0].get("type", "message") != "message" or input[0].get("role") != "user":
        raise InvalidRequest(
            {"input": "must be one message of a user: an agent has its own instructions and no history"}
        )
    content = input[0].get("content")
    if isinstance(content, str):
        return content
    parts = [each for each in content if isinstance(each, dict)] if isinstance(content, list) else []
    if not parts or len(parts) != len(content) or not all(part.get("type") in _TEXTS for part in parts):
        raise InvalidRequest({"input": "may hold text only"})
    return "\n".join(str(part.get("text", "")) for part in parts)


def input_of(text: str, agent: run_pb2.Agent | None) -> Any:
    """The input of a run: the text, or the JSON in it where the agent takes no text."""
    schema = agent.input_schema.fields if agent is not None else {}
    if "type" not in schema or schema["type"].string_value in ("", "string"):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        kind = schema["type"].string_value
        raise InvalidRequest({"input": f"must be the JSON of the {kind} that this agent takes"}) from None


def answers_of(input: Any, pending: Iterable[run_pb2.PendingRequest]) -> list[run_event_pb2.Answer]:
    """The answers to what a response waits for. Raises InvalidRequest where it holds anything else, NotSuspended."""
    items = input if isinstance(input, list) else []
    if not items or not all(isinstance(each, dict) and each.get("type") in _ANSWERS for each in items):
        raise InvalidRequest({
            "previous_response_id": "only continues a response that waits, with the mcp_approval_response and "
            "function_call_output items that it waits for; conversations are not continued by this interface"
        })  # fmt: skip
    known = {each.request_id: each for each in pending}
    return [_answer(item, known) for item in items]


def _answer(item: dict[str, Any], known: dict[str, run_pb2.PendingRequest]) -> run_event_pb2.Answer:
    approval = item["type"] == "mcp_approval_response"
    name = item.get("approval_request_id" if approval else "call_id")
    if not isinstance(name, str) or name not in known:
        raise NotSuspended(f"the response does not wait for {name!r}")
    answer = run_event_pb2.Answer(request_id=name)
    if not approval:
        answer.data.CopyFrom(to_value(_data(item.get("output"), known[name])))
    elif item.get("approve") is True:
        answer.approve.SetInParent()
    elif item.get("approve") is False:
        answer.deny.message = str(item.get("reason") or "")
        answer.deny.SetInParent()
    else:
        raise InvalidRequest({"input": "approve must be true or false"})
    return answer


def _data(output: Any, pending: run_pb2.PendingRequest) -> Any:
    """What a function returned: JSON where it is any, unless text is wanted."""
    if isinstance(output, list):
        output = text_of([{"role": "user", "content": output}])
    if not isinstance(output, str):
        raise InvalidRequest({"input": "output must be text"})
    schema = pending.schema.fields
    if "type" in schema and schema["type"].string_value == "string":
        return output
    try:
        return json.loads(output)
    except (ValueError, RecursionError):
        return output
