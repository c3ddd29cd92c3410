"""`runwire dev`: both services and the gateway, from one command."""

from __future__ import annotations

import re
import signal
import socket
import sys
from pathlib import Path
from typing import IO

import httpx
import pytest

from runwire.cli import dev
from runwire.cli.reload import SourceWatch
from runwire.client import sync
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


WAITING = """
import asyncio, pathlib
from agent_service import workflow

async def first() -> str:
    return "VERSION"

@workflow(id="waiting")
async def waiting(ctx, input: str) -> str:
    done = await ctx.step("first", first)
    await ctx.emit_text("VERSION")
    while not pathlib.Path(input).exists():
        await asyncio.sleep(0.02)
    return f"{done}, then VERSION"
"""


def test_reload(tmp_path: Path, runwire: Runwire) -> None:
    """Code that is changed is served at once, at the same address; code that is broken is told and waited for; a run
    under way continues in the new code, and what it has done is not done again."""
    module = tmp_path / "my_agents.py"
    module.write_text(WAITING.replace("VERSION", "old"))
    ports = ["--agent-port", "0", "--scorer-port", "0", "--no-gateway"]
    dev = spawn("dev", "--reload", *ports, "--agents", "my_agents", "--data", str(tmp_path / "data"), cwd=tmp_path)
    assert dev.stderr is not None
    try:
        address = said_in(dev.stderr, r"agent service listening on (\S+)")
        run_id = runwire("--agent-address", address, "start", "waiting", str(tmp_path / "go")).out.strip()
        assert "old" in said_by(runwire, address, run_id)
        module.write_text("this is no Python")
        said_in(dev.stderr, r"agent   \| (waits for a change)")
        module.write_text(WAITING.replace("VERSION", "new"))
        assert said_in(dev.stderr, r"agent service listening on (\S+)") == address
        (tmp_path / "go").touch()
        assert "old, then new" in runwire("--agent-address", address, "watch", run_id).out
    finally:
        dev.send_signal(signal.SIGINT)
        dev.communicate(timeout=30)
    assert dev.returncode == 0


def said_in(lines: IO[str], pattern: str) -> str:
    """The next line that matches."""
    for line in lines:
        if match := re.search(pattern, line):
            return match[1]
    raise AssertionError(f"it ended and did not say {pattern!r}")


def said_by(runwire: Runwire, address: str, run_id: str) -> str:
    """The text of a run that has said something."""
    with sync.AgentClient(address) as client, client.watch(run_id) as stream:
        return next(event.text_delta.text for event in stream if event.HasField("text_delta"))


def test_own_agents_are_named_by_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    """With agents of one's own no agent is proposed that is not there."""
    dev._say_what_next({"agent": "127.0.0.1:5", "scorer": "127.0.0.1:6"}, dev._EXAMPLES_OF_OWN)
    out, _ = capfd.readouterr()
    assert "runwire chat AGENT --agent-address 127.0.0.1:5" in out
    assert "librarian" not in out


async def test_changes_are_noticed(tmp_path: Path) -> None:
    """Files that are written, come or go are noticed; what is no code of this folder's is not looked at."""
    (tmp_path / "a.py").write_text("1")
    for folder in (".venv", "node_modules", "package"):
        (tmp_path / folder).mkdir()
    watch = SourceWatch(tmp_path, look_seconds=0.001)
    (tmp_path / ".venv" / "b.py").write_text("1")
    (tmp_path / "node_modules" / "b.py").write_text("1")
    (tmp_path / "notes.txt").write_text("1")
    (tmp_path / "a.py").write_text("22")
    assert await watch.changed() == str(tmp_path / "a.py")
    (tmp_path / "package" / "c.py").write_text("1")
    assert await watch.changed() == str(tmp_path / "package" / "c.py")
    (tmp_path / "package" / "c.py").unlink()
    assert await watch.changed() == str(tmp_path / "package" / "c.py")
