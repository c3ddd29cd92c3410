"""Counts, ages and latencies by scorer.

They come from counts that are kept with every change (see `tallied`). Its result is kept for 20 times as long as it
took, 10 seconds at most, and those who ask meanwhile get that. All who ask for the same at once wait for one pass, and
one pass at a time is made. Whatever is asked for again and again is brought up to date in the background, so that
nobody waits for it.

What an autoscaler needs is never old: `oldest_due_age` and `paused` are looked up after it has asked, from the queue's
index, once for all who asked meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Integer, case, func, literal, null, select
from sqlalchemy.engine import Connection

from scorer_service.answers.gate import Gate
from scorer_service.answers.tallied import COMPLETE, Window, counting, latency_seconds, oldest
from scorer_service.results.database import Database
from scorer_service.results.records import OPEN, State
from scorer_service.results.schema import NOW, Lane, scorer_runs, scorers

c = scorer_runs.c

MAX_AGE_SECONDS: Final = 10.0
"""Oldest counts that are given out, unless the database does not answer."""
_TIMES_COST: Final = 20.0
_WANTED_SECONDS: Final = 60.0
"""How long what was asked for is brought up to date."""
_KEPT: Final = 128
_WAITING: Final = 63
_LOOK_SECONDS: Final = 0.5


Use = tuple[str, str]
"""A scorer, and the name under which it is used."""


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of one use of a scorer."""

    scorer_id: str
    scorer_name: str
    counts: dict[int, int]
    cancelled_ad_hoc: int
    oldest_age: float | None
    """Of those that are open, since their creation."""
    oldest_due_age: float | None
    """Since what is due, and not held, became due: of all, whatever the window."""
    latencies: tuple[float, float, float] | None
    """50th, 95th and 99th percentile of the seconds from creation to score."""
    mean_score: float | None
    paused: bool


@dataclass(slots=True)
class _Counted:
    """What a pass found of one scorer."""

    counts: dict[int, int] = field(default_factory=dict)
    cancelled_ad_hoc: int = 0
    oldest: float | None = None
    sum_of_scores: float = 0.0
    bins: dict[int, int] = field(default_factory=dict)
    """Of latencies: how many are at a place in their order. Until they are counted."""
    latencies: tuple[float, float, float] | None = None

    def count_latencies(self) -> None:
        """Makes the percentiles of the bins."""
        bins = sorted(self.bins.items())
        if bins:
            self.latencies = (_percentile(bins, 50), _percentile(bins, 95), _percentile(bins, 99))
        self.bins = {}


@dataclass(slots=True)
class _Kept:
    """The result of a pass."""

    counted: dict[Use, _Counted]
    made: float
    cost_seconds: float
    asked: float

    def age(self, now: float) -> float:
        return now - self.made

    @property
    def good_seconds(self) -> float:
        return min(MAX_AGE_SECONDS, _TIMES_COST * self.cost_seconds)


class _Pass:
    """A pass that others wait for."""

    def __init__(self) -> None:
        self.over = asyncio.Event()
        self.error: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Held:
    """A scorer, as it is now."""

    paused: bool
    due_since: float | None


@dataclass(frozen=True, slots=True)
class _Look:
    """A look-up of the scorers, by its number, and the database's clock with them, or why there are none."""

    number: int
    found: tuple[float, dict[str, _Held]] | None
    error: Exception | None


class Statistics:
    """The statistics of this process. Raises TooManyRequests where too many different ones are asked for at once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._gate = Gate("statistics", at_once=1, waiting=_WAITING)
        self._kept: OrderedDict[Window, _Kept] = OrderedDict()
        self._passes: dict[Window, _Pass] = {}
        self._looking = asyncio.Lock()
        self._looks = 0
        self._looked: _Look | None = None

    async def ask(self, window: Window) -> list[Stats]:
        """Counts by scorer. Raises StoreUnavailable, TooManyRequests."""
        kept = await self._fresh(window)
        now, held = await self._look()
        return [_stats(use, kept.counted[use], now, held.get(use[0])) for use in sorted(kept.counted)]

    async def run_once(self) -> float:
        """Brings up to date what is asked for again and again, and is about to be too old."""
        now = time.monotonic()
        for window, kept in list(self._kept.items()):
            if now > kept.asked + _WANTED_SECONDS:
                del self._kept[window]
            elif window in self._passes:
                continue
            elif kept.good_seconds > 2 * _LOOK_SECONDS and kept.age(now) > kept.good_seconds - 2 * _LOOK_SECONDS:
                await self._make(window)
        return _LOOK_SECONDS

    async def _look(self) -> tuple[float, dict[str, _Held]]:
        """The scorers as they are, from a look-up that began after this was called, but not only for it."""
        begun = self._looks
        async with self._looking:
            look = self._looked
            if look is None or look.number <= begun:
                self._looks += 1
                look = self._looked = _Look(self._looks, *await self._try_look())
        if look.found is None:
            raise look.error or RuntimeError("a look-up without a result")
        return look.found

    async def _try_look(self) -> tuple[tuple[float, dict[str, _Held]] | None, Exception | None]:
        try:
            return await self._database.read(_held), None
        except Exception as error:  # it is that of all who wait: they must not try in vain one after the other
            return None, error

    async def _fresh(self, window: Window) -> _Kept:
        while True:
            now = time.monotonic()
            kept = self._kept.get(window)
            if kept is not None and kept.age(now) <= kept.good_seconds:
                kept.asked = now
                return kept
            running = self._passes.get(window)
            if running is None:
                return await self._make(window)
            await running.over.wait()
            if running.error is not None:
                raise running.error

    async def _make(self, window: Window) -> _Kept:
        running = self._passes[window] = _Pass()
        try:
            async with self._gate:
                began = time.monotonic()
                counted = await self._database.read(lambda connection: _pass(connection, window))
        except Exception as error:
            running.error = error
            raise
        finally:
            del self._passes[window]
            running.over.set()
        known = self._kept.get(window)
        kept = _Kept(counted, began, time.monotonic() - began, known.asked if known else began)
        self._kept[window] = kept
        self._kept.move_to_end(window)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return kept


_STATES: Final = frozenset(map(int, State))


def _pass(connection: Connection, window: Window) -> dict[Use, _Counted]:
    found: dict[Use, _Counted] = {}
    lows: dict[Use, int] = {}
    for row in connection.execute(counting(window, kept=connection.execute(COMPLETE).scalar_one())):
        # SQLite keeps whatever a damaged row has in a column: such a row must not take the statistics with it.
        if row.state not in _STATES or row.number <= 0:
            continue
        use = str(row.scorer_id), str(row.scorer_name)
        one = found.setdefault(use, _Counted())
        one.counts[row.state] = one.counts.get(row.state, 0) + row.number
        one.cancelled_ad_hoc += row.number if row.ad_hoc else 0
        if row.state in OPEN and row.low is not None:
            lows[use] = min(row.low, lows.get(use, row.low))
        if row.state == State.SUCCEEDED:
            one.sum_of_scores += row.total or 0.0
            one.bins[row.bin] = one.bins.get(row.bin, 0) + row.number
    for use, one in found.items():
        if use in lows:
            times = connection.execute(oldest(window, use, lows[use])).one()
            one.oldest = min((time for time in times if isinstance(time, float)), default=None)
        one.count_latencies()  # once, and not again for everybody who asks
    return found


def _percentile(bins: Sequence[tuple[int, int]], percent: int) -> float:
    """By nearest rank, of what is in order: the upper end of its bin."""
    total, seen = sum(number for _, number in bins), 0
    for place, number in bins:
        seen += number
        if seen * 100 >= total * percent:
            return latency_seconds(place)
    return latency_seconds(bins[-1][0])


def _first_version(scorer_id: Any, above: Any = None) -> Any:
    """The first version that is wanted of a scorer, of what is open, after another one."""
    wanted = select(func.min(c.wanted_version)).where(c.scorer_id == scorer_id, c.due_time.is_not(None))
    if above is not None:
        wanted = wanted.where(c.wanted_version > above)
    return wanted.scalar_subquery().label("version")


_WANTED: Final = select(scorers.c.scorer_id, scorers.c.paused, _first_version(scorers.c.scorer_id)).cte(
    "wanted", recursive=True
)
_VERSIONS: Final = _WANTED.union_all(
    select(_WANTED.c.scorer_id, _WANTED.c.paused, _first_version(_WANTED.c.scorer_id, _WANTED.c.version)).where(
        _WANTED.c.version.is_not(None)
    )
)
"""Each scorer with each version that is wanted of it, and with none at last: as many look-ups in the index of claims as
there are of them, and not one for each scorer run."""


def _due_since(lane: Lane) -> Any:
    of_version = (c.scorer_id == _VERSIONS.c.scorer_id, c.wanted_version == _VERSIONS.c.version)
    due = (c.lane == literal(int(lane), Integer), c.due_time <= NOW)
    return select(func.min(c.due_time)).where(*of_version, *due).scalar_subquery()


HELD: Final = select(
    NOW.label("now"),
    _VERSIONS.c.scorer_id,
    _VERSIONS.c.paused,
    *[case((_VERSIONS.c.paused, null()), else_=_due_since(lane)).label(lane.name) for lane in Lane],
)
"""The scorers by version, with since when something of each lane is due of those that are not paused."""


def _held(connection: Connection) -> tuple[float, dict[str, _Held]]:
    found, now = dict[str, _Held](), 0.0
    for row in connection.execute(HELD):
        now = row.now
        due = [since for since in (getattr(row, lane.name) for lane in Lane) if since is not None]
        if row.scorer_id in found and (known := found[row.scorer_id].due_since) is not None:
            due.append(known)
        found[row.scorer_id] = _Held(bool(row.paused), min(due, default=None))
    return now or float(connection.execute(select(NOW)).scalar_one()), found


def _stats(use: Use, counted: _Counted, now: float, held: _Held | None) -> Stats:
    scored = counted.counts.get(State.SUCCEEDED, 0)
    due_since = held.due_since if held else None
    return Stats(
        scorer_id=use[0],
        scorer_name=use[1],
        counts=counted.counts,
        cancelled_ad_hoc=counted.cancelled_ad_hoc,
        oldest_age=None if counted.oldest is None else now - counted.oldest,
        oldest_due_age=None if due_since is None else now - due_since,
        latencies=counted.latencies,
        mean_score=counted.sum_of_scores / scored if scored else None,
        paused=held is not None and held.paused,
    )
