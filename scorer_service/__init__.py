"""Scores finished runs: an own service, and a library of scorers that work without it.

from scorer_service import Sample, Score, scorer

@scorer(id="brevity", version="1")
async def brevity(sample: Sample) -> Score:
    return Score(1.0 / (1 + len(sample.output_text.split())))
"""

from scorer_service.local import run_scorer
from scorer_service.scoring import (
    Answer,
    BadScore,
    Judge,
    Judgement,
    NonRetriableError,
    NotScorable,
    Pipeline,
    ProviderUnavailable,
    RetryAfter,
    RetryPolicy,
    Sample,
    Score,
    Scorer,
    Step,
    ToolCall,
    Usage,
    scorer,
)

__all__ = [
    "Answer",
    "BadScore",
    "Judge",
    "Judgement",
    "NonRetriableError",
    "NotScorable",
    "Pipeline",
    "ProviderUnavailable",
    "RetryAfter",
    "RetryPolicy",
    "Sample",
    "Score",
    "Scorer",
    "Step",
    "ToolCall",
    "Usage",
    "run_scorer",
    "scorer",
]
