"""What became of the pages of walks, for who asks for one again because its answer was lost."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

_KEPT: Final = 256
"""Pages that are remembered, of some 40 kB at most."""

Place = TypeVar("Place")


@dataclass(slots=True)
class Page(Generic[Place]):
    """How far one is. Also of one whose caller went away: it is gone on with."""

    place: Place
    count: int = 0
    ids: list[str] = field(default_factory=list)
    done: bool = False
    rest: Place | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Of who carries it out: a second caller waits for the end, and gets the same."""


class Pages(Generic[Place]):
    """The newest pages that this process carried out."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, Page[Place]] = OrderedDict()

    def page(self, key: str, begin: Place) -> Page[Place]:
        """The page of that name; a new one where it is not remembered, or has no name."""
        if not key:
            return Page(begin)
        if key not in self._kept:
            self._kept[key] = Page(begin)
        self._kept.move_to_end(key)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]
