"""`runwire dev`: both services, from one command."""

from __future__ import annotations

import re
import signal
import socket
import sys
from pathlib import Path

import pytest

from runwire.cli import dev
from tests.cli.conftest import Runwire, spawn


def test_dev(tmp_path: Path, runwire: Runwire) -> None:
    """Starts both services, says what to type next, scores a run, and ends both on Ctrl-C with their data kept."""
    arguments = ["dev", "--agent-port", "0", "--scorer-port", "0", "--data", str(tmp_path / "data")]
    dev = spawn(*arguments, cwd=tmp_path)
    assert dev.stdout is not None
    said = ""
    while "Ctrl-C" not in said:
        line = dev.stdout.readline()
        assert line, f"ended early: {said}"
        said += line
    agent = re.search(r"--agent-address (\S+)", said)
    scorer = re.search(r"--scorer-address (\S+)", said)
    assert agent is not None
    assert scorer is not None
    result = runwire("--agent-address", agent[1], "start", "librarian", "What is a cursor?", "--watch", "--json")
    assert result.code == 0
    addresses = ["--agent-address", agent[1], "--scorer-address", scorer[1]]
    scores = runwire(*addresses, "scores", result.lines[0]["run"]["runId"], "--follow")
    assert "succeeded" in scores.out
    dev.send_signal(signal.SIGINT)
    _, err = dev.communicate(timeout=30)
    assert dev.returncode == 0
    assert "agent  | agent service listening on" in err
    assert "scorer | scorer service listening on" in err
    assert {"runs.db", "scores.db"} <= {path.name for path in (tmp_path / "data").iterdir()}


def test_port_in_use(tmp_path: Path) -> None:
    """A service that cannot start ends the other one too, and the command with its code."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        dev = spawn("dev", "--agent-port", port, "--scorer-port", "0", "--data", str(tmp_path), cwd=tmp_path)
        _, err = dev.communicate(timeout=60)
    assert dev.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in err


def test_unknown_agents(tmp_path: Path) -> None:
    """A module that does not import is told by the service, and is exit code 2."""
    arguments = ["--agents", "no.such.module", "--agent-port", "0", "--scorer-port", "0", "--data", str(tmp_path)]
    dev = spawn("dev", *arguments, cwd=tmp_path)
    _, err = dev.communicate(timeout=60)
    assert dev.returncode == 2
    assert "no.such.module" in err


async def test_a_line_without_end(capfd: pytest.CaptureFixture[str]) -> None:
    """A service that writes a line of megabytes is not ended for it, nor is the other one."""
    loud = dev.Service("agent", (sys.executable, "-c", "print('x' * 3_000_000); print('and goes on')"))
    assert await dev._run((loud,)) == 1  # as it ended by itself
    _, err = capfd.readouterr()
    assert "was left out" in err
    assert "agent  | and goes on" in err
