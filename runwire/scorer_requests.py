"""What both services agree on beside the proto: where requests to scorers lie, what they are called, which runs are
sampled, and how a run becomes a sample. The wire format is runwire.scorer.v1.ScorerRunRequested; see docs/wire.md."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.fold import RunView
from runwire.scorer.v1 import scorer_run_requested_pb2 as pb
from runwire.values import carry_value

QUEUE: Final = "scorer-requests"
"""The message queue of the requests, in the store of the runs."""

DEFAULT_TENANT: Final = "default"
"""Of everything, where nobody has to say who they are."""

OWNER: Final = "owner"
"""Field of a topic: the subject that started the run. There is none where nobody has to say who they are."""

BRIEF: Final = "brief"
"""Field of a topic: its Run, without large fields."""

PEOPLE: Final = "people"
"""ScorerRef.name of the scores that people give: see SubmitScore."""

OUTCOMES: Final[Mapping[int, str]] = {
    run_event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED: "succeeded",
    run_event_pb2.TOOL_CALL_OUTCOME_FAILED: "failed",
    run_event_pb2.TOOL_CALL_OUTCOME_DENIED: "denied",
    run_event_pb2.TOOL_CALL_OUTCOME_UNKNOWN_AFTER_CRASH: "unknown_after_crash",
}
"""SampleToolCall.outcome by ToolCallOutcome. Another one, of a newer version, is the empty text."""


def topic_of(tenant: str, run_id: str) -> str:
    """The topic of a run: its log and fields in the store."""
    return f"{tenant}/{run_id}"


def is_owned(fields: Mapping[str, bytes], owner: str | None) -> bool:
    """Whether a topic with these fields is a run of `owner`; None: of whom it is does not matter."""
    return owner is None or fields.get(OWNER) == owner.encode()


def scorer_run_id(
    tenant: str, run_id: str, scorer_id: str, scorer_version: str, scorer_name: str = "", *, turn: int = 0
) -> str:
    """Identity of the scoring of a run, or of a turn of it, as ScorerRunRequested.scorer_run_id says: 32 hex digits."""
    scored = f"{run_id}#{turn}" if turn else run_id
    parts = [tenant, scored, scorer_id, scorer_version, *([scorer_name] if scorer_name else [])]
    return sha256("\0".join(parts).encode()).hexdigest()[:32]


def is_sampled(run_id: str, rate: float) -> bool:
    """Whether a run is scored at this rate: the first 48 bits of sha256(run_id) / 2^48 < rate. A run that is chosen at
    one rate is chosen at every higher one."""
    return int.from_bytes(sha256(run_id.encode()).digest()[:6], "big") / 2**48 < rate


def state_name(state: int) -> str:
    """Sample.run_state of a RunState. Raises ValueError for a number that is none."""
    return run_pb2.RunState.Name(state).removeprefix("RUN_STATE_").lower()


def sample_of(run: run_pb2.Run, view: RunView) -> pb.Sample:
    """The whole sample of a run, from its summary and the fold of its events."""
    sample = summary_of(run)
    add_content(sample, run)
    add_steps(sample, view)
    return sample


def summary_of(run: run_pb2.Run) -> pb.Sample:
    """A sample without what the run was about: input, output, steps and tool calls."""
    return pb.Sample(
        run_id=run.run_id,
        agent_id=run.agent_id,
        agent_version=run.agent_version,
        run_state=state_name(run.state),
        error_reason=run.error.reason,
        error_message=run.error.message,
        usage=pb.SampleUsage(
            requests=run.usage.requests,
            input_tokens=run.usage.input_tokens,
            output_tokens=run.usage.output_tokens,
            tool_calls=run.usage.tool_calls,
        ),
        labels=run.labels,
        start_time=run.start_time if run.HasField("start_time") else None,
        end_time=run.end_time if run.HasField("end_time") else None,
    )


def add_content(sample: pb.Sample, run: run_pb2.Run) -> None:
    """Adds input and output."""
    if run.HasField("input"):
        sample.input.CopyFrom(run.input)
    if run.HasField("output"):
        sample.output.CopyFrom(run.output)


def add_turns(sample: pb.Sample, view: RunView) -> None:
    """Adds the turns of a conversation, in order."""
    for number, turn in sorted(view.turns.items()):
        sample.turns.add(
            turn=number,
            message=carry_value(turn.message),
            output=carry_value(turn.output),
            state=state_name(turn.state),
            error_reason=turn.error.reason if turn.error is not None else "",
            steering=[carry_value(content) for _, content in turn.received],
        )


def add_steps(sample: pb.Sample, view: RunView) -> None:
    """Adds steps and tool calls, in order."""
    for number, step in sorted(view.steps.items()):
        if number > 0:
            sample.steps.add(step=step.step, name=step.name, text=step.text)
        for call in step.tool_calls:
            sample.tool_calls.add(
                tool_call_id=call.tool_call_id,
                tool_name=call.tool_name,
                arguments=carry_value(call.arguments),
                result=carry_value(call.result),
                outcome=OUTCOMES.get(call.outcome, ""),
                step=step.step,
            )
