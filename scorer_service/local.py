"""Scorers without any service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from scorer_service.registry import prebuilt
from scorer_service.scorers.model import configured_judge
from scorer_service.scoring import Judge, Sample, Score, Scorer, evaluate


async def run_scorer(
    scorer: Scorer | str, sample: Sample, options: Mapping[str, Any] | None = None, *, judge: Judge | str | None = None
) -> Score:
    """Scores a sample in this process, without any service: the same result as the service's, for tests and notebooks.

    `scorer` may be the id of a prebuilt one. `judge` is the model of scorers that ask one: a pydantic-ai model string
    such as `openai:gpt-4o-mini`; None takes RUNWIRE_JUDGE_MODEL. Raises as `evaluate`; ConfigurationError for an
    unknown id and for a judge that is not configured.
    """
    if isinstance(scorer, str):
        scorer = prebuilt(scorer)
    if scorer.judge and (judge is None or isinstance(judge, str)):
        judge = configured_judge(judge)
    return await evaluate(scorer, sample, options, judge=cast("Judge | None", judge))
