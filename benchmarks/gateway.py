"""`make bench-gateway`: readers of one live run by Server-Sent Events, beside the same readers by gRPC.

Prints one line a shape: readers that share (one token), readers that each have a stream of their own (a token each),
readers at the agent service itself, and readers that are all cut at once and come back with their last id. Latency is
from an event's create_time to its arrival, sampled. Compare shapes inside one run; figures drift between runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Final

from benchmarks import streams
from benchmarks.processes import cpu_seconds, resident_bytes, service

_RATE: Final = 20
_SECONDS: Final = 8
_LEAD_SECONDS: Final = 12.0
"""For readers to open their streams before the first event."""
_SAMPLED: Final = 64


class SseReader(asyncio.Protocol):
    """The least that a reader of Server-Sent Events can be: it counts messages and remembers the last id."""

    def __init__(self, path: str, last_id: bytes, latencies: list[float]) -> None:
        self.events = 0
        self.last_id = last_id
        self.opened = asyncio.get_running_loop().create_future()
        self.first = asyncio.get_running_loop().create_future()
        self.ended = asyncio.get_running_loop().create_future()
        self._path = path
        self._latencies = latencies
        self._rest = b""
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        back = b"Last-Event-ID: %b\r\n" % self.last_id if self.last_id else b""
        self._transport.write(
            b"GET %b HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n%b\r\n" % (self._path.encode(), back)
        )

    def data_received(self, data: bytes) -> None:
        if not self.opened.done():
            self.opened.set_result(None)
        *whole, self._rest = (self._rest + data).split(b"\n\n")
        for message in whole:
            place = message.find(b"id: ")
            if place < 0:
                continue
            self.last_id = message[place + 4 : message.index(b"\n", place)]
            if b"event: end" in message:
                self.ended.set_result(None)
                continue
            self.events += 1
            if not self.first.done():
                self.first.set_result(None)
            if self.events % _SAMPLED == 0:
                self._time(message)

    def _time(self, message: bytes) -> None:
        event = json.loads(message[message.index(b"data: ") + 6 :])
        created = datetime.fromisoformat(event["createTime"])
        self._latencies.append(time.time() - created.timestamp())

    def connection_lost(self, error: Exception | None) -> None:
        for each in (self.opened, self.first, self.ended):
            if not each.done():
                each.cancel()

    def cut(self) -> None:
        self._transport.abort()


async def opened(address: str, paths: Sequence[str], last_ids: Sequence[bytes], taken: list[float]) -> list[SseReader]:
    """A reader for each path, with its stream open."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    loop, made = asyncio.get_running_loop(), []
    for path, last_id in zip(paths, last_ids, strict=True):
        _, reader = await loop.create_connection(lambda a=path, b=last_id: SseReader(a, b, taken), host, int(port))
        made.append(reader)
    await asyncio.gather(*(each.opened for each in made))
    return made


def _percentile(latencies: list[float], share: float) -> float:
    ordered = sorted(latencies)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3 if ordered else float("nan")


async def by_sse(agents: str, gateway: str, pids: dict[str, int], readers: int, *, shared: bool) -> None:
    """Readers from before the first event to the end."""
    async with streams._stub(agents) as stub:
        run_id = await streams.start(stub, count=_RATE * _SECONDS, per_second=_RATE, lead_seconds=_LEAD_SECONDS)
    latencies: list[float] = []
    memory = resident_bytes(pids["gateway"])
    begin = time.perf_counter()
    tokens = ["" if shared else f"?access_token=reader-{number}" for number in range(readers)]
    made = await opened(gateway, [f"/v1/runs/{run_id}/events{token}" for token in tokens], [b""] * readers, latencies)
    opening = time.perf_counter() - begin
    before = {name: cpu_seconds(pid) for name, pid in pids.items()}
    await asyncio.gather(*(each.ended for each in made))
    events = sum(each.events for each in made)
    costs = ", ".join(f"{name} {1e6 * (cpu_seconds(pid) - before[name]) / events:.1f}" for name, pid in pids.items())
    print(
        f"{readers} SSE readers, {'shared' if shared else 'each alone'}: {events} events, opened in {opening:.1f} s, "
        f"p50 {_percentile(latencies, 0.5):.0f} ms, p99 {_percentile(latencies, 0.99):.0f} ms, "
        f"us CPU an event: {costs}, "
        f"gateway {(resident_bytes(pids['gateway']) - memory) / readers / 1024:.1f} KiB a reader",
        flush=True,
    )
    for each in made:
        each.cut()


async def by_grpc(agents: str, pid: int, readers: int) -> None:
    """The same readers, at the agent service."""
    async with streams._stub(agents) as stub, streams._readers(agents, 8) as them:
        run_id = await streams.start(stub, count=_RATE * _SECONDS, per_second=_RATE, lead_seconds=_LEAD_SECONDS)
        ends = await them.open([run_id], readers)
        begin = cpu_seconds(pid)
        await asyncio.gather(*ends)
        print(
            f"{readers} gRPC readers: {them.delivered} events, p50 {them.percentile(0.5):.0f} ms, "
            f"p99 {them.percentile(0.99):.0f} ms, us CPU an event: service "
            f"{1e6 * (cpu_seconds(pid) - begin) / them.delivered:.1f}",
            flush=True,
        )


async def coming_back(agents: str, gateway: str, readers: int) -> None:
    """Readers of a live run who are all cut, miss a second of it, and come back at once."""
    async with streams._stub(agents) as stub:
        run_id = await streams.start(stub, count=_RATE * 60, per_second=_RATE, lead_seconds=_LEAD_SECONDS)
    path = f"/v1/runs/{run_id}/events"
    made = await opened(gateway, [path] * readers, [b""] * readers, [])
    await asyncio.gather(*(each.first for each in made))
    last_ids = [each.last_id for each in made]
    for each in made:
        each.cut()
    await asyncio.sleep(1)
    begin = time.perf_counter()
    again = await opened(gateway, [path] * readers, last_ids, [])
    answered = time.perf_counter() - begin
    await asyncio.gather(*(each.first for each in again))
    seconds = time.perf_counter() - begin
    print(f"{readers} SSE readers come back at once: answered after {answered:.1f} s, all continue at {seconds:.1f} s")
    for each in again:
        each.cut()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--readers", type=int, default=2000)
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    readers: int = given.readers
    with (
        service("agent_service", agents="benchmarks.agents", store="memory://", concurrency=100) as (
            agents,
            agents_pid,
        ),
        service("gateway", gateway_agent_address=agents) as (gateway, gateway_pid),
    ):
        pids = {"gateway": gateway_pid, "service": agents_pid}
        asyncio.run(by_grpc(agents, agents_pid, readers))
        asyncio.run(by_sse(agents, gateway, pids, readers, shared=True))
        asyncio.run(by_sse(agents, gateway, pids, min(readers, 500), shared=False))
        asyncio.run(by_sse(agents, gateway, pids, min(readers, 500), shared=True))
        asyncio.run(coming_back(agents, gateway, readers))


if __name__ == "__main__":
    main()
