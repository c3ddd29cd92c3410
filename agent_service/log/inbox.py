"""The messages of a conversation, as the store keeps them: accepted in an order, consumed in that order, each once.

A message is a wake with a field that is put once. Its number is its place: `message/<n>` must not exist, so two senders
never get the same one, and `inbox`, written in the same atomic step, tells the next sender how many there are. The
owner of the run consumes them by moving `consumed` in the commit that tells of it. What was consumed keeps its field,
empty, until a later attempt begins: a sender that read the inbox under an earlier attempt is refused by the store
(Fenced), and one that read it under this attempt finds the field. So no number is ever given out twice.

The end of a conversation is a message too (mode 0), so that nothing that was accepted before it is lost, and nothing
is accepted after it.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

from google.protobuf import struct_pb2

from runwire.agent.v1 import agent_service_pb2, run_pb2
from runwire.pubsub import ASIDE, Commit, Schedule

INBOX: Final = "inbox"
"""What was accepted; see Accepted."""
CONSUMED: Final = "consumed"
"""What was consumed; see Consumed."""
MESSAGE: Final = "message/"
"""+ number: mode and message; empty once it is of no use any more."""
SENT: Final = f"{ASIDE}sent/"
"""+ digest of a request id: the number that its message got, and a digest of the message."""
SENDER: Final = f"{ASIDE}sender/"
"""+ number: the field that remembers the request id of that message."""
MAX_WAITING: Final = 100
"""Messages that wait to be consumed."""
MAX_WAITING_BYTES: Final = 4 * 1024 * 1024
MAX_SENT: Final = 1000
"""Newest messages whose request ids are remembered."""

_ACCEPTED: Final = struct.Struct(">QQQ?")
_CONSUMED: Final = struct.Struct(">QQ")
_SENT: Final = struct.Struct(">Q8s")


@dataclass(frozen=True, slots=True)
class Accepted:
    """What senders have written."""

    count: int = 0
    size_bytes: int = 0
    """Of all messages so far."""
    interrupt: int = 0
    """Number of the newest one that interrupts; 0: there is none."""
    ended: bool = False
    """The newest one is the end."""

    @classmethod
    def of(cls, fields: Mapping[str, bytes]) -> Self:
        return cls(*_ACCEPTED.unpack(fields[INBOX])) if INBOX in fields else cls()

    def pack(self) -> bytes:
        return _ACCEPTED.pack(self.count, self.size_bytes, self.interrupt, self.ended)

    def and_one(self, message: Message) -> Accepted:
        """With one more."""
        interrupts = message.mode == run_pb2.MESSAGE_MODE_INTERRUPT
        return Accepted(
            message.number,
            self.size_bytes + message.size_bytes,
            message.number if interrupts else self.interrupt,
            message.is_end,
        )


@dataclass(frozen=True, slots=True)
class Consumed:
    """What the owner has consumed."""

    count: int = 0
    size_bytes: int = 0

    @classmethod
    def of(cls, fields: Mapping[str, bytes]) -> Self:
        return cls(*_CONSUMED.unpack(fields[CONSUMED])) if CONSUMED in fields else cls()

    def pack(self) -> bytes:
        return _CONSUMED.pack(self.count, self.size_bytes)


@dataclass(frozen=True, slots=True)
class Message:
    """One message, or the end."""

    number: int
    mode: run_pb2.MessageMode
    value: struct_pb2.Value | None

    @classmethod
    def end(cls, number: int) -> Self:
        return cls(number, run_pb2.MESSAGE_MODE_UNSPECIFIED, None)

    @classmethod
    def unpack(cls, number: int, data: bytes) -> Self:
        value = struct_pb2.Value.FromString(data[1:]) if data[0] else None
        return cls(number, data[0], value)  # type: ignore[arg-type]

    def pack(self) -> bytes:
        return bytes([self.mode]) + (self.value.SerializeToString() if self.value is not None else b"")

    @property
    def is_end(self) -> bool:
        return self.mode == run_pb2.MESSAGE_MODE_UNSPECIFIED

    @property
    def size_bytes(self) -> int:
        return len(self.pack())

    @property
    def field(self) -> str:
        return message_field(self.number)


def message_field(number: int) -> str:
    """The field of the message with this number."""
    return f"{MESSAGE}{number}"


def sent_field(request_id: str) -> str:
    """The field that remembers a request id."""
    return SENT + hashlib.sha256(request_id.encode()).hexdigest()[:32]


def sender_field(number: int) -> str:
    """The field that says which one that is of a message."""
    return f"{SENDER}{number}"


def pack_sent(number: int, request: agent_service_pb2.SendMessageRequest) -> bytes:
    """What is remembered of a request that was accepted."""
    return _SENT.pack(number, _digest(request))


def number_sent(data: bytes, request: agent_service_pb2.SendMessageRequest) -> int:
    """The number that the same request got; 0 if it was another one."""
    number, digest = _SENT.unpack(data)
    return int(number) if digest == _digest(request) else 0


def _digest(request: agent_service_pb2.SendMessageRequest) -> bytes:
    message = request.message.SerializeToString(deterministic=True)
    return hashlib.sha256(bytes([request.mode]) + message).digest()[:8]


class Inbox:
    """What the owner of a run knows of its messages."""

    def __init__(self, fields: Mapping[str, bytes]) -> None:
        """`fields` are those of the claim."""
        self.accepted = Accepted.of(fields)
        self.consumed = Consumed.of(fields)
        self._contents = {
            int(name.removeprefix(MESSAGE)): data for name, data in fields.items() if name.startswith(MESSAGE)
        }

    @property
    def waiting(self) -> int:
        """Messages that are accepted and not consumed, as far as known."""
        return self.accepted.count - self.consumed.count

    @property
    def is_interrupted(self) -> bool:
        """Whether a message that waits cancels the turns of those before it."""
        return self.accepted.interrupt > self.consumed.count

    @property
    def is_over(self) -> bool:
        """Whether the end is consumed."""
        return self.accepted.ended and not self.waiting

    def learn(self, fields: Mapping[str, bytes]) -> None:
        """Takes what was read since."""
        found = Accepted.of(fields)
        if found.count > self.accepted.count:
            self.accepted = found
        for name, data in fields.items():
            if name.startswith(MESSAGE):
                self._contents[int(name.removeprefix(MESSAGE))] = data

    def wanted(self) -> tuple[str, str]:
        """The fields to read for the next message."""
        return INBOX, message_field(self.consumed.count + 1)

    def message(self, number: int, first: struct_pb2.Value) -> Message | None:
        """The message with this number, if its content is known. `first`, the run's input, is number 1."""
        if number == 1:
            return Message(1, run_pb2.MESSAGE_MODE_QUEUE, first)
        data = self._contents.get(number)
        return Message.unpack(number, data) if data else None

    def next(self, first: struct_pb2.Value) -> Message | None:
        """The message that is to be consumed next; None: there is none."""
        return self.message(self.consumed.count + 1, first) if self.waiting > 0 else None

    def consume(self, message: Message) -> dict[str, bytes]:
        """Counts it as consumed; the fields to write with what tells of it."""
        size = message.size_bytes if message.number > 1 else 0
        self.consumed = Consumed(message.number, self.consumed.size_bytes + size)
        return {CONSUMED: self.consumed.pack()}

    def spent(self, number: int) -> dict[str, bytes]:
        """The fields to write once the content of a consumed message is of no use any more."""
        return {message_field(number): b""} if number > 1 else {}

    def stale(self, keep: int) -> list[str]:
        """The fields that an attempt removes when it begins: those of messages that earlier ones have consumed, except
        that of number `keep`."""
        return [message_field(number) for number in self._contents if number <= self.consumed.count and number != keep]


def acceptance(
    topic: str,
    attempt: int,
    accepted: Accepted,
    message: Message,
    sent: Mapping[str, bytes] | None = None,
    deletes: Sequence[str] = (),
) -> Commit:
    """The commit that accepts one more message, if nobody else has and no worker has claimed the run since `accepted`
    was read, under this attempt. `sent`: what remembers its request id; `deletes`: what remembered another's. Raises
    Fenced and FieldExists where that is not so."""
    senders = {sender_field(message.number): name.encode() for name in sent or {}}
    return Commit(
        topic,
        attempt=attempt,
        puts={INBOX: accepted.and_one(message).pack(), **senders},
        deletes=deletes,
        # The request id first: a repeat is to be told from another sender.
        puts_once={**(sent or {}), message.field: message.pack()},
        schedule=Schedule.WAKE,
    )
