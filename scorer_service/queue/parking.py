"""Requests whose row the database does not take, nobody knows why: their messages, in a table of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final

from sqlalchemy import delete, func, select, update
from sqlalchemy.engine import Connection

from runwire.errors import StoreUnavailable
from scorer_service.queue.aside import PAUSES
from scorer_service.queue.jobs import Jobs
from scorer_service.results.batches import insert_new
from scorer_service.results.database import Database, database_time
from scorer_service.results.records import NewRun, printable
from scorer_service.results.schema import NOW, parked_requests

logger = logging.getLogger("scorer_service")

parked = parked_requests.c
_BATCH: Final = 20


class Parking:
    """What is parked waits for ever: it is never replaced by a failure, and never holds up what comes after it."""

    def __init__(self, database: Database, jobs: Jobs) -> None:
        self._database = database
        self._jobs = jobs

    async def park(self, body: bytes, new: NewRun, error: Exception) -> bool:
        """Keeps a message; False where not even that is possible. Raises StoreUnavailable."""
        logger.error(
            "request %s cannot be written: %s: %s; it is parked, and tried again",
            new.scorer_run_id,
            _name(error),
            error,
        )

        def work(connection: Connection) -> None:
            now = database_time(connection)
            row = {
                "message_key": sha256(body).hexdigest(),
                "body": body,
                "error": printable(f"{_name(error)}: {error}"),
                "tries": 1,
                "create_time": now,
                "due_time": now + PAUSES.pause(1),
            }
            insert_new(connection, parked_requests, [row])

        try:
            await self._database.write(work)
        except StoreUnavailable:
            raise
        except Exception as again:
            logger.error("nor can it be parked: %s: %s; it stays in the queue", _name(again), again)
            return False
        return True

    async def retry(self, read: Callable[[bytes], NewRun]) -> int:
        """Tries again what is due; returns how many are parked no more. Raises StoreUnavailable."""
        query = select(parked.message_key, parked.body, parked.tries).where(parked.due_time <= NOW)
        query = query.order_by(parked.due_time).limit(_BATCH)
        rows: Sequence[Any] = await self._database.look(lambda connection: connection.execute(query).all())
        taken = 0
        for row in rows:
            taken += await self._retry(row, read(bytes(row.body)))
        return taken

    async def _retry(self, row: Any, new: NewRun) -> bool:
        mine = parked.message_key == row.message_key

        def write(connection: Connection) -> None:
            self._jobs.add_on(connection, [new])
            connection.execute(delete(parked_requests).where(mine))

        def postpone(connection: Connection) -> None:
            due_time = database_time(connection) + PAUSES.pause(row.tries + 1)
            connection.execute(update(parked_requests).where(mine).values(tries=row.tries + 1, due_time=due_time))

        try:
            await self._database.write(write)
        except StoreUnavailable:
            raise
        except Exception as error:
            logger.error(
                "request %s cannot be written, for the %d. time: %s: %s",
                *(new.scorer_run_id, row.tries + 1, _name(error), error),
            )
            await self._database.write(postpone)
            return False
        logger.info("request %s was parked, and is written now", new.scorer_run_id)
        return True

    async def count(self) -> int:
        """How many are parked."""
        query = select(func.count()).select_from(parked_requests)
        return int(await self._database.read(lambda connection: connection.execute(query).scalar_one()))


def _name(error: Exception) -> str:
    return type(error).__name__
