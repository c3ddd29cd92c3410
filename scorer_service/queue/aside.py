"""A place of its own for what cannot be written now, for a reason nobody knows: it holds up nothing, and is tried
again with growing pauses, for as long as this process lives."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from runwire.backoff import Backoff

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

PAUSES: Final = Backoff(5.0, 600.0, jitter=0.25)
"""Between tries: doubling, up to ten minutes, not for all at the same moment."""


@dataclass(slots=True)
class _Waiting(Generic[V]):
    value: V
    tries: int
    due_time: float


class Aside(Generic[K, V]):
    """Values by key."""

    def __init__(self) -> None:
        self._waiting: dict[K, _Waiting[V]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, key: K) -> bool:
        return key in self._waiting

    def put(self, key: K, value: V) -> float:
        """Has it wait, longer each time; returns for how many seconds."""
        there = self._waiting.get(key)
        tries = there.tries + 1 if there else 1
        pause = PAUSES.pause(tries)
        self._waiting[key] = _Waiting(value, tries, time.monotonic() + pause)
        return pause

    def take_due(self) -> list[V]:
        """What has waited long enough. It is given out once, until it is put again."""
        now, found = time.monotonic(), list[V]()
        for one in self._waiting.values():
            if one.due_time <= now:
                one.due_time = math.inf
                found.append(one.value)
        return found

    def keys(self) -> list[K]:
        """Of all that waits."""
        return [key for key, one in self._waiting.items() if one.due_time < math.inf]

    def drop(self, key: K) -> None:
        """Forgets it, if it is there."""
        self._waiting.pop(key, None)
