"""What external scorers are, and which workers carry them out. Both are a tenant's own."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import func, select, tuple_
from sqlalchemy.engine import Connection

from runwire.errors import InvalidRequest, TooManyRequests
from scorer_service.queue.holders import pairs_of, see
from scorer_service.results.batches import insert_into, insert_new
from scorer_service.results.database import Database, database_time
from scorer_service.results.schema import external_scorers, holders, scorers
from scorer_service.scoring import Direction

MAX_VERSIONS: Final = 1000
"""Of all external scorers of a tenant."""
MAX_PRESENT: Final = 10_000
"""Lines that say which of its workers has what; they are kept for an hour."""
_SAY_SECONDS: Final = 20.0
_MAX_SAID: Final = 10_000

Pair = tuple[str, str]
"""Id and version of a scorer."""


@dataclass(frozen=True, slots=True)
class External:
    """A version of a scorer that is carried out elsewhere."""

    tenant: str
    scorer_id: str
    version: str
    description: str = ""
    direction: Direction = "higher"
    options_schema: str = "{}"
    timeout_seconds: float | None = None
    """None: as for scorers of the service itself."""
    retries: int | None = None
    """None: as for scorers of the service itself."""

    @property
    def prompt_version(self) -> str:
        """Nobody here knows its prompt."""
        return ""


class Externals:
    """The external scorers of all tenants."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._said: dict[tuple[str, frozenset[Pair]], float] = {}
        """When a worker was last written down as one that has what it has."""

    async def register(self, scorer: External) -> None:
        """Keeps what a scorer is. Raises InvalidRequest where the tenant has as many as it may."""
        values = {
            "tenant": scorer.tenant,
            "scorer_id": scorer.scorer_id,
            "version": scorer.version,
            "description": scorer.description,
            "direction": 1 if scorer.direction == "higher" else 2,
            "options_schema": scorer.options_schema,
            "timeout_seconds": scorer.timeout_seconds,
            "retries": scorer.retries,
        }

        def work(connection: Connection) -> None:
            if _count_others(connection, scorer) >= MAX_VERSIONS:
                raise InvalidRequest({"scorer.version": f"the tenant has {MAX_VERSIONS} versions of scorers already"})
            mine = insert_into(connection, external_scorers)
            mine = mine.on_conflict_do_update(index_elements=["tenant", "scorer_id", "version"], set_=values)
            connection.execute(mine, {**values, "register_time": database_time(connection)})
            # So that it can be paused. No process of the service has it: nobody has seen it there.
            insert_new(connection, scorers, [{"scorer_id": scorer.scorer_id, "paused": False, "seen_time": 0.0}])

        await self._database.write(work)

    async def of(self, tenant: str, pairs: Iterable[Pair] | None = None) -> dict[Pair, External]:
        """Those of a tenant; of `pairs`, where some are given."""
        query = select(external_scorers).where(external_scorers.c.tenant == tenant)
        if pairs is not None:
            query = query.where(tuple_(external_scorers.c.scorer_id, external_scorers.c.version).in_(sorted(pairs)))
        found = await self._database.read(lambda connection: connection.execute(query).all())
        return {(row.scorer_id, row.version): _external(row) for row in found}

    async def say(self, tenant: str, worker: str, versions: Mapping[str, Sequence[str]]) -> None:
        """Writes down, now and then, that a worker has these versions: what asks for them waits, and does not fail.
        Raises TooManyRequests where a tenant has too many workers."""
        pairs = pairs_of(versions)
        now, key = time.monotonic(), (worker, pairs)
        if now - self._said.get(key, -_SAY_SECONDS) < _SAY_SECONDS:
            return

        def work(connection: Connection) -> None:
            present = select(func.count()).select_from(holders).where(holders.c.tenant == tenant)
            if connection.execute(present).scalar_one() + len(pairs) > MAX_PRESENT:
                raise TooManyRequests(f"tenant {tenant!r} had too many workers of scorers within the last hour")
            see(connection, worker, pairs, database_time(connection), tenant)

        await self._database.write(work)
        self._said.pop(key, None)
        self._said[key] = now
        if len(self._said) > _MAX_SAID:
            del self._said[next(iter(self._said))]


def _count_others(connection: Connection, scorer: External) -> int:
    mine = (external_scorers.c.scorer_id == scorer.scorer_id) & (external_scorers.c.version == scorer.version)
    query = select(func.count()).select_from(external_scorers).where(external_scorers.c.tenant == scorer.tenant, ~mine)
    return int(connection.execute(query).scalar_one())


def _external(row: Any) -> External:
    return External(
        tenant=row.tenant,
        scorer_id=row.scorer_id,
        version=row.version,
        description=row.description,
        direction="lower" if row.direction == 2 else "higher",
        options_schema=row.options_schema,
        timeout_seconds=row.timeout_seconds,
        retries=row.retries,
    )


def schema_of(scorer: External) -> dict[str, Any]:
    """The schema of its options, as JSON."""
    return dict(json.loads(scorer.options_schema))
