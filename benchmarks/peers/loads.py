"""What has no peer to stand beside: Runwire on Redis, worker and server in one process, under loads of other shapes.

Readers are `benchmarks.http2`, in this process: what is measured is the server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import grpc

from benchmarks import http2
from benchmarks.peers.measured import Figures
from benchmarks.processes import cpu_seconds, cpu_seconds_of_all, resident_bytes, service
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc
from runwire.values import to_value

GROWTH: Final = (10, 100, 1000)
"""Concurrent runs that share one rate of events."""
RATE: Final = 1000
"""Events a second of all of them together."""
FULL: Final = (400, 50)
"""Runs, and events a second of each: more than one process can do."""
PROCESSES: Final = (1, 2)
_WATCH: Final = "/runwire.agent.v1.AgentService/WatchRun"
_READERS: Final = 500
_CONNECTIONS: Final = 32
_IDLE_SECONDS: Final = 10


class Stream:
    """One reader: latencies of what it got inside the window, and whether it got everything."""

    def __init__(self) -> None:
        self.cursor = ""
        self.last = 0
        self.whole = True
        self.ended = False
        self.caught_up: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.latencies: list[float] = []
        self.window = (float("inf"), float("-inf"))

    def take(self, data: bytes) -> None:
        now = time.time()
        frame = pb.WatchRunResponse.FromString(data)
        self.cursor = frame.cursor or self.cursor
        for event in frame.batch.events:
            self.whole &= event.sequence == self.last + 1
            self.last = event.sequence
            made = event.create_time.seconds + event.create_time.nanos / 1e9
            if event.HasField("text_delta") and self.window[0] <= made < self.window[1]:
                self.latencies.append(1e3 * (now - made))
        self.ended |= frame.HasField("ended") and frame.ended.last_sequence == self.last
        if frame.HasField("caught_up") and not self.caught_up.done():
            self.caught_up.set_result(None)


def fairness(values: Sequence[float]) -> float:
    """Jain's index: 1 where all are the same, 1/n where one has everything."""
    squares = len(values) * sum(value * value for value in values)
    return sum(values) ** 2 / squares if squares else float("nan")


async def growth(store: str, redis: int, runs: int, rate: float, seconds: float, processes: int = 1) -> Figures:
    """So many runs, `rate` events a second of each, one reader each, in so many processes."""
    async with _serving(store, processes) as (stub, address, pid), _connections(address) as connections:
        lead = 2 + runs / 100
        count = int(rate * (lead / 2 + seconds + 2))
        ids = [await _start(stub, count=count, per_second=rate, lead_seconds=lead) for _ in range(runs)]
        streams = [Stream() for _ in ids]
        ends = _follow(connections, ids, streams)
        await asyncio.gather(*(stream.caught_up for stream in streams))
        await asyncio.sleep(lead + 1)
        begin = time.time()
        for stream in streams:
            stream.window = (begin, begin + seconds)
        used = cpu_seconds_of_all(pid), cpu_seconds(redis)
        await asyncio.sleep(seconds)
        used = cpu_seconds_of_all(pid) - used[0], cpu_seconds(redis) - used[1]
        await asyncio.gather(*ends)
        return {
            **_latency([latency for stream in streams for latency in stream.latencies]),
            "us server": 1e6 * used[0] / (runs * rate * seconds),
            "us redis": 1e6 * used[1] / (runs * rate * seconds),
            "fairness": fairness([sum(each.latencies) / len(each.latencies) for each in streams if each.latencies]),
            "whole": float(all(stream.whole and stream.ended for stream in streams)),
        }


async def opening(store: str) -> Figures:
    """New streams, while as many follow a run that speaks."""
    async with _serving(store) as (stub, address, _), _connections(address) as connections:
        run = await _start(stub, count=50 * 60, per_second=50)
        followers = [Stream() for _ in range(_READERS)]
        _follow(connections, [run], followers)
        await asyncio.gather(*(each.caught_up for each in followers))
        quiet = await _start(stub, count=0, lead_seconds=3600)
        comers, begin = [Stream() for _ in range(_READERS)], time.perf_counter()
        async with _connections(address) as others:
            _follow(others, [quiet], comers)
            await asyncio.gather(*(each.caught_up for each in comers))
            return {"streams/s": _READERS / (time.perf_counter() - begin)}


async def resuming(store: str) -> Figures:
    """All readers of a run that speaks are cut at once, and come back with their cursors."""
    async with _serving(store) as (stub, address, _):
        run = await _start(stub, count=50 * 60, per_second=50)
        streams = [Stream() for _ in range(_READERS)]
        async with _connections(address) as connections:
            _follow(connections, [run], streams)
            await asyncio.gather(*(each.caught_up for each in streams))
            await asyncio.sleep(1)
        begin = time.perf_counter()
        async with _connections(address) as connections:
            for stream in streams:
                stream.caught_up = asyncio.get_running_loop().create_future()
            _follow(connections, [run], streams)
            await asyncio.gather(*(each.caught_up for each in streams))
            seconds = time.perf_counter() - begin
        return {"streams/s": _READERS / seconds, "whole": float(all(each.whole for each in streams))}


async def idle(store: str) -> Figures:
    """Streams on which nothing happens."""
    async with _serving(store) as (stub, address, pid), _connections(address) as connections:
        run, streams = await _start(stub, count=0, lead_seconds=3600), [Stream() for _ in range(10 * _READERS)]
        before = resident_bytes(pid)
        _follow(connections, [run], streams)
        await asyncio.gather(*(each.caught_up for each in streams))
        grown, used = resident_bytes(pid) - before, cpu_seconds(pid)
        await asyncio.sleep(_IDLE_SECONDS)
        share = (cpu_seconds(pid) - used) / _IDLE_SECONDS
        return {"kB a stream": grown / len(streams) / 1e3, "% of a core": 100 * share}


async def run_rate(store: str, count: int = 1000, callers: int = 32) -> Figures:
    """Runs that do nothing, each started and followed to its end before its caller starts the next."""
    async with _serving(store) as (stub, _, pid):
        left, latencies = iter(range(count)), list[float]()

        async def call() -> None:
            for _ in left:
                began = time.perf_counter()
                run = await _start(stub, count=0)
                async for _ in stub.WatchRun(pb.WatchRunRequest(run_id=run)):
                    pass
                latencies.append(1e3 * (time.perf_counter() - began))

        used, begin = cpu_seconds(pid), time.perf_counter()
        await asyncio.gather(*(call() for _ in range(callers)))
        rate = count / (time.perf_counter() - begin)
        return {"runs/s": rate, **_latency(latencies), "us server": 1e6 * (cpu_seconds(pid) - used) / count}


def _latency(latencies: list[float]) -> Figures:
    ordered = sorted(latencies) or [float("nan")]
    return {"p50 ms": ordered[len(ordered) // 2], "p99 ms": ordered[int(len(ordered) * 0.99)]}


async def _start(stub: agent_service_pb2_grpc.AgentServiceStub, **load: float) -> str:
    response = await stub.StartRun(pb.StartRunRequest(agent_id="emitter", input=to_value(load)))
    return str(response.run.run_id)


def _follow(
    connections: Sequence[http2.Connection], ids: Sequence[str], streams: Sequence[Stream]
) -> list[asyncio.Future[None]]:
    """Opens them, each after its cursor if it has one."""
    ends = []
    for number, stream in enumerate(streams):
        request = pb.WatchRunRequest(run_id=ids[number % len(ids)])
        if stream.cursor:
            request.cursor = stream.cursor
        connection = connections[number % len(connections)]
        ends.append(connection.watch(_WATCH, request.SerializeToString(), stream.take))
    return ends


@asynccontextmanager
async def _serving(
    store: str, processes: int = 1
) -> AsyncIterator[tuple[agent_service_pb2_grpc.AgentServiceStub, str, int]]:
    settings = {"agents": "benchmarks.agents", "store": store, "concurrency": 2000, "processes": processes}
    with service("agent_service", **settings) as (address, pid):
        async with grpc.aio.insecure_channel(address) as channel:
            yield agent_service_pb2_grpc.AgentServiceStub(channel), address, pid


@asynccontextmanager
async def _connections(address: str) -> AsyncIterator[Sequence[http2.Connection]]:
    made = [await http2.connect(address) for _ in range(_CONNECTIONS)]
    try:
        yield made
    finally:
        for connection in made:
            connection.close()
