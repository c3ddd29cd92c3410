"""What the consumer group of a message queue must survive."""

from __future__ import annotations

import asyncio

import pytest

from runwire.connect import open_store
from runwire.pubsub import Commit, Message, Store
from tests.conformance.logs import LONG_SECONDS, eventually
from tests.servers import RedisServer, on_every_redis

LIMIT_SECONDS = 20.0
QUEUE = "scorer-requests"
STREAM = f"{{runwire:0}}:messages:{QUEUE}"
GROUP = "workers"


async def send(store: Store, *bodies: bytes, topic: str = "default/run") -> None:
    await store.commit(Commit(topic, create=True, messages=[Message(QUEUE, body) for body in bodies]))


async def bodies(store: Store, consumer: str, lease_seconds: float = LONG_SECONDS, limit: int = 10) -> list[bytes]:
    deliveries = await store.receive(QUEUE, consumer=consumer, limit=limit, lease_seconds=lease_seconds)
    return [delivery.body for delivery in deliveries]


@on_every_redis
async def test_a_zombie_cannot_take_a_message_away(redis_url: str) -> None:
    """Who lets its lease end and acknowledges late deletes nothing: the message is its successor's."""
    async with open_store(redis_url) as zombie, open_store(redis_url) as successor, asyncio.timeout(LIMIT_SECONDS):
        await send(zombie, b"message")
        (late,) = await zombie.receive(QUEUE, consumer="zombie", limit=1, lease_seconds=0.05)
        (again,) = await successor.receive(
            QUEUE, consumer="successor", limit=1, lease_seconds=LONG_SECONDS, wait_seconds=LIMIT_SECONDS
        )
        assert (again.message_id, again.deliveries) == (late.message_id, 2)
        await zombie.acknowledge(QUEUE, [late.message_id])
        assert await successor.backlog(QUEUE) == 1
        await successor.acknowledge(QUEUE, [again.message_id])
        assert await successor.backlog(QUEUE) == 0


@on_every_redis
async def test_the_lease_is_that_of_its_holder(redis_url: str) -> None:
    """Who asks for short leases takes nothing from one that was given a long one, and the other way round."""
    async with open_store(redis_url) as store, asyncio.timeout(LIMIT_SECONDS):
        await send(store, b"long", b"short")
        assert await bodies(store, "patient", LONG_SECONDS, limit=1) == [b"long"]
        assert await bodies(store, "hasty", 0.05, limit=1) == [b"short"]
        (again,) = await store.receive(
            QUEUE, consumer="third", limit=10, lease_seconds=LONG_SECONDS, wait_seconds=LIMIT_SECONDS
        )
        assert again.body == b"short"
        assert await bodies(store, "fourth", 0.01) == []


@on_every_redis
async def test_a_lost_group_is_made_again(redis_server: RedisServer, redis_url: str) -> None:
    """All that was not acknowledged is received again, and nothing that was: acknowledged messages are deleted."""
    async with open_store(redis_url) as store:
        await send(store, b"done", b"in hand", b"waiting")
        done, _ = await store.receive(QUEUE, consumer="a", limit=2, lease_seconds=LONG_SECONDS)
        await store.acknowledge(QUEUE, [done.message_id])
        redis_server.execute("XGROUP", "DESTROY", STREAM, GROUP)
        await store.acknowledge(QUEUE, ["0/1-1"])  # no group: nothing to do, and no error
        assert await bodies(store, "b") == [b"in hand", b"waiting"]


@on_every_redis
async def test_a_deleted_entry_leaves_no_trace(redis_server: RedisServer, redis_url: str) -> None:
    """An entry that somebody deleted while it was in hand is forgotten, and holds nobody up."""
    async with open_store(redis_url) as store, asyncio.timeout(LIMIT_SECONDS):
        await send(store, b"deleted", b"kept")
        deleted, _ = await store.receive(QUEUE, consumer="a", limit=2, lease_seconds=0.05)
        redis_server.execute("XDEL", STREAM, deleted.message_id.partition("/")[2])
        (kept,) = await store.receive(
            QUEUE, consumer="b", limit=10, lease_seconds=LONG_SECONDS, wait_seconds=LIMIT_SECONDS
        )
        assert kept.body == b"kept"
        assert redis_server.execute("XPENDING", STREAM, GROUP)["pending"] == 1


@on_every_redis
async def test_ended_leases_among_many(redis_url: str) -> None:
    """Ended leases are found behind more messages in hand than one look at them shows."""
    async with open_store(redis_url) as store, asyncio.timeout(LIMIT_SECONDS):
        await send(store, *(b"%d" % number for number in range(350)))
        assert len(await bodies(store, "patient", limit=340)) == 340
        assert len(await bodies(store, "hasty", 0.01)) == 10
        await eventually(lambda: count(store))


async def count(store: Store) -> bool:
    found = await bodies(store, "third")
    assert found == [b"%d" % number for number in range(340, 350)] or not found
    return bool(found)


@on_every_redis
async def test_dead_consumers_are_forgotten(
    redis_server: RedisServer, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names are random per start, so those that are gone are removed, unless they hold messages."""
    monkeypatch.setattr("runwire.redis.messages._FORGET_SECONDS", 0.02)
    async with open_store(redis_url) as store:
        await send(store, b"in hand")
        assert await bodies(store, "holder") == [b"in hand"]
        redis_server.execute("XGROUP", "CREATECONSUMER", STREAM, GROUP, "gone:1000")
        assert consumers(redis_server) == {"holder:60000", "gone:1000"}

    async def forgotten() -> bool:
        async with open_store(redis_url) as another:
            await bodies(another, "alive")
        return "gone:1000" not in consumers(redis_server)

    await eventually(forgotten)
    assert "holder:60000" in consumers(redis_server)


def consumers(server: RedisServer) -> set[str]:
    return {consumer[b"name"].decode() for consumer in server.execute("XINFO", "CONSUMERS", STREAM, GROUP)}


@on_every_redis
async def test_listening_to_nothing_leaves_nothing(redis_server: RedisServer, redis_url: str) -> None:
    """A queue that was never written to has no key, however often it is asked for messages."""
    async with open_store(redis_url) as store:
        assert await bodies(store, "a") == []
        assert await store.backlog(QUEUE) == 0
        await store.acknowledge(QUEUE, ["0/1-1", "7/1-1", "nonsense", ""])
        assert not redis_server.execute("EXISTS", STREAM)
