"""What a server works on at once, and what it buffers: by our own accounting, in bytes and places."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine

import pytest

from runwire import calls, gate
from runwire.budget import MAX_FRAME_BYTES, MIN_FRAME_BYTES, Budget
from runwire.calls import Calls
from runwire.errors import TooManyRequests
from runwire.gate import Gate
from runwire.pace import Pace

MIB = 1024 * 1024


async def test_calls_wait_for_a_place_in_order() -> None:
    """No more are worked on than there are places, and the first of a connection is the first to continue."""
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


async def test_the_pace_is_looked_at_as_long_as_calls_wait() -> None:
    """A burst that came at once is not worked on to its end at the pace of its beginning: each call that gets a place
    while others wait has it looked at."""
    pace, looks = Pace(), 0

    def begins() -> None:
        nonlocal looks
        looks += 1

    working = Calls(max_calls=1, pace=pace)
    held = await working.enter()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(working.enter()) for _ in range(3)]
        await asyncio.sleep(0)
        pace.begins = begins  # type: ignore[method-assign]
        held.close()
        for task in waiting:
            (await task).close()
    assert looks == 2


async def test_connections_take_turns() -> None:
    """One that has many calls waiting does not keep the single call of another waiting for all of them."""
    working = Calls(max_calls=1)
    held = await working.enter("greedy")
    order: list[str] = []

    async def call(peer: str) -> None:
        with (await working.enter(peer)).holding(1):
            order.append(peer)

    async with asyncio.TaskGroup() as group:
        for peer in ("greedy",) * 6 + ("other",):
            group.create_task(call(peer))
        await asyncio.sleep(0)
        held.close()
    assert order.index("other") <= 1
    assert len(order) == 7


async def test_callers_take_turns_however_many_connections_they_have() -> None:
    """Who is known by name has one turn with all of its connections."""
    working = Calls(max_calls=1)
    held = await working.enter("greedy 0", "greedy")
    order: list[str] = []

    async def call(peer: str, who: str) -> None:
        with (await working.enter(peer, who)).holding(1):
            order.append(who)

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(call(f"greedy {number}", "greedy"))
        group.create_task(call("other", "other"))
        await asyncio.sleep(0)
        held.close()
    assert order.index("other") <= 1
    assert len(order) == 7


async def test_too_many_calls_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that sends without end is told so once it has half of all places to wait; others still find one."""
    monkeypatch.setattr(calls, "MAX_WAITING", 6)
    working = Calls(max_calls=1)
    place = await working.enter()
    async with asyncio.TaskGroup() as group:
        waiting = [group.create_task(working.enter("greedy")) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyRequests):
            await working.enter("greedy")
        waiting += [group.create_task(working.enter(f"other {number}")) for number in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(TooManyRequests):
            await working.enter("one too many")
        place.close()
        for task in waiting:
            (await task).close()
    assert working.requests.used_bytes == 0


async def test_room_is_kept_for_what_is_being_received() -> None:
    """Of a crowd of one connection no more are let in than fit into its share, until it is known how large they are."""
    working = Calls(max_calls=100, buffer_bytes=128 * MIB)
    fitting = working.requests.share_bytes // (2 * calls.RECEIVING_BYTES)
    async with asyncio.TaskGroup() as group:
        crowd = [group.create_task(working.enter("one")) for _ in range(fitting + 1)]
        other = group.create_task(working.enter("other"))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [task.done() for task in crowd] == [True] * fitting + [False]
        assert other.done(), "another connection has room of its own"
        with crowd[0].result().holding(0):
            await crowd[-1]
        for task in (*crowd[1:], other):
            task.result().close()
    assert working.requests.used_bytes == 0


async def test_answers_that_are_not_read_cost_their_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets no further ones until it has read, and is refused after a while; others notice nothing."""
    monkeypatch.setattr(calls, "_ROOM_SECONDS", 0.0)
    working = Calls(buffer_bytes=64 * MIB)
    sent = []
    for _ in range(4):
        call = await working.enter("deaf")
        with call.holding(10):
            call.send(MIB)
        sent.append(call)
    assert working.answers.used_bytes == working.answers.share_bytes == 4 * 2 * MIB
    with pytest.raises(TooManyRequests):
        await working.enter("deaf")
    (await working.enter("other")).close()
    sent[0].close()
    (await working.enter("deaf")).close()
    for call in sent:
        call.close()
    assert (working.answers.used_bytes, working.requests.used_bytes) == (0, 0)


async def test_slow_requests_keep_neither_place_nor_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that come slowly hold up nobody; of very many the oldest is refused."""
    monkeypatch.setattr(calls, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(calls, "_MAX_SLOW", 3)
    working = Calls(max_calls=1)
    never = asyncio.Event()

    async def receive() -> None:
        await (await working.enter("slow")).receive(never.wait)

    async with asyncio.TaskGroup() as group, asyncio.timeout(10):
        slow = [group.create_task(_outcome(receive())) for _ in range(4)]
        assert isinstance(await slow[0], TooManyRequests)
        call = await working.enter("slow")
        assert await call.receive(_at_once) == b"request"
        with call.holding(7):
            assert working.requests.used_bytes == 2 * 7
        assert not any(task.done() for task in slow[1:])
        for task in slow[1:]:
            task.cancel()
    assert working.requests.used_bytes == 0


async def _at_once() -> bytes:
    return b"request"


async def _outcome(work: Coroutine[object, object, object]) -> object:
    try:
        return await work
    except TooManyRequests as error:
        return error


async def test_callers_that_leave_leave_nothing() -> None:
    """Cancelled while they wait for room, for a place, or for their request: nothing of them is counted any more."""
    working = Calls(max_calls=1, buffer_bytes=64 * MIB)
    never = asyncio.Event()

    async def call() -> None:
        await (await working.enter("one")).receive(never.wait)

    tasks = [asyncio.create_task(call()) for _ in range(20)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert working.requests.used_bytes > 0
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (working.waiting, working.requests.used_bytes) == (0, 0)
    (await working.enter("one")).close()


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


async def test_who_reads_goes_on_beside_many_who_do_not() -> None:
    """Though connections that read nothing have filled the budget, one that takes its frames gets one after another."""
    budget = Budget(64 * MIB)
    deaf = [budget.account(f"deaf {number}") for number in range(12)]
    for account in deaf:
        while account.fits(MIB):
            account.take(MIB)
    reader = budget.account("reader")
    assert 64 * MIB <= budget.used_bytes <= 2 * 64 * MIB
    for _ in range(100):
        async with asyncio.timeout(1):
            frame = await reader.room(2 * MIB)
        second = asyncio.create_task(reader.room(2 * MIB))
        await asyncio.sleep(0)
        assert not second.done()
        frame.release()
        (await second).release()
    more = [budget.account(f"one more {number}") for number in range(100)]
    for account in more:
        if account.fits(MIB):
            account.take(MIB)
    assert budget.most_bytes <= 2 * 64 * MIB


async def test_who_leaves_keeps_nobody_waiting() -> None:
    """One that leaves while it waits, or just as it gets its room, leaves both to the next of its connection."""
    budget = Budget(64 * MIB)
    account = budget.account("one")
    holds = []
    while account.fits(MIB):
        holds.append(account.take(MIB))
    waiting = [asyncio.create_task(account.room(MIB)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    holds.pop().release()
    waiting[1].cancel()
    async with asyncio.timeout(10):
        last = await waiting[2]
    assert [task.cancelled() for task in waiting[:2]] == [True, True]
    for hold in (last, *holds):
        hold.release()
    assert budget.used_bytes == 0
    assert account.fits(MAX_FRAME_BYTES)


async def test_a_large_one_is_not_kept_waiting_by_small_ones() -> None:
    """Beside three hundred connections whose messages always fit a little earlier a large one gets its turn."""
    budget = Budget(16 * MIB)
    large, given = asyncio.Event(), 0

    async def take(name: str) -> None:
        nonlocal given
        account = budget.account(name)
        while not large.is_set():
            hold = await account.room(60_000)
            given += 1
            await asyncio.sleep(0)
            hold.release()

    async with asyncio.TaskGroup() as group:
        for number in range(300):
            group.create_task(take(f"small {number}"))
        await asyncio.sleep(0)
        before = given
        (await budget.account("large").room(3_900_000)).release()
        large.set()
    assert given - before <= 2 * 300
    assert budget.used_bytes == 0


async def test_a_connection_fills_only_its_own_share() -> None:
    """One that reads nothing has to wait with what is large; others continue, and small frames always pass."""
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
    (await waiting).release()
