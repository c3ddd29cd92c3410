"""runwire chat, against a real agent service."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Runwire, Terminal, spawn
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


def run_of(terminal: Terminal) -> str:
    """The conversation that was left."""
    terminal.until("chat --run ")
    assert terminal.code() in (0, 130)
    return terminal.shown[terminal.shown.rindex("chat --run ") + 11 :].split()[0]


def test_approvals_on_a_terminal(agent_service: AgentProcess) -> None:
    """Whoever sits there is asked, and may say no and why; the answer continues from there."""
    with Terminal("chat", "janitor", "--agent-address", agent_service.address) as terminal:
        terminal.until("> ")
        terminal.type("delete all")
        terminal.until('approve delete {"what": "all"}?')
        terminal.type("not today")
        terminal.until("so: not today; told delete all")
        terminal.until("> ")
        terminal.type("delete one")
        terminal.until('approve delete {"what": "one"}?')
        terminal.type("y")
        terminal.until("so: deleted one; told delete all, delete one")
        terminal.until("> ")
        terminal.type("/history")
        assert "delete all" in terminal.until("so: not today; told delete all")
        terminal.until("> delete one")
        terminal.until("so: deleted one")
        terminal.until("> ")
        terminal.type("/cancel")
        assert terminal.code() == 0


def test_a_conversation_is_forked_on_a_terminal(agent_service: AgentProcess) -> None:
    """/fork continues in a copy, with all turns or with those before one, and says how to come back to the other."""
    with Terminal("chat", "janitor", "--agent-address", agent_service.address) as terminal:
        for word in ("one", "two"):
            terminal.until("> ")
            terminal.type(word)
        terminal.until("told one, two")
        terminal.until("> ")
        terminal.type("/fork 2")
        terminal.until("the other continues with: runwire chat --run ")
        first = terminal.until("> ").split()[0]
        terminal.type("zwei")
        terminal.until("told one, zwei")
        terminal.until("> ")
        terminal.type("/fork")
        terminal.until("> ")
        terminal.type("three")
        terminal.until("told one, zwei, three")
        for wrong, said in (("/fork x", "number of a turn"), ("/fork 9", "3 turns that are done")):
            terminal.until("> ")
            terminal.type(wrong)
            terminal.until(said)
        terminal.until("> ")
        terminal.type("/end")
        assert terminal.code() == 0
    then = chat(agent_service.address, "three\n", "--run", first)
    assert "told one, two, three" in then.stdout


def test_whoever_comes_back_is_shown_the_answer_under_way(agent_service: AgentProcess, tmp_path: Path) -> None:
    """Ctrl-C in the middle of an answer, or of a question, leaves the conversation as it is; --run shows the answer
    from its beginning, and asks again what is still to be answered."""
    with Terminal("chat", "janitor", "--agent-address", agent_service.address) as terminal:
        terminal.until("> ")
        terminal.type(f"count {tmp_path / 'on'}")
        terminal.until("0 1 2 3 4 ")
        terminal.press_ctrl_c()
        run_id = run_of(terminal)
        assert terminal.process.returncode == 130
    with Terminal("chat", "--run", run_id, "--agent-address", agent_service.address) as terminal:
        terminal.until("0 1 2 3 4 ")
        (tmp_path / "on").touch()
        terminal.until("5 6 7 8 9 ")
        terminal.until("> ")
        terminal.type("delete it")
        terminal.until("approve delete")
        asked = len(terminal.shown)
        # Of a signal between the prompt and the wait for a key readline sees nothing until the next one: press again.
        while "chat --run " not in terminal.shown[asked:]:
            terminal.press_ctrl_c()
            terminal.read(1.0)
        assert run_of(terminal) == run_id
    with Terminal("chat", "--run", run_id, "--agent-address", agent_service.address) as terminal:
        terminal.until("approve delete")
        terminal.type("y")
        terminal.until("so: deleted it")
        terminal.until("> ")
        terminal.type("/end")
        assert terminal.code() == 0


@pytest.mark.chaos
def test_an_answer_through_a_cut(tmp_path: Path) -> None:
    """The service dies in the middle of an answer and comes back: the rest is shown, each word once."""
    with (
        AgentProcess("tests.cli.sample_agents", lease_seconds="1").start() as service,
        Terminal("chat", "janitor", "--agent-address", service.address) as terminal,
    ):
        terminal.until("> ")
        terminal.type("hello")
        terminal.until("told hello")
        terminal.until("> ")
        terminal.type(f"count {tmp_path / 'on'}")
        terminal.until("0 1 2 3 4 ")
        service.kill()
        (tmp_path / "on").touch()
        service.start()
        terminal.until("0 1 2 3 4 5 6 7 8 9 ")
        terminal.until("> ")
        terminal.type("there?")
        terminal.until("there?; told hello, count")
        terminal.type("/end")
        assert terminal.code() == 0


def test_forks_from_the_command_line(agent_service: AgentProcess, runwire: Runwire) -> None:
    """At a step or a turn, with another message; where it came from is shown; mistakes are one line."""
    failed = runwire("start", "broken", "x", "--watch")
    assert failed.code == 1
    done = runwire("start", "janitor", "one", "--watch")
    run_id = done.err.split("run ")[1].split()[0]
    assert runwire("retry", run_id).code == 2
    assert runwire("fork", run_id).code == 2
    other = runwire("fork", run_id, "--step", "1", "--message", "two")
    assert other.code == 0, other.err
    assert runwire("watch", other.out.strip()).out.startswith("so: two; told two")
    assert f"{run_id} at step 1, after event 1" in runwire("show", other.out.strip()).out
    first = chat(agent_service.address, "a\nb\n", "janitor").stderr.split("--run ")[1].split()[0]
    fork = runwire("fork", first, "--turn", "2", "--message", "c").out.strip()
    then = chat(agent_service.address, "d\n", "--run", fork)
    assert then.stdout.endswith("so: d; told a, c, d\n")
    assert f"{first} at turn 2" in runwire("show", fork).out
    for arguments in ((run_id, "--turn", "1"), (run_id, "--step", "9"), (first, "--turn", "2", "--step", "1")):
        result = runwire("fork", *arguments)
        assert (result.code, len(result.err.splitlines())) == (2, 1), result.err
