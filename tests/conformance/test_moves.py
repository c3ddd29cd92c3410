"""A topic that goes to another queue: in the same step as what makes it due, and to be found in one queue only."""

import asyncio
from typing import Any

import pytest

from runwire.pubsub import Commit, LeaseState, Schedule, Store
from tests.conformance.logs import LIMIT_SECONDS, LONG_SECONDS, QUEUE, append, claim_one, extend, start, started

TOPIC = "default/run"
OTHER = f"{QUEUE}/other"


async def found_in(store: Store, queue: str, alone: bool = False) -> list[str]:
    claims = await store.claim([queue], holder="somebody", limit=9, lease_seconds=LONG_SECONDS, alone=alone)
    return [claim.topic for claim in claims]


async def planned(store: Store) -> dict[str, tuple[int, int]]:
    return {depth.queue: (depth.due, depth.ahead) for depth in await store.depths()}


async def test_the_owner_moves_what_it_hands_back(store: Store) -> None:
    """What an owner hands back into another queue is found there, and not where it was."""
    claim = await started(store)
    await store.commit(Commit(TOPIC, 1, token=claim.token, queue=OTHER, schedule=Schedule.DUE))
    assert await planned(store) == {OTHER: (1, 0)}
    assert await found_in(store, QUEUE) == []
    assert await found_in(store, OTHER) == [TOPIC]


async def test_a_move_rides_with_events(store: Store) -> None:
    """The last commit of an attempt moves the topic in the same step as its event; its repeat does nothing more."""
    claim = await started(store)
    changes: dict[str, Any] = {"token": claim.token, "queue": OTHER, "schedule": Schedule.DUE, "due_in": 0.0}
    await append(store, TOPIC, 1, 1, 1, **changes)
    again = await claim_one(store, OTHER)
    assert again.head.last == 1


async def test_what_waits_without_a_time_moves(store: Store) -> None:
    """A topic that ends its lease without a due time is woken in the queue that it went to."""
    claim = await started(store)
    await store.commit(Commit(TOPIC, 1, token=claim.token, queue=OTHER, schedule=Schedule.NEVER))
    assert await planned(store) == {}
    await store.commit(Commit(TOPIC, schedule=Schedule.WAKE))
    assert await found_in(store, QUEUE) == []
    assert await found_in(store, OTHER) == [TOPIC]


@pytest.mark.parametrize("due_in", [0.0, 3600.0])
async def test_a_wake_moves_what_nobody_has(store: Store, due_in: float) -> None:
    """Whoever wakes a topic that nobody has may send it elsewhere, whether it was due already or not."""
    await start(store, due_in=due_in)
    await store.commit(Commit(TOPIC, queue=OTHER, schedule=Schedule.WAKE))
    assert await planned(store) == {OTHER: (1, 0)}
    assert await found_in(store, QUEUE) == []
    assert await found_in(store, OTHER) == [TOPIC]


async def test_a_wake_takes_nothing_from_its_owner(store: Store) -> None:
    """Under a lease a wake moves nothing: the owner keeps the topic, and ends its lease where it was."""
    claim = await started(store)
    await store.commit(Commit(TOPIC, queue=OTHER, schedule=Schedule.WAKE))
    assert await extend(store, claim) is LeaseState.WOKEN
    assert await planned(store) == {QUEUE: (0, 1)}
    await store.commit(Commit(TOPIC, 1, token=claim.token, schedule=Schedule.NEVER))
    assert await found_in(store, OTHER) == []
    assert await found_in(store, QUEUE) == [TOPIC]


async def test_a_suspect_moves_with_a_clean_slate(store: Store) -> None:
    """What was lost counts for the queue that it was lost in: where it goes it is no suspect."""
    await start(store)
    for _ in range(2):
        claim = await claim_one(store)
        await store.commit(Commit(TOPIC, claim.head.attempt, token=claim.token, schedule=Schedule.LOST))
        await store.commit(Commit(TOPIC, schedule=Schedule.WAKE))
    assert await found_in(store, QUEUE) == []
    claim = await claim_one(store, alone=True)
    await store.commit(Commit(TOPIC, claim.head.attempt, token=claim.token, queue=OTHER, schedule=Schedule.DUE))
    assert await found_in(store, OTHER, alone=True) == []
    assert await found_in(store, OTHER) == [TOPIC]


async def test_who_waits_in_the_other_queue_is_told(store: Store) -> None:
    """A claim that waits gets what is moved to its queue at once."""
    claim = await started(store)
    async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
        waiting = group.create_task(claim_one(store, OTHER))
        await asyncio.sleep(0)
        await store.commit(Commit(TOPIC, 1, token=claim.token, queue=OTHER, schedule=Schedule.DUE))
        assert (await waiting).topic == TOPIC


@pytest.mark.parametrize("schedule", [Schedule.KEEP, Schedule.LOST])
async def test_no_other_commit_moves(store: Store, schedule: Schedule) -> None:
    """A topic whose due time a commit does not set stays where it is: to ask for more is the caller's fault."""
    claim = await started(store)
    with pytest.raises(ValueError, match="queue"):
        await store.commit(Commit(TOPIC, 1, token=claim.token, queue=OTHER, schedule=schedule))
    assert await planned(store) == {QUEUE: (0, 1)}
