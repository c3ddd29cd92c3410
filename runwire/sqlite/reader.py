"""The threads of a process that read, each on a connection of its own and each time from one snapshot."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from runwire.errors import RunwireError, StoreUnavailable
from runwire.sqlite.database import Database, Handle, ours

T = TypeVar("T")

THREADS: Final = 2
MAX_WAITING: Final = 1024
"""Most reads that wait or are being done; further callers wait to ask."""


class Reader:
    """Answers questions to the file."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._places = asyncio.Semaphore(MAX_WAITING)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="runwire-sqlite-reader")
        self._local = threading.local()
        self._handles: list[Handle] = []
        self._closed = False

    async def read(self, ask: Callable[[sqlite3.Connection, float], T]) -> T:
        """What `ask(connection, now)` returns or raises, all of it from one snapshot."""
        async with self._places:
            if self._closed:
                raise StoreUnavailable("the store is closed")
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, ask)

    def _read(self, ask: Callable[[sqlite3.Connection, float], T]) -> T:
        handle = self._handle()
        try:
            connection = handle.connection()
            connection.execute("BEGIN")
            try:
                return ask(connection, time.time())
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except (RunwireError, ValueError):
            raise
        except Exception as error:
            handle.close()
            raise ours(error) from error

    def _handle(self) -> Handle:
        handle: Handle | None = getattr(self._local, "handle", None)
        if handle is None:
            handle = self._local.handle = Handle(self._database)
            self._handles.append(handle)
        return handle

    def close(self) -> None:
        """Takes no more questions. `join` waits for those under way."""
        self._closed = True

    def join(self) -> None:
        self._threads.shutdown()
        for handle in self._handles:
            handle.close()
