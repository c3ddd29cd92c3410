"""Scorers that need no model: formulas over text and tool calls."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field
from rapidfuzz import fuzz

from scorer_service.scorers.text import content_words, normal, words
from scorer_service.scoring import NotScorable, Sample, Score, scorer, text_of


class _Options(BaseModel):
    """A name that is not known is a mistake, not something to ignore."""

    model_config = ConfigDict(extra="forbid")


class SimilarityOptions(_Options):
    ignore_case: bool = True
    ignore_space: bool = True


@scorer(id="content-similarity", version="1")
async def content_similarity(sample: Sample, options: SimilarityOptions) -> Score:
    """How much of the output's text is the ground truth's; without a ground truth, the input's.

    1 - d / (|a| + |b|), where d is the least number of insertions and deletions that turn one text into the other
    (the indel distance): 2 * LCS / (|a| + |b|). Two empty texts are alike: 1.
    """
    wanted = sample.ground_truth if sample.ground_truth is not None else sample.input
    shape = {"ignore_case": options.ignore_case, "ignore_space": options.ignore_space}
    left, right = normal(text_of(wanted), **shape), normal(sample.output_text, **shape)
    value = fuzz.ratio(left, right) / 100 if left or right else 1.0
    compared = "ground truth" if sample.ground_truth is not None else "input"
    return Score(value, reason=f"{value:.0%} of the characters of {compared} and output agree in order")


class KeywordOptions(_Options):
    keywords: list[str] = Field(default_factory=list)
    """What must be mentioned. Empty: the content words of the ground truth, or else of the input."""


@scorer(id="keyword-coverage", version="1")
async def keyword_coverage(sample: Sample, options: KeywordOptions) -> Score:
    """Which share of the keywords the output mentions.

    found / keywords. A keyword of several words is found where these follow each other. Case does not matter; words
    are compared whole.
    """
    wanted = sample.ground_truth if sample.ground_truth is not None else sample.input
    keywords = list(dict.fromkeys(normal(word) for word in options.keywords)) or content_words(text_of(wanted))
    keywords = [keyword for keyword in keywords if words(keyword)]
    if not keywords:
        raise NotScorable("there are no keywords, and no content words in the input to take for them")
    text = f" {' '.join(words(sample.output_text))} "
    missing = [keyword for keyword in keywords if f" {' '.join(words(keyword))} " not in text]
    found = len(keywords) - len(missing)
    reason = f"{found} of {len(keywords)} keywords are mentioned"
    if missing:
        reason += f"; missing: {', '.join(missing[:20])}"
    return Score(found / len(keywords), reason=reason, metadata={"keywords": keywords, "missing": missing})
