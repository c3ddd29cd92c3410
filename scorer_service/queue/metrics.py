"""How much waits in the database and in the store, looked at now and then for the metrics."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from runwire import metrics
from runwire.errors import StoreUnavailable
from runwire.pubsub import Store
from runwire.scorer_requests import QUEUE
from scorer_service.results.database import Database, database_time
from scorer_service.results.records import OPEN
from scorer_service.results.schema import exports, parked_requests, runs

MAX: Final = 10_000
"""To count must not cost more the more there is."""
_LOOK_SECONDS: Final = 5.0

logger = logging.getLogger("scorer_service")

Counts = Mapping[str, float | Mapping[str, float]]


class QueueMetrics:
    """One per process, where metrics are on. All processes see the same numbers: a board shows their maximum."""

    def __init__(self, database: Database, store: Store) -> None:
        self._database = database
        self._store = store
        self._found: Counts = {}

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the gauges show what was found the last time."""
        gauges = {
            "runs": metrics.SCORER_RUNS,
            "due": metrics.SCORER_DUE,
            "oldest_due": metrics.SCORER_OLDEST_DUE_SECONDS,
            "parked": metrics.SCORER_PARKED,
            "exports": metrics.EXPORT_BACKLOG,
            "messages": metrics.SCORER_MESSAGES,
        }
        with ExitStack() as stack:
            for name, gauge in gauges.items():
                stack.enter_context(gauge.of(partial(self._value, name)))
            yield

    def _value(self, name: str) -> float | Mapping[str, float] | None:
        return self._found.get(name)

    async def run_once(self) -> float:
        """Looks. What is not known is not shown: a number of before would hide that the database is away."""
        try:
            found = dict(await self._database.read(counts))
            found["messages"] = await self._store.backlog(QUEUE)
        except StoreUnavailable:
            self._found = {}
            raise
        self._found = found
        return _LOOK_SECONDS


def counts(connection: Connection) -> Counts:
    """What waits in the database, by the names of QueueMetrics."""
    now = database_time(connection)
    due = select(runs.due_time).where(runs.due_time.is_not(None), runs.due_time <= now).limit(MAX).subquery()
    due_count, oldest = connection.execute(select(func.count(), func.min(due.c.due_time)).select_from(due)).one()
    states = {}
    for state in OPEN:
        some = select(runs.state).where(runs.state == int(state)).limit(MAX).subquery()
        states[state.name.lower()] = float(connection.execute(select(func.count()).select_from(some)).scalar_one())
    found: dict[str, float | Mapping[str, float]] = {
        "runs": states,
        "due": float(due_count),
        "oldest_due": max(0.0, now - oldest) if oldest is not None else 0.0,
    }
    for name, column in (("parked", parked_requests.c.message_key), ("exports", exports.c.attempt)):
        some = select(column).limit(MAX).subquery()
        found[name] = float(connection.execute(select(func.count()).select_from(some)).scalar_one())
    return found
