"""Sentinel, Cluster and TLS, for real: what moves, dies or is encrypted changes nothing for a run."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from runwire.connect import open_store
from runwire.errors import ConfigurationError, Fenced, StoreUnavailable
from runwire.pubsub import Commit, Entry, LeaseState, Message, Schedule, Store
from runwire.redis.link import LinkLost
from runwire.redis.topology import slot, tag
from runwire.redis.url import parse
from tests.conformance.logs import (
    LONG_SECONDS,
    QUEUE,
    append,
    appending,
    claim_one,
    event,
    extend,
    fields,
    read_all,
    start,
    started,
)
from tests.redis.places import (
    any_binary,
    binary_of_this_machine,
    start_cluster,
    start_node,
    wait_until,
)
from tests.redis.proxy import proxied
from tests.servers import (
    RedisBinary,
    RedisSentinel,
    RedisServer,
    free_port,
    missing,
    program,
    redis_servers,
    start_redis,
)

LIMIT_SECONDS = 40.0
TOPIC = "default/run"


async def persistently(store: Store, first: int, last: int, topic: str = TOPIC) -> None:
    """What a worker does: the same commit again, until the store takes it."""
    while True:
        try:
            await store.commit(appending(topic, 1, first, last))
            return
        except StoreUnavailable:
            continue


# Sentinel


@dataclass
class Watched:
    """A primary and its replica, watched by Sentinels."""

    primary: RedisServer
    replica: RedisServer
    url: str

    def replicated(self, last: int) -> bool:
        """The replica has the log up to this event."""
        return bool(self.replica.execute("HGET", f"{{runwire:0}}:head:{TOPIC}", "last") == b"%d" % last)


@pytest.fixture
def watched() -> Iterator[Watched]:
    kind = any_binary()
    with ExitStack() as stack:
        primary = stack.enter_context(start_redis(kind, "--repl-diskless-sync-delay", "0"))
        replica = stack.enter_context(start_redis(kind, "--replicaof", "127.0.0.1", str(primary.port)))
        lines = (
            f"sentinel monitor group 127.0.0.1 {primary.port} 2",
            "sentinel down-after-milliseconds group 500",
            "sentinel failover-timeout group 3000",
        )
        sentinels = [stack.enter_context(RedisSentinel(kind, *lines)).start() for _ in range(3)]
        for sentinel in sentinels:
            wait_until(lambda sentinel=sentinel: b"slaves=1,sentinels=3" in info(sentinel, "sentinel"))
        wait_until(lambda: b"master_link_status:up" in info(replica, "replication"))
        # The first is dead: whoever asks continues to the next.
        hosts = ",".join(f"127.0.0.1:{port}" for port in (free_port(), *(one.port for one in sentinels)))
        yield Watched(primary, replica, f"redis+sentinel://{hosts}/group")


def info(server: RedisServer, section: str) -> bytes:
    """INFO as the server sends it."""
    import redis

    with redis.Redis(port=server.port) as client:
        client.response_callbacks.clear()
        said = client.execute_command("INFO", section)
    assert isinstance(said, bytes)
    return said


async def test_a_fail_over(watched: Watched) -> None:
    """The primary is killed: writers and subscribers continue at the one that the Sentinels choose, without a gap."""
    heard: asyncio.Queue[Entry | None] = asyncio.Queue()
    async with open_store(watched.url) as store, asyncio.timeout(LIMIT_SECONDS):
        await started(store)
        async with store.pubsub.subscribe(TOPIC, heard.put_nowait):
            await append(store, TOPIC, 1, 1, 3)
            assert (await heard.get() or pytest.fail("nothing heard")).last == 3
            await asyncio.to_thread(wait_until, lambda: watched.replicated(3))
            await asyncio.to_thread(watched.primary.kill)
            await persistently(store, 4, 5)
            # Perhaps heard live, perhaps before the subscription was renewed: then it is said to have been missed.
            while (entry := await heard.get()) is not None:
                assert entry.last == 5
            await append(store, TOPIC, 1, 6, 7)
            while (entry := await heard.get()) is None or entry.last != 7:
                pass
        assert await read_all(store, TOPIC) == [event(sequence) for sequence in range(1, 8)]
        assert watched.replica.execute("ROLE")[0] == b"master"


async def test_a_claim_lost_by_a_fail_over() -> None:
    """The replica that takes over has not got a claim, and gives its number out again: of the two owners with one
    attempt the forgotten one writes nothing, extends nothing and ends nothing, also not the other's lease."""
    kind = any_binary()
    with start_redis(kind) as primary, start_redis(kind) as replica:
        replica.execute("REPLICAOF", "127.0.0.1", primary.port)
        async with proxied(primary.port) as proxy, open_store(proxy.url) as store, asyncio.timeout(LIMIT_SECONDS):
            await start(store)
            await asyncio.to_thread(wait_until, lambda: replica.execute("EXISTS", f"{{runwire:0}}:head:{TOPIC}"))
            replica.execute("REPLICAOF", "NO", "ONE")  # what comes now it has not got
            forgotten = await claim_one(store)
            await persistently(store, 1, 2)
            proxy.fail_over(replica.port)
            await store.ping()
            owner = await claim_one(store)
            assert owner.head.attempt == forgotten.head.attempt == 1
            for changes in (
                {"puts": {"journal": b"stale"}},
                {"schedule": Schedule.DUE},
                {"schedule": Schedule.NEVER},
                {"schedule": Schedule.LOST},
            ):
                with pytest.raises(Fenced):
                    await store.commit(Commit(TOPIC, 1, token=forgotten.token, **changes))  # type: ignore[arg-type]
            with pytest.raises(Fenced):
                await store.commit(appending(TOPIC, 1, 3, 4, token=forgotten.token))
            assert await extend(store, forgotten) is LeaseState.LOST
            assert await extend(store, owner) is LeaseState.HELD
            await append(store, TOPIC, 1, 1, 1, token=owner.token)
            assert await fields(store, TOPIC) == {}


async def test_a_group_that_nobody_knows() -> None:
    """A misspelt group is said by its name when the start gives up."""
    with RedisSentinel(any_binary()) as sentinel:
        sentinel.start()
        with pytest.raises(StoreUnavailable, match="'grupo'"):
            async with open_store(f"redis+sentinel://127.0.0.1:{sentinel.port}/grupo?start=0.3"):
                pass


async def test_those_who_are_asked_first_let_nobody_in() -> None:
    """A wrong password for Sentinels or nodes of a cluster is a setting to be corrected, and is shown nowhere."""
    kind = any_binary()
    with ExitStack() as stack:
        node = start_node(stack, kind, "--requirepass", "right")
        sentinel = stack.enter_context(RedisSentinel(kind, "requirepass right")).start()
        for url in (
            f"redis+cluster://:wrong@127.0.0.1:{node.port}",
            f"redis+sentinel://127.0.0.1:{sentinel.port}/group?sentinel_password=wrong",
            f"redis+sentinel://127.0.0.1:{sentinel.port}/group",
        ):
            with pytest.raises(ConfigurationError, match=r"(WRONGPASS|NOAUTH).*127\.0\.0\.1:\d+"):
                async with open_store(url):
                    pass


async def test_what_is_asked_is_something_else() -> None:
    """A plain Redis is neither a Sentinel nor a node of a cluster: said at once."""
    with start_redis(any_binary()) as server:
        for url in (f"redis+cluster://127.0.0.1:{server.port}", f"redis+sentinel://127.0.0.1:{server.port}/group"):
            with pytest.raises(ConfigurationError, match=r"cluster support disabled|SENTINEL"):
                async with open_store(url):
                    pass


@pytest.mark.parametrize("scheme", ["redis+sentinel", "redis+cluster"])
async def test_who_is_silent_is_asked_once_for_all(scheme: str) -> None:
    """Hundreds who want to know where a shard is do not each wait for the same silence, one after the other."""
    asked = 0

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read()  # until the client gives up
        writer.close()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    group = "/group" if scheme == "redis+sentinel" else ""
    port = server.sockets[0].getsockname()[1]
    topology = parse(f"{scheme}://127.0.0.1:{port}{group}?timeout=0.2").topology
    async with server, asyncio.timeout(LIMIT_SECONDS):
        found = await asyncio.gather(*(topology.locate(0) for _ in range(300)), return_exceptions=True)
    assert all(isinstance(one, LinkLost) for one in found)
    assert asked == 1


async def test_a_sentinel_that_knows_no_better() -> None:
    """One that is cut off from the others, and names a primary that is no more, holds nobody up for ever."""
    kind = any_binary()
    with ExitStack() as stack:
        primary = stack.enter_context(start_redis(kind))
        ports = free_port(), primary.port
        lines = [(f"sentinel monitor group 127.0.0.1 {port} 2",) for port in ports]
        sentinels = [stack.enter_context(RedisSentinel(kind, *line)).start() for line in lines]
        hosts = ",".join(f"127.0.0.1:{one.port}" for one in sentinels)
        async with open_store(f"redis+sentinel://{hosts}/group") as store:
            await started(store)


# Cluster

every_cluster = pytest.mark.parametrize(
    "kind", [kind for kind in redis_servers() if kind.name != "redis-6.2"], ids=lambda kind: kind.name
)


@every_cluster
async def test_a_slot_moves_under_a_writer(kind: RedisBinary) -> None:
    """A shard moves to another node while a run is written, scheduled and finished: nothing is lost or doubled."""
    with ExitStack() as stack:
        cluster = start_cluster(stack, kind)
        source = next(node for node in cluster.nodes if owns(node, slot(0)))
        target = next(node for node in cluster.nodes if node is not source)
        async with open_store(cluster.url) as store, asyncio.timeout(LIMIT_SECONDS):
            await started(store)
            progress = asyncio.Semaphore(0)
            stop = asyncio.Event()
            confirmed = 0

            async def write() -> None:
                nonlocal confirmed
                while not stop.is_set():
                    await persistently(store, confirmed + 1, confirmed + 2)
                    confirmed += 2
                    progress.release()

            async def make() -> None:
                number = 0
                while not stop.is_set():
                    try:
                        await start(store, f"default/other-{number}", indexes=["all"], puts={"input": b"x"})
                        number += 1
                    except StoreUnavailable:
                        continue

            async with asyncio.TaskGroup() as group:
                group.create_task(write())
                group.create_task(make())
                for _ in range(20):
                    await progress.acquire()
                await asyncio.to_thread(move_slot, slot(0), source, target)
                before = confirmed
                while confirmed < before + 20:
                    await progress.acquire()
                stop.set()
            assert await read_all(store, TOPIC) == [event(sequence) for sequence in range(1, confirmed + 1)]
            assert owns(target, slot(0))
            # Whatever was created has all its parts: place in the index, in the queue, and fields.
            made = (await store.scan("all", fields=["input"], limit=10_000)).found
            for _ in made:
                claim = await claim_one(store)
                assert claim.fields == {"input": b"x"}


def owns(node: RedisServer, wanted: int) -> bool:
    return bool(node.execute("CLUSTER", "COUNTKEYSINSLOT", wanted) or wanted in slots_of(node))


def slots_of(node: RedisServer) -> range:
    import redis

    with redis.Redis(port=node.port) as client:
        client.response_callbacks.clear()
        for first, last, primary, *_ in client.execute_command("CLUSTER", "SLOTS"):
            if primary[1] == node.port:
                return range(first, last + 1)
    return range(0)


def move_slot(number: int, source: RedisServer, target: RedisServer) -> None:
    """What redis-cli --cluster reshard does."""
    source_id, target_id = (node.execute("CLUSTER", "MYID").decode() for node in (source, target))
    target.execute("CLUSTER", "SETSLOT", number, "IMPORTING", source_id)
    source.execute("CLUSTER", "SETSLOT", number, "MIGRATING", target_id)
    while keys := source.execute("CLUSTER", "GETKEYSINSLOT", number, 3):
        source.execute("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    for node in (target, source):
        node.execute("CLUSTER", "SETSLOT", number, "NODE", target_id)


async def test_a_node_of_a_cluster_dies() -> None:
    """Its shards are unavailable until it comes back with its data; those of other nodes continue."""
    with ExitStack() as stack:
        cluster = start_cluster(stack, any_binary(), "--appendonly", "yes", "--appendfsync", "always")
        async with open_store(f"{cluster.url}?shards=8&timeout=0.5") as store, asyncio.timeout(LIMIT_SECONDS):
            topics = {node.port: topic_of(node) for node in cluster.nodes}
            for topic in topics.values():
                await started(store, topic)
            dead, *alive = sorted(cluster.nodes, key=lambda node: not owns(node, slot(0)))
            await asyncio.to_thread(dead.kill)
            with pytest.raises(StoreUnavailable):
                await append(store, topics[dead.port], 1, 1, 2)
            heard: asyncio.Queue[Entry | None] = asyncio.Queue()
            for node in alive:
                topic = topics[node.port]
                async with listening(store, topic, heard):
                    await append(store, topic, 1, 1, 2)
                    assert (await heard.get() or pytest.fail("nothing heard")).last == 2
            # What looks at all shards finds what there is in these.
            others = {topic_of(node, "other") for node in alive}
            for topic in others:
                await start(store, topic, messages=[Message("m", topic.encode())])
            claims = await store.claim([QUEUE], holder="somebody", limit=9, lease_seconds=LONG_SECONDS)
            assert {claim.topic for claim in claims} == others
            received: set[str] = set()
            while received != others:
                deliveries = await store.receive("m", consumer="c", limit=9, lease_seconds=LONG_SECONDS)
                received |= {delivery.body.decode() for delivery in deliveries}
            await asyncio.to_thread(dead.start)
            for topic in topics.values():
                await persistently(store, 1, 2, topic)
                assert await read_all(store, topic) == [event(1), event(2)]


@asynccontextmanager
async def listening(store: Store, topic: str, heard: asyncio.Queue[Entry | None]) -> AsyncIterator[None]:
    """What a client does: subscribes again until it is told that it is subscribed."""
    while True:
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(store.pubsub.subscribe(topic, heard.put_nowait))
            except StoreUnavailable:
                continue
            yield
            return


async def test_a_node_that_has_left_the_cluster() -> None:
    """A node that is up and knows of no slot is passed over, although it is named first and answers."""
    kind = any_binary()
    with ExitStack() as stack:
        cluster = start_cluster(stack, kind)
        gone = start_node(stack, kind)
        hosts = f"127.0.0.1:{gone.port},127.0.0.1:{cluster.nodes[0].port}"
        async with open_store(f"redis+cluster://{hosts}?shards=8") as store:
            await started(store)


async def test_nodes_that_do_not_know_their_host() -> None:
    """Nodes that name only their ports are found at the host of the one that was asked."""
    with ExitStack() as stack:
        cluster = start_cluster(stack, any_binary(), "--cluster-preferred-endpoint-type", "unknown-endpoint")
        async with open_store(f"redis+cluster://127.0.0.1:{cluster.nodes[0].port}?shards=8") as store:
            for node in cluster.nodes:
                await started(store, topic_of(node))


def topic_of(node: RedisServer, name: str = "") -> str:
    """A topic whose shard, of eight, lies on this node."""
    from zlib import crc32

    mine = slots_of(node)
    topics = (f"default/{name}{number}" for number in range(1000))
    return next(topic for topic in topics if slot(crc32(topic.encode()) % 8) in mine)


# TLS


@dataclass
class Certificates:
    """A private authority, what it signed, and one that it did not."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    other_ca: Path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    openssl = str(program("openssl"))

    def run(*words: str) -> None:
        subprocess.run([openssl, *words], cwd=folder, check=True, capture_output=True)

    # fmt: off
    for ca in ("ca", "other"):
        run("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={ca}",
            "-keyout", f"{ca}.key", "-out", f"{ca}.crt")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in ("server", "client"):
        run("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}",
            "-keyout", f"{name}.key", "-out", f"{name}.csr")
        run("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", f"{name}.crt")
    # fmt: on
    return Certificates(
        *(folder / name for name in ("ca.crt", "server.crt", "server.key", "client.crt", "client.key", "other.crt"))
    )


@dataclass
class TlsServer:
    url: str
    certificates: Certificates


@pytest.fixture
def tls_server(certificates: Certificates) -> Iterator[TlsServer]:
    kind = binary_of_this_machine()
    linked = subprocess.run([str(kind.path), "--tls-port", "0", "--port", "0", "--version"], capture_output=True)
    port = free_port()
    # fmt: off
    options = (
        "--tls-port", str(port), "--tls-ca-cert-file", str(certificates.ca),
        "--tls-cert-file", str(certificates.server), "--tls-key-file", str(certificates.server_key),
    )
    # fmt: on
    try:
        server = start_redis(kind, *options)
    except RuntimeError as error:
        missing("redis-server-with-tls", f"{linked.stdout!r} {error}")
    with server:
        yield TlsServer(f"rediss://127.0.0.1:{port}", certificates)


async def test_tls(tls_server: TlsServer) -> None:
    """Encrypted both ways, live entries too, with the authority and the client's certificate from the URL."""
    files = tls_server.certificates
    url = f"{tls_server.url}?ca={files.ca}&cert={files.client}&key={files.client_key}"
    heard: asyncio.Queue[Entry | None] = asyncio.Queue()
    async with open_store(url) as store, asyncio.timeout(LIMIT_SECONDS):
        await started(store)
        async with store.pubsub.subscribe(TOPIC, heard.put_nowait):
            await append(store, TOPIC, 1, 1, 256)
            assert (await heard.get() or pytest.fail("nothing heard")).last == 256
        assert await read_all(store, TOPIC) == [event(sequence) for sequence in range(1, 257)]


async def test_tls_that_cannot_be_trusted(tls_server: TlsServer) -> None:
    """A server whose certificate another authority signed gets no command, and the reason is said."""
    files = tls_server.certificates
    with pytest.raises(StoreUnavailable, match="certificate verify failed"):
        async with open_store(
            f"{tls_server.url}?ca={files.other_ca}&cert={files.client}&key={files.client_key}&start=0.5"
        ):
            pass


async def test_tls_without_a_client_certificate(tls_server: TlsServer) -> None:
    """A server that asks for one lets nobody in without."""
    with pytest.raises(StoreUnavailable):
        async with open_store(f"{tls_server.url}?ca={tls_server.certificates.ca}&start=0.5"):
            pass


def test_shards_have_tags() -> None:
    """Names in braces are what a cluster hashes: all keys of a shard lie together."""
    assert tag(3) == "{runwire:3}"
