"""Text as the scorers see it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_SENTENCE_END: Final = re.compile(r"(?<=[.!?…])\s+|\n+")

_FUNCTION_WORDS: Final = """
    a about above after again against all am an and any are as at be because been before being below between both but
    by can could did do does doing down during each few for from further had has have having he her here hers herself
    him himself his how i if in into is it its itself just me more most my myself no nor not now of off on once only or
    other our ours ourselves out over own please same she should so some such tell than that the their theirs them
    themselves then there these they this those through to too under until up very was we were what when where which
    while who whom why will with would you your yours yourself yourselves
"""
FUNCTION_WORDS: Final = frozenset(_FUNCTION_WORDS.split())
"""English words that say nothing about the subject."""


def normal(text: str, *, ignore_case: bool = True, ignore_space: bool = True) -> str:
    """Text in one Unicode form, by default without regard to case and to the amount of white space."""
    text = unicodedata.normalize("NFKC", text)
    if ignore_case:
        text = text.casefold()
    return " ".join(text.split()) if ignore_space else text


def words(text: str) -> list[str]:
    """The words of a text, in order, in lower case."""
    return _WORD.findall(normal(text))


def content_words(text: str) -> list[str]:
    """The distinct words that say something about the subject, in order of appearance: no function words, nothing of
    a single letter."""
    return list(dict.fromkeys(word for word in words(text) if word not in FUNCTION_WORDS and len(word) > 1))


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def is_subsequence(wanted: Sequence[str], found: Sequence[str]) -> bool:
    """Whether `wanted` comes in `found` in its order, perhaps with others between."""
    rest = iter(found)
    return all(any(each == name for each in rest) for name in wanted)
