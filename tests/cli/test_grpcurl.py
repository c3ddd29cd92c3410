"""docs/grpcurl.md works as it stands, with the real grpcurl against both services."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from runwire.agent.v1 import agent_service_pb2
from runwire.scorer.v1 import scorer_service_pb2
from tests.client.processes import ROOT, AgentProcess, ScorerProcess
from tests.servers import program

PAGE = (ROOT / "docs" / "grpcurl.md").read_text()
BLOCKS = re.findall(r"^```sh( fails)?\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
REASONS = ["NOT_SUSPENDED", "NOT_FORKABLE", "RUN_TOKENS_OFF", "INVALID_REQUEST", "CURSOR_MALFORMED", "RUN_NOT_FOUND"]


@pytest.fixture(scope="module")
def addresses() -> Iterator[dict[str, str]]:
    """Both services on one store."""
    with AgentProcess() as agents, ScorerProcess(agents.store) as scorers:
        agents.start()
        scorers.start()
        yield {"AGENT": agents.address, "SCORER": scorers.address}


def test_page(addresses: dict[str, str], tmp_path: Path) -> None:
    """Every block of the page does what it says: those marked so fail, all others succeed and print something."""
    grpcurl = program("grpcurl")
    script = ["set -uo pipefail"]
    for number, (fails, block) in enumerate(BLOCKS):
        block = re.sub(r"(?m)^(AGENT|SCORER)=.*$", lambda line: f"{line[1]}={addresses[line[1]]}", block)
        script.append(f"echo; echo '=== {number}'; echo '=== {number}' >&2; set -e")
        script.append(f"set +e\n{block}\n[ $? -ne 0 ] || exit 100; set -e" if fails else block)
    environment = {**os.environ, "PATH": f"{grpcurl.parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    printed = re.split(r"=== \d+\n", done.stdout)[1:]
    assert [number for number, (fails, _) in enumerate(BLOCKS) if not fails and not printed[number].strip()] == [
        number for number, (_, block) in enumerate(BLOCKS) if "grpcurl" not in block
    ]
    assert re.findall(r'"reason":"(\w+)"', done.stderr) == REASONS
    assert "input.count" in done.stderr


def test_page_is_complete() -> None:
    """Every call of both services is on the page."""
    for file in (agent_service_pb2, scorer_service_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                assert f"{service.full_name}/{method.name}\n" in PAGE.replace(" \\\n", "\n").replace(" |", "\n")
