"""What executors are sent."""

from __future__ import annotations

import hmac
import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from google.protobuf import json_format

from runwire.scorer.v1 import scorer_port_pb2 as pb
from runwire.times import duration, timestamp
from scorer_service.push.targets import Target

INNGEST_NAME: Final = "scorer.run.requested"
WEBHOOK_TYPE: Final = "dev.runwire.scorer.run.requested"
SIGNATURE: Final = "Runwire-Signature"


def event_of(target: Target, claimed: pb.ClaimedScorerRun, worker: str, now: float) -> tuple[bytes, Mapping[str, str]]:
    """Body and headers. The id is that of the claim: an executor that knows it has it already."""
    lease = duration(target.lease_seconds).ToJsonString()
    data = {"worker": worker, "lease": lease, **json_format.MessageToDict(claimed, preserving_proto_field_name=True)}
    key = f"{claimed.scorer_run_id}:{claimed.claim}"
    if target.executor == "inngest":
        return _inngest(key, data, now)
    return _webhook(target, key, data, claimed, now)


def _inngest(key: str, data: Mapping[str, Any], now: float) -> tuple[bytes, Mapping[str, str]]:
    """The request of Inngest's event API: a list of events, of which it takes one with an id once."""
    event = {"id": key, "name": INNGEST_NAME, "data": data, "ts": round(now * 1000)}
    return json.dumps([event]).encode(), {"Content-Type": "application/json"}


def _webhook(
    target: Target, key: str, data: Mapping[str, Any], claimed: pb.ClaimedScorerRun, now: float
) -> tuple[bytes, Mapping[str, str]]:
    """A CloudEvent 1.0 in structured mode."""
    body = json.dumps(
        {
            "specversion": "1.0",
            "id": key,
            "source": f"/runwire/scorers/{target.scorer_id}",
            "type": WEBHOOK_TYPE,
            "subject": claimed.run_id,
            "time": timestamp(now).ToJsonString(),
            "datacontenttype": "application/json",
            "data": data,
        }
    ).encode()
    headers = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    if target.secret:
        headers[SIGNATURE] = signature(target.secret, body, round(now))
    return body, headers


def signature(secret: str, body: bytes, seconds: int) -> str:
    """`t=SECONDS,v1=HEX`: HMAC-SHA256 with the secret over the decimal seconds, a dot and the body."""
    signed = hmac.new(secret.encode(), f"{seconds}.".encode() + body, sha256)
    return f"t={seconds},v1={signed.hexdigest()}"
