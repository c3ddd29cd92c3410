"""What TLS and tokens cost: `python -m benchmarks.identity`.

One agent service, a process of its own, in plain text and for everybody, then over TLS, then with a token on top. What
counts are the server's processor seconds for a call and for a streamed event, as ratios to the first; calls a second
are of the same run, and noisy.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import grpc

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc
from runwire.client import AgentClient, to_value
from runwire.client.access import Access
from tests.client.processes import AgentProcess
from tests.identity.authority import Authority
from tests.identity.proofs import Proofs

_CALLERS: Final = 16


@dataclass(frozen=True)
class Taken:
    calls_per_second: float
    cpu_per_call: float
    """Of the server, in microseconds."""
    cpu_per_live_event: float
    cpu_per_replayed_event: float


@click.command()
@click.option("--calls", default=4000, show_default=True)
@click.option("--events", default=4000, show_default=True)
@click.option("--streams", default=20, show_default=True)
@click.option("--rounds", default=3, show_default=True, help="The best of so many counts.")
def main(calls: int, events: int, streams: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        proofs, authority = Proofs(folder), Authority(folder)
        cert, key = authority.issue("server", "127.0.0.1")
        tls = {"tls_cert_file": str(cert), "tls_key_file": str(key)}
        known = {name: str(value) for name, value in proofs.settings.items()}
        kinds = {
            "plain text, no token": ({}, Access()),
            "TLS": (tls, Access(ca=authority.path)),
            "TLS, token of a file": (tls | known, Access(ca=authority.path, token=proofs.token("x", "acme", "admin"))),
            "TLS, JWT (ES256)": (
                tls | known,
                Access(ca=authority.path, token=proofs.issuer.token(scope="admin", exp=time.time() + 86400)),
            ),
        }
        best: dict[str, Taken] = {}
        for _ in range(rounds):
            for kind, (settings, access) in kinds.items():
                with AgentProcess("agent_service.demo.ticker", **settings) as service:
                    service.start()
                    taken = asyncio.run(_measure(service, access, calls, events, streams))
                best[kind] = _better(best.get(kind), taken)
        _report(best)


def _better(before: Taken | None, now: Taken) -> Taken:
    if before is None:
        return now
    return Taken(
        max(before.calls_per_second, now.calls_per_second),
        min(before.cpu_per_call, now.cpu_per_call),
        min(before.cpu_per_live_event, now.cpu_per_live_event),
        min(before.cpu_per_replayed_event, now.cpu_per_replayed_event),
    )


async def _measure(service: AgentProcess, access: Access, calls: int, events: int, streams: int) -> Taken:
    credentials = access.credentials()
    make = grpc.aio.insecure_channel(service.address)
    if credentials is not None:
        make = grpc.aio.secure_channel(service.address, credentials)
    async with make as channel, AgentClient(service.address, **access.arguments()) as client:
        stub = agent_service_pb2_grpc.AgentServiceStub(channel)
        metadata = list(access.metadata())
        run = await client.start_run("ticker", {"count": 1, "interval_ms": 0})
        await _call(stub, metadata, run.run_id, 200)
        before, began = _cpu(service), time.perf_counter()
        await _call(stub, metadata, run.run_id, calls)
        seconds, per_call = time.perf_counter() - began, (_cpu(service) - before) / calls
        before = _cpu(service)
        request = pb.StartRunRequest(agent_id="ticker", input=to_value({"count": events, "interval_ms": 1}))
        started = (await stub.StartRun(request, metadata=metadata)).run
        live = await _watch(stub, metadata, started.run_id, streams)
        per_live = (_cpu(service) - before) / live
        before = _cpu(service)
        replayed = await _watch(stub, metadata, started.run_id, streams)
        per_replayed = (_cpu(service) - before) / replayed
    return Taken(calls / seconds, per_call * 1e6, per_live * 1e6, per_replayed * 1e6)


async def _call(
    stub: agent_service_pb2_grpc.AgentServiceStub, metadata: list[tuple[str, str | bytes]], run_id: str, calls: int
) -> None:
    async def caller() -> None:
        for _ in range(calls // _CALLERS):
            await stub.GetRun(pb.GetRunRequest(run_id=run_id), metadata=metadata)

    await asyncio.gather(*(caller() for _ in range(_CALLERS)))


async def _watch(
    stub: agent_service_pb2_grpc.AgentServiceStub,
    metadata: list[tuple[str, str | bytes]],
    run_id: str,
    streams: int,
) -> int:
    """Reads so many streams to their end; how many events came."""

    async def reader() -> int:
        frames = stub.WatchRun(pb.WatchRunRequest(run_id=run_id), metadata=metadata)
        return sum([len(frame.batch.events) async for frame in frames])

    counts: Sequence[int] = await asyncio.gather(*(reader() for _ in range(streams)))
    return sum(counts)


def _cpu(service: AgentProcess) -> float:
    """Seconds of processor time that the server has used."""
    fields = Path(f"/proc/{service.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _report(best: dict[str, Taken]) -> None:
    first = next(iter(best.values()))
    print("| | calls/s | CPU of a call | CPU of a live event | CPU of a replayed event |\n|---|---|---|---|---|")
    for kind, taken in best.items():
        cells = [f"{taken.calls_per_second:.0f} ({taken.calls_per_second / first.calls_per_second:.2f})"]
        for name in ("cpu_per_call", "cpu_per_live_event", "cpu_per_replayed_event"):
            value, base = getattr(taken, name), getattr(first, name)
            cells.append(f"{value:.1f} µs ({value / base:.2f})")
        print(f"| {kind} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
