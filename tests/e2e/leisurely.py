"""A scorer that takes its time, of which a process does few at once: so that more processes are worth it."""

import asyncio

from scorer_service import Sample, Score, scorer


@scorer(id="leisurely", version="1", concurrency=4)
async def leisurely(sample: Sample) -> Score:
    """Thinks for a while."""
    await asyncio.sleep(1.5)
    return Score(1.0)
