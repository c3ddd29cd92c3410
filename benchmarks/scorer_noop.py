"""The scorer of the benchmark: as little as a scorer can do."""

from scorer_service import Sample, Score, scorer


@scorer(id="no-op", version="1")
async def no_op(sample: Sample) -> Score:
    """Nothing."""
    return Score(1.0)
