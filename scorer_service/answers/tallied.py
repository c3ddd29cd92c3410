"""The statements that count scorer runs: from what is kept (`schema.tallies`), and from the rows themselves where the
hours in which a window begins and ends are not wanted as a whole.

One statement has all of it, so that what is added up meanwhile is neither missed nor counted twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import BigInteger, ColumnElement, Double, Select, and_, case, cast, func, literal, select, union_all
from sqlalchemy.types import SmallInteger

from scorer_service.results.records import OPEN, State
from scorer_service.results.schema import kinds, scorer_runs, tallied, tallies, tally_changes

k = kinds.c
_HOUR_SECONDS: Final = 3600.0
_DAY_HOURS: Final = 24
_FAR_HOURS: Final = 1 << 40
_DECADE_PLACES: Final = 1000
_FIRST_DECADE_SECONDS: Final = 1e-3

COMPLETE: Final = select(tallied.c.complete)
"""Whether everything is in what is kept. Once it is, it stays so."""


@dataclass(frozen=True, slots=True)
class Window:
    """Which scorer runs are counted: those of a tenant, of one scorer or all, created in a window."""

    tenant: str
    scorer_id: str = ""
    after: float | None = None
    before: float | None = None

    def conditions(self, of: Any) -> list[ColumnElement[bool]]:
        """On rows with a tenant, a scorer and a time of creation."""
        return [*self.whose(of), *self.created(of)]

    def created(self, of: Any) -> list[ColumnElement[bool]]:
        """On rows with a time of creation."""
        found = []
        if self.after is not None:
            found.append(of.create_time > self.after)
        if self.before is not None:
            found.append(of.create_time < self.before)
        return found

    def whose(self, of: Any) -> list[ColumnElement[bool]]:
        """On rows with a tenant and a scorer. Requests that could not be understood are nobody's."""
        scorer = of.scorer_id == self.scorer_id if self.scorer_id else of.scorer_id != ""
        return [of.tenant == self.tenant, scorer]

    def hours(self) -> _Span:
        """The hours that are wanted as a whole."""
        after = None if self.after is None else math.floor(_clamped(self.after)) + 1
        before = None if self.before is None else math.floor(_clamped(self.before))
        return _Span(after, before)


def _clamped(seconds: float) -> float:
    return min(max(seconds / _HOUR_SECONDS, -1.0), float(_FAR_HOURS))


@dataclass(frozen=True, slots=True)
class _Span:
    """Hours since 1970, from one on and up to another; None: without an end."""

    first: int | None
    end: int | None

    @property
    def is_empty(self) -> bool:
        return self.first is not None and self.end is not None and self.first >= self.end

    def days(self) -> _Span:
        """The days in it, in hours."""
        first = None if self.first is None else -(-self.first // _DAY_HOURS) * _DAY_HOURS
        return _Span(first, None if self.end is None else self.end // _DAY_HOURS * _DAY_HOURS)

    def conditions(self, hour: ColumnElement[int]) -> list[ColumnElement[bool]]:
        found = []
        if self.first is not None:
            found.append(hour >= self.first)
        if self.end is not None:
            found.append(hour < self.end)
        return found


def counting(window: Window, *, kept: bool) -> Select[Any]:
    """Counts by use, state and bin of the latency. `low` is an hour since 1970 before which there is nothing open.
    Without `kept` all of it is counted from the rows, while what was there before is not in what is kept yet."""
    hours = window.hours()
    if kept and not hours.is_empty:
        parts = [*_of_tallies(window, hours), *_of_edges(window, hours)]
    else:
        parts = [_of_rows(window.conditions(k))]
    each = union_all(*parts, *_running(window)).subquery().c
    use = (each.scorer_id, each.scorer_name, each.state, each.ad_hoc, each.bin)
    number = func.sum(each.number)
    of_scale = select(
        *use, number.label("number"), func.sum(each.total).label("total"), func.min(each.low).label("low")
    )
    # Of a scale of which there are none the sum is what rounding has left.
    scales = of_scale.group_by(*use, each.scale).having(number != 0).subquery().c
    use = (scales.scorer_id, scales.scorer_name, scales.state, scales.ad_hoc, scales.bin)
    sums = (cast(func.sum(scales.number), BigInteger).label("number"), func.sum(scales.total).label("total"))
    return select(*use, *sums, func.min(scales.low).label("low")).group_by(*use)


def _of_tallies(window: Window, hours: _Span) -> list[Select[Any]]:
    """Days, the hours around them, and what is not added up yet."""
    days = hours.days()
    spans = [(1, hours)]
    if not days.is_empty:
        around = [_Span(hours.first, days.first)] if hours.first is not None else []
        around += [_Span(days.end, hours.end)] if hours.end is not None else []
        spans = [(_DAY_HOURS, days), *[(1, span) for span in around if not span.is_empty]]
    t, changes = tallies.c, tally_changes.c
    found = [
        _kept(t, t.start).where(t.period_hours == period, *window.whose(t), *span.conditions(t.start))
        for period, span in spans
    ]
    return [*found, _kept(changes, changes.hour).where(*window.whose(changes), *hours.conditions(changes.hour))]


def _kept(of: Any, hour: ColumnElement[int]) -> Select[Any]:
    low = case((of.number > 0, hour)).label("low")
    return select(of.scorer_id, of.scorer_name, of.state, of.ad_hoc, of.bin, of.scale, of.number, of.total, low)


def _of_edges(window: Window, hours: _Span) -> list[Select[Any]]:
    """What is in the window of the hours in which it begins and ends."""
    found = []
    if hours.first is not None:
        found.append(_of_rows([*window.conditions(k), k.create_time < hours.first * _HOUR_SECONDS]))
    if hours.end is not None:
        found.append(_of_rows([*window.conditions(k), k.create_time >= hours.end * _HOUR_SECONDS]))
    return found


def _of_rows(conditions: Sequence[ColumnElement[bool]]) -> Select[Any]:
    # By state first, as the index has it.
    of_any = k.kept_state.in_([int(state) for state in State])
    keys = (k.scorer_id, k.scorer_name, k.state, k.ad_hoc, k.bin, k.scale)
    sums = (func.count().label("number"), func.sum(k.score).label("total"), func.min(k.hour).label("low"))
    return select(*keys, *sums).where(of_any, *conditions).group_by(*keys)


def _running(window: Window) -> list[Select[Any]]:
    """What is RUNNING is kept as PENDING, and told from it here: workers have never more than they have places."""
    c = scorer_runs.c
    # Found by state, and by nothing that there may be more of.
    use = (c.scorer_id.concat("").label("scorer_id"), c.scorer_name.concat("").label("scorer_name"))
    whose = (c.state == int(State.RUNNING), c.tenant.concat("") == window.tenant, *window.created(c), use[0] != "")
    if window.scorer_id:
        whose = (*whose, use[0] == window.scorer_id)
    low = cast(func.min(c.create_time) / _HOUR_SECONDS - 1.0, BigInteger)
    none: Any = [cast(literal(0), SmallInteger).label(name) for name in ("ad_hoc", "bin", "scale")]
    return [
        select(
            *use,
            cast(literal(int(state)), SmallInteger).label("state"),
            *none,
            (sign * func.count()).label("number"),
            cast(literal(0.0), Double).label("total"),
            low.label("low"),
        )
        .where(*whose)
        .group_by(*use)
        for state, sign in ((State.RUNNING, 1), (State.PENDING, -1))
    ]


def oldest(window: Window, use: tuple[str, str], low: int) -> Select[Any]:
    """When the oldest of each state that is open was created, of one use of a scorer, which has none before an hour."""
    c = scorer_runs.c
    of_use = and_(c.scorer_id == use[0], c.scorer_name == use[1], c.create_time >= low * _HOUR_SECONDS)
    if low <= 0:
        of_use = and_(c.scorer_id == use[0], c.scorer_name == use[1])
    columns = [
        select(c.create_time)
        .where(c.state == int(state), *window.conditions(c), of_use)
        .order_by(c.create_time)
        .limit(1)
        .scalar_subquery()
        for state in OPEN
    ]
    return select(*columns)


def latency_seconds(place: int) -> float:
    """The upper end of a bin: at most one percent above what is in it."""
    decade, digits = divmod(place, _DECADE_PLACES)
    width = 1 if digits < 200 else 2 if digits < 500 else 5
    return float((digits + width) / _DECADE_PLACES * _FIRST_DECADE_SECONDS * 10.0**decade)
