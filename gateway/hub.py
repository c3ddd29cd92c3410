"""Readers of one run share what is read and encoded for them.

The first reader of a run makes a *feed*: one stream of the service, whose frames are encoded once and kept in a window
of a few hundred kilobytes. A reader whose place is in the window follows the feed, and needs no call of the service at
all. Any other reads a stream of its own until its place is in the window, and a reader that is too slow for the window
goes back to a stream of its own.

Only readers with the same token share: what the service checks for one holds for all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeAlias

MAX_WINDOW_BYTES: Final = 256 * 1024
"""Of one feed."""
MAX_WINDOWS_BYTES: Final = 64 * 1024 * 1024
"""Of all feeds together."""
_MAX_WRITE_BYTES: Final = 64 * 1024
"""Of frames that a reader who is behind is sent at once, if they are several."""

Key: TypeAlias = tuple[str, str]
"""Run and token."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What is sent of one frame of the service, and the place behind it."""

    data: bytes
    place: str


Frames: TypeAlias = Callable[[], AsyncIterator[Frame]]
"""Reads the frames after a place."""


class Feed:
    """One stream, for all who follow it. Frame numbers count from 0 at the place where it began."""

    def __init__(self, place: str, room: Callable[[], int]) -> None:
        """`room` says how many bytes the window may hold now."""
        self.readers = 0
        self._room = room
        self._window: deque[Frame] = deque()
        self._bytes = 0
        self._base = 0
        """Number of the first frame in the window."""
        self._numbers = {place: 0}
        """Of the frame after a place, for the places in the window."""
        self._furthest = 0
        """Number of the frame that the fastest reader wants next."""
        self._news = asyncio.Event()
        self._wanted = asyncio.Event()
        self._telling = self._untold = False
        self._over = False
        self._error: Exception | None = None

    def find(self, place: str) -> int | None:
        """The number of the frame after `place`; None if that is not in the window."""
        return None if self._error is not None else self._numbers.get(place)

    async def read(self, frames: AsyncIterator[Frame]) -> None:
        """Fills the window, at most as far ahead of the fastest reader as the window is long."""
        try:
            async for frame in frames:
                self._add(frame)
                while self._bytes > self._room() // 2 and self._furthest < self._end:
                    self._wanted.clear()
                    await self._wanted.wait()
        except Exception as error:
            self._error = error  # each reader raises it, once it has had what came before
        finally:
            self._over = True
            self._news.set()

    async def follow(self, number: int) -> AsyncGenerator[Frame]:
        """What to send from frame `number` on; frames that have waited are joined.

        Ends with the last frame, where the reader was too slow, and where the feed was given up. Raises what ended the
        stream.
        """
        while True:
            while number < self._end:
                if number < self._base:
                    return
                frame, number = self._take(number)
                if number > self._furthest:
                    self._furthest = number
                    self._wanted.set()
                yield frame
            if self._over:
                if self._error is not None:
                    raise self._error
                return
            await self._news.wait()

    @property
    def _end(self) -> int:
        return self._base + len(self._window)

    def _add(self, frame: Frame) -> None:
        self._window.append(frame)
        self._bytes += len(frame.data)
        self._numbers[frame.place] = self._end
        # What the fastest reader has not had stays, also where a single frame is larger than the window.
        while self._bytes > self._room() and self._base < self._furthest:
            self._bytes -= len(self._window.popleft().data)
            self._base += 1
        while self._numbers[first := next(iter(self._numbers))] < self._base:
            del self._numbers[first]
        if self._telling:
            self._untold = True
        else:
            self._tell()

    def _tell(self) -> None:
        """Wakes all readers, and lets as much time pass before the next time as they took.

        Otherwise thousands of them would take all turns of the loop, one frame at a time, and the feed none to read on:
        so they get several frames in one write instead.
        """
        loop = asyncio.get_running_loop()
        self._telling, begin = True, loop.time()
        news, self._news = self._news, asyncio.Event()
        news.set()
        # Runs behind the readers that were woken just now.
        loop.call_soon(lambda: loop.call_later(loop.time() - begin, self._rested))

    def _rested(self) -> None:
        self._telling = False
        if self._untold:
            self._untold = False
            self._tell()

    def _take(self, number: int) -> tuple[Frame, int]:
        """Frames from `number` on that fit into one write, as one: the first, and others if they are small."""
        frame = self._window[number - self._base]
        number += 1
        if number == self._end:
            return frame, number
        pieces, size = [frame.data], len(frame.data)
        while number < self._end and (size := size + len(self._window[number - self._base].data)) <= _MAX_WRITE_BYTES:
            frame = self._window[number - self._base]
            pieces.append(frame.data)
            number += 1
        return Frame(b"".join(pieces), frame.place), number


class Hub:
    """The feeds of a process. Used as an asynchronous context manager, which ends them all."""

    def __init__(self) -> None:
        self._feeds: dict[Key, Feed] = {}
        self._group = asyncio.TaskGroup()
        self._tasks: dict[Feed, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Hub:
        await self._group.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks.values():
            task.cancel()
        await self._group.__aexit__(None, None, None)

    def __len__(self) -> int:
        return len(self._feeds)

    def covers(self, key: Key, place: str) -> bool:
        """Whether a reader at `place` can follow a feed at once."""
        feed = self._feeds.get(key)
        return feed is not None and feed.find(place) is not None

    @contextmanager
    def seat(self, key: Key, place: str, frames: Frames) -> Iterator[tuple[Feed, int] | None]:
        """A feed to follow, and the number of the frame to begin with; None if `place` is not in the window.

        Where nobody reads the run, a feed begins at `place`, with `frames`, on behalf of the caller.
        """
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._begin(key, place, frames())
        number = feed.find(place)
        if number is None:
            yield None
            return
        feed.readers += 1
        try:
            yield feed, number
        finally:
            feed.readers -= 1
            if not feed.readers:
                self._end(key, feed)

    def _begin(self, key: Key, place: str, frames: AsyncIterator[Frame]) -> Feed:
        feed = Feed(place, self._room)
        self._feeds[key] = feed
        # The task has a copy of the context of this reader, and with it the reader's token.
        self._tasks[feed] = task = self._group.create_task(feed.read(frames))
        task.add_done_callback(lambda _: self._end(key, feed))
        return feed

    def _end(self, key: Key, feed: Feed) -> None:
        """Nobody new follows it: it has no reader, or its stream is over."""
        if self._feeds.get(key) is feed:
            del self._feeds[key]
        if (task := self._tasks.pop(feed, None)) is not None:
            task.cancel()

    def _room(self) -> int:
        return min(MAX_WINDOW_BYTES, MAX_WINDOWS_BYTES // max(1, len(self._tasks)))
