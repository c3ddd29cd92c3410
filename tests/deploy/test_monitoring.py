"""Alerts, boards and the run book agree with the code, and the check notices where they do not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

# Its reader of YAML comes with the tools of the group dev; `make test-lowest` runs without them.
pytest.importorskip("yaml")
from deploy.check import monitoring
from runwire import metrics, runbook

ROOT = Path(__file__).parents[2]
ALERTS, RUNBOOK, BOARD = "deploy/monitoring/alerts.yaml", "docs/runbook.md", "deploy/monitoring/runs.json"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what the check reads, to be broken."""
    shutil.copytree(ROOT / "deploy/monitoring", tmp_path / "deploy/monitoring")
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / RUNBOOK, tmp_path / RUNBOOK)
    return tmp_path


def test_alerts_boards_and_run_book_agree() -> None:
    """Nothing is wrong with what is committed."""
    assert list(monitoring.check(ROOT)) == []


@pytest.mark.parametrize(
    "name, old, new, problem",
    [
        (ALERTS, "runs_stranded)", "runs_strand)", "RunwireNobodyCanDoRuns: there is no metric runwire_runs_strand"),
        (ALERTS, 'cause="taken_over"', 'reason="taken_over"', "runwire_runs_claimed_total has no label reason"),
        (ALERTS, "max by (agent_id) (runwire_runs_old", "max by (agent) (runwire_runs_old", "a label agent"),
        (ALERTS, "lag_seconds_bucket", "lag_seconds", "there is no metric runwire_loop_lag_seconds"),
        (ALERTS, "max(runwire_scorer_parked) > 0", "up > 0", "it asks for no metric of ours"),
        (ALERTS, "max(runwire_scorer_parked) > 0", "max(runwire_scorer_parked > 0", "parentheses"),
        (ALERTS, "#runwirerunsfail", "#runs-fail", "RunwireRunsFail: its annotation runbook"),
        (ALERTS, "severity: critical", "severity: high", "its severity is neither"),
        (RUNBOOK, "## RunwireRunsFail\n", "", "runbook.md has no entry for the alert RunwireRunsFail"),
        (RUNBOOK, "## RunwireRunsFail\n", "## RunwireRunsFail\n\n## RunwireFire\n", "there is no such alert"),
        (BOARD, "runwire_events_total", "runwire_event_total", "runs.json: Events: there is no metric"),
    ],
)
def test_a_planted_mistake_is_noticed(project: Path, name: str, old: str, new: str, problem: str) -> None:
    """A name that is wrong, a label that is none, an entry that is missing: each is a problem, and says which."""
    path = project / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert any(problem in found for found in monitoring.check(project))


def test_a_renamed_metric_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who renames a metric in the code is told of every alert and board that asks for it."""
    monkeypatch.setattr(metrics.LEASES_LOST, "name", "runwire.leases.gone")
    problems = list(monitoring.check(ROOT))
    assert any(problem.startswith("RunwireLeasesLost: ") for problem in problems)
    assert any(problem.startswith("runs.json: ") for problem in problems)


def test_the_log_names_entries_that_there_are() -> None:
    """Each entry of the run book that a line of the log can name is an alert's."""
    alerts = (ROOT / ALERTS).read_text()
    assert all(f"alert: {entry}\n" in alerts for entry in runbook.Entry)
