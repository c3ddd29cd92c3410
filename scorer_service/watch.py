"""Scorer runs as they change, for any number of readers.

The database numbers its writes, and a row carries the number of its newest one (see `revisions`). So a reader's place
is a number, and what is new is an index range above it. One task per process looks
whether there is anything new; readers then read at their own place. Nothing is queued for anybody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from runwire.cursor import CursorCodec
from runwire.errors import CursorAhead, CursorEpochMismatch, ServerDraining, TooManyStreams
from runwire.pubsub import Position
from scorer_service.queries import Found, Place, Queries, within_weight

POLL_SECONDS: Final = 0.1
LOOK_SECONDS: Final = 2.0
"""How often to look whether a run that has no scorer runs, or not all, will ever have them."""
MAX_STREAMS: Final = 1000
_PAGE: Final = 100
"""Most scorer runs of a frame."""


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

    def __init__(self, queries: Queries) -> None:
        self.all_sent: AllSent = _nobody_knows
        """Set once the store is there that knows."""
        self._queries = queries
        self._readers = 0
        self._revision = -1
        self._news = asyncio.Event()
        self._draining = False

    async def poll_once(self) -> float:
        """Looks for news, if anybody reads."""
        if self._readers:
            _, revision = await self._queries.settled()
            if revision != self._revision:
                self._revision = revision
                self._announce()
        return POLL_SECONDS

    def drain(self) -> None:
        """Ends all reading with ServerDraining."""
        self._draining = True
        self._announce()

    def _announce(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def read(self, tenant: str, run_id: str, cursor: str, heartbeat_seconds: float) -> AsyncIterator[Frame]:
        """Frames after a cursor: of one run until all its scorer runs are terminal, else without end.

        Raises CursorMalformed, CursorMismatch, CursorAhead, CursorEpochMismatch, TooManyStreams, ServerDraining.
        """
        if self._readers >= MAX_STREAMS:
            raise TooManyStreams(f"this server has {MAX_STREAMS} watches already", 5.0)
        self._readers += 1
        try:
            async for frame in self._frames(tenant, run_id, cursor, heartbeat_seconds):
                yield frame
        finally:
            self._readers -= 1

    async def _frames(self, tenant: str, run_id: str, cursor: str, heartbeat_seconds: float) -> AsyncIterator[Frame]:
        codec = CursorCodec(f"{tenant}/scorer-runs/{run_id}")
        epoch, settled = await self._queries.settled()
        done = _revision_of(codec, cursor, epoch, settled)
        place = Place(done)
        silent_since = time.monotonic()
        looked_at = -LOOK_SECONDS
        while True:
            if self._draining:
                raise ServerDraining("this server shuts down; another one will serve", 0.2)
            news = self._news
            epoch_now, settled = await self._queries.settled()
            if epoch_now != epoch:
                raise CursorEpochMismatch("the results database was replaced")
            found = await self._queries.changes(tenant, run_id, place, settled, limit=_PAGE)
            frame = found[: within_weight(found)]
            if found:
                last = frame[-1].run
                place = Place(last.revision, last.scorer_run_id)
                # More of the same revision may follow: a cursor says only what is whole.
                done = max(done, last.revision - 1)
            whole = len(frame) == len(found) < _PAGE
            if whole:
                done = max(done, settled)
                place = Place(done)
            if frame:
                yield Frame(codec.encode(Position(epoch, done + 1)), frame)
                silent_since = time.monotonic()
            if not whole:
                continue
            rest_seconds = silent_since + heartbeat_seconds - time.monotonic()
            if run_id:
                still_open, complete = await self._queries.progress(tenant, run_id)
                if not still_open and not complete:
                    rest_seconds = min(rest_seconds, LOOK_SECONDS)
                    if time.monotonic() >= looked_at + LOOK_SECONDS:
                        looked_at = time.monotonic()
                        complete = await self.all_sent(tenant, run_id)
                if not still_open and complete and await self._is_over(tenant, run_id, place):
                    yield Frame(codec.encode(Position(epoch, done + 1)), ended=True)
                    return
            if rest_seconds <= 0:
                yield Frame(codec.encode(Position(epoch, done + 1)))
                silent_since = time.monotonic()
                continue
            try:
                async with asyncio.timeout(rest_seconds):
                    await news.wait()
            except TimeoutError:
                pass

    async def _is_over(self, tenant: str, run_id: str, place: Place) -> bool:
        """Whether all that is there is terminal, and the reader knows: the last changes may not be settled yet."""
        still_open, _ = await self._queries.progress(tenant, run_id)
        return not still_open and not await self._queries.changes(tenant, run_id, place, limit=1)


def _revision_of(codec: CursorCodec, cursor: str, epoch: str, settled: int) -> int:
    if not cursor:
        return -1
    position = codec.decode(cursor)
    if position.epoch != epoch:
        raise CursorEpochMismatch("the results database was replaced since the cursor was given out")
    if position.sequence > settled + 1:
        raise CursorAhead("the cursor is beyond the newest change")
    return position.sequence - 1  # revisions begin with 0, and so do sequences, which say how many are done
