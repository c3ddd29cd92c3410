"""How often gRPC wakes the event loop."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Iterator

import grpc
import pytest

from agent_service.process import event_loop
from runwire import wakeups
from tests.servers import MISSING


class PollerCompletionQueue:
    """As gRPC's: takes a byte a turn, and all that is in the queue."""

    def __init__(self) -> None:
        self.reader, self.writer = socket.socketpair()
        self.reader.setblocking(False)
        self.queue: list[int] = []
        self.taken: asyncio.Queue[list[int]] = asyncio.Queue()

    def put(self, *items: int) -> None:
        for item in items:
            self.queue.append(item)
            self.writer.send(b"1")

    def handle_events(self, _: asyncio.AbstractEventLoop) -> None:
        self.reader.recv(1)
        self.taken.put_nowait(self.queue)
        self.queue = []

    def close(self) -> None:
        self.reader.close()
        self.writer.close()


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[asyncio.AbstractEventLoop]:
    if request.param == "uvloop" and event_loop.uvloop_loop is None:
        pytest.skip(f"{MISSING} uvloop: not installed")
    monkeypatch.setenv("RUNWIRE_EVENT_LOOP", request.param)
    made = event_loop._new_loop()
    yield made
    made.close()


def test_one_turn_for_all_that_is_done(loop: asyncio.AbstractEventLoop) -> None:
    """A hundred things that are done cost one turn, and what comes later wakes the loop again."""
    queue = PollerCompletionQueue()

    async def work() -> None:
        with wakeups.bundled(loop):
            loop.add_reader(queue.reader, functools.partial(queue.handle_events, loop))
        async with asyncio.timeout(5):
            queue.put(*range(100))
            assert await queue.taken.get() == list(range(100))
            queue.put(100)
            assert await queue.taken.get() == [100]
        assert queue.taken.empty()
        loop.remove_reader(queue.reader)

    loop.run_until_complete(work())
    queue.close()


def test_other_readers_are_left_as_they_are(loop: asyncio.AbstractEventLoop) -> None:
    """Whoever else watches a socket meanwhile finds in it what was sent."""
    mine, other = socket.socketpair()
    found: asyncio.Queue[bytes] = asyncio.Queue()

    async def work() -> None:
        with wakeups.bundled(loop):
            loop.add_reader(mine, lambda: found.put_nowait(mine.recv(10)))
        other.send(b"all of it")
        async with asyncio.timeout(5):
            assert await found.get() == b"all of it"
        loop.remove_reader(mine)

    loop.run_until_complete(work())
    mine.close()
    other.close()


def test_the_grpc_of_this_environment_is_read_so(
    loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real server is read by AllAtOnce: else it would be slower after an upgrade, and nobody would notice."""
    made: list[int] = []
    begin = wakeups.AllAtOnce.__init__

    def noted(self: wakeups.AllAtOnce, number: int, handle: functools.partial[object]) -> None:
        made.append(number)
        begin(self, number, handle)

    monkeypatch.setattr(wakeups.AllAtOnce, "__init__", noted)

    async def work() -> None:
        with wakeups.bundled(loop):
            server = grpc.aio.server()
        assert server.add_insecure_port("127.0.0.1:0")
        await server.start()
        await server.stop(None)

    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(work())
    finally:
        asyncio.set_event_loop(None)
    assert len(made) == 1
