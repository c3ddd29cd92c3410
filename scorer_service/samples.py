"""Samples on the wire and in scorers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from runwire.scorer.v1 import scorer_run_requested_pb2 as wire
from runwire.values import from_value
from scorer_service.scoring import Sample, Step, ToolCall, Turn, Usage


def from_wire(message: wire.Sample) -> Sample:
    """The sample that scorers get. Nothing is validated again: protobuf has checked the types."""
    return Sample.model_construct(
        input=from_value(message.input),
        output=from_value(message.output),
        run_id=message.run_id,
        agent_id=message.agent_id,
        agent_version=message.agent_version,
        run_state=message.run_state or "succeeded",
        error_reason=message.error_reason,
        error_message=message.error_message,
        tool_calls=[_tool_call(call) for call in message.tool_calls],
        steps=[Step.model_construct(step=step.step, name=step.name, text=step.text) for step in message.steps],
        usage=_usage(message.usage) if message.HasField("usage") else _NO_USAGE,
        labels=dict(message.labels),
        start_time=_datetime(message.start_time) if message.HasField("start_time") else None,
        end_time=_datetime(message.end_time) if message.HasField("end_time") else None,
        ground_truth=from_value(message.ground_truth),
        context=list(message.context),
        turn=message.turn,
        turns=[_turn(turn) for turn in message.turns],
    )


_NO_USAGE: Final = Usage()


def _usage(usage: wire.SampleUsage) -> Usage:
    return Usage.model_construct(
        requests=usage.requests,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        tool_calls=usage.tool_calls,
    )


def _turn(turn: wire.SampleTurn) -> Turn:
    return Turn.model_construct(
        turn=turn.turn,
        message=from_value(turn.message),
        output=from_value(turn.output),
        state=turn.state or "succeeded",
        error_reason=turn.error_reason,
        steering=[from_value(message) for message in turn.steering],
    )


def _tool_call(call: wire.SampleToolCall) -> ToolCall:
    return ToolCall.model_construct(
        tool_name=call.tool_name,
        arguments=from_value(call.arguments),
        result=from_value(call.result),
        outcome=call.outcome or "succeeded",
        tool_call_id=call.tool_call_id,
        step=call.step,
    )


def _datetime(timestamp: Timestamp) -> datetime:
    return timestamp.ToDatetime(tzinfo=UTC)
