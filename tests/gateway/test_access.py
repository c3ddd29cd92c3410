"""The gateway before services that ask who calls, over TLS."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from runwire.client.access import Access
from runwire.client.sync import AgentClient
from tests.client.processes import AgentProcess
from tests.gateway.conftest import GatewayProcess
from tests.identity.authority import Authority
from tests.identity.proofs import Proofs


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access")


@pytest.fixture(scope="module")
def secured(folder: Path) -> Iterator[AgentProcess]:
    cert, key = Authority(folder).issue("server", "127.0.0.1")
    proofs = Proofs(folder)
    files = {"tls_cert_file": cert, "tls_key_file": key, "tokens": proofs.tokens, "run_token_keys": proofs.keys}
    with AgentProcess("agent_service.demo.ticker", **{name: str(path) for name, path in files.items()}) as service:
        yield service.start()


@pytest.fixture(scope="module")
def http(folder: Path, secured: AgentProcess) -> Iterator[httpx.Client]:
    ca = str(folder / "test-authority.pem")
    with (
        GatewayProcess(secured.address, "127.0.0.1:1", ca=ca) as process,
        httpx.Client(base_url=process.start().url, timeout=20.0) as client,
    ):
        yield client


def test_the_token_of_a_request_is_that_of_the_call(http: httpx.Client, folder: Path, secured: AgentProcess) -> None:
    """Over TLS the services see who called the gateway: without a token 401, without a scope 403, another tenant's run
    404; a run token in the query reads its run, and nothing else."""
    proofs = Proofs(folder)
    anna, other = ({"authorization": f"Bearer {proofs.token('anna', tenant)}"} for tenant in ("acme", "other"))
    reader = {"authorization": f"Bearer {proofs.token('reader', 'acme', 'runs:read')}"}
    start = "/v1/agents/ticker/runs"
    body = {"input": {"count": 3, "interval_ms": 0}}
    assert http.post(start, json=body).status_code == 401
    assert http.post(start, json=body, headers=reader).status_code == 403
    run = http.post(start, json=body, headers=anna).json()
    assert run["owner"] == "anna"
    place = f"/v1/runs/{run['runId']}"
    assert [http.get(place, headers=each).status_code for each in ({}, anna, reader, other)] == [401, 200, 200, 404]
    access = Access(ca=folder / "test-authority.pem", token=anna["authorization"].partition(" ")[2])
    with AgentClient(secured.address, **access.arguments()) as client:
        token = client.create_run_token(run["runId"]).token
    for path, status in ((place, 200), (f"{place}/events", 200), ("/v1/runs", 403)):
        assert http.get(path, params={"access_token": token}).status_code == status, path
