"""What a finishing run asks of the scorer service."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from agent_service.log.history import Excerpt
from runwire.agent.v1 import run_pb2
from runwire.pubsub import Message
from runwire.scorer.v1 import scorer_run_requested_pb2
from runwire.scorer_requests import QUEUE, add_content, is_sampled, scorer_run_id, summary_of

logger = logging.getLogger("agent_service.execution.scoring")


def is_eligible(scorer: run_pb2.ScorerRef, run: run_pb2.Run) -> bool:
    """Whether the scorer wants runs with these labels that end in this state."""
    states = scorer.match_states or [run_pb2.RUN_STATE_SUCCEEDED]
    return run.state in states and all(run.labels.get(key) == value for key, value in scorer.match_labels.items())


def requests(
    tenant: str,
    run: run_pb2.Run,
    excerpt: Excerpt,
    *,
    max_sample_bytes: int,
    by_reference: bool = False,
    traceparent: str = "",
    tracestate: str = "",
    turn: int = 0,
) -> Iterator[Message]:
    """A message for each eligible scorer, sampled or not. `turn`: of the turn of a conversation that `run` stands for.

    A sample that is larger than `max_sample_bytes`, or cannot be made whole, goes by reference. A scorer for which no
    message can be made is logged, and the others are asked: a run ends whatever is in it.
    """
    # A conversation is scored turn by turn, and by some as a whole.
    of_turns = [scorer for scorer in run.scorers if scorer.whole_conversation == (turn == 0)]
    candidates = of_turns if run.HasField("conversation") else run.scorers
    eligible = [scorer for scorer in candidates if _is_asked(scorer, run)]
    if not eligible:
        return
    sample = _bounded_sample(run, excerpt, max_sample_bytes, by_reference or not excerpt.whole)
    sample.turn = turn
    for scorer in eligible:
        try:
            request = _request(tenant, run, scorer, sample)
            # How many turns there are, and which of them were eligible, is not known.
            request.sibling_count = 0 if run.HasField("conversation") else len(eligible)
            request.traceparent, request.tracestate = traceparent, tracestate
            message = Message(QUEUE, request.SerializeToString())
        except Exception:
            logger.exception("%s/%s: scorer %r cannot be asked", tenant, run.run_id, scorer.scorer_id)
        else:
            yield message


def _is_asked(scorer: run_pb2.ScorerRef, run: run_pb2.Run) -> bool:
    try:
        return is_eligible(scorer, run)
    except Exception:
        logger.exception("run %s: whether scorer %r wants it cannot be told, and it is not asked", run.run_id, scorer)
        return False


def _request(
    tenant: str, run: run_pb2.Run, scorer: run_pb2.ScorerRef, sample: scorer_run_requested_pb2.Sample
) -> scorer_run_requested_pb2.ScorerRunRequested:
    rate = scorer.sampling if scorer.HasField("sampling") else 1.0
    return scorer_run_requested_pb2.ScorerRunRequested(
        scorer_run_id=scorer_run_id(
            tenant, run.run_id, scorer.scorer_id, scorer.scorer_version, scorer.name, turn=sample.turn
        ),
        tenant=tenant,
        scorer_id=scorer.scorer_id,
        scorer_version=scorer.scorer_version,
        scorer_name=scorer.name,
        options=scorer.options if scorer.HasField("options") else None,
        sampling=scorer_run_requested_pb2.SamplingDecision(rate=rate, sampled=is_sampled(run.run_id, rate)),
        sample=sample,
        request_time=run.end_time,
    )


def _bounded_sample(
    run: run_pb2.Run, excerpt: Excerpt, max_bytes: int, by_reference: bool
) -> scorer_run_requested_pb2.Sample:
    """The sample; without what it is about where it is too large, or cannot be made."""
    if not by_reference:
        try:
            sample = _sample(run, excerpt)
            if sample.ByteSize() <= max_bytes:
                return sample
        except Exception:
            logger.exception("the sample of run %s cannot be made: scorers fetch it", run.run_id)
    try:
        sample = summary_of(run)
    except Exception:
        logger.exception("run %s cannot be described to scorers: they are given its name", run.run_id)
        sample = scorer_run_requested_pb2.Sample(run_id=run.run_id)
    sample.by_reference = True
    return sample


def _sample(run: run_pb2.Run, excerpt: Excerpt) -> scorer_run_requested_pb2.Sample:
    sample = summary_of(run)
    add_content(sample, run)
    sample.steps.extend(excerpt.steps())
    sample.tool_calls.extend(excerpt.tool_calls())
    return sample
