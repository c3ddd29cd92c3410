"""`make bench-memory`: what one agent service process needs where clients do their worst, and what others notice of it.

Prints one line a shape: the most memory that the process had (VmHWM, with what it had before), and how long another
client's calls took meanwhile. The store is SQLite by default: in `memory://` the runs themselves would count.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc

from benchmarks import http2
from benchmarks.processes import resident_bytes, service
from benchmarks.streams import Readers, start
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc
from runwire.values import to_value

_MIB: Final = 1024 * 1024
_LARGE: Final[dict[str, float]] = {"count": 2000, "size": 10_000}
"""A run of 20 MB."""
_WATCH: Final = "/runwire.agent.v1.AgentService/WatchRun"
_SETTLE_SECONDS: Final = 5.0


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever had."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


class Bystander:
    """Another client, in a process of its own, that asks for a run again and again."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._said = ""

    async def told(self) -> str:
        """What its calls took so far; it stops then."""
        if not self._said:
            said, _ = await self._process.communicate(b"\n")
            self._said = said.decode().strip()
        return self._said


async def _stand_by(address: str, run_id: str) -> None:
    """The process of a bystander, until a line comes in."""
    seconds: list[float] = []
    stop = asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    async with _stub(address) as stub:
        while not stop.done():
            begin = time.perf_counter()
            await stub.GetRun(pb.GetRunRequest(run_id=run_id))
            seconds.append(time.perf_counter() - begin)
            await asyncio.sleep(0.02)
    seconds.sort()
    p50, longest = (1e3 * seconds[place] for place in (len(seconds) // 2, -1))
    print(f"another's {len(seconds)} calls p50 {p50:.1f} ms, longest {longest:.0f} ms")


async def unread(address: str, pid: int) -> None:
    """2,000 streams of a 20 MB run that do not read."""
    async with _stub(address) as stub, _beside(address, stub) as bystander:
        run_id = await start(stub, **_LARGE)
        await _ended(stub, run_id)
        before = resident_bytes(pid)
        connections = [await http2.connect(address, 65_535) for _ in range(20)]
        request = pb.WatchRunRequest(run_id=run_id).SerializeToString()
        for number in range(2000):
            connections[number % 20].watch(_WATCH, request, lambda _: None)
        await asyncio.sleep(3 * _SETTLE_SECONDS)
        await _print("2000 streams of a 20 MB run that do not read", before, pid, bystander)
        for connection in connections:
            connection.close()


async def messages(address: str, pid: int) -> None:
    """400 calls of 3.9 MiB at once."""
    async with _stub(address) as stub, _beside(address, stub) as bystander:
        before = resident_bytes(pid)
        request = pb.StartRunRequest(agent_id="emitter", input=to_value("x" * int(3.9 * _MIB)))
        async with AsyncExitStack() as stack:
            stubs = [await stack.enter_async_context(_stub(address)) for _ in range(8)]
            calls = [stubs[number % 8].StartRun(request) for number in range(400)]
            ends = await asyncio.gather(*calls, return_exceptions=True)
        codes = Counter(end.code().name for end in ends if isinstance(end, grpc.aio.AioRpcError))
        await _print(f"400 messages of 3.9 MiB at once {dict(codes)}", before, pid, bystander)


async def viewers(address: str, pid: int) -> None:
    """1,000 viewers of one live run, opened from its start when it has 20 MB."""
    async with _stub(address) as stub, _beside(address, stub) as bystander:
        live = await start(stub, count=1500, size=10_000, per_second=100)
        await asyncio.sleep(10)
        before = resident_bytes(pid)
        readers = Readers([await http2.connect(address, 2**31 - 1) for _ in range(20)])
        begin = time.perf_counter()
        ends = [readers.follow(number, live) for number in range(1000)]
        await asyncio.gather(*ends)
        seconds = time.perf_counter() - begin
        label = f"1000 viewers of a live run from its start, {readers.delivered} events, {seconds:.0f} s"
        await _print(label, before, pid, bystander)


async def flood(address: str, pid: int) -> None:
    """One caller starts runs without end while another reads a live run."""
    async with _stub(address) as stub, _stub(address) as flooding:
        for loud in (False, True):
            async with asyncio.TaskGroup() as group:
                callers = [group.create_task(_start_without_end(flooding)) for _ in range(200 if loud else 0)]
                readers = Readers([await http2.connect(address)])
                readers_end = readers.follow(0, await start(stub, count=400, per_second=50))
                async with _beside(address, stub) as bystander:
                    await readers_end
                    told = await bystander.told()
                for caller in callers:
                    caller.cancel()
            started = sum(caller.result() for caller in callers if not caller.cancelled())
            live = f"live p50 {readers.percentile(0.5):.1f} ms, p99 {readers.percentile(0.99):.1f} ms"
            print(f"{'beside 200 callers that start runs' if loud else 'alone'}: {live}, {told} {started or ''}")


async def _start_without_end(stub: agent_service_pb2_grpc.AgentServiceStub) -> int:
    request, count = pb.StartRunRequest(agent_id="emitter", input=to_value({"count": 0, "lead_seconds": 3600})), 0
    try:
        while True:
            try:
                await stub.StartRun(request)
                count += 1
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        return count


async def _ended(stub: agent_service_pb2_grpc.AgentServiceStub, run_id: str) -> None:
    async for _ in stub.WatchRun(pb.WatchRunRequest(run_id=run_id, position=pb.START_POSITION_LATEST)):
        pass


async def _print(label: str, before: int, pid: int, bystander: Bystander) -> None:
    told = await bystander.told()
    after, peak = resident_bytes(pid), peak_bytes(pid)
    print(f"{label}: {before / _MIB:.0f} -> {after / _MIB:.0f} MiB, at most {peak / _MIB:.0f}; {told}", flush=True)


@asynccontextmanager
async def _beside(address: str, stub: agent_service_pb2_grpc.AgentServiceStub) -> AsyncIterator[Bystander]:
    run_id = await start(stub, count=0, lead_seconds=3600)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.memory", "--beside", address, run_id, stdin=pipe, stdout=pipe
    )
    bystander = Bystander(process)
    try:
        yield bystander
    finally:
        await bystander.told()


@asynccontextmanager
async def _stub(address: str) -> AsyncIterator[agent_service_pb2_grpc.AgentServiceStub]:
    async with grpc.aio.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        yield agent_service_pb2_grpc.AgentServiceStub(channel)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    shapes: dict[str, Callable[[str, int], Awaitable[Any]]] = {
        "unread": unread, "messages": messages, "viewers": viewers, "flood": flood,
    }  # fmt: skip
    parser.add_argument("--only", choices=list(shapes))
    parser.add_argument("--store")
    parser.add_argument("--beside", nargs=2, metavar=("ADDRESS", "RUN_ID"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.beside:
        return asyncio.run(_stand_by(*given.beside))
    for name, shape in shapes.items():
        if given.only in (None, name):
            with tempfile.TemporaryDirectory() as folder:
                store = given.store or f"sqlite:///{folder}/runs.db"
                settings = {"agents": "benchmarks.agents", "store": store, "concurrency": 10_000}
                with service("agent_service", **settings) as (address, pid):
                    asyncio.run(shape(address, pid))


if __name__ == "__main__":
    main()
