"""docs/python.md and examples/python work as they stand, against both services."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runwire.client import sync
from tests.client.processes import ROOT, AgentProcess, ScorerProcess

PAGE = (ROOT / "docs" / "python.md").read_text()


@pytest.fixture(scope="module")
def services() -> Iterator[tuple[AgentProcess, ScorerProcess]]:
    """Both services on one store."""
    with AgentProcess() as agents, ScorerProcess(agents.store) as scorers:
        yield agents.start(), scorers.start()


async def test_page(services: tuple[AgentProcess, ScorerProcess], capsys: pytest.CaptureFixture[str]) -> None:
    """Every block of the page runs, each with what the earlier ones defined."""
    agents, scorers = services
    page = PAGE.replace("127.0.0.1:50051", agents.address).replace("127.0.0.1:50052", scorers.address)
    names: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 10
    for block in blocks:
        code = compile(block, "docs/python.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        result = eval(code, names)
        if inspect.iscoroutine(result):
            await result
    assert "tick tick tick " in capsys.readouterr().out


def test_example(services: tuple[AgentProcess, ScorerProcess], tmp_path: Path) -> None:
    """The example that keeps its place in a file, killed in the middle and started again, prints every event once."""
    address = services[0].address
    with sync.AgentClient(address) as client:
        run = client.start_run("ticker", {"count": 40, "interval_ms": 25, "text": "tick "})
    command = [sys.executable, str(ROOT / "examples/python/watch.py"), address, run.run_id, str(tmp_path / "place")]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path)
    assert first.stdout is not None
    seen = first.stdout.read(5 * 10)
    # The place of the tenth tick may not be kept yet; an eleventh that was printed is read after the end.
    first.kill()
    seen += first.stdout.read()
    first.wait()
    rest = subprocess.run(command, capture_output=True, cwd=tmp_path, timeout=60)
    assert rest.returncode == 0
    assert len(seen + rest.stdout) // 5 in (40, 41)
