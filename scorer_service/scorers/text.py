"""Text as the scorers see it: what a word is, when two texts are equal and when two words are alike.

Words are those of UAX #29 (Unicode text segmentation, as the library `regex` has it), with four additions for what
people look for in answers:

- A script that is written without spaces (Han, kana, Thai, Lao, Khmer, Burmese) has a word a character, so that a
  keyword is found as the characters that follow each other.
- A name with its sign is one word: `C++`, `C#`, `.NET`. So is an emoji, with everything that belongs to it, and a sign
  for money, per cent or mathematics.
- What is joined by an apostrophe is apart: `cursor` and `'s`, `l'` and `utilisateur`. A negation is not: `can't` is one
  word, and `can` is not in it.
- Case is folded, and texts are compared in the Unicode form NFC: `10²` is not `102`, as it would be in NFKC.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import Final

import regex
from rapidfuzz import fuzz

_UNSPACED: Final = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー々〆"
_EMOJI: Final = r"\p{Extended_Pictographic}(?:\p{EMod}|\uFE0F)?"
_SEGMENT: Final = regex.compile(
    rf"""(?V1w)
  (?<![\w.])\.(?=\p{{L}})\w{{1,32}}+           # .NET
    | \p{{L}}\w{{0,32}}+(?:\+\+|\#)(?![\w+\#])  # C++, C#
    | [{_UNSPACED}][\p{{M}}]*
    | [0-9\#*]\uFE0F?\u20E3 | \p{{RI}}\p{{RI}} | {_EMOJI}(?:\u200D{_EMOJI})*
    | \b.+?\b | .                                     # UAX #29
    """,
    regex.VERBOSE | regex.DOTALL,
)
_WORD: Final = regex.compile(r"(?V1)[\p{L}\p{N}\p{Sc}\p{Sm}\p{So}%‰\u20E3--[|~^]]")
_EMOJI_ONLY: Final = regex.compile(rf"[\p{{RI}}\u20E3]|(?![©®™]){_EMOJI}")
_LETTERS: Final = regex.compile(r"[\p{L}\p{M}]+")
_KANA: Final = regex.compile(r"[\p{Hiragana}ー]")
_ONE_CHARACTER: Final = regex.compile(rf"[{_UNSPACED}]\p{{M}}*")
_SENTENCE_END: Final = regex.compile(r"(?<=[.!?…؟۔।])\s+|(?<=[。！？])\s*|\n+")

_ELISIONS: Final = frozenset(
    "c d j l m n s t qu jusqu lorsqu puisqu quoiqu quelqu all dall dell nell sull un quest gl dov com".split()  # noqa: SIM905
)
"""What French and Italian join to the next word."""
_CLITICS: Final = frozenset("s d m ll re ve".split())  # noqa: SIM905
"""What English joins to the word before."""

_FUNCTION_WORDS: Final = """
    a about above after again against all am an and any are as at be because been before being below between both but
    by can could did do does doing down during each few for from further had has have having he her here hers herself
    him himself his how i if in into is it its itself just me more most my myself no nor not now of off on once only or
    other our ours ourselves out over own please same she should so some such tell than that the their theirs them
    themselves then there these they this those through to too under until up very was we were what when where which
    while who whom why will with would you your yours yourself yourselves
    的 了 是 在 和 吗 呢 吧 也 就 都 而 与 之
"""
FUNCTION_WORDS: Final = frozenset(_FUNCTION_WORDS.split())
"""English words, and Chinese ones of one character, that say nothing about the subject."""

_MAX_LIKENESS: Final = 64
"""A longer word is like none but itself."""


def normal(text: str, *, ignore_case: bool = True, ignore_space: bool = True) -> str:
    """Text in the Unicode form NFC, by default without regard to case and to the amount of white space."""
    text = unicodedata.normalize("NFC", text)
    if ignore_case:
        text = unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
    return " ".join(text.split()) if ignore_space else text


def words(text: str) -> list[str]:
    """The words of a text, in order, without regard to case."""
    return _words(normal(text).replace("’", "'"))


def _words(text: str) -> list[str]:
    found: list[str] = []
    for segment in _SEGMENT.findall(text):
        if not _WORD.search(segment):
            continue
        if "'" in segment:
            found += _apart(segment)
        else:
            found.append(segment)
    return found


def _apart(segment: str) -> list[str]:
    """The parts of what an apostrophe joins, where they are words of their own."""
    before, _, after = segment.partition("'")
    if before in _ELISIONS and after:
        return [f"{before}'", after]
    before, _, after = segment.rpartition("'")
    if after in _CLITICS and before:
        return [before, f"'{after}"]
    return [segment]


def is_content(word: str) -> bool:
    """Whether a word says something about the subject: no function word, no single letter, no part of another word and
    no sign, emoji excepted."""
    if word in FUNCTION_WORDS or word.startswith("'") or word.endswith("'"):
        return False
    if len(word) == 1 and word.isalpha():
        return _ONE_CHARACTER.fullmatch(word) is not None
    return any(map(str.isalnum, word)) or _EMOJI_ONLY.match(word) is not None


def content_words(text: str) -> list[str]:
    """The distinct words that say something about the subject, in order of appearance. Hiragana, which in Japanese are
    mostly particles and endings, count only where there is nothing else."""
    found = [word for word in dict.fromkeys(words(text)) if is_content(word)]
    return [word for word in found if not _KANA.match(word)] or found


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text."""
    return [part.strip() for part in _SENTENCE_END.split(text) if part.strip()]


def is_subsequence(wanted: Sequence[str], found: Sequence[str]) -> bool:
    """Whether `wanted` comes in `found` in its order, perhaps with others between."""
    rest = iter(found)
    return all(any(each == name for each in rest) for name in wanted)


class Vocabulary:
    """The distinct words of a text, to be asked for words that are like them.

    Two words are alike if they are equal, or if both are of letters only, the first half of the longer one is the
    beginning of the other, and their normalised indel similarity is high enough. So inflected words are alike
    (`work`, `works`), and words with a negating prefix, numbers and negations never are (`authorized`, `unauthorized`).
    """

    def __init__(self, words: Iterable[str]) -> None:
        self._all = frozenset(words)
        self._inflected = sorted(word for word in self._all if _can_be_alike(word))

    def __len__(self) -> int:
        return len(self._all)

    def candidates(self, word: str) -> Sequence[str]:
        """Words with the beginning that one like `word` must have."""
        if not _can_be_alike(word):
            return ()
        beginning = word[: -(-len(word) // 2)]
        start = bisect_left(self._inflected, beginning)
        end = bisect_left(self._inflected, beginning + "\U0010ffff")
        return self._inflected[start:end]

    def has_like(self, word: str, similarity: float) -> bool:
        """Whether there is a word like this one; `similarity` is from 0 to 1."""
        if word in self._all:
            return True
        return any(
            _begin_alike(word, other) and _likeness(word, other) >= similarity for other in self.candidates(word)
        )


def _can_be_alike(word: str) -> bool:
    return 1 < len(word) <= _MAX_LIKENESS and _LETTERS.fullmatch(word) is not None


def _begin_alike(word: str, other: str) -> bool:
    half = -(-max(len(word), len(other)) // 2)
    return word[:half] == other[:half]


def _likeness(word: str, other: str) -> float:
    return float(fuzz.ratio(word, other)) / 100
