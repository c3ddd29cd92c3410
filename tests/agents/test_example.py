"""examples/demo.py, which is `make demo`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.demo


def run_demo(**environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_demo_holds() -> None:
    """Both services start, the run survives the cut, the joined events are the log, and both scores come."""
    done = run_demo(COLUMNS="120")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "identical" in done.stdout
    assert done.stdout.count("succeeded") == 2


def test_demo_says_what_is_wrong() -> None:
    """A service that does not start is named in one line, without a traceback, and the exit code is not 0."""
    done = run_demo(COLUMNS="500", RUNWIRE_LEASE_SECONDS="-1")
    assert done.returncode == 1
    assert "agent_service did not start" in done.stdout
    assert "lease_seconds" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
