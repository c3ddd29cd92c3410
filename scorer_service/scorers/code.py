"""Scorers that need no model: formulas over text and tool calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from statistics import pstdev
from typing import Annotated, Any, Final, Literal, ParamSpec, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from rapidfuzz import fuzz
from rapidfuzz.distance import LCSseq

from scorer_service.scorers.equality import same
from scorer_service.scorers.text import Vocabulary, content_words, is_subsequence, normal, sentences, words
from scorer_service.scorers.tone import tone
from scorer_service.scoring import NonRetriableError, NotScorable, Sample, Score, ToolCall, scorer, text_of

_INLINE_CHARACTERS: Final = 20_000
"""Texts up to here take some milliseconds and are scored at once; longer ones in a thread, beside the other scorers."""
_MAX_CHARACTERS: Final = 2_000_000
"""Longest text that is cut into words: about two seconds of work."""
_MAX_WORDS: Final = 10_000
"""Most words of a text to compare in order."""
_MAX_PAIRS: Final = 1_000_000
"""Most pairs of words of which the likeness is measured: half a second of work."""
_MAX_LISTED: Final = 100
"""Most names in the metadata of a score."""
_MAX_CHARACTER_PAIRS: Final = 10_000_000_000
"""Most pairs of characters, of which many are compared at once."""
_MAX_CALL_PAIRS: Final = 1_000_000
_MAX_DEEP_CALL_PAIRS: Final = 40_000
"""The same where arguments are compared, or calls are paired in any order."""


class StrictOptions(BaseModel):
    """A name that is not known is a mistake, not something to ignore."""

    model_config = ConfigDict(extra="forbid")


P = ParamSpec("P")
T = TypeVar("T")


async def beside(size: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function of texts that have `size` characters together; of long ones in a thread, so that the scorers'
    loop continues meanwhile. The work of the function must be bounded: nothing stops a thread."""
    if size <= _INLINE_CHARACTERS:
        return function(*args, **kwargs)
    return await asyncio.to_thread(function, *args, **kwargs)


def texts_of(sample: Sample) -> tuple[str, str]:
    """What the output is compared with, and the output. Raises NotScorable for texts that are too long."""
    wanted = sample.ground_truth if sample.ground_truth is not None else sample.input
    left, right = text_of(wanted), sample.output_text
    if max(len(left), len(right)) > _MAX_CHARACTERS:
        raise NotScorable(f"texts of {len(left)} and {len(right)} characters; {_MAX_CHARACTERS} are the most")
    return left, right


def listed(names: list[str], most: int = _MAX_LISTED) -> list[str]:
    """The first names, and how many there are beyond."""
    return names if len(names) <= most else [*names[:most], f"... and {len(names) - most} more"]


class SimilarityOptions(StrictOptions):
    ignore_case: bool = True
    ignore_space: bool = True


@scorer(id="content-similarity", version="2")
async def content_similarity(sample: Sample, options: SimilarityOptions) -> Score:
    """How much of the output's text is the ground truth's; without a ground truth, the input's.

    1 - d / (|a| + |b|), where d is the least number of insertions and deletions that turn one text into the other
    (the indel distance): 2 * LCS / (|a| + |b|). Two empty texts are alike: 1.
    """
    left, right = texts_of(sample)
    shape = {"ignore_case": options.ignore_case, "ignore_space": options.ignore_space}
    value = await beside(len(left) + len(right), likeness_of, left, right, **shape)
    compared = "ground truth" if sample.ground_truth is not None else "input"
    return Score(value, reason=f"{value:.0%} of the characters of {compared} and output agree in order")


def likeness_of(left: str, right: str, *, ignore_case: bool = True, ignore_space: bool = True) -> float:
    """The normalised indel similarity of two texts, from 0 to 1. Raises NotScorable for texts that are too long."""
    shape = {"ignore_case": ignore_case, "ignore_space": ignore_space}
    left, right = normal(left, **shape), normal(right, **shape)
    if len(left) * len(right) > _MAX_CHARACTER_PAIRS:
        raise NotScorable(f"texts of {len(left)} and {len(right)} characters are too long to compare")
    return fuzz.ratio(left, right) / 100 if left or right else 1.0


class KeywordOptions(StrictOptions):
    keywords: list[Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]] = Field(
        default_factory=list, max_length=1000
    )
    """What must be mentioned. Empty: the content words of the ground truth, or else of the input."""


@scorer(id="keyword-coverage", version="2")
async def keyword_coverage(sample: Sample, options: KeywordOptions) -> Score:
    """Which share of the keywords the output mentions.

    found / keywords. Words are compared whole, without regard to case. A keyword of several words is found where these
    follow each other; one that has no word in it (`->`) where it stands in the text.
    """
    wanted, output = texts_of(sample)
    return await beside(len(wanted) + len(output), _coverage, wanted, output, options.keywords)


def _coverage(wanted: str, output: str, given: list[str]) -> Score:
    keywords = list(dict.fromkeys(map(normal, given))) or content_words(wanted)
    if not keywords:
        raise NotScorable("there are no keywords, and no content words to take for them")
    mentions = _Mentions(output)
    missing = [keyword for keyword in keywords if keyword not in mentions]
    found = len(keywords) - len(missing)
    reason = f"{found} of {len(keywords)} keywords are mentioned"
    if missing:
        reason += f"; missing: {', '.join(listed(missing, 20))}"
    return Score(
        found / len(keywords), reason=reason, metadata={"keywords": listed(keywords), "missing": listed(missing)}
    )


class _Mentions:
    """What a text mentions."""

    def __init__(self, text: str) -> None:
        self._text = normal(text)
        said = words(text)
        self._words = set(said)
        self._in_order = _SEPARATOR.join(["", *said, ""])

    def __contains__(self, keyword: str) -> bool:
        phrase = words(keyword)
        if not phrase:
            return keyword in self._text
        if len(phrase) == 1:
            return phrase[0] in self._words
        return _SEPARATOR.join(["", *phrase, ""]) in self._in_order


_SEPARATOR: Final = "\x1f"


@scorer(id="textual-difference", version="2")
async def textual_difference(sample: Sample) -> Score:
    """How alike the words of input and output are, or of ground truth and output where there is one.

    2 * L / (a + b): L is the length of the longest common subsequence of the words (the normalised indel similarity), a
    and b the numbers of words. `metadata` counts the places that differ and says how much the lengths differ.
    """
    left, right = texts_of(sample)
    return await beside(len(left) + len(right), _difference, left, right)


def _difference(before: str, after: str) -> Score:
    left, right = words(before), words(after)
    longer = max(len(left), len(right))
    if longer > _MAX_WORDS:
        raise NotScorable(f"{longer} words to compare; {_MAX_WORDS} are the most")
    blocks = LCSseq.editops(left, right).as_matching_blocks()
    common = sum(block.size for block in blocks)
    value = 2 * common / (len(left) + len(right)) if longer else 1.0
    changes = _places_that_differ([(block.a, block.b, block.size) for block in blocks])
    apart = abs(len(left) - len(right)) / longer if longer else 0.0
    return Score(
        value,
        reason=f"{changes} changes; the lengths differ by {apart:.0%}",
        metadata={"changes": changes, "length_difference": round(apart, 6)},
    )


def _places_that_differ(blocks: list[tuple[int, int, int]]) -> int:
    """How many gaps there are between matching blocks, given with their places in both texts; the last is the end."""
    gaps, left, right = 0, 0, 0
    for left_start, right_start, size in blocks:
        gaps += left_start > left or right_start > right
        left, right = left_start + size, right_start + size
    return gaps


class CompletenessOptions(StrictOptions):
    similarity: float = Field(default=0.85, ge=0.5, le=1.0)
    """From which likeness on a word of the output stands for one of the input: `works` for `work`."""


@scorer(id="completeness", version="2")
async def completeness(sample: Sample, options: CompletenessOptions) -> Score:
    """How much of each part of the input the output takes up.

    The input (or the ground truth, where there is one) is cut into sentences. A sentence counts with the share of
    its content words that the output has, or has one like it (inflected: see `text.Vocabulary`); the score is the mean
    over the sentences. So a question that is passed over shows, however short it is.
    """
    wanted, output = texts_of(sample)
    return await beside(len(wanted) + len(output), _completeness, wanted, output, options.similarity)


def _completeness(wanted: str, output: str, similarity: float) -> Score:
    parts = [found for sentence in sentences(wanted) if (found := content_words(sentence))]
    if not parts:
        raise NotScorable("the input has no content words")
    said = Vocabulary(words(output))
    wanted_words = list(dict.fromkeys(word for part in parts for word in part))
    pairs = sum(len(said.candidates(word)) for word in wanted_words)
    if pairs > _MAX_PAIRS:
        raise NotScorable(f"{pairs} pairs of words begin alike; {_MAX_PAIRS} are the most that are compared")
    known = {word: said.has_like(word, similarity) for word in wanted_words}
    shares = [sum(known[word] for word in part) / len(part) for part in parts]
    missing = [word for word, there in known.items() if not there]
    reason = f"{len(known) - len(missing)} of {len(known)} content words in {len(parts)} sentences are taken up"
    if missing:
        reason += f"; missing: {', '.join(listed(missing, 20))}"
    return Score(
        sum(shares) / len(shares), reason=reason, metadata={"missing": listed(missing), "sentences": len(parts)}
    )


class ToneOptions(StrictOptions):
    compare: Literal["input", "itself"] = "input"
    """`input`: whether the output has the tone of the input. `itself`: whether its sentences have one tone."""


@scorer(id="tone-consistency", version="2")
async def tone_consistency(sample: Sample, options: ToneOptions) -> Score:
    """Whether the tone stays the same: friendly, neutral or hostile.

    The tone of a text is s / sqrt(s^2 + 15), where s sums the weights of its emotive words (-3 to 3; after a negation
    with -0.74): from -1 to 1, 0 for a neutral text; the normalisation of VADER. Compared with the input the score is
    1 - |difference| / 2; compared with itself it is 1 - the standard deviation over its sentences.
    """
    if max(len(sample.input_text), len(sample.output_text)) > _MAX_CHARACTERS:
        raise NotScorable(f"a text has more than {_MAX_CHARACTERS} characters")
    size = len(sample.input_text) + len(sample.output_text)
    return await beside(size, _tone_score, sample, options)


def _tone_score(sample: Sample, options: ToneOptions) -> Score:
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
    expected, called = listed(expected), listed(called)
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


@scorer(id="trajectory-accuracy", version="2")
async def trajectory_accuracy(sample: Sample, options: TrajectoryOptions) -> Score:
    """How much of the expected path of tool calls was taken.

    strict: 2 * L / (expected + called); in-order: L / expected; any: m / expected. L is the length of the longest
    common subsequence of the two lists, m the most calls that can be paired with expected ones.
    """
    expected = [ExpectedCall(tool=each) if isinstance(each, str) else each for each in options.expected]
    called = sample.tool_calls
    deep = options.order == "any" or any(each.arguments for each in expected)
    pairs = len(called) * len(expected)
    if pairs > (_MAX_DEEP_CALL_PAIRS if deep else _MAX_CALL_PAIRS):
        raise NotScorable(f"{len(called)} tool calls and {len(expected)} expected ones are too many to compare")
    return await beside(pairs, _trajectory_score, expected, called, options.order)


def _trajectory_score(expected: list[ExpectedCall], called: list[ToolCall], order: str) -> Score:
    fits = [[_fits(want, call) for call in called] for want in expected]
    matched = _paired(fits) if order == "any" else _longest_common(fits, len(called))
    value = 2 * matched / (len(expected) + len(called)) if order == "strict" else matched / len(expected)
    names = ", ".join(listed([call.tool_name for call in called], 50)) or "none"
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
    return all(name in given and same(given[name], value) for name, value in expected.arguments.items())


def _longest_common(fits: list[list[bool]], called: int) -> int:
    row = [0] * (called + 1)
    for want in fits:
        before = row
        row = [0]
        for index, fit in enumerate(want):
            row.append(before[index] + 1 if fit else max(before[index + 1], row[index]))
    return row[-1]


def _paired(fits: list[list[bool]]) -> int:
    """The most pairs of an expected call and a call that fits it, each used once (augmenting paths)."""
    owner: dict[int, int] = {}

    def place(want: int, tried: set[int]) -> bool:
        for index, fit in enumerate(fits[want]):
            if not fit or index in tried:
                continue
            tried.add(index)
            if index not in owner or place(owner[index], tried):
                owner[index] = want
                return True
        return False

    return sum(place(want, set()) for want in range(len(fits)))
