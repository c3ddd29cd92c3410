"""Rows as messages of the contract, and its times."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.timestamp_pb2 import Timestamp

from runwire.scorer.v1 import scorer_run_pb2 as pb
from runwire.scorer.v1 import scorer_run_requested_pb2 as requested
from runwire.times import duration, timestamp
from runwire.values import carry_struct
from scorer_service.holders import Holder
from scorer_service.queries import Found
from scorer_service.records import OPEN, State, kept_steps
from scorer_service.scoring import Scorer
from scorer_service.statistics import Stats

Message = TypeVar("Message", bound=ProtobufMessage)

log = logging.getLogger("scorer_service")

_MAX_RESULTS_BYTES = 2 * 1024 * 1024
_WITH_ERROR = (State.FAILED, State.NOT_SCORABLE, State.CANCELLED, State.RETRYING)
_DIRECTIONS = {
    "higher": pb.SCORE_DIRECTION_HIGHER_IS_BETTER,
    "lower": pb.SCORE_DIRECTION_LOWER_IS_BETTER,
}


def _time(seconds: float | None) -> Timestamp | None:
    return None if seconds is None else timestamp(seconds)


def _span(seconds: float | None) -> Duration | None:
    """Never negative: the clocks of two databases may differ."""
    return None if seconds is None else duration(max(0.0, seconds))


def shared(found: Found) -> pb.ScorerRun:
    """`scorer_run`, made once for all readers of a watch. Not to be changed."""
    if found.message is None:
        found.message = scorer_run(found)
    message: pb.ScorerRun = found.message
    return message


def within(messages: Iterable[Message], most_bytes: int) -> Iterator[Message]:
    """The first of them that make up to so many bytes on the wire: at least one, where there is one."""
    total = 0
    for index, message in enumerate(messages):
        total += message.ByteSize()
        if index and total > most_bytes:
            return
        yield message


def scorer_run(found: Found, *, partial_results: bool = False) -> pb.ScorerRun:
    """A scorer run with its attempts, and its sample if that was asked for."""
    line = found.run
    message = pb.ScorerRun(
        scorer_run_id=line.scorer_run_id,
        run_id=line.run_id,
        agent_id=line.agent_id,
        scorer_id=line.scorer_id,
        scorer_name=line.scorer_name,
        scorer_version=line.scorer_version,
        state=line.state,
        error=_error(line) if line.state in _WITH_ERROR else None,
        attempts=[_attempt(number, one) for number, one in enumerate(found.attempts, found.omitted + 1)],
        attempts_omitted=found.omitted,
        deliveries=line.deliveries,
        create_time=_time(line.create_time),
        due_time=_time(line.due_time),
        end_time=_time(line.end_time),
        trace=pb.Trace(traceparent=line.traceparent, tracestate=line.tracestate) if line.traceparent else None,
        sampling=requested.SamplingDecision(rate=line.rate, sampled=line.state != State.DECLINED),
        priority=line.priority,
        redrives=line.redrives,
        waits=line.waits,
    )
    with _readable(message, "labels"):
        message.labels.update({str(key): str(text) for key, text in json.loads(line.labels).items()})
    with _readable(message, "options"):
        message.options.CopyFrom(carry_struct(json.loads(line.options)))
    if line.state == State.SUCCEEDED:
        _add_score(message, line)
    if partial_results:
        with _readable(message, "attempts.partial_results"):
            _add_results(message, found)
    if found.sample is not None and line.error_reason != "malformed_request":
        with _readable(message, "sample"):
            message.sample.CopyFrom(requested.Sample.FromString(found.sample))
    return message


@contextmanager
def _readable(message: pb.ScorerRun, field: str) -> Iterator[None]:
    """What cannot be read is left out, and named: one damaged row must not take a page or a watch with it."""
    try:
        yield
    except Exception:
        log.warning("scorer run %s: what is stored of %s cannot be read", message.scorer_run_id, field)
        message.omitted.append(field)


def _add_score(message: pb.ScorerRun, line: Any) -> None:
    score = message.score
    score.value, score.label, score.reason = line.score_value, line.score_label or "", line.score_reason or ""
    score.direction = line.score_direction
    if line.score_metadata and line.score_metadata != "{}":
        with _readable(message, "score.metadata"):
            score.metadata.CopyFrom(carry_struct(json.loads(line.score_metadata)))
    if line.judgement:
        with _readable(message, "score.judgement"):
            score.judgement.CopyFrom(pb.Judgement(**json.loads(line.judgement)))


def _error(line: Any) -> pb.ScorerRunError:
    return pb.ScorerRunError(
        reason=line.error_reason or "", error_class=line.error_class or "", message=line.error_message or ""
    )


def _attempt(number: int, line: Any) -> pb.ScorerRunAttempt:
    attempt = pb.ScorerRunAttempt(
        attempt=number,
        worker=line.worker,
        start_time=_time(line.start_time),
        end_time=_time(line.end_time),
        error=_error(line) if line.error_reason else None,
    )
    if line.spent:
        try:
            attempt.judging.CopyFrom(pb.Judging(**json.loads(line.spent)))
        except Exception:
            log.warning("scorer run %s: what attempt %d took cannot be read", line.scorer_run_id, number)
    return attempt


def _add_results(message: pb.ScorerRun, found: Found) -> None:
    """The results of the steps of its attempts, of the newest first, as far as they fit; the others are marked. As a
    message they take several times the bytes that they take as JSON."""
    room = _MAX_RESULTS_BYTES
    for attempt, line in zip(reversed(message.attempts), reversed(found.attempts), strict=True):
        if line.partial_results is None:
            attempt.partial_results_omitted = True
        elif steps := kept_steps(line.partial_results):
            attempt.partial_results.CopyFrom(carry_struct(steps))
            room -= attempt.partial_results.ByteSize()
            if room < 0:
                attempt.ClearField("partial_results")
                attempt.partial_results_omitted = True
        if line.exchanges:
            attempt.judging.exchanges.extend(pb.JudgeExchange(**each) for each in json.loads(line.exchanges))


def scorer(scorer: Scorer, *, paused: bool, judge_model: str) -> pb.Scorer:
    """A scorer of this service."""
    return pb.Scorer(
        scorer_id=scorer.id,
        version=scorer.version,
        description=scorer.description,
        direction=_DIRECTIONS[scorer.direction],
        judge=scorer.judge,
        judge_model=judge_model if scorer.judge else "",
        prompt_version=scorer.prompt_version,
        paused=paused,
    )


def holder(found: Holder) -> pb.ScorerHolder:
    """A process that has a scorer."""
    return pb.ScorerHolder(worker=found.worker, version=found.version, seen_time=_time(found.seen_time))


def stats(found: Stats) -> pb.ScorerStats:
    """Counts of one scorer."""
    counts = found.counts
    declined = counts.get(State.DECLINED, 0)
    scored = counts.get(State.SUCCEEDED, 0)
    eligible = sum(counts.values()) - found.cancelled_ad_hoc
    p50, p95, p99 = found.latencies or (None, None, None)
    return pb.ScorerStats(
        scorer_id=found.scorer_id,
        scorer_name=found.scorer_name,
        eligible=eligible,
        sampled=eligible - declined,
        scored=scored,
        failed=counts.get(State.FAILED, 0),
        not_scorable=counts.get(State.NOT_SCORABLE, 0),
        declined=declined,
        cancelled=counts.get(State.CANCELLED, 0),
        waiting=sum(counts.get(state, 0) for state in OPEN),
        coverage=scored / eligible if eligible else 0.0,
        oldest_age=_span(found.oldest_age),
        oldest_due_age=_span(found.oldest_due_age),
        latency_p50=_span(p50),
        latency_p95=_span(p95),
        latency_p99=_span(p99),
        mean_score=found.mean_score or 0.0,
        paused=found.paused,
        counts=[pb.StateCount(state=state, count=count) for state, count in sorted(counts.items())],  # type: ignore[arg-type]
    )
