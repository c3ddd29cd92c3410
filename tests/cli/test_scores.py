"""The commands about scores, against both services."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from google.protobuf import json_format

from runwire.scorer.v1 import scorer_run_pb2
from tests.cli.conftest import Runwire, on_terminal
from tests.client.processes import AgentProcess, ScorerProcess
from tests.servers import free_port


@pytest.fixture(scope="module")
def scorer_service(agent_service: AgentProcess) -> Iterator[ScorerProcess]:
    """A scorer service on the store of the session's agent service."""
    with ScorerProcess(agent_service.store, scorers="tests.cli.sample_scorers") as service:
        yield service.start()


@pytest.fixture(autouse=True)
def scorer_address(scorer_service: ScorerProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNWIRE_SCORER_ADDRESS", scorer_service.address)


@pytest.fixture
def run_id(runwire: Runwire) -> str:
    """A finished run with one good and one failed score."""
    result = runwire("--json", "start", "tooled", "cursors", "--watch", "--scorer", "length", "--scorer", "grumpy")
    run_id: str = result.lines[0]["run"]["runId"]
    assert runwire("scores", run_id, "--follow").code == 0
    return run_id


def test_scores(runwire: Runwire, run_id: str) -> None:
    """Scores of a run are shown with state, value and why there is none, and as messages for machines."""
    grumpy, length = (line.split("\t") for line in runwire("scores", run_id).out.splitlines())
    assert grumpy[:4] == ["grumpy", "1", "failed", ""]
    assert "not today" in grumpy[-1]
    assert length[:5] == ["length", "2", "succeeded", "12.000", "long"]
    found = [
        json_format.ParseDict(line, scorer_run_pb2.ScorerRun()) for line in runwire("scores", run_id, "--json").lines
    ]
    assert {each.scorer_id for each in found} == {"grumpy", "length"}


def test_follow_streams(runwire: Runwire, run_id: str) -> None:
    """--follow --json prints each state as it comes, and ends when all are terminal."""
    lines = runwire("scores", run_id, "--follow", "--json").lines
    assert {line["state"] for line in lines} == {"SCORER_RUN_STATE_SUCCEEDED", "SCORER_RUN_STATE_FAILED"}


def test_json_on_a_terminal(run_id: str) -> None:
    """JSON is JSON there too: whole lines, and nothing that moves the terminal's cursor."""
    code, text = on_terminal("scores", run_id, "--follow", "--json")
    assert code == 0
    assert {json.loads(line)["scorerId"] for line in text.splitlines()} == {"grumpy", "length"}


def test_nothing_to_follow(runwire: Runwire) -> None:
    """A run that asks for no scores is not waited for."""
    run_id = runwire("start", "tooled", "x").out.strip()
    assert runwire("scores", run_id, "--follow") == runwire("scores", run_id)


def test_scorers(runwire: Runwire) -> None:
    """Scorers are listed, the built-in ones too."""
    listed = {line.split("\t")[0] for line in runwire("scorers").out.splitlines()}
    assert listed >= {"grumpy", "length", "keyword-coverage", "content-similarity"}


def test_score_after_the_fact(runwire: Runwire, run_id: str) -> None:
    """A finished run can be scored by a scorer it never asked for."""
    options = '{"keywords": ["pages"]}'
    asked = runwire("score", run_id, "--scorer", "keyword-coverage", "--options", options, "--json")
    assert asked.code == 0
    assert asked.lines[0]["runId"] == run_id
    followed = runwire("scores", run_id, "--follow")
    assert any(line.startswith("keyword-coverage\t") for line in followed.out.splitlines())


def test_redrive(runwire: Runwire, run_id: str) -> None:
    """Failed scorer runs are counted by a dry run and then tried again."""
    assert runwire("redrive", "--run", run_id, "--state", "failed", "--dry-run").out.startswith(
        "1 scorer runs would be"
    )
    assert runwire("redrive", "--run", run_id, "--state", "failed").out.startswith("1 scorer runs are")
    runwire("scores", run_id, "--follow")
    again = next(line for line in runwire("scores", run_id, "--json").lines if line["scorerId"] == "grumpy")
    assert len(again["attempts"]) == 2


def test_redrive_on_a_terminal(run_id: str) -> None:
    """There is a bar while it continues, and then one line."""
    code, shown = on_terminal("redrive", "--run", run_id, "--state", "failed")
    assert code == 0
    assert "1/1" in shown
    assert "1 scorer runs are redriven" in shown


def test_cancel_scores(runwire: Runwire, run_id: str) -> None:
    """What waits is counted, and then cancelled; what has ended is left alone."""
    runwire("pause", "grumpy")
    try:
        runwire("redrive", "--run", run_id, "--state", "failed")
        wanted = ("cancel-scores", "--run", run_id, "--scorer", "grumpy")
        assert runwire(*wanted, "--dry-run").out == "1 scorer runs would be cancelled\n"
        assert runwire(*wanted).out == "1 scorer runs are cancelled\n"
        assert runwire(*wanted, "--json").lines == [{}]
    finally:
        runwire("unpause", "grumpy")


def test_pause_and_stats(runwire: Runwire, run_id: str) -> None:
    """A paused scorer is shown as such, and works again after unpause."""
    assert runwire("pause", "grumpy").out == "grumpy is paused\n"
    assert "grumpy (paused)" in runwire("stats").out
    assert runwire("unpause", "grumpy").out == "grumpy is working\n"
    stats = runwire("stats", "length", "--since", "1h", "--json").lines
    assert [each["scorerId"] for each in stats] == ["length"]
    assert int(stats[0]["scored"]) >= 1


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["score", "RUN", "--scorer", "nobody"], "nobody"),
        (["score", "RUN", "--scorer", "length", "--options", "[1]"], "must be a JSON object"),
        (["score", "RUN", "--scorer", "length", "--options", '{"a": NaN}'], "--options holds NaN"),
        (["score", "RUN", "--scorer", "length", "--options", '{"a": 99999999999999999999}'], "beyond 2^53"),
        (["score", "RUN", "--scorer", "length", "--ground-truth", "99999999999999999999"], "beyond 2^53"),
        (["score", "nothing", "--scorer", "length"], "nothing"),
        (["scores", "nothing", "--follow"], "nothing"),
        (["redrive"], "name scorer runs, or select them"),
        (["redrive", "a", "--run", "b"], "name scorer runs, or select them"),
        (["cancel-scores"], "name scorer runs, or select them"),
        (["redrive", "--state", "asleep"], "'asleep' is no state"),
        (["pause", "nobody"], "nobody"),
    ],
)
def test_bad_input(runwire: Runwire, run_id: str, arguments: list[str], text: str) -> None:
    """Whatever the user got wrong is one line and exit code 2."""
    result = runwire(*(run_id if each == "RUN" else each for each in arguments))
    assert result.code == 2
    assert result.err.count("\n") == 1
    assert text in result.err


def test_unreachable(runwire: Runwire) -> None:
    """The service that cannot be reached is named."""
    address = f"127.0.0.1:{free_port()}"
    for command in (["scorers"], ["scores", "x"], ["scores", "x", "--follow"], ["stats"]):
        result = runwire("--scorer-address", address, *command)
        assert result.code == 3
        assert f"cannot reach the scorer service at {address}" in result.err
