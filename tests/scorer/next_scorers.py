"""Scorers of the next release: a version more, and one that is new."""

from __future__ import annotations

from scorer_service import Sample, Score, scorer


@scorer(id="brevity", version="2")
async def brevity_2(sample: Sample) -> Score:
    return Score(0.5, "second")


@scorer(id="brevity", version="3")
async def brevity_3(sample: Sample) -> Score:
    return Score(0.3, "third")


@scorer(id="fresh", version="1")
async def fresh(sample: Sample) -> Score:
    return Score(1)
