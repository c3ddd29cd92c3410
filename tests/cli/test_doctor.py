"""`runwire doctor`: what it finds, and what it says to do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc, run_pb2
from tests.cli.conftest import Result, Runwire
from tests.client.processes import AgentProcess, ScorerProcess
from tests.servers import free_port


@pytest.fixture(scope="module")
def scorer_service(agent_service: AgentProcess) -> Iterator[ScorerProcess]:
    with ScorerProcess(agent_service.store) as service:
        yield service.start()


def results(result: Result) -> dict[str, str]:
    """Checks and how they went."""
    return {line["check"]: line["result"] for line in result.lines}


def advice(result: Result, check: str) -> str:
    return next(str(line["detail"] + " " + line["advice"]) for line in result.lines if line["check"] == check)


def test_all_is_well(runwire: Runwire, agent_service: AgentProcess, scorer_service: ScorerProcess) -> None:
    """With everything up, every check is ok and the exit code is 0."""
    database = f"sqlite:///{scorer_service.directory / 'scores.db'}"
    arguments = ["--scorer-address", scorer_service.address, "--store", agent_service.store, "--results", database]
    result = runwire("doctor", "--json", *arguments)
    assert results(result) == {
        "this client": "ok",
        "agent service": "ok",
        "agent service: version": "ok",
        "agent service: clock": "ok",
        "scorer service": "ok",
        "scorer service: version": "ok",
        "scorer service: clock": "ok",
        "scorers of agents": "ok",
        "what waits": "ok",
        "store": "ok",
        "store: clock": "ok",
        "store: settings": "ok",
        "database": "ok",
    }
    assert result.code == 0
    assert "agent service\tok\t" in runwire("doctor", *arguments).out


def test_nothing_is_there(runwire: Runwire) -> None:
    """Services that cannot be reached are told with what to do, and are exit code 3."""
    nowhere = f"127.0.0.1:{free_port()}"
    result = runwire("doctor", "--json", "--agent-address", nowhere, "--scorer-address", nowhere)
    assert result.code == 3
    assert results(result) == {"this client": "ok", "agent service": "failed", "scorer service": "failed"}
    assert "runwire dev" in advice(result, "agent service")
    assert "--scorer-address" in advice(result, "scorer service")


@pytest.mark.parametrize(
    "arguments, check, text, code",
    [
        (["--store", "mysql://x"], "store", "supported are", 1),
        (["--store", "redis://127.0.0.1:1"], "store", "no answer within", 3),
        (["--results", "mysql://x"], "database", "unknown scheme 'mysql'", 1),
        (["--results", "sqlite:////no/such/file.db"], "database", "there is no file", 1),
        (["--results", "sqlite:///FILE"], "database", "FILE", 1),
        (["--store", "sqlite:///FILE-too"], "store", "there is no file 'FILE-too'", 1),
        (["--results", "postgresql:nobody"], "database", "cannot be read", 1),
        (["--results", "postgresql://["], "database", "cannot be read", 1),
        (["--results", "postgresql://nobody:secret@127.0.0.1:port/x"], "database", "cannot be read", 1),
        (["--results", "postgresql://nobody:secret@127.0.0.1:1/x"], "database", "cannot be reached", 3),
    ],
)
def test_wrong_places(
    runwire: Runwire,
    scorer_service: ScorerProcess,
    tmp_path: Path,
    arguments: list[str],
    check: str,
    text: str,
    code: int,
) -> None:
    """A store or database that is wrong is told without its password."""
    file = tmp_path / "no-database"
    file.write_text("this is no database, it only looks like a file of some length " * 20)
    given = [each.replace("FILE", str(file)) for each in arguments]
    result = runwire("doctor", "--json", "--scorer-address", scorer_service.address, *given)
    assert result.code == code
    assert results(result)[check] == "failed"
    assert text.replace("FILE", str(file)) in advice(result, check)
    assert "secret" not in result.out + result.err
    assert [path.name for path in tmp_path.iterdir()] == ["no-database"]


def test_redis_settings(runwire: Runwire, scorer_service: ScorerProcess, redis_url: str) -> None:
    """A Redis that may evict or forget runs is a warning, with the command that mends it."""
    result = runwire("doctor", "--json", "--scorer-address", scorer_service.address, "--store", redis_url)
    assert result.code == 0
    assert results(result)["store"] == "ok"
    assert results(result)["store: durability"] == "warning"
    assert "CONFIG SET appendonly yes" in advice(result, "store: durability")


def test_empty_postgres(runwire: Runwire, scorer_service: ScorerProcess, postgres_url: str) -> None:
    """A database that the scorer service never saw is told from one that cannot be reached."""
    result = runwire("doctor", "--json", "--scorer-address", scorer_service.address, "--results", postgres_url)
    assert result.code == 1
    assert "no table scorer_runs" in advice(result, "database")


class OddService(agent_service_pb2_grpc.AgentServiceServicer):
    """Another version, a clock that is a minute ahead, and an agent that asks for a scorer nobody has."""

    def ListAgents(self, request: pb.ListAgentsRequest, context: Any) -> pb.ListAgentsResponse:
        told = (("runwire-version", "9.0"), ("runwire-time", str(time.time() + 60)))
        context.set_trailing_metadata(told)
        agent = run_pb2.Agent(agent_id="odd", scorers=[run_pb2.ScorerRef(scorer_id="nobody")])
        return pb.ListAgentsResponse(agents=[agent])


class NotServing(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """Health: NOT_SERVING."""

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        return (
            grpc.unary_unary_rpc_method_handler(lambda request, context: b"\x08\x02")
            if "Check" in details.method
            else None
        )


def test_oddities(runwire: Runwire, scorer_service: ScorerProcess) -> None:
    """Another version, a clock that is off, a scorer that is missing and a service that is stopping are warnings."""
    server = grpc.server(ThreadPoolExecutor(2), handlers=[NotServing()])
    agent_service_pb2_grpc.add_AgentServiceServicer_to_server(OddService(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        address = f"127.0.0.1:{port}"
        result = runwire("doctor", "--json", "--agent-address", address, "--scorer-address", scorer_service.address)
    finally:
        server.stop(None).wait()
    assert result.code == 0
    warned = {check for check, outcome in results(result).items() if outcome == "warning"}
    assert warned == {
        "agent service",
        "agent service: version",
        "agent service: clock",
        "scorers of agents",
        "what waits",
    }
    assert "NTP" in advice(result, "agent service: clock")
    assert "nobody (of odd)" in advice(result, "scorers of agents")
