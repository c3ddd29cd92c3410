"""What is to be done, looked at again and again for metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, ExitStack
from typing import Final

from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from runwire import metrics
from runwire.pubsub import MAX_COUNTED
from scorer_service.queue.holders import Holders, Queue
from scorer_service.results.database import Database
from scorer_service.results.schema import exports

_LOOK_SECONDS: Final = 10.0


class Depth:
    """The queues of scorers and the results that wait to be exported, as of the last look."""

    def __init__(self, database: Database, holders: Holders) -> None:
        self._database = database
        self._holders = holders
        self._queues: Sequence[Queue] = ()
        self._now = 0.0
        self._exports = 0

    async def look_once(self) -> float:
        """Looks; returns when to look again."""
        self._queues, self._now = await self._holders.queues()
        self._exports = await self._database.read(_waiting)
        return _LOOK_SECONDS

    def measure(self, stack: ExitStack | AsyncExitStack) -> None:
        """Tells metrics of it until `stack` is left."""
        stack.enter_context(metrics.SCORER_DUE.watch(lambda: self._each(lambda queue: queue.due)))
        stack.enter_context(metrics.SCORER_AGE.watch(lambda: self._each(self._age)))
        stack.enter_context(metrics.SCORER_WORKERS.watch(lambda: self._each(lambda queue: queue.workers)))
        stack.enter_context(metrics.SCORER_EXPORTS.watch(lambda: [(self._exports, {})]))

    def _age(self, queue: Queue) -> float:
        return max(0.0, self._now - queue.oldest_due) if queue.due else 0.0

    def _each(self, value: Callable[[Queue], float]) -> list[tuple[float, metrics.Labels]]:
        return [(value(queue), {"scorer": queue.scorer_id, "version": queue.version}) for queue in self._queues]


def _waiting(connection: Connection) -> int:
    some = select(exports.c.attempt).limit(MAX_COUNTED).subquery()
    count: int = connection.execute(select(func.count()).select_from(some)).scalar_one()
    return count
