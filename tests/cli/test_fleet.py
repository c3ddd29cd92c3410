"""`runwire workers` and `runwire queues`, and what `runwire doctor` says of what nobody can do."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from runwire.client.sync import AgentClient
from tests.cli.conftest import Runwire
from tests.client.processes import AgentProcess, ScorerProcess
from tests.servers import free_port


@pytest.fixture(scope="module")
def front() -> Iterator[AgentProcess]:
    """A service that takes runs, and that nobody works for."""
    with AgentProcess("agent_service.demo.ticker", role="serve") as service:
        yield service.start()


@pytest.fixture(scope="module")
def scorer_service(agent_service: AgentProcess) -> Iterator[ScorerProcess]:
    with ScorerProcess(agent_service.store) as service:
        yield service.start()


def test_workers(runwire: Runwire, agent_service: AgentProcess, scorer_service: ScorerProcess) -> None:
    """The processes of both services are listed with what they have, as lines and as messages."""
    place = ["--scorer-address", scorer_service.address]
    with AgentClient(agent_service.address) as client:
        (mine,) = client.list_workers()
    result = runwire("workers", *place)
    assert result.code == 0
    agent, scorer = (line.split("\t") for line in result.out.splitlines())
    assert (agent[0], agent[1], agent[4]) == (mine.worker, "agent", "takes runs")
    assert "ticker" in agent[-1]
    assert scorer[1] == "scorer"
    assert "content-similarity" in scorer[-1]
    found = runwire("workers", "--json", *place).lines
    assert [each["worker"] for each in found] == [agent[0], scorer[0]]


def test_queues(runwire: Runwire, agent_service: AgentProcess, scorer_service: ScorerProcess) -> None:
    """Every agent is shown, with how many workers it has; all is well, and so is the exit code."""
    result = runwire("queues", "--scorer-address", scorer_service.address)
    assert result.code == 0
    lines = {line.split("\t")[0]: line.split("\t") for line in result.out.splitlines()}
    assert lines["agent ticker"][1] == "0"
    assert lines["agent ticker"][5] == "1"


def test_nobody_can_do_it(runwire: Runwire, front: AgentProcess) -> None:
    """What waits for nobody is a fault: `queues` and `doctor` say so and end with 1."""
    with AgentClient(front.address) as client:
        client.start_run("ticker", {"count": 1})
    nowhere = f"127.0.0.1:{free_port()}"
    places = ["--agent-address", front.address, "--scorer-address", nowhere]
    result = runwire("queues", *places)
    assert result.code == 1
    assert "agent ticker\t1\t" in result.out
    assert "nobody can do it" in result.out
    assert "cannot reach the scorer service" in result.err
    said = {line["check"]: line for line in runwire("doctor", "--json", *places).lines}["what waits"]
    assert said["result"] == "failed"
    assert "1 runs of agent 'ticker'" in said["detail"]
    assert "start a worker" in said["advice"]
    assert runwire("workers", *places).out == ""
    assert json.loads(runwire("queues", "--json", *places).out)["due"] == "1"
