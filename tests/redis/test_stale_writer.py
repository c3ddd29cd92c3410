"""A worker that was frozen for longer than its lease writes nothing after its successor's first commit."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from runwire.connect import open_store
from runwire.pubsub import Entry, Store
from tests.conformance.logs import appending, claim_one, event, read_all, start
from tests.servers import on_every_redis

LEASE_SECONDS = 0.1
ROUND_SECONDS = 20.0


@asynccontextmanager
async def stale_writer(url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process of tests/redis/stale_writer.py."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.redis.stale_writer", url, str(LEASE_SECONDS), stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def line(process: asyncio.subprocess.Process) -> list[str]:
    assert process.stdout is not None
    return (await process.stdout.readline()).decode().split()


async def freeze_once(store: Store, writer: asyncio.subprocess.Process, topic: str) -> int:
    """One round: returns how many events the stale writer had written. Its text is in each event."""
    some = asyncio.Event()

    def look(entry: Entry | None) -> None:
        if entry is None or entry.last >= written_before_freeze:
            some.set()

    written_before_freeze = random.randrange(1, 40)
    async with store.pubsub.subscribe(topic, look):
        await start(store, topic)
        assert await line(writer) == ["claimed", topic, "1"]
        await some.wait()
    os.kill(writer.pid, signal.SIGSTOP)
    claim = await claim_one(store)
    assert claim.head.attempt == 2
    last = claim.head.last
    previous = claim.head.check
    # Half of the time it wakes up before the successor has written, and races with it.
    early = random.random() < 0.5
    if early:
        os.kill(writer.pid, signal.SIGCONT)
    await store.commit(appending(topic, 2, last + 1, last + 1, "attempt 2", previous=previous))
    if not early:
        os.kill(writer.pid, signal.SIGCONT)
    assert await line(writer) == ["fenced", topic, str(last + 1)]
    await store.commit(appending(topic, 2, last + 2, last + 2, "attempt 2", final=1, retention=1.0))
    found = await read_all(store, topic)
    assert found == [event(sequence, f"attempt {1 if sequence <= last else 2}") for sequence in range(1, last + 3)]
    return last


async def freeze(url: str, rounds: int) -> None:
    async with open_store(url) as store, stale_writer(url) as writer:
        for number in range(rounds):
            async with asyncio.timeout(ROUND_SECONDS):
                assert await freeze_once(store, writer, f"default/{number}") >= 1


@on_every_redis
async def test_a_frozen_writer_writes_nothing_more(redis_url: str) -> None:
    """SIGSTOP, a successor, SIGCONT: not one stale event, and the log is dense."""
    await freeze(redis_url, 5)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@on_every_redis
async def test_a_frozen_writer_a_hundred_times(redis_url: str) -> None:
    """The same for 100 rounds: 0 stale events."""
    await freeze(redis_url, 100)
