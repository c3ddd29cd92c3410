"""What people say of runs, beside judges, on both databases."""

from __future__ import annotations

import asyncio
import math
import os
import pty
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from sqlalchemy import func, select

from runwire.agent.v1 import run_pb2
from runwire.client import sync
from runwire.identity.principal import OWN, SCORES_WRITE, Principal
from runwire.pubsub import Commit, Schedule
from runwire.scorer.v1 import scorer_run_pb2 as S
from runwire.scorer.v1 import scorer_service_pb2 as pb
from runwire.scorer_requests import BRIEF
from scorer_service.people.messages import said_of
from scorer_service.results.database import open_database
from scorer_service.results.schema import opinions
from tests.cli.conftest import spawn
from tests.client.processes import AgentProcess, ScorerProcess
from tests.scorer.stage import Service, request, service
from tests.scorer.test_port import ID, Hand
from tests.scorer.test_service import refused


@pytest.fixture
async def it(results_url: str) -> AsyncIterator[Service]:
    """The service, and in its store a run `run-1`."""
    async with service(results_url) as started:
        await add_run(started, "run-1")
        yield started


async def add_run(it: Service, run_id: str) -> None:
    run = run_pb2.Run(run_id=run_id, agent_id="librarian", labels={"team": "blue"})
    fields = {BRIEF: run.SerializeToString()}
    await it.store.commit(
        Commit(f"default/{run_id}", create=True, queue="nobody", schedule=Schedule.NEVER, puts=fields)
    )


async def submit(it: Service, run_id: str = "run-1", scorer_id: str = "helpful", **fields: Any) -> S.ScorerRun:
    given = pb.SubmitScoreRequest(run_id=run_id, scorer_id=scorer_id, **fields)
    return (await it.stub.SubmitScore(given)).scorer_run  # type: ignore[no-any-return]


async def test_an_opinion_is_a_scorer_run(it: Service) -> None:
    """It is listed beside judges, counted and watched, with its author; who corrects it keeps what was said before."""
    judged = await it.score(request("brevity"))
    first = await submit(it, thumb=pb.THUMB_UP, comment="nice", author="anna")
    assert (first.state, first.score.value, first.score.label) == (S.SCORER_RUN_STATE_SUCCEEDED, 1, "up")
    assert (first.score.reason, first.author, first.agent_id) == ("nice", "anna", "librarian")
    assert dict(first.labels) == {"team": "blue"}
    second = await submit(it, value=0.25, label="meh", author="anna")
    assert second.scorer_run_id == first.scorer_run_id
    assert [(each.number, each.value, each.comment) for each in second.opinions] == [(1, 1, "nice"), (2, 0.25, "")]
    other = await submit(it, value=1, author="ben")
    wanted = pb.ListScorerRunsRequest(filter=pb.ScorerRunFilter(run_id="run-1"))
    listed = (await it.stub.ListScorerRuns(wanted)).scorer_runs
    assert {each.scorer_run_id: each.score.value for each in listed} == {
        judged.scorer_run_id: judged.score.value,
        first.scorer_run_id: 0.25,
        other.scorer_run_id: 1,
    }
    stats = (await it.stub.GetScorerStats(pb.GetScorerStatsRequest(scorer_id="helpful"))).stats
    assert [(each.scorer_name, each.scored, each.mean_score) for each in stats] == [("people", 2, 0.625)]


async def test_a_repeat_is_no_second_opinion(it: Service) -> None:
    """The same request id changes nothing, from many at once too; with other words it is refused."""
    fields: dict[str, Any] = {"value": 0.5, "author": "anna", "request_id": "one"}
    found = await asyncio.gather(*(submit(it, **fields) for _ in range(5)))
    assert {len(each.opinions) for each in found} == {1}
    code, reason, _ = await refused(submit(it, **{**fields, "value": 0.6}))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    await asyncio.gather(*(submit(it, value=number / 10, author="anna") for number in range(5)))
    numbers = [each.number for each in (await it.get(found[0].scorer_run_id)).opinions]
    assert numbers == [1, 2, 3, 4, 5, 6]


async def test_a_deleted_opinion_leaves_nothing(it: Service, results_url: str) -> None:
    """DeleteScorerRuns removes what people said, and what they said before: what they say later begins anew."""
    fields: dict[str, Any] = {"author": "anna", "request_id": "one"}
    await submit(it, value=0.5, comment="of a person", **fields)
    assert (await it.stub.DeleteScorerRuns(pb.DeleteScorerRunsRequest(run_ids=["run-1"]))).count == 1
    async with open_database(results_url) as database:
        query = select(func.count()).select_from(opinions)
        assert await database.read(lambda connection: connection.execute(query).scalar_one()) == 0
    again = await submit(it, value=1, **fields)
    assert [(each.number, each.value) for each in again.opinions] == [(1, 1)]


@pytest.mark.parametrize("by_id", [False, True])
async def test_an_opinion_is_not_scored_again(it: Service, by_id: bool) -> None:
    """A rescore of all that a judge scored leaves alone what people said under its name: there is no sample to score,
    and the judge's score would stand there as people's."""
    hand = Hand(it)
    await hand.register("1")
    await hand.register("2")
    said = await submit(it, scorer_id=ID, value=1, author="anna")
    asked = pb.RetryScorerRunsRequest(scorer_version="2")
    if by_id:
        asked.scorer_run_ids.append(said.scorer_run_id)
    else:
        asked.filter.scorer_id = ID
    assert (await it.stub.RetryScorerRuns(asked)).count == 0


def test_who_sees_its_own_alone_corrects_its_own_alone() -> None:
    """Who started a run cannot put its words in place of those of a reviewer, by the reviewer's name; reviewers whose
    words come by different services can correct them by each."""
    own, tool, other = (
        Principal(name, "default", frozenset(scopes))
        for name, scopes in (("eve", [SCORES_WRITE, OWN]), ("tool", [SCORES_WRITE]), ("other", [SCORES_WRITE]))
    )
    given = pb.SubmitScoreRequest(run_id="run-1", scorer_id="helpful", value=1, author="anna")
    of_eve, of_tool, of_other = (said_of(who, given, "a", {}).scorer_run_id for who in (own, tool, other))
    assert of_eve != of_tool == of_other


async def test_what_is_no_opinion(it: Service) -> None:
    """No score, one that is no number, and a run that nobody knows are refused."""
    assert (await refused(submit(it)))[2].keys() == {"value"}
    assert (await refused(submit(it, value=math.nan)))[2].keys() == {"value"}
    assert (await refused(submit(it, scorer_id="", value=1)))[2].keys() == {"scorer_id"}
    code, reason, _ = await refused(submit(it, run_id="nobodys", value=1))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "RUN_NOT_FOUND")


async def test_agreement_of_a_judge_with_people(it: Service) -> None:
    """Of the runs that both scored: how often both say yes or both say no, and how far they are apart. A correction
    counts alone."""
    for number, said in enumerate((1.0, 0.0, 1.0, 0.0)):
        run_id = f"judged-{number}"
        message = request("includes", run_id, output="yes" if number < 3 else "no", options={"text": "yes"})
        judged = await it.score(message)
        assert judged.score.value == float(number < 3)
        if number == 1:
            await submit(it, run_id, "includes", value=1 - said, author="anna")
        await submit(it, run_id, "includes", value=said, author="anna")
    stats = {
        each.scorer_name: each
        for each in (await it.stub.GetScorerStats(pb.GetScorerStatsRequest(scorer_id="includes"))).stats
    }
    judge = stats[""]
    assert (judge.compared_with_people, judge.agreement, judge.mean_distance) == (4, 0.75, 0.25)
    assert stats["people"].scored == 4


def test_review_on_a_terminal(tmp_path: Path) -> None:
    """A person is shown the runs that nobody has scored, and what judges say; a key scores each, a comment goes with
    it, one is skipped, and the next round begins with what is left."""
    with AgentProcess("agent_service.demo") as agents, ScorerProcess(agents.store) as scorers:
        agents.start()
        scorers.start()
        services = ("--agent-address", agents.address, "--scorer-address", scorers.address)
        with sync.AgentClient(agents.address) as starter:
            for number in range(3):
                assert list(starter.run("ticker", {"count": number + 1, "interval_ms": 1}))
        shown = at_terminal(["+", "c", "fine\n", "7", "s"], "review", "--agent", "ticker", *services)
        assert "2 scored, 1 skipped" in shown
        assert '"count":3' in shown.replace(" ", "")
        again = at_terminal(["q"], "review", *services)
        assert len(re.findall("^  in ", again, re.MULTILINE)) == 1
        with sync.ScorerClient(scorers.address) as client:
            said = sorted((each.score.value, each.score.reason) for each in client.list_scorer_runs())
        assert said == [(7 / 9, "fine"), (1.0, "")]


def at_terminal(keys: list[str], *arguments: str) -> str:
    """What a command on a terminal showed that is given these answers, each once it asks."""
    leader, follower = pty.openpty()
    process = spawn(*arguments, stdin=follower, stdout=follower, stderr=follower)
    os.close(follower)
    shown, waiting, asked = b"", list(keys), 0
    try:
        while data := os.read(leader, 65536):
            shown += data
            prompts = shown.count(b"> ") + shown.count(b"comment: ")
            while waiting and prompts > asked:
                asked += 1
                os.write(leader, waiting.pop(0).encode())
    except OSError:
        pass  # how Linux says that the other side of a terminal was closed
    finally:
        os.close(leader)
    process.wait(30)
    return shown.decode().replace("\r", "")
