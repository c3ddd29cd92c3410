"""What a word, a match, equality and a number are: the examples of docs/scorers.md, in the languages named there."""

from __future__ import annotations

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scorer_service import Sample, run_scorer
from scorer_service.scorers.equality import same
from scorer_service.scorers.text import Vocabulary, content_words, words

GUIDE = (Path(__file__).parents[3] / "docs" / "scorers.md").read_text()
LINES = [[cell.strip() for cell in line.split("|")[1:-1]] for line in GUIDE.splitlines() if line.startswith("|")]


def rows(*header: str) -> list[list[str]]:
    """The rows of the table with this header."""
    start = LINES.index(list(header)) + 2
    width = len(header)
    end = next((n for n in range(start, len(LINES)) if len(LINES[n]) != width or set(LINES[n + 1][0]) <= {"-"}), None)
    return LINES[start:end]


def bare(cell: str) -> str:
    return cell.strip("`")


WORDS = rows("text", "words")
SCORES = rows("scorer", "options", "compared with", "output", "score")


@pytest.mark.parametrize("text, listed", WORDS, ids=[row[0] for row in WORDS])
def test_words_of_the_guide(text: str, listed: str) -> None:
    """A text has the words that the guide lists."""
    assert words(bare(text)) == re.findall(r"`([^`]+)`", listed)


@pytest.mark.parametrize("scorer_id, options, wanted, output, score", SCORES, ids=["-".join(row[:4]) for row in SCORES])
async def test_scores_of_the_guide(scorer_id: str, options: str, wanted: str, output: str, score: str) -> None:
    """A scorer gives the score that the guide says."""
    sample = Sample(input=bare(wanted), output=bare(output))
    found = await run_scorer(bare(scorer_id), sample, json.loads(bare(options) or "{}"))
    assert found.value == pytest.approx(float(score), abs=1e-4)


def test_the_guide_has_every_language() -> None:
    """English, German, French, Chinese, Japanese, Thai, Arabic, Hindi, code, JSON and emoji are there: no row was lost
    on the way from the page."""
    assert len(WORDS) == 13
    assert len(SCORES) == 26
    assert any(not unicodedata.is_normalized("NFC", row[3]) for row in SCORES)


@pytest.mark.parametrize(
    "left, right",
    [
        ({"a": 1}, '{"a": 1}'),
        (None, ""),
        (0, False),
        (1, True),
        ("1", 1),
        ([1, 2], [2, 1]),
        ([1], [1, 1]),
        ({"a": None}, {}),
        ("10²", "102"),
        ("ﬁ", "fi"),
        ("a", "A"),
        ([], {}),
        ([], ""),
    ],
)
def test_what_is_not_the_same(left: Any, right: Any) -> None:
    """Values of different types, or with another meaning, are not equal, in either order."""
    assert not same(left, right)
    assert not same(right, left)


@pytest.mark.parametrize(
    "left, right",
    [({"a": [1, "é"], "b": None}, {"b": None, "a": [1.0, "é"]}), ("Å", "\u212b"), (-0.0, 0), ([], []), ({}, {})],
)
def test_what_is_the_same(left: Any, right: Any) -> None:
    """Numbers are compared by value, objects in any order, texts in one Unicode form."""
    assert same(left, right)


def test_inner_texts_are_compared_as_asked() -> None:
    """Case and white space are disregarded in objects and lists too, where that was asked for."""
    assert same({"a": ["Big  Cat"]}, {"a": ["big cat"]}, ignore_case=True, ignore_space=True)


@pytest.mark.parametrize(
    "word, other",
    [
        ("authorized", "unauthorized"),
        ("possible", "impossible"),
        ("1000000", "100000"),
        ("can", "can't"),
        ("hypertension", "hypotension"),
        ("c", "c++"),
        ("v1", "v2"),
        ("möglich", "unmöglich"),
    ],
)
def test_words_that_are_not_alike(word: str, other: str) -> None:
    """Negated words, numbers and names with a sign are never like each other."""
    assert not Vocabulary([other]).has_like(word, 0.5)
    assert not Vocabulary([word]).has_like(other, 0.5)


@given(st.text(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_text_has_words(text: str) -> None:
    """Whatever a text holds, its words are found, none is empty, and one Unicode form is as good as another."""
    found = words(text)
    assert all(found)
    assert words(unicodedata.normalize("NFD", text)) == words(unicodedata.normalize("NFC", text))
    assert set(content_words(text)) <= set(found)


@given(st.lists(st.text("abcdefgh", min_size=1, max_size=8), max_size=30), st.text("abcdefgh", min_size=1, max_size=8))
@settings(max_examples=200, deadline=None)
def test_a_vocabulary_finds_what_a_search_of_all_words_finds(said: list[str], word: str) -> None:
    """Looking only at words that begin alike misses none that is alike."""
    each = any(Vocabulary([other]).has_like(word, 0.7) for other in said)
    assert Vocabulary(said).has_like(word, 0.7) == each


@pytest.mark.parametrize(
    "piece", ["a", "'", "a'", "l'", "a+", ".", "👩‍", "́", "กำ", "🇩", "1,", " ", "\n", "敏", "C++", ".a"]
)
def test_hostile_texts_cost_what_they_are_long(piece: str) -> None:
    """No text makes the search for its words go back and forth: a long one is done within the time of a test."""
    text = piece * (200_000 // len(piece))
    assert len(words(text)) <= len(text)
