"""The newest entries of one log, shared by all of a process's readers of it.

A bounded ring of entries that continue one another; each reader has its own place in it. A reader that is too slow and
falls off the ring reads the store by itself: a slow reader costs nobody else memory. What all readers have had is
forgotten at once, and all rings of a process have one budget together: beyond it the one used longest ago is emptied.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from runwire.alarm import Alarm
from runwire.errors import EventsLost, RunwireError, StoreUnavailable
from runwire.pubsub import Entry, Head, Page, Position

MAX_ENTRIES: Final = 256
MAX_BYTES: Final = 1024 * 1024


class Rings:
    """The bytes of all tails of a process."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self.most_bytes = 0
        self._tails: OrderedDict[Tail, None] = OrderedDict()

    def resize(self, tail: Tail, change: int) -> None:
        """A ring was used, and has so much more in it. Empties others while all are too large together."""
        self.used_bytes += change
        if tail.size_bytes:
            self._tails[tail] = None
            self._tails.move_to_end(tail)
        else:
            self._tails.pop(tail, None)
        while self.used_bytes > self.limit_bytes and len(self._tails) > 1:
            next(iter(self._tails)).forget()
        self.most_bytes = max(self.most_bytes, self.used_bytes)


class Tail:
    """Live entries of one epoch of a log."""

    __slots__ = (
        "_check",
        "_entries",
        "_lasts",
        "_made_up",
        "_rings",
        "_waiting",
        "epoch",
        "error",
        "failure",
        "final",
        "last",
        "missed",
        "readers",
        "refill",
        "size_bytes",
    )

    def __init__(self, rings: Rings | None = None) -> None:
        self.epoch = ""
        """Empty until `begin`."""
        self.last = 0
        """The newest sequence known of: entries up to here are in the ring, or were."""
        self.final = 0
        """Entry.final of the newest entry."""
        self.error: RunwireError | None = None
        """Why readers must stop."""
        self.missed = 0
        """How often there was reason to believe that an entry was missed."""
        self.refill = asyncio.Lock()
        """Held by the one reader that reads the log for all."""
        self.failure: StoreUnavailable | None = None
        """How the last read for all failed, for those who waited for it."""
        self.readers = 0
        """How many there are: once all of them wait, nobody needs what is in the ring."""
        self.size_bytes = 0
        """Of the entries in the ring."""
        self._rings = rings or Rings(MAX_BYTES)
        self._made_up = 0
        """`missed` as it was when a read that succeeded began."""
        self._check = b""
        self._entries: list[Entry] = []
        self._lasts: list[int] = []
        self._waiting: dict[asyncio.Future[None], None] = {}

    def begin(self, head: Head) -> None:
        """Sets the place from which live entries must continue: the head of the log, read after subscribing."""
        self.epoch, self.last, self._check, self.final = head.epoch, head.last, head.check, head.final
        self.forget()

    def forget(self) -> None:
        """Empties the ring. Who has not had what was in it reads the store."""
        size, self.size_bytes = self.size_bytes, 0
        self._entries, self._lasts = [], []
        if size:
            self._rings.resize(self, -size)

    @property
    def stale(self) -> bool:
        """An entry may have been missed: the log must be read."""
        return self.missed != self._made_up

    @property
    def position(self) -> Position:
        """After the newest event known of."""
        return Position(self.epoch, self.last, self._check)

    def offer(self, entry: Entry | None) -> None:
        """Takes a live entry if it continues the tail exactly; anything else only says that the log must be read.

        An entry of another epoch proves nothing by itself (it may be late); reading the log decides.
        """
        if entry is not None and entry.epoch == self.epoch and entry.last <= self.last:
            return
        if entry is not None and self._is_continued_by(entry):
            self._append(entry)
        else:
            self.missed += 1
        self.wake()

    def fill(self, page: Page, missed: int) -> None:
        """Takes what was read from the log after the tail's own position. `missed` is from before that read."""
        self._made_up = missed
        if page.head.earliest > self.last + 1:
            # What comes next is gone. Readers find it no more in the ring either, read the log and learn it there.
            self.begin(page.head)
            self.wake()
        else:
            self.extend(page)

    def extend(self, page: Page) -> None:
        """Takes what was read from the log, as far as it continues the tail. Wakes readers only if that is news: every
        reader that opens comes here."""
        before = self.last, self.missed
        for entry in page.entries:
            if entry.first > self.last + 1:
                break
            if self._is_continued_by(entry):
                self._append(entry)
            elif entry.last > self.last:
                # It lies across the newest event, or follows another one: no log that only grows has such an entry.
                return self.fail(EventsLost(f"event {self.last} was replaced under this reader"))
        if page.head.last > self.last:
            self.missed += 1
        if before != (self.last, self.missed):
            self.wake()

    def after(self, sequence: int) -> Sequence[Entry] | None:
        """The entries in the ring that hold events above `sequence`; empty if there are none as yet, None if some
        of them have left the ring."""
        if sequence >= self.last:
            return ()
        start = bisect_left(self._lasts, sequence + 1)
        if start == len(self._entries) or self._entries[start].first > sequence + 1:
            return None
        self._rings.resize(self, 0)
        return self._entries[start:]

    def fail(self, error: RunwireError) -> None:
        """Ends every reader with `error`."""
        self.error = error
        self.wake()

    def wake(self) -> None:
        """Lets every waiting reader look again."""
        waiting, self._waiting = self._waiting, {}
        for reader in waiting:
            if not reader.done():
                reader.set_result(None)

    async def wait(self, limit_seconds: float, alarm: Alarm) -> None:
        """Waits for news, at most this long by the reader's `alarm`."""
        # One each: a future for all would search its callbacks for each reader whose time is over.
        reader = asyncio.get_running_loop().create_future()
        self._waiting[reader] = None
        if len(self._waiting) == self.readers:
            self.forget()
        alarm.set(reader, limit_seconds)
        try:
            await reader
        finally:
            self._waiting.pop(reader, None)

    def _is_continued_by(self, entry: Entry) -> bool:
        return entry.epoch == self.epoch and entry.first == self.last + 1 and entry.previous == self._check

    def _append(self, entry: Entry) -> None:
        self._entries.append(entry)
        self._lasts.append(entry.last)
        change = len(entry.body)
        self.last, self._check, self.final = entry.last, entry.check, entry.final
        drop = 0
        while len(self._entries) - drop > MAX_ENTRIES or (
            self.size_bytes + change > MAX_BYTES and drop < len(self._entries) - 1
        ):
            change -= len(self._entries[drop].body)
            drop += 1
        if drop:
            del self._entries[:drop], self._lasts[:drop]
        self.size_bytes += change
        self._rings.resize(self, change)
