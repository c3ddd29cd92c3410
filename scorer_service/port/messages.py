"""The port's messages: requests as what they ask for, and scorer runs as they are given to workers."""

from __future__ import annotations

import json
from typing import Final

from runwire.errors import InvalidRequest
from runwire.scorer.v1 import scorer_port_pb2 as pb
from runwire.scorer.v1 import scorer_run_pb2
from runwire.scorer.v1 import scorer_run_requested_pb2 as requested
from runwire.times import duration, seconds_of, timestamp
from runwire.values import carry_struct, from_struct
from scorer_service.port.external import External, schema_of
from scorer_service.port.port import Wanted, version_of
from scorer_service.results.records import Job, json_text, kept_steps

_DEFAULT_SAMPLE_BYTES: Final = 1024 * 1024


def external_of(tenant: str, said: pb.ExternalScorer) -> External:
    """What a worker says of its scorer. Raises InvalidRequest."""
    return External(
        tenant=tenant,
        scorer_id=said.scorer_id,
        version=said.version,
        description=said.description,
        direction="lower" if said.direction == scorer_run_pb2.SCORE_DIRECTION_LOWER_IS_BETTER else "higher",
        options_schema=json_text(from_struct(said.options_schema)),
        timeout_seconds=seconds_of(said.timeout) if said.HasField("timeout") else None,
        retries=said.retries if said.HasField("retries") else None,
    )


def registered(scorer: External) -> pb.ExternalScorer:
    """A registered scorer."""
    message = pb.ExternalScorer(
        scorer_id=scorer.scorer_id,
        version=scorer.version,
        description=scorer.description,
        direction=direction_of(scorer),
        timeout=None if scorer.timeout_seconds is None else duration(scorer.timeout_seconds),
        retries=scorer.retries,
    )
    if schema := schema_of(scorer):
        message.options_schema.CopyFrom(carry_struct(schema))
    return message


def listed(scorer: External, *, paused: bool) -> scorer_run_pb2.Scorer:
    """The same as one of all scorers."""
    message = scorer_run_pb2.Scorer(
        scorer_id=scorer.scorer_id,
        version=scorer.version,
        description=scorer.description,
        direction=direction_of(scorer),
        paused=paused,
        external=True,
    )
    if schema := schema_of(scorer):
        message.options_schema.CopyFrom(carry_struct(schema))
    return message


def direction_of(scorer: External) -> scorer_run_pb2.ScoreDirection:
    """As an enum."""
    if scorer.direction == "lower":
        return scorer_run_pb2.SCORE_DIRECTION_LOWER_IS_BETTER
    return scorer_run_pb2.SCORE_DIRECTION_HIGHER_IS_BETTER


def wanted_of(request: pb.ClaimScorerRunsRequest) -> Wanted:
    """What a worker asks for. Raises InvalidRequest where it asks for nothing."""
    if not request.worker:
        raise InvalidRequest({"worker": "must be set"})
    if not request.scorers:
        raise InvalidRequest({"scorers": "name at least one"})
    versions: dict[str, list[str]] = {}
    for each in request.scorers:
        listed = versions.setdefault(each.scorer_id, [])
        if each.version not in listed:
            listed.append(each.version)
    return Wanted(
        worker=request.worker,
        versions=versions,
        limit=request.max_scorer_runs or 1,
        wait_seconds=seconds_of(request.wait),
        lease_seconds=seconds_of(request.lease),
        in_hand=request.in_hand,
        max_bytes=request.max_sample_bytes or _DEFAULT_SAMPLE_BYTES,
    )


def claimed(job: Job, wanted: Wanted, lease_seconds: float, trace: tuple[str, str]) -> pb.ClaimedScorerRun:
    """A scorer run as its worker gets it."""
    version = version_of(wanted.versions[job.scorer_id], job.wanted_version)
    message = pb.ClaimedScorerRun(
        scorer_run_id=job.scorer_run_id,
        claim=job.token,
        scorer_id=job.scorer_id,
        scorer_version=version,
        run_id=job.run_id,
        agent_id=job.agent_id,
        sample=_sample(job.sample, wanted.max_bytes),
        lease_end_time=timestamp(job.start_time + lease_seconds),
        failures=job.failures,
        alone=job.alone,
        deadline=None if job.deadline is None else timestamp(job.deadline),
        trace=scorer_run_pb2.Trace(traceparent=trace[0], tracestate=trace[1]) if trace[0] else None,
    )
    if job.options != "{}":
        message.options.CopyFrom(carry_struct(json.loads(job.options)))
    if steps := kept_steps(job.steps, version):
        message.steps.CopyFrom(carry_struct(steps))
    return message


def _sample(body: bytes, most_bytes: int) -> requested.Sample:
    """The sample, or what remains of one that is larger than its worker takes."""
    sample = requested.Sample.FromString(body)
    if len(body) > most_bytes:
        for name in ("input", "output", "tool_calls", "steps", "turns", "ground_truth", "context", "error_message"):
            sample.ClearField(name)
        sample.by_reference = True
    return sample
