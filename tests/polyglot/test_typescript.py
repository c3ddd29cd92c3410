"""The TypeScript client: its own tests, its size, and the conformance kit against a real gateway."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.processes import ROOT, AgentProcess
from tests.gateway.conftest import GatewayProcess
from tests.polyglot.conftest import install
from tests.servers import missing

pytestmark = [pytest.mark.polyglot, pytest.mark.timeout(600)]

FOLDER = ROOT / "clients" / "typescript"
CUTS = 300


def npm(*arguments: str) -> str:
    done = subprocess.run(["npm", *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"npm {' '.join(arguments)}:\n{done.stdout[-5000:]}{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def client() -> Path:
    """clients/typescript, built with its tests."""
    for name in ("node", "npm"):
        if shutil.which(name) is None:
            missing(name, "not on PATH")
    install(FOLDER)
    npm("run", "build-tests")
    return FOLDER


@pytest.fixture(scope="module")
def gateways(agent_service: AgentProcess) -> Iterator[list[GatewayProcess]]:
    """Two, which say every second that they are there."""
    started = [GatewayProcess(agent_service.address, "127.0.0.1:1", heartbeat_seconds="1") for _ in range(2)]
    try:
        yield [each.start() for each in started]
    finally:
        for each in started:
            each.close()


def test_its_own_tests(client: Path) -> None:
    """Parser, reader, calls, fold and hook do what their tests say."""
    assert "# fail 0" in npm("test")


def test_what_is_published(client: Path) -> None:
    """The package is built from the sources, holds what its exports name, and is below 10 kB for a browser."""
    npm("run", "size")
    packed = npm("pack", "--dry-run", "--json")
    for name in ("dist/index.js", "dist/index.d.ts", "dist/react.js", "dist/react.d.ts", "LICENSE", "README.md"):
        assert f'"{name}"' in packed


def test_conformance(client: Path, gateways: list[GatewayProcess], agent_service: AgentProcess) -> None:
    """The conformance kit finds no fault in three hundred cuts between the client and two gateways."""
    places = [argument for each in gateways for argument in ("--gateway", f"127.0.0.1:{each.port}")]
    adapter = f"node {client / 'build' / 'test' / 'adapter.js'}"
    command = [sys.executable, "-m", "runwire.cli", "conformance", "--target", agent_service.address, *places]
    done = subprocess.run(
        [*command, "--command", adapter, "--cuts", str(CUTS)], cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout, done.stderr)
