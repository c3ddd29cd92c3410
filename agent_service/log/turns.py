"""The turns of a conversation, as one attempt sees them: which message is next, and what a turn leaves.

Each attempt executes at most one turn. It begins with the commit that consumes a message (TurnStarted) and ends with
the one that remembers what the turn leaves (TurnFinished) and hands the run back. Fields of a run that is one, beside
those of `inbox`:

    aside/turn/<n>   a turn that is done: its Turn, without message and output

What the agent remembers of them is in `remembered`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from google.protobuf import struct_pb2

from agent_service.log import inbox, record
from agent_service.log.inbox import Inbox, Message
from agent_service.log.remembered import MAX_PART_BYTES, Recollection, Recollections
from agent_service.log.writer import Changes, LogWriter
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.errors import StoreUnavailable
from runwire.pubsub import Claim, Store
from runwire.times import seconds_of, timestamp
from runwire.values import carry_struct

FORGOTTEN: Final = "runwire.history_forgotten"
"""Type of the event that tells of turns which the agent does not remember any more."""
COMPACTED: Final = "runwire.history_compacted"
NOT_COMPACTED: Final = "runwire.history_not_compacted"


class TurnEnded(BaseException):
    """Unwinds a workflow that waits for its next message. Not an Exception: `except Exception` must let it pass."""

    def __init__(self, output: Any) -> None:
        super().__init__("waits for the next message")
        self.output = output


class Turns:
    """The conversation that an attempt works for."""

    def __init__(
        self, run: run_pb2.Run, claim: Claim, store: Store, writer: LogWriter, known: Recollections | None = None
    ) -> None:
        self._run = run
        self._store = store
        self._topic = claim.topic
        self._create_time = claim.head.create_time
        self._writer = writer
        self.inbox = Inbox(claim.fields)
        self.recollection = Recollection(claim.topic, claim.fields, store, known)
        """What the agent remembers of the turns before."""
        self.base_usage = _difference(run.usage, run.turn.usage)
        """Of the turns before this one."""
        self.leaves: Callable[[run_pb2.RunState], bytes] = lambda state: b""
        """What the agent remembers of the present turn, once it has ended so. Set by adapters. One that was cut
        short leaves less than one that has succeeded."""
        self.said: Callable[[], str] = lambda: ""
        """What the agent has said in the present turn. Set by adapters."""
        if self.is_open:
            writer.turn = run.turn.turn

    @property
    def is_open(self) -> bool:
        """Whether a turn has begun that has not ended."""
        return self._run.turn.state == run_pb2.RUN_STATE_RUNNING

    @property
    def number(self) -> int:
        """Of the present turn; 0 between turns."""
        return self._run.turn.turn if self.is_open else 0

    @property
    def received(self) -> int:
        """How often a workflow's `receive` has come to an end in earlier turns; after the last turn, one more than can
        have: what follows on the last message was told in its turn."""
        return self._run.turn.turn - (1 if self.is_open else 0)

    @property
    def first_step(self) -> int:
        """Of the present turn, or of what comes after the last one."""
        turn = self._run.turn
        return turn.first_step if self.is_open else turn.last_step + 1

    @property
    def is_interrupted(self) -> bool:
        """Whether a later message cancels the present turn."""
        return self.is_open and self.inbox.is_interrupted

    @property
    def message(self) -> Message | None:
        """That the present turn began with."""
        return self.inbox.message(self._run.turn.message_number, self._run.input)

    def next(self) -> Message | None:
        """The message to begin the next turn with; None: there is none yet."""
        return self.inbox.next(self._run.input)

    def idle_seconds(self, now: float) -> float | None:
        """Seconds until the conversation ends because nobody says anything; None: it does not."""
        if not self._run.conversation.HasField("idle_timeout"):
            return None
        # The last turn of a fork may have ended long before it began.
        since = max(seconds_of(self._run.turn.end_time), self._create_time)
        return since + seconds_of(self._run.conversation.idle_timeout) - now

    # What is remembered

    async def forget(self, limit_bytes: int) -> None:
        """Forgets the oldest turns until this much is left, and tells of it, in one atomic step."""
        begin = self.recollection.parts[0][0] or 1
        last, puts = self.recollection.forget(limit_bytes)
        await self._tell(FORGOTTEN, puts, first_turn=begin, last_turn=last)

    async def compact(self, data: bytes) -> None:
        """Puts this in the place of all that is remembered, and tells of it, in one atomic step: it is done once."""
        before = self.recollection.state
        puts = self.recollection.compact(data)
        sizes = {"bytes_before": before.size_bytes, "bytes_after": len(data)}
        await self._tell(
            COMPACTED, puts, first_turn=1 if before.based else before.first, last_turn=before.last, **sizes
        )

    async def tell_not_compacted(self, problem: str) -> None:
        """Tells that the agent's function could not do it."""
        await self._tell(NOT_COMPACTED, {}, problem=problem)

    async def _tell(self, kind: str, puts: Mapping[str, bytes], **data: Any) -> None:
        event = run_event_pb2.CustomEvent(type=kind, data=carry_struct(data))
        await self._writer.write(Changes(puts=puts, progress=bool(puts)), custom=event)

    # A turn begins

    def begin(self, message: Message, now: float) -> tuple[run_event_pb2.TurnStarted, dict[str, bytes]]:
        """A turn begins with this message, which is consumed: what tells of it, and the fields to write with that."""
        before = self._run.turn
        turn = run_pb2.Turn(
            turn=before.turn + 1,
            state=run_pb2.RUN_STATE_RUNNING,
            message_number=message.number,
            first_step=before.last_step + 1,
            last_step=before.last_step,
            start_time=timestamp(now),
        )
        self.base_usage.CopyFrom(self._run.usage)
        self._run.turn.CopyFrom(turn)
        return self.begin_again(message), self.inbox.consume(message)

    def begin_again(self, message: Message) -> run_event_pb2.TurnStarted:
        """The present turn begins, for the first time or because what was done in it does not count."""
        turn = self._run.turn
        turn.first_sequence = self._writer.sequence + 1
        self._writer.turn = turn.turn
        return run_event_pb2.TurnStarted(message=message.value, message_number=message.number, mode=message.mode)

    def stale(self) -> list[str]:
        """Fields that are of no use any more when an attempt begins."""
        return self.inbox.stale(keep=self._run.turn.message_number if self.is_open else 0)

    # Within a turn

    async def steer(self) -> Message | None:
        """The next message, if it is to steer the present turn. It is not consumed yet."""
        stored = await self._store.get(self._topic, self.inbox.wanted())
        self.inbox.learn(stored.fields if stored is not None else {})
        message = self.next()
        return message if message is not None and message.mode == run_pb2.MESSAGE_MODE_STEER else None

    def consume(self, message: Message) -> dict[str, bytes]:
        """The fields to write with what tells of a message that steers."""
        return self.inbox.consume(message) | self.inbox.spent(message.number)

    def count(self) -> None:
        """Brings the turn's usage up to date with the run's."""
        if self.is_open:
            self._run.turn.usage.CopyFrom(_difference(self._run.usage, self.base_usage))

    # A turn ends

    def end(
        self, state: run_pb2.RunState, error: run_pb2.RunError | None, highest_step: int, now: float
    ) -> tuple[dict[str, bytes], list[str]]:
        """The present turn is over: the fields to write with what tells of it, and those to remove. The event that
        tells of it is the writer's next."""
        self.count()
        turn = self._run.turn
        turn.state = state
        turn.last_sequence = self._writer.sequence + 1
        turn.last_step = max(turn.first_step - 1, highest_step)
        turn.end_time.CopyFrom(timestamp(now))
        if error is not None:
            turn.error.CopyFrom(error)
        puts = {record.turn_field(turn.turn): turn.SerializeToString(), **self.inbox.spent(turn.message_number)}
        return puts, [record.turn_field(turn.turn - record.MAX_TURNS)]

    async def remember(self, state: run_pb2.RunState, *, for_forks: bool) -> tuple[dict[str, bytes], list[str]]:
        """The fields to write of what the agent remembers of the present turn, and those to remove. `for_forks`:
        whether what counts no more is kept for a while."""
        left = self.leaves(state)
        if len(left) > MAX_PART_BYTES:
            left = self.leaves(run_pb2.RUN_STATE_CANCELLED)
        if len(left) > MAX_PART_BYTES:
            left = b""
        spared = await self._spared(for_forks)
        return self.remember_this(left), spared

    def remember_this(self, left: bytes) -> dict[str, bytes]:
        """The fields to write, where the present turn leaves this."""
        if not left and not self.recollection.state.last:
            return {}  # an agent that remembers nothing, or a workflow
        return self.recollection.and_turn(self._run.turn.turn, left)

    async def _spared(self, for_forks: bool) -> list[str]:
        try:
            return await self.recollection.spare(for_forks=for_forks)
        except StoreUnavailable:
            return []  # after another turn

    def output(self) -> struct_pb2.Value | None:
        """What a turn that was cut short has said."""
        said = self.said()
        return struct_pb2.Value(string_value=said) if said else None


def add_usage(total: run_pb2.Usage, more: run_pb2.Usage) -> None:
    """Adds to `total`."""
    for each in run_pb2.Usage.DESCRIPTOR.fields:
        setattr(total, each.name, getattr(total, each.name) + getattr(more, each.name))


def _difference(whole: run_pb2.Usage, part: run_pb2.Usage) -> run_pb2.Usage:
    names: Iterator[str] = (field.name for field in run_pb2.Usage.DESCRIPTOR.fields)
    return run_pb2.Usage(**{name: max(0, getattr(whole, name) - getattr(part, name)) for name in names})


def of_claim(
    claim: Claim, run: run_pb2.Run, store: Store, writer: LogWriter, known: Recollections | None = None
) -> Turns | None:
    """The turns of a run; None for one that is no conversation. `known`: what the worker has in memory."""
    return Turns(run, claim, store, writer, known) if run.HasField("conversation") else None


def first_fields(run: run_pb2.Run) -> Mapping[str, bytes]:
    """The fields that a conversation is accepted with: its input is the first message."""
    return {inbox.INBOX: inbox.Accepted(count=1).pack()} if run.HasField("conversation") else {}
