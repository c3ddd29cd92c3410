"""Keeps the leases of a process's runs, in a thread with an event loop of its own.

Renewal must not depend on the loop that runs agents: a tool that blocks it would let every lease end, and other
workers would execute the runs a second time. A loop that stays blocked for `max_blocked_seconds` is taken for dead all
the same, so that its runs go on elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from runwire.errors import StoreUnavailable
from runwire.pubsub import LeaseState, Store

_INTERVAL_SECONDS: Final = 1.0
_BEAT_SECONDS: Final = 1.0

log = logging.getLogger("agent_service.leases")

OpenStore = Callable[[], AbstractAsyncContextManager[Store]]
OnChange = Callable[[str, int, LeaseState], None]
"""Told, on the loop that runs agents, of a lease (topic, attempt) that is LOST or WOKEN."""


class Leases:
    """The leases to keep. All methods are for the loop that runs agents."""

    def __init__(
        self,
        store: Store,
        open_store: OpenStore | None,
        on_change: OnChange,
        *,
        lease_seconds: float,
        max_blocked_seconds: float = 300.0,
    ) -> None:
        """`open_store` opens the same store for the thread; None: there is no thread, and `store` is used on the
        caller's loop."""
        self._store = store
        self._open_store = open_store
        self._on_change = on_change
        self._lease_seconds = lease_seconds
        self._max_blocked_seconds = max_blocked_seconds
        self._held: dict[str, int] = {}
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._beat = time.monotonic()
        self._interval = min(_INTERVAL_SECONDS, lease_seconds / 3)

    def hold(self, topic: str, attempt: int) -> None:
        """Renews this lease from now on."""
        with self._lock:
            self._held[topic] = attempt

    def drop(self, topic: str, attempt: int) -> None:
        """Renews it no more."""
        with self._lock:
            if self._held.get(topic) == attempt:
                del self._held[topic]

    @asynccontextmanager
    async def keep(self) -> AsyncIterator[None]:
        """Renews leases while the block runs."""
        async with asyncio.TaskGroup() as group:
            if self._open_store is None:
                background = group.create_task(self._renew_here(), name="leases")
            else:
                background = group.create_task(self._beats(), name="lease-beat")
            thread = self._start_thread()
            try:
                yield
            finally:
                background.cancel()
                self._stopping.set()
                if thread is not None:
                    await asyncio.to_thread(thread.join, 5.0)

    def _start_thread(self) -> threading.Thread | None:
        if self._open_store is None:
            return None
        loop = asyncio.get_running_loop()
        thread = threading.Thread(
            target=asyncio.run, args=(self._renew(self._open_store, loop),), name="leases", daemon=True
        )
        thread.start()
        return thread

    async def _renew_here(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            self._beat = time.monotonic()
            await self._renew_once(self._store, asyncio.get_running_loop())

    async def _beats(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(_BEAT_SECONDS)

    async def _renew(self, open_store: OpenStore, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stopping.is_set():
            try:
                async with open_store() as store:
                    while not await asyncio.to_thread(self._stopping.wait, self._interval):
                        await self._renew_once(store, loop)
            except StoreUnavailable as error:
                log.warning("leases could not be renewed: %s", error)
                await asyncio.sleep(self._interval)
            except Exception:
                # A thread that ended would lose every lease of this process in silence.
                log.exception("leases could not be renewed")
                await asyncio.sleep(self._interval)

    async def _renew_once(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        if time.monotonic() - self._beat > self._max_blocked_seconds:
            log.error("the event loop has been blocked for %s s: leases are let go", self._max_blocked_seconds)
            return
        with self._lock:
            leases = list(self._held.items())
        if not leases:
            return
        states = await store.extend(leases, lease_seconds=self._lease_seconds)
        for (topic, attempt), state in zip(leases, states, strict=True):
            if state is not LeaseState.HELD:
                loop.call_soon_threadsafe(self._on_change, topic, attempt, state)
