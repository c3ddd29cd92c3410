"""What judges may spend, on both databases."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import pytest
from sqlalchemy import select

from runwire.cli.app import run
from runwire.errors import InvalidRequest
from runwire.scorer.v1 import scorer_run_pb2 as S
from runwire.scorer.v1 import scorer_service_pb2 as pb
from runwire.times import duration
from scorer_service.answers.controls import Controls
from scorer_service.answers.queries import Filter
from scorer_service.queue.budgets import Budget, Budgets
from scorer_service.queue.jobs import Jobs, Offer
from scorer_service.registry import Registry
from scorer_service.results.database import Database
from scorer_service.results.records import Finished, NewRun, ScoreRecord, State
from scorer_service.results.schema import scorer_runs
from tests.scorer.stage import request, service
from tests.scorer.test_port import ID, Hand
from tests.scorer.test_service import refused

SPENT = json.dumps({"model": "m", "requests": 1, "input_tokens": 7, "output_tokens": 3, "cost_usd": 0.5})
SCORE = ScoreRecord(1.0, "", "", "{}", 1, None)
OPEN = select(scorer_runs.c.scorer_run_id).where(scorer_runs.c.due_time.is_not(None)).limit(1)
WORKERS, IN_FLIGHT = 4, 8


async def work(database: Database, name: str) -> None:
    """A worker with a few attempts in flight, each of which takes ten tokens, until nothing is due."""
    jobs = Jobs(database, worker=name)
    await jobs.register({"judge": ["1"]})
    idle = 0
    while idle < 3:
        jobs.look_again()
        claimed = (await jobs.claim({"judge": Offer(IN_FLIGHT)}, IN_FLIGHT)).jobs
        await asyncio.sleep(0)
        await jobs.finish([Finished(job, State.SUCCEEDED, "1", SCORE, spent=SPENT) for job in claimed])
        idle = 0 if await database.look(lambda c: c.execute(OPEN).first()) else idle + 1


async def states(database: Database) -> Counter[tuple[int, str | None]]:
    query = select(scorer_runs.c.state, scorer_runs.c.error_reason)
    return Counter(tuple(row) for row in await database.read(lambda c: c.execute(query).all()))  # type: ignore[arg-type]


async def test_a_budget_for_three_hundred(database: Database) -> None:
    """1,000 judged runs and a budget for 300 of them, in four workers: what is spent is beyond it by no more than what
    was in flight, the rest is DECLINED and says why, and one redrive with a larger budget scores it. Another tenant's
    runs of the same scorer are not touched."""
    jobs = Jobs(database, worker="w")
    for start in range(0, 1000, 250):
        await jobs.add([NewRun(f"run-{start + n}", "default", "judge", sample=b"s") for n in range(250)])
    await jobs.add([NewRun("theirs", "other", "judge", sample=b"s")])
    budgets = Budgets(database)
    limits = (3000, None) if database.embedded else (None, 150.0)
    await budgets.set(Budget("default", "judge", 86_400.0, *limits))
    await asyncio.gather(*(work(database, f"w-{number}") for number in range(WORKERS)))
    (spent,) = await budgets.all("default")
    assert 3000 <= spent.spent_tokens <= 3000 + 10 * WORKERS * IN_FLIGHT
    assert spent.spent_cost_usd == pytest.approx(spent.spent_tokens / 20)
    ours = spent.spent_tokens // 10
    assert await states(database) == {
        (State.SUCCEEDED, None): ours + 1,
        (State.DECLINED, "budget"): 1000 - ours,
    }
    controls = Controls(database, jobs, Registry([]), wake=lambda: None)
    await budgets.set(Budget("default", "judge", 86_400.0, 20_000, None))
    wanted = Filter("default", states=[int(State.DECLINED)], error_reason="budget")
    touched = await controls.redrive("default", wanted)
    assert touched.count == 1000 - ours
    await asyncio.gather(*(work(database, f"v-{number}") for number in range(WORKERS)))
    assert await states(database) == {(State.SUCCEEDED, None): 1001}
    assert (await budgets.all("default"))[0].spent_tokens == 10_000


async def test_no_more_budgets_than_are_listed(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant has a bounded number of budgets: those can be changed and removed, and others have theirs."""
    monkeypatch.setattr("scorer_service.queue.budgets.MAX_BUDGETS", 1)
    kept = Budgets(database)
    for tenant, most in (("default", 1), ("default", 2), ("other", 1)):
        await kept.set(Budget(tenant, "judge", 60.0, most, None))
    with pytest.raises(InvalidRequest):
        await kept.set(Budget("default", "second", 60.0, 1, None))
    await kept.set(Budget("default", "judge", 60.0, None, None))
    await kept.set(Budget("default", "second", 60.0, 1, None))


async def test_a_sum_that_no_database_holds(database: Database) -> None:
    """What workers say that they spent ends their attempts, however much it is, and whatever was spent before."""
    budgets, jobs = Budgets(database), Jobs(database, worker="w")
    await jobs.register({"judge": ["1"]})
    await budgets.set(Budget("default", "judge", 86_400.0, 2**63 - 1, None))
    most = json.dumps({"input_tokens": 2**53, "output_tokens": 2**53, "cost_usd": 1e308})
    await jobs.add([NewRun(f"run-{number}", "default", "judge", sample=b"s") for number in range(600)])
    jobs.look_again()
    claimed = (await jobs.claim({"judge": Offer(600)}, 600)).jobs
    finished = [Finished(job, State.SUCCEEDED, "1", SCORE, spent=most) for job in claimed]
    assert len(finished) == 600
    await jobs.finish(finished)
    assert await states(database) == {(State.SUCCEEDED, None): 600}


async def test_budgets_through_the_service(results_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A budget is set, shown with what is spent, and removed; beyond it a scorer run shows why it was declined, counts
    as eligible, and `runwire redrive --declined budget` scores it, and nothing that was sampled out."""
    async with service(results_url) as it:
        hand = Hand(it)
        await hand.register()
        one = pb.ScorerBudget(scorer_id=ID, window=duration(3600.0), max_tokens=10)
        await it.stub.SetScorerBudget(pb.SetScorerBudgetRequest(budget=one))
        messages = [request(ID, f"run-{number}") for number in range(3)]
        sampled_out = request(ID, "out", sampled=False)
        await it.send(*messages, sampled_out)
        first = await hand.one(max_scorer_runs=1)
        await hand.report(first, score=S.Score(value=1), judging=S.Judging(model="m", requests=1, input_tokens=12))
        assert not (await hand.claim(wait=duration(1.0))).scorer_runs
        rest = [each.scorer_run_id for each in messages if each.scorer_run_id != first.scorer_run_id]
        declined = await it.until(rest[0])
        assert (declined.state, declined.error.reason) == (S.SCORER_RUN_STATE_DECLINED, "budget")
        assert declined.sampling.sampled
        assert not (await it.get(sampled_out.scorer_run_id)).HasField("error")
        (stats,) = (await it.stub.GetScorerStats(pb.GetScorerStatsRequest(scorer_id=ID))).stats
        assert (stats.eligible, stats.declined, stats.scored, stats.coverage) == (4, 3, 1, 0.25)
        (shown,) = (await it.stub.ListScorerBudgets(pb.ListScorerBudgetsRequest())).budgets
        assert (shown.max_tokens, shown.spent_tokens) == (10, 12)
        bad = pb.SetScorerBudgetRequest(budget=pb.ScorerBudget(max_tokens=1))
        assert (await refused(it.stub.SetScorerBudget(bad)))[2].keys() == {"budget.window"}
        at = ["--scorer-address", it.address]
        assert await asyncio.to_thread(run, ["budget", ID, *at]) == 0
        assert await asyncio.to_thread(run, ["budget", ID, "--remove", *at]) == 0
        assert await asyncio.to_thread(run, ["redrive", "--declined", "budget", *at]) == 0
        assert "2 scorer runs are redriven" in capfd.readouterr().out
        for _ in rest:
            await hand.report(await hand.one(max_scorer_runs=1), score=S.Score(value=1))
        assert {(await it.get(each)).state for each in rest} == {S.SCORER_RUN_STATE_SUCCEEDED}
