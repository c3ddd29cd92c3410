"""Rows as messages of the contract, and its times."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message as ProtobufMessage
from google.protobuf.timestamp_pb2 import Timestamp

from runwire.scorer.v1 import scorer_run_pb2 as pb
from runwire.scorer.v1 import scorer_run_requested_pb2 as requested
from runwire.scorer.v1 import scorer_service_pb2 as service_pb
from runwire.times import duration, timestamp
from runwire.values import carry_struct
from scorer_service.answers.queries import Found
from scorer_service.answers.statistics import Stats
from scorer_service.queue.holders import Holder, Queue, Worker
from scorer_service.results.records import OPEN, PERSON, Priority, State, kept_steps
from scorer_service.scoring import Scorer

Message = TypeVar("Message", bound=ProtobufMessage)

logger = logging.getLogger("scorer_service")

_MAX_RESULTS_BYTES = 2 * 1024 * 1024
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799
"""Of a Timestamp: the years 1 to 9999."""
_MAX_SECONDS = 315_576_000_000.0
"""Of a Duration."""
_WITH_ERROR = (State.FAILED, State.NOT_SCORABLE, State.CANCELLED, State.RETRYING)
_DIRECTIONS = {
    "higher": pb.SCORE_DIRECTION_HIGHER_IS_BETTER,
    "lower": pb.SCORE_DIRECTION_LOWER_IS_BETTER,
}


def _time(seconds: float | None) -> Timestamp | None:
    """Raises ValueError for what no Timestamp can be: the years 1 to 9999."""
    if seconds is None:
        return None
    if not _FIRST_SECOND <= seconds < _LAST_SECOND:
        raise ValueError(f"no time of a calendar: {seconds!r}")
    return timestamp(seconds)


def _finite(number: float) -> float:
    """Raises TypeError or ValueError for what is no finite number."""
    if not math.isfinite(number):
        raise ValueError(f"not finite: {number!r}")
    return number


def _span(seconds: float | None) -> Duration | None:
    """Never negative: the clocks of two databases may differ. And never more than a Duration can be, whatever a row
    says."""
    return None if seconds is None else duration(min(max(0.0, seconds), _MAX_SECONDS))


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
    try:
        message = pb.ScorerRun(**_plain(line), attempts_omitted=found.omitted)
    except Exception:
        message = _damaged(line)
    with _readable(message, "attempts"):
        for number, one in enumerate(found.attempts, found.omitted + 1):
            _add_attempt(message, number, one)
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


def _plain(line: Any) -> dict[str, Any]:
    """The fields that are columns."""
    return {name: of(line) for name, of in _FIELDS.items()}


def _damaged(line: Any) -> pb.ScorerRun:
    """As many of them as can be read."""
    message = pb.ScorerRun()
    for name, of in _FIELDS.items():
        with _readable(message, name):
            message.MergeFrom(pb.ScorerRun(**{name: of(line)}))
    return message


_FIELDS: Final[dict[str, Callable[[Any], Any]]] = {
    "scorer_run_id": lambda line: line.scorer_run_id,
    "run_id": lambda line: line.run_id,
    "agent_id": lambda line: line.agent_id,
    "scorer_id": lambda line: line.scorer_id,
    "scorer_name": lambda line: line.scorer_name,
    "scorer_version": lambda line: line.scorer_version,
    "state": lambda line: State(line.state),
    "error": lambda line: _error(line) if line.state in _WITH_ERROR or _is_unpaid(line) else None,
    "deliveries": lambda line: line.deliveries,
    "create_time": lambda line: _time(line.create_time),
    "due_time": lambda line: _time(line.due_time),
    "end_time": lambda line: _time(line.end_time),
    "trace": lambda line: (
        pb.Trace(traceparent=line.traceparent, tracestate=line.tracestate) if line.traceparent else None
    ),
    "sampling": lambda line: requested.SamplingDecision(rate=_finite(line.rate), sampled=_is_sampled(line)),
    "priority": lambda line: Priority(line.priority),
    "redrives": lambda line: line.redrives,
    "waits": lambda line: line.waits,
    "requested_by": lambda line: line.requested_by,
    "redriven_by": lambda line: line.redriven_by,
    "cancelled_by": lambda line: line.cancelled_by,
    "author": lambda line: line.worker.removeprefix(PERSON) if line.worker.startswith(PERSON) else "",
}


@contextmanager
def _readable(message: pb.ScorerRun, field: str) -> Iterator[None]:
    """What cannot be read is left out, and named: one damaged row must not take a page or a watch with it."""
    try:
        yield
    except Exception:
        logger.warning("scorer run %s: what is stored of %s cannot be read", message.scorer_run_id, field)
        if field not in message.omitted:
            message.omitted.append(field)


def _add_score(message: pb.ScorerRun, line: Any) -> None:
    score = message.score
    with _readable(message, "score.value"):
        score.value = _finite(line.score_value)
    with _readable(message, "score.label"):
        score.label = line.score_label or ""
    with _readable(message, "score.reason"):
        score.reason = line.score_reason or ""
    with _readable(message, "score.direction"):
        score.direction = line.score_direction
    if line.score_metadata and line.score_metadata != "{}":
        with _readable(message, "score.metadata"):
            score.metadata.CopyFrom(carry_struct(json.loads(line.score_metadata)))
    if line.judgement:
        with _readable(message, "score.judgement"):
            score.judgement.CopyFrom(pb.Judgement(**json.loads(line.judgement)))


def _is_sampled(line: Any) -> bool:
    return bool(line.state != State.DECLINED or _is_unpaid(line))


def _is_unpaid(line: Any) -> bool:
    """Whether it was declined for want of a budget, and not sampled out."""
    return bool(line.state == State.DECLINED and line.error_reason)


def _error(line: Any) -> pb.ScorerRunError:
    return pb.ScorerRunError(
        reason=line.error_reason or "", error_class=line.error_class or "", message=line.error_message or ""
    )


def _add_attempt(message: pb.ScorerRun, number: int, line: Any) -> None:
    attempt = message.attempts.add(attempt=number)
    with _readable(message, "attempts.worker"):
        attempt.worker = line.worker
    with _readable(message, "attempts.start_time"):
        attempt.MergeFrom(pb.ScorerRunAttempt(start_time=_time(line.start_time)))
    with _readable(message, "attempts.end_time"):
        attempt.MergeFrom(pb.ScorerRunAttempt(end_time=_time(line.end_time)))
    with _readable(message, "attempts.error"):
        if line.error_reason:
            attempt.error.CopyFrom(_error(line))
    with _readable(message, "attempts.judging"):
        if line.spent:
            attempt.judging.CopyFrom(pb.Judging(**json.loads(line.spent)))


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


def worker(found: Worker) -> service_pb.ScorerWorker:
    """A process that does scorer runs."""
    has = [service_pb.WorkerScorer(scorer_id=name, version=version) for name, version in found.scorers]
    return service_pb.ScorerWorker(worker=found.name, scorers=has, seen_time=_time(found.seen_time))


def queue(found: Queue, now: float) -> service_pb.ScorerQueue:
    """What is to be done of one version of a scorer."""
    return service_pb.ScorerQueue(
        scorer_id=found.scorer_id,
        scorer_version=found.version,
        due=found.due,
        ahead=found.ahead,
        oldest_due_age=_span(max(0.0, now - found.oldest_due)) if found.due else None,
        workers=found.workers,
        paused=found.paused,
    )


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
