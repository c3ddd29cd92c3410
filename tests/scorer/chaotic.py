"""Scorers for the chaos runs."""

from __future__ import annotations

import asyncio
import os
import random
import signal

from scorer_service import Sample, Score, scorer


@scorer(id="chaotic", version="1")
async def chaotic(sample: Sample) -> Score:
    """Takes a while, so that a kill hits something."""
    await asyncio.sleep(random.uniform(0.02, 0.12))
    return Score(len(sample.output_text))


@scorer(id="poison", version="1")
async def poison(sample: Sample) -> Score:
    """Kills its worker."""
    os.kill(os.getpid(), signal.SIGKILL)
    return Score(0)
