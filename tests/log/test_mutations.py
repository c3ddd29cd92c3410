"""The machine is worth what it finds: a guard of the readers is taken away, and it must notice.

Not here are those that others stand behind: the epoch in a batch and of a page, a page of a shorter log, and what was
missed during a read. Without them nobody is served wrongly, because the tail, the next read or the idle check makes up
for it, later. Nor are those that so much must come together for that 5,000 histories do not always hold it: the next
sequence in a batch and the event before it (test_batch.py), what was there when a reader came (test_readers.py).
"""

from __future__ import annotations

from types import ModuleType

import pytest

from runwire import caching_pubsub, tail
from tests.log.mutation import mutate
from tests.log.test_machine import hold

GUARDS = {
    "the epoch of a live entry": (
        tail,
        "return entry.epoch == self.epoch and entry.first == self.last + 1",
        "return entry.first == self.last + 1",
    ),
    "that a live entry is the next one": (
        tail,
        "and entry.first == self.last + 1 and entry.previous == self._check",
        "and (entry.previous == self._check or entry.first > self.last + 1)",
    ),
    "the event before a live entry": (tail, " and entry.previous == self._check", ""),
    "that what was committed here is a live entry like any other": (
        caching_pubsub,
        "channel.tail.offer(committed.entry)",
        "channel.tail._append(committed.entry)",
    ),
    "that a live entry which does not fit tells of a loss": (
        tail,
        "            self.missed += 1\n        self.wake()",
        "            pass\n        self.wake()",
    ),
    "that a page shows more than it holds": (tail, "if page.head.last > self.last:", "if False:"),
    "that a place has left the ring": (tail, "or self._entries[start].first > sequence + 1", ""),
    "the epoch of a cursor": (caching_pubsub, "if position.epoch != head.epoch:", "if False:"),
    "a cursor beyond the tail": (caching_pubsub, "if position.sequence > head.last:", "if False:"),
    "the event of a cursor": (caching_pubsub, "if frames.differ(position.check, found):", "if False:"),
    "the epoch in the idle check": (caching_pubsub, "elif head.epoch != known.epoch:", "elif False:"),
    "a roll-back in the idle check": (caching_pubsub, "elif head.last < known.sequence:", "elif False:"),
    "another event in the idle check": (
        caching_pubsub,
        "elif head.last == known.sequence and known.check and head.check != known.check:",
        "elif False:",
    ),
    "a lost last entry in the idle check": (caching_pubsub, "elif head.last > tail.last:", "elif False:"),
    "a log that vanished in the idle check": (
        caching_pubsub,
        "if head is None or head.expired:\n        tail",
        "if False:\n        tail",
    ),
    "the end of another log": (
        caching_pubsub,
        "elif tail.final and frames.differ(position.check, tail.position.check):",
        "elif False:",
    ),
    "what was trimmed": (caching_pubsub, "if head.earliest <= position.sequence + 1:", "if True:"),
    "subscribing before reading": (
        caching_pubsub,
        "await subscription.__aenter__()\n",
        "pass\n",
    ),
}


EVERY_DAY = ("that a live entry is the next one",)


def check_found(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, before, after = GUARDS[guard]
    assert isinstance(module, ModuleType)
    mutate(monkeypatch, module, before, after)
    with pytest.raises(BaseException) as found:  # noqa: PT011 - an assertion, a KeyError of the model, a hang
        hold(examples=5000, steps=100, find=True)
    assert not isinstance(found.value, KeyboardInterrupt | pytest.fail.Exception), found.value


@pytest.mark.timeout(600)
@pytest.mark.parametrize("guard", EVERY_DAY)
def test_the_machine_finds_a_hole(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this guard of the tail some reader is served wrongly."""
    check_found(guard, monkeypatch)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("guard", [guard for guard in GUARDS if guard not in EVERY_DAY])
def test_the_machine_finds_what_a_guard_is_for(guard: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this guard some reader is served wrongly, or is not served."""
    check_found(guard, monkeypatch)
