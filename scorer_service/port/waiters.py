"""Workers that wait for work: one look at the database for all of them, as often as a worker of ours looks."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from typing import Final

from sqlalchemy.engine import Connection

from runwire.errors import TooManyRequests
from runwire.loop import Wakeup, wait_for
from scorer_service.port.claims import count_due, is_paused
from scorer_service.results.database import Database

LOOK_SECONDS: Final = 0.25
MAX_WAITING: Final = 10_000
"""Claims that wait in this process, a tenth of them of one tenant."""
_IDLE_SECONDS: Final = 60.0

Place = tuple[str, str, str]
"""Tenant, scorer and version."""


class Waiters:
    """Claims that wait, woken in the order in which they came, as many as there is work for."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[asyncio.Event, Collection[Place]] = {}
        self._tenants: Counter[str] = Counter()
        self._looking = Wakeup()

    @property
    def looking(self) -> Wakeup:
        """Of the loop that calls `look_once`; waking it says that there may be new work."""
        return self._looking

    async def wait(self, tenant: str, places: Collection[Place], seconds: float) -> None:
        """Until there may be work in one of these places, for `seconds` at most. Raises TooManyRequests."""
        if len(self._waiting) >= MAX_WAITING or self._tenants[tenant] >= MAX_WAITING // 10:
            raise TooManyRequests(f"{self._tenants[tenant]} claims of tenant {tenant!r} wait here already")
        woken = asyncio.Event()
        self._waiting[woken] = places
        self._tenants[tenant] += 1
        if len(self._waiting) == 1:
            self._looking.wake()
        try:
            await wait_for(woken, seconds)
        finally:
            self._waiting.pop(woken, None)
            self._tenants[tenant] -= 1
            if not self._tenants[tenant]:
                del self._tenants[tenant]

    async def look_once(self) -> float:
        """Wakes those for whom there is work; returns when to look again."""
        if not self._waiting:
            return _IDLE_SECONDS
        wanted = Counter(place for places in self._waiting.values() for place in places)

        def look(connection: Connection) -> Counter[Place]:
            paused = {name: is_paused(connection, name) for name in {scorer_id for _, scorer_id, _ in wanted}}
            free = [place for place in wanted if not paused[place[1]]]
            return Counter({place: count_due(connection, *place, most=wanted[place]) for place in free})

        due = await self._database.look(look)
        for woken, places in list(self._waiting.items()):
            place = next((one for one in places if due[one] > 0), None)
            if place is not None:
                due[place] -= 1
                woken.set()
                self._waiting.pop(woken, None)
        return LOOK_SECONDS

    def wake_all(self) -> None:
        """The service is about to end."""
        for woken in self._waiting:
            woken.set()
