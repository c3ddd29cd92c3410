"""The newest entries of one log, shared by all of a process's readers of it.

A bounded ring of entries that continue one another; each reader has its own place in it. Whoever is too slow and falls
off the ring reads the store by itself: a slow reader costs nobody else memory.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from runwire.errors import RunwireError
from runwire.pubsub import Entry, Head, Page, Position

MAX_ENTRIES: Final = 256
MAX_BYTES: Final = 1024 * 1024


class Tail:
    """Live entries of one epoch of a log."""

    __slots__ = (
        "_bytes",
        "_check",
        "_entries",
        "_lasts",
        "_waiting",
        "epoch",
        "error",
        "final",
        "last",
        "refill",
        "stale",
    )

    def __init__(self) -> None:
        self.epoch = ""
        """Empty until `begin`."""
        self.last = 0
        """The newest sequence known of: entries up to here are in the ring, or were."""
        self.final = 0
        """Entry.final of the newest entry."""
        self.error: RunwireError | None = None
        """Why readers must stop."""
        self.stale = False
        """An entry may have been missed: the log must be read."""
        self.refill = asyncio.Lock()
        """Held by the one reader that reads the log for all."""
        self._check = b""
        self._entries: list[Entry] = []
        self._lasts: list[int] = []
        self._bytes = 0
        self._waiting: asyncio.Future[None] | None = None

    def begin(self, head: Head) -> None:
        """Sets the place from which live entries must continue: the head of the log, read after subscribing."""
        self.epoch, self.last, self._check, self.final = head.epoch, head.last, head.check, head.final

    @property
    def position(self) -> Position:
        """After the newest event known of."""
        return Position(self.epoch, self.last, self._check)

    def offer(self, entry: Entry | None) -> None:
        """Takes a live entry if it continues the tail exactly; anything else only says that the log must be read.

        An entry of another epoch proves nothing by itself (it may be late); reading the log decides.
        """
        if entry is not None and entry.epoch == self.epoch:
            if entry.last <= self.last:
                return
            if entry.first == self.last + 1 and entry.previous == self._check:
                self._append(entry)
                self.wake()
                return
        self.stale = True
        self.wake()

    def extend(self, page: Page) -> None:
        """Takes what was read from the log. Wakes readers only if that is news: every reader that opens comes here."""
        before = self.last
        for entry in page.entries:
            if entry.first == self.last + 1:
                self._append(entry)
            elif entry.first > self.last:
                self._restart(entry.first)
                self._append(entry)
        if not page.entries and page.head.last > self.last:
            # All was trimmed away: readers find nothing in the ring, read the log and learn it there.
            self._restart(page.head.last + 1)
            self._check, self.final = page.head.check, page.head.final
        if self.last != before:
            self.wake()

    def after(self, sequence: int) -> Sequence[Entry] | None:
        """The entries in the ring that hold events above `sequence`; empty if there are none as yet, None if some
        of them have left the ring."""
        if sequence >= self.last:
            return ()
        start = bisect_left(self._lasts, sequence + 1)
        if start == len(self._entries) or self._entries[start].first > sequence + 1:
            return None
        return self._entries[start:]

    def fail(self, error: RunwireError) -> None:
        """Ends every reader with `error`."""
        self.error = error
        self.wake()

    def wake(self) -> None:
        """Lets every waiting reader look again."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def wait(self, limit_seconds: float) -> bool:
        """Waits for news, at most so long. False: there was none."""
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(limit_seconds):
                # The future is everybody's: one reader's time-out must not cancel it.
                await asyncio.shield(self._waiting)
        except TimeoutError:
            return False
        return True

    def _append(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._lasts.append(entry.last)
        self._bytes += len(entry.body)
        self.last, self._check, self.final = entry.last, entry.check, entry.final
        drop = 0
        while len(self._entries) - drop > MAX_ENTRIES or (self._bytes > MAX_BYTES and drop < len(self._entries) - 1):
            self._bytes -= len(self._entries[drop].body)
            drop += 1
        if drop:
            del self._entries[:drop], self._lasts[:drop]

    def _restart(self, first: int) -> None:
        self._entries, self._lasts, self._bytes = [], [], 0
        self.last = first - 1
