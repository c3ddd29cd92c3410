"""What our alerts say of two scrapes of a process."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.deploy.promql import Evaluation, Scrape, Vector

ROOT = Path(__file__).parents[2]


def expressions() -> dict[str, str]:
    """Of all alerts, by name."""
    yaml = pytest.importorskip("yaml")
    groups = yaml.safe_load((ROOT / "deploy/monitoring/alerts.yaml").read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


OF_LOAD = frozenset({"RunwireCommitsSlow", "RunwireLoopBlocked", "RunwireLeasesLost"})
"""What a busy machine raises, rightly."""


def raised(before: Scrape, after: Scrape) -> dict[str, Vector]:
    """The alerts whose expressions select something, with what; without those OF_LOAD."""
    found = {name: Evaluation(text, before, after).result() for name, text in expressions().items()}
    return {name: vector for name, vector in found.items() if vector and name not in OF_LOAD}


def entries(log: str) -> set[str]:
    """The entries of the run book that lines of a log in JSON name."""
    return set(re.findall(r'"runbook": "(\w+)"', log))
