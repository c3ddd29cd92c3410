"""Connections that are cut at any frame, at either of two processes: what is joined is the log, byte for byte."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import AsyncExitStack

import grpc
import pytest

from runwire.connect import open_store
from tests.e2e.cuts import CutReader, listed
from tests.e2e.ledger import Ledger
from tests.e2e.processes import processes
from tests.e2e.proof import client, stored_log
from tests.servers import free_port

pytestmark = pytest.mark.timeout(180)
EVENTS = 2_000
MAX_STREAM_FRAMES = 25


async def cut_and_joined(
    addresses: Sequence[str], run_id: str, cuts: int, chance: random.Random, most_frames: int = MAX_STREAM_FRAMES
) -> list[list[bytes]]:
    """Reads the run to its end again and again, until so many streams were cut; what was joined each time. The first
    reading begins at once, while the run is still under way."""
    joined = []
    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(grpc.aio.insecure_channel(address)) for address in addresses]
        while cuts > 0:
            reader = CutReader(channels, run_id, chance)
            while not reader.ended:
                await reader.read(chance.randint(1, most_frames))
            cuts -= reader.cuts
            joined.append(reader.events)
        for channel in channels:
            joined.append(await listed(channel, run_id))
    return joined


async def prove_joined(url: str, run_id: str, joined: Sequence[Sequence[bytes]], events: int) -> None:
    """All of what was joined is what the store holds."""
    async with open_store(url) as store:
        stored = await stored_log(store, run_id)
    assert len(stored) == events
    for each in joined:
        assert list(each) == stored


async def test_two_hundred_cuts(store_url: str, ledger: Ledger) -> None:
    """200 cuts of a run of 2,000 events, live and replayed, each followed by a resumption at one of two processes:
    every joined log is identical to ListRunEvents of both and to the bytes in the store."""
    seed = random.randrange(10**6)
    print(f"\nseed {seed}")
    # Nobody dies here: a lease that ends because the machine is busy would only begin the run again.
    with processes(store_url, **ledger.environment, RUNWIRE_LEASE_SECONDS=30) as start:
        servers = start.start_all("all", "all")
        addresses = [server.address for server in servers]
        async with client(addresses[0]) as agent:
            run = await agent.start_run("count", {"count": EVENTS - 4, "burst": 20, "pause": 0.03})
        async with asyncio.timeout(150):
            joined = await cut_and_joined(addresses, run.run_id, 200, random.Random(seed))
        await prove_joined(store_url, run.run_id, joined, EVENTS)


@pytest.mark.chaos
async def test_cuts_while_servers_are_killed(store_url: str, ledger: Ledger) -> None:
    """The same while the two servers are killed and started again in turn: a resumption finds the other one, the run
    continues elsewhere, and what is joined is the log."""
    seed = random.randrange(10**6)
    print(f"\nseed {seed}")
    with processes(store_url, **ledger.environment) as start:
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(2)]
        servers = [start.launch("all", listen=address) for address in addresses]
        for server in servers:
            server.wait_started()
        async with client(addresses[0]) as agent:
            run = await agent.start_run("count", {"count": EVENTS, "burst": 20, "pause": 0.03})
        async with asyncio.timeout(150), asyncio.TaskGroup() as group:
            joining = group.create_task(cut_and_joined(addresses, run.run_id, 400, random.Random(seed)))
            kills = 0
            while not joining.done() and kills < 6:
                await asyncio.sleep(0.7)
                servers[kills % 2].kill()
                servers[kills % 2] = await asyncio.to_thread(start.start, "all", listen=addresses[kills % 2])
                kills += 1
        async with open_store(store_url) as store:
            stored = await stored_log(store, run.run_id)
        await prove_joined(store_url, run.run_id, joining.result(), len(stored))
    print(f"{kills} kills, {len(stored)} events")
