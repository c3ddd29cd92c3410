"""Leases: renewed in time, from a thread of their own, and told of when they are lost or woken."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent_service.execution.leases import Leases
from runwire.connect import open_store
from runwire.errors import StoreUnavailable
from runwire.pubsub import Commit, Lease, LeaseState, Schedule, Store

LIMIT_SECONDS = 20.0
TOPIC = "default/run"


class Told:
    """What the leases said."""

    def __init__(self) -> None:
        self.states: list[tuple[Lease, LeaseState]] = []
        self._changed = asyncio.Event()

    def __call__(self, lease: Lease, state: LeaseState) -> None:
        self.states.append((lease, state))
        self._changed.set()

    async def wait_for(self, state: LeaseState) -> None:
        async with asyncio.timeout(LIMIT_SECONDS):
            while not any(each[1] is state for each in self.states):
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def claimed(url: str, lease_seconds: float) -> Any:
    async with open_store(url) as store:
        await store.commit(Commit(TOPIC, create=True, queue="q", schedule=Schedule.DUE))
        [claim] = await store.claim(["q"], holder="somebody", limit=1, lease_seconds=lease_seconds)
        yield store, claim


async def claimed_by_another(store: Store) -> bool:
    return bool(await store.claim(["q"], holder="somebody", limit=1, lease_seconds=60))


async def claimed_in_time(url: str) -> bool:
    """Whether another process could have the run, if it waited for it."""
    async with open_store(url) as store:
        return bool(await store.claim(["q"], holder="somebody", limit=1, lease_seconds=60, wait_seconds=LIMIT_SECONDS))


@pytest.mark.parametrize("threaded", [True, False])
async def test_a_lease_is_renewed_while_it_is_held(tmp_path: Path, threaded: bool) -> None:
    """A lease lasts for longer than its length while it is held, and ends by itself once it is dropped."""
    url = f"sqlite:///{tmp_path}/runs.db"
    async with claimed(url, 1.0) as (store, claim):
        reopen = (lambda: open_store(url)) if threaded else None
        leases = Leases(store, reopen, Told(), lease_seconds=1.0)
        async with leases.keep():
            leases.hold(claim.lease)
            ends = time.monotonic() + 2.2
            while time.monotonic() < ends:
                assert not await claimed_by_another(store)
                await asyncio.sleep(0.02)
            leases.drop(claim.lease)
            assert await store.claim(["q"], holder="somebody", limit=1, lease_seconds=60, wait_seconds=LIMIT_SECONDS)


async def test_a_blocked_loop_does_not_lose_its_leases(tmp_path: Path) -> None:
    """The thread renews while the loop that runs agents is blocked for longer than the lease."""
    url = f"sqlite:///{tmp_path}/runs.db"
    async with claimed(url, 1.0) as (store, claim):
        leases = Leases(store, lambda: open_store(url), Told(), lease_seconds=1.0)
        async with leases.keep():
            leases.hold(claim.lease)
            await asyncio.sleep(0.3)  # so that the thread is up
            time.sleep(2.2)  # noqa: ASYNC251 - the point
            assert not await claimed_by_another(store)


async def test_a_loop_that_is_blocked_for_too_long_lets_go(tmp_path: Path) -> None:
    """A loop that has shown no sign of life for `max_blocked_seconds` is taken for dead: its runs continue
    elsewhere."""
    url = f"sqlite:///{tmp_path}/runs.db"
    async with claimed(url, 0.2) as (store, claim):
        leases = Leases(store, lambda: open_store(url), Told(), lease_seconds=0.2, max_blocked_seconds=0.1)
        async with leases.keep():
            leases.hold(claim.lease)
            with ThreadPoolExecutor(1) as elsewhere:
                claimed_there = elsewhere.submit(asyncio.run, claimed_in_time(url))
                assert claimed_there.result(LIMIT_SECONDS + 10)  # blocks this loop: the point


async def test_a_lost_lease_is_told(tmp_path: Path) -> None:
    """When another worker has the run, the old owner is told on its loop, with the lease."""
    url = f"sqlite:///{tmp_path}/runs.db"
    async with claimed(url, 0.3) as (store, claim):
        told = Told()
        leases = Leases(store, lambda: open_store(url), told, lease_seconds=0.3)
        await store.commit(Commit(TOPIC, schedule=Schedule.DUE))
        assert await claimed_by_another(store)
        async with leases.keep():
            leases.hold(claim.lease)
            await told.wait_for(LeaseState.LOST)
    assert (claim.lease, LeaseState.LOST) in told.states


async def test_a_wake_is_told(tmp_path: Path) -> None:
    """Somebody who wakes a run under a lease reaches its owner."""
    url = f"sqlite:///{tmp_path}/runs.db"
    async with claimed(url, 5.0) as (store, claim):
        told = Told()
        leases = Leases(store, lambda: open_store(url), told, lease_seconds=5.0)
        async with leases.keep():
            leases.hold(claim.lease)
            await store.commit(Commit(TOPIC, schedule=Schedule.WAKE))
            await told.wait_for(LeaseState.WOKEN)


async def test_a_store_that_fails_for_a_while(tmp_path: Path) -> None:
    """Renewals continue after the store could not be opened, and after it failed in between."""
    url = f"sqlite:///{tmp_path}/runs.db"
    tries = []

    @asynccontextmanager
    async def reopen() -> Any:
        tries.append("open")
        if len(tries) < 3:
            raise StoreUnavailable("not yet")
        async with open_store(url) as store:
            yield store

    async with claimed(url, 60.0) as (store, claim):
        told = Told()
        leases = Leases(store, reopen, told, lease_seconds=0.3)
        async with leases.keep():
            leases.hold(claim.lease)
            await store.commit(Commit(TOPIC, schedule=Schedule.WAKE))
            await told.wait_for(LeaseState.WOKEN)
    assert len(tries) == 3


async def test_an_unexpected_error_does_not_end_the_renewals(tmp_path: Path) -> None:
    """Whatever goes wrong in the thread, it tries again: a thread that is gone would lose every lease in silence."""
    url = f"sqlite:///{tmp_path}/runs.db"
    tries = []

    @asynccontextmanager
    async def reopen() -> Any:
        tries.append("open")
        if len(tries) == 1:
            raise RuntimeError("odd")
        async with open_store(url) as store:
            yield store

    async with claimed(url, 60.0) as (store, claim):
        told = Told()
        leases = Leases(store, reopen, told, lease_seconds=0.3)
        async with leases.keep():
            leases.hold(claim.lease)
            await store.commit(Commit(TOPIC, schedule=Schedule.WAKE))
            await told.wait_for(LeaseState.WOKEN)


async def test_the_thread_ends_with_the_block(tmp_path: Path) -> None:
    """Leaving the block stops the renewals soon, also while the store does not answer."""
    url = f"sqlite:///{tmp_path}/runs.db"

    @asynccontextmanager
    async def never() -> Any:
        raise StoreUnavailable("never")
        yield

    async with open_store(url) as store:
        for reopen in (lambda: open_store(url), never):
            begun = time.monotonic()
            async with Leases(store, reopen, Told(), lease_seconds=30.0).keep():
                await asyncio.sleep(0.05)
            assert time.monotonic() - begun < 4
