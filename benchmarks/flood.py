"""What a tenant that floods costs a quiet one: `python -m benchmarks.flood`.

One agent service over SQLite with tokens. The quiet tenant starts a run now and then and reads it to its end, alone,
and then while another tenant, from a process of its own, starts runs as fast as it can, sends large inputs and opens
streams that it does not read. What counts is the quiet one's slowest in a hundred, as a ratio to alone in the same
round.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
import grpc

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc
from runwire.client import AgentClient, to_value
from tests.client.processes import AgentProcess
from tests.identity.proofs import Proofs, metadata

_PAUSE_SECONDS: Final = 0.05
_CALLERS: Final = 30
_STREAMS: Final = 200
_LARGE_BYTES: Final = 1024 * 1024


@click.command()
@click.option("--runs", default=200, show_default=True, help="Of the quiet tenant, in each part of a round.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--starts", default=100.0, show_default=True, help="RUNWIRE_TENANT_STARTS_PER_SECOND.")
@click.option("--burst", default=1000, show_default=True, help="RUNWIRE_TENANT_START_BURST.")
@click.option("--address", hidden=True)
@click.option("--token", hidden=True)
def main(runs: int, rounds: int, starts: float, burst: int, address: str | None, token: str | None) -> None:
    if address and token:
        asyncio.run(_flood(address, token))
        return
    for number in range(1, rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            proofs = Proofs(Path(folder))
            settings = {"tokens": str(proofs.tokens)}
            settings |= {"tenant_starts_per_second": str(starts), "tenant_start_burst": str(burst)}
            quiet, flood = proofs.token("q", "quiet"), proofs.token("f", "flood")
            with AgentProcess("agent_service.demo.ticker", **settings) as service:
                service.start()
                alone = asyncio.run(_measure(service.address, quiet, runs))
                with _flooding(service.address, flood):
                    beside = asyncio.run(_measure(service.address, quiet, runs))
                memory = _memory_bytes(service)
        for name, a, b in zip(("start", "start to end"), alone, beside, strict=True):
            print(
                f"round {number}: {name:<13} p50 {a[0]:6.1f} -> {b[0]:6.1f} ms ({b[0] / a[0]:.1f}x)"
                f"   p99 {a[1]:6.1f} -> {b[1]:6.1f} ms ({b[1] / a[1]:.1f}x)",
                flush=True,
            )
        print(f"round {number}: memory of the service {memory / 2**20:.0f} MiB", flush=True)


async def _measure(address: str, token: str, runs: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """p50 and p99, in milliseconds, of StartRun, and of a run of one event from its start to the reader's end."""
    started, ended = [], []
    async with AgentClient(address, metadata=[("authorization", f"Bearer {token}")]) as client:
        for _ in range(runs):
            began = time.perf_counter()
            run = await client.start_run("ticker", {"count": 1, "interval_ms": 0})
            started.append(time.perf_counter() - began)
            async for _event in client.watch(run.run_id):
                pass
            ended.append(time.perf_counter() - began)
            await asyncio.sleep(_PAUSE_SECONDS)
    return _quantiles(started), _quantiles(ended)


def _quantiles(seconds: list[float]) -> tuple[float, float]:
    ordered = sorted(seconds)
    return 1e3 * ordered[len(ordered) // 2], 1e3 * ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


@contextmanager
def _flooding(address: str, token: str) -> Iterator[None]:
    """While the context is open, once the flood has begun."""
    command = [sys.executable, "-m", "benchmarks.flood", "--address", address, "--token", token]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


async def _flood(address: str, token: str) -> None:
    """Until it is killed."""
    proof = metadata(token)
    async with grpc.aio.insecure_channel(address) as channel:
        stub = agent_service_pb2_grpc.AgentServiceStub(channel)
        talk = {"count": 2000, "interval_ms": 1, "text": "x" * 2000}
        run = await stub.StartRun(pb.StartRunRequest(agent_id="ticker", input=to_value(talk)), metadata=proof)
        watching = pb.WatchRunRequest(run_id=run.run.run_id)
        unread = [stub.WatchRun(watching, metadata=proof) for _ in range(_STREAMS)]
        print("flooding", flush=True)
        await asyncio.gather(*(_starts(stub, proof, large=number % 10 == 0) for number in range(_CALLERS)))
        del unread


async def _starts(
    stub: agent_service_pb2_grpc.AgentServiceStub, proof: list[tuple[str, str | bytes]], *, large: bool
) -> None:
    text = "x" * (_LARGE_BYTES if large else 10)
    request = pb.StartRunRequest(agent_id="ticker", input=to_value({"count": 20, "interval_ms": 5, "text": text}))
    while True:
        try:
            await stub.StartRun(request, metadata=proof)
        except grpc.aio.AioRpcError:
            await asyncio.sleep(0.01)  # refused: it comes again far sooner than it was told to


def _memory_bytes(service: AgentProcess) -> int:
    pages = int(Path(f"/proc/{service.pid}/statm").read_text().split()[1])
    return pages * 4096


if __name__ == "__main__":
    main()
