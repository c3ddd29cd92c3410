"""A service whose store is not there yet: it listens, says that it cannot serve, and begins once it can."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc
from runwire.rpc import LIVENESS
from runwire.scorer.v1 import scorer_service_pb2 as scorer_pb
from runwire.scorer.v1 import scorer_service_pb2_grpc
from tests.e2e.ledger import Ledger
from tests.e2e.processes import AgentProcess, processes
from tests.redis.places import any_binary
from tests.servers import RedisServer, free_port
from tests.service.replica import refused

pytestmark = pytest.mark.timeout(120)
LIMIT_SECONDS = 60.0
SCORER_SERVICE = "runwire.scorer.v1.ScorerService"
SERVICE = "runwire.agent.v1.AgentService"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """A Redis that does not run yet."""
    server = RedisServer(any_binary())
    try:
        yield server
    finally:
        server.close()


async def health(channel: grpc.aio.Channel, service: str) -> int:
    """Asked as soon as the service listens."""
    request = health_pb2.HealthCheckRequest(service=service)
    answer: Any = health_pb2_grpc.HealthStub(channel).Check(request, timeout=LIMIT_SECONDS, wait_for_ready=True)
    return int((await answer).status)


async def until_serving(channel: grpc.aio.Channel, service: str) -> None:
    request = health_pb2.HealthCheckRequest(service=service)
    states: Any = health_pb2_grpc.HealthStub(channel).Watch(request, timeout=LIMIT_SECONDS)
    async for state in states:
        if state.status == SERVING:
            break
    states.cancel()


async def test_a_store_that_comes_late(redis: RedisServer, ledger: Ledger) -> None:
    """Until Redis is there health is NOT_SERVING, the process is alive all the same, and calls that need the store
    are told to come again; then it serves and works without being started again."""
    url, listen = f"{redis.url}?start=50", f"127.0.0.1:{free_port()}"
    with processes(url, **ledger.environment) as start:
        process = start.launch("all", listen=listen)
        async with grpc.aio.insecure_channel(listen) as channel:
            states = [await health(channel, service) for service in (SERVICE, "", LIVENESS)]
            assert states == [NOT_SERVING, NOT_SERVING, SERVING]
            stub: Any = agent_service_pb2_grpc.AgentServiceStub(channel)
            assert (await stub.ListAgents(pb.ListAgentsRequest(page_size=1))).agents
            for call in (
                stub.StartRun(pb.StartRunRequest(agent_id="owned")),
                stub.GetRun(pb.GetRunRequest(run_id="run")),
                stub.ListRunEvents(pb.ListRunEventsRequest(run_id="run")),
                stub.WatchRun(pb.WatchRunRequest(run_id="run")).read(),
            ):
                refusal = await refused(call)
                assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE")
                assert refusal.retry_seconds
            await asyncio.to_thread(redis.start)
            await until_serving(channel, SERVICE)
            assert (await stub.GetRun(pb.GetRunRequest(run_id="run")).code()) is grpc.StatusCode.NOT_FOUND
        assert process.wait_started().address == listen
        process.terminate()
        assert await process.wait() == 0
        assert "cannot be reached" in process.errors


@pytest.mark.parametrize("role", ["all", "work"])
async def test_sigterm_before_the_store_is_there(redis: RedisServer, role: str) -> None:
    """A process that waits for its store ends at once and well, and not when its patience ends."""
    listen = f"127.0.0.1:{free_port()}"
    process = AgentProcess(f"{redis.url}?start=3000", role=role, listen=listen)
    try:
        async with grpc.aio.insecure_channel(listen) as channel:
            assert await health(channel, "") == NOT_SERVING
        process.terminate()
        assert await process.wait() == 0
        assert "Traceback" not in process.errors
        assert "ERROR" not in process.errors
    finally:
        process.close()


async def test_a_scorer_service_whose_store_comes_late(redis: RedisServer, tmp_path: Path) -> None:
    """The same for the scorer service: it lives and answers from its own database, and serves once Redis is there."""
    listen = f"127.0.0.1:{free_port()}"
    own = {"RUNWIRE_SCORER_LISTEN": listen, "RUNWIRE_RESULTS": f"sqlite:///{tmp_path}/scores.db"}
    process = AgentProcess(f"{redis.url}?start=50", module="scorer_service", environment=own)
    try:
        async with grpc.aio.insecure_channel(listen) as channel:
            states = [await health(channel, service) for service in (SCORER_SERVICE, "", LIVENESS)]
            assert states == [NOT_SERVING, NOT_SERVING, SERVING]
            stub: Any = scorer_service_pb2_grpc.ScorerServiceStub(channel)
            assert (await stub.ListScorers(scorer_pb.ListScorersRequest())).scorers
            await asyncio.to_thread(redis.start)
            await until_serving(channel, SCORER_SERVICE)
        process.terminate()
        assert await process.wait() == 0
    finally:
        process.close()
