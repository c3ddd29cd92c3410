"""Fifty watching clients through the outages of real servers: nobody loses or doubles an event, and all finish.

One process executes the run, and two others serve it from the same store, so that what is measured is how soon a client
is served again, and not how soon a run is executed again. `pytest -m chaos -s` prints the times to resume.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest

from runwire.client import RUN_STATE_SUCCEEDED, AgentClient, RunEvent
from tests.client.processes import AgentProcess

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(180)]

CLIENTS = 50
TICKS = 240
INTERVAL_MS = 50


@dataclass
class Cluster:
    """One worker, two servers, one store."""

    worker: AgentProcess
    servers: tuple[AgentProcess, AgentProcess]

    def target(self) -> str:
        """Both servers, in random order: a client takes the first that answers."""
        addresses = [server.address for server in self.servers]
        return f"ipv4:{','.join(random.sample(addresses, 2))}"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    ticker = "agent_service.demo.ticker"
    with AgentProcess(ticker, role="work") as worker:
        settings = {"role": "serve", "shutdown_grace_seconds": "5"}
        with (
            AgentProcess(ticker, worker.store, **settings) as one,
            AgentProcess(ticker, worker.store, **settings) as two,
        ):
            yield Cluster(worker.start(), (one.start(), two.start()))


@dataclass
class Watched:
    """What one client got, and how long it was cut off."""

    events: list[RunEvent] = field(default_factory=list)
    interruptions: list[float] = field(default_factory=list)
    """Seconds from the last event before a cut to the first one after it; there is one every 50 ms."""
    reconnects: int = 0
    finished: bool = False


async def kill(cluster: Cluster) -> None:
    """A server dies, and comes back."""
    await asyncio.to_thread(cluster.servers[0].kill)
    await asyncio.to_thread(cluster.servers[0].start)


async def freeze(cluster: Cluster) -> None:
    """A server hangs for six seconds with its connections open."""
    cluster.servers[0].pause()
    await asyncio.sleep(6)
    cluster.servers[0].resume()


async def drain(cluster: Cluster) -> None:
    """A server shuts down in order, and comes back."""
    await asyncio.to_thread(cluster.servers[0].stop)
    await asyncio.to_thread(cluster.servers[0].start)


async def roll(cluster: Cluster) -> None:
    """Both servers are restarted in turn."""
    for server in cluster.servers:
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)


@pytest.mark.parametrize("outage", [kill, freeze, drain, roll], ids=lambda outage: outage.__name__)
async def test_outage(cluster: Cluster, outage: Callable[[Cluster], Awaitable[None]]) -> None:
    """All clients finish with exactly the log; those that were cut off resumed."""
    live = asyncio.Event()
    async with AgentClient(cluster.target()) as client:
        arguments = {"count": TICKS, "interval_ms": INTERVAL_MS, "text": "tick "}
        run = await client.start_run("ticker", arguments)
        watchers = [Watched() for _ in range(CLIENTS)]
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            for watched in watchers:
                group.create_task(watch(cluster.target(), run.run_id, watched, live))
            await live.wait()
            await outage(cluster)
        log = [event async for event in client.list_run_events(run.run_id, page_size=1000)]
    assert [event.sequence for event in log] == list(range(1, len(log) + 1))
    for watched in watchers:
        assert watched.finished
        assert watched.events == log
    cut = [watched for watched in watchers if watched.interruptions]
    assert cut, "nobody was cut off: the outage came too late"
    seconds = sorted(each for watched in cut for each in watched.interruptions)
    print(
        f"\n{outage.__name__}: {len(cut)} of {CLIENTS} clients cut off, {sum(w.reconnects for w in cut)} reconnects; "
        f"time to resume p50 {statistics.median(seconds):.3f} s, p99 {seconds[-1 - len(seconds) // 100]:.3f} s"
    )


async def watch(target: str, run_id: str, watched: Watched, live: asyncio.Event) -> None:
    last = time.monotonic()
    async with AgentClient(target) as client, client.watch(run_id, heartbeat_seconds=1) as stream:
        async for event in stream:
            now = time.monotonic()
            if stream.reconnects > watched.reconnects:
                watched.interruptions.append(now - last)
                watched.reconnects = stream.reconnects
            watched.events.append(event)
            last = now
            if event.sequence > TICKS // 6:
                live.set()
        watched.finished = stream.state == RUN_STATE_SUCCEEDED
