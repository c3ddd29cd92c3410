"""What waits to be exported: attempts that ended, in the table `exports`, no more than there is room for. An exporter
that is down must not fill the disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import func, select, update
from sqlalchemy.engine import Connection

from scorer_service.results.batches import insert_new
from scorer_service.results.schema import EXPORTS_DROPPED, counters, exports

logger = logging.getLogger("scorer_service")

_BELIEF_SECONDS: Final = 1.0
"""How long a count is believed: to count for every write would cost more than the write."""
_COMPLAIN_SECONDS: Final = 60.0


class Backlog:
    """One per process. Where several add to it, there may be as much above the bound as the others add in a second."""

    def __init__(self, most: int = 0) -> None:
        """With room for `most` attempts; 0: nothing is exported."""
        self._most = most
        self._waiting = 0
        """As counted, and what was added here since."""
        self._count_again = 0.0
        self._dropped = 0
        self._complained = -_COMPLAIN_SECONDS

    def add(self, connection: Connection, ended: Sequence[tuple[str, int]]) -> None:
        """Remembers attempts, by scorer run and number, in the transaction that ends them. What finds no room is
        counted and told of."""
        if not self._most or not ended:
            return
        if time.monotonic() >= self._count_again:
            some = select(exports.c.attempt).limit(self._most).subquery()
            self._waiting = connection.execute(select(func.count()).select_from(some)).scalar_one()
            self._count_again = time.monotonic() + _BELIEF_SECONDS
        fitting = ended[: max(0, self._most - self._waiting)]
        if fitting:
            rows: list[dict[str, Any]] = [
                {"scorer_run_id": key, "attempt": attempt, "due_time": 0.0, "tries": 0} for key, attempt in fitting
            ]
            insert_new(connection, exports, rows)
            self._waiting += len(fitting)
        if len(fitting) < len(ended):
            self._drop(connection, len(ended) - len(fitting))

    def _drop(self, connection: Connection, number: int) -> None:
        count_dropped(connection, number)
        self._dropped += number
        now = time.monotonic()
        if now >= self._complained + _COMPLAIN_SECONDS:
            self._complained = now
            logger.warning("%d results will not be exported: %d wait already", self._dropped, self._waiting)
            self._dropped = 0


def count_dropped(connection: Connection, number: int) -> None:
    """Counts results that will not arrive."""
    dropped = update(counters).where(counters.c.name == EXPORTS_DROPPED)
    connection.execute(dropped.values(value=counters.c.value + number))
