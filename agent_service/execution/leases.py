"""Keeps the leases of a process's runs, in a thread with an event loop of its own.

Renewal must not depend on the loop that runs agents: a tool that blocks it would let every lease end, and other
workers would execute the runs a second time. A loop that stays blocked for `max_blocked_seconds` is taken for dead all
the same, so that its runs continue elsewhere.

The thread's store is opened once and stays open: an outage, of all of it or of a part, is a renewal that failed and is
tried again. What is not known (UNKNOWN, no answer) is told to nobody: the run continues, and the store decides, when it
is there again, who owns it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from runwire.errors import StoreUnavailable
from runwire.pubsub import Lease, LeaseState, Store

_INTERVAL_SECONDS: Final = 1.0
_BEAT_SECONDS: Final = 1.0
_WARN_SECONDS: Final = 30.0
"""An outage is spoken of again after this long."""

logger = logging.getLogger("agent_service.execution.leases")

OpenStore = Callable[[], AbstractAsyncContextManager[Store]]
OnChange = Callable[[Lease, LeaseState], None]
"""Told, on the loop that runs agents, of a lease that is LOST or WOKEN."""


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
        self._held: dict[Lease, float] = {}
        """With the moment at which each was last renewed."""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._beat = time.monotonic()
        self._interval = min(_INTERVAL_SECONDS, lease_seconds / 3)
        self._warned = -_WARN_SECONDS
        self._failing = False

    def hold(self, lease: Lease) -> None:
        """Renews this lease from now on."""
        with self._lock:
            self._held[lease] = time.monotonic()

    def drop(self, lease: Lease) -> None:
        """Renews it no more."""
        with self._lock:
            self._held.pop(lease, None)

    async def renew_overdue(self) -> None:
        """Renews at once what may have run out, as after an outage or a pause of the process. To be called before a
        claim, so that no worker claims its own runs back. Where it fails, the claim is no worse for it: what lies in a
        part that is away cannot be claimed, and the rest must be."""
        now = time.monotonic()
        with self._lock:
            overdue = [lease for lease, renewed in self._held.items() if now - renewed >= self._lease_seconds]
        if not overdue:
            return
        try:
            await self._extend(self._store, overdue, asyncio.get_running_loop())
        except StoreUnavailable as error:
            self._complain(error)

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
            except Exception as error:
                self._complain(error)
                await asyncio.sleep(self._interval)

    async def _renew_once(self, store: Store, loop: asyncio.AbstractEventLoop) -> None:
        """Renews all; a failure is the next turn's business, and no reason to close the store."""
        if time.monotonic() - self._beat > self._max_blocked_seconds:
            logger.error("the event loop has been blocked for %s s: leases are let go", self._max_blocked_seconds)
            return
        with self._lock:
            leases = list(self._held)
        if not leases:
            return
        try:
            await self._extend(store, leases, loop)
        except Exception as error:
            self._complain(error)

    async def _extend(self, store: Store, leases: list[Lease], loop: asyncio.AbstractEventLoop) -> None:
        states = await store.extend(leases, lease_seconds=self._lease_seconds)
        self._note(leases, states)
        for lease, state in zip(leases, states, strict=True):
            if state in (LeaseState.LOST, LeaseState.WOKEN):
                loop.call_soon_threadsafe(self._on_change, lease, state)
        if LeaseState.UNKNOWN in states:
            count = states.count(LeaseState.UNKNOWN)
            self._complain(StoreUnavailable(f"a part of the store does not answer: {count} of {len(states)} leases"))
        elif self._failing:
            self._failing = False
            self._warned = -_WARN_SECONDS
            logger.warning("leases are renewed again")

    def _note(self, leases: list[Lease], states: Sequence[LeaseState]) -> None:
        now = time.monotonic()
        with self._lock:
            for lease, state in zip(leases, states, strict=True):
                if lease in self._held and state in (LeaseState.HELD, LeaseState.WOKEN):
                    self._held[lease] = now

    def _complain(self, error: Exception) -> None:
        """Says what is wrong, but not each second of an outage."""
        self._failing = True
        now = time.monotonic()
        if now - self._warned < _WARN_SECONDS:
            return
        self._warned = now
        if isinstance(error, StoreUnavailable):
            logger.warning("leases could not be renewed: %s", error)
        else:
            logger.error("leases could not be renewed", exc_info=error)
