"""Scorer runs as they change, for any number of readers.

The database numbers its writes in the order in which they commit (`revision`), and a row carries the number of its
newest one. So a reader's place is a number, and what is new is an index range above it. One task per process looks
whether there is anything new; readers then read at their own place. Nothing is queued for anybody.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Final

from runwire.cursor import CursorCodec
from runwire.errors import CursorAhead, CursorEpochMismatch, ServerDraining, TooManyStreams
from runwire.pubsub import Position
from scorer_service.queries import Found, Queries, within_weight

POLL_SECONDS: Final = 0.1
MAX_STREAMS: Final = 1000
_PAGE: Final = 1000
"""Above the size of any one write, so that a page holds at least one whole revision."""
_FRAME: Final = 100


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame of a watch: changes, or none (heartbeat), or the end."""

    cursor: str
    found: Sequence[Found] = ()
    ended: bool = False


class Watch:
    """The readers of this process."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self._readers = 0
        self._revision = -1
        self._news = asyncio.Event()
        self._draining = False

    async def poll_once(self) -> float:
        """Looks for news, if anybody reads."""
        if self._readers:
            _, revision = await self._queries.newest()
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
        epoch, newest = await self._queries.newest()
        place = _place(codec, cursor, epoch, newest)
        silent_since = time.monotonic()
        while True:
            if self._draining:
                raise ServerDraining("this server shuts down; another one will serve", 0.2)
            news = self._news
            epoch_now, newest = await self._queries.newest()
            if epoch_now != epoch:
                raise CursorEpochMismatch("the results database was replaced")
            found = _whole_revisions(await self._queries.changes(tenant, run_id, place, limit=_PAGE))
            rest = found
            while rest:
                count = min(_FRAME, within_weight(rest))
                frame, rest = rest[:count], rest[count:]
                # A cursor inside a revision would skip its rest: until the rest is sent, the old place stands.
                last = frame[-1].run.revision
                place = place if rest and rest[0].run.revision == last else last
                yield Frame(codec.encode(Position(epoch, place)), frame)
                silent_since = time.monotonic()
            if found and len(found) >= _PAGE // 2:
                continue
            place = max(place, newest)
            if run_id and await self._queries.all_terminal(tenant, run_id):
                if not await self._queries.changes(tenant, run_id, place, limit=1):
                    yield Frame(codec.encode(Position(epoch, place)), ended=True)
                    return
                continue
            rest_seconds = silent_since + heartbeat_seconds - time.monotonic()
            if rest_seconds <= 0:
                yield Frame(codec.encode(Position(epoch, place)))
                silent_since = time.monotonic()
                continue
            try:
                async with asyncio.timeout(rest_seconds):
                    await news.wait()
            except TimeoutError:
                pass


def _place(codec: CursorCodec, cursor: str, epoch: str, newest: int) -> int:
    if not cursor:
        return 0
    position = codec.decode(cursor)
    if position.epoch != epoch:
        raise CursorEpochMismatch("the results database was replaced since the cursor was given out")
    if position.sequence > newest:
        raise CursorAhead("the cursor is beyond the newest change")
    return position.sequence


def _whole_revisions(found: list[Found]) -> list[Found]:
    """A full page without its last revision, of which more may follow."""
    if len(found) < _PAGE:
        return found
    last = found[-1].run.revision
    return [one for one in found if one.run.revision != last] or found
