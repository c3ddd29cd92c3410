"""What a store says of itself: whether it can be opened again, and under which settings it may lose something."""

from __future__ import annotations

from runwire.pubsub import Store
from tests.conformance.logs import append, started

TOPIC = "default/run"


async def test_who_opens_it_again_finds_the_same(two_stores: tuple[Store, Store]) -> None:
    """A store that says it can be opened again shows the second one what the first wrote."""
    here, there = two_stores
    await started(here)
    await append(here, TOPIC, 1, 1, 3)
    if here.reopens:
        assert (await there.read(TOPIC, 0)).head.last == 3


async def test_every_risk_comes_with_what_to_do(store: Store) -> None:
    """What may be lost is told with a word for its subject, the problem, and what to do about it."""
    risks = await store.risks()
    assert all(risk.subject and risk.problem and risk.advice for risk in risks)
    assert {risk.subject for risk in risks} <= {"eviction", "durability", "settings"}
