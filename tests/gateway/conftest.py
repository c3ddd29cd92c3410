"""Both services and a gateway, as real processes; and what a browser's EventSource does, without a browser."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.client.processes import ROOT, AgentProcess, ScorerProcess
from tests.servers import Server, free_port


class GatewayProcess(Server):
    """`python -m gateway`. `start` after `kill` brings it back on the same port."""

    ready_line = "gateway listening on"

    def __init__(self, agent_address: str, scorer_address: str, **settings: str) -> None:
        super().__init__("gateway")
        self.port = free_port()
        self.services = ["--agent-address", agent_address, "--scorer-address", scorer_address]
        self.settings = settings

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        environment = [f"RUNWIRE_GATEWAY_{name.upper()}={value}" for name, value in self.settings.items()]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        arguments = ["--listen", f"127.0.0.1:{self.port}", *self.services]
        return ["env", f"PYTHONPATH={path}", *environment, sys.executable, "-m", "gateway", *arguments]


@pytest.fixture(scope="session")
def agent_service() -> Iterator[AgentProcess]:
    # A short lease: a test kills the service, and waits until its run is taken over.
    with AgentProcess(
        "agent_service.demo.ticker,tests.cli.sample_agents,tests.gateway.agents", lease_seconds="1"
    ) as service:
        yield service.start()


@pytest.fixture(scope="session")
def scorer_service(agent_service: AgentProcess) -> Iterator[ScorerProcess]:
    with ScorerProcess(agent_service.store, scorers="tests.gateway.scorers") as service:
        yield service.start()


@pytest.fixture(scope="session")
def gateway(agent_service: AgentProcess, scorer_service: ScorerProcess) -> Iterator[GatewayProcess]:
    settings = {"allowed_origins": "https://app.example", "heartbeat_seconds": "0.2"}
    with GatewayProcess(agent_service.address, scorer_service.address, **settings) as process:
        yield process.start()


@pytest.fixture
def http(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=gateway.url, timeout=20.0) as client:
        yield client


@pytest.fixture
def start(http: httpx.Client) -> Callable[..., str]:
    """Starts a run and returns its id."""

    def started(agent: str, input: Any, **more: Any) -> str:
        answer = http.post(f"/v1/agents/{agent}/runs", json={"input": input, **more})
        assert answer.status_code == 201, answer.text
        run_id: str = answer.json()["runId"]
        return run_id

    return started


@dataclass(frozen=True)
class Message:
    """One message, as an EventSource dispatches it."""

    id: str
    event: str
    data: Any


def messages(lines: Iterator[str], last_id: str = "") -> Iterator[Message]:
    """The messages of a stream, parsed as the specification says; what is not complete is dropped."""
    event, data = "", []
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not line:
            if data:
                yield Message(last_id, event or "message", json.loads("\n".join(data)))
            event, data = "", []
        elif name == "event":
            event = value
        elif name == "data":
            data.append(value)
        elif name == "id":
            last_id = value
