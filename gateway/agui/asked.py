"""What a RunAgentInput asks of a run."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

from gateway.responses.asked import text_of
from runwire.agent.v1 import run_event_pb2
from runwire.errors import InvalidRequest
from runwire.values import to_struct, to_value

_INTERRUPT: Final = re.compile(r"([\w.-]{1,128}):(\d{1,6}):(.{1,512})", re.ASCII | re.DOTALL)
_MOST_LABEL: Final = 255


def checked(body: dict[str, Any]) -> dict[str, Any]:
    """A body that has what every RunAgentInput has. Raises InvalidRequest."""
    wrong = {}
    for name in ("threadId", "runId"):
        if not isinstance(body.get(name), str) or not body[name]:
            wrong[name] = "must be a string that is not empty"
    for name in ("messages", "resume"):
        given = body.get(name) or []
        if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
            wrong[name] = "must be a list of objects"
    if wrong:
        raise InvalidRequest(wrong)
    return {**body, "messages": body.get("messages") or [], "resume": body.get("resume") or []}


def request_id(agent_id: str, asked: dict[str, Any]) -> str:
    """Names the run: a second POST of the same thread and run joins it."""
    names = (agent_id, asked["threadId"], asked["runId"])
    return "agui-" + hashlib.sha256("\0".join(f"{len(name)}:{name}" for name in names).encode()).hexdigest()


def labels(asked: dict[str, Any]) -> dict[str, str]:
    """So that the runs of a thread are found."""
    return {"thread": asked["threadId"]} if len(asked["threadId"]) <= _MOST_LABEL else {}


def last_message(asked: dict[str, Any]) -> str:
    """The text of the newest message of a user. Raises InvalidRequest."""
    for message in reversed(asked["messages"]):
        if message.get("role") == "user":
            try:
                return text_of([{"role": "user", "content": message.get("content")}])
            except InvalidRequest as error:
                raise InvalidRequest({"messages": error.violations["input"]}) from None
    raise InvalidRequest({"messages": "must hold a message of a user"})


def resumed(asked: dict[str, Any]) -> tuple[str, int, list[run_event_pb2.Answer]]:
    """The run that is answered, the part of it that waits, and the answers. Raises InvalidRequest."""
    places, answers = set(), []
    for entry in asked["resume"]:
        match = _INTERRUPT.fullmatch(str(entry.get("interruptId", "")))
        if match is None:
            raise InvalidRequest({"resume": f"{entry.get('interruptId')!r} is no interrupt of a run here"})
        places.add((match[1], int(match[2])))
        answers.append(_answer(match[3], entry))
    if len(places) != 1:
        raise InvalidRequest({"resume": "answers interrupts of different runs"})
    run_id, part = places.pop()
    return run_id, part, answers


def _answer(name: str, entry: dict[str, Any]) -> run_event_pb2.Answer:
    """A payload with `approved` decides about a tool call, and any other is data."""
    answer, given = run_event_pb2.Answer(request_id=name), entry.get("payload")
    if entry.get("status") not in ("resolved", "cancelled"):
        raise InvalidRequest({"resume": f"status {entry.get('status')!r} is neither resolved nor cancelled"})
    payload: dict[str, Any] = given if isinstance(given, dict) else {}
    approved = payload.get("approved")
    if entry["status"] == "cancelled" or approved is False:
        answer.deny.message = str(payload.get("message") or "")
        answer.deny.SetInParent()
    elif approved is True:
        edited = payload.get("editedArgs")
        if isinstance(edited, dict):
            answer.approve.override_arguments.CopyFrom(to_struct(edited))
        answer.approve.SetInParent()
    else:
        answer.data.CopyFrom(to_value(given))
    return answer
