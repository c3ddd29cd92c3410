"""The entries of the run book (docs/runbook.md) that a line of the log can name, each an alert's name too."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

from runwire import logs


class Entry(StrEnum):
    """What an operator looks up: `runbook` of a line."""

    NOBODY_CAN_DO_RUNS = "RunwireNobodyCanDoRuns"
    RUNS_FAIL = "RunwireRunsFail"
    RUNS_KILL_WORKERS = "RunwireRunsKillWorkers"
    WORKERS_DIE = "RunwireWorkersDie"
    STORE_TAKES_NO_COMMITS = "RunwireStoreTakesNoCommits"
    STREAMS_CUT = "RunwireStreamsCut"
    SCORER_FAILS = "RunwireScorerFails"

    def said(self, **values: Any) -> Mapping[str, Any]:
        """For `extra=`: the entry beside the values of a line."""
        return logs.fields(**values, runbook=self.value)
