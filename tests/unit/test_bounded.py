"""What bounds a process keeps its promises in random histories, and each of its guards is needed for that."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from types import ModuleType

import pytest

from runwire import budget, calls, gate, outflow, read_ahead, tail
from tests.log.mutation import mutate
from tests.log.stepped_loop import SteppedLoop
from tests.unit import bounded, bounded_calls

HISTORIES = [
    bounded.budget, bounded.gate, bounded.read_ahead, bounded.rings, bounded_calls.calls, bounded_calls.streams,
]  # fmt: skip
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
    "that a connection reads its answers": (bounded_calls.calls, calls, "if caller.is_behind():", "if False:"),
    "the room of a call that leaves before its turn": (
        bounded_calls.calls, calls, "                held.release()\n                raise", "                raise",
    ),
    "who waits": (bounded_calls.calls, calls, "            self.waiting -= 1", "            pass"),
    "the end of the slowest": (bounded_calls.calls, calls, "if len(self._slow) > _MAX_SLOW:", "if False:"),
    "that slow requests hold nothing": (
        bounded_calls.calls,
        calls,
        "self.close()\n            self._calls._add_slow(self)",
        "self._calls._add_slow(self)",
    ),
    "the room of a request that does not come": (
        bounded_calls.calls,
        calls,
        "except BaseException:\n            self.close()\n            raise\n        finally:",
        "except BaseException:\n            raise\n        finally:",
    ),
    "the size of a request": (bounded_calls.calls, calls, "self._held.resize(size_bytes)", "pass"),
    "the end of a call without an answer": (bounded_calls.calls, calls, "if not self._is_sending:", "if False:"),
    "the answers that are not read": (
        bounded_calls.calls, calls, "self._held = self._caller.answers.take(size_bytes)", "pass",
    ),
    "that a call gives up its place": (
        bounded_calls.calls, calls, "self._held.release()\n        self._place", "self._place",
    ),
    "the number of streams": (bounded_calls.streams, outflow, "if self.streams >= self._max_streams:", "if False:"),
    "the end of a stream": (bounded_calls.streams, outflow, "self.streams -= 1", "pass"),
    "the room of a frame": (
        bounded_calls.streams, outflow, "held = self._account.take(len(frame))", "held = self._account.take(1)",
    ),
    "the room that was waited for": (bounded_calls.streams, outflow, "held.resize(len(frame))", "held.release()"),
    "what a client that does not read has": (
        bounded_calls.streams, outflow, "self._keep(held)", "held.release()",
    ),
    "that it has it until its call is over": (
        bounded_calls.streams, outflow, "self._context.add_done_callback(lambda *_: held.release())", "pass",
    ),
    "the room of a write that is cut": (
        bounded_calls.streams,
        outflow,
        "        except BaseException:\n            held.release()\n",
        "        except BaseException:\n",
    ),
    "the room of a frame that was taken": (
        bounded_calls.streams, outflow, "        held.release()\n        self._taken += 1", "        self._taken += 1",
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
