"""The one thread of a process that writes.

Whatever waits when the thread is free goes into one transaction: under load many commits share the price of one, and
a lone commit waits for nobody. Each piece of work succeeds or is refused by itself.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

from runwire.errors import RunwireError, StoreUnavailable
from runwire.sqlite.database import BUSY_SECONDS, Database, Handle, harms_all, is_busy, ours
from runwire.sqlite.tables import Transaction

T = TypeVar("T")

MAX_WAITING: Final = 512
"""Most pieces of work that wait or are being done; further callers wait to hand theirs in."""

MAX_TRANSACTION_BYTES: Final = 4 * 1024 * 1024
"""A transaction takes no more work once it holds this much, so that other processes get their turn."""

_BUSY_PAUSE_SECONDS: Final = 0.001


@dataclass(slots=True)
class _Work:
    do: Callable[[Transaction], Any]
    size: int
    done: asyncio.Future[Any]
    outcome: Any = None
    error: BaseException | None = None


class Writer:
    """Does work inside transactions, in the order in which it was handed in.

    `committed` is called on the writer's thread after each transaction, before its callers hear of it; `settled` is
    called on the event loop, then too.
    """

    def __init__(
        self,
        database: Database,
        *,
        committed: Callable[[Transaction], None],
        settled: Callable[[Transaction], None],
    ) -> None:
        self._handle = Handle(database, busy_seconds=0)
        self._committed = committed
        self._settled = settled
        self._loop = asyncio.get_running_loop()
        self._places = asyncio.Semaphore(MAX_WAITING)
        self._waiting: SimpleQueue[_Work | None] = SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="runwire-sqlite-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    async def write(self, do: Callable[[Transaction], T], size: int = 0) -> T:
        """What `do` returns or raises, once the transaction that it took part in is committed. `size` is the bytes
        that it writes, roughly. Raises StoreUnavailable if the transaction failed; then nothing was written."""
        await self._places.acquire()
        if self._closed:
            self._places.release()
            raise StoreUnavailable("the store is closed")
        work = _Work(do, size, self._loop.create_future())
        self._waiting.put(work)
        result: T = await work.done
        return result

    def close(self) -> None:
        """Takes no more work. What was handed in is done; `join` waits for it."""
        self._closed = True
        self._waiting.put(None)

    def join(self) -> None:
        self._thread.join()

    # On the thread

    def _run(self) -> None:
        try:
            while works := self._gather():
                transaction = self._attempt(works)
                self._loop.call_soon_threadsafe(self._settle, works, transaction)
        finally:
            self._handle.close()

    def _gather(self) -> list[_Work]:
        """Waits for work and takes all there is; nothing once the writer is closed."""
        works: list[_Work] = []
        size = 0
        try:
            work = self._waiting.get()
            while work is not None:
                works.append(work)
                size += work.size
                if size >= MAX_TRANSACTION_BYTES:
                    return works
                work = self._waiting.get_nowait()
            if works:
                self._waiting.put(None)  # closed: these first
        except Empty:
            pass
        return works

    def _attempt(self, works: list[_Work]) -> Transaction | None:
        """Does the work in one transaction. If one piece spoils it, each gets a transaction of its own."""
        try:
            return self._transact(works)
        except Exception as error:
            self._handle.close()  # which rolls back
            if len(works) == 1 or harms_all(error):
                for work in works:
                    work.error = ours(error)
                return None
        for work in works:
            transaction = self._attempt([work])
            if transaction is not None:
                self._loop.call_soon_threadsafe(self._settled, transaction)
        return None

    def _transact(self, works: list[_Work]) -> Transaction:
        connection = self._handle.connection()
        _begin(connection)
        transaction = Transaction(connection, time.time())
        for work in works:
            if not work.done.cancelled():
                _do(work, transaction)
        connection.execute("COMMIT")
        self._committed(transaction)
        return transaction

    # On the event loop

    def _settle(self, works: list[_Work], transaction: Transaction | None) -> None:
        if transaction is not None:
            self._settled(transaction)
        for work in works:
            self._places.release()
            if work.done.done():
                continue  # the caller was cancelled
            if work.error is not None:
                work.done.set_exception(work.error)
            else:
                work.done.set_result(work.outcome)


def _do(work: _Work, transaction: Transaction) -> None:
    written = transaction.connection.total_changes
    try:
        work.outcome, work.error = work.do(transaction), None
    except (RunwireError, ValueError) as refusal:
        if transaction.connection.total_changes != written:
            raise  # no refusal but a fault: half of it must not be committed
        work.error = refusal


def _begin(connection: sqlite3.Connection) -> None:
    """Takes the one write lock of the file. Shorter pauses than SQLite's own, because transactions here are short."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
        time.sleep(_BUSY_PAUSE_SECONDS * random.random())
