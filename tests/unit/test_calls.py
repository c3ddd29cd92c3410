"""What a server works on at once, and what it buffers: by our own accounting, in bytes and places."""

from __future__ import annotations

import asyncio

import pytest

from runwire import calls, gate
from runwire.budget import MAX_FRAME_BYTES, MIN_FRAME_BYTES, Budget
from runwire.calls import Calls
from runwire.errors import TooManyRequests
from runwire.gate import Gate

MIB = 1024 * 1024


async def test_calls_wait_for_a_place_in_order() -> None:
    """No more are worked on than there are places, and the first to come is the first to go on."""
    working = Calls(max_calls=2)
    first, second = await working.enter(), await working.enter()
    order: list[int] = []

    async def call(number: int) -> None:
        with (await working.enter()).holding(1):
            order.append(number)

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(call(number))
        await asyncio.sleep(0)
        assert (working.waiting, order) == (5, [])
        first.close()
        second.close()
    assert order == [0, 1, 2, 3, 4]
    assert working.waiting == 0


async def test_too_many_calls_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that sends without end is told so, once as many wait as may."""
    monkeypatch.setattr(calls, "MAX_WAITING", 3)
    working = Calls(max_calls=1)
    place = await working.enter()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(working.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyRequests):
            await working.enter()
        place.close()
        for task in waiting:
            (await task).close()


async def test_requests_are_held_up_to_a_bound() -> None:
    """While requests of so many bytes are worked on, no further one is received, also if a place is free."""
    working = Calls(max_calls=8, max_request_bytes=10 * MIB)
    with (await working.enter()).holding(12 * MIB):
        entering = asyncio.create_task(working.enter())
        await asyncio.sleep(0)
        assert not entering.done()
    (await entering).close()
    assert (working.held_bytes, working.most_held_bytes) == (0, 12 * MIB)


async def test_room_is_kept_for_what_is_being_received(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a crowd that comes at once no more are let in than fit, until it is known how large they are."""
    working = Calls(max_calls=100, max_request_bytes=8 * MIB)
    async with asyncio.TaskGroup() as group:
        crowd = [group.create_task(working.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [task.done() for task in crowd] == [True, True, False]
        with crowd[0].result().holding(10):
            await crowd[2]
            assert working.held_bytes == 10 + 2 * calls.RECEIVING_BYTES
        for task in crowd[1:]:
            task.result().close()
    assert working.held_bytes == 0


async def test_an_answer_counts_until_it_has_left() -> None:
    """Further requests wait while answers that are as large are on their way."""
    working = Calls(max_calls=1, max_request_bytes=MIB)
    call = await working.enter()
    with call.holding(10):
        call.send(2 * MIB)
    assert working.held_bytes == 2 * MIB
    entering = asyncio.create_task(working.enter())
    await asyncio.sleep(0)
    assert not entering.done()
    call.close()
    (await entering).close()
    assert working.held_bytes == 0


async def test_a_request_that_never_comes_keeps_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its client may have left: after a while its place and its room are others'."""
    monkeypatch.setattr(calls, "_LOOK_SECONDS", 0.0)
    working = Calls(max_calls=1, max_request_bytes=MIB)
    gone = await working.enter()
    async with asyncio.timeout(10):
        (await working.enter()).close()
    with gone.holding(10):  # slow, and here after all
        assert working.held_bytes == 10
    assert working.held_bytes == 0


async def test_what_stands_still_keeps_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that waits for something gives its place up; that it ends later gives up no second one."""
    monkeypatch.setattr(gate, "STALLED_SECONDS", 0.0)
    places = Gate(1)
    stalled = await places.enter()
    async with asyncio.timeout(10):
        following = await places.enter()
    stalled.close()
    monkeypatch.setattr(gate, "STALLED_SECONDS", 60.0)
    following.close()
    again = await places.enter()
    another = asyncio.create_task(places.enter())
    await asyncio.sleep(0)
    assert not another.done()
    again.close()
    (await another).close()


async def test_a_cancelled_wait_leaves_no_place_taken() -> None:
    """Callers that leave while they wait, or just as they get a place, cost none."""
    places = Gate(1)
    held = await places.enter()
    waiting = [asyncio.create_task(places.enter()) for _ in range(10)]
    await asyncio.sleep(0)
    held.close()
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(1):
        (await places.enter()).close()


def test_frames_get_smaller_while_much_is_held() -> None:
    """Two thousand streams that nobody reads hold no more than the budget and the smallest frame of each."""
    budget = Budget(64 * MIB)
    holds = []
    for number in range(2_000):
        account = budget.account(f"client {number}")
        holds.append((account, account.take(account.frame_bytes())))
    assert holds[0][0].used_bytes == 2 * MAX_FRAME_BYTES
    assert holds[-1][0].used_bytes == 2 * MIN_FRAME_BYTES
    assert budget.most_bytes <= 64 * MIB + 2_000 * 2 * MIN_FRAME_BYTES
    for _, hold in holds:
        hold.release()
        hold.release()
    assert budget.used_bytes == 0


async def test_a_connection_fills_only_its_own_share() -> None:
    """One that reads nothing has to wait with what is large; others go on, and small frames always pass."""
    budget = Budget(64 * MIB)
    greedy, other = budget.account("greedy"), budget.account("other")
    holds = []
    while greedy.fits(2 * MIB):
        holds.append(greedy.take(2 * MIB))
    assert greedy.used_bytes <= budget.share_bytes
    assert greedy.fits(MIN_FRAME_BYTES)
    assert other.fits(2 * MIB)
    waiting = asyncio.create_task(greedy.room(2 * MIB))
    await asyncio.sleep(0)
    assert not waiting.done()
    holds.pop().release()
    await waiting
