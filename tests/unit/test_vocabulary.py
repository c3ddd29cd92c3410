"""What is written about logs and metrics is what the code has."""

from __future__ import annotations

import re
from pathlib import Path

from agent_service.log import telling as runs
from runwire import metrics
from scorer_service.execution import telling as scorer_runs

DOCS = Path(__file__).parents[2] / "docs"


def test_the_table_of_metrics_is_the_code() -> None:
    """Every instrument stands in docs/metrics.md as it is, and nothing else does."""
    lines = [line for line in (DOCS / "metrics.md").read_text().splitlines() if line.startswith("| `runwire_")]
    assert lines == [
        f"| `{each.prometheus_name}` | {each.kind} | {', '.join(each.labels)} | {each.description} |"
        for each in metrics.ALL
    ]


def test_names_are_given_once() -> None:
    """No two instruments share a name, in OpenTelemetry or in Prometheus."""
    assert len({each.name for each in metrics.ALL}) == len(metrics.ALL)
    assert len({each.prometheus_name for each in metrics.ALL}) == len(metrics.ALL)


def test_the_vocabulary_of_the_log_is_the_code() -> None:
    """Every word that is said of runs and scorer runs stands in docs/logs.md, and no other does."""
    told = re.findall(r"^\| `([^`]+)` \| (?:DEBUG|INFO|WARNING|ERROR) \|", (DOCS / "logs.md").read_text(), re.MULTILINE)
    assert sorted(told) == sorted([*runs.Told, *scorer_runs.Told])
