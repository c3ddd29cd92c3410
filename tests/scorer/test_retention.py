"""What is removed when, on every database."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import func, select

from scorer_service import schema
from scorer_service.database import Database
from scorer_service.jobs import Jobs, Offer
from scorer_service.records import Error, Finished, NewRun, ScoreRecord, State
from scorer_service.retention import Ages, Retention

DAY = 86400.0


async def fill(database: Database) -> None:
    """Old and new scorer runs in every kind of state; a sample each, but `shared` for two."""
    jobs = Jobs(database, worker="w")
    await jobs.register(["a"])
    old = time.time() - 10 * DAY

    def new(name: str, sample: str = "", **fields: Any) -> NewRun:
        return NewRun(name, "default", "a", run_id=sample or name, sample=(sample or name).encode(), **fields)

    await jobs.add(
        [
            new("old-scored", create_time=old),
            new("new-scored"),
            new("old-shared", "shared", create_time=old),
            new("new-shared", "shared"),
        ]
    )
    score = ScoreRecord(1.0, "", "", "{}", 1, None)
    claimed = (await jobs.claim({"a": Offer(10)}, 10)).jobs
    await jobs.finish([Finished(job, State.SUCCEEDED, "1", score) for job in claimed])
    failed = {"state": State.FAILED, "error": Error("scorer_error", "no")}
    await jobs.add([new("old-failed", create_time=old, **failed), new("new-failed", **failed)])
    await jobs.add([new("old-declined", create_time=old, state=State.DECLINED)])
    await jobs.add([new("old-waiting", create_time=old)])
    await jobs.add([NewRun("old-ad-hoc", "default", "a", sample=b"ad hoc", create_time=old, state=State.CANCELLED)])
    aged = schema.samples.update().values(create_time=old)
    await database.write(lambda connection: connection.execute(aged))


async def names(database: Database) -> set[str]:
    query = select(schema.scorer_runs.c.scorer_run_id)
    return set(await database.read(lambda connection: connection.execute(query).scalars().all()))


async def samples(database: Database) -> set[bytes]:
    query = select(schema.samples.c.body)
    return {bytes(body) for body in await database.read(lambda c: c.execute(query).scalars().all())}


async def test_terminal_runs_go_when_they_are_old(database: Database) -> None:
    """FAILED ones by an age of their own; what still waits stays, however old."""
    await fill(database)
    retention = Retention(database, Ages(runs=5 * DAY, failed=20 * DAY, samples=0))
    assert await retention.sweep_runs() == 4
    assert await names(database) == {"new-scored", "new-shared", "old-failed", "new-failed", "old-waiting"}
    assert await retention.sweep_runs() == 0
    attempts = select(func.count()).select_from(schema.attempts)
    assert await database.read(lambda c: c.execute(attempts).scalar_one()) == 0


async def test_samples_go_with_the_last_that_uses_them(database: Database) -> None:
    """A sample that two scorer runs share stays until both are gone."""
    await fill(database)
    retention = Retention(database, Ages(runs=5 * DAY, failed=5 * DAY, samples=0))
    await retention.sweep_runs()
    assert await retention.sweep_samples() == 4
    assert await samples(database) == {b"new-scored", b"shared", b"new-failed", b"old-waiting"}


async def test_old_samples_go_before_their_scores(database: Database) -> None:
    """With an age of their own, except those that somebody waits for; the scores stay."""
    await fill(database)
    before = await names(database)
    retention = Retention(database, Ages(runs=0, failed=0, samples=5 * DAY))
    assert await retention.sweep_runs() == 0
    await retention.sweep_samples()
    assert await samples(database) == {b"old-waiting"}
    assert await names(database) == before


async def test_nobody_waits_for_a_scorer_that_is_gone(database: Database) -> None:
    """An hour after the last process that had it, what waits for it ends FAILED; what is held by a pause stays."""
    await fill(database)
    retention = Retention(database, Ages(0, 0, 0))
    assert await retention.sweep_orphans() == 0
    unseen = schema.scorers.update().values(seen_time=time.time() - 2 * 3600)
    await database.write(lambda c: c.execute(unseen.values(paused=True)))
    assert await retention.sweep_orphans() == 0
    await database.write(lambda c: c.execute(unseen.values(paused=False)))
    assert await retention.sweep_orphans() == 1
    columns = schema.scorer_runs.c
    query = select(columns.error_reason).where(columns.scorer_run_id == "old-waiting")
    assert await database.read(lambda c: c.execute(query).scalar_one()) == "scorer_unknown"


async def test_for_ever_means_for_ever(database: Database) -> None:
    """Without any age nothing is removed."""
    await fill(database)
    before, kept = await names(database), await samples(database)
    retention = Retention(database, Ages(0, 0, 0))
    assert await retention.run_once() > 1
    assert (await names(database), await samples(database)) == (before, kept)
