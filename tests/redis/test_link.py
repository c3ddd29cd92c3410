"""The shared connection: replies in order, whatever happens to those who wait for them."""

from __future__ import annotations

import asyncio
import gc
import os

import pytest

from runwire.connect import open_store
from runwire.pubsub import Commit, LeaseState
from runwire.redis.link import Access, Address, LinkLost, ReplyError, connect
from tests.conformance.logs import Inbox, append, extend, read_all, started
from tests.redis.proxy import Command, Fate, once, proxied
from tests.servers import MISSING, RedisServer, on_every_redis

LIMIT_SECONDS = 10.0


def address(server: RedisServer) -> Address:
    return Address("127.0.0.1", server.port)


async def test_many_callers_share_a_round_trip(redis_server: RedisServer) -> None:
    """Commands of one turn of the loop go out together, and each caller gets its own reply."""
    link = await connect(address(redis_server), Access())
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(link.call("ECHO", f"word {number}")) for number in range(500)]
    assert [task.result() for task in tasks] == [f"word {number}".encode() for number in range(500)]
    link.close()


async def test_a_cancelled_call_shifts_no_reply(redis_server: RedisServer) -> None:
    """The reply of a caller that went away is dropped, and not given to the next one."""
    link = await connect(address(redis_server), Access())
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(link.call("ECHO", f"{number}")) for number in range(100)]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
    assert [task.result() for task in tasks if not task.cancelled()] == [
        str(number).encode() for number in range(100) if number % 3
    ]
    assert await link.call("ECHO", "after") == b"after"
    link.close()


async def test_the_reply_of_a_cancelled_call_can_be_used(redis_server: RedisServer) -> None:
    """Whoever claims something can hand it back, although its caller is gone."""
    link = await connect(address(redis_server), Access())
    replies: asyncio.Queue[object] = asyncio.Queue(maxsize=1)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(link.call("ECHO", "claimed", unclaimed=replies.put_nowait))
        await asyncio.sleep(0)
        task.cancel()
    async with asyncio.timeout(LIMIT_SECONDS):
        assert await replies.get() == b"claimed"
    link.close()


async def test_a_refusal_reaches_only_its_caller(redis_server: RedisServer) -> None:
    """An error is one command's; those before and after it succeed."""
    link = await connect(address(redis_server), Access())
    before, wrong, after = link.send("ECHO", "a"), link.send("NONSENSE"), link.send("ECHO", "b")
    assert await before == b"a"
    with pytest.raises(ReplyError) as caught:
        await wrong
    assert caught.value.code == "ERR"
    assert await after == b"b"
    link.close()


async def test_large_values_arrive_whole(redis_server: RedisServer) -> None:
    """Replies of many megabytes come in many pieces, and back-pressure holds up callers, not bytes."""
    link = await connect(address(redis_server), Access())
    value = os.urandom(4 * 1024 * 1024)
    async with asyncio.timeout(LIMIT_SECONDS):
        await asyncio.gather(*(link.call("SET", f"large:{number}", value) for number in range(4)))
        assert await asyncio.gather(*(link.call("GET", f"large:{number}") for number in range(4))) == [value] * 4
        await link.call("DEL", *(f"large:{number}" for number in range(4)))
    link.close()


async def test_a_lost_connection_fails_all_who_wait(redis_server: RedisServer) -> None:
    """Nobody waits for a reply that cannot come, and the connection says that it is gone."""
    async with proxied(redis_server.port) as proxy:
        link = await connect(Address("127.0.0.1", proxy.port), Access())
        proxy.judge = once(Fate.LOSE_REPLY, b"ECHO")
        replies = await asyncio.gather(*(link.call("ECHO", "x") for _ in range(10)), return_exceptions=True)
        assert all(isinstance(reply, LinkLost) for reply in replies)
        async with asyncio.timeout(LIMIT_SECONDS):
            await link.lost
        with pytest.raises(LinkLost):
            await link.call("ECHO", "x")


async def test_a_silent_server_counts_as_gone(redis_server: RedisServer) -> None:
    """A server that owes a reply and sends nothing is given up after the timeout: TCP would wait for minutes."""
    async with proxied(redis_server.port) as proxy:
        link = await connect(Address("127.0.0.1", proxy.port), Access(timeout_seconds=0.2))
        proxy.judge = lambda command: Fate.SWALLOW
        async with asyncio.timeout(LIMIT_SECONDS):
            with pytest.raises(LinkLost):
                await link.call("ECHO", "x")


async def test_a_silent_connection_for_messages_counts_as_gone(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is owed to a subscriber, so it asks for a sign of life from time to time."""
    asked: asyncio.Queue[Command] = asyncio.Queue()

    def listen(command: Command) -> Fate:
        asked.put_nowait(command)
        return Fate.PASS

    async with proxied(redis_server.port) as proxy, asyncio.timeout(LIMIT_SECONDS):
        place = Address("127.0.0.1", proxy.port)
        link = await connect(place, Access(timeout_seconds=0.2), on_message=lambda message: None)
        link.write("SUBSCRIBE", "channel")
        proxy.judge = listen
        assert await asked.get() == [b"SUBSCRIBE", b"channel"]
        assert [await asked.get(), await asked.get()] == [[b"PING"]] * 2
        assert not link.lost.done()
        proxy.judge = lambda command: Fate.SWALLOW
        await link.lost
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_what_is_no_redis_is_given_up() -> None:
    """A server of another protocol is an error in time, and no hang."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server, asyncio.timeout(LIMIT_SECONDS):
        with pytest.raises(LinkLost):
            await connect(Address("127.0.0.1", server.sockets[0].getsockname()[1]), Access())


@pytest.mark.parametrize(
    "text, code",
    [
        ("OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
        (
            "ERR Error running script (call to f_0): @user_script:7: @user_script: 7: "
            "-OOM command not allowed when used memory > 'maxmemory'. ",
            "OOM",
        ),
        ("ERR Error running script (call to f_0): @user_script:7: user_script:7: attempt to index a nil value", "ERR"),
        ("READONLY You can't write against a read only replica.", "READONLY"),
    ],
)
def test_the_code_of_a_refusal(text: str, code: str) -> None:
    """Redis 6.2 wraps what went wrong inside a script."""
    assert ReplyError(text).code == code


@on_every_redis
async def test_under_uvloop(redis_server: RedisServer, redis_url: str) -> None:
    """The engine works on an event loop whose transports are of other classes, also where much is written at once."""
    uvloop = pytest.importorskip("uvloop", reason=f"{MISSING} uvloop: not installed")

    async def work() -> int:
        async with open_store(redis_url) as store, asyncio.timeout(LIMIT_SECONDS):
            heard = Inbox()
            claim = await started(store, "default/uv")
            async with store.pubsub.subscribe("default/uv", heard.deliver):
                await append(store, "default/uv", 1, 1, 3, token=claim.token)
                await heard.until_sequence(3)
            assert await extend(store, claim) is LeaseState.HELD
            await store.commit(Commit("default/uv", 1, token=claim.token, puts={"a": bytes(8 * 1024 * 1024)}))
            return len(await read_all(store, "default/uv"))

    assert await asyncio.to_thread(uvloop.run, work()) == 3
