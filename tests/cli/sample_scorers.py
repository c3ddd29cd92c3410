"""Scorers for the tests of the command line: one that always fails."""

from scorer_service import NonRetriableError, Sample, Score, scorer


@scorer(id="grumpy", version="1")
async def grumpy(sample: Sample) -> Score:
    """Never scores anything."""
    raise NonRetriableError("not today")


@scorer(id="length", version="2")
async def length(sample: Sample) -> Score:
    """How long the answer is."""
    return Score(value=float(len(str(sample.output))), label="long", reason="counted")
