"""What the version before planned, when a queue had one place for the topics of all tenants, is found and kept."""

from __future__ import annotations

from runwire.connect import open_store
from runwire.pubsub import LeaseState
from tests.conformance.logs import LONG_SECONDS, QUEUE, claim_one, extend, start
from tests.servers import RedisServer


def places(server: RedisServer) -> dict[str, float]:
    """The topics that are planned, as this version has them."""
    found: dict[str, float] = {}
    for key in server.execute("KEYS", "*lane:due:*"):
        pairs = server.execute("ZRANGE", key, 0, -1, "WITHSCORES")
        found |= {name: float(score) for name, score in pairs}
    return {name.decode() if isinstance(name, bytes) else name: score for name, score in found.items()}


async def test_topics_of_the_version_before_are_claimed(redis_server: RedisServer, redis_url: str) -> None:
    """Topics that lie where the version before looks for them move at the next claim, and are claimed in turn; a lease
    that it has extended meanwhile is as long as it says."""
    async with open_store(redis_url) as store:
        for topic in ("flood/1", "flood/2", "quiet/1"):
            await start(store, topic)
        before = places(redis_server)
        [key] = {name.rpartition(b"lane:")[0] for name in redis_server.execute("KEYS", "*lane:due:*")}
        old = key + b"due:" + QUEUE.encode()
        redis_server.execute(
            "DEL", *redis_server.execute("KEYS", "*lane:*"), *redis_server.execute("KEYS", "*tenants:*")
        )
        for topic, time in before.items():
            redis_server.execute("ZADD", old, int(time), topic)
        found = [await claim_one(store) for _ in range(3)]
        assert [claim.topic for claim in found] == ["flood/1", "quiet/1", "flood/2"]
        assert not redis_server.execute("EXISTS", old)

        leased_until = places(redis_server)["quiet/1"]
        redis_server.execute("ZADD", old, int(leased_until + 5_000_000), "quiet/1")  # as an old `extend` does
        assert not await store.claim([QUEUE], holder="somebody", limit=1, lease_seconds=LONG_SECONDS)
        assert places(redis_server)["quiet/1"] == leased_until + 5_000_000
        assert await extend(store, found[1]) is LeaseState.HELD
