"""The newest changes of scorer runs, read once for all watches of this process.

One loop reads what has settled since it last looked, and keeps the newest of it in a ring that is bounded in bytes.
Every watch reads the ring at its own place; who has fallen off it reads the database by itself until it is on it again.
So the queries of an interval do not depend on the number of watches, and nothing is queued for anybody.

    floor          everything that changed after this revision, up to `upto`, is in the ring
    upto           the revision up to which changes were read, whole revisions only
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final

from runwire.errors import CursorEpochMismatch, RunwireError, ServerDraining, StoreUnavailable, Unavailable
from scorer_service.answers.queries import Found, Place, Progress, Queries
from scorer_service.results.records import TERMINAL

POLL_SECONDS: Final = 0.1
_PAGE: Final = 100
"""Most changes of one statement, and of one frame."""
_PAGES: Final = 20
"""Most pages that are read before others get their turn."""
_RUNS: Final = 500
"""Most runs whose progress one statement asks for."""
MAX_RING_WEIGHT: Final = 16 * 1024 * 1024
_LATE_SECONDS: Final = 5.0
_COMPLAIN_SECONDS: Final = 60.0

logger = logging.getLogger("scorer_service")

_NOWHERE: Final = -1

Key = tuple[str, str]
"""Tenant and run; an empty run: all of the tenant's."""


class Listener:
    """A watch, as the feed sees it."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.news = asyncio.Event()
        """Set when there is something to read."""
        self.progress: Progress | None = None
        """Of its run, as of the newest change that ended one of its scorer runs."""
        self.number = _NOWHERE
        """Of the change in the ring that it reads next."""


@dataclass(frozen=True, slots=True)
class _Change:
    number: int
    """Dense, in the order of changes."""
    found: Found


class Feed:
    """The ring, and the loop that fills it."""

    def __init__(self, queries: Queries, *, most_weight: int = MAX_RING_WEIGHT) -> None:
        self.epoch = ""
        self.upto = -1
        self.floor = -1
        self.lag_seconds = 0.0
        """For how long nothing has settled although writes were begun."""
        self._queries = queries
        self._most_weight = most_weight
        self._weight = 0
        self._ring: deque[_Change] = deque()
        self._runs: dict[Key, deque[_Change]] = {}
        self._next = 0
        """The number of the next change."""
        self._end = 0
        """The number of the first change that is not to be read yet: its revision is not whole."""
        self._listeners: dict[Key, set[Listener]] = {}
        self._last_revision = -1
        self._place = Place(-1)
        self._started = False
        self._starting = asyncio.Lock()
        self._error: RunwireError | None = None
        self._draining = False
        self._stuck_since = 0.0
        self._complained = -_COMPLAIN_SECONDS

    # For watches

    @contextmanager
    def listen(self, key: Key) -> Iterator[Listener]:
        """A listener for a tenant, or one run of it. The feed reads as long as there are any."""
        listener = Listener(key)
        self._listeners.setdefault(key, set()).add(listener)
        try:
            yield listener
        finally:
            others = self._listeners[key]
            others.discard(listener)
            if not others:
                del self._listeners[key]

    async def start(self) -> None:
        """Returns once `epoch` and `upto` say something. Call it within `listen`. Raises StoreUnavailable."""
        async with self._starting:
            if self._started:
                return
            settled = await self._queries.settled()
            self._start_ring()
            self.epoch, self.upto, self.floor = settled.epoch, settled.revision, settled.revision
            self._place = Place(settled.revision)
            self._started, self._error, self._stuck_since = True, None, time.monotonic()

    def check(self, epoch: str) -> None:
        """Raises what ends a watch: ServerDraining, StoreUnavailable, CursorEpochMismatch."""
        if self._draining:
            raise ServerDraining("this server shuts down; another one will serve", 0.2)
        if self._error is not None:
            raise self._error
        if epoch != self.epoch:
            raise CursorEpochMismatch("the results database was replaced")

    def enter(self, listener: Listener, place: Place) -> bool:
        """Whether a listener can continue in the ring after a place, and lets it."""
        if listener.number != _NOWHERE:
            return True
        if place.scorer_run_id is not None or place.revision < self.floor:
            return False
        index = bisect_right(self._ring, place.revision, key=lambda change: change.found.run.revision)
        listener.number = self._next - len(self._ring) + index
        return True

    def take(self, listener: Listener, most: int) -> list[Found]:
        """The next changes for a listener that has entered, up to `upto`, at least one where there is one and together
        at most so heavy. If it has them all, it is at `upto`."""
        change, taken, weight = None, list[Found](), 0
        for change in self._unread(listener):
            if change.found.run.tenant == listener.key[0]:
                weight += change.found.weight
                if taken and (weight > most or len(taken) >= _PAGE):
                    listener.number = change.number
                    return taken
                taken.append(change.found)
        listener.number = max(listener.number, self._end)
        return taken

    def has_all(self, listener: Listener, place: Place) -> bool:
        """Whether a listener that is at a place has read everything up to `upto`."""
        if listener.number == _NOWHERE:
            return place.scorer_run_id is None and place.revision >= self.upto
        return listener.number >= self._end

    def _unread(self, listener: Listener) -> Iterator[_Change]:
        if listener.key[1]:
            kept = self._runs.get(listener.key, ())
            return (change for change in kept if listener.number <= change.number < self._end)
        first = self._next - len(self._ring)
        return islice(self._ring, max(0, listener.number - first), max(0, self._end - first))

    # For the process

    async def poll_once(self) -> float:
        """Reads what has settled, if anybody listens."""
        if not self._listeners:
            self._started = False
            self._start_ring()
            return POLL_SECONDS
        try:
            await self.start()
            delay = await self._read_on()
        except Exception as error:
            self._fail(error)
            raise
        self._error = None
        return delay

    def drain(self) -> None:
        """Ends all watches with ServerDraining."""
        self._draining = True
        self._wake_all()

    async def _read_on(self) -> float:
        settled = await self._queries.settled()
        if settled.epoch != self.epoch:
            self._started = False  # watches of the old epoch end; the next look starts over
            self.epoch = settled.epoch
            self._wake_all()
            return 0.0
        await self._measure(settled.revision, settled.behind)
        if settled.revision <= self.upto:
            return POLL_SECONDS
        for _ in range(_PAGES):
            changes = await self._queries.changes(self._place, settled.revision, limit=_PAGE)
            await self._ask_progress(changes.found)
            self._publish(changes.found, changes.upto)
            if changes.whole:
                return POLL_SECONDS
        return 0.0

    async def _ask_progress(self, found: Sequence[Found]) -> None:
        """How far those runs are that somebody watches, and of which a scorer run ended: one statement for all of them.
        Before they are published, so that a reader of the last change knows that it is the last."""
        ended = {(one.run.tenant, one.run.run_id) for one in found if one.run.state in TERMINAL and one.run.run_id}
        watched: dict[str, list[str]] = {}
        for tenant, run_id in sorted(ended & self._listeners.keys()):
            watched.setdefault(tenant, []).append(run_id)
        for tenant, run_ids in watched.items():
            for start in range(0, len(run_ids), _RUNS):
                known = await self._queries.progress(tenant, run_ids[start : start + _RUNS])
                for run_id, progress in known.items():
                    for listener in self._listeners.get((tenant, run_id), ()):
                        listener.progress = progress

    def _publish(self, found: Sequence[Found], upto: Place) -> None:
        told: set[Key] = set()
        for one in found:
            if one.run.revision != self._last_revision:
                self._last_revision, self._end = one.run.revision, self._next
            change = _Change(self._next, one)
            self._next += 1
            self._ring.append(change)
            self._weight += one.weight
            tenant, run_id = one.run.tenant, one.run.run_id
            told.add((tenant, ""))
            if run_id:
                self._runs.setdefault((tenant, run_id), deque()).append(change)
                told.add((tenant, run_id))
        self._place = upto
        if upto.scorer_run_id is None:
            self.upto, self._end = upto.revision, self._next
        else:  # more of the same revision may follow: a reader's place is after whole ones
            self.upto = max(self.upto, upto.revision - 1)
        while self._ring and self._weight > self._most_weight:
            self._drop()
        for key in told:
            for listener in self._listeners.get(key, ()):
                listener.news.set()

    def _drop(self) -> None:
        """Takes the oldest change out of the ring. Who has not read it has fallen off."""
        change = self._ring.popleft()
        run = change.found.run
        self._weight -= change.found.weight
        self.floor = max(self.floor, run.revision)
        of_run = (run.tenant, run.run_id)
        if of_run in self._runs:
            self._runs[of_run].popleft()
            if not self._runs[of_run]:
                del self._runs[of_run]
        for key in {of_run, (run.tenant, "")}:
            for listener in self._listeners.get(key, ()):
                if listener.number <= change.number:
                    listener.number = _NOWHERE

    def _start_ring(self) -> None:
        self._ring.clear()
        self._runs.clear()
        self._weight, self._end, self._last_revision = 0, self._next, -1

    def _fail(self, error: Exception) -> None:
        """Watches must not take a feed that cannot read for one with nothing new."""
        self._error = error if isinstance(error, Unavailable) else StoreUnavailable("changes cannot be read")
        self._wake_all()

    def _wake_all(self) -> None:
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.news.set()

    async def _measure(self, settled: int, behind: int) -> None:
        """For how long nothing has settled; and a word about it, and who is the reason, when that is long."""
        now = time.monotonic()
        if not behind or settled > self.upto:
            self._stuck_since, self.lag_seconds = now, 0.0
            return
        self.lag_seconds = now - self._stuck_since
        if self.lag_seconds < _LATE_SECONDS or now < self._complained + _COMPLAIN_SECONDS:
            return
        self._complained = now
        if (holdup := await self._queries.holdup()) is not None:
            logger.warning(
                "watches are %.0f s late: the write of connection %d (%s) has been open for %.0f s",
                self.lag_seconds,
                holdup.pid,
                holdup.doing,
                holdup.age_seconds,
            )
