"""What goes through many scorer runs: page by page, each call bounded, nothing twice."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import grpc
import pytest
from sqlalchemy import func, select, update

from runwire.client import ScorerClient, scorer_run_filter
from runwire.errors import StoreUnavailable
from runwire.paging import encode_token
from runwire.scorer.v1 import scorer_run_pb2, scorer_run_requested_pb2
from runwire.scorer.v1 import scorer_service_pb2 as pb
from scorer_service.answers import controls as walks
from scorer_service.answers.controls import Controls, Walk
from scorer_service.answers.queries import Filter
from scorer_service.queue.holders import Holders
from scorer_service.queue.jobs import Jobs, Offer
from scorer_service.registry import Registry
from scorer_service.results.database import Database, open_database
from scorer_service.results.records import OPEN, Error, Finished, NewRun, State
from scorer_service.results.schema import samples, scorer_runs
from scorer_service.scoring import Sample, scorer
from tests.scorer.many import fill
from tests.scorer.stage import service

EVERYTHING = Filter("default")


@scorer(id="brevity", version="1")
async def BREVITY(sample: Sample) -> float:
    """Known to the service; here nothing is scored."""
    return 1.0


def controls_of(database: Database) -> Controls:
    return Controls(database, Jobs(database, worker="w"), Registry([BREVITY]), wake=lambda: None)


async def count(database: Database, *conditions: Any) -> int:
    query = select(func.count()).select_from(scorer_runs).where(*conditions)
    return int(await database.read(lambda c: c.execute(query).scalar_one()))


@pytest.mark.parametrize("number", [6_000, pytest.param(60_000, marks=pytest.mark.chaos)])
async def test_any_number_is_redriven_and_cancelled(results_url: str, number: int) -> None:
    """By a client that gives each call 10 seconds: counted as it goes, each once, whatever the number."""
    async with open_database(results_url) as database, service(results_url) as running:
        await running.stub.PauseScorer(pb.PauseScorerRequest(scorer_id="brevity"))
        await fill(database, number)
        async with ScorerClient(running.address, timeout=10.0) as client:
            counts: list[int] = []
            wanted = scorer_run_filter(scorer_id="brevity")
            assert (await client.retry_scorer_runs(filter=wanted, dry_run=True)).count == number
            answer = await client.retry_scorer_runs(filter=wanted, on_progress=counts.append)
            assert (answer.count, len(answer.scorer_run_ids)) == (number, 1000)
            assert counts == sorted(counts)
            assert len(counts) > number // 1001
            assert await count(database, scorer_runs.c.redrives == 1) == number
            assert (await client.cancel_scorer_runs(filter=wanted)).count == number
            assert await count(database, scorer_runs.c.state == int(State.CANCELLED)) == number


async def test_a_page_may_be_repeated(database: Database) -> None:
    """The same page again, and what failed again meanwhile, is not redriven a second time; what failed after the
    beginning is not selected at all."""
    controls = controls_of(database)
    await fill(database, 30)
    begin = await controls.begin()
    first = await controls.redrive("default", EVERYTHING, walk=Walk(begin, 10))
    assert (first.count, len(first.ids)) == (10, 10)
    # All of them fail again.
    fail = update(scorer_runs).values(state=int(State.FAILED), due_time=None)
    await database.write(lambda c: c.execute(fail.where(scorer_runs.c.redrives == 1)))
    assert (await controls.redrive("default", EVERYTHING, walk=Walk(begin, 10))).count == 10  # the next ones
    late = NewRun("late", "default", "brevity", state=State.FAILED, sample=b"\x0a\x00", create_time=1.0)
    await Jobs(database, worker="w").add([late])
    rest = await controls.redrive("default", EVERYTHING, walk=Walk(first.rest))
    assert (rest.count, rest.rest) == (10, None)
    assert await count(database, scorer_runs.c.redrives == 1) == 30
    assert (await controls.redrive("default", EVERYTHING)).count == 11


async def test_a_page_that_is_asked_for_again_is_answered_again(database: Database) -> None:
    """By the process that carried it out: the same count, the same ids, and the sum is exact, whichever page is
    repeated, at once or later."""
    controls = controls_of(database)
    await fill(database, 30)
    place, total, number = await controls.begin(), 0, 0
    while True:
        walk = Walk(place, 10, key=f"page-{number}")
        both = await asyncio.gather(*[controls.redrive("default", EVERYTHING, walk=walk) for _ in range(2)])
        assert both[0] == both[1] == await controls.redrive("default", EVERYTHING, walk=walk)
        total, number = total + both[0].count, number + 1
        if both[0].rest is None:
            break
        place = both[0].rest
    assert total == await count(database, scorer_runs.c.redrives == 1) == 30


async def test_a_page_that_broke_off_is_gone_on_with(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a part of it the database went away: what is asked again counts that part too."""
    monkeypatch.setattr(walks, "_BATCH", 7)
    controls = controls_of(database)
    await fill(database, 30)
    walk, write, written = Walk(await controls.begin(), 25, key="page"), database.write, list[int]()

    async def failing(work: Any, **options: Any) -> Any:
        written.append(1)
        if len(written) == 3:
            raise StoreUnavailable("away")
        return await write(work, **options)

    monkeypatch.setattr(database, "write", failing)
    with pytest.raises(StoreUnavailable):
        await controls.redrive("default", EVERYTHING, walk=walk)
    assert await count(database, scorer_runs.c.redrives == 1) == 14
    touched = await controls.redrive("default", EVERYTHING, walk=walk)
    assert (touched.count, len(set(touched.ids))) == (25, 25)
    assert await count(database, scorer_runs.c.redrives == 1) == 25


async def test_a_cancellation_looks_only_at_what_is_open(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among many that have ended: those that are open are found in one look, in their order, in every open state."""
    monkeypatch.setattr(walks, "_SCANNED", 20)
    states = f"CASE WHEN n % 500 < 3 THEN n % 500 + {int(State.PENDING)} ELSE {int(State.FAILED)} END"
    await fill(database, 2000, state=states)
    looks: list[str] = []
    read = database.read

    async def counting(work: Any) -> Any:
        looks.append("")
        return await read(work)

    monkeypatch.setattr(database, "read", counting)
    touched = await controls_of(database).cancel("default", EVERYTHING)
    assert (touched.count, touched.rest, len(looks)) == (12, None, 2)
    assert await count(database, scorer_runs.c.state == int(State.FAILED)) == 1988


async def test_two_redrives_at_once_share_the_work(database: Database) -> None:
    """Together they redrive everything, and nothing twice."""
    await fill(database, 3000)
    both = await asyncio.gather(*[controls_of(database).redrive("default", EVERYTHING) for _ in range(2)])
    assert sum(touched.count for touched in both) == 3000
    assert await count(database, scorer_runs.c.redrives == 1) == 3000


@pytest.mark.parametrize("seed", range(3))
async def test_no_claim_escapes_a_cancellation(database: Database, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """While workers claim, hand back and fail what is to be cancelled, its states change all the time: when the walk is
    through, everything that was there has ended."""
    monkeypatch.setattr(walks, "_BATCH", 7)
    monkeypatch.setattr(walks, "_SCANNED", 13)
    choose = random.Random(seed)
    jobs, controls = Jobs(database, worker="w"), controls_of(database)
    await jobs.register(["brevity"])
    await fill(database, 200, state=str(int(State.PENDING)), due_time="1.0 + n % 7", end_time="NULL")
    stop = asyncio.Event()

    async def work() -> None:
        while not stop.is_set():
            for job in (await jobs.claim({"brevity": Offer(20)}, choose.choice([3, 20]))).jobs:
                state = choose.choice([State.PENDING, State.RETRYING])
                await jobs.finish([Finished(job, state, error=Error("scorer_error", "no"))])

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        working = group.create_task(work())
        touched = await controls.cancel("default", EVERYTHING)
        stop.set()
        await working
    assert touched.count == 200
    assert await count(database, scorer_runs.c.state.in_([int(state) for state in OPEN])) == 0


async def test_each_call_is_bounded(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that fits nothing among many: a call ends when its time is over, with a token, and the last one without;
    none looks at a row twice."""
    monkeypatch.setattr(walks, "_SCANNED", 100)
    await fill(database, 1000, agent_id="'librarian'", state=str(int(State.RETRYING)))
    wanted = Filter("default", scorer_id="brevity", agent_id="nobody")
    place, calls = None, 0
    while True:
        touched = await controls_of(database).cancel("default", wanted, walk=Walk(place, 10, seconds=0.0))
        calls += 1
        assert touched.count == 0
        if touched.rest is None:
            break
        place = touched.rest
    assert calls == 11


async def test_a_client_that_knows_no_pages_gets_it_all(results_url: str) -> None:
    """In one call, or, where that takes too long, the number so far and a token."""
    async with open_database(results_url) as database, service(results_url) as running:
        await running.stub.PauseScorer(pb.PauseScorerRequest(scorer_id="brevity"))
        await fill(database, 2500)
        request = pb.RetryScorerRunsRequest(filter=pb.ScorerRunFilter(scorer_id="brevity"))
        answer = await running.stub.RetryScorerRuns(request)
        assert (answer.count, answer.next_page_token) == (2500, "")
        cancel = pb.CancelScorerRunsRequest(filter=pb.ScorerRunFilter(scorer_id="brevity"))
        answer = await running.stub.CancelScorerRuns(cancel)
        assert (answer.count, answer.next_page_token) == (2500, "")


@pytest.mark.parametrize(
    "place", [1, [], [1], [1, 2, 3], ["1", 0, None], [-1, 0, None], [2**80, 0, None], [1, -1, None], [1, 0, [1, "a\0"]]]
)
async def test_forged_tokens_are_refused(sqlite_url: str, place: Any) -> None:
    """A token is checked as any other text of a caller's."""
    request = pb.RetryScorerRunsRequest(filter=pb.ScorerRunFilter(scorer_id="brevity"), page_size=5)
    request.page_token = encode_token(request, place)
    async with service(sqlite_url) as running:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await running.stub.RetryScorerRuns(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_another_process_has_is_redriven_and_rescored(database: Database) -> None:
    """Whoever is asked: a scorer and a version count as known where any process has them, and only there."""
    await Holders(database, "other", {"elsewhere": ["2"]}).sweep()
    failed = [
        NewRun(name, "default", name, state=State.FAILED, sample=b"\x0a\x00", create_time=1.0)
        for name in ("elsewhere", "nowhere", "brevity")
    ]
    await Jobs(database, worker="w").add(failed)
    controls = controls_of(database)
    rescored = await controls.rescore("default", EVERYTHING, "2", dry_run=True)
    assert rescored.count == 1
    assert sorted((await controls.redrive("default", EVERYTHING)).ids) == ["brevity", "elsewhere"]


async def test_what_another_process_has_is_asked_for_and_paused(results_url: str) -> None:
    """A process takes requests for scorers of the others, pauses them, and refuses what nobody has."""
    async with open_database(results_url) as database, service(results_url) as running:
        await Holders(database, "other", {"elsewhere": ["2"]}).sweep()
        request = pb.RequestScorerRunRequest(scorer_id="elsewhere", sample=scorer_run_requested_pb2.Sample())
        found = (await running.stub.RequestScorerRun(request)).scorer_run
        assert (found.scorer_id, found.state) == ("elsewhere", scorer_run_pb2.SCORER_RUN_STATE_PENDING)
        paused = (await running.stub.PauseScorer(pb.PauseScorerRequest(scorer_id="elsewhere"))).scorer
        assert (paused.paused, paused.version, len(paused.holders)) == (True, "2", 1)
        for missing in ({"scorer_id": "nowhere"}, {"scorer_id": "elsewhere", "scorer_version": "3"}):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await running.stub.RequestScorerRun(
                    pb.RequestScorerRunRequest(**missing, sample=scorer_run_requested_pb2.Sample())
                )
            assert refused.value.code() == grpc.StatusCode.NOT_FOUND


def asked(run_id: str) -> scorer_run_requested_pb2.ScorerRunRequested:
    return scorer_run_requested_pb2.ScorerRunRequested(
        scorer_run_id=f"{run_id}-brevity",
        tenant="default",
        scorer_id="brevity",
        sampling={"rate": 1.0, "sampled": True},
        sample={"run_id": run_id, "agent_id": "a", "output": {"string_value": "short"}},
    )


async def test_all_scores_of_a_run_are_deleted(results_url: str) -> None:
    """DeleteScorerRuns removes what there is of a run's scorer runs, with attempts and samples, and of no other's."""
    first, second = asked("gone"), asked("kept")
    async with service(results_url) as running, open_database(results_url) as database:
        await running.score(first)
        await running.score(second)
        ask = pb.DeleteScorerRunsRequest(run_ids=[first.sample.run_id], dry_run=True)
        assert (await running.stub.DeleteScorerRuns(ask)).count == 1
        ask.dry_run = False
        answer = await running.stub.DeleteScorerRuns(ask)
        assert (answer.count, answer.more) == (1, False)
        assert (await running.stub.DeleteScorerRuns(ask)).count == 0
        left = (await running.stub.ListScorerRuns(pb.ListScorerRunsRequest())).scorer_runs
        assert [each.scorer_run_id for each in left] == [second.scorer_run_id]
        rows = {}
        for table in (scorer_runs, samples):
            query = select(func.count()).select_from(table)
            rows[table.name] = await database.read(lambda c, query=query: c.execute(query).scalar_one())
    assert rows == {"scorer_runs": 1, "samples": 1}
