"""Pictures lie where the numbers are."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from gateway.pages import charts
from runwire.agent.v1 import run_pb2
from runwire.scorer.v1 import scorer_run_pb2

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


def scored(version: str, at: int, value: float) -> scorer_run_pb2.ScorerRun:
    score = scorer_run_pb2.Score(value=value)
    return scorer_run_pb2.ScorerRun(scorer_version=version, create_time=Timestamp(seconds=at), score=score)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 2**37), NUMBERS), max_size=60))
def test_every_score_is_in_one_span(found: list[tuple[str, int, float]]) -> None:
    """Whatever the scores are, each that can be drawn is counted once, and every mark lies in the picture."""
    made = charts.distributions(scored(*each) for each in found)
    finite = [each for each in found if abs(each[2]) < charts.LARGEST]
    assert sum(one.count for each in made for one in each.spreads) == len(finite)
    assert {each.version for each in made} == {version for version, _, _ in finite}
    for each in made:
        assert len(each.spreads) <= 12
        for one in each.spreads:
            assert 0 <= one.x <= charts.WIDTH
            marks = (one.low, one.quarter, one.median, one.three_quarters, one.high)
            assert list(marks) == sorted(marks)
            assert all(0 <= each.y(mark) <= charts.HEIGHT for mark in marks)


def test_versions_share_their_scale() -> None:
    """Two versions can be compared by eye: time and scores have one scale, the newer version is first."""
    newer, older = charts.distributions([scored("2", 100, 3.0), scored("1", 0, 0.5), scored("1", 1, 1.0)])
    assert (newer.version, older.version) == ("2", "1")
    assert (newer.bottom, newer.top) == (older.bottom, older.top) == (0.0, 3.0)
    assert newer.spreads[0].x > older.spreads[0].x
    assert (older.spreads[0].count, older.spreads[0].median) == (2, 0.75)


@pytest.mark.parametrize("end", [0, 10, 5])
def test_attempts_lie_in_their_run(end: int) -> None:
    """Attempts are drawn within their run, one that is being made up to now, and none is too small to be seen."""
    run = run_pb2.Run(create_time=Timestamp(seconds=1), end_time=Timestamp(seconds=end))
    for attempt, (first, last) in enumerate([(1, 2), (3, 3), (4, 0)], 1):
        made = run.attempts.add(attempt=attempt, start_time=Timestamp(seconds=first))
        made.end_time.seconds = last
    bars = charts.timeline(run, datetime.fromtimestamp(11, UTC))
    assert [each.attempt for each in bars] == [1, 2, 3]
    for each in bars:
        assert 0 <= each.x < each.x + each.width <= charts.WIDTH
        assert each.width >= 1
    assert bars[0].x == 0
    assert charts.WIDTH - (bars[2].x + bars[2].width) < 2
