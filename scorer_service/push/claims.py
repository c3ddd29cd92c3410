"""The queue as a dispatcher sees it: what is claimed is in an executor's hands, and its silence is no death."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlalchemy import Integer, bindparam, func, select

from scorer_service.port.claims import Claims
from scorer_service.push.targets import Target
from scorer_service.queue.backlog import Backlog
from scorer_service.results.database import Database
from scorer_service.results.records import Error, State
from scorer_service.results.schema import NOW, Lane, scorer_runs

c = scorer_runs.c

_HELD: Final = select(func.count()).select_from(
    select(1)
    .where(
        c.tenant == bindparam("tenant"),
        c.scorer_id == bindparam("scorer_id"),
        c.wanted_version.in_(bindparam("versions", expanding=True)),
        c.lane.in_([int(lane) for lane in Lane]),
        c.due_time > NOW,
        c.state == int(State.RUNNING),
    )
    .limit(bindparam("most", type_=Integer))
    .subquery()
)


class PushClaims(Claims):
    """The queue of one target."""

    def __init__(self, database: Database, target: Target, *, worker: str, backlog: Backlog) -> None:
        super().__init__(
            database,
            worker=worker,
            tenant=target.tenant,
            versions=versions_of(target),
            lease_seconds=target.lease_seconds,
            max_losses=target.max_silences,
            backlog=backlog,
        )
        self._target = target

    async def held(self) -> int:
        """How many are in the executor's hands, whichever dispatcher gave them, up to its concurrency."""
        values = {
            "tenant": self._target.tenant,
            "scorer_id": self._target.scorer_id,
            "versions": ["", self._target.version],
            "most": self._target.concurrency,
        }
        return await self._database.look(lambda connection: int(connection.execute(_HELD, values).scalar_one()))

    def _wants_process(self, row: Any, losses: int, *, beside_others: bool) -> bool:
        return False

    def _end_of(self, row: Any, losses: int, now: float, *, died: bool) -> Error | None:
        if died and losses >= self._max_losses:
            return Error("executor_silent", f"nothing was heard of {losses} claims of it")
        return super()._end_of(row, losses, now, died=False)


def versions_of(target: Target) -> Mapping[str, Sequence[str]]:
    """What the target carries out."""
    return {target.scorer_id: [target.version]}
