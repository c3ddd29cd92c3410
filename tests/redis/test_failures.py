"""A Redis that is away, refuses, forgets or is killed: an error or a repetition, and never a lost or doubled event."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sized
from contextlib import ExitStack, asynccontextmanager, contextmanager
from typing import Any

import pytest

from runwire.caching_pubsub import CachingPubSub, CaughtUp
from runwire.connect import open_store
from runwire.errors import (
    ConfigurationError,
    CursorAhead,
    CursorEpochMismatch,
    EventsLost,
    RunNotFound,
    StoreUnavailable,
    TopicExists,
)
from runwire.pubsub import Claim, Commit, Entry, Message, Position, Schedule, Store
from runwire.redis.channels import Subscriptions
from runwire.redis.client import Client
from runwire.redis.scripts import CLAIM, Script
from runwire.redis.url import parse
from tests.conformance.logs import (
    LONG_SECONDS,
    QUEUE,
    append,
    appending,
    check,
    event,
    read_all,
    start,
    started,
)
from tests.redis.places import any_binary, start_node
from tests.redis.proxy import Command, Fate, Proxy, once, proxied
from tests.servers import RedisBinary, RedisServer, free_port, on_every_redis, redis_servers, start_redis

LIMIT_SECONDS = 20.0
TOPIC = "default/run"

every_binary = pytest.mark.parametrize("kind", redis_servers(), ids=lambda kind: kind.name)


@pytest.fixture
async def proxy(redis_server: RedisServer, redis_url: str) -> AsyncIterator[Proxy]:
    """A proxy before an empty Redis."""
    async with proxied(redis_server.port) as made:
        yield made


@contextmanager
def said(text: str) -> Iterator[asyncio.Event]:
    """An event that is set when the engine logs `text`."""
    event = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if text in record.getMessage():
                loop.call_soon_threadsafe(event.set)

    logger, listener = logging.getLogger("runwire.redis"), Listener()
    logger.addHandler(listener)
    try:
        yield event
    finally:
        logger.removeHandler(listener)


# At the start


async def test_nobody_there_at_the_start() -> None:
    """After the time that the URL allows: StoreUnavailable that names the address."""
    port = free_port()
    with pytest.raises(StoreUnavailable, match=str(port)):
        async with open_store(f"redis://127.0.0.1:{port}?start=0.3"):
            pass


async def test_a_server_that_comes_late_is_waited_for(proxy: Proxy) -> None:
    """The start is tried again until it succeeds, and the log says so."""
    await proxy.stop()
    opened = asyncio.Event()

    async def open_it() -> None:
        async with open_store(proxy.url) as store:
            await store.ping()
            opened.set()

    async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
        with said("cannot be reached") as warned, said("connected to") as recovered:
            group.create_task(open_it())
            await warned.wait()
            assert not opened.is_set()
            await proxy.start()
            await opened.wait()
            await recovered.wait()


@every_binary
async def test_a_server_that_takes_no_more_clients(kind: RedisBinary) -> None:
    """That passes, and is no wrong setting: the start waits for a place, and gives up in time."""
    with start_redis(kind, "--maxclients", "4") as server, ExitStack() as taken:
        for _ in range(4):
            taken.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        with pytest.raises(StoreUnavailable, match=r"as many clients|lost"):
            async with open_store(f"{server.url}?start=0.3"):
                pass
        async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
            with said("trying again") as refused:
                opening = group.create_task(opened(server.url))
                await refused.wait()
            taken.close()
        assert opening.done()


async def opened(url: str) -> None:
    async with open_store(url) as store:
        await store.ping()


async def test_wrong_credentials(caplog: pytest.LogCaptureFixture) -> None:
    """A setting to be corrected, so there is no point in trying again; the password is shown nowhere."""
    with start_redis(any_binary(), "--requirepass", "right-one") as server:
        for credentials in (":wrong-one@", "nobody:wrong-one@", ""):
            with pytest.raises(ConfigurationError) as caught:
                async with open_store(f"redis://{credentials}127.0.0.1:{server.port}"):
                    pass
            assert "wrong-one" not in str(caught.value) + caplog.text
        async with open_store(f"redis://:right-one@127.0.0.1:{server.port}") as store:
            await store.ping()


@pytest.mark.parametrize("quotes", ["'user' 'hidden' ", "`user`, `hidden`, ", "'user' 'hid"])
async def test_a_server_that_does_not_know_auth(proxy: Proxy, quotes: str, caplog: pytest.LogCaptureFixture) -> None:
    """It repeats what it was told, and what this client says of it does not."""
    proxy.judge = once(b"-ERR unknown command 'AUTH', with args beginning with: %s\r\n" % quotes.encode(), b"AUTH")
    with pytest.raises(ConfigurationError, match="unknown command 'AUTH'") as caught:
        async with open_store(proxy.url.replace("://", "://user:hidden@")):
            pass
    assert "hid" not in str(caught.value) + caplog.text


@pytest.mark.parametrize("text", ["ERR unknown command 'INFO', with args beginning with: 'memory'", "NOPERM no INFO"])
async def test_a_server_without_info(proxy: Proxy, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whether it is forbidden or taken out, it is a warning and not the end of the start."""
    proxy.judge = lambda command: f"-{text}\r\n".encode() if command[0] == b"INFO" else Fate.PASS
    async with open_store(proxy.url) as store:
        await started(store)
    assert "could not be checked" in caplog.text


@on_every_redis
async def test_the_number_of_shards_is_fixed(redis_url: str) -> None:
    """Data written with one number is refused with another: half of the topics would not be found."""
    async with open_store(f"{redis_url}?shards=3") as store:
        await start(store)
    with pytest.raises(ConfigurationError, match=r"\?shards=3"):
        async with open_store(redis_url):
            pass
    async with open_store(f"{redis_url}?prefix=other:") as store:
        assert await store.get(TOPIC) is None


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru"])
async def test_eviction_is_warned_of(policy: str, caplog: pytest.LogCaptureFixture) -> None:
    """A server that throws data away when it is full is used, with a warning of what is at risk, or refused."""
    with start_redis(any_binary(), "--maxmemory-policy", policy, "--appendonly", "yes") as server:
        async with open_store(server.url):
            pass
        assert policy in caplog.text
        assert "appendonly" not in caplog.text
        with pytest.raises(ConfigurationError, match="noeviction"):
            async with open_store(f"{server.url}?strict=true"):
                pass


async def test_no_append_only_file_is_warned_of(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """A server that forgets at a restart is used, with a warning, or refused."""
    async with open_store(redis_url):
        pass
    assert "appendonly is off" in caplog.text
    with pytest.raises(ConfigurationError, match="appendonly"):
        async with open_store(f"{redis_url}?strict=true"):
            pass


async def test_a_safe_server_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """With `noeviction` and an append-only file there is nothing to say, also where strictness is asked for."""
    with start_redis(any_binary(), "--appendonly", "yes") as server:
        async with open_store(f"{server.url}?strict=true"):
            pass
    assert not [record for record in caplog.records if record.name.startswith("runwire")]


async def test_what_cannot_be_checked_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """Managed servers forbid some commands: then safety is not assumed but said to be unknown."""
    with start_redis(any_binary()) as server:
        server.execute("ACL", "SETUSER", "limited", "on", ">pw", "~*", "&*", "+@all", "-info", "-config")
        url = f"redis://limited:pw@127.0.0.1:{server.port}"
        async with open_store(url) as store:
            await started(store)
        assert "could not be checked" in caplog.text
        with pytest.raises(ConfigurationError, match="could not be checked"):
            async with open_store(f"{url}?strict=true"):
                pass


async def test_the_wrong_kind_of_server() -> None:
    """A cluster node behind redis:// would fail at some commands; it is refused at once."""
    with ExitStack() as stack:
        server = start_node(stack, any_binary())
        with pytest.raises(ConfigurationError, match="redis\\+cluster"):
            async with open_store(server.url):
                pass


async def test_a_server_that_is_too_old(proxy: Proxy) -> None:
    """Said at once: later it would be an unknown command in the middle of a run."""
    version = b"redis_version:6.0.16\r\n"
    proxy.judge = once(b"$%d\r\n%s\r\n" % (len(version), version), b"INFO")
    with pytest.raises(ConfigurationError, match=r"6\.0\.16"):
        async with open_store(proxy.url):
            pass


# In the middle of a commit


@pytest.mark.parametrize("fate", [Fate.LOSE_COMMAND, Fate.LOSE_REPLY])
async def test_a_commit_with_events_outlives_its_connection(proxy: Proxy, fate: Fate) -> None:
    """Whether the server took it or not, it is sent again, and its events are there once."""
    async with open_store(proxy.url) as store, asyncio.timeout(LIMIT_SECONDS):
        claim = await started(store)
        await append(store, TOPIC, claim.head.attempt, 1, 2)
        proxy.judge = once(fate, TOPIC.encode(), b"event 3")
        committed = await append(store, TOPIC, claim.head.attempt, 3, 4)
        assert committed.head.last == 4
        await append(store, TOPIC, claim.head.attempt, 5, 5)
        assert await read_all(store, TOPIC) == [event(sequence) for sequence in range(1, 6)]


async def test_a_commit_that_cannot_be_repeated_says_so(proxy: Proxy) -> None:
    """Sent twice, a creation would be refused the second time: the caller is to find out what became of it."""
    async with open_store(proxy.url) as store, asyncio.timeout(LIMIT_SECONDS):
        creation = Commit(TOPIC, create=True, queue="q", schedule=Schedule.DUE)
        proxy.judge = once(Fate.LOSE_REPLY, TOPIC.encode())
        with pytest.raises(StoreUnavailable):
            await store.commit(creation)
        with pytest.raises(TopicExists):
            await store.commit(creation)


async def test_an_outage_longer_than_patience(proxy: Proxy) -> None:
    """StoreUnavailable for all who wait, none of them much longer than the timeout; afterwards all continues."""
    async with open_store(f"{proxy.url}?timeout=0.5") as store, asyncio.timeout(LIMIT_SECONDS):
        claim = await started(store)
        await proxy.stop()
        calls = [store.commit(appending(TOPIC, claim.head.attempt, 1, 2)) for _ in range(50)]
        failed = await asyncio.gather(*calls, store.ping(), return_exceptions=True)
        assert all(isinstance(result, StoreUnavailable) for result in failed)
        await proxy.start()
        await append(store, TOPIC, claim.head.attempt, 1, 2)
        assert await read_all(store, TOPIC) == [event(1), event(2)]


@pytest.mark.parametrize("code", ["LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY"])
async def test_a_passing_refusal_is_waited_out(proxy: Proxy, code: str) -> None:
    """The server did not carry the command out and soon will: the caller notices nothing."""
    async with open_store(proxy.url) as store, asyncio.timeout(LIMIT_SECONDS):
        claim = await started(store)
        proxy.judge = once(f"-{code} not now\r\n".encode(), TOPIC.encode())
        await append(store, TOPIC, claim.head.attempt, 1, 2)
        assert await read_all(store, TOPIC) == [event(1), event(2)]


@pytest.mark.parametrize("code", ["MISCONF", "NOREPLICAS", "OOM", "NOPERM"])
async def test_a_refusal_that_needs_help(proxy: Proxy, code: str) -> None:
    """Somebody has to do something about the server first: StoreUnavailable at once, and not after the timeout."""
    async with open_store(f"{proxy.url}?timeout=600") as store, asyncio.timeout(LIMIT_SECONDS):
        claim = await started(store)
        refusal = f"-{code} not like this\r\n".encode()
        proxy.judge = lambda command: refusal if TOPIC.encode() in command else Fate.PASS
        with pytest.raises(StoreUnavailable, match=code):
            await append(store, TOPIC, claim.head.attempt, 1, 2)
        proxy.judge = lambda command: Fate.PASS
        await append(store, TOPIC, claim.head.attempt, 1, 2)


@on_every_redis
async def test_scripts_are_sent_again(redis_server: RedisServer, redis_url: str) -> None:
    """A server that has forgotten the scripts, as after a restart, gets them again."""
    async with open_store(redis_url) as store:
        claim = await started(store)
        redis_server.execute("SCRIPT", "FLUSH")
        await append(store, TOPIC, claim.head.attempt, 1, 2)
        assert await read_all(store, TOPIC) == [event(1), event(2)]


@on_every_redis
async def test_a_full_server(redis_server: RedisServer, redis_url: str) -> None:
    """It refuses the whole commit, the caller gets StoreUnavailable and may repeat it when there is room. What makes
    room continues: messages are received and acknowledged."""
    async with open_store(redis_url) as store:
        claim = await started(store)
        await store.commit(Commit(TOPIC, messages=[Message("m", b"one"), Message("m", b"two")]))
        await store.receive("m", consumer="a", limit=1, lease_seconds=LONG_SECONDS)
        await append(store, TOPIC, claim.head.attempt, 1, 1)
        commit = appending(TOPIC, claim.head.attempt, 2, 3, puts={"field": b"value"}, deletes=["other"])
        redis_server.execute("CONFIG", "SET", "maxmemory", "1")
        try:
            with pytest.raises(StoreUnavailable, match="OOM"):
                await store.commit(commit)
            with pytest.raises(StoreUnavailable, match="OOM"):
                await store.commit(Commit(TOPIC, deletes=["other"], puts={"field": b"value"}))
            stored = await store.get(TOPIC)
            assert stored is not None
            assert (stored.head.last, stored.fields) == (1, {})
            assert await read_all(store, TOPIC) == [event(1)]
            (second,) = await store.receive("m", consumer="a", limit=10, lease_seconds=LONG_SECONDS)
            await store.acknowledge("m", [second.message_id])
            assert await store.backlog("m") == 1
        finally:
            redis_server.execute("CONFIG", "SET", "maxmemory", "0")
        await store.commit(commit)
        assert await read_all(store, TOPIC) == [event(1), event(2), event(3)]


@every_binary
async def test_a_replica_that_becomes_primary(kind: RedisBinary) -> None:
    """While it takes no writes they wait, and they succeed as soon as it does."""
    with start_redis(kind) as server:
        async with open_store(server.url) as store, asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
            claim = await started(store)
            server.execute("REPLICAOF", "127.0.0.1", free_port())
            with said("READONLY") as refused:
                commit = group.create_task(store.commit(appending(TOPIC, claim.head.attempt, 1, 2)))
                await refused.wait()
            assert not commit.done()
            server.execute("REPLICAOF", "NO", "ONE")
            await commit
            assert await read_all(store, TOPIC) == [event(1), event(2)]


async def test_a_paused_server_is_given_up(redis_server: RedisServer, redis_url: str) -> None:
    """It may have taken the commit before or take it when it continues; repeated, it is there once."""
    with start_redis(any_binary()) as server:
        async with open_store(f"{server.url}?timeout=0.3") as store, asyncio.timeout(LIMIT_SECONDS):
            claim = await started(store)
            server.pause()
            with pytest.raises(StoreUnavailable):
                await append(store, TOPIC, claim.head.attempt, 1, 2)
            server.resume()
            await append(store, TOPIC, claim.head.attempt, 1, 2)
            assert await read_all(store, TOPIC) == [event(1), event(2)]


@every_binary
async def test_killed_in_the_middle_of_writing(kind: RedisBinary) -> None:
    """With `appendfsync always`, kill -9 of the server loses and doubles nothing that was confirmed."""
    with start_redis(kind, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with open_store(server.url) as store, asyncio.timeout(60):
            claim = await started(store)
            confirmed = 0
            progress = asyncio.Semaphore(0)
            stop = asyncio.Event()

            async def write() -> None:
                nonlocal confirmed
                while not stop.is_set():
                    await persistently(store, appending(TOPIC, claim.head.attempt, confirmed + 1, confirmed + 3))
                    confirmed += 3
                    progress.release()

            async with asyncio.TaskGroup() as group:
                group.create_task(write())
                for _ in range(3):
                    for _ in range(10):
                        await progress.acquire()
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)
                stop.set()
            assert await read_all(store, TOPIC) == [event(sequence) for sequence in range(1, confirmed + 1)]


async def persistently(store: Store, commit: Commit) -> None:
    """What a worker does: the same commit again, until the store has an answer."""
    while True:
        try:
            await store.commit(commit)
            return
        except StoreUnavailable:
            continue


# Under live readers


async def follow(runs: CachingPubSub, caught_up: Callable[[Position], object]) -> None:
    """Reads until there is an error, and calls when it has come to the tail."""
    async for item in runs.subscribe_with_replay(TOPIC):
        if isinstance(item, CaughtUp):
            caught_up(item.position)


async def test_subscribers_learn_of_a_lost_connection(proxy: Proxy) -> None:
    """They hear that entries may have been missed, and then new entries again, without subscribing again."""
    heard: asyncio.Queue[Entry | None] = asyncio.Queue()
    async with open_store(proxy.url) as store, asyncio.timeout(LIMIT_SECONDS):
        claim = await started(store)
        async with store.pubsub.subscribe(TOPIC, heard.put_nowait):
            await append(store, TOPIC, claim.head.attempt, 1, 1)
            assert (await heard.get() or pytest.fail("no entry")).last == 1
            proxy.cut()
            assert await heard.get() is None
            await append(store, TOPIC, claim.head.attempt, 2, 2)
            assert (await heard.get() or pytest.fail("no entry")).last == 2


async def test_a_subscription_that_is_not_confirmed(proxy: Proxy) -> None:
    """It is an error in time: a reader that thinks it hears would be deaf."""

    def swallow(command: Command) -> Fate:
        return Fate.SWALLOW if command[0] == b"SUBSCRIBE" else Fate.PASS

    proxy.judge = swallow
    async with open_store(f"{proxy.url}?timeout=0.3") as store, asyncio.timeout(LIMIT_SECONDS):
        with pytest.raises(StoreUnavailable):
            async with store.pubsub.subscribe(TOPIC, lambda entry: None):
                pytest.fail("entered without being subscribed")


async def test_a_subscription_that_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    """A user without channels hears nothing: an error in time, and the log says why."""
    with start_redis(any_binary()) as server:
        server.execute("ACL", "SETUSER", "limited", "on", ">pw", "~*", "resetchannels", "+@all")
        url = f"redis://limited:pw@127.0.0.1:{server.port}?timeout=0.3"
        async with open_store(url) as store, asyncio.timeout(LIMIT_SECONDS):
            with pytest.raises(StoreUnavailable, match="confirm"):
                async with store.pubsub.subscribe(TOPIC, lambda entry: None):
                    pytest.fail("entered without being subscribed")
    assert "NOPERM" in caplog.text


async def test_subscriptions_leave_nothing(redis_url: str) -> None:
    """Whatever was listened to once is forgotten when nobody listens any more: topics come and go for months."""
    async with running(redis_url) as channels, asyncio.timeout(LIMIT_SECONDS):
        async with channels.listen("one", lambda payload: None):
            size = measured(channels)
        for number in range(20):
            async with channels.listen(f"channel {number}", lambda payload: None):
                pass
        async with channels.listen("one", lambda payload: None):
            assert measured(channels) == size


@asynccontextmanager
async def running(url: str) -> AsyncIterator[Subscriptions]:
    client = Client(parse(url))
    channels = Subscriptions(client, LIMIT_SECONDS)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(channels.run())
        yield channels
        task.cancel()
    client.close()


def measured(channels: Subscriptions) -> list[int]:
    """Of everything in it that has a size."""
    return [len(value) for value in vars(channels).values() if isinstance(value, Sized)]


@on_every_redis
async def test_flushed_under_a_live_reader(redis_server: RedisServer, redis_url: str) -> None:
    """EVENTS_LOST for who follows, RUN_NOT_FOUND for who comes; never silence."""
    async with open_store(redis_url) as store, asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
        claim = await started(store)
        await append(store, TOPIC, claim.head.attempt, 1, 3)
        runs = CachingPubSub(store.pubsub, store, check_seconds=0.05)
        checking = group.create_task(runs.run())
        with pytest.raises(EventsLost):
            await follow(runs, lambda position: redis_server.execute("FLUSHALL"))
        with pytest.raises(RunNotFound):
            await runs.get_history(TOPIC)
        with pytest.raises(RunNotFound):
            await append(store, TOPIC, claim.head.attempt, 4, 4)
        checking.cancel()


@on_every_redis
async def test_the_log_alone_is_lost(redis_server: RedisServer, redis_url: str) -> None:
    """A head that promises events which were evicted is EVENTS_LOST, and not an empty page."""
    async with open_store(redis_url) as store:
        claim = await started(store)
        await append(store, TOPIC, claim.head.attempt, 1, 3)
        redis_server.execute("DEL", f"{{runwire:0}}:log:{TOPIC}")
        with pytest.raises(EventsLost):
            await store.read(TOPIC, 0)
        # What comes after does not cover up the hole.
        await append(store, TOPIC, claim.head.attempt, 4, 5)
        with pytest.raises(EventsLost):
            await store.read(TOPIC, 0)


@on_every_redis
async def test_rolled_back_under_a_live_reader(redis_server: RedisServer, redis_url: str) -> None:
    """A fail-over to a replica that lagged: readers who saw more than it has are told, now and later."""
    names = [f"{{runwire:0}}:{kind}:{TOPIC}" for kind in ("head", "log")]
    async with open_store(redis_url) as store, asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
        claim = await started(store)
        attempt = claim.head.attempt
        await append(store, TOPIC, attempt, 1, 3)
        lagging = [redis_server.execute("DUMP", name) for name in names]
        await append(store, TOPIC, attempt, 4, 6)
        runs = CachingPubSub(store.pubsub, store, check_seconds=0.05)
        checking = group.create_task(runs.run())
        seen: list[Position] = []

        def roll_back(position: Position) -> None:
            seen.append(position)
            for name, dump in zip(names, lagging, strict=True):
                redis_server.execute("RESTORE", name, 0, dump, "REPLACE")

        with pytest.raises(EventsLost):
            await follow(runs, roll_back)
        (position,) = seen
        assert position.sequence == 6
        with pytest.raises(CursorAhead):
            await runs.get_history(TOPIC, position)
        # The successor writes other events in their place.
        await store.commit(appending(TOPIC, attempt, 4, 7, "anew", previous=check(3)))
        with pytest.raises(CursorEpochMismatch):
            await runs.get_history(TOPIC, position)
        checking.cancel()


async def test_a_cancelled_claim_is_handed_back(proxy: Proxy) -> None:
    """A worker that is stopped while it claims keeps nobody waiting for its lease to end."""
    async with open_store(proxy.url) as store, asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
        await start(store, queue="first")
        assert (
            await store.claim(["none"], holder="somebody", limit=1, lease_seconds=LONG_SECONDS) == []
        )  # the script is known now
        claiming = group.create_task(store.claim(["first"], holder="somebody", limit=1, lease_seconds=LONG_SECONDS))
        await asyncio.sleep(0)  # the command is on its way, and nobody waits for its reply
        claiming.cancel()
        claims = await store.claim(
            ["first"], holder="somebody", limit=1, lease_seconds=LONG_SECONDS, wait_seconds=LIMIT_SECONDS
        )
        assert [claim.head.attempt for claim in claims] == [2]
        assert claims[0].losses == 0


async def test_a_claim_cancelled_between_shards_is_handed_back(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one shard has given already, while another has not answered yet, goes back too."""
    poll, given = Client.poll, asyncio.Event()

    async def hold(self: Client, script: Script, shard: int, *args: Any, **options: Any) -> object:
        if script is CLAIM and shard == 1:
            await asyncio.Event().wait()
        reply = await poll(self, script, shard, *args, **options)
        if script is CLAIM:
            given.set()
        return reply

    async with open_store(f"{redis_url}?shards=2") as store, asyncio.timeout(LIMIT_SECONDS):
        for number in range(10):
            await start(store, f"default/{number}")
        with monkeypatch.context() as patch:
            patch.setattr(Client, "poll", hold)
            async with asyncio.TaskGroup() as group:
                claiming = group.create_task(
                    store.claim([QUEUE], holder="somebody", limit=10, lease_seconds=LONG_SECONDS)
                )
                await given.wait()
                claiming.cancel()
        claims: list[Claim] = []
        while len(claims) < 10:
            claims += await store.claim(
                [QUEUE], holder="somebody", limit=10, lease_seconds=LONG_SECONDS, wait_seconds=LIMIT_SECONDS
            )
        assert {claim.losses for claim in claims} == {0}
        assert {claim.head.attempt for claim in claims} == {1, 2}
