"""Scorer runs as they change, for any number of readers.

The database numbers its writes, and a row carries the number of its newest one (see `revisions`). So a reader's place
is a number, and what is new is what has a higher one. Readers take it from the `feed`, which the process reads once for
all of them; who comes with an old cursor, or reads too slowly, reads the database by itself, few at a time. Nothing is
queued for anybody: a reader that does not read holds one frame.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from runwire.cursor import CursorCodec
from runwire.errors import CursorAhead, CursorEpochMismatch, TooManyStreams
from runwire.pubsub import Position
from scorer_service.answers.feed import Feed, Key, Listener
from scorer_service.answers.gathered import Gathered
from scorer_service.answers.queries import Changes, Found, Place, Progress, Queries

LOOK_SECONDS: Final = 2.0
"""How often to look at first whether a run that has no scorer runs, or not all, will ever have them."""
_MAX_LOOK_SECONDS: Final = 10.0
MAX_STREAMS: Final = 2000
_PAGE: Final = 100
"""Most scorer runs of a frame."""
_FRAME_WEIGHT: Final = 256 * 1024
_READING: Final = 2
"""How many readers read the database by themselves at once."""
_OPENED: Final = 100
"""Most runs whose watches begin by one read."""
_ASKING: Final = 8
"""How many ask the store at once whether a run has sent all its requests."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a watch: changes, or none (heartbeat), or the end."""

    cursor: str
    found: Sequence[Found] = ()
    ended: bool = False


AllSent = Callable[[str, str], Awaitable[bool]]
"""Whether all requests of a run (tenant, run_id) are known to be in the database."""


async def _nobody_knows(tenant: str, run_id: str) -> bool:
    return False


class Watch:
    """The readers of this process."""

    def __init__(self, queries: Queries, all_sent: AllSent = _nobody_knows) -> None:
        self._all_sent = all_sent
        self.feed = Feed(queries)
        self._queries = queries
        self._readers = 0
        self._reading = asyncio.Semaphore(_READING)
        self._opening: Gathered[Key, Changes] = Gathered(self._of_runs, most=_OPENED)
        self._progress: Gathered[Key, Progress] = Gathered(self._how_far, most=_OPENED)
        self._asking = asyncio.Semaphore(_ASKING)

    async def poll_once(self) -> float:
        """Looks for news, if anybody reads."""
        return await self.feed.poll_once()

    def drain(self) -> None:
        """Ends all reading with ServerDraining."""
        self.feed.drain()

    async def read(self, tenant: str, run_id: str, cursor: str, heartbeat_seconds: float) -> AsyncIterator[Frame]:
        """Frames after a cursor: of one run until all its scorer runs are terminal, else without end.

        Raises CursorMalformed, CursorMismatch, CursorAhead, CursorEpochMismatch, TooManyStreams, ServerDraining,
        StoreUnavailable.
        """
        if self._readers >= MAX_STREAMS:
            raise TooManyStreams(f"this server has {MAX_STREAMS} watches already", 5.0)
        self._readers += 1
        try:
            with self.feed.listen((tenant, run_id)) as listener:
                reader = _Reader(self, listener, CursorCodec(f"{tenant}/scorer-runs/{run_id}"))
                await reader.begin(cursor)
                async for frame in reader.frames(heartbeat_seconds):
                    yield frame
        finally:
            self._readers -= 1

    # For readers

    async def newest(self) -> int:
        """What has settled by now: the feed may know of less."""
        return (await self._queries.settled()).revision

    async def changes(self, key: Key, place: Place) -> tuple[Sequence[Found], Place]:
        """The next changes of a reader that the feed has left behind, and its place after them."""
        tenant, run_id = key
        if run_id and place == Place(-1):
            opened = await self._opening.ask(key)
            if opened is not None:
                return opened.found, opened.upto
        async with self._reading:
            upto = self.feed.upto
            found = await self._queries.changes(
                place, upto, tenant=tenant, run_id=run_id, limit=_PAGE, most_weight=_FRAME_WEIGHT
            )
        return found.found, found.upto

    async def progress(self, key: Key) -> Progress:
        """How far a run is."""
        return await self._progress.ask(key) or Progress(False, False, -1)

    async def _of_runs(self, keys: Sequence[Key]) -> dict[Key, Changes]:
        """All changes of some runs, of those where they make one frame."""
        upto, found = self.feed.upto, dict[Key, Changes]()
        for tenant, run_ids in _by_tenant(keys):
            known = await self._queries.changes_of(tenant, run_ids, upto, limit=_PAGE, most_weight=_FRAME_WEIGHT)
            found |= {(tenant, run_id): changes for run_id, changes in known.items()}
        return found

    async def _how_far(self, keys: Sequence[Key]) -> dict[Key, Progress]:
        found = dict[Key, Progress]()
        for tenant, run_ids in _by_tenant(keys):
            known = await self._queries.progress(tenant, run_ids)
            found |= {(tenant, run_id): progress for run_id, progress in known.items()}
        return found

    async def has_sent_all(self, key: Key) -> bool:
        """Whether all requests of a run are known to be in the database."""
        async with self._asking:
            return await self._all_sent(*key)


class _Reader:
    """One reader: where it is, and whether that is the end."""

    def __init__(self, watch: Watch, listener: Listener, codec: CursorCodec) -> None:
        self._watch = watch
        self._feed = watch.feed
        self._listener = listener
        self._codec = codec
        self._epoch = ""
        self._place = Place(-1)
        self._done = -1
        """The revision up to which everything was sent: what a cursor says."""
        self._all_sent = False
        self._look_seconds = LOOK_SECONDS
        self._look_at = 0.0

    async def begin(self, cursor: str) -> None:
        """Goes to the place after a cursor."""
        await self._feed.start()
        self._epoch = self._feed.epoch
        if not cursor:
            return
        position = self._codec.decode(cursor)
        if position.epoch != self._epoch:
            raise CursorEpochMismatch("the results database was replaced since the cursor was given out")
        # Another process may have given it out, and have been further than the feed of this one.
        if position.sequence > self._feed.upto + 1 and position.sequence > await self._watch.newest() + 1:
            raise CursorAhead("the cursor is beyond the newest change")
        self._done = position.sequence - 1  # revisions begin with 0, and so do sequences, which say how many are done
        self._place = Place(self._done)

    async def frames(self, heartbeat_seconds: float) -> AsyncIterator[Frame]:
        silent_since = time.monotonic()
        while True:
            self._feed.check(self._epoch)
            self._listener.news.clear()
            found, has_all = await self._next()
            if found:
                yield Frame(self._cursor(), found)
                silent_since = time.monotonic()
            if not has_all:
                continue
            if self._listener.key[1] and await self._is_over():
                yield Frame(self._cursor(), ended=True)
                return
            ends = silent_since + heartbeat_seconds
            if time.monotonic() >= ends:
                yield Frame(self._cursor())
                silent_since = time.monotonic()
                continue
            await self._wait(min(ends, self._look_at) if self._looks else ends)

    async def _next(self) -> tuple[Sequence[Found], bool]:
        """The changes of the next frame, and whether these are all. Goes to the place after them."""
        if self._feed.enter(self._listener, self._place):
            found: Sequence[Found] = self._feed.take(self._listener, _FRAME_WEIGHT)
            if has_all := self._feed.has_all(self._listener, self._place):
                self._place = Place(max(self._place.revision, self._feed.upto))
            elif found:
                self._place = Place(found[-1].run.revision, found[-1].run.scorer_run_id)
        elif has_all := self._feed.has_all(self._listener, self._place):
            found = ()
        else:
            found, self._place = await self._watch.changes(self._listener.key, self._place)
        # More of the same revision may follow: a cursor says only what is whole.
        whole = self._place.scorer_run_id is None
        self._done = max(self._done, self._place.revision - (0 if whole else 1))
        return found, has_all

    def _cursor(self) -> str:
        return self._codec.encode(Position(self._epoch, self._done + 1))

    @property
    def _looks(self) -> bool:
        """Whether the store is to be asked, now or later."""
        progress = self._listener.progress
        return bool(self._listener.key[1]) and progress is not None and not progress.still_open and not self._all_sent

    async def _is_over(self) -> bool:
        """Whether all scorer runs that the run asked for are there and terminal, and the reader knows: the last changes
        may not be settled yet."""
        progress = self._listener.progress
        if progress is None:
            progress = self._listener.progress = await self._watch.progress(self._listener.key)
        if progress.still_open:
            return False
        if progress.complete or self._all_sent:
            return progress.revision <= self._place.revision
        if time.monotonic() < self._look_at:
            return False
        self._all_sent = await self._watch.has_sent_all(self._listener.key)
        self._look_at = time.monotonic() + self._look_seconds
        self._look_seconds = min(_MAX_LOOK_SECONDS, self._look_seconds * 1.5)
        if not self._all_sent:
            return False
        # They may have come in between.
        progress = self._listener.progress = await self._watch.progress(self._listener.key)
        return not progress.still_open and progress.revision <= self._place.revision

    async def _wait(self, until: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                await self._listener.news.wait()
        except TimeoutError:
            pass


def _by_tenant(keys: Sequence[Key]) -> list[tuple[str, list[str]]]:
    found: dict[str, list[str]] = {}
    for tenant, run_id in keys:
        found.setdefault(tenant, []).append(run_id)
    return list(found.items())


def _within(found: Sequence[Found]) -> int:
    """How many of them make one frame: at least one, where there is one."""
    total = 0
    for count, one in enumerate(found):
        total += one.weight
        if total > _FRAME_WEIGHT and count:
            return count
    return len(found)
