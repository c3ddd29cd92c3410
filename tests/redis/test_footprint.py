"""What the engine costs the server: round trips, commands, and memory that is given back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from runwire.connect import open_store
from runwire.pubsub import Message, Schedule, Store
from tests.conformance.logs import LONG_SECONDS, append, appending, claim_one, eventually, finish, start, started
from tests.servers import RedisServer, on_every_redis

LIMIT_SECONDS = 60.0
TOPIC = "default/run"


OF_THE_TEST = ("config", "info", "hello", "client", "subscribe", "unsubscribe")
"""And what is listened to, which nobody waits for."""


def calls(server: RedisServer) -> dict[str, int]:
    """How often each command was called since CONFIG RESETSTAT, by the store and its scripts."""
    stats: dict[str, Any] = server.execute("INFO", "commandstats")
    counted = {name.removeprefix("cmdstat_"): int(values["calls"]) for name, values in stats.items()}
    return {name: number for name, number in counted.items() if not name.startswith(OF_THE_TEST)}


@on_every_redis
async def test_a_commit_is_one_round_trip(redis_server: RedisServer, redis_url: str) -> None:
    """Whatever its number of events, and with everything that a commit can do: one command from the client, and
    as many inside the server for 256 events as for one."""
    async with open_store(redis_url) as store:
        claim = await started(store)
        attempt = claim.head.attempt
        await append(store, TOPIC, attempt, 1, 1)  # from then on the server has the script
        inside = []
        sequence = 1
        for events in (1, 16, 256):
            redis_server.execute("CONFIG", "RESETSTAT")
            await append(store, TOPIC, attempt, sequence + 1, sequence + events)
            sequence += events
            counted = calls(redis_server)
            assert counted.pop("evalsha") == 1
            inside.append(counted)
        assert inside[0] == inside[1] == inside[2]
        # The clock, the head, the entry, the new head, the live entry: nothing else.
        assert inside[0] == {"time": 1, "hmget": 1, "xadd": 1, "hset": 1, "publish": 1}
        redis_server.execute("CONFIG", "RESETSTAT")
        await finish(
            store,
            TOPIC,
            attempt,
            sequence + 1,
            puts={"output": b"x"},
            deletes=["journal"],
            messages=[Message("scorer-requests", b"x") for _ in range(5)],
        )
        assert calls(redis_server)["evalsha"] == 1


async def test_commits_of_one_turn_share_a_write(redis_server: RedisServer, redis_url: str) -> None:
    """Commits of many topics that are ready at the same time reach the server together, not one after the other."""
    async with open_store(redis_url) as store:
        topics = [f"default/{number}" for number in range(100)]
        for topic in topics:
            await started(store, topic)
        reads = int(redis_server.execute("INFO", "stats")["total_reads_processed"])
        await asyncio.gather(*(append(store, topic, 1, 1, 3) for topic in topics))
        reads = int(redis_server.execute("INFO", "stats")["total_reads_processed"]) - reads
        assert reads <= 10, "100 commits of 300 bytes fit in a few reads of the server's 16 KiB buffer"


@on_every_redis
async def test_a_page_is_one_round_trip(redis_server: RedisServer, redis_url: str) -> None:
    """A reader of 5,000 events in entries of 50 asks the server three times: by pages, and not by entries."""
    async with open_store(redis_url) as store:
        claim = await started(store)
        for first in range(1, 5001, 50):
            await append(store, TOPIC, claim.head.attempt, first, first + 49)
        await store.read(TOPIC, 0)
        redis_server.execute("CONFIG", "RESETSTAT")
        after = 0
        while after < 5000:
            after = (await store.read(TOPIC, after)).entries[-1].last
        assert calls(redis_server)["evalsha"] == 3


async def work_on(store: Store, topic: str) -> None:
    """A run with everything that a run has, up to its last event."""
    await start(store, topic, indexes=["all", "agent/demo"], puts={"input": b"x" * 100})
    claim = await claim_one(store)
    await append(store, claim.topic, 1, 1, 20)
    await store.extend([claim.lease], lease_seconds=LONG_SECONDS)
    await store.commit(appending(claim.topic, 1, 21, 40, puts={"journal": b"x" * 500}))


async def end(store: Store, topic: str, retention: float, tombstone: float) -> None:
    message = Message("scorer-requests", b"x" * 200)
    await finish(store, topic, 1, 41, retention=retention, tombstone=tombstone, messages=[message])


async def test_a_thousand_runs_leave_nothing(redis_server: RedisServer, redis_url: str) -> None:
    """Every key has an owner and an end: after the retention a run is its tombstone, and after that it is nothing.

    What remains, and is counted: the number of shards, the empty stream of a message queue with its group, and, for a
    day, who had the last turn.
    """
    async with open_store(redis_url) as store, asyncio.timeout(LIMIT_SECONDS):
        await work_on(store, "default/first")
        await end(store, "default/first", 0.05, 0.05)
        await take_all(store)
        await eventually(lambda: swept(store, redis_server))
        await store.scan("all", fields=[])  # the server keeps every script that it has seen: those of scans too
        empty = memory(redis_server)
        assert redis_server.execute("DBSIZE") == 3

        topics = [f"default/{number}" for number in range(1000)]
        for some in range(0, 1000, 50):
            await asyncio.gather(*(work_on(store, topic) for topic in topics[some : some + 50]))
        # Head, log and fields of each; two indexes, a tenant's queue, the sets that name the two, and what remains.
        assert redis_server.execute("DBSIZE") == 3008
        assert memory(redis_server) - empty > 3_000_000
        await asyncio.gather(*(end(store, topic, 2.0, 4.0) for topic in topics))
        await take_all(store)

        await eventually(lambda: only_tombstones(store, redis_server, topics))
        assert memory(redis_server) - empty < 1_000_000, "a tombstone is below a kilobyte"
        assert (await store.scan("all", fields=[], limit=2000)).found == []

        await eventually(lambda: swept(store, redis_server))
        assert redis_server.execute("DBSIZE") == 3
        assert (await store.scan("all", fields=[])).found == []
        # The server's own pools grow with the first runs, to about 160 kB, and no further however many follow.
        assert memory(redis_server) - empty < 200_000, "1,000 runs left less than 200 bytes each"


async def take_all(store: Store) -> None:
    """Receives and acknowledges every message."""
    while deliveries := await store.receive(
        "scorer-requests", consumer="scorer", limit=100, lease_seconds=LONG_SECONDS
    ):
        await store.acknowledge("scorer-requests", [delivery.message_id for delivery in deliveries])


async def swept(store: Store, server: RedisServer) -> bool:
    await store.sweep()
    return bool(server.execute("DBSIZE") == 3)


async def only_tombstones(store: Store, server: RedisServer, topics: Sequence[str]) -> bool:
    await store.sweep()
    gone = there(server, "log", topics) + there(server, "fields", topics) == 0
    assert there(server, "head", topics) == len(topics), "a tombstone outlives its log"
    return gone


def there(server: RedisServer, kind: str, topics: Sequence[str]) -> int:
    """How many of these keys there are. Those that have expired, and are removed at leisure, are removed by looking."""
    return int(server.execute("EXISTS", *(f"{{runwire:0}}:{kind}:{topic}" for topic in topics)))


def memory(server: RedisServer) -> int:
    """Bytes of the data alone, without the buffers of clients."""
    stats: dict[bytes, Any] = server.execute("MEMORY", "STATS")
    return int(stats.get(b"dataset.bytes", stats.get("dataset.bytes", 0)))


@on_every_redis
async def test_what_is_large_is_freed_aside(redis_server: RedisServer, redis_url: str) -> None:
    """Clearing and sweeping never free a log with a command that holds up all others, and nothing is left of either."""
    async with open_store(redis_url) as store:
        for topic in ("default/cleared", "default/swept"):
            await work_on(store, topic)
        redis_server.execute("CONFIG", "RESETSTAT")
        await store.clear("default/cleared")
        await end(store, "default/swept", 0.0, LONG_SECONDS)
        await eventually(store.sweep)
        counted = calls(redis_server)
        assert there(redis_server, "log", ["default/cleared", "default/swept"]) == 0
        assert there(redis_server, "fields", ["default/cleared", "default/swept"]) == 0
        assert there(redis_server, "head", ["default/swept"]) == 1
    assert counted["unlink"] == 2
    assert "del" not in counted


async def test_a_purged_topic_leaves_its_lists(redis_server: RedisServer, redis_url: str) -> None:
    """Lists hold no tombstones: a page beside thousands of them is not longer to find."""
    async with open_store(redis_url) as store:
        for number in range(20):
            await work_on(store, f"default/{number}")
            await end(store, f"default/{number}", 0.0, LONG_SECONDS)
        await start(store, "default/last", indexes=["all"])
        await eventually(store.sweep)
        while await store.sweep():
            pass
        assert redis_server.execute("ZCARD", "{runwire:0}:index:all") == 1
        assert redis_server.execute("EXISTS", "{runwire:0}:index:agent/demo", "{runwire:0}:ends") == 0
        page = await store.scan("all", fields=[], limit=1)
        assert [stored.topic for stored in page.found] == ["default/last"]


async def test_a_page_of_many_shards_asks_each_once(redis_server: RedisServer, redis_url: str) -> None:
    """Of 64 shards a page takes a call to each, at once, and hardly more topics than it shows."""
    async with open_store(f"{redis_url}?shards=64") as store:
        for first in range(0, 600, 50):
            await asyncio.gather(
                *(
                    start(store, f"default/{number:03}", indexes=["all"], schedule=Schedule.NEVER)
                    for number in range(first, first + 50)
                )
            )
        everything: list[str] = []
        before = None
        while True:
            redis_server.execute("CONFIG", "RESETSTAT")
            page = await store.scan("all", fields=[], limit=50, before=before)
            assert calls(redis_server)["evalsha"] <= 4 * 64
            assert calls(redis_server).get("hmget", 0) <= 4 * 50 * 3
            everything += [stored.topic for stored in page.found]
            before = page.next
            if before is None:
                break
        assert len(everything) == len(set(everything)) == 600
        redis_server.execute("CONFIG", "RESETSTAT")
        await store.scan("all", fields=[], limit=1)
        assert calls(redis_server)["hmget"] <= 64
