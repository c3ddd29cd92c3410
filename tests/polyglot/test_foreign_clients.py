"""Clients of other protocols, unmodified, in Node: what they show through cuts is the run."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.processes import AgentProcess
from tests.gateway.conftest import GatewayProcess
from tests.polyglot.conftest import install
from tests.servers import missing

pytestmark = [pytest.mark.polyglot, pytest.mark.timeout(300)]

FOLDER = Path(__file__).parent / "foreign"
COUNT = 200
INPUT = json.dumps({"count": COUNT, "interval_ms": 5})


@pytest.fixture(scope="module")
def clients() -> Path:
    """The folder with the clients, installed."""
    for name in ("node", "npm"):
        if shutil.which(name) is None:
            missing(name, "not on PATH")
    install(FOLDER)
    return FOLDER


@pytest.fixture(scope="module")
def gateway(agent_service: AgentProcess) -> Iterator[GatewayProcess]:
    with GatewayProcess(agent_service.address, "127.0.0.1:1") as process:
        yield process.start()


def run(folder: Path, *arguments: str) -> Any:
    done = subprocess.run(["node", *arguments], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_ag_ui(clients: Path, gateway: GatewayProcess) -> None:
    """The messages that @ag-ui/client holds after cuts are what the run said, and it knows that the run ended."""
    taken = run(clients, "agui.js", f"{gateway.url}/v1/agui/ticker", "foreign", INPUT, "20")
    assert [each["content"] for each in taken["shown"]] == ["tick " * COUNT]
    assert taken["last"]["type"] == "RUN_FINISHED"
    assert taken["cuts"] > 0


def test_openai(clients: Path, gateway: GatewayProcess) -> None:
    """What the openai package for Node reads through cuts is each event once, to the end."""
    taken = run(clients, "responses.js", f"{gateway.url}/v1", "ticker", INPUT, "20")
    assert taken["numbers"] == list(range(len(taken["numbers"])))
    assert taken["text"] == "tick " * COUNT + f'{{"count": {COUNT}}}'
    assert taken["last"]["type"] == "response.completed"
    assert taken["cuts"] > 0
