"""`runwire dev`: both services and the gateway, from one command."""

from __future__ import annotations

import re
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest

from runwire.cli import dev
from tests.cli.conftest import Runwire, spawn


def test_dev(tmp_path: Path, runwire: Runwire) -> None:
    """Starts all, says what to type and to look at next, scores a run, and ends all on Ctrl-C with the data kept."""
    ports = ["--agent-port", "0", "--scorer-port", "0", "--gateway-port", "0"]
    arguments = ["dev", *ports, "--data", str(tmp_path / "data")]
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
    page = re.search(r"Look at (\S+) in a browser", said)
    assert page is not None
    assert "librarian" in httpx.get(f"{page[1]}/runs").text
    dev.send_signal(signal.SIGINT)
    _, err = dev.communicate(timeout=30)
    assert dev.returncode == 0
    assert "agent   | agent service listening on" in err
    assert "scorer  | scorer service listening on" in err
    assert {"runs.db", "scores.db"} <= {path.name for path in (tmp_path / "data").iterdir()}


def test_port_in_use(tmp_path: Path) -> None:
    """A service that cannot start ends the other one too, and the command with its code."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        dev = spawn(
            "dev", "--no-gateway", "--agent-port", port, "--scorer-port", "0", "--data", str(tmp_path), cwd=tmp_path
        )
        _, err = dev.communicate(timeout=60)
    assert dev.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}" in err


def test_unknown_agents(tmp_path: Path) -> None:
    """A module that does not import is told by the service, and is exit code 2."""
    arguments = ["--agents", "no.such.module", "--agent-port", "0", "--scorer-port", "0", "--data", str(tmp_path)]
    dev = spawn("dev", "--no-gateway", *arguments, cwd=tmp_path)
    _, err = dev.communicate(timeout=60)
    assert dev.returncode == 2
    assert "no.such.module" in err


async def test_a_line_without_end(capfd: pytest.CaptureFixture[str]) -> None:
    """A service that writes a line of megabytes is not ended for it, nor is the other one."""
    loud = dev.Service("agent", (sys.executable, "-c", "print('x' * 3_000_000); print('and continues')"))
    assert await dev._Development((loud,), None).run() == 1  # as it ended by itself
    _, err = capfd.readouterr()
    assert "was left out" in err
    assert "agent   | and continues" in err
