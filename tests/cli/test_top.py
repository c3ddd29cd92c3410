"""runwire top: what it shows of both services, in a pipe and on a terminal."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import time

from google.protobuf.duration_pb2 import Duration
from rich.console import Console

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import run_pb2
from runwire.cli import top
from runwire.times import timestamp
from tests.cli.conftest import Runwire, spawn
from tests.client.processes import AgentProcess

NOW = 1_800_000_000.0


def snapshot() -> top.Snapshot:
    agents = [pb.WorkerAgent(agent_id="ship", version="2", running=1)]
    version = pb.RunQueueVersion(version="1", due=2, oldest_due_age=Duration(seconds=70))
    return top.Snapshot(
        NOW,
        workers=[pb.Worker(worker="w1", running=1, room=9, agents=agents, seen_time=timestamp(NOW))],
        queues=[pb.RunQueue(agent_id="ship", due=2, running=1, workers=1, versions=["2"], by_version=[version])],
        runs=[
            run_pb2.Run(
                run_id="old", agent_id="ship", state=4, create_time=timestamp(NOW - 9), end_time=timestamp(NOW)
            ),
            run_pb2.Run(run_id="now", agent_id="ship", state=2, attempt=1, create_time=timestamp(NOW - 5)),
        ],
        problems=["the scorer service says no"],
    )


def test_the_screen() -> None:
    """Who works, what waits, what is executed, and first of all what somebody should look at."""
    console = Console(width=120, file=io.StringIO(), color_system=None)
    console.print(top.render(snapshot()))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    lines = shown.splitlines()
    assert lines[0].startswith("1 workers, 1 runs executed, 2 due;")
    assert "! the scorer service says no" in lines[1:4]
    assert "! nobody can do 2 runs of agent 'ship' version '1'" in lines[1:4]
    assert shown.index("now ") < shown.index("old "), "what is executed comes first"


def test_in_a_pipe(runwire: Runwire) -> None:
    """It looks once, writes plain lines with tabs, and exits with 0 where nothing waits for nobody."""
    result = runwire("top")
    sections = {line.split("\t")[0] for line in result.out.splitlines()}
    assert {"summary", "workers", "queues"} <= sections
    assert "\x1b" not in result.out
    assert result.code == (1 if "alarm" in sections else 0)


def test_on_a_terminal(agent_service: AgentProcess) -> None:
    """It draws the screen again and again, and Ctrl-C ends it with 0."""
    leader, follower = pty.openpty()
    environment = {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}
    environment["RUNWIRE_AGENT_ADDRESS"] = agent_service.address
    process = spawn("top", "--every", "200ms", stdout=follower, stderr=follower, stdin=follower, env=environment)
    os.close(follower)
    shown, deadline = b"", time.monotonic() + 30
    while shown.count(b"workers") < 4 and time.monotonic() < deadline:
        if select.select([leader], [], [], 0.1)[0]:
            shown += os.read(leader, 65536)
    process.send_signal(signal.SIGINT)
    try:
        while os.read(leader, 65536):
            pass
    except OSError:
        pass
    assert process.wait(20) == 0
    os.close(leader)
    assert b"QUEUE" in shown
