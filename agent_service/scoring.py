"""What a finishing run asks of the scorer service."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.client.fold import RunView
from runwire.client.values import to_value
from runwire.pubsub import Message
from runwire.scorer.v1 import scorer_run_requested_pb2

QUEUE = "scorer-requests"

_OUTCOMES = {
    run_event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED: "succeeded",
    run_event_pb2.TOOL_CALL_OUTCOME_FAILED: "failed",
    run_event_pb2.TOOL_CALL_OUTCOME_DENIED: "denied",
    run_event_pb2.TOOL_CALL_OUTCOME_UNKNOWN_AFTER_CRASH: "unknown_after_crash",
}


def is_sampled(run_id: str, rate: float) -> bool:
    """Whether a run is scored at this rate: the first 48 bits of sha256(run_id) / 2^48 < rate. Whoever is chosen at a
    rate is chosen at every higher one."""
    return int.from_bytes(hashlib.sha256(run_id.encode()).digest()[:6], "big") / 2**48 < rate


def is_eligible(scorer: run_pb2.ScorerRef, run: run_pb2.Run) -> bool:
    """Whether the scorer wants runs with these labels that end in this state."""
    states = scorer.match_states or [run_pb2.RUN_STATE_SUCCEEDED]
    return run.state in states and all(run.labels.get(key) == value for key, value in scorer.match_labels.items())


def scorer_run_id(tenant: str, run_id: str, scorer: run_pb2.ScorerRef) -> str:
    """As ScorerRunRequested.scorer_run_id has it."""
    parts = [tenant, run_id, scorer.scorer_id, scorer.scorer_version]
    if scorer.name:
        parts.append(scorer.name)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def requests(
    tenant: str, run: run_pb2.Run, view: RunView, *, max_sample_bytes: int, traceparent: str = "", tracestate: str = ""
) -> Iterator[Message]:
    """A message for each eligible scorer, sampled or not."""
    eligible = [scorer for scorer in run.scorers if is_eligible(scorer, run)]
    if not eligible:
        return
    sample = _sample(run, view)
    if sample.ByteSize() > max_sample_bytes:
        for name in ("input", "output", "tool_calls", "steps"):
            sample.ClearField(name)
        sample.by_reference = True
    for scorer in eligible:
        rate = scorer.sampling if scorer.HasField("sampling") else 1.0
        request = scorer_run_requested_pb2.ScorerRunRequested(
            scorer_run_id=scorer_run_id(tenant, run.run_id, scorer),
            tenant=tenant,
            scorer_id=scorer.scorer_id,
            scorer_version=scorer.scorer_version,
            scorer_name=scorer.name,
            options=scorer.options if scorer.HasField("options") else None,
            sampling=scorer_run_requested_pb2.SamplingDecision(rate=rate, sampled=is_sampled(run.run_id, rate)),
            sample=sample,
            request_time=run.end_time,
            sibling_count=len(eligible),
            traceparent=traceparent,
            tracestate=tracestate,
        )
        yield Message(QUEUE, request.SerializeToString())


def _sample(run: run_pb2.Run, view: RunView) -> scorer_run_requested_pb2.Sample:
    steps = [view.steps[number] for number in sorted(view.steps) if number > 0]
    return scorer_run_requested_pb2.Sample(
        run_id=run.run_id,
        agent_id=run.agent_id,
        agent_version=run.agent_version,
        run_state=run_pb2.RunState.Name(run.state).removeprefix("RUN_STATE_").lower(),
        input=run.input if run.HasField("input") else None,
        output=run.output if run.HasField("output") else None,
        error_reason=run.error.reason,
        error_message=run.error.message,
        tool_calls=[
            scorer_run_requested_pb2.SampleToolCall(
                tool_call_id=call.tool_call_id,
                tool_name=call.tool_name,
                arguments=to_value(call.arguments),
                result=to_value(call.result),
                outcome=_OUTCOMES.get(call.outcome, ""),
                step=step.step,
            )
            for step in steps
            for call in step.tool_calls
        ],
        steps=[scorer_run_requested_pb2.SampleStep(step=s.step, name=s.name, text=s.text) for s in steps],
        usage=scorer_run_requested_pb2.SampleUsage(
            requests=run.usage.requests,
            input_tokens=run.usage.input_tokens,
            output_tokens=run.usage.output_tokens,
            tool_calls=run.usage.tool_calls,
        ),
        labels=run.labels,
        start_time=run.start_time,
        end_time=run.end_time,
    )
