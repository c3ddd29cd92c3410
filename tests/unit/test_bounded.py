"""What bounds a process keeps its promises in random histories, and each of its guards is needed for that."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from types import ModuleType

import pytest

from runwire import budget, gate, read_ahead, tail
from tests.log.mutation import mutate
from tests.log.stepped_loop import SteppedLoop
from tests.unit import bounded

HISTORIES = [bounded.budget, bounded.gate, bounded.read_ahead, bounded.rings]
GUARDS: dict[str, tuple[Callable[[Random, SteppedLoop], None], ModuleType, str, str]] = {
    "the share of a connection": (
        bounded.budget, budget, "not self.used_bytes or self.used_bytes + cost <= self._budget.share_bytes", "True",
    ),
    "the room of all": (bounded.budget, budget, "not self.used_bytes or self.used_bytes + cost <= limit_bytes", "True"),
    "the room for who has nothing": (bounded.budget, budget, "else 2 * self.limit_bytes", "else 9 * self.limit_bytes"),
    "the place of a large one": (
        bounded.budget, budget, "self._awaited = not fits and not account.used_bytes", "self._awaited = False",
    ),
    "that nobody passes": (bounded.budget, budget, "return not self._budget._awaited and self", "return self"),
    "the line behind one that has something now": (
        bounded.budget, budget, "if self._budget._awaited and self in self._budget._waiting:", "if False:",
    ),
    "that room is given on": (bounded.budget, budget, "if cost < 0 and budget._waiting:", "if False:"),
    "the room of one that leaves": (bounded.budget, budget, "waiter.place.result().release()", "pass"),
    "the place of one that leaves": (
        bounded.budget, budget, "budget._leave(self, waiter)\n                budget._serve()", "pass",
    ),
    "who waits behind one that leaves": (
        bounded.budget,
        budget,
        "budget._leave(self, waiter)\n                budget._serve()",
        "budget._leave(self, waiter)",
    ),
    "that a hold ends once": (bounded.budget, budget, "cost, self._cost = self._cost, 0", "cost = self._cost"),
    "the number of places": (bounded.gate, gate, "if self._taken < self._places and not self._waiting:", "if True:"),
    "the number of places that are given on": (
        bounded.gate, gate, "while self._waiting and self._taken < self._places:", "while self._waiting:",
    ),
    "the turn of callers": (
        bounded.gate, gate, "self._waiting[key] = queue  # to", "self._waiting = {key: queue} | self._waiting  # to",
    ),
    "the place of a caller that leaves": (
        bounded.gate, gate, "self._leave()\n            else:", "pass\n            else:",
    ),
    "what stands still": (bounded.gate, gate, "call_later(STALLED_SECONDS,", "call_later(10**6,"),
    "that a place is given up once": (
        bounded.gate, gate, "gate, self._gate = self._gate, None\n", "gate = self._gate\n",
    ),
    "the room of pages": (
        bounded.read_ahead, read_ahead, "                return False\n", "                return True\n",
    ),
    "that the slow give theirs up": (
        bounded.read_ahead,
        read_ahead,
        "while self.used_bytes + size > self.limit_bytes and self._places:",
        "while False:",
    ),
    "the room of a reader that gets more": (
        bounded.read_ahead,
        read_ahead,
        "self.drop()  # first: to make room could take from this reader what is counted on\n            "
        "if not self._ahead._make_room(size):",
        "if not self._ahead._make_room(size - self.size_bytes):",
    ),
    "that pages are taken only from the slow": (bounded.read_ahead, read_ahead, "if used > settled:", "if False:"),
    "what was given out": (
        bounded.read_ahead, read_ahead, "if self._entries and self._entries[-1].last <= sequence:", "if False:",
    ),
    "the room of rings": (
        bounded.rings, tail, "while self.used_bytes > self.limit_bytes and len(self._tails) > 1:", "while False:",
    ),
    "what all have had": (bounded.rings, tail, "if len(self._waiting) == self.readers:", "if False:"),
}  # fmt: skip


@pytest.mark.parametrize("history", HISTORIES, ids=lambda history: history.__name__)
def test_bounds_hold(history: Callable[[Random, SteppedLoop], None]) -> None:
    """Bytes and places are never exceeded, what is counted is what is there, and whoever waits gets its turn."""
    bounded.hold(history, histories=100)


@pytest.mark.parametrize("guard", GUARDS)
def test_a_guard_is_needed(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it some history breaks a promise."""
    history, module, before, after = GUARDS[guard]
    mutate(monkeypatch, module, before, after)
    with pytest.raises((AssertionError, RuntimeError, KeyError)):
        bounded.hold(history, histories=300)
