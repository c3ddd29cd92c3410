"""The statements of the queue, built once: SQLAlchemy compiles each of them once for a database."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Double,
    Integer,
    Select,
    SmallInteger,
    String,
    Text,
    bindparam,
    case,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)

from scorer_service.results.batches import Update, among
from scorer_service.results.records import State
from scorer_service.results.schema import NOW, Lane, holders, samples, scorer_runs, scorers

c = scorer_runs.c


LANES: Final = (Lane.HIGH, Lane.NORMAL, Lane.ALONE)


def _there_is(lane: Lane) -> Any:
    # The lane is written into the statement, not bound: a bound one would have three names.
    found = select(1).where(
        c.scorer_id == holders.c.scorer_id,
        c.wanted_version == holders.c.version,
        c.lane == literal(int(lane), Integer),
        c.due_time <= NOW,
    )
    return exists(found)


DUE: Final = (
    select(holders.c.scorer_id, holders.c.version, *[_there_is(lane).label(lane.name) for lane in LANES])
    .select_from(holders.join(scorers, scorers.c.scorer_id == holders.c.scorer_id))
    .where(
        holders.c.worker == bindparam("me"),
        among(holders.c.scorer_id, "scorer_ids"),
        scorers.c.paused.is_(False),
    )
    .where(or_(*[_there_is(lane) for lane in LANES]))
)
"""Which scorers have work that is due for a worker, in which versions: one column for each of LANES."""

_INLINE_BYTES: Final = 16_384
"""Samples up to this size are read with their rows, larger ones once it is known that there is room for them."""

CANDIDATES: Final[Select[Any]] = (
    select(
        c.scorer_run_id,
        c.tenant,
        c.scorer_id,
        c.sample_id,
        c.state,
        c.lane,
        c.losses,
        c.claims,
        c.worker,
        c.start_time,
        c.deadline,
        c.steps,
        func.length(samples.c.body).label("size"),
        case((func.length(samples.c.body) <= _INLINE_BYTES, samples.c.body)).label("body"),
    )
    .select_from(scorer_runs.outerjoin(samples, samples.c.sample_id == c.sample_id))
    .where(
        c.scorer_id == bindparam("scorer_id"),
        c.wanted_version == bindparam("version"),
        c.state != bindparam("not_state", type_=SmallInteger),
        c.lane == bindparam("lane"),
        c.due_time <= NOW,
    )
    .order_by(c.due_time)
    .limit(bindparam("count", type_=Integer))
    .with_for_update(of=scorer_runs, skip_locked=True)
)
"""The oldest rows of one place that are due, locked; what other transactions have locked is passed over."""

OF_JOB: Final = (
    c.scorer_run_id,
    c.claims,
    c.tenant,
    c.run_id,
    c.agent_id,
    c.scorer_id,
    c.wanted_version,
    c.options,
    c.steps,
    c.failures,
    c.start_time,
    c.losses,
    c.lane,
    c.waits,
    c.waiting_since,
    c.deadline,
)
"""What `rows.job_of` needs."""

TAKE: Final = (
    update(scorer_runs)
    .where(among(c.scorer_run_id, "ids"))
    .values(
        state=int(State.RUNNING),
        claims=c.claims + 1,
        deliveries=c.deliveries + 1,
        losses=c.losses + case((among(c.scorer_run_id, "lost"), 1), else_=0),
        worker=bindparam("worker"),
        start_time=bindparam("now"),
        due_time=bindparam("due"),
        revision=bindparam("rev"),
    )
    .returning(*OF_JOB)
)
"""Leases rows."""

END: Final = (
    update(scorer_runs)
    .where(c.scorer_run_id == bindparam("id"))
    .values(
        state=int(State.FAILED),
        due_time=None,
        end_time=bindparam("now"),
        losses=bindparam("to_losses"),
        error_reason=bindparam("reason"),
        error_class="",
        error_message=bindparam("message"),
        revision=bindparam("rev"),
    )
)
"""Ends rows that must not run, FAILED."""

SET_APART: Final = (
    update(scorer_runs)
    .where(c.scorer_run_id == bindparam("id"))
    .values(
        state=int(State.RETRYING),
        lane=int(Lane.ALONE),
        losses=bindparam("losses"),
        due_time=bindparam("now"),
        error_reason="worker_lost",
        error_class="",
        error_message="its worker died; from now on it is tried in a process of its own",
        revision=bindparam("revision"),
    )
)
"""Puts rows into the lane ALONE."""

EXTEND: Final = (
    update(scorer_runs)
    .where(
        among(c.scorer_run_id, "ids"),
        c.worker == bindparam("me"),
        c.state == int(State.RUNNING),
    )
    .values(due_time=NOW + bindparam("lease"))
    .returning(c.scorer_run_id, c.claims)
)
"""Renews a worker's leases."""

KEEP_STEPS: Final = Update(
    {"id": String(), "token": Integer(), "to_steps": Text()},
    lambda value: (
        update(scorer_runs)
        .where(c.scorer_run_id == value("id"), c.claims == value("token"), c.state == int(State.RUNNING))
        .values(steps=value("to_steps"))
    ),
)
"""Keeps the results of completed steps."""

OWNERS: Final = (
    select(c.scorer_run_id, c.claims, c.state)
    .where(among(c.scorer_run_id, "ids"))
    .order_by(c.scorer_run_id)
    .with_for_update()
)
"""Whose rows are, locked in one order."""

FINISH: Final = Update(
    {
        "id": String(),
        "token": Integer(),
        "to_state": SmallInteger(),
        "to_due": Double(),
        "to_end": Double(),
        "plus_failures": Integer(),
        "plus_losses": Integer(),
        "plus_waits": Integer(),
        "now": Double(),
        "to_version": String(),
        "to_steps": Text(),
        "value": Double(),
        "label": Text(),
        "reason": Text(),
        "metadata": Text(),
        "direction": SmallInteger(),
        "judgement": Text(),
        "to_error_reason": String(),
        "to_error_class": String(),
        "to_error_message": Text(),
        "to_revision": BigInteger(),
    },
    lambda value: (
        update(scorer_runs)
        .where(c.scorer_run_id == value("id"), c.claims == value("token"))
        .values(
            state=value("to_state"),
            due_time=value("to_due"),
            end_time=value("to_end"),
            failures=c.failures + value("plus_failures"),
            losses=c.losses + value("plus_losses"),
            waits=c.waits + value("plus_waits"),
            waiting_since=case(
                (value("plus_waits") > 0, func.coalesce(c.waiting_since, value("now"))),
                (value("plus_failures") > 0, None),
                else_=c.waiting_since,
            ),
            scorer_version=value("to_version"),
            steps=value("to_steps"),
            score_value=value("value"),
            score_label=value("label"),
            score_reason=value("reason"),
            score_metadata=value("metadata"),
            score_direction=value("direction"),
            judgement=value("judgement"),
            error_reason=value("to_error_reason"),
            error_class=value("to_error_class"),
            error_message=value("to_error_message"),
            revision=value("to_revision"),
        )
    ),
)
"""Ends attempts."""
