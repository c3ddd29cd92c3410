"""runwire eval as CI uses it, against both services."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent_service.agents.context import RunContext
from agent_service.agents.definition import workflow
from runwire.cli.app import run
from runwire.cli.evaluation.work import Outcome, Work
from runwire.client import AgentClient, ScorerClient
from runwire.errors import Unavailable
from tests.cli.conftest import Result, spawn
from tests.scorer.stage import service
from tests.service.replica import replica

CAPITALS = {"France": "Paris", "Peru": "Lima", "Japan": "Tokyo", "Kenya": "Nairobi", "Norway": "Oslo"}
worse = ""
"""How the agent has been made worse."""


@workflow(id="capitals")
async def capitals(ctx: RunContext, input: Any) -> str:
    """Knows some capitals."""
    if worse == "fails" and input == "Peru":
        raise RuntimeError("never heard of it")
    if worse == "asks" and input == "Peru":
        await ctx.suspend("capital", {}, answer_type=str)
    return "Atlantis" if worse == "wrong" and input in ("Peru", "Japan") else CAPITALS[input]


class Place:
    """Both services, and a dataset."""

    def __init__(self, folder: Path, agents: str, scorers: str, capfd: pytest.CaptureFixture[str]) -> None:
        self.agents, self.scorers = agents, scorers
        self.dataset = folder / "capitals.jsonl"
        lines = [{"id": name, "input": name, "expected": city} for name, city in CAPITALS.items()]
        self.dataset.write_text("".join(json.dumps(line) + "\n" for line in lines))
        self._capfd = capfd

    def command(self, *arguments: str) -> list[str]:
        common = ("--agent", "capitals", "--scorers", "equals,content-similarity")
        services = ("--agent-address", self.agents, "--scorer-address", self.scorers)
        return ["eval", str(self.dataset), *common, *arguments, *services]

    async def eval(self, *arguments: str) -> Result:
        self._capfd.readouterr()
        code = await asyncio.to_thread(run, self.command(*arguments))
        return Result(code, *self._capfd.readouterr())


@pytest.fixture
async def place(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> AsyncIterator[Place]:
    store = f"sqlite:///{tmp_path}/runs.db"
    async with (
        replica(store, capitals) as agent,
        service(f"sqlite:///{tmp_path}/scores.db", store=store) as scorer,
    ):
        yield Place(tmp_path, agent.address, scorer.address, capfd)


async def test_as_ci_uses_it(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A good agent passes its gates; the same with a planted regression fails, beside the baseline and by its runs that
    fail; the reports say where to look."""
    good = await place.eval("--label", "good", "--gate", "equals>=0.9", "--report", str(tmp_path / "good.json"))
    assert good.code == 0, good.err
    assert good.out.splitlines()[0].split("\t")[:4] == ["equals", "1.0000", "5", "0"]
    kept = json.loads((tmp_path / "good.json").read_text())
    assert (kept["passed"], len(kept["cases"])) == (True, 5)
    for kind, words in (
        ("", ""),
        ("wrong", "equals>=baseline-0.1: the mean is 0.6000"),
        ("fails", "equals>=baseline-0.1: 1 of 5 cases have no score"),
        ("asks", "equals>=baseline-0.1: 1 of 5 cases have no score"),
    ):
        monkeypatch.setattr("tests.cli.test_eval.worse", kind)
        gates = ("--gate", "equals>=baseline-0.1", "--gate", "content-similarity>=0.1")
        report = tmp_path / "report.md"
        found = await place.eval("--label", kind or "same", "--baseline", "good", *gates, "--report", str(report))
        assert found.code == bool(kind), found.err
        assert words in found.err
        text = report.read_text()
        assert f"# capitals on capitals.jsonl: {'failed' if kind else 'passed'}" in text
        assert ("never heard of it" in text) == (kind == "fails")
        assert ("cannot answer what the run asked" in text) == (kind == "asks")
        assert ("- 0.0000 `Peru`" in text) == (kind == "wrong")


async def test_an_evaluation_continues(place: Place) -> None:
    """One that is killed in the middle and given again starts nothing twice and scores nothing twice."""
    process = await asyncio.to_thread(spawn, *place.command("--label", "cut", "--concurrency", "1"))
    async with AgentClient(place.agents) as client, ScorerClient(place.scorers) as scorers:
        async with asyncio.timeout(30):
            while not [each async for each in client.list_runs(labels={"eval": "cut"})]:  # noqa: ASYNC110 - it is another process
                await asyncio.sleep(0.01)
        process.kill()
        await asyncio.to_thread(process.communicate)
        for _ in range(2):
            assert (await place.eval("--label", "cut")).code == 0
        runs = [each async for each in client.list_runs(labels={"eval": "cut"})]
        assert sorted(each.labels["eval-case"] for each in runs) == sorted(CAPITALS)
        assert len([each async for each in scorers.list_scorer_runs()]) == 2 * len(CAPITALS)


async def test_one_that_breaks_off_names_its_label(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a service goes away in the middle it is said how to continue, also if nobody had named the evaluation."""

    async def goes_away(_: Work) -> list[Outcome]:
        raise ExceptionGroup("cases", [Unavailable("it went away")])

    monkeypatch.setattr(Work, "run", goes_away)
    cut = await place.eval()
    assert cut.code == 3
    assert re.match(r"the same command with --label eval-\d{8}-\d{6} continues\n.*it went away", cut.err)


async def test_mistakes_are_told_first(place: Place) -> None:
    """In one line, with exit code 2, before any run is started."""
    fine = '{"input": 1}\n'
    for content, arguments, words in (
        ('{"input": 1}\n{"input": ', (), "bad.jsonl:2: no JSON"),
        ("[1]\n", (), "bad.jsonl:1: a case is an object"),
        ('{"input": NaN}\n', (), "holds NaN"),
        ("[" * 100_000, (), "bad.jsonl:1: no JSON"),
        ('{"id": "a", "input": 1}\n{"id": "a", "input": 2}\n', (), "two cases 'a'"),
        ('{"input": 1, "expect": 2}\n', (), "'expect' is none of"),
        ("", (), "has no cases"),
        (fine, ("--gate", "equals"), "is no gate"),
        (fine, ("--gate", "other>=1"), "is none of --scorers"),
        (fine, ("--gate", "equals>=baseline"), "there is no --baseline"),
        (fine, ("--baseline", "nothing"), "has the label 'nothing'"),
        (fine, ("--scorers", "nobody"), "no scorer 'nobody'"),
        (fine, ("--agent", "nobody"), "no agent 'nobody'"),
        (fine, ("--report", "report.txt"), "a report is a"),
        (fine, ("--report", "no/such/report.md"), "there is no folder no/such"),
    ):
        place.dataset = place.dataset.with_name("bad.jsonl")
        place.dataset.write_text(content)
        bad = await place.eval("--label", "bad", *arguments)
        assert (bad.code, len(bad.err.splitlines())) == (2, 1), bad.err
        assert words in bad.err
    async with AgentClient(place.agents) as client:
        assert not [each async for each in client.list_runs()]
