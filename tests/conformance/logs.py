"""Small steps out of which the suite's tests are made: a log is started, claimed, appended to, and looked at."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from runwire import frames
from runwire.pubsub import Claim, Commit, Committed, Entry, Head, LeaseState, Schedule, Store

QUEUE = "runs"
LIMIT_SECONDS = 10.0
LONG_SECONDS = 60.0
"""A lease or a retention that does not end within a test."""


def event(sequence: int, text: str = "") -> bytes:
    """The bytes of an event; the store does not look inside."""
    return f"event {sequence} {text}".encode()


def check(sequence: int, text: str = "") -> bytes:
    return frames.event_check(event(sequence, text)) if sequence else b""


def body(first: int, last: int, text: str = "") -> bytes:
    return b"".join(frames.frame(event(sequence, text)) for sequence in range(first, last + 1))


def appending(topic: str, attempt: int, first: int, last: int, text: str = "", **changes: Any) -> Commit:
    """The commit that appends events `first..last`, all written with `text`, as those before them."""
    written: dict[str, Any] = {
        "attempt": attempt,
        "first": first,
        "last": last,
        "events": body(first, last, text),
        "check": check(last, text),
        "previous": check(first - 1, text),
    }
    return Commit(topic, **(written | changes))


async def start(store: Store, topic: str = "default/run", **changes: Any) -> Head:
    """Creates a topic that is due at once."""
    committed = await store.commit(
        Commit(topic, **({"create": True, "queue": QUEUE, "schedule": Schedule.DUE} | changes))
    )
    return committed.head


async def claim_one(
    store: Store, queue: str = QUEUE, lease_seconds: float = LONG_SECONDS, *, holder: str = "", alone: bool = False
) -> Claim:
    """Claims the one topic that is due, or becomes due soon; for a worker that just started, unless `holder` is one."""
    claims = await store.claim(
        [queue],
        holder=holder or uuid4().hex,
        limit=1,
        lease_seconds=lease_seconds,
        wait_seconds=LIMIT_SECONDS,
        alone=alone,
    )
    assert len(claims) == 1
    return claims[0]


async def extend(store: Store, claim: Claim, lease_seconds: float = LONG_SECONDS) -> LeaseState:
    """Extends one lease."""
    [state] = await store.extend([claim.lease], lease_seconds=lease_seconds)
    return state


async def started(store: Store, topic: str = "default/run", **changes: Any) -> Claim:
    """Creates a topic and claims it."""
    await start(store, topic, **changes)
    claim = await claim_one(store, changes.get("queue", QUEUE))
    assert claim.topic == topic
    return claim


async def append(store: Store, topic: str, attempt: int, first: int, last: int, **changes: Any) -> Committed:
    """Appends, and publishes where the engine does not do so itself."""
    committed = await store.commit(appending(topic, attempt, first, last, **changes))
    if not store.announces and committed.entry:
        await store.pubsub.publish(topic, committed.entry)
    return committed


async def finish(store: Store, topic: str, attempt: int, sequence: int, **changes: Any) -> Committed:
    """Appends the last event."""
    closing = {"final": 4, "retention": LONG_SECONDS, "tombstone": LONG_SECONDS} | changes
    return await append(store, topic, attempt, sequence, sequence, **closing)


def dense(entries: Sequence[Entry], after: int = 0) -> list[bytes]:
    """The events of entries that must continue each other from `after` on."""
    found: list[bytes] = []
    for entry in entries:
        assert entry.first == after + 1, f"a hole after {after}: {entry.first}"
        events = list(frames.events(entry.body))
        assert len(events) == entry.last - entry.first + 1
        assert entry.check == frames.event_check(events[-1])
        found += events
        after = entry.last
    return found


async def read_all(store: Store, topic: str) -> list[bytes]:
    """All events of a log, page by page."""
    found: list[bytes] = []
    while True:
        page = await store.read(topic, len(found))
        found += dense(page.entries, len(found))
        if len(found) == page.head.last:
            return found


async def fields(store: Store, topic: str, *names: str) -> Mapping[str, bytes]:
    """These fields, or all that a claim brings."""
    stored = await store.get(topic, names or None)
    assert stored is not None
    return stored.fields


async def eventually(predicate: Callable[[], Awaitable[object]], limit_seconds: float = LIMIT_SECONDS) -> None:
    """Waits until `predicate` gives something true, for things of which there is no signal."""
    deadline = time.monotonic() + limit_seconds
    while not await predicate():
        assert time.monotonic() < deadline, f"not within {limit_seconds} seconds"
        await asyncio.sleep(0.01)


class Inbox:
    """What a subscriber got."""

    def __init__(self) -> None:
        self.got: list[Entry | None] = []
        self._came = asyncio.Event()

    def deliver(self, entry: Entry | None) -> None:
        self.got.append(entry)
        self._came.set()

    @property
    def entries(self) -> list[Entry]:
        """Without doubles and in order, which the contract does not promise."""
        found = {entry.first: entry for entry in self.got if entry}
        return [found[first] for first in sorted(found)]

    async def until(self, predicate: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_SECONDS):
            while not predicate():
                self._came.clear()
                await self._came.wait()

    async def until_sequence(self, last: int) -> None:
        await self.until(lambda: bool(self.entries) and self.entries[-1].last >= last)
