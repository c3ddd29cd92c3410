"""The clients in other languages, built with their own tools.

Node is tested everywhere: under CI it must be there. Go and C++ need Debian's packages; where these are not installed
their tests are skipped aloud, under CI too.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.processes import ROOT, AgentProcess
from tests.servers import MISSING, missing

EXAMPLES = ROOT / "examples"
BUILD_SECONDS = 600


@pytest.fixture(scope="session")
def agent_service() -> Iterator[AgentProcess]:
    with AgentProcess("agent_service.demo.ticker") as service:
        yield service.start()


@pytest.fixture(scope="session")
def node() -> Path:
    """examples/node/dist/src."""
    folder = EXAMPLES / "node"
    for name in ("node", "npm"):
        if shutil.which(name) is None:
            missing(name, "not on PATH")
    install(folder)
    _build(["npm", "run", "build"], folder)
    return folder / "dist" / "src"


@pytest.fixture(scope="session")
def go() -> Path:
    """examples/go/build."""
    _wanted("go", "go", "protoc", "protoc-gen-go")
    if not Path("/usr/share/gocode/src/google.golang.org/grpc").is_dir():
        pytest.skip(f"{MISSING} go: Debian's package golang-google-grpc-dev is not installed")
    _build(["make"], EXAMPLES / "go")
    return EXAMPLES / "go" / "build"


@pytest.fixture(scope="session")
def cpp() -> Path:
    """examples/cpp/build."""
    _wanted("cpp", "g++", "protoc", "grpc_cpp_plugin", "pkg-config")
    _build(["make"], EXAMPLES / "cpp")
    return EXAMPLES / "cpp" / "build"


def _wanted(language: str, *tools: str) -> None:
    """Skips the tests of a language whose tools are not all here, and names them."""
    if absent := [tool for tool in tools if shutil.which(tool) is None]:
        pytest.skip(f"{MISSING} {language}: {', '.join(absent)} not on PATH")


def install(folder: Path) -> None:
    """Installs what the lock file of `folder` names."""
    _build(["npm", "ci", "--no-audit", "--no-fund"], folder)


def _build(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=BUILD_SECONDS)
    assert done.returncode == 0, f"{' '.join(command)} in {folder}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
