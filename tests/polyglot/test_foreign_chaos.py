"""Foreign clients for minutes: many runs, each cut hundreds of times, while gateways are killed under them.

`RUNWIRE_CHAOS_RUNS=100 RUNWIRE_CHAOS_CUTS=500` is the whole of it; without, what fits into five minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.client.processes import ROOT, AgentProcess
from tests.gateway.conftest import GatewayProcess
from tests.polyglot.conftest import install
from tests.servers import missing

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

RUNS = int(os.environ.get("RUNWIRE_CHAOS_RUNS", "4"))
CUTS = int(os.environ.get("RUNWIRE_CHAOS_CUTS", "100"))
COUNT = CUTS * 5
"""A connection is cut after one to eight events."""
FOREIGN = Path(__file__).parent / "foreign"
OURS = ROOT / "clients" / "typescript"


@contextmanager
def dying(gateway: GatewayProcess) -> Iterator[list[int]]:
    """The gateway is killed every few seconds, and started again; gives how often it was, as one number a kill."""
    kills, over = list[int](), threading.Event()

    def kill() -> None:
        while not over.wait(10):
            gateway.kill()
            gateway.start()
            kills.append(len(kills) + 1)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield kills
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("client", ["openai", "ag-ui", "typescript"])
def test_many_runs_through_many_cuts(client: str, agent_service: AgentProcess) -> None:
    """Each run is whole in each client: nothing missing, nothing twice, and no cut is taken for an end."""
    for name in ("node", "npm"):
        if shutil.which(name) is None:
            missing(name, "not on PATH")
    folder = OURS if client == "typescript" else FOREIGN
    install(folder)
    if client == "typescript":
        subprocess.run(["npm", "run", "build-tests"], cwd=folder, check=True, capture_output=True, timeout=300)
    # AG-UI gives whoever joins all that was said, so that only a slow run is cut often.
    asked = json.dumps({"count": COUNT, "interval_ms": 30 if client == "ag-ui" else 1})
    with GatewayProcess(agent_service.address, "127.0.0.1:1") as gateway:
        gateway.start()

        def one(number: int) -> Any:
            command = {
                "openai": ["responses.js", f"{gateway.url}/v1", "ticker"],
                "ag-ui": ["agui.js", f"{gateway.url}/v1/agui/ticker", f"chaos {number}"],
                "typescript": ["build/test/cuts.js", gateway.url, "ticker"],
            }[client]
            done = subprocess.run(
                ["node", *command, asked, str(CUTS)], cwd=folder, capture_output=True, text=True, timeout=1200
            )
            assert done.returncode == 0, done.stderr[-3000:]
            return json.loads(done.stdout.splitlines()[-1])

        with dying(gateway) as kills, ThreadPoolExecutor(4) as pool:
            taken = list(pool.map(one, range(RUNS)))
    for each in taken:
        _whole(client, each)
    cuts = sum(each["cuts"] for each in taken)
    print(f"{client}: {RUNS} runs, {cuts} cuts, {len(kills)} kills of the gateway")
    assert cuts >= RUNS * CUTS // (20 if client == "ag-ui" else 3)


def _whole(client: str, taken: Any) -> None:
    ends = {"openai": "response.completed", "ag-ui": "RUN_FINISHED", "typescript": "RUN_STATE_SUCCEEDED"}
    assert taken["last"]["type"] == ends[client]
    if client == "ag-ui":
        assert [each["content"] for each in taken["shown"]] == ["tick " * COUNT]
        return
    first = 0 if client == "openai" else 1
    assert taken["numbers"] == list(range(first, first + len(taken["numbers"])))
    assert taken["text"].startswith("tick " * COUNT)
