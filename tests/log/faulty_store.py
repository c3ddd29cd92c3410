"""A log whose reads take their time, fail, come in small pages; and a memory store that can be rolled back."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from runwire.errors import StoreUnavailable
from runwire.memory import MemoryStore
from runwire.pubsub import Commit, Committed, EventCache, Head, Page
from tests.log.faulty_pubsub import turns


class FaultyCache:
    """Stands before an EventCache, at the side of one process."""

    announces = True
    """The store behind it does so itself, or another process has done it."""

    def __init__(self, inner: EventCache) -> None:
        self._inner = inner
        self.before = 0
        """Turns of the event loop that pass before a read takes place."""
        self.after = 0
        """Turns that pass until its result is there."""
        self.failures = 0
        """How many reads to come fail with StoreUnavailable, on their way back."""
        self.page_events = 2048
        """Most events of a page, if the caller does not want fewer."""
        self.reads = 0
        """How often `read` was called."""
        self.arrived: Callable[[Page], None] = lambda page: None
        """Is told of every page when it arrives."""
        self.committed: dict[bytes, Committed] = {}
        """What was committed already, by its check: the answer is all that is left to come."""
        self.answered: Callable[[Committed], None] = lambda committed: None
        """Is told of every such answer when it arrives."""

    async def commit(self, commit: Commit) -> Committed:
        committed = self.committed.pop(commit.check, None)
        if committed is None:
            return await self._inner.commit(commit)
        await turns(self.after)
        self.answered(committed)
        return committed

    async def read(self, topic: str, after: int, *, max_events: int = 2048, max_bytes: int = 1024 * 1024) -> Page:
        self.reads += 1
        await turns(self.before)
        page = await self._inner.read(topic, after, max_events=min(max_events, self.page_events), max_bytes=max_bytes)
        await turns(self.after)
        self._fail()
        self.arrived(page)
        return page

    async def heads(self, topics: Sequence[str]) -> Sequence[Head | None]:
        await turns(self.before)
        heads = await self._inner.heads(topics)
        await turns(self.after)
        self._fail()
        return heads

    async def trim(self, topic: str, before: int) -> None:
        await self._inner.trim(topic, before)

    async def clear(self, topic: str) -> None:
        await self._inner.clear(topic)

    def _fail(self) -> None:
        if self.failures:
            self.failures -= 1
            raise StoreUnavailable("the store does not answer")


@dataclass(frozen=True)
class Snapshot:
    """What a replica of the store had received when the primary failed."""

    topics: dict[str, Any]


def snapshot(store: MemoryStore) -> Snapshot:
    """The topics as they are now."""
    return Snapshot({name: _copy(kept) for name, kept in store._topics.items()})


def roll_back(store: MemoryStore, to: Snapshot) -> None:
    """What a fail-over to a replica that lagged behind does: later writes never were, and nobody is told."""
    store._topics = {name: _copy(kept) for name, kept in to.topics.items()}


def _copy(kept: Any) -> Any:
    return dataclasses.replace(kept, topic=copy.copy(kept.topic), entries=list(kept.entries), fields=dict(kept.fields))
