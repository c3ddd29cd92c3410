"""Where a fork came from: which events of the other log, and which entries of its journal, are those before its place.

A fork's log begins with what the other log tells of that, in the same order; which events those are follows from the
place alone, so that a worker which dies while it tells them is followed by one that tells the rest.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, Self

from agent_service.log.history import OF_STEP
from agent_service.log.journal import FAILED
from agent_service.log.journal import PREFIX as JOURNAL
from agent_service.log.record import ANSWER
from runwire import frames
from runwire.agent.v1 import run_event_pb2
from runwire.caching_pubsub import History
from runwire.pubsub import Position

ALL_STEPS: Final = 2**31 - 1
ALL_EVENTS: Final = 2**63 - 1
_FIRST_STEP: Final = 1
"""In a workflow the body, which is told again by each attempt."""
_NUMBERED: Final = frozenset({"model", "answer", "steer", "tool", "began", "unknown", "unit"})
"""Kinds of journal entries with the number of their step in their key."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The place in another run's log at which a fork begins."""

    run_id: str
    after: int
    """What is told up to this event does not count: the run was restarted there."""
    last: int
    """The newest event that counts, where steps do not follow each other."""
    step: int = ALL_STEPS
    """The first step that is not taken over."""
    turn: int = 0
    """Of a conversation: the first turn that is not; otherwise 0."""

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        run_id, *numbers = data.decode().split()
        return cls(run_id, *map(int, numbers))

    def pack(self) -> bytes:
        return f"{self.run_id} {self.after} {self.last} {self.step} {self.turn}".encode()

    def takes(self, event: run_event_pb2.RunEvent) -> bool:
        """Whether the fork tells this event of the other log too."""
        if self.turn:
            return event.sequence <= self.last and event.turn > 0
        if event.sequence <= self.after or event.WhichOneof("payload") not in OF_STEP:
            return False
        # Of steps that are done at the same time a later one may begin before an earlier one ends.
        return event.step < self.step if event.step > _FIRST_STEP else event.sequence <= self.last


@dataclass(slots=True)
class Told:
    """What a log tells that decides about a fork."""

    after: int = 0
    """See Origin."""
    names: dict[int, str] = field(default_factory=dict)
    """Of steps, by number."""
    begun: dict[int, int] = field(default_factory=dict)
    """Sequence of each step's first StepStarted."""
    finished: set[int] = field(default_factory=set)
    asked: dict[str, int] = field(default_factory=dict)
    """Sequence at which the run first waited for each request or moment."""

    def add(self, event: run_event_pb2.RunEvent) -> None:
        """Takes the next event."""
        payload = event.WhichOneof("payload")
        if payload == "run_started":
            self.after = event.sequence
            for each in (self.names, self.begun, self.finished, self.asked):
                each.clear()
        elif payload == "step_started":
            self.names[event.step] = event.step_started.name
            self.begun.setdefault(event.step, event.sequence)
            self.finished.discard(event.step)
        elif payload == "step_finished":
            self.finished.add(event.step)
        elif payload == "run_suspended":
            for request in event.run_suspended.pending:
                self.asked.setdefault(request.request_id, event.sequence)

    def kept(self, fields: Mapping[str, bytes], origin: Origin) -> dict[str, bytes]:
        """Of the other run's fields, the journal and the answers that are taken over."""
        numbers = {name: number for number, name in self.names.items()}
        return {name: data for name, data in fields.items() if self._is_kept(name, numbers, origin)}

    def _is_kept(self, field: str, numbers: Mapping[str, int], origin: Origin) -> bool:
        if not field.startswith((JOURNAL, ANSWER)) or field.startswith(JOURNAL + FAILED):
            return False  # what was tried and raised is tried again
        key = field.removeprefix(JOURNAL).removeprefix(ANSWER)
        kind, _, rest = key.partition("/")
        if kind in _NUMBERED:
            return int(rest.partition("/")[0]) < origin.step
        if kind == "step":
            return numbers.get(rest, ALL_STEPS) < origin.step or (origin.step == ALL_STEPS and not origin.turn)
        if kind == "receive":
            # The message of turn n + 1.
            return int(rest) < origin.turn - 1
        return self.asked.get(key, ALL_STEPS) <= origin.last or (origin.step == ALL_STEPS and not origin.turn)

    def lacks(self, kept: Mapping[str, bytes], origin: Origin, workflow: str) -> int:
        """The first step that was finished before the place and of which the journal has nothing; 0: there is none.
        `workflow`: whose body is no such step; empty for an agent."""
        for number in sorted(self.finished):
            name = self.names.get(number, "")
            if number < origin.step and not (workflow and name == workflow):
                keys = [f"step/{name}"] if workflow else [f"model/{number}", f"answer/{number}"]
                if not any(JOURNAL + key in kept for key in keys):
                    return number
        return 0


class Read(Protocol):
    """`CachingPubSub.get_history` of one log."""

    async def __call__(self, after: Position | None, *, max_events: int, max_bytes: int) -> History: ...


async def events(read: Read, last: int) -> AsyncIterator[run_event_pb2.RunEvent]:
    """The events of a log up to this one, a page at a time. Raises what `read` raises."""
    place: Position | None = None
    while True:
        history = await read(place, max_events=1024, max_bytes=1024 * 1024)
        if history.batch is None:
            return
        place = history.batch.position
        for data in frames.events(history.batch.body):
            event = run_event_pb2.RunEvent.FromString(data)
            if event.sequence > last:
                return
            yield event
