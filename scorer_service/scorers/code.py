"""Scorers that need no model: formulas over text and tool calls."""

from __future__ import annotations

from difflib import SequenceMatcher
from statistics import pstdev
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from rapidfuzz import fuzz, process

from scorer_service.scorers.text import content_words, is_subsequence, normal, sentences, words
from scorer_service.scorers.tone import tone
from scorer_service.scoring import NonRetriableError, NotScorable, Sample, Score, ToolCall, scorer, text_of

_MAX_WORDS: Final = 5_000
_MAX_LISTED: Final = 100
"""Most names in the metadata of a score, which has its bounds."""
_MAX_PAIRS: Final = 10_000_000
"""Most pairs of words to compare: half a second of work, during which the scorers beside it wait."""
_MAX_CHARACTER_PAIRS: Final = 10_000_000_000
"""The same for characters, of which many are compared at once."""
_MAX_CALL_PAIRS: Final = {"strict": 1_000_000, "in-order": 1_000_000, "any": 40_000}


class StrictOptions(BaseModel):
    """A name that is not known is a mistake, not something to ignore."""

    model_config = ConfigDict(extra="forbid")


class SimilarityOptions(StrictOptions):
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
    value = likeness(left, right)
    compared = "ground truth" if sample.ground_truth is not None else "input"
    return Score(value, reason=f"{value:.0%} of the characters of {compared} and output agree in order")


def likeness(left: str, right: str) -> float:
    """The normalised indel similarity of two texts, from 0 to 1. Raises NotScorable for texts that are too long."""
    if len(left) * len(right) > _MAX_CHARACTER_PAIRS:
        raise NotScorable(f"texts of {len(left)} and {len(right)} characters are too long to compare")
    return fuzz.ratio(left, right) / 100 if left or right else 1.0


class KeywordOptions(StrictOptions):
    keywords: list[str] = Field(default_factory=list, max_length=1000)
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
    said = words(sample.output_text)
    single, text = set(said), f" {' '.join(said)} "
    missing = [keyword for keyword in keywords if not _is_mentioned(words(keyword), single, text)]
    found = len(keywords) - len(missing)
    reason = f"{found} of {len(keywords)} keywords are mentioned"
    if missing:
        reason += f"; missing: {', '.join(missing[:20])}"
    metadata = {"keywords": keywords[:_MAX_LISTED], "missing": missing[:_MAX_LISTED]}
    return Score(found / len(keywords), reason=reason, metadata=metadata)


def _is_mentioned(keyword: list[str], single: set[str], text: str) -> bool:
    return keyword[0] in single if len(keyword) == 1 else f" {' '.join(keyword)} " in text


@scorer(id="textual-difference", version="1")
def textual_difference(sample: Sample) -> Score:
    """How alike the words of input and output are, or of ground truth and output where there is one.

    2 * M / T: M words lie in matching blocks, T words are in both texts together (Ratcliff and Obershelp, as in
    difflib.SequenceMatcher). `metadata` counts the changes and says how much the lengths differ.
    """
    wanted = sample.ground_truth if sample.ground_truth is not None else sample.input
    left, right = words(text_of(wanted)), words(sample.output_text)
    if max(len(left), len(right)) > _MAX_WORDS:
        raise NotScorable(f"more than {_MAX_WORDS} words to compare")
    matcher = SequenceMatcher(None, left, right, autojunk=False)
    changes = sum(1 for tag, *_ in matcher.get_opcodes() if tag != "equal")
    longer = max(len(left), len(right))
    apart = abs(len(left) - len(right)) / longer if longer else 0.0
    return Score(
        matcher.ratio(),
        reason=f"{changes} changes; the lengths differ by {apart:.0%}",
        metadata={"changes": changes, "length_difference": round(apart, 6)},
    )


class CompletenessOptions(StrictOptions):
    similarity: float = Field(default=0.85, ge=0.5, le=1.0)
    """From which likeness on a word of the output stands for one of the input: `works` for `work`."""


@scorer(id="completeness", version="1")
async def completeness(sample: Sample, options: CompletenessOptions) -> Score:
    """How much of each part of the input the output takes up.

    The input (or the ground truth, where there is one) is cut into sentences. A sentence counts with the share of
    its content words that the output has, or has something like (normalised indel similarity, so that inflected words
    count); the score is the mean over the sentences. So a question that is passed over shows, however short it is.
    """
    wanted = sample.ground_truth if sample.ground_truth is not None else sample.input
    parts = [found for sentence in sentences(text_of(wanted)) if (found := content_words(sentence))]
    if not parts:
        raise NotScorable("the input has no content words")
    said = list(dict.fromkeys(words(sample.output_text)))
    wanted_words = {word for part in parts for word in part}
    if len(wanted_words) * len(said) > _MAX_PAIRS:
        raise NotScorable(f"{len(wanted_words)} words of the input and {len(said)} of the output are too many")
    known = {word: _is_said(word, said, options.similarity) for part in parts for word in part}
    shares = [sum(known[word] for word in part) / len(part) for part in parts]
    missing = [word for word, there in known.items() if not there]
    reason = f"{len(known) - len(missing)} of {len(known)} content words in {len(parts)} sentences are taken up"
    if missing:
        reason += f"; missing: {', '.join(missing[:20])}"
    metadata = {"missing": missing[:_MAX_LISTED], "sentences": len(parts)}
    return Score(sum(shares) / len(shares), reason=reason, metadata=metadata)


def _is_said(word: str, said: list[str], similarity: float) -> bool:
    return process.extractOne(word, said, scorer=fuzz.ratio, score_cutoff=similarity * 100) is not None


class ToneOptions(StrictOptions):
    compare: Literal["input", "itself"] = "input"
    """`input`: whether the output has the tone of the input. `itself`: whether its sentences have one tone."""


@scorer(id="tone-consistency", version="1")
async def tone_consistency(sample: Sample, options: ToneOptions) -> Score:
    """Whether the tone stays the same: friendly, neutral or hostile.

    The tone of a text is s / sqrt(s^2 + 15), where s sums the weights of its emotive words (-3 to 3; after a negation
    with -0.74): from -1 to 1, 0 for a neutral text; the normalisation of VADER. Compared with the input the score is
    1 - |difference| / 2; compared with itself it is 1 - the standard deviation over its sentences.
    """
    if not words(sample.output_text):
        raise NotScorable("the output has no words")
    if options.compare == "input":
        before, after = tone(sample.input_text), tone(sample.output_text)
        value = 1.0 - abs(before - after) / 2
        return Score(
            value,
            reason=f"the tone of the input is {before:+.2f}, that of the output {after:+.2f}",
            metadata={"input_tone": round(before, 6), "output_tone": round(after, 6)},
        )
    tones = [tone(sentence) for sentence in sentences(sample.output_text)]
    spread = pstdev(tones)
    return Score(
        1.0 - spread,
        reason=f"the tones of {len(tones)} sentences spread by {spread:.2f}",
        metadata={"tones": [round(each, 6) for each in tones[:100]]},
    )


class ToolCallOptions(StrictOptions):
    expected_tool: str = ""
    """This tool must be called."""
    strict: bool = False
    """And no other."""
    expected_order: list[str] = Field(default_factory=list)
    """These tools must be called in this order; with `strict` exactly these, without it others may come between."""


@scorer(id="tool-call-accuracy", version="1")
async def tool_call_accuracy(sample: Sample, options: ToolCallOptions) -> Score:
    """Whether the expected tools were called: 1 or 0.

    With `expected_order`: 1 if the called tools contain it as a subsequence (`strict`: are it). Otherwise 1 if
    `expected_tool` is among them (`strict`: is all of them).
    """
    called = [call.tool_name for call in sample.tool_calls]
    if options.expected_order:
        expected = options.expected_order
        right = called == expected if options.strict else is_subsequence(expected, called)
    elif options.expected_tool:
        expected = [options.expected_tool]
        right = bool(called) and set(called) == set(expected) if options.strict else options.expected_tool in called
    else:
        raise NonRetriableError("give expected_tool or expected_order", reason="invalid_options")
    expected, called = expected[:_MAX_LISTED], called[:_MAX_LISTED]
    reason = f"expected {', '.join(expected)}; called {', '.join(called) or 'none'}"
    return Score(float(right), "correct" if right else "incorrect", reason, {"expected": expected, "called": called})


class ExpectedCall(StrictOptions):
    tool: str
    arguments: dict[str, Any] | None = None
    """Arguments that the call must have, among others; None: any."""


class TrajectoryOptions(StrictOptions):
    expected: list[str | ExpectedCall] = Field(min_length=1)
    """The tool calls that should be made: names, or names with arguments."""
    order: Literal["strict", "in-order", "any"] = "in-order"
    """`strict`: these and no others, in this order. `in-order`: these in this order, others between. `any`: these."""


@scorer(id="trajectory-accuracy", version="1")
async def trajectory_accuracy(sample: Sample, options: TrajectoryOptions) -> Score:
    """How much of the expected path of tool calls was taken.

    strict: 2 * L / (expected + called); in-order: L / expected; any: m / expected. L is the length of the longest
    common subsequence of the two lists, m the most calls that can be paired with expected ones.
    """
    expected = [ExpectedCall(tool=each) if isinstance(each, str) else each for each in options.expected]
    called = sample.tool_calls
    if len(called) * len(expected) > _MAX_CALL_PAIRS[options.order]:
        raise NotScorable("too many tool calls to compare")
    if options.order == "any":
        matched = _paired(expected, called)
        value = matched / len(expected)
    else:
        matched = _longest_common(expected, called)
        value = 2 * matched / (len(expected) + len(called)) if options.order == "strict" else matched / len(expected)
    names = ", ".join(call.tool_name for call in called[:50]) or "none"
    return Score(
        value,
        reason=f"{matched} of {len(expected)} expected calls were made; called: {names}",
        metadata={"matched": matched, "expected": len(expected), "called": len(called)},
    )


def _fits(expected: ExpectedCall, call: ToolCall) -> bool:
    if expected.tool != call.tool_name:
        return False
    if not expected.arguments:
        return True
    given = call.arguments if isinstance(call.arguments, dict) else {}
    return all(name in given and given[name] == value for name, value in expected.arguments.items())


def _longest_common(expected: list[ExpectedCall], called: list[ToolCall]) -> int:
    row = [0] * (len(called) + 1)
    for want in expected:
        before = row
        row = [0]
        for index, call in enumerate(called):
            row.append(before[index] + 1 if _fits(want, call) else max(before[index + 1], row[index]))
    return row[-1]


def _paired(expected: list[ExpectedCall], called: list[ToolCall]) -> int:
    """The most pairs of an expected call and a call that fits it, each used once (augmenting paths)."""
    owner: dict[int, int] = {}

    def place(want: int, tried: set[int]) -> bool:
        for index, call in enumerate(called):
            if index in tried or not _fits(expected[want], call):
                continue
            tried.add(index)
            if index not in owner or place(owner[index], tried):
                owner[index] = want
                return True
        return False

    return sum(place(want, set()) for want in range(len(expected)))
