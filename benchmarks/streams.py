"""`make bench`: live streams of one agent service process on the memory engine, with readers in another process.

Prints one line a shape. Latency is from the event's create_time to its arrival in the reader, both on this machine's
clock. Figures drift from run to run: compare shapes inside one run.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc

from benchmarks import http2
from benchmarks.processes import cpu_seconds, resident_bytes, service
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc, run_event_pb2
from runwire.values import to_value

_SECONDS = 6
_IDLE_SECONDS = 20
"""Two heartbeats: less would count one of them or none."""
_RATE = 50
_WATCH = "/runwire.agent.v1.AgentService/WatchRun"
_OPENED, _BATCH, _ENDED = (number << 3 | 2 for number in (2, 3, 8))
_FRAME_EVENTS = 4
"""Events of a run beside its texts: started, step started, step finished, finished."""


class Readers:
    """Many streams in one process. Frames stay bytes, and only every eighth batch is parsed and timed: what is
    measured is the server."""

    def __init__(self, connections: Sequence[http2.Connection]) -> None:
        self._connections = connections
        self.latencies: list[float] = []
        self.delivered = 0
        """Last sequences of the streams that have ended."""
        self.opened = 0
        self._batches = 0
        self._all_opened = asyncio.Event()

    async def open(self, run_ids: Sequence[str], streams: int) -> list[asyncio.Future[None]]:
        """Opens streams and returns, with their ends, once each has said that it is open."""
        ends = [self.follow(n, run_ids[n % len(run_ids)]) for n in range(streams)]
        while self.opened < streams:
            self._all_opened.clear()
            await self._all_opened.wait()
        return ends

    def follow(self, number: int, run_id: str) -> asyncio.Future[None]:
        """Opens a stream; done at its end."""
        request = pb.WatchRunRequest(run_id=run_id).SerializeToString()
        return self._connections[number % len(self._connections)].watch(_WATCH, request, self._take)

    def _take(self, frame: bytes) -> None:
        tag = frame[2 + frame[1]]  # the byte after the cursor says which frame it is
        if tag == _BATCH:
            self._batches += 1
            if self._batches % 8 == 0:
                self._time(pb.WatchRunResponse.FromString(frame).batch.events)
        elif tag == _OPENED:
            self.opened += 1
            self._all_opened.set()
        elif tag == _ENDED:
            self.delivered += pb.WatchRunResponse.FromString(frame).ended.last_sequence

    def _time(self, events: Sequence[run_event_pb2.RunEvent]) -> None:
        now = time.time()
        for event in events:
            if event.HasField("text_delta"):
                self.latencies.append(now - event.create_time.seconds - event.create_time.nanos / 1e9)

    def percentile(self, share: float) -> float:
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3 if ordered else float("nan")


async def start(stub: agent_service_pb2_grpc.AgentServiceStub, **load: float) -> str:
    response = await stub.StartRun(pb.StartRunRequest(agent_id="emitter", input=to_value(load)))
    return str(response.run.run_id)


async def fan_out(address: str, pid: int, runs: int, readers_each: int) -> None:
    """Runs at a steady rate, each followed by some readers."""
    async with _stub(address) as stub, _readers(address, 8) as readers:
        count = _SECONDS * _RATE
        ids = [await start(stub, count=count, per_second=_RATE, lead_seconds=4) for _ in range(runs)]
        begin = cpu_seconds(pid)
        await asyncio.gather(*(readers.follow(number, ids[number % runs]) for number in range(runs * readers_each)))
        expected = (count + _FRAME_EVENTS) * runs * readers_each
        print(
            f"{runs:>4} runs x {_RATE}/s, {readers_each:>4} readers each: {readers.delivered} of {expected} events, "
            f"p50 {readers.percentile(0.5):.1f} ms, p99 {readers.percentile(0.99):.1f} ms, "
            f"server {1e6 * (cpu_seconds(pid) - begin) / expected:.0f} us CPU an event delivered"
        )


async def replay(address: str, count: int) -> None:
    """A long run, read from its beginning by a client that parses every event."""
    async with _stub(address) as stub:
        run_id = await start(stub, count=count)
        async for _ in stub.WatchRun(pb.WatchRunRequest(run_id=run_id)):
            pass
        for _ in range(3):
            events, begin, first = 0, time.perf_counter(), 0.0
            async for frame in stub.WatchRun(pb.WatchRunRequest(run_id=run_id)):
                events += len(frame.batch.events)
                first = first or (time.perf_counter() - begin if events else 0.0)
            rate = events / (time.perf_counter() - begin)
            print(f"replay of {events} events: {rate / 1e3:.0f} k events/s, first event after {first * 1e3:.1f} ms")


async def idle(address: str, pid: int, streams: int) -> None:
    """Streams on which nothing happens."""
    async with _stub(address) as stub, _readers(address, 20) as readers:
        ids = [await start(stub, count=0, lead_seconds=3600) for _ in range(20)]
        before, begin = resident_bytes(pid), time.perf_counter()
        await readers.open(ids, streams)
        seconds = time.perf_counter() - begin
        after, cpu = resident_bytes(pid), cpu_seconds(pid)
        await asyncio.sleep(_IDLE_SECONDS)
        share = (cpu_seconds(pid) - cpu) / _IDLE_SECONDS
        print(
            f"{streams} idle streams: opened in {seconds:.1f} s, {(after - before) / streams / 1024:.1f} KiB each, "
            f"{share:.1%} of a core"
        )


async def opening(address: str, streams: int) -> None:
    """New streams while 500 readers follow a run."""
    async with _stub(address) as stub, _readers(address, 4) as followers, _readers(address, 4) as comers:
        run_id = await start(stub, count=_RATE * 30, per_second=_RATE)
        await followers.open([run_id], 500)
        quiet = await start(stub, count=0, lead_seconds=3600)
        begin = time.perf_counter()
        await comers.open([quiet], streams)
        print(f"opening while 500 readers follow: {streams / (time.perf_counter() - begin):.0f} streams/s")


@asynccontextmanager
async def _stub(address: str) -> AsyncIterator[agent_service_pb2_grpc.AgentServiceStub]:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options) as channel:
        yield agent_service_pb2_grpc.AgentServiceStub(channel)


@asynccontextmanager
async def _readers(address: str, connections: int) -> AsyncIterator[Readers]:
    made = [await http2.connect(address) for _ in range(connections)]
    try:
        yield Readers(made)
    finally:
        for connection in made:
            connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", default="memory://")
    parser.add_argument("--only", choices=["one", "many", "replay", "idle", "opening"])
    given = parser.parse_args()
    shapes = {
        "replay": lambda address, pid: replay(address, 100_000),
        "one": lambda address, pid: fan_out(address, pid, 1, 1000),
        "many": lambda address, pid: fan_out(address, pid, 400, 1),
        "opening": lambda address, pid: opening(address, 500),
        "idle": lambda address, pid: idle(address, pid, 10_000),
    }
    print(f"store {given.store}")
    for name, shape in shapes.items():
        if given.only in (None, name):
            with service("agent_service", agents="benchmarks.agents", store=given.store, concurrency=2000) as (
                address,
                pid,
            ):
                asyncio.run(shape(address, pid))


if __name__ == "__main__":
    main()
