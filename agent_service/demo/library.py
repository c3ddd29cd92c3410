"""This project's documentation, cut into passages and ranked by the words of a question: BM25, times the share of the
words that a passage has."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[2]
_PAGES: Final = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/*.md")
_WORD: Final = re.compile(r"[a-z0-9]+")
_HEADING: Final = re.compile(r"#+ +(.*)")
_ITEM: Final = re.compile(r"([-*]|\d+\.) +")
_NOT_PROSE: Final = ("|", "[!", "<", "![", ">")
_MIN_CHARACTERS: Final = 60
_STOP_WORDS: Final = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be by can do does for from has have how i if in is it its me my of on or so tell that the "
        "there this to was what when where which who why will with you your about explain",
    )
)
_K1: Final = 1.2
_B: Final = 0.75


@dataclass(frozen=True)
class Passage:
    """A paragraph or list of a page."""

    source: str
    """Page and heading."""
    text: str

    @cached_property
    def words(self) -> Counter[str]:
        return Counter(stems(f"{self.source} {self.text}"))


class Library:
    """Passages that can be searched."""

    def __init__(self, passages: Iterable[Passage]) -> None:
        self.passages = tuple(passages)
        self._lengths = [passage.words.total() for passage in self.passages]
        self._average = sum(self._lengths) / max(1, len(self._lengths))
        self._in_passages = Counter(word for passage in self.passages for word in passage.words)

    def search(self, question: str, limit: int = 3) -> Sequence[Passage]:
        """The passages that fit best, best first; none where all words are unknown."""
        words = set(stems(question))
        if not words:
            return []
        scored = [(self._score(index, words), -index) for index in range(len(self.passages))]
        best = sorted((pair for pair in scored if pair[0] > 0), reverse=True)
        return [self.passages[-index] for _, index in best[:limit]]

    def _score(self, index: int, words: Collection[str]) -> float:
        length = 1 - _B + _B * self._lengths[index] / self._average
        counts = self.passages[index].words
        share = sum(word in counts for word in words) / len(words)
        return share * sum(
            self._rarity(word) * counts[word] * (_K1 + 1) / (counts[word] + _K1 * length)
            for word in words
            if word in counts
        )

    def _rarity(self, word: str) -> float:
        found = self._in_passages[word]
        return math.log(1 + (len(self.passages) - found + 0.5) / (found + 0.5))


@cache
def documentation() -> Library:
    """The pages beside the code; where only the package is installed, those that it carries."""
    pages = [path for pattern in _PAGES for path in sorted(_ROOT.glob(pattern))] or _installed()
    return Library(passage for path in pages for passage in passages(path.name, path.read_text("utf-8")))


def _installed() -> list[Path]:
    found = [Path(str(file.locate())) for file in metadata.files("runwire") or () if "share" in file.parts]
    return sorted(path for path in found if path.suffix == ".md" and path.is_file())


def passages(page: str, markdown: str) -> Iterator[Passage]:
    """The prose of a page: paragraphs and the items of lists, without code, tables and headings."""
    source, lines, fenced = page, list[str](), False
    for line in [*markdown.splitlines(), ""]:
        stripped = line.strip()
        begins = _ITEM.match(stripped)
        if stripped.startswith("```"):
            fenced = not fenced
        elif fenced or stripped.startswith(_NOT_PROSE):
            continue
        elif stripped and not begins and not stripped.startswith("#"):
            lines.append(stripped)
            continue
        text = _plain(" ".join(lines))
        if len(text) >= _MIN_CHARACTERS and not text.endswith(":"):
            yield Passage(source, text)
        lines = [stripped[begins.end() :]] if begins else []
        if heading := None if fenced else _HEADING.match(stripped):
            source = f"{page}, {_plain(heading[1])}"


def stems(text: str) -> list[str]:
    """Lower-case words without their commonest endings; without those that say nothing."""
    return [_stem(word) for word in _WORD.findall(text.lower()) if word not in _STOP_WORDS]


def _stem(word: str) -> str:
    for ending in ("ing", "ies", "es", "ed", "s", "e"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word.removesuffix(ending)
    return word


def _plain(markdown: str) -> str:
    return re.sub(r"[*`]+", "", re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", markdown))
