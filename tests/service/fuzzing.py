"""Requests of every kind and none, made by descriptor: for the walk over all fields and for the fuzz."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import grpc
from google.protobuf import duration_pb2, message_factory, struct_pb2, timestamp_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from runwire.agent.v1 import agent_service_pb2
from runwire.scorer.v1 import scorer_service_pb2
from tests.service.replica import Refusal, refusal_of

AGENT_SERVICE = agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"]
SCORER_SERVICE = scorer_service_pb2.DESCRIPTOR.services_by_name["ScorerService"]
LIMIT_SECONDS = 20.0
_STREAM_SECONDS = 0.1

DOCUMENTED = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
}
"""What a request of any kind may be answered with, beside OK, by a service that is well."""


def class_of(descriptor: Descriptor) -> Any:
    return message_factory.GetMessageClass(descriptor)


@dataclass
class Wire:
    """Calls a service with bytes, and parses what it answers."""

    channel: grpc.aio.Channel

    async def call(self, method: MethodDescriptor, data: bytes, *, frames: int = 1) -> list[Message]:
        """The answer, or up to so many frames. Raises AioRpcError; DecodeError for what no client could read."""
        path = f"/{method.containing_service.full_name}/{method.name}"
        read = class_of(method.output_type).FromString
        if not method.server_streaming:
            async with asyncio.timeout(LIMIT_SECONDS):
                return [read(await self.channel.unary_unary(path)(data))]
        call = self.channel.unary_stream(path)(data)
        found: list[Message] = []
        try:
            async with asyncio.timeout(_STREAM_SECONDS):
                while len(found) < frames and (frame := await call.read()) is not grpc.aio.EOF:
                    found.append(read(frame))
        except TimeoutError:
            pass  # it was accepted, and there is nothing to tell yet
        finally:
            call.cancel()
        return found

    async def refusal(self, method: MethodDescriptor, data: bytes) -> Refusal | None:
        """How it was refused; None if it was not."""
        try:
            await self.call(method, data)
        except grpc.aio.AioRpcError as error:
            return refusal_of(error)
        return None


def fault(refusal: Refusal | None) -> str:
    """What is wrong with a refusal itself; empty if it is one that the contract knows."""
    if refusal is None:
        return ""
    if refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in refusal.message:
        return ""  # gRPC's own: above 4 MiB
    if refusal.code not in DOCUMENTED:
        return f"{refusal.code.name}: {refusal.message}"
    if not refusal.reason or refusal.domain != "runwire.dev":
        return f"{refusal.code.name} without a reason: {refusal.message}"
    if refusal.reason in ("INVALID_REQUEST", "REQUEST_MALFORMED") and not refusal.violations:
        return f"{refusal.reason} without a field: {refusal.message}"
    return ""


# Extremes


@cache
def deep(levels: int, *, lists: bool = False) -> bytes:
    """A Value so deep that protobuf could not build it: its bytes."""
    data = b"\x08\x00"
    for _ in range(levels):
        if lists:
            inner = _framed(1, data)
            data = _framed(6, inner)
        else:
            entry = _framed(1, b"a") + _framed(2, data)
            data = _framed(5, _framed(1, entry))
    return data


def _framed(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _tag(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


_SCALARS: dict[int, Sequence[bytes]] = {
    FieldDescriptor.TYPE_DOUBLE: [
        bytes.fromhex(each)
        for each in ("000000000000f87f", "000000000000f07f", "000000000000f0ff", "ffffffffffffef7f", "000000000000f0bf")
    ],
    FieldDescriptor.TYPE_BOOL: [_varint(2**63)],
}
_NUMBERS = [0, 1, 7, 99, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1]
_TEXTS = [b"", b"\0", b"\xed\xa0\x80", b"\xff", "ü".encode(), b"a\nb", b"../x", b"x" * 5_000, b"x" * 300_000]
_LARGEST = b"x" * (4 * 1024 * 1024 - 1024)
_TIMES = [
    (-1, 0),
    (0, -1),
    (0, 10**9),
    (2**62, 0),
    (-(2**62), 0),
    (253402300800, 0),
    (-62135596801, 0),
    (1, -1),
    (0, 0),
]


def _values() -> Iterator[bytes]:
    for levels in (30, 31, 33, 40, 10_000):
        yield deep(levels)
        yield deep(levels, lists=True)
    yield b""
    for number in _SCALARS[FieldDescriptor.TYPE_DOUBLE]:
        yield b"\x11" + number
    yield _framed(3, b"\xed\xa0\x80")
    yield _framed(6, _framed(1, b"\x08\x00") * 10_000)
    yield _framed(5, b"".join(_framed(1, _framed(1, b"%d" % n) + _framed(2, b"\x08\x00")) for n in range(10_000)))
    yield _framed(3, b"x" * 2_000_000)
    yield b"\x08\x63"  # a null that is 99
    yield b"\xa2\x06\x03abc"  # a field that nobody knows
    yield b"\x0b" * 99 + b"\x0c" * 99  # groups in groups


def extremes(target: FieldDescriptor, *, largest: bool = False) -> Iterator[bytes]:
    """Bytes of a message in which this field alone is set, to every extreme of its type. `largest`: 4 MiB too."""
    for content in _contents(target):
        yield content
        if target.is_repeated and len(content) < 100:
            yield content * 10_000
    if largest and target.type == FieldDescriptor.TYPE_STRING:
        yield _framed_as(target, _LARGEST)


def _framed_as(target: FieldDescriptor, content: bytes) -> bytes:
    return _tag(target.number, 2) + _varint(len(content)) + content


def _contents(target: FieldDescriptor) -> Iterator[bytes]:
    if target.type == FieldDescriptor.TYPE_STRING:
        yield from (_framed_as(target, text) for text in _TEXTS)
    elif target.type == FieldDescriptor.TYPE_DOUBLE:
        yield from (_tag(target.number, 1) + number for number in _SCALARS[target.type])
    elif target.message_type is None:
        yield from (_tag(target.number, 0) + _varint(number) for number in _NUMBERS)
    elif target.message_type.full_name == "google.protobuf.Value":
        yield from (_framed_as(target, value) for value in _values())
    elif target.message_type.full_name == "google.protobuf.Struct":
        for value in _values():
            yield _framed_as(target, _framed(1, _framed(1, b"k") + _framed(2, value)))
    elif target.message_type.full_name in ("google.protobuf.Timestamp", "google.protobuf.Duration"):
        for seconds, nanos in _TIMES:
            content = b"\x08" + _varint(seconds % 2**64) + b"\x10" + _varint(nanos % 2**64)
            yield _framed_as(target, content)
    elif target.message_type.GetOptions().map_entry:
        for key in _TEXTS:
            for value in (b"v", *_TEXTS[:4], b"x" * 5_000):
                yield _framed_as(target, _framed(1, key) + _framed(2, value))
        yield b"".join(_framed_as(target, _framed(1, b"%d" % n) + _framed(2, b"v")) for n in range(10_000))
    else:
        yield from (_framed_as(target, content) for content in (b"", b"\xff", b"\xa2\x06\x03abc"))


def fields(request: Descriptor, prefix: tuple[FieldDescriptor, ...] = ()) -> Iterator[tuple[FieldDescriptor, ...]]:
    """The way to every field of a request, at any depth."""
    for each in request.fields:
        yield (*prefix, each)
        inner = each.message_type
        if inner is not None and inner.full_name.startswith("runwire.") and not inner.GetOptions().map_entry:
            yield from fields(inner, (*prefix, each))


def wrapped(way: Sequence[FieldDescriptor], content: bytes) -> bytes:
    """`content`, of the last field of the way, inside of those before."""
    for each in reversed(way[:-1]):
        content = _framed_as(each, content)
    return content


# Random requests


@dataclass
class Maker:
    """Makes requests of one service: good ones of `known`, spoiled ones, and rubbish."""

    rng: random.Random
    templates: dict[str, list[Callable[[], Message]]]
    texts: list[str] = field(default_factory=list)
    """Ids, tokens and cursors that the service has given out."""

    def request(self, method: MethodDescriptor) -> bytes:
        rng = self.rng
        if rng.random() < 0.6 and self.templates.get(method.name):
            message = rng.choice(self.templates[method.name])()
        else:
            message = class_of(method.input_type)()
            self._fill(message, 0)
        data = message.SerializeToString()
        chance = rng.random()
        ways = list(fields(method.input_type))
        if chance < 0.25 and ways:
            way = rng.choice(ways)
            options = list(extremes(way[-1])) if rng.random() < 0.2 else list(_cheap(way[-1]))
            if options:
                data += wrapped(way, rng.choice(options))
        elif chance < 0.5:
            data = self._mutated(data)
        return data

    def _fill(self, message: Message, level: int) -> None:
        for each in message.DESCRIPTOR.fields:
            if self.rng.random() < 0.5:
                continue
            if each.message_type is not None and each.message_type.GetOptions().map_entry:
                getattr(message, each.name)[self._text()[:60]] = self._text()[:60]
            elif each.is_repeated:
                for _ in range(self.rng.randrange(3)):
                    if each.message_type is not None:
                        self._fill_any(getattr(message, each.name).add(), level)
                    else:
                        getattr(message, each.name).append(self._scalar(each))
            elif each.message_type is not None:
                inner = getattr(message, each.name)
                inner.SetInParent()
                self._fill_any(inner, level)
            else:
                setattr(message, each.name, self._scalar(each))

    def _fill_any(self, message: Message, level: int) -> None:
        if isinstance(message, struct_pb2.Value):
            message.CopyFrom(self._value(0))
        elif isinstance(message, struct_pb2.Struct):
            message.fields[self._text()[:40]].CopyFrom(self._value(1))
        elif isinstance(message, timestamp_pb2.Timestamp | duration_pb2.Duration):
            seconds, nanos = self.rng.choice([*_TIMES, (1, 0), (30, 0), (1_700_000_000, 5)])
            message.seconds, message.nanos = seconds, nanos
        elif level < 6:
            self._fill(message, level + 1)

    def _value(self, level: int) -> struct_pb2.Value:
        value, kind = struct_pb2.Value(), self.rng.randrange(7)
        if kind == 0:
            value.null_value = struct_pb2.NULL_VALUE
        elif kind == 1:
            value.number_value = self.rng.choice([0.0, 1.5, -3.0, 2.0**53, 1e308, float("nan"), float("inf")])
        elif kind == 2:
            value.bool_value = True
        elif kind in (3, 4) or level > 4:
            value.string_value = self._text()
        elif kind == 5:
            value.list_value.values.extend(self._value(level + 1) for _ in range(self.rng.randrange(4)))
        else:
            value.struct_value.fields[self._text()[:40]].CopyFrom(self._value(level + 1))
        return value

    def _scalar(self, target: FieldDescriptor) -> Any:
        rng = self.rng
        if target.type == FieldDescriptor.TYPE_STRING:
            return self._text()
        if target.type == FieldDescriptor.TYPE_BYTES:
            return rng.randbytes(rng.choice([0, 1, 300]))
        if target.type == FieldDescriptor.TYPE_DOUBLE:
            return rng.choice([0.0, 0.5, 1.0, -1.0, float("nan"), float("inf")])
        if target.type == FieldDescriptor.TYPE_BOOL:
            return rng.random() < 0.5
        if target.enum_type is not None:
            return rng.choice([0, 1, 2, 4, 5, 99, -1])
        if target.type == FieldDescriptor.TYPE_INT64:
            return rng.choice([0, 1, -1, 2**63 - 1, -(2**63)])
        return rng.choice([0, 1, 2, 50, 1000, -1, 2**31 - 1, -(2**31)])

    def _text(self) -> str:
        rng = self.rng
        if self.texts and rng.random() < 0.6:
            return rng.choice(self.texts)
        return rng.choice(["", "x", "\0", "ü", "a b", "a/b", "\n", "\u2028", "x" * 300, "echo", "brevity", "é" * 70])

    def _mutated(self, data: bytes) -> bytes:
        rng, spoiled = self.rng, bytearray(data)
        for _ in range(rng.randrange(1, 4)):
            place = rng.randrange(len(spoiled) + 1)
            what = rng.randrange(4)
            if what == 0 and place < len(spoiled):
                spoiled[place] ^= 1 << rng.randrange(8)
            elif what == 1:
                spoiled[place:place] = rng.randbytes(rng.randrange(1, 9))
            elif what == 2:
                del spoiled[place : place + rng.randrange(1, 9)]
            else:
                spoiled[place:place] = spoiled[: rng.randrange(20)]
        return bytes(spoiled)


def _cheap(target: FieldDescriptor) -> Iterator[bytes]:
    return (content for content in _contents(target) if len(content) < 1_000)


@dataclass
class Fuzz:
    """Sends requests, several at a time, and keeps what was wrong with the answers."""

    wire: Wire
    maker: Maker
    service: Any
    faults: list[str] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)

    async def run(self, count: int, at_once: int = 24) -> None:
        left = iter(range(count))

        async def work() -> None:
            for _ in left:
                await self._one()

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())

    async def _one(self) -> None:
        method = self.maker.rng.choice(list(self.service.methods))
        data = self.maker.request(method)
        try:
            answers = await self.wire.call(method, data)
        except grpc.aio.AioRpcError as error:
            refusal = refusal_of(error)
            self.codes[refusal.code.name] += 1
            if wrong := fault(refusal):
                self.faults.append(f"{method.name}({data[:200]!r}): {wrong}")
            return
        except Exception as error:
            self.faults.append(f"{method.name}({data[:200]!r}): {error!r}")
            return
        self.codes["OK"] += 1
        for answer in answers:
            self._learn(answer)

    def _learn(self, message: Message) -> None:
        """Keeps some of the ids, tokens and cursors that came back."""
        for each, value in message.ListFields():
            if each.message_type is not None and each.is_repeated and not each.message_type.GetOptions().map_entry:
                for inner in value[:2]:
                    self._learn(inner)
            elif each.message_type is not None and not each.is_repeated:
                self._learn(value)
            elif each.name.endswith(("_id", "cursor", "token")) and isinstance(value, str):
                self.maker.texts.append(value)
        del self.maker.texts[20:-200]
