"""Requests from Python arguments, the same for the asynchronous and the synchronous client."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from google.protobuf import duration_pb2, struct_pb2, timestamp_pb2

from runwire.agent.v1 import agent_service_pb2, run_event_pb2, run_pb2
from runwire.bounds import MAX_INPUT_BYTES, too_large
from runwire.client.inputs import as_value
from runwire.errors import InvalidRequest
from runwire.scorer.v1 import scorer_run_pb2, scorer_run_requested_pb2, scorer_service_pb2
from runwire.values import Json, to_struct, to_value


def given(text: str, field: str) -> str:
    """`text`, unless it is empty. Raises InvalidRequest: an empty id is a variable that nobody has set, and must mean
    neither all there is nor a call that cannot be repeated."""
    if not text:
        raise InvalidRequest({field: "must be set"})
    return text


def start_run(
    agent_id: str,
    input: object,
    *,
    request_id: str | None,
    labels: Mapping[str, str] | None,
    scorers: Iterable[str | run_pb2.ScorerRef],
    run_timeout: timedelta | float | None,
    traceparent: str = "",
    tracestate: str = "",
    conversation: bool = False,
    idle_timeout: timedelta | float | None = None,
    context: Mapping[str, object] | None = None,
    model: str = "",
    model_settings: Mapping[str, Json] | None = None,
) -> agent_service_pb2.StartRunRequest:
    return agent_service_pb2.StartRunRequest(
        agent_id=agent_id,
        input=_within(as_value(input), "input"),
        # A random id makes it safe to send the request again when the answer was lost.
        request_id=str(uuid.uuid4()) if request_id is None else given(request_id, "request_id"),
        labels=labels,
        scorers=[run_pb2.ScorerRef(scorer_id=each) if isinstance(each, str) else each for each in scorers],
        timeout=None if run_timeout is None else _duration(run_timeout),
        traceparent=traceparent,
        tracestate=tracestate,
        conversation=_conversation(idle_timeout) if conversation or idle_timeout is not None else None,
        context=None if context is None else as_value(context, "context").struct_value,
        model=model_choice(model, model_settings),
    )


def _within(value: struct_pb2.Value, field: str) -> struct_pb2.Value:
    """`value`, if the service takes so much. Raises InvalidRequest: of a larger request gRPC says only that it is
    one."""
    if (size := value.ByteSize()) > MAX_INPUT_BYTES:
        raise InvalidRequest({field: too_large(size, MAX_INPUT_BYTES)})
    return value


def model_choice(model: str = "", model_settings: Mapping[str, Json] | None = None) -> run_pb2.ModelChoice | None:
    if not model and model_settings is None:
        return None
    return run_pb2.ModelChoice(model=model, settings=None if model_settings is None else to_struct(model_settings))


def _conversation(idle_timeout: timedelta | float | None) -> run_pb2.Conversation:
    return run_pb2.Conversation(idle_timeout=None if idle_timeout is None else _duration(idle_timeout))


def send_message(
    run_id: str,
    message: object,
    *,
    mode: run_pb2.MessageMode | str,
    request_id: str | None,
) -> agent_service_pb2.SendMessageRequest:
    return agent_service_pb2.SendMessageRequest(
        run_id=given(run_id, "run_id"),
        message=_within(as_value(message, "message"), "message"),
        mode=_mode(mode),
        request_id=str(uuid.uuid4()) if request_id is None else given(request_id, "request_id"),
    )


def fork_run(
    run_id: str,
    *,
    turn: int | None,
    step: int | str | None,
    message: object,
    agent_id: str,
    model: str,
    model_settings: Mapping[str, Json] | None,
    wait: bool,
    request_id: str | None,
) -> agent_service_pb2.ForkRunRequest:
    if turn is not None and step is not None:
        raise InvalidRequest({"step": "not together with turn"})
    request = agent_service_pb2.ForkRunRequest(
        run_id=given(run_id, "run_id"),
        request_id=str(uuid.uuid4()) if request_id is None else given(request_id, "request_id"),
        agent_id=agent_id,
        wait=wait,
        model=model_choice(model, model_settings),
        message=None if message is None else _within(as_value(message, "message"), "message"),
    )
    if turn is not None:
        request.turn = turn
    elif isinstance(step, str):
        request.step_name = step
    elif step is not None:
        request.step = step
    return request


_MODES: Final[Mapping[str, run_pb2.MessageMode]] = {
    "queue": run_pb2.MESSAGE_MODE_QUEUE,
    "steer": run_pb2.MESSAGE_MODE_STEER,
    "interrupt": run_pb2.MESSAGE_MODE_INTERRUPT,
}


def _mode(mode: run_pb2.MessageMode | str) -> run_pb2.MessageMode:
    if not isinstance(mode, str):
        return mode
    try:
        return _MODES[mode]
    except KeyError:
        raise InvalidRequest({"mode": f"{mode!r} is none of queue, steer, interrupt"}) from None


def list_runs(
    *,
    agent_id: str,
    states: Sequence[run_pb2.RunState],
    labels: Mapping[str, str] | None,
    created_after: datetime | None,
    created_before: datetime | None,
    page_size: int,
) -> agent_service_pb2.ListRunsRequest:
    return agent_service_pb2.ListRunsRequest(
        agent_id=agent_id,
        states=states,
        labels=labels,
        created_after=_timestamp(created_after),
        created_before=_timestamp(created_before),
        page_size=page_size,
    )


def create_run_token(run_id: str, lifetime: timedelta | float | None) -> agent_service_pb2.CreateRunTokenRequest:
    return agent_service_pb2.CreateRunTokenRequest(
        run_id=given(run_id, "run_id"), lifetime=None if lifetime is None else _duration(lifetime)
    )


def approve(request_id: str, override_arguments: Mapping[str, Json] | None = None) -> run_event_pb2.Answer:
    """Answer that lets a tool call happen, with other arguments than the model's where they are given."""
    arguments = None if override_arguments is None else to_struct(override_arguments)
    return run_event_pb2.Answer(request_id=request_id, approve=run_event_pb2.Approve(override_arguments=arguments))


def deny(request_id: str, message: str = "") -> run_event_pb2.Answer:
    """Answer that forbids a tool call; the model is told `message`."""
    return run_event_pb2.Answer(request_id=request_id, deny=run_event_pb2.Deny(message=message))


def supply(request_id: str, data: Json) -> run_event_pb2.Answer:
    """Answer that supplies what was asked for: a tool's result, or a workflow's data."""
    return run_event_pb2.Answer(request_id=request_id, data=to_value(data))


def scorer_run_filter(
    *,
    run_id: str | None = None,
    agent_id: str | None = None,
    scorer_id: str | None = None,
    scorer_name: str | None = None,
    error_reason: str = "",
    states: Sequence[scorer_run_pb2.ScorerRunState] = (),
    created_after: datetime | None = None,
    created_before: datetime | None = None,
) -> scorer_service_pb2.ScorerRunFilter:
    """Selects scorer runs; all conditions that are given must hold. Naive times are in UTC. Raises InvalidRequest for
    an empty id: it would select all there is, also to be cancelled. `scorer_name` may be empty: the use without one."""
    return scorer_service_pb2.ScorerRunFilter(
        run_id=None if run_id is None else given(run_id, "run_id"),
        agent_id=None if agent_id is None else given(agent_id, "agent_id"),
        scorer_id=None if scorer_id is None else given(scorer_id, "scorer_id"),
        scorer_name=scorer_name,
        error_reason=error_reason,
        states=states,
        created_after=_timestamp(created_after),
        created_before=_timestamp(created_before),
    )


def request_scorer_run(
    scorer_id: str,
    *,
    input: Json | struct_pb2.Value,
    output: Json | struct_pb2.Value,
    ground_truth: Json | struct_pb2.Value,
    context: Sequence[str],
    sample: scorer_run_requested_pb2.Sample | None,
    options: Mapping[str, Json] | None,
    scorer_version: str,
    scorer_name: str,
    request_id: str | None,
) -> scorer_service_pb2.RequestScorerRunRequest:
    if sample is None:
        sample = scorer_run_requested_pb2.Sample(
            run_state="succeeded", input=to_value(input), output=to_value(output), context=context
        )
    if ground_truth is not None:
        sample.ground_truth.CopyFrom(to_value(ground_truth))
    return scorer_service_pb2.RequestScorerRunRequest(
        scorer_id=scorer_id,
        scorer_version=scorer_version,
        scorer_name=scorer_name,
        sample=sample,
        options=None if options is None else to_struct(options),
        request_id=str(uuid.uuid4()) if request_id is None else given(request_id, "request_id"),
    )


def submit_score(
    run_id: str,
    scorer_id: str,
    value: float | None,
    *,
    thumb: str | None,
    label: str,
    comment: str,
    author: str,
    request_id: str | None,
) -> scorer_service_pb2.SubmitScoreRequest:
    if (value is None) == (thumb is None):
        raise InvalidRequest({"value": "give either a value or a thumb"})
    if thumb is not None and thumb not in _THUMBS:
        raise InvalidRequest({"thumb": f"{thumb!r} is none of up, down"})
    return scorer_service_pb2.SubmitScoreRequest(
        run_id=given(run_id, "run_id"),
        scorer_id=given(scorer_id, "scorer_id"),
        value=value,
        thumb=None if thumb is None else _THUMBS[thumb],
        label=label,
        comment=comment,
        author=author,
        request_id=str(uuid.uuid4()) if request_id is None else given(request_id, "request_id"),
    )


_THUMBS: Final[Mapping[str, scorer_service_pb2.Thumb]] = {
    "up": scorer_service_pb2.THUMB_UP,
    "down": scorer_service_pb2.THUMB_DOWN,
}


def set_scorer_budget(
    scorer_id: str, window: timedelta | float, max_tokens: int | None, max_cost_usd: float | None
) -> scorer_service_pb2.SetScorerBudgetRequest:
    return scorer_service_pb2.SetScorerBudgetRequest(
        budget=scorer_service_pb2.ScorerBudget(
            scorer_id=scorer_id, window=_duration(window), max_tokens=max_tokens, max_cost_usd=max_cost_usd
        )
    )


def scorer_stats(
    scorer_id: str, created_after: datetime | None, created_before: datetime | None
) -> scorer_service_pb2.GetScorerStatsRequest:
    return scorer_service_pb2.GetScorerStatsRequest(
        scorer_id=scorer_id, created_after=_timestamp(created_after), created_before=_timestamp(created_before)
    )


def _duration(value: timedelta | float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    try:
        duration.FromTimedelta(value if isinstance(value, timedelta) else timedelta(seconds=value))
    except OverflowError:
        raise ValueError(f"{value!r} s is longer than a duration can be") from None
    return duration


def _timestamp(value: datetime | None) -> timestamp_pb2.Timestamp | None:
    if value is None:
        return None
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromDatetime(value if value.tzinfo else value.replace(tzinfo=UTC))
    return timestamp
