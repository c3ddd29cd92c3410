"""A real agent service for the session, and the command line in this process and as one of its own."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, Self

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


class Terminal:
    """A command on a terminal of its own, with somebody who types."""

    def __init__(self, *arguments: str) -> None:
        self._leader, follower = pty.openpty()
        environment = {"TERM": "dumb", "COLUMNS": "200"}
        self.process = spawn(
            *arguments, stdin=follower, stdout=follower, stderr=follower, env=environment, start_new_session=True
        )
        os.close(follower)
        self.shown = ""
        self._seen = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.wait(30)
        os.close(self._leader)

    def until(self, text: str) -> str:
        """Waits until this is shown, after what was waited for before; all until there."""
        deadline = time.monotonic() + 30
        while (found := self.shown.find(text, self._seen)) < 0:
            assert time.monotonic() < deadline, f"no {text!r} in {self.shown[self._seen :]!r}"
            if select.select([self._leader], [], [], 1.0)[0]:
                try:
                    self.shown += os.read(self._leader, 65536).decode(errors="replace")
                except OSError:
                    raise AssertionError(f"ended without {text!r}: {self.shown[self._seen :]!r}") from None
        before = self.shown[self._seen : found]
        self._seen = found + len(text)
        return before

    def read(self, seconds: float) -> None:
        """Reads what is shown next, if anything is within that time."""
        if select.select([self._leader], [], [], seconds)[0]:
            with suppress(OSError):
                self.shown += os.read(self._leader, 65536).decode(errors="replace")

    def type(self, line: str) -> None:
        os.write(self._leader, f"{line}\n".encode())

    def press_ctrl_c(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def code(self) -> int:
        """How it ends."""
        deadline = time.monotonic() + 30
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"does not end: {self.shown!r}"
            if select.select([self._leader], [], [], 0.1)[0]:
                with suppress(OSError):
                    self.shown += os.read(self._leader, 65536).decode(errors="replace")
        return self.process.returncode
