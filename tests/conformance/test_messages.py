"""Messages between services: in order, in one pair of hands at a time, never lost before they are acknowledged."""

import asyncio
import time

from runwire.pubsub import MAX_RECEIVE_BYTES, RECEIVE_CHUNK, Commit, Delivery, Message, Store
from tests.conformance.logs import LIMIT_SECONDS, LONG_SECONDS, start

TOPIC = "default/run"
SHORT_SECONDS = 0.15


async def send(store: Store, *bodies: bytes, queue: str = "m") -> None:
    """Sends from a topic that exists or is made."""
    if await store.get(TOPIC, []) is None:
        await start(store)
    await store.commit(Commit(TOPIC, messages=[Message(queue, body) for body in bodies]))


async def receive(
    store: Store,
    limit: int = 100,
    lease_seconds: float = LONG_SECONDS,
    wait_seconds: float = 0.0,
    consumer: str = "c",
    max_bytes: int = MAX_RECEIVE_BYTES,
) -> list[Delivery]:
    return list(
        await store.receive(
            "m",
            consumer=consumer,
            limit=limit,
            lease_seconds=lease_seconds,
            wait_seconds=wait_seconds,
            max_bytes=max_bytes,
        )
    )


def bodies(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.body for delivery in deliveries]


async def test_messages_come_in_order(store: Store) -> None:
    """What was sent before the first consumer ever came is received, oldest first, up to the limit."""
    await send(store, b"1", b"2")
    await send(store, b"3", b"")
    first = await receive(store, limit=3)
    assert bodies(first) == [b"1", b"2", b"3"]
    assert [delivery.deliveries for delivery in first] == [1, 1, 1]
    assert bodies(await receive(store)) == [b""]
    assert await receive(store) == []


async def test_large_messages_come_few_at_a_time(store: Store) -> None:
    """A batch is bounded in bytes, be its messages new or delivered again; one above the bound comes all the same."""
    sent = [b"%03d" % number + b"x" * 997 for number in range(80)]
    await send(store, *sent)
    batch = await receive(store, lease_seconds=SHORT_SECONDS, max_bytes=2000)
    assert 2 <= len(batch) <= 2 + RECEIVE_CHUNK
    assert bodies(batch) == sent[: len(batch)]
    found: set[bytes] = set()
    while len(found) < len(sent):
        batch = await receive(store, max_bytes=1, wait_seconds=LIMIT_SECONDS)
        assert 1 <= len(batch) <= 1 + RECEIVE_CHUNK
        found.update(bodies(batch))
    assert await receive(store) == []


async def test_queues_are_apart(store: Store) -> None:
    """A message is found in its own queue, and acknowledged there."""
    await send(store, b"m")
    await send(store, b"n", queue="n")
    (delivery,) = await receive(store)
    assert delivery.body == b"m"
    (other,) = await store.receive("n", consumer="c", limit=9, lease_seconds=LONG_SECONDS)
    assert other.body == b"n"
    await store.acknowledge("n", [other.message_id])
    assert (await store.backlog("m"), await store.backlog("n")) == (1, 0)


async def test_acknowledged_is_gone(store: Store) -> None:
    """An acknowledged message never comes again; unknown and repeated ids are no error."""
    await send(store, b"1", b"2")
    first, second = await receive(store, lease_seconds=SHORT_SECONDS)
    await store.acknowledge("m", [first.message_id, first.message_id])
    await store.acknowledge("m", [first.message_id])
    await store.acknowledge("m", [])
    await store.acknowledge("none", [second.message_id])
    assert await store.backlog("m") == 1
    (again,) = await receive(store, wait_seconds=LIMIT_SECONDS)
    assert (again.body, again.message_id) == (b"2", second.message_id)


async def test_the_backlog_counts_what_is_not_acknowledged(store: Store) -> None:
    """Waiting and handed out alike; an unknown queue has none."""
    assert await store.backlog("m") == 0
    await send(store, b"1", b"2", b"3")
    (delivery,) = await receive(store, limit=1)
    assert await store.backlog("m") == 3
    await store.acknowledge("m", [delivery.message_id])
    assert await store.backlog("m") == 2


async def test_a_message_comes_again_when_its_lease_ends(store: Store) -> None:
    """A consumer that died does not lose it; the deliveries are counted."""
    await send(store, b"1")
    for count in (1, 2, 3):
        (delivery,) = await receive(
            store, lease_seconds=SHORT_SECONDS, wait_seconds=LIMIT_SECONDS, consumer=f"c{count}"
        )
        assert (delivery.body, delivery.deliveries) == (b"1", count)


async def test_nobody_else_has_it_meanwhile(two_stores: tuple[Store, Store]) -> None:
    """While its lease lasts a message is in one consumer's hands."""
    first, second = two_stores
    await send(first, b"1")
    assert bodies(await receive(first, consumer="a")) == [b"1"]
    assert await receive(second, consumer="b") == []
    assert await receive(first, consumer="a") == []


async def test_returned_messages_come_before_new_ones(store: Store) -> None:
    """Those whose lease has ended first, then new ones in order."""
    await send(store, b"old-1", b"old-2")
    await receive(store, limit=2, lease_seconds=SHORT_SECONDS)
    await send(store, b"new-1", b"new-2")
    await asyncio.sleep(SHORT_SECONDS + 0.05)  # until the leases have ended, which nothing tells
    found = bodies(await receive(store, limit=3))
    assert sorted(found[:2]) == [b"old-1", b"old-2"]
    assert found[2:] == [b"new-1"]
    assert bodies(await receive(store)) == [b"new-2"]


async def test_each_message_goes_to_one_of_many(two_stores: tuple[Store, Store]) -> None:
    """Under many consumers on two connections each message is received once, and none is forgotten."""
    sent = [b"%d" % number for number in range(200)]
    await send(two_stores[0], *sent)
    received: list[bytes] = []

    async def consume(store: Store, consumer: str) -> None:
        while deliveries := await receive(store, limit=7, consumer=consumer):
            received.extend(bodies(deliveries))
            await store.acknowledge("m", [delivery.message_id for delivery in deliveries])

    await asyncio.gather(*(consume(two_stores[number % 2], f"c{number}") for number in range(6)))
    assert sorted(received) == sorted(sent)
    assert await two_stores[1].backlog("m") == 0


async def test_who_waits_hears_of_a_message(two_stores: tuple[Store, Store]) -> None:
    """A message sent through another connection comes to a consumer that waits."""
    here, there = two_stores
    async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
        waiting = group.create_task(receive(here, wait_seconds=LIMIT_SECONDS))
        await asyncio.sleep(0.05)  # so that it waits; either way it must be found
        await send(there, b"1")
    assert bodies(waiting.result()) == [b"1"]


async def test_waiting_ends_with_its_time(store: Store) -> None:
    """No message within the time: nothing, and not before."""
    before = time.monotonic()
    assert await receive(store, wait_seconds=0.1) == []
    assert time.monotonic() - before >= 0.1


async def test_a_cancelled_receive_loses_nothing(store: Store) -> None:
    """A consumer that is cancelled while it waits leaves the message for the next one."""
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(receive(store, lease_seconds=0.1, wait_seconds=LIMIT_SECONDS))
        await asyncio.sleep(0.02)
        waiting.cancel()
    await send(store, b"1")
    assert bodies(await receive(store, wait_seconds=LIMIT_SECONDS)) == [b"1"]


async def test_messages_outlive_their_topic(store: Store) -> None:
    """Clearing a topic does not take back what it sent."""
    await send(store, b"1")
    await store.clear(TOPIC)
    assert bodies(await receive(store)) == [b"1"]


async def test_large_and_strange_bodies(store: Store) -> None:
    """A body is bytes, and comes back as sent."""
    sent = [b"\0\xff" * 100_000, b"", b"{json}\r\n"]
    await send(store, *sent)
    assert bodies(await receive(store)) == sent
