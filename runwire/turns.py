"""Turns of the tenants: in which order the topics of several are claimed, so that none waits for another's queue.

A turn is one topic, or as many as the tenant's weight. Turns go round in the order of the tenants' names, among those
that have something due. A worker that claims from the same queues continues where the last one stopped. So the topic
of a tenant that is due longest waits for one turn of each other at most, however many topics the others have.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Generic, TypeVar

T = TypeVar("T")

MAX_WEIGHT: Final = 1000


def tenant_of(topic: str) -> str:
    """Whose it is: what is before the first `/`; empty where there is none."""
    return topic.partition("/")[0] if "/" in topic else ""


def pool_of(queues: Iterable[str], alone: bool) -> str:
    """Names those who claim from the same queues: they share their turns."""
    names = "\0".join(("suspects" if alone else "due", *sorted(set(queues))))
    return sha256(names.encode()).hexdigest()[:16]


def weights_of(pairs: Iterable[str]) -> Mapping[str, int]:
    """Of `tenant=weight` each. Raises ValueError."""
    found: dict[str, int] = {}
    for pair in pairs:
        tenant, _, weight = pair.partition("=")
        if not (tenant and weight.isascii() and weight.isdecimal() and 1 <= int(weight) <= MAX_WEIGHT):
            raise ValueError(f"weights look like `shop=3,lab=2`, from 1 to {MAX_WEIGHT}; {pair!r} is none")
        found[tenant] = int(weight)
    return found


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a caller of `claim` asks for."""

    queues: Sequence[str]
    holder: str
    limit: int
    lease_seconds: float
    alone: bool
    max_bytes: int
    weights: Mapping[str, int]

    @property
    def pool(self) -> str:
        """See `pool_of`."""
        return pool_of(self.queues, self.alone)


@dataclass(frozen=True, slots=True)
class Turn:
    """Who had the last one, and how many topics it took."""

    tenant: str = ""
    taken: int = 0


class Turns(Generic[T]):
    """The turns of one claim, from `turn` on. `due` gives up to so many topics of a tenant, those due longest first."""

    def __init__(self, turn: Turn, weights: Mapping[str, int], due: Callable[[str, int], Sequence[T]]) -> None:
        self.turn = turn
        self._weights = weights
        self._due = due

    def round(self, tenants: Sequence[str], limit: int) -> Iterable[T]:
        """Up to `limit` topics of these tenants, in turn; fewer where they have no more, or where one of them may have
        more than were looked at. Nothing is said to be taken before `took`."""
        chunk = -(-limit // len(tenants))
        # One more than it will be if all have as many: a list that is used up may have to be looked at again.
        asked = {name: max(chunk, self._weight(name)) + 1 for name in tenants}
        found = {name: list(self._due(name, most))[::-1] for name, most in asked.items()}
        whole = {name for name, most in asked.items() if len(found[name]) < most}
        waiting = sorted(name for name in found if found[name])
        for _ in range(limit):
            if not waiting:
                return
            name = self._next(waiting)
            yield found[name].pop()
            if not found[name]:
                if name not in whole:
                    return
                waiting.remove(name)

    def took(self, tenant: str) -> None:
        """One of the tenant's topics was taken."""
        goes_on = tenant == self.turn.tenant and self.turn.taken < self._weight(tenant)
        self.turn = Turn(tenant, self.turn.taken + 1 if goes_on else 1)

    def _next(self, waiting: Sequence[str]) -> str:
        place = bisect_right(waiting, self.turn.tenant)
        if self.turn.taken < self._weight(self.turn.tenant):
            place = bisect_left(waiting, self.turn.tenant)
        return waiting[place % len(waiting)]

    def _weight(self, tenant: str) -> int:
        return self._weights.get(tenant, 1)
