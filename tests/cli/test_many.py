"""runs, cancel, retry and delete of many, against a real agent service."""

from __future__ import annotations

import os
import pty
import select
import time
import uuid
from contextlib import nullcontext

import pytest

from runwire.agent.v1 import run_pb2
from runwire.cli.app import run
from runwire.cli.session import Session
from runwire.errors import PreconditionFailed
from tests.cli.conftest import Runwire, spawn
from tests.client.processes import AgentProcess


@pytest.fixture
def label() -> str:
    """Of the runs of one test, as the service is that of all."""
    return f"test={uuid.uuid4().hex}"


def ids(runwire: Runwire, label: str, *more: str) -> list[str]:
    return [line.split("\t")[0] for line in runwire("runs", "--label", label, *more).out.splitlines()]


def start(runwire: Runwire, agent: str, label: str, *more: str) -> str:
    return runwire("start", agent, "x", "--label", label, *more).out.strip().splitlines()[-1]


def test_runs_are_sorted_and_counted(runwire: Runwire, label: str) -> None:
    """The oldest first, the longest first, by age, and how many there are in each state."""
    found = [start(runwire, "sleeper", label) for _ in range(3)]
    runwire("start", "broken", "x", "--label", label, "--watch")
    assert set(ids(runwire, label)) > set(found)
    assert ids(runwire, label, "--sort", "oldest", "--limit", "2") == found[:2]
    assert ids(runwire, label, "--sort", "longest", "--limit", "1") == found[:1]
    assert ids(runwire, label, "--older-than", "1d") == []
    assert len(ids(runwire, label, "--since", "1d")) == 4
    counts = runwire("runs", "--label", label, "--counts").out.splitlines()
    assert {"suspended\t3", "failed\t1", "all\t4"} == set(counts)
    assert runwire("runs", "--label", label, "--counts", "--json").lines == [{"suspended": 3, "failed": 1}]


def test_many_are_cancelled(runwire: Runwire, label: str) -> None:
    """A dry run says how many it would be and changes nothing; then all that fit, and no others, are asked to stop."""
    first, second = start(runwire, "sleeper", label), start(runwire, "sleeper", label)
    other = start(runwire, "sleeper", "test=other")
    dry = runwire("cancel", "--label", label, "--dry-run")
    assert (dry.code, dry.out) == (0, "2 runs would be asked to stop\n")
    assert '"cancelRequested"' not in runwire("show", first, "--json").out
    done = runwire("cancel", "--label", label, "--agent", "sleeper", "--reason", "enough")
    assert (done.code, done.out) == (0, "2 runs are asked to stop\n")
    for run_id in (first, second):
        runwire("watch", run_id)
    assert len(ids(runwire, label, "--state", "cancelled")) == 2
    assert "suspended" in runwire("show", other).out
    assert runwire("cancel", "--label", label).out == "0 runs are asked to stop\n"
    runwire("cancel", other)


def test_many_are_retried_once(runwire: Runwire, label: str) -> None:
    """All that failed are continued in new runs, and the same command again starts none."""
    failed = {
        runwire("start", "broken", "x", "--label", label, "--watch").err.splitlines()[0].split()[-1] for _ in "ab"
    }
    assert runwire("retry", "--label", label, "--state", "failed", "--dry-run").out == "2 runs would be retried\n"
    assert len(ids(runwire, label)) == 2
    again = runwire("retry", "--label", label, "--json")
    assert again.code == 0
    new = {line["runId"] for line in again.lines}
    assert {line["forkedFrom"] for line in again.lines} == failed
    for run_id in new:
        runwire("watch", run_id)
    runwire("retry", "--label", label, "--older-than", "0s", "--agent", "broken")
    assert set(ids(runwire, label)) >= failed | new


class Refusing:
    """An agent service that has two runs, and refuses whatever is to be done with one of them."""

    def list_runs(self, **_: object) -> list[run_pb2.Run]:
        return [run_pb2.Run(run_id="may"), run_pb2.Run(run_id="may-not")]

    def cancel_run(self, run_id: str, **_: object) -> run_pb2.Run:
        if run_id == "may-not":
            raise PreconditionFailed("not this one")
        return run_pb2.Run(run_id=run_id)

    fork_run = cancel_run


@pytest.mark.parametrize("command", ["cancel", "retry"])
def test_what_was_refused_is_no_success(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A script learns that some of many runs were refused; the others are done all the same."""
    monkeypatch.setattr(Session, "asking_agents", lambda _: nullcontext(Refusing()))
    assert run([command, "--all"]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("1 runs are ")
    assert said.err == "may-not: not this one\n"


def test_ended_runs_are_deleted(runwire: Runwire, label: str) -> None:
    """Those that fit are gone; those that have not ended only with --cancel."""
    done = runwire("start", "anything", "x", "--label", label, "--watch").err.splitlines()[0].split()[-1]
    waits = start(runwire, "sleeper", label)
    dry = runwire("delete", "--label", label, "--keep-scores", "--dry-run")
    assert dry.out == "1 runs and 0 scorer runs would be deleted\n"
    assert "1 runs have not ended" in dry.err
    assert runwire("delete", "--label", label, "--keep-scores").out == "1 runs and 0 scorer runs are deleted\n"
    assert runwire("show", done).code == 2
    assert ids(runwire, label) == [waits]
    assert runwire("delete", waits, "--keep-scores", "--cancel").out == "1 runs and 0 scorer runs are deleted\n"
    assert ids(runwire, label) == []


@pytest.mark.parametrize("command", ["cancel", "retry", "delete"])
@pytest.mark.parametrize("arguments", [(), ("RUN", "--agent", "x"), ("RUN", "--all"), ("--all", "--agent", "x")])
def test_nothing_selects_everything_by_mistake(runwire: Runwire, command: str, arguments: tuple[str, ...]) -> None:
    """Without a run or an option, or with both, a command does nothing and says so in one line."""
    result = runwire(command, *arguments)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1


def test_start_that_waits_ends_with_its_own_code_in_a_pipe(runwire: Runwire) -> None:
    """Where nobody can be asked, start --watch says what the run waits for and exits with 5; the run is as it was."""
    result = runwire("start", "asker", "why", "--watch")
    assert result.code == 5
    run_id = result.err.splitlines()[0].split()[-1]
    assert f"answer with: runwire resume {run_id}" in result.err
    assert "suspended" in runwire("show", run_id).out
    runwire("cancel", run_id)


def test_start_asks_on_a_terminal(agent_service: AgentProcess) -> None:
    """Where somebody is there, start --watch asks what the run waits for, gives the answer, and follows to the end."""
    leader, follower = pty.openpty()
    environment = {"TERM": "xterm-256color", "COLUMNS": "100", "RUNWIRE_AGENT_ADDRESS": agent_service.address}
    process = spawn(
        "start", "asker", "why", "--watch", stdout=follower, stderr=follower, stdin=follower, env=environment
    )
    os.close(follower)
    shown, deadline = b"", time.monotonic() + 30
    while b'{"why": "why"}: ' not in shown and time.monotonic() < deadline:
        if select.select([leader], [], [], 0.1)[0]:
            shown += os.read(leader, 65536)
    os.write(leader, b"Ada\n")
    try:
        while data := os.read(leader, 65536):
            shown += data
    except OSError:
        pass
    os.close(leader)
    assert process.wait(20) == 0, shown
    assert b"hello Ada" in shown
    assert b"succeeded" in shown
