"""Ends of attempts, written together: while one transaction is under way the next one gathers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy.engine import Connection

from runwire import metrics
from runwire.errors import StoreUnavailable
from scorer_service.execution import telling
from scorer_service.port.claims import Claims
from scorer_service.results.database import Database
from scorer_service.results.faults import write_in_parts
from scorer_service.results.records import Finished

_MOST = 256


@dataclass(eq=False, slots=True)
class _Report:
    claims: Claims
    finished: Finished
    done: asyncio.Future[bool] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    """Whether it was taken."""


class Reports:
    """Writes ends of attempts."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._gathered: list[_Report] = []
        self._writing = asyncio.Lock()

    async def end(self, claims: Claims, finished: Finished) -> bool:
        """Writes how an attempt ended; False where that was refused, because the claim is lost. Raises
        StoreUnavailable: then nobody knows whether it was written, and it is safe to repeat."""
        report = _Report(claims, finished)
        self._gathered.append(report)
        async with self._writing:
            while not report.done.done():
                batch, self._gathered = self._gathered[:_MOST], self._gathered[_MOST:]
                await self._write(batch)
        return await report.done

    async def _write(self, batch: Sequence[_Report]) -> None:
        refused: set[tuple[str, int]] = set()

        async def write(part: Sequence[_Report]) -> None:
            by_worker: dict[str, list[_Report]] = {}
            for one in part:
                by_worker.setdefault(one.claims.worker, []).append(one)

            def work(connection: Connection) -> list[Finished]:
                return [
                    done
                    for mine in by_worker.values()
                    for done in mine[0].claims.finish_on(connection, [one.finished for one in mine])
                ]

            for done in await self._database.write(work):
                refused.add((done.job.scorer_run_id, done.job.token))

        try:
            stuck = dict(await write_in_parts(batch, write))
        except BaseException as error:
            # The one that wrote for the others may have been cancelled, or the database is away.
            why = error if isinstance(error, StoreUnavailable) else StoreUnavailable("the report was not written")
            _settle(batch, why)
            raise
        for report in batch:
            key = (report.finished.job.scorer_run_id, report.finished.job.token)
            if report in stuck:
                _settle([report], stuck[report])
            elif not report.done.done():
                report.done.set_result(key not in refused)
                if key not in refused:
                    telling.written([report.finished], report.claims.worker)
        metrics.SCORER_REFUSED.add(len(refused))


def _settle(batch: Sequence[_Report], error: BaseException) -> None:
    for report in batch:
        if not report.done.done():
            report.done.set_exception(error)
            report.done.exception()  # it may be that nobody waits for it any more
