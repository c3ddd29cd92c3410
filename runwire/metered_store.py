"""A store whose commits are measured. Where nobody measures, the store itself is used."""

from __future__ import annotations

import time
from typing import Any, cast

from runwire import metrics
from runwire.errors import Fenced
from runwire.pubsub import Commit, Committed, Lease, LeaseState, Store


class MeteredStore:
    """Does what `store` does, and tells of it."""

    def __init__(self, store: Store, engine: str) -> None:
        self._store = store
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def commit(self, commit: Commit) -> Committed:
        began, outcome = time.perf_counter(), "failed"
        try:
            committed = await self._store.commit(commit)
            outcome = "committed"
        except Fenced:
            outcome = "fenced"
            metrics.FENCED.add(1)
            raise
        finally:
            metrics.COMMIT.record(time.perf_counter() - began, engine=self._engine, outcome=outcome)
        if commit.events:
            metrics.EVENTS.add(commit.last - commit.first + 1)
            metrics.EVENT_BYTES.add(len(commit.events))
            if commit.first == 1:
                metrics.FIRST_EVENT.record(max(0.0, committed.time - committed.head.create_time))
        return committed

    async def extend(self, leases: list[Lease], *, lease_seconds: float) -> Any:
        states = await self._store.extend(leases, lease_seconds=lease_seconds)
        if lost := sum(state is LeaseState.LOST for state in states):
            metrics.LEASES_LOST.add(lost)
        return states


def metered(store: Store, url: str) -> Store:
    """The store at `url`, measured."""
    return cast(Store, MeteredStore(store, url.partition(":")[0]))
