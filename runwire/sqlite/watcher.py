"""The one thread of a process that notices what other processes wrote, and what has become due.

SQLite cannot call another process, so the thread asks for `PRAGMA data_version` every few milliseconds: it changes
when anybody else has committed. Only then are tables looked at. While nobody subscribes or waits, the thread sleeps.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from runwire.bell import Bell, Waited
from runwire.errors import StoreUnavailable
from runwire.hub import Hub
from runwire.pubsub import Entry
from runwire.sqlite import tables
from runwire.sqlite.database import Database, Handle

logger = logging.getLogger(__name__)

BUSY_POLL_SECONDS: Final = 0.008
IDLE_POLL_SECONDS: Final = 0.016
"""How often the file is asked: where another process wrote within the last second, and where none did. A wake-up
costs 0.1..0.2 ms, most of it the operating system's, and so the thread about one per cent of a core."""

_BUSY_SECONDS: Final = 1.0
_RETRY_SECONDS: Final = 0.1
_RECHECK_SECONDS: Final = 0.2
"""How often due times are looked up although nothing was written."""
_BATCH_ENTRIES: Final = 256
_NEVER: Final = float("inf")
_LAST_ID: Final = 2**62

Item = tuple[str, Entry | None]


class Seen:
    """Up to which entry of the file the subscribers of this process have been told. Shared by writer and watcher."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._until: int | None = None
        """None: nobody subscribes."""
        self._own: deque[tuple[int, int]] = deque()
        """Entries beyond `_until` that this process wrote, as ranges of ids: its subscribers have them already."""

    def start(self, until: int) -> None:
        with self._lock:
            self._until = until
            self._own.clear()

    def stop(self) -> None:
        with self._lock:
            self._until = None
            self._own.clear()

    def wrote(self, first: int, last: int) -> None:
        """These ids are this process's own."""
        with self._lock:
            if self._until is not None:
                self._own.append((first, last))
                self._join(self._until)

    def gap(self) -> tuple[int, int]:
        """Ids (above, up to) that may be entries of other processes."""
        with self._lock:
            until = self._until or 0
            return until, self._own[0][0] - 1 if self._own else _LAST_ID

    def saw(self, until: int) -> None:
        with self._lock:
            self._join(max(until, self._until or 0))

    def _join(self, until: int) -> None:
        while self._own and self._own[0][0] <= until + 1:
            until = max(until, self._own.popleft()[1])
        self._until = until


class Watcher:
    """Hands what other processes wrote to `hub`, and rings `bell` for what is due, both on the event loop."""

    def __init__(self, database: Database, hub: Hub, bell: Bell) -> None:
        self.seen = Seen()
        self._hub = hub
        self._bell = bell
        self._loop = asyncio.get_running_loop()
        self._handle = Handle(database)
        self._connection: sqlite3.Connection | None = None
        """What the fields below are about; None: they are about nothing yet."""
        self._version = 0
        self._busy_until = 0.0
        self._notice = 0
        self._times: dict[Waited, float] = {}
        """When there will be something of what is waited for."""
        self._times_read = 0.0
        self._failing = False
        self._missed = False
        """Subscribers may have missed entries and have not been told so."""
        self._active = False
        self._newcomers: deque[asyncio.Future[None]] = deque()
        self._wanted = threading.Event()
        self._taken = threading.Event()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="runwire-sqlite-watcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Ends the thread. `join` waits for it."""
        self._closed.set()
        self._wanted.set()
        self._taken.set()

    def join(self) -> None:
        self._thread.join()

    def wake(self) -> None:
        """To be called when somebody has begun to wait for the bell."""
        self._wanted.set()

    async def follow(self) -> None:
        """Returns when entries are followed, for those who have subscribed before. Raises StoreUnavailable."""
        if self._closed.is_set():
            raise StoreUnavailable("the store is closed")
        if self._active:
            return
        followed = self._loop.create_future()
        self._newcomers.append(followed)
        self._wanted.set()
        await followed

    # On the thread

    def _run(self) -> None:
        try:
            while not self._closed.is_set():
                if not self._is_wanted():
                    self._sleep()
                time.sleep(self._pause() if self._look() else _RETRY_SECONDS)  # half the price of Event.wait
        finally:
            self._handle.close()
            self._answer_newcomers(StoreUnavailable("the store is closed"))

    def _pause(self) -> float:
        return BUSY_POLL_SECONDS if time.monotonic() < self._busy_until else IDLE_POLL_SECONDS

    def _is_wanted(self) -> bool:
        return bool(self._newcomers) or not self._hub.empty() or bool(self._bell.awaited())

    def _sleep(self) -> None:
        self._wanted.clear()
        self._active = False
        if self._is_wanted():
            return  # somebody came at this moment, and may have found this active: continue from the same place
        self._connection = None
        self._missed = False
        self.seen.stop()
        self._wanted.wait()

    def _look(self) -> bool:
        """Looks once. False: the store does not answer."""
        try:
            self._look_once()
        except Exception as error:  # whatever it is: a thread that has died is missed by nobody, and all wait for it
            self._fail(error)
            return False
        if self._failing:
            logger.warning("the SQLite store answers again")
            self._failing = False
        return True

    def _look_once(self) -> None:
        connection = self._handle.connection()
        if connection is not self._connection:
            self._missed = self._missed or self._connection is not None  # the file was replaced
            self._begin(connection)
        self._active = True
        self._answer_newcomers(None)
        version = _version(connection)
        changed = version != self._version
        self._version = version
        if changed:
            self._busy_until = time.monotonic() + _BUSY_SECONDS
            self._tell(connection)
        self._ring(connection, changed)

    def _begin(self, connection: sqlite3.Connection) -> None:
        self._version = _version(connection)
        entry_id, self._notice = tables.newest(connection)
        self.seen.start(entry_id)
        self._connection = connection
        self._times = {}
        if self._missed:
            self._missed = False
            self._call(self._hub.deliver_to_all)

    def _fail(self, error: Exception) -> None:
        if not self._failing:
            logger.warning("the SQLite store does not answer: %s", error)
        self._failing = True
        self._active = False
        self._missed = True
        self._connection = None
        self._handle.close()
        self._answer_newcomers(StoreUnavailable(f"the SQLite store does not answer: {error}"))

    def _answer_newcomers(self, error: StoreUnavailable | None) -> None:
        while self._newcomers:
            self._call(_answer, self._newcomers.popleft(), error)

    def _tell(self, connection: sqlite3.Connection) -> None:
        """Hands over what other processes wrote."""
        while not self._closed.is_set():
            above, until = self.seen.gap()
            found = tables.entries_between(connection, above, until, _BATCH_ENTRIES)
            self._hand_over(self._subscribed(connection, found))
            full = len(found) == _BATCH_ENTRIES
            if not full and until != _LAST_ID:
                self.seen.saw(until)  # all of this gap: now what is beyond this process's own entries
                continue
            if found:
                self.seen.saw(found[-1][0])
            if not full:
                break
        while notices := tables.notices_after(connection, self._notice, _BATCH_ENTRIES):
            self._notice = notices[-1][0]
            self._hand_over([(topic, None) for _, topic in notices])

    def _subscribed(self, connection: sqlite3.Connection, found: Sequence[tuple[int, str, str]]) -> list[Item]:
        entries = (
            (topic, tables.entry(connection, entry_id, epoch))
            for entry_id, topic, epoch in found
            if self._hub.subscribed(topic)
        )
        # An entry that is gone again was trimmed or cleared: a notice follows.
        return [(topic, entry) for topic, entry in entries if entry]

    def _hand_over(self, items: list[Item]) -> None:
        """Waits until the loop has taken them, so that they do not pile up before a loop that is busy."""
        if items and not self._closed.is_set():
            self._taken.clear()
            if self._call(self._take, items):
                self._taken.wait()

    def _ring(self, connection: sqlite3.Connection, changed: bool) -> None:
        awaited = self._bell.awaited()
        old = time.monotonic() - self._times_read > _RECHECK_SECONDS
        if changed or old or awaited != self._times.keys():
            self._times_read = time.monotonic()
            self._times = {waited: _or_never(tables.due_time(connection, waited)) for waited in awaited}
        now = time.time()
        for waited in [waited for waited, due in self._times.items() if due <= now]:
            self._times[waited] = _NEVER  # said once; what comes of it changes the file
            self._call(self._bell.ring, waited)

    def _call(self, function: Callable[..., None], *arguments: object) -> bool:
        """Calls `function` on the event loop; False if that is closed."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            return False
        return True

    # On the event loop

    def _take(self, items: list[Item]) -> None:
        try:
            for topic, entry in items:
                self._hub.deliver(topic, entry)
        finally:
            self._taken.set()


def _version(connection: sqlite3.Connection) -> int:
    """Differs from what it was if another connection has committed since."""
    version: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return version


def _or_never(due: float | None) -> float:
    return _NEVER if due is None else due


def _answer(newcomer: asyncio.Future[None], error: StoreUnavailable | None) -> None:
    if newcomer.done():
        return  # cancelled
    if error:
        newcomer.set_exception(error)
    else:
        newcomer.set_result(None)
