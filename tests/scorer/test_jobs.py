"""The queue, on every database."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only

from runwire.errors import StoreUnavailable
from scorer_service.answers.controls import Controls
from scorer_service.answers.queries import Found, Place, Queries
from scorer_service.export import Exporter, Item, Outcome, Verdict
from scorer_service.queue.jobs import Claimed, Jobs, Offer
from scorer_service.queue.rates import Rate
from scorer_service.registry import Registry
from scorer_service.results import schema
from scorer_service.results.database import Database, open_database
from scorer_service.results.records import Error, Finished, Job, NewRun, Priority, ScoreRecord, State
from scorer_service.scoring import Sample, scorer
from tests.scorer.stage import eventually

SCORE = ScoreRecord(0.5, "label", "reason", '{"a":1}', 1, None)


@scorer(id="a", version="1")
async def FAKE(sample: Sample) -> float:
    """Known to the service; here the tests do the scoring."""
    return 1.0


OFFERS = {"a": Offer(100), "b": Offer(100)}


def new(number: int, scorer_id: str = "a", **fields: object) -> NewRun:
    return NewRun(f"{number:032x}", "default", scorer_id, run_id=f"run-{number}", sample=b"s", **fields)  # type: ignore[arg-type]


async def jobs_of(database: Database, worker: str = "w1", **settings: float) -> Jobs:
    jobs = Jobs(database, worker=worker, **settings)  # type: ignore[arg-type]
    await jobs.register(["a", "b"])
    return jobs


def done(job: Job, state: State = State.SUCCEEDED, **fields: object) -> Finished:
    return Finished(job, state, "1", SCORE if state is State.SUCCEEDED else None, **fields)  # type: ignore[arg-type]


async def found(database: Database, number: int) -> Found:
    one = await Queries(database).get("default", f"{number:032x}")
    assert one is not None
    return one


async def test_a_request_that_comes_twice_is_one_row(database: Database) -> None:
    """A repeated message changes nothing, even after the work is done."""
    jobs = await jobs_of(database)
    await jobs.add([new(1)])
    claimed = await jobs.claim(OFFERS, 10)
    assert await jobs.finish([done(claimed.jobs[0])]) == []
    await jobs.add([new(1), new(2)])
    assert (await found(database, 1)).run.state == State.SUCCEEDED
    assert [job.scorer_run_id for job in (await jobs.claim(OFFERS, 10)).jobs] == [f"{2:032x}"]


async def test_the_score_and_its_attempt_are_stored(database: Database) -> None:
    """What was finished is what is read."""
    jobs = await jobs_of(database)
    await jobs.add([new(1)])
    (job,) = (await jobs.claim(OFFERS, 10)).jobs
    assert (job.sample, job.token) == (b"s", 1)
    await jobs.finish([done(job, steps='{"analyze":1}')])
    one = await found(database, 1)
    line = one.run
    assert (line.score_value, line.score_label, line.score_reason, line.scorer_version) == (0.5, "label", "reason", "1")
    assert line.due_time is None
    assert line.create_time <= line.start_time <= line.end_time
    (attempt,) = one.attempts
    assert (attempt.worker, attempt.error_reason, attempt.partial_results) == ("w1", None, '{"analyze":1}')


async def test_no_row_is_given_to_two_workers(database: Database) -> None:
    """Six workers that claim at once get each of 300 rows once."""
    workers = [await jobs_of(database, f"w{number}") for number in range(6)]
    await workers[0].add([new(number, "ab"[number % 2]) for number in range(300)])
    taken: list[str] = []

    async def work(jobs: Jobs) -> None:
        while batch := (await jobs.claim(OFFERS, 7)).jobs:
            taken.extend(job.scorer_run_id for job in batch)
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as group:
        for jobs in workers:
            group.create_task(work(jobs))
    # A worker that found all rows locked stopped early; one more claim takes what may be left.
    while batch := (await workers[0].claim(OFFERS, 50)).jobs:
        taken.extend(job.scorer_run_id for job in batch)
    assert len(taken) == len(set(taken)) == 300


async def test_a_lease_that_ran_out_is_a_loss_and_the_zombie_is_refused(database: Database) -> None:
    """Another worker gets the row; whoever had it before can write nothing, and that is counted."""
    dead, alive = await jobs_of(database, "dead", lease_seconds=-1), await jobs_of(database, "alive")
    await dead.add([new(1)])
    (old,) = (await dead.claim(OFFERS, 10)).jobs
    (job,) = (await alive.claim(OFFERS, 10)).jobs
    assert (old.token, job.token) == (1, 2)
    late = done(old)
    assert await dead.finish([late]) == [late]
    assert (await found(database, 1)).run.state == State.RUNNING
    assert await alive.finish([done(job)]) == []
    assert await dead.finish([late]) == [late]
    assert await alive.refused() == 2
    one = await found(database, 1)
    assert (one.run.state, one.run.deliveries, one.run.losses, one.run.failures) == (State.SUCCEEDED, 2, 1, 0)
    assert [(a.worker, a.error_reason) for a in one.attempts] == [("dead", "worker_lost"), ("alive", None)]


async def test_a_finish_may_be_repeated(database: Database) -> None:
    """After a time-out nobody knows whether the transaction took effect: the same finish again is no zombie."""
    jobs = await jobs_of(database)
    await jobs.add([new(1)])
    (job,) = (await jobs.claim(OFFERS, 10)).jobs
    retry = done(job, State.RETRYING, error=Error("scorer_error", "no"), failed=True, delay_seconds=60)
    assert await jobs.finish([retry]) == []
    assert await jobs.finish([retry]) == []
    assert await jobs.refused() == 0
    assert (await found(database, 1)).run.failures == 1


async def test_what_kills_its_workers_ends_failed(database: Database) -> None:
    """After two losses it gets a process of its own; a worker that dies with that may have died of something else, so
    it takes more of them to end it, with its history, and no further worker gets it."""
    jobs = await jobs_of(database, lease_seconds=-1)
    await jobs.add([new(1)])
    assert len((await jobs.claim(OFFERS, 10)).jobs) == 1
    assert len((await jobs.claim(OFFERS, 10)).jobs) == 1
    assert not (await jobs.claim(OFFERS, 10)).jobs  # set apart for its last delivery
    for _ in range(7):
        (job,) = (await jobs.claim(OFFERS, 10, alone=True)).jobs
        assert job.alone
    assert not (await jobs.claim(OFFERS, 10, alone=True)).jobs
    one = await found(database, 1)
    assert (one.run.state, one.run.error_reason, one.run.losses) == (State.FAILED, "worker_lost", 9)
    assert [attempt.error_reason for attempt in one.attempts] == ["worker_lost"] * 9


async def test_the_last_delivery_is_alone(database: Database) -> None:
    """A row with one delivery left is not claimed beside others, nor with others."""
    dying = await jobs_of(database, "dying", lease_seconds=-1)
    await dying.add([new(1), new(2), new(3)])
    assert len((await dying.claim(OFFERS, 10)).jobs) == 3
    assert len((await dying.claim(OFFERS, 10)).jobs) == 3
    jobs = await jobs_of(database, "careful")
    await jobs.add([new(4)])
    both: list[Claimed] = [await jobs.claim(OFFERS, 10), await jobs.claim(OFFERS, 10)]
    assert [job.scorer_run_id for claimed in both for job in claimed.jobs] == [f"{4:032x}"]
    assert both[1].alone
    first = await jobs.claim(OFFERS, 10, alone=True)
    assert len(first.jobs) == 1
    await jobs.finish([done(first.jobs[0])])
    assert (await found(database, int(first.jobs[0].scorer_run_id, 16))).run.state == State.SUCCEEDED


async def test_high_priority_goes_first(database: Database) -> None:
    """What a person asked for overtakes what waits."""
    jobs = await jobs_of(database)
    await jobs.add([new(number) for number in range(1, 6)])
    await jobs.add([new(9, priority=Priority.HIGH)])
    assert [job.scorer_run_id for job in (await jobs.claim(OFFERS, 1)).jobs] == [f"{9:032x}"]


async def test_one_scorer_does_not_take_all_places(database: Database) -> None:
    """With ten places and two scorers that have work, each gets five."""
    jobs = await jobs_of(database)
    await jobs.add([new(number) for number in range(50)])
    await jobs.add([new(100 + number, "b") for number in range(50)])
    taken = [job.scorer_id for job in (await jobs.claim(OFFERS, 10)).jobs]
    assert sorted(taken) == ["a"] * 5 + ["b"] * 5


async def test_a_worker_gets_no_more_than_it_offers(database: Database) -> None:
    """The places of one scorer bound what is claimed of it, and a scorer that is not offered is not claimed."""
    jobs = await jobs_of(database)
    await jobs.add([new(number) for number in range(10)])
    await jobs.add([new(100, "b")])
    assert [job.scorer_id for job in (await jobs.claim({"a": Offer(3)}, 10)).jobs] == ["a"] * 3


async def test_a_rate_is_shared(database: Database) -> None:
    """Two workers together get the burst, and then nothing until time has passed; what is not used is given back."""
    rate = Rate("model", per_second=0.001, burst=5)
    offers = {"a": Offer(100, rate), "b": Offer(100, rate)}
    one, two = await jobs_of(database, "one"), await jobs_of(database, "two")
    await one.add([new(1)])
    assert len((await one.claim(offers, 10)).jobs) == 1
    await one.add([new(number) for number in range(10, 20)])
    taken = [len((await worker.claim(offers, 3)).jobs) for worker in (one, two, one, two)]
    assert taken == [3, 1, 0, 0]


async def test_a_rate_recovers(database: Database) -> None:
    """After the interval there is a permit again."""
    offers = {"a": Offer(100, Rate("model", per_second=20.0, burst=1))}
    jobs = await jobs_of(database)
    await jobs.add([new(number) for number in range(3)])
    got = 0

    async def all_claimed() -> bool:
        nonlocal got
        got += len((await jobs.claim(offers, 10)).jobs)
        return got == 3

    await eventually(all_claimed)


async def test_a_deadline_that_passed_ends_it(database: Database) -> None:
    """What is of no use any more is not scored, and says so."""
    jobs = await jobs_of(database)
    await jobs.add([new(1, deadline=1.0), new(2, deadline=4e9)])
    assert [job.scorer_run_id for job in (await jobs.claim(OFFERS, 10)).jobs] == [f"{2:032x}"]
    line = (await found(database, 1)).run
    assert (line.state, line.error_reason) == (State.FAILED, "deadline_exceeded")


async def test_leases_are_renewed_and_losses_told(database: Database) -> None:
    """A renewed lease holds; one that another worker took is told to be lost."""
    short = await jobs_of(database, "short", lease_seconds=-1)
    await short.add([new(1), new(2)])
    held = (await short.claim(OFFERS, 10)).jobs
    short.lease_seconds = 60.0
    assert await short.extend(held) == set()
    other = await jobs_of(database, "other")
    assert not (await other.claim(OFFERS, 10)).jobs
    short.lease_seconds = -1
    await short.extend(held[:1])
    (stolen,) = (await other.claim(OFFERS, 10)).jobs
    assert await short.extend(held) == {stolen.scorer_run_id}


async def test_steps_are_kept_for_the_next_worker(database: Database) -> None:
    """What a worker completed before it died need not be done again; a zombie's steps are not taken."""
    dying = await jobs_of(database, "dying", lease_seconds=-1)
    await dying.add([new(1)])
    (old,) = (await dying.claim(OFFERS, 10)).jobs
    await dying.keep_steps({old: '{"preprocess":[1]}'})
    (job,) = (await (await jobs_of(database, "next")).claim(OFFERS, 10)).jobs
    assert job.steps == '{"preprocess":[1]}'
    await dying.keep_steps({old: '{"preprocess":[2]}'})
    assert (await found(database, 1)).run.steps == '{"preprocess":[1]}'


async def test_handing_back_is_no_attempt(database: Database) -> None:
    """An interrupted job is due at once, and neither a failure nor a loss."""
    jobs = await jobs_of(database)
    await jobs.add([new(1)])
    (job,) = (await jobs.claim(OFFERS, 10)).jobs
    await jobs.finish([Finished(job, State.PENDING, error=Error("interrupted", "stopped"))])
    line = (await found(database, 1)).run
    assert (line.state, line.failures, line.losses) == (State.PENDING, 0, 0)
    assert len((await jobs.claim(OFFERS, 10)).jobs) == 1


async def test_a_reader_of_changes_misses_none(database: Database) -> None:
    """While twenty writers are at it, a reader that follows the revisions misses no row."""
    jobs = await jobs_of(database)
    queries = Queries(database)
    seen: set[str] = set()
    place = 0
    writing = True

    async def follow() -> None:
        nonlocal place
        while True:
            last = not writing
            settled = (await queries.settled()).revision
            changes = await queries.changes(Place(place), settled, limit=1000)
            assert changes.whole
            seen.update(one.run.scorer_run_id for one in changes.found)
            place = settled
            if last:
                return

    async def write(number: int) -> None:
        for turn in range(5):
            await jobs.add([new(number * 100 + turn * 10 + each) for each in range(3)])

    async with asyncio.TaskGroup() as group:
        following = group.create_task(follow())
        async with asyncio.TaskGroup() as writers:
            for number in range(20):
                writers.create_task(write(number))
        writing = False
        await following
    assert len(seen) == 300


async def test_a_reader_does_not_pass_a_writer_that_is_late(filled_postgres_url: str) -> None:
    """While a write with a lower number is open, later ones that are committed are not settled: a reader who continued
    to them would never see the late one."""
    inserted, gate = asyncio.Event(), asyncio.Event()
    async with open_database(filled_postgres_url) as database, asyncio.TaskGroup() as group, asyncio.timeout(20):
        jobs, queries = await jobs_of(database), Queries(database)

        def late(connection: Connection) -> None:
            jobs.add_on(connection, [NewRun("late", "default", "a", sample=b"1")])
            inserted.set()
            await_only(gate.wait())

        writing = group.create_task(database.write(late))
        await inserted.wait()
        await jobs.add([NewRun("early", "default", "a", sample=b"2")])
        settled = (await queries.settled()).revision
        early = await queries.changes(Place(-1), settled)
        gate.set()
        await writing
        later = (await queries.settled()).revision
        rest = await queries.changes(Place(settled), later)
    seen = [one.run.scorer_run_id for one in [*early.found, *rest.found]]
    assert sorted(seen) == ["early", "late"]


@pytest.mark.parametrize("limit", [0, -1])
async def test_no_place_no_claim(database: Database, limit: int) -> None:
    """A worker without room gets nothing."""
    jobs = await jobs_of(database)
    await jobs.add([new(1)])
    assert not (await jobs.claim(OFFERS, limit)).jobs


async def test_what_lost_its_sample_is_not_scored(database: Database) -> None:
    """A score of nothing would be a lie: FAILED, sample_lost, and no redrive makes it due again."""
    jobs = await jobs_of(database)
    await jobs.add([new(1)])
    await database.write(lambda connection: connection.execute(schema.samples.delete()))
    assert not (await jobs.claim(OFFERS, 10)).jobs
    line = (await found(database, 1)).run
    assert (line.state, line.error_reason) == (State.FAILED, "sample_lost")
    controls = Controls(database, jobs, Registry([FAKE]), wake=lambda: None)
    for dry_run in (True, False):
        assert (await controls.redrive("default", [f"{1:032x}"], dry_run=dry_run)).count == 0


async def test_a_redrive_begins_anew(database: Database) -> None:
    """Steps that were kept are done again: one of them may be why it failed."""
    jobs = await jobs_of(database)
    await jobs.add([new(1)])
    (job,) = (await jobs.claim(OFFERS, 10)).jobs
    steps = '{"version":"1","steps":{"analyze":1}}'
    await jobs.finish([done(job, State.FAILED, error=Error("scorer_error", "no"), failed=True, steps=steps)])
    controls = Controls(database, jobs, Registry([FAKE]), wake=lambda: None)
    assert (await controls.redrive("default", [f"{1:032x}"])).count == 1
    one = await found(database, 1)
    assert (one.run.state, one.run.steps, one.attempts[0].partial_results) == (State.PENDING, "{}", steps)


async def test_two_attempts_at_one_row_may_end_together(database: Database) -> None:
    """A worker that lost a row and claimed it again brings both ends: the newer counts, whatever their order."""
    for order in (1, -1):
        jobs = await jobs_of(database, lease_seconds=-1)
        number = 1 + order
        await jobs.add([new(number)])
        (old,) = (await jobs.claim(OFFERS, 10)).jobs
        (job,) = (await jobs.claim(OFFERS, 10)).jobs
        late = done(old, State.NOT_SCORABLE)
        assert await jobs.finish([late, done(job)][::order]) == [late]
        assert (await found(database, number)).run.state == State.SUCCEEDED


async def test_what_people_ask_for_does_not_stand_in_for_what_a_run_asks_for(database: Database) -> None:
    """A run whose second scorer run is still to come is not over because somebody had it scored ad hoc."""
    jobs = await jobs_of(database)
    first = replace(new(1), run_id="run", siblings=2)
    ad_hoc = replace(new(2), run_id="run", priority=Priority.HIGH)
    await jobs.add([first, ad_hoc])
    await jobs.finish([done(job) for job in (await jobs.claim(OFFERS, 10)).jobs])
    progress = (await Queries(database).progress("default", ["run"]))["run"]
    assert (progress.still_open, progress.complete) == (False, False)
    await jobs.add([replace(new(3), run_id="run", siblings=2)])
    progress = (await Queries(database).progress("default", ["run"]))["run"]
    assert (progress.still_open, progress.complete) == (True, True)


async def test_a_full_disk_passes(sqlite_url: str) -> None:
    """There may be room later: no request and no result is given up for it."""
    async with open_database(sqlite_url) as database:
        jobs = await jobs_of(database)
        await database.write(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 1"))
        with pytest.raises(StoreUnavailable):
            await jobs.add([replace(new(1), sample=b"x" * 1_000_000)])


async def test_samples_are_claimed_by_their_bytes(database: Database) -> None:
    """No more than there is room for, in their order; one that is larger than all the room is claimed by itself."""
    jobs = await jobs_of(database)
    for number, size in enumerate((20_000, 20_000, 20_000, 90_000), 1):
        await jobs.add([replace(new(number), sample=bytes([number]) * size)])
    first = await jobs.claim(OFFERS, 10, max_bytes=50_000, or_one=True)
    assert [len(job.sample) for job in first.jobs] == [20_000, 20_000]
    assert not (await jobs.claim(OFFERS, 10, max_bytes=10_000)).jobs
    jobs.look_again()
    assert [len(job.sample) for job in (await jobs.claim(OFFERS, 10, max_bytes=50_000)).jobs] == [20_000]
    jobs.look_again()
    assert not (await jobs.claim(OFFERS, 10, max_bytes=50_000)).jobs
    jobs.look_again()
    assert [len(job.sample) for job in (await jobs.claim(OFFERS, 10, max_bytes=50_000, or_one=True)).jobs] == [90_000]


async def test_a_failure_without_an_attempt_is_exported(database: Database) -> None:
    """What ended before anybody tried it waits for export like everything else that ended."""
    jobs = await jobs_of(database, export_backlog=10)
    await jobs.add([new(1, deadline=1.0)])
    assert not (await jobs.claim(OFFERS, 10)).jobs
    exported: list[Item] = []

    class Sink:
        def send(self, items: Sequence[Item]) -> Outcome:
            exported.extend(items)
            return Outcome(Verdict.TAKEN)

        def close(self) -> None:
            """Nothing to end."""

    await Exporter(database, Sink()).run_once()
    (item,) = exported
    assert (item.run.state, item.attempt.error_reason) == (State.FAILED, "deadline_exceeded")
