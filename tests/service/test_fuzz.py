"""Requests at random, over every call of both services: no INTERNAL, no UNKNOWN, and what was stored can be read."""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message

from agent_service.agents.context import RunContext
from agent_service.agents.definition import workflow
from runwire.agent.v1 import agent_service_pb2 as agent_pb
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.scorer.v1 import scorer_port_pb2 as port_pb
from runwire.scorer.v1 import scorer_run_requested_pb2
from runwire.scorer.v1 import scorer_service_pb2 as scorer_pb
from runwire.values import to_struct, to_value
from tests.scorer.stage import service
from tests.service.fuzzing import AGENT_SERVICE, SCORER_SERVICE, Fuzz, Maker, Wire
from tests.service.readable import every_run, every_scorer_run
from tests.service.replica import replica

IN_SUITE, AT_LENGTH = 5_000, 50_000
"""Requests to each service."""
Templates = dict[str, list[Callable[[], Message]]]


@workflow(id="echo")
async def echo(ctx: RunContext, input: Any) -> Any:
    await ctx.emit_custom("input", {"is": input})
    return input


@workflow(id="asks")
async def asks(ctx: RunContext, input: Any) -> Any:
    return await ctx.suspend("name", input)


@pytest.fixture
def rng() -> random.Random:
    """Seeded by RUNWIRE_FUZZ_SEED, or again."""
    seed = int(os.environ.get("RUNWIRE_FUZZ_SEED", "0")) or random.randrange(1, 2**32)
    print(f"RUNWIRE_FUZZ_SEED={seed}")
    return random.Random(seed)


def assert_quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing that a peer sent was a fault of ours."""
    loud = [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]
    assert not loud, "\n".join(logging.Formatter().format(record) for record in loud[:3])


def agent_templates(rng: random.Random, texts: list[str]) -> Templates:
    def known() -> str:
        return rng.choice(texts)

    def start() -> Message:
        request = agent_pb.StartRunRequest(agent_id=rng.choice(["echo", "asks"]), input=to_value({"n": [1, "x"]}))
        request.scorers.add(scorer_id="brevity", options=to_struct({"words": 3}))
        request.labels["k"] = "v"
        return request

    def answer() -> Message:
        data = run_event_pb2.Answer(request_id="suspend/name", data=to_value("me"))
        return agent_pb.ResumeRunRequest(run_id=known(), answers=[data])

    return {
        "ListAgents": [lambda: agent_pb.ListAgentsRequest(page_size=1)],
        "StartRun": [start],
        "GetRun": [lambda: agent_pb.GetRunRequest(run_id=known())],
        "ListRuns": [
            lambda: agent_pb.ListRunsRequest(page_size=2),
            lambda: agent_pb.ListRunsRequest(page_size=2, page_token=known()),
            lambda: agent_pb.ListRunsRequest(page_size=3, states=[run_pb2.RUN_STATE_SUCCEEDED], labels={"k": "v"}),
        ],
        "ListWorkers": [lambda: agent_pb.ListWorkersRequest(page_size=1, page_token=known())],
        "ListQueues": [lambda: agent_pb.ListQueuesRequest(page_size=1)],
        "WatchRun": [lambda: agent_pb.WatchRunRequest(run_id=known())],
        "ListRunEvents": [lambda: agent_pb.ListRunEventsRequest(run_id=known(), page_size=2)],
        "CancelRun": [lambda: agent_pb.CancelRunRequest(run_id=known(), reason="enough")],
        "ResumeRun": [answer],
        "DeleteRuns": [
            lambda: agent_pb.DeleteRunsRequest(run_ids=[known()]),
            lambda: agent_pb.DeleteRunsRequest(filter={"labels": {"k": "v"}}, page_size=2, cancel=True),
        ],
    }


def scorer_templates(rng: random.Random, texts: list[str]) -> Templates:
    def known() -> str:
        return rng.choice(texts)

    def ask() -> Message:
        sample = scorer_run_requested_pb2.Sample(run_id=rng.choice(["", "run-1"]), output=to_value("red"))
        sample.tool_calls.add(tool_name="look", arguments=to_value({"a": [1]}), result=to_value("x"))
        options = to_struct({"keywords": ["red"]})
        return scorer_pb.RequestScorerRunRequest(scorer_id="keyword-coverage", sample=sample, options=options)

    some = scorer_pb.ScorerRunFilter(scorer_id="keyword-coverage")
    elsewhere = port_pb.ExternalScorer(scorer_id="elsewhere", version="1")
    version = port_pb.ScorerVersion(scorer_id="elsewhere", version="1")
    return {
        "ListScorers": [lambda: scorer_pb.ListScorersRequest(page_size=2)],
        "ListScorerWorkers": [lambda: scorer_pb.ListScorerWorkersRequest(page_size=1)],
        "ListScorerQueues": [lambda: scorer_pb.ListScorerQueuesRequest(page_size=1, page_token=known())],
        "GetScorerRun": [lambda: scorer_pb.GetScorerRunRequest(scorer_run_id=known(), include_sample=True)],
        "ListScorerRuns": [lambda: scorer_pb.ListScorerRunsRequest(filter=some, page_size=2, page_token=known())],
        "WatchScorerRuns": [lambda: scorer_pb.WatchScorerRunsRequest(all_runs=True)],
        "RequestScorerRun": [ask],
        "RetryScorerRuns": [lambda: scorer_pb.RetryScorerRunsRequest(scorer_run_ids=[known()])],
        "CancelScorerRuns": [lambda: scorer_pb.CancelScorerRunsRequest(scorer_run_ids=[known()])],
        "DeleteScorerRuns": [lambda: scorer_pb.DeleteScorerRunsRequest(run_ids=[known()])],
        "PauseScorer": [lambda: scorer_pb.PauseScorerRequest(scorer_id="brevity")],
        "ResumeScorer": [lambda: scorer_pb.ResumeScorerRequest(scorer_id="keyword-coverage")],
        "GetScorerStats": [lambda: scorer_pb.GetScorerStatsRequest(scorer_id="brevity")],
        "ListScorerBudgets": [scorer_pb.ListScorerBudgetsRequest],
        "SetScorerBudget": [lambda: scorer_pb.SetScorerBudgetRequest(budget={"window": {"seconds": 60}})],
        "SubmitScore": [lambda: scorer_pb.SubmitScoreRequest(run_id=known(), scorer_id="helpful", value=1)],
        "RegisterScorer": [lambda: port_pb.RegisterScorerRequest(scorer=elsewhere)],
        "ClaimScorerRuns": [lambda: port_pb.ClaimScorerRunsRequest(worker="w", scorers=[version])],
        "ReportScorerRun": [
            lambda: port_pb.ReportScorerRunRequest(
                worker="w", scorer_run_id=known(), claim=1, scorer_version="1", score={"value": 1}
            )
        ],
    }


async def fuzz_agents(rng: random.Random, url: str, count: int, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["x"]
    async with replica(url, echo, asks) as it:
        fuzz = Fuzz(Wire(it.channel), Maker(rng, agent_templates(rng, texts), texts), AGENT_SERVICE)
        await fuzz.run(count)
        assert not fuzz.faults, fuzz.faults[:5]
        assert set(fuzz.codes) >= {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}, fuzz.codes
        runs = await every_run(it.channel)
    print(f"{dict(fuzz.codes)}, {len(runs)} runs")
    assert len(runs) > count / 200
    assert_quiet(caplog)


async def fuzz_scorers(rng: random.Random, results: str, count: int, caplog: pytest.LogCaptureFixture) -> None:
    texts = ["x"]
    async with service(results) as it, grpc.aio.insecure_channel(it.address) as channel:
        fuzz = Fuzz(Wire(channel), Maker(rng, scorer_templates(rng, texts), texts), SCORER_SERVICE)
        await fuzz.run(count)
        assert not fuzz.faults, fuzz.faults[:5]
        assert set(fuzz.codes) >= {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}, fuzz.codes
        found = await every_scorer_run(channel)
    print(f"{dict(fuzz.codes)}, {len(found)} scorer runs")
    assert len(found) > count / 200
    assert_quiet(caplog)


async def test_requests_at_random_to_agents(
    rng: random.Random, memory_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Thousands of requests over every call of AgentService, of which most are spoiled: each is answered as the
    contract says, nothing is written into the log, and every run can be listed and read."""
    await fuzz_agents(rng, memory_url, IN_SUITE, caplog)


async def test_requests_at_random_to_scorers(
    rng: random.Random, sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The same of ScorerService."""
    await fuzz_scorers(rng, sqlite_url, IN_SUITE, caplog)


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
async def test_many_requests_at_random_to_agents(
    rng: random.Random, sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten times as many, on a store on disk."""
    await fuzz_agents(rng, sqlite_url, AT_LENGTH, caplog)


@pytest.mark.fuzz
@pytest.mark.timeout(3600)
async def test_many_requests_at_random_to_scorers(
    rng: random.Random, sqlite_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten times as many."""
    await fuzz_scorers(rng, sqlite_url, AT_LENGTH, caplog)
