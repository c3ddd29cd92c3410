"""What is said and counted of a run. The words stay the same: docs/logs.md lists them, and a test compares."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any

from agent_service.log import record
from runwire import logs, metrics, tracing
from runwire.agent.v1 import run_pb2
from runwire.pubsub import Claim
from runwire.runbook import Entry

logger = logging.getLogger("agent_service.runs")


class Told(StrEnum):
    """What may become of a run."""

    ACCEPTED = "run accepted"
    CLAIMED = "run claimed"
    TAKEN_OVER = "run taken over"
    SUSPENDED = "run suspended"
    HANDED_BACK = "run handed back"
    ENDED = "run ended"
    FAILED = "run failed"
    TURN_ENDED = "turn ended"
    TURN_FAILED = "turn failed"


def about(claim: Claim, run: run_pb2.Run, worker: str) -> AbstractContextManager[Any]:
    """Every line inside says which attempt at which run it is about, the author's own lines too."""
    tenant, run_id = record.split_topic(claim.topic)
    trace = tracing.trace_id(record.trace_of(claim.fields.get(record.TRACE, b"")).get("traceparent", ""))
    trace_id = {"trace_id": trace} if trace else {}
    return logs.about(
        run_id=run_id,
        tenant=tenant,
        agent_id=run.agent_id,
        attempt=claim.head.attempt,
        worker=worker,
        **trace_id,
    )


def accepted(tenant: str, run: run_pb2.Run) -> None:
    """On the replica that answered StartRun."""
    values = {"run_id": run.run_id, "tenant": tenant, "agent_id": run.agent_id, "agent_version": run.agent_version}
    values |= {"trace_id": run.trace_id} if run.trace_id else {}
    logger.info(Told.ACCEPTED, extra=logs.fields(**values))
    metrics.RUNS_ACCEPTED.add(**_agent(run))


def claimed(claim: Claim, run: run_pb2.Run) -> None:
    """`losses` are the workers that died of it, or lost it, since it last got further."""
    is_first = claim.head.attempt == 1
    cause = "taken_over" if claim.losses else "new" if is_first else "again"
    metrics.RUNS_CLAIMED.add(cause=cause, **_agent(run))
    if is_first:
        metrics.RUN_WAIT_SECONDS.record(claim.time - claim.head.create_time, agent_id=run.agent_id)
    if claim.losses:
        before = run.attempts[-1].worker if run.attempts else None
        logger.info(Told.TAKEN_OVER, extra=Entry.WORKERS_DIE.said(losses=claim.losses, from_worker=before))
    else:
        logger.info(Told.CLAIMED, extra=logs.fields(agent_version=run.agent_version))


def began(claim: Claim, run: run_pb2.Run, now: float) -> None:
    """Its first event in this attempt is stored."""
    if claim.head.last == 0:
        metrics.RUN_FIRST_EVENT_SECONDS.record(now - claim.head.create_time, agent_id=run.agent_id)


def suspended(run: run_pb2.Run) -> None:
    """It holds nothing, and waits for `pending` answers, or for its time."""
    metrics.RUNS_SUSPENDED.add(**_agent(run))
    logger.info(Told.SUSPENDED, extra=logs.fields(pending=len(run.pending)))


def handed_back() -> None:
    """This worker shuts down; any other continues."""
    logger.info(Told.HANDED_BACK)


def ended(run: run_pb2.Run, state: run_pb2.RunState, reason: str, seconds: float, frames: str) -> None:
    """`frames`: where the agent raised what ended it, its author's own lines first; empty where it did not."""
    name = _name(state)
    metrics.RUNS_ENDED.add(state=name, reason=reason, **_agent(run))
    metrics.RUN_SECONDS.record(seconds, agent_id=run.agent_id, state=name)
    entry = Entry.RUNS_KILL_WORKERS if reason == "worker_lost" else Entry.RUNS_FAIL
    runbook = entry.value if state == run_pb2.RUN_STATE_FAILED else None
    _say_end(Told.ENDED, Told.FAILED, state, frames, reason=reason or None, seconds=round(seconds, 3), runbook=runbook)


def turn_ended(number: int, state: run_pb2.RunState, reason: str, frames: str) -> None:
    """Of a conversation, which continues unless it is told that the run has ended."""
    _say_end(Told.TURN_ENDED, Told.TURN_FAILED, state, frames, turn=number, reason=reason or None)


def _say_end(ended: Told, failed: Told, state: run_pb2.RunState, frames: str, **values: Any) -> None:
    extra = logs.fields(state=_name(state), **values)
    if state != run_pb2.RUN_STATE_FAILED:
        logger.info(ended, extra=extra)
    elif frames:
        logger.warning("%s: %s", failed, frames, extra=extra)
    else:
        logger.warning(failed, extra=extra)


def _name(state: run_pb2.RunState) -> str:
    return run_pb2.RunState.Name(state).removeprefix("RUN_STATE_").lower()


def _agent(run: run_pb2.Run) -> dict[str, str]:
    return {"agent_id": run.agent_id, "agent_version": run.agent_version}
