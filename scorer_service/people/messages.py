"""What people say, on the wire."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from runwire.errors import InvalidRequest
from runwire.identity.principal import Principal
from runwire.scorer.v1 import scorer_run_pb2
from runwire.scorer.v1 import scorer_service_pb2 as pb
from runwire.times import timestamp
from scorer_service.people.opinions import Said

_THUMBS = {pb.THUMB_UP: (1.0, "up"), pb.THUMB_DOWN: (0.0, "down")}


def checked(request: pb.SubmitScoreRequest) -> tuple[float, str]:
    """Value and label of what is submitted. Raises InvalidRequest."""
    problems = {name: "must be set" for name in ("run_id", "scorer_id") if not getattr(request, name)}
    kind = request.WhichOneof("score")
    if kind is None or (kind == "thumb" and request.thumb not in _THUMBS):
        problems[kind or "value"] = "set a value, or a thumb up or down"
    if problems:
        raise InvalidRequest(problems)
    if kind == "value":
        return request.value, request.label
    value, label = _THUMBS[request.thumb]
    return value, request.label or label


def said_of(who: Principal, request: pb.SubmitScoreRequest, agent_id: str, labels: Mapping[str, str]) -> Said:
    """What somebody says of a run of this agent. Raises InvalidRequest."""
    value, label = checked(request)
    return Said(
        tenant=who.tenant,
        run_id=request.run_id,
        agent_id=agent_id,
        labels=labels,
        scorer_id=request.scorer_id,
        value=value,
        label=label,
        comment=request.comment,
        author=request.author or who.subject,
        submitted_by=who.name,
        request_id=request.request_id or uuid.uuid4().hex,
        owner=who.owner or "",
    )


def opinion(row: Any) -> scorer_run_pb2.Opinion:
    """A row of the history."""
    return scorer_run_pb2.Opinion(
        number=row.number,
        value=row.value,
        label=row.label,
        comment=row.comment,
        author=row.author,
        submitted_by=row.submitted_by,
        submit_time=timestamp(row.submit_time),
    )
