"""Pictures of numbers that stand in a table beside them: where their marks lie, in units of the picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import quantiles
from typing import Final

from runwire.agent.v1 import run_pb2
from runwire.scorer.v1 import scorer_run_pb2

WIDTH: Final = 600.0
HEIGHT: Final = 120.0
LARGEST: Final = 1e100
"""What is beyond is left out: no picture shows it, and sums of it overflow."""
_MOST_SPANS: Final = 12
_BAR: Final = 12.0
_LEAST: Final = 1.5
"""Width of what is too short to be seen."""


@dataclass(frozen=True)
class Bar:
    """An attempt on the time line of its run."""

    attempt: int
    x: float
    y: float
    width: float
    outcome: str


def timeline(run: run_pb2.Run, now: datetime) -> list[Bar]:
    """The attempts of a run between its creation and its end, or now; one line each, in order."""
    begin = _seconds(run.create_time)
    end = _seconds(run.end_time) if run.end_time.seconds else now.timestamp()
    whole = max(end - begin, 1e-3)
    bars = []
    for line, each in enumerate(run.attempts):
        first = _seconds(each.start_time) - begin
        last = (_seconds(each.end_time) if each.end_time.seconds else end) - begin
        x = min(max(first / whole, 0.0), 1.0) * (WIDTH - _LEAST)
        width = min(max((last - first) / whole * WIDTH, _LEAST), WIDTH - x)
        bars.append(Bar(each.attempt, x, line * (_BAR + 4), width, each.outcome or "running"))
    return bars


@dataclass(frozen=True)
class Spread:
    """How scores of one version spread within one span of time."""

    begin: datetime
    count: int
    mean: float
    low: float
    quarter: float
    median: float
    three_quarters: float
    high: float
    x: float = 0.0
    """Of its middle in the picture; y of the numbers is `Distribution.y`."""


@dataclass(frozen=True)
class Distribution:
    """The scores of one version over time."""

    version: str
    spreads: Sequence[Spread]
    bottom: float
    top: float

    def y(self, value: float) -> float:
        """Where a score lies in the picture; high ones are above."""
        return (HEIGHT - 10) - (value - self.bottom) / (self.top - self.bottom) * (HEIGHT - 20)


def distributions(scored: Iterable[scorer_run_pb2.ScorerRun]) -> list[Distribution]:
    """Of scorer runs that have a score: for each version, newest first, at most 12 spans of time, which all versions
    share, and so do they the scale: 0 to 1 unless a score is beyond."""
    found = [(each.scorer_version, _seconds(each.create_time), each.score.value) for each in scored]
    found = [each for each in found if abs(each[2]) < LARGEST]  # and no NaN
    if not found:
        return []
    begin, end = min(each[1] for each in found), max(each[1] for each in found)
    length = max((end - begin) / _MOST_SPANS, 1.0)
    bottom, top = min(0.0, *(each[2] for each in found)), max(1.0, *(each[2] for each in found))
    by_version: dict[str, dict[int, list[float]]] = {}
    for version, at, value in sorted(found, key=lambda each: -each[1]):
        span = min(int((at - begin) / length), _MOST_SPANS - 1)
        by_version.setdefault(version, {}).setdefault(span, []).append(value)
    return [
        Distribution(
            version,
            [_spread(values, span, begin + span * length) for span, values in sorted(spans.items())],
            bottom,
            top,
        )
        for version, spans in by_version.items()
    ]


def _spread(values: list[float], span: int, begin: float) -> Spread:
    ordered = sorted(values)
    first, middle, third = quantiles(ordered, n=4, method="inclusive") if len(ordered) > 1 else ordered * 3
    return Spread(
        datetime.fromtimestamp(begin, UTC),
        len(ordered),
        math.fsum(ordered) / len(ordered),
        ordered[0],
        first,
        middle,
        third,
        ordered[-1],
        (span + 0.5) * WIDTH / _MOST_SPANS,
    )


def _seconds(timestamp: object) -> float:
    seconds: float = timestamp.seconds + timestamp.nanos / 1e9  # type: ignore[attr-defined]
    return seconds
