"""Watchers in other languages, from stubs made by their own tools, against the real service."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from itertools import chain, repeat
from pathlib import Path

import pytest

from runwire.client import AgentClient
from runwire.conformance.proxy import Break, Fault, FaultProxy
from tests.client.processes import ROOT, AgentProcess

# Building a client takes up to a minute, and three hundred cuts half of one.
pytestmark = [pytest.mark.polyglot, pytest.mark.timeout(900)]

CUTS = 300
FAULTS = [Fault(Break.HALF, 3), Fault(Break.OK, 4), Fault(Break.CLOSE, 2), Fault(Break.RESET, 5), Fault(Break.HALF, 0)]


@pytest.fixture(params=["node", "go", "cpp"])
def watcher(request: pytest.FixtureRequest) -> list[str]:
    """The command line of a watcher: HOST:PORT RUN [CURSOR] follow."""
    folder: Path = request.getfixturevalue(request.param)
    return ["node", str(folder / "watch.js")] if request.param == "node" else [str(folder / "watch")]


async def test_watcher(watcher: list[str], agent_service: AgentProcess) -> None:
    """The watcher prints the whole text of a live run through cuts of every kind, and exits with 0; from the cursor
    that it ends with there is nothing more."""
    faults = chain(FAULTS, repeat(Fault()))
    async with AgentClient(agent_service.address) as client:
        run = await client.start_run("ticker", {"count": 30, "interval_ms": 30, "text": "tick "})
        async with FaultProxy([agent_service.address], lambda: next(faults)).listening() as address:
            out, err, code = await execute(*watcher, address, run.run_id)
            assert (out, code) == ("tick " * 30, 0)
            cursor = err.split()[-1]
            assert await execute(*watcher, address, run.run_id, cursor) == ("", err, 0)


async def test_watcher_leaves_a_frozen_stream(watcher: list[str], agent_service: AgentProcess) -> None:
    """A stream that falls silent is left after 2.5 heartbeats (25 s), on another connection, and nothing is lost."""
    faults = chain([Fault(Break.FREEZE, 2)], repeat(Fault()))
    async with AgentClient(agent_service.address) as client:
        run = await client.start_run("ticker", {"count": 10, "interval_ms": 10, "text": "tick "})
        async with FaultProxy([agent_service.address], lambda: next(faults)).listening() as address:
            out, _, code = await execute(*watcher, address, run.run_id)
    assert (out, code) == ("tick " * 10, 0)


async def test_watcher_says_why_it_gives_up(watcher: list[str], agent_service: AgentProcess) -> None:
    """A run that does not exist, and a cursor that is none, are told by their reason and not tried again."""
    async with AgentClient(agent_service.address) as client:
        run = await client.start_run("ticker", {"count": 1})
    out, err, code = await execute(*watcher, agent_service.address, "no-such-run")
    assert (out, code) == ("", 1)
    assert "no-such-run" in err or "RUN_NOT_FOUND" in err
    out, err, code = await execute(*watcher, agent_service.address, run.run_id, "rubbish")
    assert (out, code) == ("", 1)
    assert "cursor" in err.lower()


@pytest.mark.parametrize("language", ["python", "python-sync", "node", "go"])
def test_conformance(language: str, request: pytest.FixtureRequest, agent_service: AgentProcess) -> None:
    """The conformance kit finds no fault in three hundred cuts."""
    command = [sys.executable, "-m", "runwire.cli", "conformance", "--target", agent_service.address]
    adapter = _adapter(language, request)
    done = subprocess.run(
        [*command, "--command", adapter, "--cuts", str(CUTS)], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout, done.stderr)


def _adapter(language: str, request: pytest.FixtureRequest) -> str:
    if language.startswith("python"):
        return f"{sys.executable} -m runwire.conformance.adapter {'--sync' if language.endswith('sync') else ''}"
    folder: Path = request.getfixturevalue(language)
    return f"node {folder / 'adapter.js'}" if language == "node" else str(folder / "adapter")


async def execute(*command: str) -> tuple[str, str, int]:
    """What a command printed, and its exit code."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    assert process.returncode is not None
    return out.decode(), err.decode(), process.returncode
