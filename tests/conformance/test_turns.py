"""Tenants take turns: what one has queued makes no other wait."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from runwire.pubsub import SUSPECT_LOSSES, Commit, Schedule, Store
from tests.conformance.logs import LONG_SECONDS, QUEUE, claim_one, start


async def claimed(store: Store, limit: int, *queues: str, **more: object) -> list[str]:
    """The topics of one claim."""
    claims = await store.claim(
        queues or [QUEUE],
        holder="somebody",
        limit=limit,
        lease_seconds=LONG_SECONDS,
        **more,  # type: ignore[arg-type]
    )
    return [claim.topic for claim in claims]


def tenants(topics: Sequence[str]) -> list[str]:
    return [topic.partition("/")[0] for topic in topics]


async def test_a_long_queue_makes_no_other_tenant_wait(store: Store) -> None:
    """Behind 100 topics of one tenant, those of two others are claimed as if they were alone with one of its."""
    for number in range(100):
        await start(store, f"flood/{number}")
    for name in ("quiet/1", "quiet/2", "aside/1"):
        await start(store, name)
    found = [(await claimed(store, 1))[0] for _ in range(6)]
    assert Counter(tenants(found)[:3]) == {"flood": 1, "quiet": 1, "aside": 1}
    assert Counter(tenants(found)) == {"flood": 3, "quiet": 2, "aside": 1}
    assert sorted(name for name in found if name[0] != "f") == ["aside/1", "quiet/1", "quiet/2"]


async def test_turns_are_shared_by_who_claims_from_the_same_queues(two_stores: tuple[Store, Store]) -> None:
    """Two processes that claim in turn, one topic each, give each of two tenants half; each of them does, too."""
    for number in range(20):
        await start(two_stores[0], f"a/{number}")
        await start(two_stores[0], f"b/{number}")
    found = [(await claimed(store, 1))[0] for _ in range(10) for store in two_stores]
    assert Counter(tenants(found)) == {"a": 10, "b": 10}


async def test_weights_give_turns_of_several(store: Store) -> None:
    """A tenant of weight 3 has three topics taken where another has one; a batch is shared in the same way."""
    for number in range(30):
        for name in ("large", "small"):
            await start(store, f"{name}/{number}")
    weights = {"large": 3}
    found = [(await claimed(store, 1, weights=weights))[0] for _ in range(8)]
    assert Counter(tenants(found)) == {"large": 6, "small": 2}
    assert Counter(tenants(await claimed(store, 12, weights=weights))) == {"large": 9, "small": 3}


async def test_a_tenant_alone_has_all_there_is(store: Store) -> None:
    """A limit is used up by one tenant where no other waits, those due longest first."""
    for number in range(10):
        await start(store, f"only/{number}")
    assert [name[-1] for name in await claimed(store, 7)] == list("0123456")
    assert [name[-1] for name in await claimed(store, 7)] == list("789")


async def test_what_is_not_due_takes_no_turn(store: Store) -> None:
    """Tenants whose topics sleep, are leased or are closed are passed over, many of them too."""
    for number in range(150):
        await start(store, f"sleeping-{number:03}/run", due_in=LONG_SECONDS)
    await start(store, "a/run")
    await start(store, "z/run")
    assert await claimed(store, 5) == ["a/run", "z/run"]
    assert await claimed(store, 5) == []
    await store.commit(Commit("sleeping-149/run", schedule=Schedule.WAKE))
    assert await claimed(store, 5) == ["sleeping-149/run"]


async def test_names_of_tenants_and_queues_do_not_mix(store: Store) -> None:
    """Queues whose names hold those of tenants, tenants with odd names and topics without one are apart."""
    places = {"b/c/1": "a", "c/1": "a/b", "1": "a", "b.c/1": "a-b", "b/2": "a:c"}
    for topic, queue in places.items():
        await start(store, topic, queue=queue)
    for queue in sorted(set(places.values())):
        expected = sorted(topic for topic, its in places.items() if its == queue)
        assert sorted(await claimed(store, 9, queue)) == expected
        assert await claimed(store, 9, queue) == []


async def test_suspects_take_turns_too(store: Store) -> None:
    """Topics that may be what their workers died of wait in turn of their tenants, and apart from the others."""
    for topic in ("flood/1", "flood/2", "flood/3", "quiet/1"):
        await start(store, topic)
    for _ in range(SUSPECT_LOSSES):
        for _ in range(4):
            claim = await claim_one(store)
            lost = {"attempt": claim.head.attempt, "token": claim.token, "schedule": Schedule.LOST}
            await store.commit(Commit(claim.topic, **lost))
            await store.commit(Commit(claim.topic, schedule=Schedule.WAKE))
    assert await claimed(store, 4) == []
    found = [(await claimed(store, 1, alone=True))[0] for _ in range(4)]
    assert "quiet/1" in found[:2]


@pytest.mark.parametrize("seed", range(3))
async def test_nobody_waits_for_more_than_a_turn_of_each_other(store: Store, seed: int) -> None:
    """In random histories of starts and claims over queues, limits and weights: between two topics of a tenant that has
    one due no other has more taken than its weight, and within a tenant those due longest are taken first."""
    chance = random.Random(seed)
    weights = {"b": 2, "d": 3}
    queues = ["q1", "q2"]
    due: dict[str, list[str]] = {name: [] for name in "abcde"}
    since: dict[str, Counter[str]] = {}
    made = 0
    for _ in range(40):
        for _ in range(chance.choice([0, 0, 1, 6])):
            tenant, made = chance.choice("aaaabcde"), made + 1
            await start(store, f"{tenant}/{made}", queue=chance.choice(queues))
            due[tenant].append(f"{tenant}/{made}")
        for topic in await claimed(store, chance.choice([1, 1, 2, 5]), *queues, weights=weights):
            tenant = topic.partition("/")[0]
            assert due[tenant].pop(0) == topic
            since.pop(tenant, None)
            for name, waiting in due.items():
                if waiting and name != tenant:
                    passed = since.setdefault(name, Counter())
                    passed[tenant] += 1
                    assert passed[tenant] <= weights.get(tenant, 1), f"{name} waits for {tenant} again"
                elif not waiting:
                    since.pop(name, None)


async def test_what_a_tenant_has_queued_is_counted(store: Store) -> None:
    """What is due in the queues asked for and nobody has: of this tenant, without what sleeps, was claimed or is of
    another."""
    for number in range(5):
        await start(store, f"a/{number}", queue=f"q{number % 2}")
    await start(store, "a/later", queue="q0", due_in=LONG_SECONDS)
    await start(store, "a/elsewhere", queue="q2")
    await start(store, "ab/1", queue="q0")
    assert await store.queued(["q0", "q1", "q0"], "a") == 5
    assert await store.queued(["q0"], "ab") == 1
    assert await store.queued(["q0"], "b") == await store.queued([], "a") == 0
    assert len(await claimed(store, 2, "q0")) == 2
    assert await store.queued(["q0", "q1"], "a") == 4
