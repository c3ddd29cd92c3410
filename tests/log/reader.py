"""A reader that compares every item it is given with the model."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

from runwire import frames
from runwire.batch import Batch
from runwire.caching_pubsub import CachingPubSub, CaughtUp, Ended, Gap, Idle, Item, Opened, Start
from runwire.errors import (
    CursorAhead,
    CursorEpochMismatch,
    CursorExpired,
    EventsLost,
    RunExpired,
    RunNotFound,
    RunwireError,
    StoreUnavailable,
)
from runwire.pubsub import Position
from tests.log.history import Event, History, State

IDLE_SECONDS = 10.0


@dataclass
class Replica:
    """What the model knows of a process that serves readers."""

    log: CachingPubSub
    failures: Callable[[], int]
    """How many of its reads have failed."""
    checked: int = -1
    """The moment at which the last idle check that has ended began."""
    misled: int = -1
    """The moment at which it was last given an entry that was lost already, but continues what readers have. Until
    the next idle check nobody could tell."""


@dataclass
class Cursor:
    """A position that was given out, and the event that it was given out for."""

    position: Position
    event: Event | None


@dataclass
class Reader:
    """One subscription. Every item is checked on arrival; `place` is where it stands."""

    topic: str
    history: History
    replica: Replica
    start: Cursor | Start
    max_events: int
    max_bytes: int
    notify_gaps: bool
    keep: Callable[[Cursor], None]
    """Is given the cursor of every item."""
    credit: asyncio.Semaphore
    """How many items it may take yet; afterwards it is a slow reader."""
    place: Cursor | None = None
    opened: Opened | None = None
    ended: Ended | None = None
    caught_up: bool = False
    error: RunwireError | None = None
    last_item: Item | None = None
    moment: int = field(init=False)
    """When it came."""
    failures: int = field(init=False)

    def __post_init__(self) -> None:
        self.moment = self.history.moment
        self.failures = self.replica.failures()
        self.place = self.start if isinstance(self.start, Cursor) else None

    @property
    def live(self) -> bool:
        return self.error is None and self.ended is None

    @property
    def states(self) -> list[State]:
        """What the log has been since the reader came."""
        return list(self.history.since(self.moment))

    async def run(self) -> None:
        items = self.replica.log.subscribe_with_replay(
            self.topic,
            self.start.position if isinstance(self.start, Cursor) else self.start,
            max_events=self.max_events,
            max_bytes=self.max_bytes,
            idle_seconds=IDLE_SECONDS,
            notify_gaps=self.notify_gaps,
        )
        try:
            async with aclosing(items):
                async for item in items:
                    self.take(item)
                    await self.credit.acquire()
        except RunwireError as error:
            self.error = error
        reason = self._is_right(self.error) if self.error else self.ended
        assert reason, f"no reason for {self.error!r} at {self.place}, of {self.states}"

    def _may_begin_in(self, state: State) -> bool:
        """Whether its cursor leads into this log. Of an event that is gone, and the next one too, nobody can tell."""
        assert isinstance(self.start, Cursor)
        position = self.start.position
        gone = self.notify_gaps and state.readable and position.sequence + 1 < state.earliest
        return state.holds(position.epoch, self.start.event) or (gone and state.epoch == position.epoch)

    # Items

    def take(self, item: Item) -> None:
        assert self.ended is None, f"{item} after the end"
        assert isinstance(item, Opened) == (self.opened is None), f"{item} out of place"
        self.last_item = item
        if isinstance(item, Opened):
            self._take_opened(item)
        elif isinstance(item, Batch):
            self._take_batch(item)
        elif isinstance(item, Gap):
            self._take_gap(item)
        else:
            self._take_mark(item)
        assert self.place is not None
        assert item.position.sequence == self.place.position.sequence
        self.keep(self.place)

    def _take_opened(self, item: Opened) -> None:
        self.opened = item
        if isinstance(self.start, Cursor):
            assert item.position == self.start.position
            there = any(self._may_begin_in(state) for state in self.states)
            assert there, f"opened at {self.start}, which is in none of {self.states}"
            return
        if self.start is Start.LATEST:
            event = self.history.event_at(item.position)
            assert any(s.readable and (s.epoch, s.tip) == (item.position.epoch, event) for s in self.states)
        else:
            assert any(s.readable and s.earliest == item.position.sequence + 1 for s in self.states)
        self._stand_at(item.position)

    def _take_batch(self, batch: Batch) -> None:
        assert self.place is not None
        events = list(frames.events(batch.body))
        assert len(events) == batch.count > 0
        assert batch.count <= self.max_events
        assert len(batch.body) <= self.max_bytes or batch.count == 1
        assert batch.first == self.place.position.sequence + 1, f"{batch} does not continue {self.place}"
        for data in events:
            self._take_event(batch.position.epoch, data)
        assert batch.position.check == self.place.event.check if self.place.event else False
        self.place = Cursor(batch.position, self.place.event)

    def _take_event(self, epoch: str, data: bytes) -> None:
        assert self.place is not None
        event = self.history.events[epoch, frames.event_check(data)]
        assert event.data == data
        assert event.sequence == self.place.position.sequence + 1, f"{event} after {self.place}"
        assert event.before is self.place.event, f"{event} does not continue {self.place}"
        stored = any(state.holds(epoch, event) for state in reversed(self.states))
        assert stored or self._misled, f"{event} was lost before this reader came"
        self.place = Cursor(Position(epoch, event.sequence, event.check), event)

    def _take_gap(self, gap: Gap) -> None:
        assert self.notify_gaps
        assert self.place is not None
        assert gap.first == self.place.position.sequence + 1
        assert gap.last == gap.position.sequence >= gap.first
        assert any(s.readable and s.earliest == gap.last + 1 for s in self.states), f"{gap} was never trimmed"
        self._stand_at(gap.position)

    def _take_mark(self, item: CaughtUp | Idle | Ended) -> None:
        assert self.place is not None
        assert self.opened is not None
        position = self.place.position.sequence
        if isinstance(item, CaughtUp):
            assert not self.caught_up, "caught up twice"
            assert position >= self.opened.head.last, f"caught up at {position} of {self.opened.head.last}"
            self.caught_up = True
        elif isinstance(item, Idle):
            checked = self.history.states[self.replica.checked]
            lost = self.replica.checked < 0 or self.history.lost_since(self.replica.checked)
            if not lost and checked.holds(self.place.position.epoch, self.place.event):
                assert position >= checked.last, f"idle at {position}, although a check had found {checked.last}"
        else:
            assert self.caught_up
            assert self.place.event is not None
            assert item.final == self.place.event.final != 0, f"ended at {self.place}"
            self.ended = item

    def _stand_at(self, position: Position) -> None:
        """A place that the log has named, and not the reader: only its check says which event it is after."""
        self.place = Cursor(position, self.history.event_at(position))
        if position.sequence:
            assert self.place.event is not None, f"{position} has no check"
            assert self.place.event.sequence == position.sequence

    # Errors

    @property
    def _misled(self) -> bool:
        return self.replica.misled >= self.moment

    def _is_right(self, error: RunwireError) -> bool:
        """Whether there is a reason for this error since the reader came."""
        states = self.states
        if isinstance(error, StoreUnavailable):
            return self.replica.failures() > self.failures
        if isinstance(error, CursorExpired):
            return not self.notify_gaps and any(self._is_trimmed(state, error) for state in states)
        if isinstance(error, EventsLost):
            return self.opened is not None and (self.history.lost_since(self.moment) or self._misled)
        if self.opened is not None:
            return False
        if isinstance(error, RunNotFound):
            return any(not state.epoch for state in states)
        if isinstance(error, RunExpired):
            return any(state.expired for state in states)
        if not isinstance(self.start, Cursor):
            return False
        position, event = self.start.position, self.start.event
        if isinstance(error, CursorAhead):
            return any(state.readable and state.last < position.sequence for state in states)
        if isinstance(error, CursorEpochMismatch):
            return any(state.readable and not state.holds(position.epoch, event) for state in states)
        return False

    def _is_trimmed(self, state: State, error: CursorExpired) -> bool:
        sequence = self.place.position.sequence if self.place else 0
        return state.readable and state.earliest == error.earliest_sequence > sequence + 1
