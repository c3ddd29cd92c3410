"""A guard against getting slower: what the parts of the live path cost beside plain commands that do only what must be.

    make bench-quick        under 90 s, on any machine that is not too busy

Prints processor time as multiples of the plain command's, measured in turn in the same process, so that neither the
machine nor what else runs on it matters much. Beside each stands what it was at the last release: a multiple that has
grown by a third is worth a profile.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from statistics import median
from typing import Any, Final

import grpc
import redis.asyncio

from agent_service.log.writer import LogWriter
from benchmarks.processes import cpu_seconds, service
from runwire import frames
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc, run_event_pb2
from runwire.batch import Batch
from runwire.caching_pubsub import CachingPubSub
from runwire.connect import open_store
from runwire.pubsub import Claim, Commit, Head, Schedule, Store
from runwire.values import to_value
from tests.servers import RedisServer, redis_servers, start_redis

_ROUNDS: Final = 5
_EVENT: Final = b"e" * 149
_CHECK: Final = frames.event_check(_EVENT)
_FRAME: Final = frames.frame(_EVENT)
_QUEUE: Final = "quick"

Measure = Callable[[], Awaitable[float]]
"""Microseconds of processor time of one unit of work."""


async def compare(name: str, ours: Measure, plain: Measure, before: float) -> None:
    """In turn, the medians of all rounds."""
    rounds = [(await ours(), await plain()) for _ in range(_ROUNDS)]
    ratio = median(mine for mine, _ in rounds) / median(theirs for _, theirs in rounds)
    print(f"{name:<74} {ratio:5.1f} x   at the last release {before:5.1f} x", flush=True)


async def _timed(work: Awaitable[object], units: int) -> float:
    begin = time.process_time()
    await work
    return 1e6 * (time.process_time() - begin) / units


class Logs:
    """So many runs, each with a writer and a reader in this process."""

    def __init__(self, store: Store, count: int) -> None:
        self._store = store
        self._log = CachingPubSub(store.pubsub, store)
        self._count = count
        self._claims: list[Claim] = []
        self._sequence = 0
        self._received = 0
        self._wanted = 0
        self._all_there = asyncio.Event()

    async def open(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        for number in range(self._count):
            topic = f"quick/{self._count}-{number}"
            await self._store.commit(Commit(topic, create=True, queue=_QUEUE, schedule=Schedule.DUE))
        while len(self._claims) < self._count:
            self._claims += await self._store.claim([_QUEUE], holder="quick", limit=self._count, lease_seconds=600)
        readers = [group.create_task(self._read(claim.topic)) for claim in self._claims]
        await asyncio.sleep(0.3)
        return readers

    async def _read(self, topic: str) -> None:
        async for item in self._log.subscribe_with_replay(topic, idle_seconds=60):
            if isinstance(item, Batch):
                self._received += item.count
                if self._received >= self._wanted:
                    self._all_there.set()

    async def go_on(self, events: int) -> None:
        """Each commits so many events, one by one, all at once; until their readers have them."""
        for _ in range(events):
            self._sequence += 1
            self._wanted = self._received + self._count
            self._all_there.clear()
            await asyncio.gather(*(self._log.publish(self._commit(claim)) for claim in self._claims))
            await self._all_there.wait()

    def _commit(self, claim: Claim) -> Commit:
        return Commit(
            claim.topic,
            claim.head.attempt,
            token=claim.token,
            first=self._sequence,
            last=self._sequence,
            events=_FRAME,
            check=_CHECK,
            previous=_CHECK if self._sequence > 1 else b"",
        )


async def live(server: RedisServer, count: int, before: float) -> None:
    """From commit to reader, beside the two commands that it takes at least."""
    events = 1000 // count
    async with (
        open_store(server.url) as store,
        asyncio.TaskGroup() as group,
        redis.asyncio.Redis(port=server.port) as one,
    ):
        logs = Logs(store, count)
        readers = await logs.open(group)

        async def plain() -> None:
            for _ in range(events):
                pipe = one.pipeline(transaction=False)
                for number in range(count):
                    pipe.xadd(f"plain-{number}", {"entry": _FRAME})
                    pipe.publish(f"plain-{number}", _FRAME)
                await pipe.execute()

        name = f"a live event from commit to reader, {count} at once / XADD and PUBLISH, redis-py"
        units = events * count
        await compare(name, lambda: _timed(logs.go_on(events), units), lambda: _timed(plain(), units), before)
        for reader in readers:
            reader.cancel()


class _Nowhere:
    """A log that takes everything at once."""

    async def publish(self, commit: Commit) -> None:
        pass


async def emit(before: float) -> None:
    """In the worker, without a store, beside making and serialising the same event."""
    count = 5000
    head = Head("0" * 16, 1, 1, 0, b"", 0, False, 0.0, 0.0)
    log: Any = _Nowhere()
    writer = LogWriter(log, Claim("quick/emit", head, "token", 0, 0, {}, 0.0), time.time)

    async def ours() -> None:
        for _ in range(count):
            await writer.emit(1, text_delta=run_event_pb2.TextDelta(text="x" * 118))
            await asyncio.sleep(0)

    async def plain() -> None:
        for number in range(count):
            event = run_event_pb2.RunEvent(
                sequence=number, attempt=1, step=1, text_delta=run_event_pb2.TextDelta(text="x" * 118)
            )
            event.create_time.GetCurrentTime()
            event.SerializeToString()
            await asyncio.sleep(0)

    running = asyncio.create_task(writer.run())
    name = "an event emitted / the same event serialised"
    await compare(name, lambda: _timed(ours(), count), lambda: _timed(plain(), count), before)
    running.cancel()


async def replay(server: RedisServer, address: str, pid: int, before: float) -> None:
    """What the server takes to send a long run, beside reading its entries by XRANGE and redis-py."""
    count = 50_000
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(redis.asyncio.Redis(port=server.port))
        channel = await stack.enter_async_context(_channel(address))
        stub = agent_service_pb2_grpc.AgentServiceStub(channel)
        load = to_value({"count": count, "size": 118})
        run_id = (await stub.StartRun(pb.StartRunRequest(agent_id="emitter", input=load))).run.run_id

        async def watch() -> None:
            async for _ in stub.WatchRun(pb.WatchRunRequest(run_id=run_id)):
                pass

        await watch()
        (key,) = [key async for key in one.scan_iter(match=f"*log:*{run_id}")]

        async def served() -> float:
            begin = cpu_seconds(pid)
            for _ in range(4):
                await watch()
            return 1e6 * (cpu_seconds(pid) - begin) / (4 * count)

        async def read() -> None:
            after = "-"
            while found := await one.xrange(key, after, count=64):
                after = b"(" + found[-1][0]

        name = "an event replayed over gRPC, in the server / read by XRANGE, redis-py"
        await compare(name, served, lambda: _timed(read(), count), before)


def _channel(address: str) -> Any:
    return grpc.aio.insecure_channel(address, [("grpc.max_receive_message_length", -1)])


async def main() -> None:
    logging.disable(logging.WARNING)
    binary = next(binary for binary in redis_servers() if binary.path is not None)
    server = start_redis(binary)
    try:
        await emit(1.7)
        for count, before in ((1, 0.9), (10, 1.0), (100, 1.3)):
            await live(server, count, before)
        with service("agent_service", agents="benchmarks.agents", store=server.url) as (address, pid):
            await replay(server, address, pid, 3.6)
    finally:
        server.close()


if __name__ == "__main__":
    asyncio.run(main())
