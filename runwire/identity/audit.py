"""Who changed what: one line of JSON for each call of a principal that changes something, to a logger of its own.

`runwire.audit` writes whatever the log level is. A deployment that keeps these lines gives it a handler of its own.
"""

from __future__ import annotations

import json
import logging
from typing import Any, Final

from google.protobuf.message import Message

from runwire.identity import policy
from runwire.identity.principal import caller

_NAMES: Final = ("run_id", "request_id", "agent_id", "scorer_id", "scorer_version", "dry_run", "cancel")
_MAX_IDS: Final = 20
_MAX_LENGTH: Final = 256

logger = logging.getLogger("runwire.audit")
logger.setLevel(logging.INFO)


class Entry:
    """What one call wants to change, kept while it is worked on."""

    def __init__(self, method: str, request: Message) -> None:
        who = caller()
        self._line: dict[str, Any] = {
            "action": method.rpartition("/")[2],
            "subject": who.subject,
            "tenant": who.tenant,
            **_named(request),
        }

    def done(self, response: Any) -> None:
        """It was answered."""
        self._write(outcome="done", **(_results(response) if isinstance(response, Message) else {}))

    def failed(self, error: BaseException) -> None:
        """It was refused, or failed; whether it took effect is not known then."""
        self._write(outcome="failed", reason=str(getattr(error, "reason", type(error).__name__)))

    def _write(self, **more: Any) -> None:
        logger.info("%s", json.dumps({**self._line, **more}, ensure_ascii=False))


def entry(method: str, request: Any) -> Entry | None:
    """Of a call that is being worked on; None for one that changes nothing, or where there is no authentication."""
    if method not in policy.CHANGES or not isinstance(request, Message) or not caller().name:
        return None
    return Entry(method, request)


def _named(request: Message) -> dict[str, Any]:
    fields = {field.name: value for field, value in request.ListFields()}
    found: dict[str, Any] = {name: _cut(fields[name]) for name in _NAMES if name in fields}
    if ids := fields.get("scorer_run_ids"):
        found |= {"scorer_run_ids": [_cut(each) for each in ids[:_MAX_IDS]], "ids": len(ids)}
    if ids := fields.get("run_ids"):
        found |= {"run_ids": [_cut(each) for each in ids[:_MAX_IDS]], "ids": len(ids)}
    if "filter" in fields:
        found["filter"] = _cut(" ".join(str(fields["filter"]).split()))
    if "answers" in fields:
        found["answers"] = [_cut(each.request_id) for each in fields["answers"][:_MAX_IDS]]
    return found


def _results(response: Message) -> dict[str, Any]:
    fields = {field.name: value for field, value in response.ListFields()}
    found = {"count": fields["count"]} if "count" in fields else {}
    if "run" in fields:
        found["run_id"] = fields["run"].run_id
    if "scorer_run" in fields:
        found["scorer_run_id"] = fields["scorer_run"].scorer_run_id
    return found


def _cut(value: Any) -> Any:
    return value[:_MAX_LENGTH] if isinstance(value, str) else value
