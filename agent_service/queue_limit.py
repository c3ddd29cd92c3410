"""How many runs of a tenant may wait for a worker: a tenant that starts more is told to come again, and no other is."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from runwire.errors import QueueFull
from runwire.identity.principal import Principal
from runwire.pubsub import Store

LOOK_SECONDS: Final = 1.0
"""How often the store is asked for a tenant that starts runs."""
_RETRY_SECONDS: Final = 5.0
_MAX_TENANTS: Final = 10_000
_NEVER: Final = (0, 0.0)


class QueueLimit:
    """Counts about: what other replicas have accepted is seen when the store is asked again. To be used on one event
    loop."""

    def __init__(
        self,
        store: Store,
        queues: Callable[[], Sequence[str]],
        most: int,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`most` 0: any number."""
        self._store = store
        self._queues = queues
        self._most = most
        self._now = now
        self._known: dict[str, tuple[int, float]] = {}
        """Of each tenant that started something lately: how many wait, and until when that is believed."""

    async def check(self, who: Principal) -> None:
        """Before a run is accepted. Raises QueueFull."""
        if not self._most or not who.name:
            return
        asked = None
        if self._now() >= self._known.get(who.tenant, _NEVER)[1]:
            asked = await self._store.queued(self._queues(), who.tenant)
        waiting, until = self._known.pop(who.tenant, _NEVER)
        # Many may have asked at the same time: the first answer holds, and they are all counted upon it.
        if asked is not None and self._now() >= until:
            waiting, until = asked, self._now() + LOOK_SECONDS
        full = waiting >= self._most
        self._known[who.tenant] = (waiting if full else waiting + 1, until)
        if len(self._known) > _MAX_TENANTS:
            del self._known[next(iter(self._known))]  # who has been quiet for longest
        if full:
            problem = f"{self._most} runs of tenant {who.tenant!r} wait for a worker, as many as may"
            raise QueueFull(problem, _RETRY_SECONDS, tenant=who.tenant)
