"""What readers have read from the store and not given out yet: one budget for the process.

A reader reads ahead of what it can send only while there is room. What is dropped is read again: it is never skipped,
because a reader knows its own position and asks for what comes after it.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from operator import attrgetter
from typing import Final

from runwire.pubsub import MAX_COMMIT_BYTES, Entry

PAGE_BYTES: Final = 1024 * 1024
"""What is read at once where there is room."""
_SETTLED_SECONDS: Final = 0.25
"""A reader that has not come for its entries for this long is slow, and loses them to others."""


class ReadAhead:
    """The places of all readers, those that were used longest ago first."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.most_bytes = 0
        self._places: OrderedDict[Ahead, float] = OrderedDict()

    def page_bytes(self) -> int:
        """How much to read: a page, or what can be sent at once."""
        return PAGE_BYTES if self._make_room(PAGE_BYTES) else MAX_COMMIT_BYTES

    def _make_room(self, size: int) -> bool:
        """Whether so much more may be kept; takes it from those who are slow."""
        settled = asyncio.get_running_loop().time() - _SETTLED_SECONDS
        while self.used_bytes + size > self.limit_bytes and self._places:
            place, used = next(iter(self._places.items()))
            if used > settled:
                return False
            place.drop()
        return self.used_bytes + size <= self.limit_bytes

    def _resize(self, place: Ahead, change: int) -> None:
        self.used_bytes += change
        self.most_bytes = max(self.most_bytes, self.used_bytes)
        if place.size_bytes:
            self._places[place] = asyncio.get_running_loop().time()
            self._places.move_to_end(place)
        else:
            self._places.pop(place, None)


class Ahead:
    """One reader's entries that it has not given out."""

    def __init__(self, ahead: ReadAhead) -> None:
        self._ahead = ahead
        self._entries: Sequence[Entry] = ()
        self.size_bytes = 0

    def after(self, sequence: int) -> Sequence[Entry]:
        """What is kept of the events above `sequence`; empty if nothing is, or was dropped."""
        if self._entries and self._entries[-1].last <= sequence:
            self.drop()
        return self._entries

    def advance(self, sequence: int) -> None:
        """Keeps of what is kept what has events above `sequence`."""
        if self._entries:
            self.keep(self._entries, sequence)

    def keep(self, entries: Sequence[Entry], sequence: int) -> None:
        """Keeps those with events above `sequence`, in place of what was kept, if there is room."""
        rest = entries[bisect_right(entries, sequence, key=attrgetter("last")) :]
        size = sum(len(entry.body) for entry in rest)
        if size > self.size_bytes:
            self.drop()  # first: to make room could take from this reader what is counted on
            if not self._ahead._make_room(size):
                rest, size = (), 0
        self._set(rest, size)

    def drop(self) -> None:
        """Keeps nothing."""
        if self._entries:
            self._set((), 0)

    def _set(self, entries: Sequence[Entry], size: int) -> None:
        change, self.size_bytes = size - self.size_bytes, size
        self._entries = entries
        self._ahead._resize(self, change)
