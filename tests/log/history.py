"""The model of a log: what it was at every moment, and what a reader may therefore be told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from runwire import frames
from runwire.pubsub import Position


@dataclass(frozen=True, eq=False)
class Event:
    """An event that was committed at some time. After a roll-back, several may have the same sequence."""

    epoch: str
    sequence: int
    data: bytes
    before: Event | None = field(repr=False)
    """The event that it continues."""
    final: int = 0

    @property
    def check(self) -> bytes:
        return frames.event_check(self.data)

    def at(self, sequence: int) -> Event | None:
        """The event at this sequence of the log that this event is the newest of."""
        event: Event | None = self
        while event is not None and event.sequence > sequence:
            event = event.before
        return event


@dataclass(frozen=True)
class State:
    """The log at one moment."""

    epoch: str = ""
    """Empty where there is no log."""
    tip: Event | None = None
    earliest: int = 1
    expired: bool = False

    @property
    def last(self) -> int:
        return self.tip.sequence if self.tip else 0

    @property
    def final(self) -> int:
        return self.tip.final if self.tip else 0

    @property
    def readable(self) -> bool:
        return bool(self.epoch) and not self.expired

    def holds(self, epoch: str, event: Event | None) -> bool:
        """Whether `event` (None: the beginning) is part of this log, trimmed or not."""
        if not self.readable or self.epoch != epoch:
            return False
        return event is None or (self.tip is not None and self.tip.at(event.sequence) is event)


NOTHING = State()


@dataclass
class History:
    """Everything that the log has been. Moments are indexes of `states`."""

    states: list[State] = field(default_factory=lambda: [NOTHING])
    losses: list[int] = field(default_factory=list)
    """Moments at which something that was there was there no more: cleared, replaced, rolled back, expired."""
    events: dict[tuple[str, bytes], Event] = field(default_factory=dict)

    @property
    def now(self) -> State:
        return self.states[-1]

    @property
    def moment(self) -> int:
        return len(self.states) - 1

    def become(self, state: State) -> None:
        """The log is something else from now on."""
        before = self.now
        self.states.append(state)
        if before.readable and not state.holds(before.epoch, before.tip):
            self.losses.append(self.moment)

    def append(self, texts: Sequence[bytes], final: int) -> None:
        """The log grows by these events, the last of which may close it."""
        tip = self.now.tip
        for number, text in enumerate(texts, 1):
            sequence = self.now.last + number
            tip = Event(self.now.epoch, sequence, text, tip, final if number == len(texts) else 0)
            self.events[tip.epoch, tip.check] = tip
        self.become(State(self.now.epoch, tip, self.now.earliest))

    def lost_since(self, moment: int) -> bool:
        return bool(self.losses) and self.losses[-1] > moment

    def since(self, moment: int) -> Sequence[State]:
        return self.states[moment:]

    def event_at(self, position: Position) -> Event | None:
        """The event that a position names by its check."""
        return self.events[position.epoch, position.check] if position.check else None
