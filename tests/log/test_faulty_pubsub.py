"""The faults do what they say: a fault that does nothing would make every test above it green."""

from __future__ import annotations

from runwire.memory import MemoryPubSub
from runwire.pubsub import Entry
from tests.log.faulty_pubsub import Fate, FaultyPubSub, Held
from tests.log.one_log import TOPIC, entry


async def test_every_fate() -> None:
    """Entries pass, are lost, come twice, or are held until they are released in any order."""
    fates = [Fate.PASS, Fate.DROP, Fate.DOUBLE, Fate.HOLD, Fate.HOLD, Fate.PASS]
    pubsub = FaultyPubSub(MemoryPubSub(), lambda: fates.pop(0))
    got: list[int] = []
    async with pubsub.subscribe(TOPIC, lambda entry: got.append(entry.first if entry else 0)):
        for sequence in range(1, 7):
            await pubsub.publish(TOPIC, entry(sequence, sequence))
        assert got == [1, 3, 3, 6]
        assert pubsub.release(1) == Held(TOPIC, entry(5, 5))
        pubsub.release(0)
        assert got == [1, 3, 3, 6, 5, 4]
        assert not pubsub.held


async def test_what_was_seen_can_come_again() -> None:
    """Also after it was dropped; but nothing comes to those who have left, or follow another topic."""
    pubsub = FaultyPubSub(MemoryPubSub(), lambda: Fate.DROP)
    got: list[Entry | None] = []
    others: list[Entry | None] = []
    async with pubsub.subscribe("default/other", others.append):
        async with pubsub.subscribe(TOPIC, got.append):
            await pubsub.publish(TOPIC, entry(1, 2))
            assert got == []
            assert pubsub.repeat(0) == Held(TOPIC, entry(1, 2))
            pubsub.miss(TOPIC)
            assert got == [entry(1, 2), None]
        pubsub.repeat(0)
        await pubsub.publish(TOPIC, entry(3, 3))
        assert len(got) == 2
    assert others == []


async def test_a_subscription_takes_its_turns() -> None:
    """With latency, what is published while subscribing may be missed and is not delivered before it is entered."""
    hub = MemoryPubSub()
    pubsub = FaultyPubSub(hub)
    pubsub.latency = 2
    async with pubsub.subscribe(TOPIC, lambda _: None):
        assert hub.subscribed(TOPIC)
    assert hub.empty()
