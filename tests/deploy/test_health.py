"""What probes and health checks are told."""

import asyncio
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.check.services import LIVENESS, SERVICES, Service
from runwire.identity.access import Access
from runwire.identity.server_certificates import ServerCertificates
from runwire.rpc import Server, serve
from tests.identity.authority import Authority

SCRIPT = Path(__file__).parents[2] / "deploy/healthcheck.py"
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def ask(server: Server, service: str) -> int:
    async with grpc.aio.insecure_channel(server.address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        return int((await health_pb2_grpc.HealthStub(channel).Check(request, timeout=10)).status)


async def run_script(*arguments: str, **variables: str) -> tuple[int, str]:
    """The exit code and the output of the image's health check."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        *arguments,
        env=variables,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
async def test_a_server_that_cannot_serve_lives_all_the_same(service: Service) -> None:
    """Readiness follows the store, liveness does not: a store that is away restarts no process."""
    health = service.health
    async with serve("127.0.0.1:0", lambda _: None, [health]) as server:
        for serving, state in ((True, SERVING), (False, NOT_SERVING)):
            await server.set_serving(serving)
            assert [await ask(server, name) for name in (health, "", LIVENESS)] == [state, state, SERVING]


async def test_the_script_of_the_images_says_what_the_server_says() -> None:
    """0 while it serves; 1 and a line while it does not, and when nothing listens; 2 for a wrong use."""
    async with serve("127.0.0.1:0", lambda _: None, []) as server:
        listen = f"0.0.0.0:{server.address.rpartition(':')[2]}"
        await server.set_serving(True)
        assert await run_script("LISTEN", LISTEN=listen) == (0, "SERVING\n")
        await server.set_serving(False)
        assert await run_script("LISTEN", LISTEN=listen) == (1, "NOT_SERVING\n")
    code, output = await run_script("LISTEN", LISTEN=listen)
    assert (code, output.count("\n")) == (1, 1)
    code, output = await run_script("LISTEN")
    assert (code, output.count("\n")) == (2, 1)


@pytest.mark.parametrize("mutual", [False, True], ids=["TLS", "mutual TLS"])
async def test_the_script_speaks_tls(tmp_path: Path, mutual: bool) -> None:
    """It trusts the service's own certificate, and shows it where clients need one."""
    authority = Authority(tmp_path)
    cert, key = authority.issue("server", "agents.example.com")
    certificates = ServerCertificates(cert, key, authority.path if mutual else None)
    async with serve("127.0.0.1:0", lambda _: None, [], access=Access(certificates=certificates)) as server:
        await server.set_serving(True)
        variables = {"RUNWIRE_TLS_CERT_FILE": str(cert), "RUNWIRE_TLS_KEY_FILE": str(key)}
        assert await run_script("LISTEN", LISTEN=server.address, **variables) == (0, "SERVING\n")
