"""What is removed when, on every database."""

from __future__ import annotations

import time
from typing import Any

from sqlalchemy import func, select, text

from scorer_service.queue.jobs import Jobs, Offer
from scorer_service.queue.retention import Ages, Retention
from scorer_service.results import schema
from scorer_service.results.database import Database
from scorer_service.results.records import Error, Finished, NewRun, ScoreRecord, State

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
    columns = schema.scorer_runs.c
    ended = schema.scorer_runs.update().where(columns.scorer_run_id.startswith("old-"), columns.end_time.is_not(None))
    await database.write(lambda connection: connection.execute(ended.values(end_time=old)))


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
    """With an age of their own, from the last end, except those that somebody waits for; the scores stay."""
    await fill(database)
    before = await names(database)
    retention = Retention(database, Ages(runs=0, failed=0, samples=5 * DAY))
    assert await retention.sweep_runs() == 0
    await retention.sweep_samples()
    assert await samples(database) == {b"old-waiting", b"shared", b"new-scored", b"new-failed"}
    assert await names(database) == before


async def test_ages_count_from_the_end(database: Database) -> None:
    """A score of today stays, however long ago its run was created, or says that it was."""
    jobs = Jobs(database, worker="w")
    await jobs.register(["a"])
    await jobs.add([NewRun("of-1970", "default", "a", sample=b"1970", create_time=1.0)])
    (job,) = (await jobs.claim({"a": Offer(10)}, 10)).jobs
    await jobs.finish([Finished(job, State.SUCCEEDED, "1", ScoreRecord(1.0, "", "", "{}", 1, None))])
    old = schema.samples.update().values(create_time=1.0)
    await database.write(lambda connection: connection.execute(old))
    retention = Retention(database, Ages(runs=DAY, failed=DAY, samples=DAY))
    assert await retention.run_once() > 1
    assert (await names(database), await samples(database)) == ({"of-1970"}, {b"1970"})


async def test_deadlines_are_noticed_wherever_it_waits(database: Database) -> None:
    """For a retry, behind a pause, for a scorer that nobody has: FAILED, deadline_exceeded; what runs continues, and a
    deadline to come is none that passed."""
    jobs = Jobs(database, worker="w")
    await jobs.register(["a", "paused"])

    def new(name: str, scorer_id: str = "a", deadline: float = 2.0) -> NewRun:
        return NewRun(name, "default", scorer_id, sample=name.encode(), deadline=deadline)

    later = [new("retrying", deadline=4e9), new("running", deadline=4e9), new("to-come", "nobody", deadline=4e9)]
    await jobs.add(later)
    claimed = {job.scorer_run_id: job for job in (await jobs.claim({"a": Offer(10)}, 10)).jobs}
    assert set(claimed) == {"retrying", "running"}
    retry = Finished(claimed["retrying"], State.RETRYING, "1", delay_seconds=3600.0, failed=True)
    await jobs.finish([retry])
    late = schema.scorer_runs.update().where(schema.scorer_runs.c.scorer_run_id.in_(list(claimed)))
    await database.write(lambda connection: connection.execute(late.values(deadline=1.0)))
    await jobs.add([new("held", "paused"), new("absent", "nobody")])
    assert await Retention(database, Ages(0, 0, 0)).end_late() == 3
    query = select(schema.scorer_runs.c.scorer_run_id, schema.scorer_runs.c.error_reason)
    lines = await database.read(lambda connection: connection.execute(query).all())
    ended = dict.fromkeys(("retrying", "held", "absent"), "deadline_exceeded")
    assert {line[0]: line[1] for line in lines} == {**ended, "running": None, "to-come": None}


async def test_what_cannot_be_removed_holds_up_nothing(database: Database) -> None:
    """A row that the database does not let go, nobody knows why, is left for later; the others go."""
    await fill(database)
    await refuse_to_delete(database, "old-declined")
    retention = Retention(database, Ages(runs=5 * DAY, failed=5 * DAY, samples=0))
    await retention.sweep_runs()
    assert await names(database) == {"new-scored", "new-shared", "new-failed", "old-waiting", "old-declined"}
    await retention.sweep_runs()


async def refuse_to_delete(database: Database, name: str) -> None:
    """The database itself raises when this row is deleted."""
    raises = f"CREATE TRIGGER t BEFORE DELETE ON scorer_runs WHEN OLD.scorer_run_id = '{name}'"
    statements = [f"{raises} BEGIN SELECT RAISE(ABORT, 'not this one'); END"]
    if not database.embedded:
        body = "BEGIN RAISE EXCEPTION 'not this one'; END"
        statements = [
            f"CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {body} $$",
            raises.replace("ON scorer_runs", "ON scorer_runs FOR EACH ROW")
            .replace(f"'{name}'", f"'{name}')")
            .replace("WHEN ", "WHEN (")
            + " EXECUTE FUNCTION refuse()",
        ]
    for statement in statements:
        await database.write(lambda connection, s=statement: connection.execute(text(s)))  # type: ignore[misc]


async def test_for_ever_means_for_ever(database: Database) -> None:
    """Without any age nothing is removed."""
    await fill(database)
    before, kept = await names(database), await samples(database)
    retention = Retention(database, Ages(0, 0, 0))
    assert await retention.run_once() > 1
    assert (await names(database), await samples(database)) == (before, kept)
