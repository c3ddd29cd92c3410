"""A real agent service for the session, and the command line in this process and as one of its own."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import pytest

from runwire.cli.app import run
from tests.client.processes import ROOT, AgentProcess


@dataclass
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


class Runwire(Protocol):
    """Executes one command line in this process."""

    def __call__(self, *arguments: str) -> Result: ...


@pytest.fixture(scope="session")
def agent_service() -> Iterator[AgentProcess]:
    """An agent service with the demonstration agents and those of sample_agents."""
    with AgentProcess("agent_service.demo.ticker,tests.cli.sample_agents") as service:
        yield service.start()


@pytest.fixture
def runwire(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, agent_service: AgentProcess) -> Runwire:
    monkeypatch.setenv("RUNWIRE_AGENT_ADDRESS", agent_service.address)

    def execute(*arguments: str) -> Result:
        capfd.readouterr()
        code = run(arguments)
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return execute


def spawn(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """The command as a process, with pipes."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **options.pop("env", {})}
    return subprocess.Popen(
        [sys.executable, "-m", "runwire.cli", *arguments],
        env=environment,
        text=True,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **options},
    )


def on_terminal(*arguments: str) -> tuple[int, str]:
    """The exit code of a command on a terminal of 100 columns, and what that showed."""
    leader, follower = pty.openpty()
    environment = {"TERM": "xterm-256color", "COLUMNS": "100"}
    process = spawn(*arguments, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    shown = b""
    try:
        while data := os.read(leader, 65536):
            shown += data
    except OSError:
        pass  # how Linux says that the other side of a terminal was closed
    finally:
        os.close(leader)
    return process.wait(30), shown.decode()
