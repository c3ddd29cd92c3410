"""What operators are told: how much waits in each queue, and what processes say of themselves."""

from __future__ import annotations

import asyncio
import time

from runwire.pubsub import SUSPECT_LOSSES, Commit, Depth, Schedule, Store
from tests.conformance.logs import LIMIT_SECONDS, LONG_SECONDS, claim_one, finish, start

SHORT_SECONDS = 0.15


async def depths(store: Store) -> dict[str, Depth]:
    found = await store.depths()
    assert [depth.queue for depth in found] == sorted(depth.queue for depth in found)
    return {depth.queue: depth for depth in found}


async def test_what_waits_is_counted_by_queue(store: Store) -> None:
    """Topics are counted in their queue, due or ahead, with since when the oldest is due; also where nobody claims."""
    assert await store.depths() == []
    began = await store.now()
    for number in range(3):
        await store.commit(Commit(f"default/{number}", create=True, queue="a", schedule=Schedule.DUE))
    await store.commit(Commit("default/b", create=True, queue="b", schedule=Schedule.DUE, due_in=LONG_SECONDS))
    await store.commit(Commit("default/c", create=True, queue="c", schedule=Schedule.NEVER))
    found = await depths(store)
    assert {queue: (each.due, each.ahead) for queue, each in found.items()} == {"a": (3, 0), "b": (0, 1)}
    assert began - 1 <= found["a"].oldest_due <= await store.now()
    assert found["b"].oldest_due == 0


async def test_what_is_in_hands_is_not_due(store: Store) -> None:
    """A claimed topic counts as ahead; once it has ended, or is not due any more, its queue is told of no longer."""
    await start(store)
    assert [(each.due, each.ahead) for each in await store.depths()] == [(1, 0)]
    claim = await claim_one(store)
    assert [(each.due, each.ahead, each.oldest_due) for each in await store.depths()] == [(0, 1, 0)]
    await finish(store, claim.topic, claim.head.attempt, 1)
    assert await store.depths() == []
    await start(store, "default/again")
    assert [(each.due, each.ahead) for each in await store.depths()] == [(1, 0)]


async def test_suspects_count_too(store: Store) -> None:
    """A topic in the lane of suspects waits in its queue as any other."""
    await start(store)
    for _ in range(SUSPECT_LOSSES):
        claim = await claim_one(store)
        lost = Commit(claim.topic, claim.head.attempt, token=claim.token, schedule=Schedule.LOST)
        await store.commit(lost)
        await store.commit(Commit(claim.topic, schedule=Schedule.WAKE))
    assert [(each.due, each.ahead) for each in await store.depths()] == [(1, 0)]


async def test_a_board_shows_the_last_that_was_said(store: Store) -> None:
    """What is put up is shown by name, in order, with its time; said again it is replaced; boards are apart."""
    assert await store.notices("workers") == []
    before = await store.now()
    for name, value in (("b", b"1"), ("a", b"\0 \xff"), ("b", b"2"), ("c", b"")):
        await store.put_up("workers", name, value, seconds=LONG_SECONDS)
    await store.put_up("others", "x", b"y", seconds=LONG_SECONDS)
    found = await store.notices("workers")
    assert [(notice.name, notice.value) for notice in found] == [("a", b"\0 \xff"), ("b", b"2"), ("c", b"")]
    assert all(before - 1 <= notice.time <= before + LIMIT_SECONDS for notice in found)
    assert [notice.name for notice in await store.notices("others")] == ["x"]


async def test_what_is_said_no_more_comes_down(store: Store) -> None:
    """A notice is gone after its seconds, or at once when it is taken down; the others stay."""
    await store.put_up("workers", "stays", b"1", seconds=LONG_SECONDS)
    await store.put_up("workers", "down", b"1", seconds=LONG_SECONDS)
    await store.put_up("workers", "down", b"", seconds=0)
    await store.put_up("workers", "unknown", b"", seconds=0)
    await store.put_up("workers", "short", b"1", seconds=SHORT_SECONDS)
    ends = time.monotonic() + LIMIT_SECONDS
    while [notice.name for notice in await store.notices("workers")] != ["stays"]:
        assert time.monotonic() < ends
        await asyncio.sleep(0.02)
    await store.put_up("workers", "next", b"1", seconds=LONG_SECONDS)
    assert [notice.name for notice in await store.notices("workers")] == ["next", "stays"]


async def test_every_process_sees_the_same(two_stores: tuple[Store, Store]) -> None:
    """What one connection puts up or makes due, another one shows."""
    here, there = two_stores
    await here.put_up("workers", "a", b"1", seconds=LONG_SECONDS)
    await start(here)
    assert [notice.value for notice in await there.notices("workers")] == [b"1"]
    assert [each.due for each in await there.depths()] == [1]
