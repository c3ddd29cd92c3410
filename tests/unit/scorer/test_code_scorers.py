"""The formulas of the code scorers and checks, on worked examples."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from runwire.errors import ConfigurationError
from scorer_service import NonRetriableError, NotScorable, Sample, Score, ToolCall, run_scorer
from scorer_service.execution.outcomes import record_of
from scorer_service.registry import load, prebuilt
from scorer_service.scorers.tone import tone


def tools(*names: str, **outcomes: str) -> list[ToolCall]:
    return [ToolCall(tool_name=name, outcome=outcomes.get(name, "succeeded")) for name in names]


CURSOR = "How does the cursor work? Who issues it?"

EXAMPLES: list[tuple[str, Sample, dict[str, Any], float]] = [
    # 2 * LCS / (|a| + |b|): "kitten", "sitting" have the common subsequence "ittn" of 4
    ("content-similarity", Sample(input="kitten", output="sitting"), {}, 2 * 4 / 13),
    ("content-similarity", Sample(input="same  Text", output="SAME text"), {}, 1.0),
    ("content-similarity", Sample(input="AB", output="ab"), {"ignore_case": False}, 0.0),
    ("content-similarity", Sample(input="x", output="abc", ground_truth="abc"), {}, 1.0),
    ("content-similarity", Sample(input="", output=""), {}, 1.0),
    ("content-similarity", Sample(input="abc", output=None), {}, 0.0),
    ("content-similarity", Sample(input={"q": "abc"}, output={"a": "abc", "n": None}), {}, 1.0),
    # content words of the input: cursor, work, issues; mentioned: cursor
    ("keyword-coverage", Sample(input=CURSOR, output="A cursor is a position."), {}, 1 / 3),
    ("keyword-coverage", Sample(input="", output="Redis Streams and Lua"), {"keywords": ["redis streams", "SQL"]}, 0.5),
    ("keyword-coverage", Sample(input="", output="redistribute"), {"keywords": ["redis"]}, 0.0),
    ("keyword-coverage", Sample(input="", output="l'été café"), {"keywords": ["CAFÉ"]}, 1.0),
    ("keyword-coverage", Sample(input="x", output="lease", ground_truth="a lease"), {}, 1.0),
    # 2 * 3 / (4 + 4): "the", "cat", "sat" match, one word is replaced
    ("textual-difference", Sample(input="the cat sat down", output="the cat sat up"), {}, 0.75),
    ("textual-difference", Sample(input="", output=""), {}, 1.0),
    # sentence 1: cursor, work; of which cursor, works (like work) -> 1; sentence 2: issues -> 0; mean
    ("completeness", Sample(input=CURSOR, output="The cursor works."), {}, 0.5),
    ("completeness", Sample(input=CURSOR, output="The cursor works."), {"similarity": 1.0}, 0.25),
    ("completeness", Sample(input=CURSOR, output="nothing"), {}, 0.0),
    ("tone-consistency", Sample(input="It is a table.", output="It is a chair."), {}, 1.0),
    ("tone-consistency", Sample(input="great", output="bad"), {}, 1 - (2 / 19**0.5)),
    ("tone-consistency", Sample(output="Good. Good. Good."), {"compare": "itself"}, 1.0),
    # tones 2/sqrt(19) and -2/sqrt(19): the standard deviation is 2/sqrt(19)
    ("tone-consistency", Sample(output="Great. Bad."), {"compare": "itself"}, 1 - 2 / 19**0.5),
    ("tool-call-accuracy", Sample(tool_calls=tools("search", "cite")), {"expected_tool": "cite"}, 1),
    ("tool-call-accuracy", Sample(tool_calls=tools("search", "cite")), {"expected_tool": "cite", "strict": True}, 0),
    ("tool-call-accuracy", Sample(tool_calls=tools("cite", "cite")), {"expected_tool": "cite", "strict": True}, 1),
    ("tool-call-accuracy", Sample(), {"expected_tool": "cite", "strict": True}, 0),
    ("tool-call-accuracy", Sample(tool_calls=tools("a", "x", "b")), {"expected_order": ["a", "b"]}, 1),
    ("tool-call-accuracy", Sample(tool_calls=tools("a", "x", "b")), {"expected_order": ["a", "b"], "strict": True}, 0),
    ("tool-call-accuracy", Sample(tool_calls=tools("b", "a")), {"expected_order": ["a", "b"]}, 0),
    # longest common subsequence of a b c and a c: 2
    ("trajectory-accuracy", Sample(tool_calls=tools("a", "c")), {"expected": ["a", "b", "c"]}, 2 / 3),
    (
        "trajectory-accuracy",
        Sample(tool_calls=tools("a", "c", "x")),
        {"expected": ["a", "b", "c"], "order": "strict"},
        4 / 6,
    ),
    ("trajectory-accuracy", Sample(tool_calls=tools("c", "a")), {"expected": ["a", "b", "c"], "order": "any"}, 2 / 3),
    ("trajectory-accuracy", Sample(tool_calls=tools("c", "a")), {"expected": ["a", "b", "c"]}, 1 / 3),
    (
        "trajectory-accuracy",
        Sample(
            tool_calls=[
                ToolCall(tool_name="f", arguments={"x": 1, "y": 2}),
                ToolCall(tool_name="f", arguments={"x": 1}),
            ]
        ),
        # Only the first call has y: to pair both, the plain expectation must take the second.
        {"expected": [{"tool": "f", "arguments": {"x": 1}}, {"tool": "f", "arguments": {"y": 2}}], "order": "any"},
        1.0,
    ),
    ("includes", Sample(output="a b c"), {"text": "b"}, 1),
    ("includes", Sample(output="a B c"), {"text": "b"}, 0),
    ("includes", Sample(output="a B c"), {"text": "b", "ignore_case": True}, 1),
    ("excludes", Sample(output="a b c"), {"text": "b"}, 0),
    ("excludes", Sample(output="a b c"), {"text": "d"}, 1),
    ("equals", Sample(output="42", ground_truth="42"), {}, 1),
    ("equals", Sample(output={"a": [1, 2.0]}, ground_truth={"a": [1.0, 2]}), {}, 1),
    ("equals", Sample(output={"a": 1}, ground_truth={"a": True}), {}, 0),
    ("equals", Sample(output=" A  b", ground_truth="a b"), {}, 0),
    ("equals", Sample(output=" A  b"), {"expected": "a b", "ignore_case": True, "ignore_space": True}, 1),
    ("matches", Sample(output="order 4711"), {"pattern": r"\d{4}"}, 1),
    ("matches", Sample(output="order"), {"pattern": r"\d{4}"}, 0),
    ("matches", Sample(output="ORDER"), {"pattern": "order", "ignore_case": True}, 1),
    ("similarity", Sample(output="kitten", ground_truth="kittens"), {}, 1),
    ("similarity", Sample(output="kitten"), {"expected": "dog", "threshold": 0.5}, 0),
    ("called-tool", Sample(tool_calls=tools("a", "a")), {"tool": "a"}, 1),
    ("called-tool", Sample(tool_calls=tools("a", "a")), {"tool": "a", "max_calls": 1}, 0),
    ("called-tool", Sample(tool_calls=tools("a")), {"tool": "a", "min_calls": 2}, 0),
    ("did-not-call", Sample(tool_calls=tools("a")), {"tool": "a"}, 0),
    ("did-not-call", Sample(tool_calls=tools("a")), {"tool": "b"}, 1),
    ("tool-order", Sample(tool_calls=tools("a", "x", "b")), {"tools": ["a", "b"]}, 1),
    ("tool-order", Sample(tool_calls=tools("b", "a")), {"tools": ["a", "b"]}, 0),
    ("max-tool-calls", Sample(tool_calls=tools("a", "b")), {"max_calls": 2}, 1),
    ("max-tool-calls", Sample(tool_calls=tools("a", "b")), {"max_calls": 1}, 0),
    ("used-no-tools", Sample(), {}, 1),
    ("used-no-tools", Sample(tool_calls=tools("a")), {}, 0),
    ("no-tool-errors", Sample(tool_calls=tools("a", "b")), {}, 1),
    ("no-tool-errors", Sample(tool_calls=tools("a", "b", b="failed")), {}, 0),
]


@pytest.mark.parametrize("scorer_id, sample, options, value", EXAMPLES)
async def test_a_worked_example(scorer_id: str, sample: Sample, options: dict[str, Any], value: float) -> None:
    """The score is what the documented formula says."""
    score = await run_scorer(scorer_id, sample, options)
    assert score.value == pytest.approx(value)
    assert score.reason


def test_every_scorer_has_an_example() -> None:
    """None is left out above, and each says what it does and which way is better."""
    scorers = [scorer for scorer in load([]) if not scorer.judge]
    assert {example[0] for example in EXAMPLES} == {scorer.id for scorer in scorers}
    assert all(scorer.description and scorer.direction == "higher" for scorer in scorers)


@pytest.mark.parametrize(
    "scorer_id, sample, options",
    [
        ("keyword-coverage", Sample(input="is it the", output="x"), {}),
        ("keyword-coverage", Sample(input="!!! ->", output="x"), {}),
        ("completeness", Sample(input="?", output="x"), {}),
        ("tone-consistency", Sample(input="x", output=""), {}),
        ("equals", Sample(output="x"), {}),
        ("similarity", Sample(output="x"), {}),
        ("textual-difference", Sample(input="a " * 10_001, output="x"), {}),
    ],
)
async def test_what_cannot_be_scored(scorer_id: str, sample: Sample, options: dict[str, Any]) -> None:
    """Nothing to measure is no zero: NotScorable, with a reason."""
    with pytest.raises(NotScorable) as caught:
        await run_scorer(scorer_id, sample, options)
    assert caught.value.reason


@pytest.mark.parametrize(
    "scorer_id, options, words",
    [
        ("includes", {}, "text"),
        ("includes", {"text": "x", "case": False}, "case"),
        ("called-tool", {"tool": "x", "min_calls": 0}, "min_calls"),
        ("keyword-coverage", {"keywords": ["x", "  "]}, "keywords.1"),
        ("trajectory-accuracy", {"expected": []}, "expected"),
        ("trajectory-accuracy", {"expected": ["a"], "order": "sideways"}, "order"),
        ("tool-call-accuracy", {}, "expected_tool"),
        ("matches", {"pattern": "("}, "regular expression"),
        ("completeness", {"similarity": 2}, "similarity"),
    ],
)
async def test_wrong_options_are_named(scorer_id: str, options: dict[str, Any], words: str) -> None:
    """No default is taken for a wrong value, and no retry will help."""
    with pytest.raises(NonRetriableError, match=words) as caught:
        await run_scorer(scorer_id, Sample(input="x", output="x"), options)
    assert caught.value.reason == "invalid_options"


async def test_an_unknown_scorer_is_a_mistake() -> None:
    """The message lists those that there are."""
    with pytest.raises(ConfigurationError, match="keyword-coverage"):
        await run_scorer("keyword-covfefe", Sample())


def test_tone() -> None:
    """Neutral is 0, negation turns, and it stays between -1 and 1."""
    assert tone("The table has four legs.") == 0
    assert tone("It is great.") == pytest.approx(2 / 19**0.5)
    assert tone("It is not great.") == pytest.approx(-1.48 / (1.48**2 + 15) ** 0.5)
    assert -1 < tone("hate " * 1000) < -0.99


async def test_values_of_all_kinds_have_a_text() -> None:
    """Numbers, lists and objects are compared by the text in them."""
    score = await run_scorer("content-similarity", Sample(input=[1, 2.5, {"a": True}], output="1\n2.5\nTrue"))
    assert score == Score(1.0, reason=score.reason)


LONG = " ".join(f"word{number}" for number in range(20_000))
ALIKE = " ".join("common" + "".join(letters) for letters in product("abcdefghij", repeat=4))
"""Ten thousand words that begin alike."""


@pytest.mark.parametrize(
    "scorer_id, sample, options",
    [
        ("content-similarity", Sample(input=LONG, output=LONG), {}),
        ("similarity", Sample(output=LONG), {"expected": LONG}),
        ("completeness", Sample(input=ALIKE, output=ALIKE), {}),
        ("keyword-coverage", Sample(input="x", output="a " * 1_000_001), {}),
        ("tone-consistency", Sample(input="x", output="a " * 1_000_001), {}),
        ("textual-difference", Sample(input=LONG, output=LONG), {}),
        ("trajectory-accuracy", Sample(tool_calls=tools(*"a" * 300)), {"expected": ["a"] * 300, "order": "any"}),
    ],
)
async def test_what_would_take_for_ever_is_not_begun(scorer_id: str, sample: Sample, options: dict[str, Any]) -> None:
    """Nothing stops such a comparison, and it would keep its process from everything else."""
    with pytest.raises(NotScorable):
        await run_scorer(scorer_id, sample, options)


@pytest.mark.parametrize(
    "scorer_id, sample, options",
    [
        ("keyword-coverage", Sample(input=LONG, output=f"{LONG} or so"), {}),
        ("completeness", Sample(input=LONG, output="nothing of it"), {}),
        ("tool-call-accuracy", Sample(tool_calls=tools(*[f"tool-{n}" for n in range(9_000)])), {"expected_tool": "a"}),
        ("trajectory-accuracy", Sample(tool_calls=tools(*"ab" * 4_000)), {"expected": ["a"]}),
    ],
)
async def test_what_is_large_has_a_score_that_can_be_kept(
    scorer_id: str, sample: Sample, options: dict[str, Any]
) -> None:
    """Reasons and metadata do not grow with the sample."""
    record = record_of(await run_scorer(scorer_id, sample, options), prebuilt(scorer_id))
    assert len(record.reason) + len(record.metadata) < 10_000
