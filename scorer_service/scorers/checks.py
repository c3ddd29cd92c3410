"""Checks: scorers that pass (1) or fail (0)."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from pydantic import Field

from scorer_service.scorers.code import StrictOptions, beside, likeness_of, listed
from scorer_service.scorers.equality import same
from scorer_service.scorers.text import is_subsequence, normal
from scorer_service.scoring import NonRetriableError, NotScorable, Sample, Score, scorer, text_of


def _verdict(passed: bool, reason: str) -> Score:
    return Score(float(passed), "pass" if passed else "fail", reason)


class TextOptions(StrictOptions):
    text: str = Field(min_length=1)
    ignore_case: bool = False


@scorer(id="includes", version="2")
async def includes(sample: Sample, options: TextOptions) -> Score:
    """Whether the output has a text in it."""
    found = await _has(sample, options)
    return _verdict(found, f"{options.text!r} is {'' if found else 'not '}in the output")


@scorer(id="excludes", version="2")
async def excludes(sample: Sample, options: TextOptions) -> Score:
    """Whether the output is without a text."""
    found = await _has(sample, options)
    return _verdict(not found, f"{options.text!r} is {'' if found else 'not '}in the output")


async def _has(sample: Sample, options: TextOptions) -> bool:
    output = sample.output_text
    return await beside(len(output), _contains, output, options.text, options.ignore_case)


def _contains(output: str, text: str, ignore_case: bool) -> bool:
    shape = {"ignore_case": ignore_case, "ignore_space": False}
    return normal(text, **shape) in normal(output, **shape)


class EqualsOptions(StrictOptions):
    expected: Any = None
    """What the output must be; None: the ground truth."""
    ignore_case: bool = False
    ignore_space: bool = False


@scorer(id="equals", version="2")
async def equals(sample: Sample, options: EqualsOptions) -> Score:
    """Whether the output is the expected one, as JSON has it: a number is not its text, null no empty text. Texts, also
    those inside objects and lists, may be compared without regard to case and white space."""
    expected = _expected(sample, options.expected)
    shape = {"ignore_case": options.ignore_case, "ignore_space": options.ignore_space}
    equal = await beside(len(sample.output_text), same, expected, sample.output, **shape)
    return _verdict(equal, f"the output is {'' if equal else 'not '}the expected one")


def _expected(sample: Sample, given: Any) -> Any:
    expected = sample.ground_truth if given is None else given
    if expected is None:
        raise NotScorable("there is nothing to compare with: neither the option `expected` nor a ground truth")
    return expected


class MatchesOptions(StrictOptions):
    pattern: str = Field(min_length=1, max_length=1000)
    """A regular expression of Python, searched for anywhere in the output."""
    ignore_case: bool = False


# In a process of its own: a pattern can take for ever, and nothing stops a thread that is inside one.
@scorer(id="matches", version="2", process=True, timeout_seconds=10)
def matches(sample: Sample, options: MatchesOptions) -> Score:
    """Whether the output matches a regular expression."""
    try:
        pattern = re.compile(unicodedata.normalize("NFC", options.pattern), re.IGNORECASE if options.ignore_case else 0)
    except re.error as error:
        raise NonRetriableError(f"pattern: not a regular expression: {error}", reason="invalid_options") from None
    found = pattern.search(unicodedata.normalize("NFC", sample.output_text))
    reason = f"found {found.group(0)[:200]!r}" if found else f"nothing matches {options.pattern!r}"
    return _verdict(found is not None, reason)


class SimilarityOptions(StrictOptions):
    threshold: float = Field(default=0.8, ge=0.0, le=1.0)
    expected: str | None = None
    """What the output should be like; None: the ground truth."""


@scorer(id="similarity", version="2")
async def similarity(sample: Sample, options: SimilarityOptions) -> Score:
    """Whether the output is like the expected text: the formula of content-similarity, at or above a threshold."""
    expected, output = text_of(_expected(sample, options.expected)), sample.output_text
    value = await beside(len(expected) + len(output), likeness_of, expected, output)
    return _verdict(value >= options.threshold, f"likeness {value:.3f}, threshold {options.threshold:g}")


class ToolOptions(StrictOptions):
    tool: str = Field(min_length=1)


class CalledToolOptions(ToolOptions):
    min_calls: int = Field(default=1, ge=1)
    max_calls: int | None = Field(default=None, ge=1)


@scorer(id="called-tool", version="1")
async def called_tool(sample: Sample, options: CalledToolOptions) -> Score:
    """Whether a tool was called, and how often."""
    count = sum(call.tool_name == options.tool for call in sample.tool_calls)
    enough = count >= options.min_calls and (options.max_calls is None or count <= options.max_calls)
    return _verdict(enough, f"{options.tool} was called {count} times")


@scorer(id="did-not-call", version="1")
async def did_not_call(sample: Sample, options: ToolOptions) -> Score:
    """Whether a tool was left alone."""
    count = sum(call.tool_name == options.tool for call in sample.tool_calls)
    return _verdict(count == 0, f"{options.tool} was called {count} times")


class ToolOrderOptions(StrictOptions):
    tools: list[str] = Field(min_length=1)


@scorer(id="tool-order", version="1")
async def tool_order(sample: Sample, options: ToolOrderOptions) -> Score:
    """Whether tools were called in this order, perhaps with others between."""
    called = [call.tool_name for call in sample.tool_calls]
    return _verdict(is_subsequence(options.tools, called), f"called: {', '.join(listed(called, 50)) or 'none'}")


class MaxToolCallsOptions(StrictOptions):
    max_calls: int = Field(ge=0)


@scorer(id="max-tool-calls", version="1")
async def max_tool_calls(sample: Sample, options: MaxToolCallsOptions) -> Score:
    """Whether at most so many tool calls were made."""
    count = len(sample.tool_calls)
    return _verdict(count <= options.max_calls, f"{count} tool calls, at most {options.max_calls} are allowed")


@scorer(id="used-no-tools", version="1")
async def used_no_tools(sample: Sample) -> Score:
    """Whether no tool was called."""
    return _verdict(not sample.tool_calls, f"{len(sample.tool_calls)} tool calls")


@scorer(id="no-tool-errors", version="1")
async def no_tool_errors(sample: Sample) -> Score:
    """Whether every tool call succeeded. Passes too where none was made."""
    wrong = [f"{call.tool_name} {call.outcome}" for call in sample.tool_calls if call.outcome != "succeeded"]
    return _verdict(not wrong, "; ".join(listed(wrong, 20)) or f"{len(sample.tool_calls)} tool calls, none failed")
