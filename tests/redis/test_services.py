"""Two agent services on one Redis that is killed under them: every reader gets exactly the log, through every cut."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack

import grpc
import pytest

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc, run_event_pb2, run_pb2
from runwire.connect import open_store
from runwire.values import to_value
from tests.client.processes import AgentProcess
from tests.conformance.logs import read_all
from tests.servers import RedisBinary, RedisServer, redis_servers, start_redis

Stub = agent_service_pb2_grpc.AgentServiceStub
Event = run_event_pb2.RunEvent

every_binary = pytest.mark.parametrize("kind", redis_servers(), ids=lambda kind: kind.name)
AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL}


class CutReader:
    """Reads a run from its beginning to its end, over connections that it cuts at random frames."""

    def __init__(self, stubs: Sequence[Stub], run_id: str, chance: random.Random) -> None:
        self.cuts = 0
        self._stubs = stubs
        self._run_id = run_id
        self._chance = chance

    async def read(self) -> list[Event]:
        """All events, joined as a client does it that knows nothing but its last cursor."""
        events: list[Event] = []
        cursor = ""
        while True:
            request = (
                pb.WatchRunRequest(run_id=self._run_id, cursor=cursor)
                if cursor
                else pb.WatchRunRequest(run_id=self._run_id)
            )
            request.max_batch_size = self._chance.choice([1, 7, 64, 256])
            call = self._chance.choice(self._stubs).WatchRun(request)
            frames_left = self._chance.randrange(1, 30)
            try:
                async for frame in call:
                    events += frame.batch.events
                    cursor = frame.cursor or cursor
                    if frame.HasField("ended"):
                        assert frame.ended.last_sequence == len(events)
                        assert frame.ended.state == run_pb2.RUN_STATE_SUCCEEDED
                        return events
                    frames_left -= 1
                    if not frames_left:
                        self.cuts += 1
                        call.cancel()
                        break
            except grpc.aio.AioRpcError as error:
                if error.code() not in AGAIN:
                    raise
                await asyncio.sleep(self._chance.uniform(0.01, 0.1))  # the client's back-off
            except asyncio.CancelledError:
                if not call.cancelled():
                    raise


async def cut(kind: RedisBinary, *, events: int, cuts: int, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    with ExitStack() as processes:
        redis = processes.enter_context(start_redis(kind, "--appendonly", "yes", "--appendfsync", "always"))
        services = [processes.enter_context(AgentProcess(store=redis.url)) for _ in range(2)]
        await asyncio.gather(*(asyncio.to_thread(service.start) for service in services))
        async with AsyncExitStack() as stack:
            channels = [grpc.aio.insecure_channel(service.address) for service in services]
            stubs = [Stub(await stack.enter_async_context(channel)) for channel in channels]
            started = await stubs[0].StartRun(
                pb.StartRunRequest(agent_id="ticker", input=to_value({"count": events, "interval_ms": 1.0}))
            )
            run_id = started.run.run_id
            readers = [CutReader(stubs, run_id, random.Random(chance.random())) for _ in range(4)]
            async with asyncio.TaskGroup() as group:
                live = [group.create_task(reader.read()) for reader in readers]
                group.create_task(kill_again_and_again(redis, kills, chance))
            read = [task.result() for task in live]
            while sum(reader.cuts for reader in readers) < cuts:
                read += await asyncio.gather(*(reader.read() for reader in readers))
            listed = await list_all(stubs[1], run_id)
        async with open_store(redis.url) as store:
            stored = await read_all(store, f"default/{run_id}")
    assert [event.sequence for event in listed] == list(range(1, len(listed) + 1))
    assert sum(event.HasField("text_delta") for event in listed) == events
    assert [Event.FromString(event) for event in stored] == listed
    for one in read:
        assert one == listed


async def kill_again_and_again(redis: RedisServer, kills: int, chance: random.Random) -> None:
    for _ in range(kills):
        await asyncio.sleep(chance.uniform(0.1, 0.6))  # anywhere in the run
        await asyncio.to_thread(redis.kill)
        await asyncio.sleep(chance.uniform(0.0, 0.3))
        await asyncio.to_thread(redis.start)


async def list_all(stub: Stub, run_id: str) -> list[Event]:
    events: list[Event] = []
    token = ""
    while True:
        page = await stub.ListRunEvents(pb.ListRunEventsRequest(run_id=run_id, page_size=500, page_token=token))
        events += page.events
        token = page.next_page_token
        if not token:
            return events


async def test_cuts_while_redis_is_killed() -> None:
    """40 cuts and a kill: nothing missing, doubled or out of order, to any of two replicas."""
    kind = next(kind for kind in redis_servers() if kind.path)
    async with asyncio.timeout(60):
        await cut(kind, events=400, cuts=40, kills=1, seed=1)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(3))
@every_binary
async def test_two_hundred_cuts_while_redis_is_killed(kind: RedisBinary, seed: int) -> None:
    """The same for a run of 2,000 events, 200 cuts and four kills with `appendfsync always`."""
    await cut(kind, events=2000, cuts=200, kills=4, seed=seed)
