"""runwire chat, against a real agent service."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.cli.conftest import Runwire, spawn
from tests.client.processes import AgentProcess


def chat(address: str, said: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Pipes lines into the command."""
    process = spawn("chat", *arguments, "--agent-address", address, stdin=subprocess.PIPE)
    out, err = process.communicate(said, timeout=30)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def test_a_conversation_through_a_pipe(agent_service: AgentProcess, runwire: Runwire) -> None:
    """Each line is a message and answered on stdout; what is left continues later, and /end ends it."""
    first = chat(agent_service.address, "a\nb\n", "collector")
    assert (first.returncode, first.stdout) == (0, "heard a\nheard b\n"), first.stderr
    run_id = first.stderr.split("--run ")[1].split()[0]
    then = chat(agent_service.address, "c\n/turns\n/nonsense\n/end\n", "--run", run_id)
    assert (then.returncode, then.stdout) == (0, "heard c\n"), then.stderr
    assert "3 succeeded: c" in then.stderr
    assert "/cancel ends it at once" in then.stderr
    assert "--run" not in then.stderr
    assert runwire("watch", run_id).out.endswith('[\n  "a",\n  "b",\n  "c"\n]\n')


def test_a_turn_that_fails(agent_service: AgentProcess) -> None:
    """It is told in a line, and the exit code says so."""
    failed = chat(agent_service.address, "x\n", "broken")
    assert failed.returncode == 1
    assert "agent_error: no luck today" in failed.stderr


def test_an_answer_that_nobody_can_give(agent_service: AgentProcess) -> None:
    """Through a pipe nobody is asked: the command says what to do, and leaves the conversation as it is."""
    asked = chat(agent_service.address, "why\n", "asker")
    assert asked.returncode == 1
    assert "answer with: runwire resume" in asked.stderr


@pytest.mark.parametrize("arguments", [(), ("nobody",), ("--run", "nothing"), ("collector", "--run", "x")])
def test_mistakes_are_told_first(runwire: Runwire, arguments: tuple[str, ...]) -> None:
    """In one line, with exit code 2, before anything is read."""
    result = runwire("chat", *arguments)
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert sys.stdin is not None
