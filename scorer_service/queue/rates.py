"""Rates that all replicas share: permits for attempts, and what the providers of judge models taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from sqlalchemy import select, update
from sqlalchemy.engine import Connection

from scorer_service.queue.pace import FIRST_PER_SECOND, Pace
from scorer_service.results.batches import insert_new
from scorer_service.results.records import Finished
from scorer_service.results.schema import NOW, rate_limits

_UNLIMITED: Final = 1e9


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit shared by all replicas: so many attempts a second, on average, under this name."""

    name: str
    per_second: float | None
    """None: no limit but what is learned."""
    burst: int
    adaptive: bool = False
    """Whether the provider's answers slow it down further: see `pace`."""


class Permits:
    """The rate of an offer, for one claim."""

    def __init__(self, connection: Connection, rate: Rate | None) -> None:
        self._connection = connection
        self._rate = rate
        if rate is not None:
            self._now, self._pace = _pace(connection, rate.name)
            if not rate.adaptive:
                self._pace = Pace(self._pace.next_time, per_second=_UNLIMITED)

    def room(self, count: int) -> int:
        """How many of so many attempts may be made now."""
        if self._rate is None:
            return count
        return min(count, self._pace.room(self._now, self._rate.per_second, self._rate.burst))

    def take(self, count: int) -> None:
        """Uses permits."""
        if self._rate is None or not count:
            return
        self._pace.take(self._now, count, self._rate.per_second)
        values = {"next_time": self._pace.next_time}
        if self._rate.adaptive:
            values["blocked_until"] = self._pace.blocked_until
        limited = update(rate_limits).where(rate_limits.c.name == self._rate.name)
        self._connection.execute(limited.values(**values))


def _pace(connection: Connection, name: str) -> tuple[float, Pace]:
    """The database's clock, and the pace of a model, locked until the transaction ends."""
    insert_new(connection, rate_limits, [{"name": name, "next_time": 0.0}])
    row = connection.execute(select(rate_limits, NOW).where(rate_limits.c.name == name).with_for_update()).one()
    first = FIRST_PER_SECOND if row.per_second is None else row.per_second
    return row[-1], Pace(row.next_time, first, row.cautious, row.cut_time, row.blocked_until, row.failures)


def learn(connection: Connection, by_model: Mapping[str, Sequence[Finished]]) -> None:
    for model in sorted(by_model):
        now, pace = _pace(connection, model)
        for done in sorted(by_model[model], key=lambda done: done.job.start_time):
            asked, sent = done.asked, done.job.start_time
            assert asked is not None
            if asked.answered == "rate_limited":
                pace.refused(now, sent, asked.delay_seconds)
            elif asked.answered == "provider_unavailable":
                pace.failed(now, sent)
            else:
                pace.answered(now, sent)
        limited = update(rate_limits).where(rate_limits.c.name == model)
        connection.execute(limited.values(**asdict(pace)))
