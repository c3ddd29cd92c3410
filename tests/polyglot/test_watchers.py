"""Watchers in other languages, from stubs made by their own tools, against the real service."""

from __future__ import annotations

import asyncio
import math
import subprocess
import sys
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from agent_service.agents.context import RunContext
from agent_service.agents.definition import workflow
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.client import AgentClient
from runwire.conformance.proxy import Break, Fault, FaultProxy
from runwire.values import carry_value, from_value, to_value
from tests.client.processes import ROOT, AgentProcess
from tests.client.test_unreadable import raw, too_deep
from tests.identity.secured import Secured
from tests.service.replica import replica

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


async def test_a_conversation_in_node(node: Path) -> None:
    """Each line is a message that is accepted once, and the answers come in order, through cuts of every kind."""
    faults = chain([Fault(), Fault(Break.HALF, 2), Fault(Break.RESET, 3), Fault(Break.CLOSE, 1)], repeat(Fault()))
    with AgentProcess("tests.cli.sample_agents") as service:
        service.start()
        async with FaultProxy([service.address], lambda: next(faults)).listening() as address:
            chat = await asyncio.create_subprocess_exec(
                "node",
                str(node / "chat.js"),
                address,
                "collector",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, err = await asyncio.wait_for(chat.communicate(b"a\nb\nc\n"), 60)
        assert (out, chat.returncode) == (b"heard a\nheard b\nheard c\n", 0), err
        async with AgentClient(service.address) as client:
            turns = [turn async for turn in client.list_turns(err.decode().split()[-1])]
    assert [from_value(turn.message) for turn in turns] == ["a", "b", "c"]


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


@pytest.mark.parametrize("language", ["python", "node"])
def test_conformance_over_tls(language: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """The same over TLS and with a token, which all of them need: the kit ends TLS itself, and the client trusts it."""
    secured = Secured(tmp_path)
    with secured.service as service:
        service.start()
        command = [sys.executable, "-m", "runwire.cli", "conformance", "--target", service.address, *secured.options]
        command += ["--tenant", secured.tenant]
        adapter = _adapter(language, request)
        done = subprocess.run(
            [*command, "--command", adapter, "--cuts", str(CUTS)], cwd=ROOT, capture_output=True, text=True, timeout=600
        )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout, done.stderr)


async def test_watcher_over_tls(node: Path, tmp_path: Path) -> None:
    """Node reads a run to its end over TLS with a token; without the token it is refused by its reason."""
    secured = Secured(tmp_path)
    watch = ["node", str(node / "watch.js")]
    with secured.service as service:
        service.start()
        async with AgentClient(service.address, **secured.access.arguments()) as client:
            run = await client.start_run("ticker", {"count": 10, "interval_ms": 5, "text": "tick "})
        told = [f"RUNWIRE_CA={secured.access.ca}"]
        out, err, code = await execute("env", *told, *watch, service.address, run.run_id)
        assert (out, code) == ("", 1)
        assert "TOKEN_MISSING" in err
        told.append(f"RUNWIRE_TOKEN_FILE={secured.access.token_file}")
        out, err, code = await execute("env", *told, *watch, service.address, run.run_id)
        assert (out, code) == ("tick " * 10, 0), err


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


@workflow(id="odd")
async def odd(ctx: RunContext, input: Any) -> Any:
    """Emits, in every kind of event that an agent can, what is hard to carry."""
    deep: Any = "end"
    for _ in range(50):
        deep = {"a": [deep]}
    hard = {"deep": deep, "id": 2**63, "nan": math.nan, "half": "\ud83d", "bytes": b"\xff", "large": "x" * 500_000}

    async def say() -> None:
        await ctx.emit_text("half \ud83d")

    await ctx.step("say", say)
    await ctx.emit(run_event_pb2.ReasoningDelta(text="why"))
    await ctx.emit_custom("odd", hard)
    arguments, result = carry_value(hard), carry_value([hard])
    await ctx.emit(run_event_pb2.ToolCallStarted(tool_call_id="t", tool_name="look", arguments=arguments))
    await ctx.emit(run_event_pb2.ToolCallFinished(tool_call_id="t", tool_name="look", result=result, outcome=1))
    answer = await ctx.suspend("q", hard)
    return {"answer": answer, "hard": hard}


async def test_every_payload_is_read_back(watcher: list[str], tmp_path: Path) -> None:
    """A run whose input and answer are as deep as is taken, and whose events hold what is hard to carry, is read to its
    end by the watcher: no frame is beyond what its protobuf reads."""
    deepest: Any = "end"
    for _ in range(30):
        deepest = {"a": deepest}
    async with replica(f"sqlite:///{tmp_path}/runs.db", odd) as it:
        run = await it.start("odd", deepest)
        await it.suspended(run.run_id)
        await it.resume(run.run_id, run_event_pb2.Answer(request_id="suspend/q", data=to_value(deepest)))
        done = await it.ended(run.run_id)
        assert done.state == run_pb2.RUN_STATE_SUCCEEDED, done.error
        out, err, code = await execute(*watcher, it.address, run.run_id)
    assert (out, code) == ("half \ufffd", 0), err


@pytest.mark.parametrize("bad", [too_deep(), b"\xff\xff"], ids=["too deep", "damaged"])
async def test_watcher_says_that_a_frame_cannot_be_read(watcher: list[str], bad: bytes) -> None:
    """A frame that does not parse is told by its reason, and not asked for again and again. A watcher whose protobuf
    has no limit reads what is only deep."""
    event = run_event_pb2.RunEvent(sequence=1, attempt=1, run_started=run_event_pb2.RunStarted(run_id="run-1"))
    first = pb.WatchRunResponse(cursor="after-1", batch=pb.Batch(events=[event])).SerializeToString()
    last = pb.WatchRunResponse(ended=pb.Ended(state=run_pb2.RUN_STATE_SUCCEEDED, last_sequence=2))
    opened: list[int] = []
    async with raw([first, bad, last.SerializeToString()], opened) as address:
        _, err, code = await execute(*watcher, address, "run-1")
    if code != 0 or bad == b"\xff\xff":
        assert (code, len(opened)) == (1, 1), err
        assert "FRAME_UNREADABLE" in err
