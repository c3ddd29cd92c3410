"""A part of Redis that is away: what lies elsewhere continues as if nothing were, and nothing is counted against
anybody.

The rows of the table in docs/redis.md, with times scaled down. The long ones are marked chaos.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agent_service import RunContext, workflow
from agent_service.execution.leases import Leases
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import run_pb2
from runwire.caching_pubsub import CachingPubSub
from runwire.connect import open_store
from runwire.errors import RunwireError, StoreUnavailable
from runwire.pubsub import SUSPECT_LOSSES, Claim, Commit, Lease, LeaseState, Message, Schedule, Store
from runwire.redis import client as client_module
from runwire.redis.link import Access, Address, connect
from runwire.redis.shards import Shards
from runwire.redis.topology import slot
from tests.conformance.logs import LONG_SECONDS, QUEUE, append, claim_one, eventually, extend, start, started
from tests.redis.places import RedisCluster, any_binary, start_cluster
from tests.redis.proxy import Fate, Proxy, proxied
from tests.redis.test_topologies import owns
from tests.servers import RedisServer
from tests.service.replica import ENDED, Replica, refused, replica

LIMIT_SECONDS = 40.0
SHARDS = 6


class Parted:
    """A cluster of which one node is to go away, with a topic in each node."""

    def __init__(self, cluster: RedisCluster) -> None:
        self.cluster = cluster
        self.url = f"{cluster.url}?shards={SHARDS}&timeout=2&start=1"
        self._shards = Shards(SHARDS, "")
        self._slots = {node.port: [s for s in range(SHARDS) if owns(node, slot(s))] for node in cluster.nodes}
        self.away = next(node for node in cluster.nodes if self._slots[node.port])
        self.alive = [node for node in cluster.nodes if node is not self.away]

    def topic_in(self, node: RedisServer, name: str = "run") -> str:
        """A topic that lies on this node."""
        numbers = range(10_000)
        return next(
            topic
            for number in numbers
            if self._shards.of(topic := f"default/{name}-{number}") in self._slots[node.port]
        )

    def is_away(self, topic: str) -> bool:
        """Whether the topic lies on the node that goes away."""
        return self._shards.of(topic) in self._slots[self.away.port]

    def topics_in_the_rest(self, name: str) -> list[str]:
        return [self.topic_in(node, name) for node in self.alive if self._slots[node.port]]


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with ExitStack() as stack:
        yield start_cluster(stack, any_binary())


@pytest.fixture
def parted(cluster: RedisCluster) -> Iterator[Parted]:
    cluster.flush()
    parted = Parted(cluster)
    try:
        yield parted
    finally:
        parted.away.resume()


@contextmanager
def paused(server: RedisServer) -> Iterator[None]:
    """It takes connections and answers nothing: the worst way to be away."""
    server.pause()
    try:
        yield
    finally:
        server.resume()


async def left_out(store: Store) -> None:
    """Until the part that is away has been noticed."""
    await store.claim(["nothing"], holder="x", limit=1, lease_seconds=1.0)
    await store.claim(["nothing"], holder="x", limit=1, lease_seconds=1.0)


async def slowest(calls: int, call: object) -> float:
    """Seconds that the slowest of so many calls took."""
    worst = 0.0
    for _ in range(calls):
        began = time.monotonic()
        await call()  # type: ignore[operator]
        worst = max(worst, time.monotonic() - began)
    return worst


async def test_extend_knows_what_answers(parted: Parted) -> None:
    """Leases of living nodes are held, those of the one that is away are UNKNOWN, and held again when it is back."""
    async with open_store(parted.url) as store, asyncio.timeout(LIMIT_SECONDS):
        topics = [parted.topic_in(parted.away), *parted.topics_in_the_rest("run")]
        leases = [(await started(store, topic)).lease for topic in topics]
        gone = Lease(parted.topics_in_the_rest("none")[0], 1, "token")
        with paused(parted.away):
            states = await store.extend([*leases, gone], lease_seconds=LONG_SECONDS)
            held = [LeaseState.HELD] * (len(leases) - 1)
            assert list(states) == [LeaseState.UNKNOWN, *held, LeaseState.LOST]
            with pytest.raises(StoreUnavailable):
                await store.extend(leases[:1], lease_seconds=LONG_SECONDS)

        async def all_held() -> bool:
            return set(await store.extend(leases, lease_seconds=LONG_SECONDS)) == {LeaseState.HELD}

        await eventually(all_held)


async def test_claims_do_not_wait_for_the_dead(parted: Parted) -> None:
    """Once it is noticed that a node is away, a claim of the others takes as long as before, for as long as it is
    away; what lies in it is claimed when it is back."""
    async with open_store(parted.url) as store, asyncio.timeout(LIMIT_SECONDS):
        waits = parted.topic_in(parted.away)
        await start(store, waits)
        with paused(parted.away):
            await left_out(store)
            number = 0

            async def start_and_claim() -> None:
                nonlocal number
                number += 1
                topic = parted.topics_in_the_rest(f"run-{number}")[0]
                await start(store, topic)
                assert (await claim_one(store)).topic == topic

            assert await slowest(30, start_and_claim) < parted_timeout(parted) / 2
        assert (await claim_one(store)).topic == waits


def parted_timeout(parted: Parted) -> float:
    """Of the store's URL: what waits for a silent server takes at least so long."""
    return 2.0


async def test_messages_do_not_wait_for_the_dead(parted: Parted) -> None:
    """They are received and acknowledged where there are any, and sweeping and health continue; what needs every part
    says at once that one is away."""
    async with open_store(parted.url) as store, asyncio.timeout(LIMIT_SECONDS):
        await start(store, parted.topic_in(parted.away), messages=[Message("m", b"away")])
        for topic in parted.topics_in_the_rest("run"):
            await start(store, topic, messages=[Message("m", topic.encode())])
        there = {topic.encode() for topic in parted.topics_in_the_rest("run")}
        received: dict[str, bytes] = {}

        async def receive() -> None:
            deliveries = await store.receive("m", consumer="c", limit=9, lease_seconds=LONG_SECONDS)
            received.update((delivery.message_id, delivery.body) for delivery in deliveries)

        with paused(parted.away):
            await left_out(store)
            assert await slowest(10, receive) < parted_timeout(parted) / 2
            assert set(received.values()) == there
            assert await slowest(1, lambda: store.acknowledge("m", list(received))) < parted_timeout(parted) / 2
            assert await slowest(3, store.sweep) < parted_timeout(parted) / 2
            assert await slowest(3, store.ping) < parted_timeout(parted) / 2
            assert await slowest(3, store.now) < parted_timeout(parted) / 2
            for refused in (
                store.scan("all", fields=[]),
                store.backlog("m"),
                store.heads([parted.topic_in(parted.away)]),
            ):
                began = time.monotonic()
                with pytest.raises(StoreUnavailable):
                    await refused
                assert time.monotonic() - began < parted_timeout(parted) / 2

        async def the_rest_came() -> bool:
            await receive()
            return b"away" in received.values()

        await eventually(the_rest_came)


async def test_acknowledging_does_what_it_can(parted: Parted) -> None:
    """Messages of a part that is away stay, and the caller is told; all others are gone."""
    async with open_store(parted.url) as store, asyncio.timeout(LIMIT_SECONDS):
        for topic in (parted.topic_in(parted.away), *parted.topics_in_the_rest("run")):
            await start(store, topic, messages=[Message("m", topic.encode())])
        ids: list[str] = []
        while len(ids) < 1 + len(parted.topics_in_the_rest("run")):
            ids += [d.message_id for d in await store.receive("m", consumer="c", limit=9, lease_seconds=LONG_SECONDS)]
        with paused(parted.away), pytest.raises(StoreUnavailable):
            await store.acknowledge("m", ids)
        assert await store.backlog("m") in (0, 1)  # the paused one may have found it in its socket
        await store.acknowledge("m", ids)
        assert await store.backlog("m") == 0


async def test_a_store_opens_without_a_part(parted: Parted, caplog: pytest.LogCaptureFixture) -> None:
    """A process that starts while a node is away serves the rest, says so, and serves all of it later. A wrong number
    of shards is noticed all the same."""
    async with open_store(parted.url) as store:
        await start(store, parted.topic_in(parted.away))
    with paused(parted.away):
        async with open_store(parted.url) as store, asyncio.timeout(LIMIT_SECONDS):
            assert "a part is away" in caplog.text
            topic = parted.topics_in_the_rest("new")[0]
            await start(store, topic)
            assert (await claim_one(store)).topic == topic
            parted.away.resume()
            assert (await claim_one(store)).topic == parted.topic_in(parted.away)
    with paused(parted.away), pytest.raises(RunwireError):
        async with open_store(parted.url.replace(f"shards={SHARDS}", f"shards={SHARDS + 1}")):
            pass


async def test_leases_are_kept_beside_a_dead_node(parted: Parted) -> None:
    """The thread that keeps leases opens its store once, and keeps those of the living nodes while one is away for
    several leases; of the others nobody is told anything, and they are revived."""
    opened = 0

    @asynccontextmanager
    async def open_once() -> AsyncIterator[Store]:
        nonlocal opened
        opened += 1
        async with open_store(parted.url) as store:
            yield store

    told: list[LeaseState] = []
    async with open_store(parted.url) as store, asyncio.timeout(LIMIT_SECONDS):
        topics = [parted.topic_in(parted.away), *parted.topics_in_the_rest("run")]
        leases = Leases(store, open_once, lambda lease, state: told.append(state), lease_seconds=1.5)
        claims: list[Claim] = []
        for topic in topics:
            await start(store, topic)
            claims.append(await claim_one(store, lease_seconds=1.5))
        async with leases.keep():
            for claim in claims:
                leases.hold(claim.lease)
            await asyncio.sleep(0.6)  # so that the thread is up
            with paused(parted.away):
                ends = time.monotonic() + 5.0
                while time.monotonic() < ends:
                    assert await store.claim([QUEUE], holder="other", limit=9, lease_seconds=1.0) == []
                    await asyncio.sleep(0.1)

            async def all_held() -> bool:
                states = await store.extend([claim.lease for claim in claims], lease_seconds=1.5)
                return set(states) == {LeaseState.HELD}

            await eventually(all_held)
            assert await store.claim([QUEUE], holder="other", limit=9, lease_seconds=1.0) == []
    assert (opened, told) == (1, [])


async def test_the_idle_check_goes_on_beside_a_dead_node(parted: Parted) -> None:
    """Readers of living nodes are told of what they missed, and are not held up by readers of the dead one."""
    async with open_store(parted.url) as store, asyncio.timeout(LIMIT_SECONDS):
        log = CachingPubSub(store.pubsub, store)
        lies_away, lies_there = parted.topic_in(parted.away), parted.topics_in_the_rest("run")[0]
        for topic in (lies_away, lies_there):
            claim = await started(store, topic)
            await append(store, topic, 1, 1, 1, token=claim.token)
        readers = [log.subscribe_with_replay(topic) for topic in (lies_away, lies_there)]
        for reader in readers:
            await anext(reader)
        with paused(parted.away):
            await left_out(store)
            assert await slowest(3, log.run_once) < parted_timeout(parted) / 2
        for reader in readers:
            await reader.aclose()


# What a server may say


async def answers(store: Store) -> list[tuple[str, object]]:
    """Every call of a store, with what it ended in."""
    lease = Lease("default/run", 1, "token")
    calls = {
        "commit": lambda: store.commit(Commit("default/new", create=True, queue=QUEUE)),
        "append": lambda: append(store, "default/run", 1, 1, 1),
        "read": lambda: store.read("default/run", 0),
        "heads": lambda: store.heads(["default/run"]),
        "trim": lambda: store.trim("default/run", 1),
        "clear": lambda: store.clear("default/other"),
        "now": store.now,
        "get": lambda: store.get("default/run"),
        "scan": lambda: store.scan("all", fields=["a"]),
        "claim": lambda: store.claim([QUEUE], holder="x", limit=1, lease_seconds=1.0),
        "suspects": lambda: store.claim([QUEUE], holder="x", limit=1, lease_seconds=1.0, alone=True),
        "extend": lambda: store.extend([lease], lease_seconds=1.0),
        "receive": lambda: store.receive("m", consumer="c", limit=1, lease_seconds=1.0),
        "acknowledge": lambda: store.acknowledge("m", ["0/1-1"]),
        "backlog": lambda: store.backlog("m"),
        "sweep": store.sweep,
        "ping": store.ping,
    }
    found: list[tuple[str, object]] = []
    for name, call in calls.items():
        try:
            found.append((name, await call()))
        except Exception as error:
            found.append((name, error))
    return found


@pytest.fixture
async def proxy(redis_server: RedisServer, redis_url: str) -> AsyncIterator[Proxy]:
    async with proxied(redis_server.port) as made:
        yield made


@pytest.mark.parametrize(
    "reply",
    [
        b"-ERR max daily request limit exceeded. Limit: 10000, Usage: 10001.\r\n",
        b"-QUOTA no more\r\n",
        b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n",
        b"-NOPROTO\r\n",
        b"-\r\n",
        b"-NOSCRIPT No matching script.\r\n",
        b"-EXECABORT Transaction discarded\r\n",
        b"-ASK 1 nonsense\r\n",
        b"-MOVED\r\n",
        b"-\xff\xfe\xfd\r\n",
    ],
    ids=repr,
)
@pytest.mark.parametrize("shards", [1, 2])
async def test_whatever_a_server_refuses_is_unavailable(proxy: Proxy, reply: bytes, shards: int) -> None:
    """No error reply, known or not, leaves the engine as anything but StoreUnavailable, of no call; and when the server
    has come to itself, everything works."""
    async with open_store(f"{proxy.url}?shards={shards}&timeout=0.2") as store, asyncio.timeout(LIMIT_SECONDS):
        await started(store, "default/run")
        proxy.judge = lambda command: reply if command[0] not in (b"SUBSCRIBE", b"UNSUBSCRIBE") else Fate.PASS
        for name, answer in await answers(store):
            assert isinstance(answer, StoreUnavailable), (name, answer)
        proxy.judge = lambda command: Fate.PASS
        await eventually(lambda: works(store))


async def works(store: Store) -> bool:
    try:
        await store.scan("all", fields=[])
        await store.ping()
    except StoreUnavailable:
        return False
    return True


@pytest.mark.parametrize(
    "reply", [b":1\r\n", b"$3\r\nodd\r\n", b"*2\r\n:1\r\n$1\r\nx\r\n", b"*1\r\n*0\r\n", b"$-1\r\n"], ids=repr
)
async def test_what_is_not_understood_is_unavailable(proxy: Proxy, reply: bytes) -> None:
    """A reply of another shape is the server's fault and nobody else's: a result, or StoreUnavailable, and no other
    exception."""
    async with open_store(f"{proxy.url}?timeout=0.2") as store, asyncio.timeout(LIMIT_SECONDS):
        await started(store, "default/run")
        proxy.judge = lambda command: reply if command[0] in (b"EVALSHA", b"EVAL", b"TIME", b"XLEN") else Fate.PASS
        for name, answer in await answers(store):
            assert not isinstance(answer, Exception) or isinstance(answer, RunwireError), (name, answer)


async def test_a_word_that_cannot_be_sent_shifts_no_reply(proxy: Proxy) -> None:
    """A name that has no UTF-8 is refused before it takes a place among those who wait for replies."""
    async with open_store(proxy.url) as store, asyncio.timeout(LIMIT_SECONDS):
        await start(store, "default/run", puts={"a": b"1"})
        with pytest.raises(UnicodeEncodeError):
            await store.commit(Commit("default/run", puts={"\ud800": b"1"}))
        with pytest.raises(UnicodeEncodeError):
            await store.get("default/\ud800")
        results = await asyncio.gather(
            store.get("default/run"), store.get("default/\ud800"), store.get("default/run"), return_exceptions=True
        )
        assert results[0] == results[2]
        assert results[0].fields == {"a": b"1"}  # type: ignore[union-attr]


# An answer after the time-out


async def test_a_claim_that_answers_too_late_is_handed_back(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a slow shard gives when nobody waits any more is due again at once, and its losses stay as they were."""
    monkeypatch.setattr(client_module, "POLL_PATIENCE_SECONDS", 0.2)
    async with open_store(f"{proxy.url}?shards=2") as store, asyncio.timeout(LIMIT_SECONDS):
        await start(store, "default/run")
        for _ in range(SUSPECT_LOSSES):
            claim = await claim_one(store)
            give_up = Commit("default/run", claim.head.attempt, token=claim.token, schedule=Schedule.LOST)
            await store.commit(give_up)
            await store.commit(Commit("default/run", schedule=Schedule.WAKE))
        proxy.hold = lambda command: b"the late one" in command
        seen: list[Claim] = []

        async def claim_late() -> bool:
            with suppress(StoreUnavailable):
                seen.extend(
                    await store.claim([QUEUE], holder="the late one", limit=1, lease_seconds=LONG_SECONDS, alone=True)
                )
            return proxy.holding.is_set()

        await eventually(claim_late)
        assert seen == []
        proxy.hold = lambda command: False
        proxy.release.set()

        async def claim_after() -> bool:
            with suppress(StoreUnavailable):
                seen.extend(await store.claim([QUEUE], holder="next", limit=1, lease_seconds=LONG_SECONDS, alone=True))
            return bool(seen)

        await eventually(claim_after)
        assert [(claim.losses, claim.alone_losses) for claim in seen] == [(2, 0)]
        assert seen[0].head.attempt == SUSPECT_LOSSES + 2


async def test_messages_that_come_too_late_are_given_to_the_next(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in this consumer's hands: the next call has them, and nobody waits for their lease to end."""
    monkeypatch.setattr(client_module, "POLL_PATIENCE_SECONDS", 0.2)
    async with open_store(f"{proxy.url}?shards=2") as store, asyncio.timeout(LIMIT_SECONDS):
        await start(store, "default/run", messages=[Message("m", b"1")])
        proxy.hold = lambda command: b"c:60000" in command
        try:
            assert await store.receive("m", consumer="c", limit=9, lease_seconds=60.0) == []
        except StoreUnavailable:
            pass  # both shards were slow
        proxy.hold = lambda command: False
        proxy.release.set()

        async def received() -> bool:
            with suppress(StoreUnavailable):
                return bool(await store.receive("m", consumer="c", limit=9, lease_seconds=60.0))
            return False

        await eventually(received)


async def test_a_slow_shard_is_not_shut_out(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that always takes longer than a poll waits gets more time: what lies in it is claimed."""
    monkeypatch.setattr(client_module, "POLL_PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(client_module, "PROBE_SECONDS", 0.05)
    async with open_store(f"{proxy.url}?shards=2") as store, asyncio.timeout(LIMIT_SECONDS):
        await start(store, "default/run")
        proxy.delay_seconds = 0.15

        async def claimed() -> bool:
            try:
                return bool(await store.claim([QUEUE], holder="x", limit=1, lease_seconds=LONG_SECONDS))
            except StoreUnavailable:
                return False

        await eventually(claimed)


async def test_a_loop_that_was_blocked_leaves_nobody_out(
    redis_server: RedisServer, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A tool that blocks the loop for longer than a poll waits says nothing of the shards: claims and health
    continue."""
    async with open_store(f"{redis_url}?shards=3") as store, asyncio.timeout(LIMIT_SECONDS):
        await store.claim([QUEUE], holder="x", limit=1, lease_seconds=1.0)
        for _ in range(3):
            async with asyncio.TaskGroup() as group:
                claiming = group.create_task(answer_of(store.claim([QUEUE], holder="x", limit=1, lease_seconds=1.0)))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                time.sleep(0.8)  # noqa: ASYNC251 - the point
            assert claiming.done()
            await store.ping()
        await start(store, "default/run")
        assert (await claim_one(store)).topic == "default/run"
        assert "left out" not in caplog.text


async def answer_of(call: Awaitable[object]) -> object:
    try:
        return await call
    except StoreUnavailable as error:
        return error


# A slow way up


async def test_a_large_commit_over_a_slow_uplink_is_confirmed(
    redis_server: RedisServer, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A command that takes several time-outs to leave is no silence of the server: it is confirmed, and the connection
    that others share stays."""
    async with proxied(redis_server.port) as proxy, asyncio.timeout(LIMIT_SECONDS):
        link = await connect(Address("127.0.0.1", proxy.port), Access(timeout_seconds=0.5))
        proxy.bytes_a_second = 4 * 1024 * 1024
        large = link.call("SET", "large", bytes(8 * 1024 * 1024))
        async with asyncio.TaskGroup() as group:
            written = group.create_task(large)
            others = [group.create_task(link.call("ECHO", str(number))) for number in range(5)]
        assert written.result() == b"OK"
        assert [task.result() for task in others] == [b"%d" % number for number in range(5)]
        assert not link.lost.done()
        assert "did not answer" not in caplog.text
        link.close()
    redis_server.execute("DEL", "large")


async def test_who_hangs_while_others_write_counts_as_gone(redis_server: RedisServer, redis_url: str) -> None:
    """Bytes that leave behind the command that is owed a reply are no sign of life."""
    async with proxied(redis_server.port) as proxy, asyncio.timeout(LIMIT_SECONDS):
        link = await connect(Address("127.0.0.1", proxy.port), Access(timeout_seconds=0.4))
        proxy.judge = lambda command: Fate.SWALLOW
        replies = [link.send("ECHO", "first")]
        while not link.lost.done():
            replies.append(link.send("ECHO", "another"))
            await asyncio.sleep(0.02)
        results = await asyncio.gather(*replies, return_exceptions=True)
        assert all(isinstance(result, Exception) for result in results)


# One Redis away


async def test_an_outage_longer_than_the_lease_robs_nobody(redis_server: RedisServer, redis_url: str) -> None:
    """Redis is silent for longer than a lease, again and again, while two workers claim and one owns a run: when it is
    back, the run is its owner's, and nothing is counted."""
    lease = 2.0
    async with open_store(f"{redis_url}?timeout=0.5") as store, open_store(f"{redis_url}?timeout=0.5") as other:
        await start(store, "default/run")
        claim = await claim_one(store, lease_seconds=lease, holder="owner")
        told: list[LeaseState] = []
        leases = Leases(
            store, lambda: open_store(f"{redis_url}?timeout=0.5"), lambda _, s: told.append(s), lease_seconds=lease
        )
        leases.hold(claim.lease)
        taken: list[Claim] = []

        async def claim_for_ever(claiming: Store, holder: str) -> None:
            while True:
                try:
                    if holder == "owner":
                        await leases.renew_overdue()
                    taken.extend(
                        await claiming.claim([QUEUE], holder=holder, limit=9, lease_seconds=lease, wait_seconds=0.5)
                    )
                except StoreUnavailable:
                    await asyncio.sleep(0.05)

        async with leases.keep(), asyncio.TaskGroup() as group:
            claiming = [
                group.create_task(claim_for_ever(store, "owner")),
                group.create_task(claim_for_ever(other, "other")),
            ]
            for _ in range(2):
                await asyncio.sleep(0.8)
                with paused(redis_server):
                    await asyncio.sleep(1.3 * lease)
            await asyncio.sleep(0.8)
            for task in claiming:
                task.cancel()
        assert (taken, told) == ([], [])
        assert await extend(store, claim) is LeaseState.HELD


# With a service on top


@pytest.mark.parametrize("away_seconds", [0.6, 4.0], ids=["shorter than the lease", "longer than the lease"])
async def test_a_service_outlives_an_outage(redis_server: RedisServer, redis_url: str, away_seconds: float) -> None:
    """One Redis is silent while two workers are there: the run continues in its first attempt, and no step is begun
    twice."""
    begun: Counter[str] = Counter()
    under_way = asyncio.Event()

    async def note(name: str) -> None:
        begun[name] += 1
        under_way.set()
        await asyncio.sleep(0.4)

    @workflow(id="steps")
    async def steps(ctx: RunContext, input: Any) -> None:
        for number in range(6):
            await ctx.step(f"step {number}", note, f"{input} {number}")

    url = f"{redis_url}?timeout=0.5"
    async with replica(url, steps, lease_seconds=3.0) as it, replica(url, steps, lease_seconds=3.0):
        runs = [(await it.start("steps", f"run {number}")).run_id for number in range(3)]
        await under_way.wait()
        with paused(redis_server):
            await asyncio.sleep(away_seconds)
        ended = [await ended_at_last(it, run_id) for run_id in runs]
    assert {(run.state, len(run.attempts)) for run in ended} == {(run_pb2.RUN_STATE_SUCCEEDED, 1)}
    assert set(begun.values()) == {1}
    assert len(begun) == 18


async def ended_at_last(it: Replica, run_id: str) -> run_pb2.Run:
    """The run, once it has ended; calls may fail until the store is back."""
    found: list[run_pb2.Run] = []

    async def has_ended() -> bool:
        with suppress(grpc.aio.AioRpcError):
            found[:] = [await it.get(run_id)]
        return bool(found) and found[0].state in ENDED

    await eventually(has_ended, LIMIT_SECONDS)
    return found[0]


async def test_a_service_serves_what_is_there(parted: Parted) -> None:
    """A node is away: health is SERVING, runs on the others are done in one attempt, calls for the dead part are
    UNAVAILABLE; runs that lay there continue when it is back."""
    release = asyncio.Event()

    @workflow(id="waits")
    async def waits(ctx: RunContext, input: Any) -> str:
        await release.wait()
        return "done"

    async with replica(parted.url, waits, lease_seconds=2.0) as it:
        runs = [(await it.start("waits", number)).run_id for number in range(12)]
        there = [run_id for run_id in runs if not parted.is_away(f"default/{run_id}")]
        lost = [run_id for run_id in runs if run_id not in there]
        assert there
        assert lost
        with paused(parted.away):
            await asyncio.sleep(4.0)
            refusal = await refused(it.stub.GetRun(pb.GetRunRequest(run_id=lost[0])))
            assert refusal.code is grpc.StatusCode.UNAVAILABLE
            health = await health_pb2_grpc.HealthStub(it.channel).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            release.set()
            # Also those that begin now, when the leases of the dead part have run out long ago.
            there.append(await start_where_it_can(it, "waits"))
            ended = [await it.ended(run_id) for run_id in there]
        ended += [await ended_at_last(it, run_id) for run_id in lost]
    assert {(run.state, len(run.attempts)) for run in ended} == {(run_pb2.RUN_STATE_SUCCEEDED, 1)}


async def start_where_it_can(it: Replica, agent_id: str) -> str:
    """A run that lies in a part that is there."""
    while True:
        with suppress(grpc.aio.AioRpcError):
            return (await it.start(agent_id)).run_id


@pytest.mark.parametrize("reply", [b"-ERR max daily request limit exceeded.\r\n", b":1\r\n"], ids=repr)
async def test_a_service_outlives_an_error_nobody_knows(proxy: Proxy, reply: bytes) -> None:
    """Whatever the server says to everything for longer than a lease: the process lives, health says NOT_SERVING, and
    the run is done in its first attempt when the server has come to itself."""
    release = asyncio.Event()

    @workflow(id="waits")
    async def waits(ctx: RunContext, input: Any) -> str:
        await release.wait()
        return "done"

    async with replica(f"{proxy.url}?timeout=0.3", waits, lease_seconds=3.0) as it:
        run_id = (await it.start("waits")).run_id

        async def running() -> bool:
            return (await it.get(run_id)).state == run_pb2.RUN_STATE_RUNNING

        await eventually(running)
        stub = health_pb2_grpc.HealthStub(it.channel)

        async def not_serving() -> bool:
            answer = await stub.Check(health_pb2.HealthCheckRequest())
            return answer.status == health_pb2.HealthCheckResponse.NOT_SERVING

        answered = (b"SUBSCRIBE", b"UNSUBSCRIBE")
        proxy.judge = lambda command: Fate.PASS if command[0] in answered else reply
        release.set()
        await asyncio.sleep(4.0)
        await eventually(not_serving)
        proxy.judge = lambda command: Fate.PASS
        run = await ended_at_last(it, run_id)
    assert (run.state, len(run.attempts)) == (run_pb2.RUN_STATE_SUCCEEDED, 1)
