"""Named references: one scorer scores a run several times, and each use is told apart everywhere."""

from __future__ import annotations

import hashlib

import pytest

from runwire.scorer.v1 import scorer_run_pb2 as S
from runwire.scorer.v1 import scorer_run_requested_pb2 as requested
from runwire.scorer.v1 import scorer_service_pb2 as pb
from scorer_service import Sample, Score, scorer
from tests.scorer.stage import Service, request, service


async def agree(sample: Sample) -> Score:
    return Score(1)


VERSIONS = [scorer(id="brevity", version=version)(agree) for version in "1234"]


def named(name: str, run_id: str = "run-1", **options: str) -> requested.ScorerRunRequested:
    """A request for `brevity` under a name, with the id that the contract gives it."""
    message = request("brevity", run_id, options=options or None, siblings=3)
    message.scorer_name = name
    parts = [message.tenant, run_id, "brevity", message.scorer_version, *([name] if name else [])]
    message.scorer_run_id = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    return message


async def scored_three_times(running: Service) -> None:
    messages = [named(name, note=name) for name in ("", "short", "shorter")]
    await running.send(*messages)
    for message in messages:
        assert (await running.until(message.scorer_run_id)).state == S.SCORER_RUN_STATE_SUCCEEDED


async def test_each_use_is_told_apart(results_url: str) -> None:
    """In lists, filters and statistics; the use without a name can be asked for as such."""
    async with service(results_url) as running:
        await scored_three_times(running)
        listed = await running.stub.ListScorerRuns(pb.ListScorerRunsRequest())
        assert {run.scorer_name: run.options["note"] for run in listed.scorer_runs} == {
            "": "",
            "short": "short",
            "shorter": "shorter",
        }
        for name in ("", "short"):
            wanted = pb.ScorerRunFilter(scorer_id="brevity", scorer_name=name)
            found = await running.stub.ListScorerRuns(pb.ListScorerRunsRequest(filter=wanted))
            assert [run.scorer_name for run in found.scorer_runs] == [name]
        stats = await running.stub.GetScorerStats(pb.GetScorerStatsRequest(scorer_id="brevity"))
    assert [(one.scorer_id, one.scorer_name, one.scored) for one in stats.stats] == [
        ("brevity", "", 1),
        ("brevity", "short", 1),
        ("brevity", "shorter", 1),
    ]


async def test_scored_again_under_its_name(results_url: str) -> None:
    """A rescore keeps the names, and is one scorer run for each use, however often it is asked for."""
    async with service(results_url) as running:
        await scored_three_times(running)
        again = pb.RetryScorerRunsRequest(filter=pb.ScorerRunFilter(run_id="run-1"), scorer_version="1")
        first = await running.stub.RetryScorerRuns(again)
        second = await running.stub.RetryScorerRuns(again)
        assert (first.count, second.count) == (3, 0)
        made = [await running.until(key) for key in first.scorer_run_ids]
    assert sorted(run.scorer_name for run in made) == ["", "short", "shorter"]


async def test_three_ad_hoc_requests_scored_again(results_url: str) -> None:
    """What people asked for three times is scored again three times, also where it is about one run."""
    async with service(results_url) as running:
        asked = []
        for number in range(3):
            ad_hoc = pb.RequestScorerRunRequest(
                scorer_id="brevity",
                sample=request("brevity", "run-1").sample,
                request_id=f"ask-{number}",
                scorer_name="x",
            )
            asked.append((await running.stub.RequestScorerRun(ad_hoc)).scorer_run.scorer_run_id)
        for key in asked:
            assert (await running.until(key)).scorer_name == "x"
        again = await running.stub.RetryScorerRuns(pb.RetryScorerRunsRequest(scorer_run_ids=asked, scorer_version="1"))
    assert again.count == len(set(again.scorer_run_ids)) == 3


@pytest.mark.parametrize("run_id", ["run-1", ""])
async def test_what_was_scored_again_is_one_with_what_it_came_from(results_url: str, run_id: str) -> None:
    """However many versions there have been, each request has one score of the next one, dry or not, not one for each
    of its earlier scores: two alike, which people asked for without a request id, have two."""
    async with service(results_url, scorers="tests.scorer.test_names:VERSIONS") as running:
        sample = request("brevity", run_id).sample
        for _ in range(2):
            ad_hoc = pb.RequestScorerRunRequest(scorer_id="brevity", scorer_version="1", sample=sample)
            await running.until((await running.stub.RequestScorerRun(ad_hoc)).scorer_run.scorer_run_id)
        for version in ("2", "3", "4"):
            again = pb.RetryScorerRunsRequest(filter=pb.ScorerRunFilter(), scorer_version=version, dry_run=True)
            foreseen = await running.stub.RetryScorerRuns(again)
            again.dry_run = False
            made = await running.stub.RetryScorerRuns(again)
            assert (foreseen.count, made.count) == (2, 2)
            for key in made.scorer_run_ids:
                await running.until(key)
