"""`--print-config` of both services."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.client.processes import ROOT


@pytest.mark.parametrize(
    "module, own", [("agent_service", "RUNWIRE_AGENT_LISTEN"), ("scorer_service", "RUNWIRE_RESULTS")]
)
def test_settings_are_printed_without_secrets(module: str, own: str) -> None:
    """Every setting has a line with its variable, and a password in a URL is masked."""
    environment = {
        **os.environ,
        "RUNWIRE_STORE": "redis://user:hunter2hunter2@redis:6379/0",
        "RUNWIRE_JWT_ISSUER": "https://login.example",
    }
    command = [sys.executable, "-m", module, "--print-config"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    printed = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert printed["RUNWIRE_STORE"] == "redis://[redacted]@redis:6379/0"
    assert printed["RUNWIRE_JWT_ISSUER"] == "https://login.example"
    assert own in printed
    assert "hunter2" not in done.stdout + done.stderr
