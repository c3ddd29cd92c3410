"""What a client did, as it reported it."""

from __future__ import annotations

from dataclasses import dataclass, field

from runwire.agent.v1 import run_event_pb2
from runwire.cursor import CursorCodec
from runwire.errors import ConfigurationError, RunwireError
from runwire.pubsub import Position


@dataclass(frozen=True)
class Event:
    """An event as a client reports it. Two that are equal are the same event."""

    sequence: int
    attempt: int
    step: int
    kind: str
    text: str

    @staticmethod
    def of(event: run_event_pb2.RunEvent) -> Event:
        """What a right client reports of `event`."""
        kind = event.WhichOneof("payload") or ""
        return Event(event.sequence, event.attempt, event.step, kind, event.text_delta.text)


@dataclass(frozen=True)
class Handled:
    """The client was told that the last event is handled."""

    sequence: int


@dataclass(frozen=True)
class Saved:
    """The client stored a cursor."""

    cursor: str
    sequence: int
    """The place it stands for; -1 if these are not the bytes of a cursor of this run."""


@dataclass(frozen=True)
class Ended:
    """The client says that the run has ended."""

    state: str


@dataclass(frozen=True)
class Failed:
    """The client gave up with an error, named by its reason."""

    reason: str


@dataclass(frozen=True)
class Stuck:
    """The client said nothing for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Died:
    """The client's process ended by itself, or said something that is none of the above."""

    why: str


Line = Event | Handled | Saved | Ended | Failed | Stuck | Died


@dataclass
class Session:
    """One life of a client's process: from a cursor to the end, an error, or being killed."""

    start: int
    """Sequence of the cursor it was given; 0 from the beginning."""
    lines: list[Line] = field(default_factory=list)


@dataclass
class Transcript:
    """One reader of one run, through all its lives."""

    run_id: str
    sessions: list[Session] = field(default_factory=list)
    expects_error: str = ""
    """The reason that the client must report; empty: it must read to the end."""


def place(topic: str, cursor: str) -> Position | None:
    """The position that a cursor of the run's log stands for; None if it is none. An id of the gateway is a cursor too,
    with `.` and the sequence behind it inside of a frame."""
    before, _, inside = cursor.partition(".")
    try:
        position = CursorCodec(topic).decode(before) if before else None
    except RunwireError:
        return None
    if not inside.isdigit():
        return position
    return Position(position.epoch if position else "", int(inside))


def of_another_log(topic: str, cursor: str) -> str:
    """The same place in a log of another epoch."""
    position = place(topic, cursor)
    if position is None:
        raise ConfigurationError(
            f"the service gave out {cursor!r}, no cursor of {topic!r}: name the tenant of your token (--tenant)"
        )
    other = Position(another_epoch(position.epoch), position.sequence, position.check)
    return CursorCodec(topic).encode(other)


def another_epoch(epoch: str) -> str:
    """An epoch that is not `epoch`."""
    return f"{int(epoch, 16) ^ 1:016x}"
