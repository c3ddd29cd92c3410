"""Rows of the queue as they are written, and jobs as they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from scorer_service.results.batches import insert_new
from scorer_service.results.records import (
    OPEN,
    Error,
    Finished,
    Job,
    NewRun,
    Priority,
    State,
    microseconds,
    printable,
)
from scorer_service.results.schema import Lane, attempts


def is_history(done: Finished) -> bool:
    """Whether an attempt is recorded by itself. The row is the record of the one that succeeded, unless that asked a
    judge; and waiting is no attempt, unless it cost something."""
    return done.spent is not None or (done.state is not State.SUCCEEDED and not done.waited)


def sample_row(sample_id: str, new: NewRun, now: float) -> dict[str, Any]:
    return {
        "sample_id": sample_id,
        "tenant": new.tenant,
        "owner": new.owner,
        "body": new.sample,
        "create_time": now,
    }


def new_row(new: NewRun, now: float, revision: int) -> dict[str, Any]:
    """What differs from row to row; the rest has its default."""
    is_open = new.state in OPEN
    return {
        "scorer_run_id": new.scorer_run_id,
        "tenant": new.tenant,
        "run_id": new.run_id,
        "agent_id": new.agent_id,
        "scorer_id": new.scorer_id,
        "scorer_name": new.scorer_name,
        "scorer_version": new.wanted_version,
        "wanted_version": new.wanted_version,
        "state": int(new.state),
        "priority": int(new.priority),
        "lane": int(Lane.HIGH if new.priority is Priority.HIGH else Lane.NORMAL),
        "due_time": now if is_open else None,
        "create_time": microseconds(now if new.create_time is None else new.create_time),
        "end_time": None if is_open else now,
        "deadline": new.deadline,
        "rate": new.rate,
        "siblings": new.siblings,
        "options": new.options,
        "labels": new.labels,
        "traceparent": new.traceparent,
        "tracestate": new.tracestate,
        "sample_id": new.sample_id,
        "fingerprint": new.fingerprint,
        "requested_by": new.requested_by,
        "error_reason": new.error.reason if new.error else None,
        "error_class": new.error.error_class if new.error else None,
        "error_message": printable(new.error.message) if new.error else None,
        "revision": revision,
    }


def finished_row(done: Finished, now: float, revision: int) -> dict[str, Any]:
    terminal = done.state not in OPEN
    score, error = done.score, done.error
    return {
        "id": done.job.scorer_run_id,
        "token": done.job.token,
        "to_state": int(done.state),
        "to_due": None if terminal else now + done.delay_seconds,
        "to_end": now if terminal else None,
        "plus_failures": int(done.failed),
        "plus_losses": int(done.lost),
        "plus_waits": int(done.waited),
        "now": now,
        "to_version": done.scorer_version,
        "to_steps": done.steps,
        "value": score.value if score else None,
        "label": score.label if score else None,
        "reason": score.reason if score else None,
        "metadata": score.metadata if score else None,
        "direction": score.direction if score else None,
        "judgement": score.judgement if score else None,
        "to_error_reason": error.reason if error else None,
        "to_error_class": error.error_class if error else None,
        "to_error_message": printable(error.message) if error else None,
        "to_revision": revision,
    }


def record_ends(connection: Connection, held: Sequence[Any], now: float, why: Callable[[Any], Error]) -> None:
    """Ends attempts of rows that a worker held, in its place: it is gone, or will be refused."""
    rows = []
    for row in held:
        error = why(row)
        rows.append(
            {
                "scorer_run_id": row.scorer_run_id,
                "attempt": row.claims,
                "worker": row.worker,
                "start_time": now if row.start_time is None else row.start_time,  # of a row that is damaged
                "end_time": now,
                "error_reason": error.reason,
                "error_class": error.error_class,
                "error_message": error.message,
                "partial_results": row.steps,
            }
        )
    insert_new(connection, attempts, rows)


def lease_ended(row: Any) -> Error:
    return Error("worker_lost", f"the lease of worker {row.worker} ended: it died, or could not reach the database")


def ended_row(row: Any, losses: int, error: Error, now: float, revision: int) -> dict[str, Any]:
    return {
        "id": row.scorer_run_id,
        "to_losses": losses,
        "reason": error.reason,
        "message": error.message,
        "now": now,
        "rev": revision,
    }


def job_of(row: Any, sample: bytes) -> Job:
    """A row with the columns `statements.OF_JOB`, as a job."""
    return Job(
        scorer_run_id=row.scorer_run_id,
        token=row.claims,
        tenant=row.tenant,
        run_id=row.run_id,
        agent_id=row.agent_id,
        scorer_id=row.scorer_id,
        wanted_version=row.wanted_version,
        options=row.options,
        steps=row.steps,
        failures=row.failures,
        start_time=row.start_time,
        sample=sample,
        losses=row.losses,
        alone=row.lane == Lane.ALONE,
        waits=row.waits,
        waiting_since=row.waiting_since,
        deadline=row.deadline,
    )


def attempt_row(done: Finished, worker: str, now: float) -> dict[str, Any]:
    """The record of an attempt."""
    error = done.error
    return {
        "scorer_run_id": done.job.scorer_run_id,
        "attempt": done.job.token,
        "worker": worker,
        "start_time": done.job.start_time,
        "end_time": now,
        "error_reason": error.reason if error else None,
        "error_class": error.error_class if error else None,
        "error_message": printable(error.message) if error else None,
        "partial_results": done.steps,
        "spent": done.spent,
        "exchanges": done.exchanges,
    }
