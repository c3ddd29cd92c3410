"""What is said and counted of scorer runs. The words stay the same: docs/logs.md lists them, and a test compares."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Any

from runwire import logs, metrics
from runwire.runbook import Entry
from scorer_service.results.records import Finished, Job, State

logger = logging.getLogger("scorer_service.runs")


class Told(StrEnum):
    """What may become of a scorer run."""

    ENDED = "scorer run ended"
    FAILED = "scorer run failed"
    WAITS = "scorer run is tried again"


def about(job: Job, worker: str) -> AbstractContextManager[Any]:
    """Every line inside says which attempt at which scorer run it is about, the author's own lines too."""
    return logs.about(
        scorer_run_id=job.scorer_run_id,
        run_id=job.run_id,
        tenant=job.tenant,
        scorer_id=job.scorer_id,
        attempt=job.token,
        worker=worker,
    )


def written(ends: Iterable[Finished], worker: str) -> None:
    """These ends of attempts are in the database. Successes are DEBUG: there are thousands a second."""
    for done in ends:
        state = done.state.name.lower()
        metrics.SCORER_ATTEMPTS.add(scorer_id=done.job.scorer_id, state=state)
        if done.spent:
            _count_judge(done.job.scorer_id, json.loads(done.spent))
        level, said = _LEVELS.get(done.state, (logging.DEBUG, Told.ENDED))
        if logger.isEnabledFor(level):
            reason = done.error.reason if done.error else None
            runbook = Entry.SCORER_FAILS.value if done.state is State.FAILED else None
            with about(done.job, worker):
                logger.log(level, said, extra=logs.fields(state=state, reason=reason, runbook=runbook))


_LEVELS = {
    State.FAILED: (logging.WARNING, Told.FAILED),
    State.RETRYING: (logging.INFO, Told.WAITS),
    State.PENDING: (logging.DEBUG, Told.WAITS),
}


def _count_judge(scorer_id: str, spent: dict[str, Any]) -> None:
    for direction in ("input", "output"):
        metrics.SCORER_TOKENS.add(spent[f"{direction}_tokens"], scorer_id=scorer_id, direction=direction)
    if spent["cost_usd"] is not None:
        metrics.SCORER_COST.add(spent["cost_usd"], scorer_id=scorer_id)
