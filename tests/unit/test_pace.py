"""How much may be begun at once, by how late the loop is. Loop and store are made up: no clock is looked at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from runwire.gate import Gate
from runwire.pace import HOLD, LATE_SECONDS, LOOKS, TRY, Pace

MOST = 16


def follow(pace: Pace, late: Callable[[int], float], decisions: int) -> list[int]:
    """Lets it see a loop that is as late as `late` says of what is at once; what it allowed after each decision."""
    found = []
    for _ in range(decisions):
        for _ in range(LOOKS):
            pace.note(late(pace.of(MOST)))
        found.append(pace.of(MOST))
    return found


def test_a_loop_that_is_late_for_what_is_begun_gets_less_of_it() -> None:
    """Where each makes a turn longer, it comes down to what the loop takes, and stays about there."""
    found = follow(Pace(), lambda places: places * LATE_SECONDS / 3, 200)
    assert found[:2] == [4, 1]
    assert sum(places <= 4 for places in found) > 0.95 * len(found)


def test_long_commits_count_as_a_late_loop_does() -> None:
    """A loop in time whose live events wait for a crowded store gets less of what crowds it, too."""
    pace = Pace()
    for _ in range(4 * LOOKS):
        for _ in range(3):
            pace.took(pace.of(MOST) * LATE_SECONDS)
        pace.note(0.0)
    assert pace.of(MOST) == 1


@pytest.mark.parametrize("most", [1, 2, 16, 10_000])
def test_at_least_one_goes_on(most: int) -> None:
    """However late it is, one is allowed."""
    pace, found = Pace(), []
    for _ in range(300 * LOOKS):
        pace.note(10.0 * pace.share)
        found.append(pace.of(most))
    assert min(found) >= 1


@pytest.mark.parametrize("late", [LATE_SECONDS * 2, 1.0])
def test_nobody_waits_for_the_lateness_of_others(late: float) -> None:
    """Where less at once does not help, because an agent blocks the loop, it is less at times only."""
    found = follow(Pace(), lambda places: late, 20 * HOLD)
    assert sum(places == MOST for places in found) > 0.7 * len(found)


def test_what_was_true_once_is_tried_again() -> None:
    """A flood that is over leaves nobody held up by an agent that blocks the loop from then on."""
    pace = Pace()
    follow(pace, lambda places: places * LATE_SECONDS * 5, 20)
    found = follow(pace, lambda places: LATE_SECONDS * 2, TRY + 10 * HOLD)
    assert sum(places == MOST for places in found[TRY:]) > 0.65 * len(found[TRY:])


def test_it_comes_back_soon() -> None:
    """Once it is not late any more it takes a few decisions to allow all of it again."""
    pace = Pace()
    follow(pace, lambda places: places * LATE_SECONDS * 5, 20)
    assert follow(pace, lambda places: 0.0, 7)[-1] == MOST


async def test_places_of_a_gate() -> None:
    """A gate that follows lets nobody in while there are fewer places than are taken, and lets those in who wait once
    there are more."""
    pace = Pace()
    gate = Gate(pace.of(4))
    pace.heed(lambda: gate.resize(pace.of(4)))
    taken = [await gate.enter() for _ in range(4)]
    follow(pace, lambda places: places * LATE_SECONDS * 5, 3)
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(gate.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        for place in taken[:3]:
            place.close()
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        follow(pace, lambda places: 0.0, 7)
    assert gate.taken == 4
    for task in waiting:
        task.result().close()
    taken[3].close()


async def test_it_looks_only_while_something_begins() -> None:
    """Nothing wakes an idle process: it looks when something begins, and not much longer."""
    loop, pace = asyncio.get_running_loop(), Pace()
    seen: list[float] = []
    pace.note = seen.append  # type: ignore[method-assign]
    pace.begins()
    pace.begins()
    async with asyncio.timeout(5):
        while pace._looks:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.05)
    count = len(seen)
    assert count > 1
    await asyncio.sleep(0.05)
    assert len(seen) == count
    assert loop.is_running()
