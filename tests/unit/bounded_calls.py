"""Random histories of unary calls and of streams: what a server holds is what it counts, and bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

from runwire import calls as module
from runwire.budget import MAX_FRAME_BYTES, MIN_FRAME_BYTES
from runwire.calls import RECEIVING_BYTES, Call, Calls
from runwire.errors import SlowConsumer, TooManyRequests, TooManyStreams
from runwire.gate import STALLED_SECONDS
from runwire.outflow import Outflow, Stream
from tests.log.stepped_loop import SteppedLoop

STEPS: Final = 120
MAX_CALLS: Final = 2
MAX_SLOW: Final = 3
SLOW_SECONDS: Final = 1.0
MIB: Final = 1024 * 1024


# Unary calls


@dataclass(eq=False)
class _Case:
    """A call of a client, which sends its request and reads its answer when the history says so."""

    peer: str
    task: asyncio.Task[None]
    request: asyncio.Future[int]
    work: asyncio.Future[int]
    call: Call | None = None
    stage: str = "entering"
    began: float = 0.0
    """When it entered."""
    size: int = 0
    may_enter: bool = False
    """Its connection has had room for an answer at some time since it came."""

    def request_bytes(self, now: float) -> int:
        if self.stage == "receiving":
            return 0 if self.is_slow(now) else 2 * RECEIVING_BYTES
        return 2 * self.size if self.stage == "working" else 0

    def is_slow(self, now: float) -> bool:
        return self.stage == "receiving" and now - self.began >= SLOW_SECONDS - 1e-6

    def has_place(self, now: float) -> bool:
        return self.stage in ("receiving", "working") and now - self.began < STALLED_SECONDS


def calls(random: Random, loop: SteppedLoop) -> None:
    """Clients call, send slowly or never, leave, and read their answers or do not, in any order."""
    before, module._MAX_SLOW = module._MAX_SLOW, MAX_SLOW
    try:
        _Office(random, loop).run()
    finally:
        module._MAX_SLOW = before


class _Office:
    def __init__(self, random: Random, loop: SteppedLoop) -> None:
        self.random, self.loop = random, loop
        self.it = Calls(MAX_CALLS, buffer_bytes=128 * MIB)
        self.cases: list[_Case] = []
        self.has_let_in = False
        """A call of a connection that was behind all the time."""

    def run(self) -> None:
        steps: list[tuple[int, Callable[[], None]]] = [
            (6, self.come), (4, self.send), (4, self.answer), (3, self.read), (1, self.leave), (2, self.wait),
        ]  # fmt: skip
        for _ in range(STEPS):
            [step] = self.random.choices([each for _, each in steps], [weight for weight, _ in steps])
            step()
            self.loop.settle()
            self.check()
        self.end()

    def of(self, *stages: str) -> list[_Case]:
        return [case for case in self.cases if case.stage in stages]

    def come(self) -> None:
        case = _Case(self.random.choice("aab"), None, self.loop.create_future(), self.loop.create_future())  # type: ignore[arg-type]
        case.task = self.loop.create_task(self.serve(case))
        case.may_enter = not self.is_behind(case.peer)
        self.cases.append(case)

    async def serve(self, case: _Case) -> None:
        try:
            case.call = await self.it.enter(case.peer)
            case.stage, case.began = "receiving", self.loop.time()
            self.has_let_in = self.has_let_in or not case.may_enter

            async def received() -> int:
                return await case.request

            case.size = await case.call.receive(received)
            case.stage = "working"
            with case.call.holding(case.size):
                case.size = await case.work
                case.stage = "answered"
                case.call.send(case.size)
        except (TooManyRequests, RuntimeError):
            case.stage = "refused"
        except asyncio.CancelledError:
            case.stage = "gone"
            raise

    def is_behind(self, peer: str) -> bool:
        used = sum(2 * case.size for case in self.of("answered") if case.peer == peer)
        return used > 0 and used + 2 * MAX_FRAME_BYTES > self.it.answers.share_bytes

    def send(self) -> None:
        if waiting := self.of("receiving"):
            request = self.random.choice(waiting).request
            if self.random.random() < 0.1:
                request.set_exception(RuntimeError("the connection is gone"))
            else:
                request.set_result(self.random.choice((100, MIN_FRAME_BYTES, MIB, 4 * MIB)))

    def answer(self) -> None:
        if working := self.of("working"):
            work = self.random.choice(working).work
            if self.random.random() < 0.2:
                work.set_exception(RuntimeError("refused"))
            else:
                work.set_result(self.random.choice((100, MIB, 4 * MIB)))

    def read(self) -> None:
        if answered := self.of("answered"):
            case = self.random.choice(answered)
            assert case.call is not None
            case.stage = "done"
            case.call.close()
            case.call.close()
            self.note_room()

    def leave(self) -> None:
        if staying := self.of("entering", "receiving", "working"):
            self.random.choice(staying).task.cancel()

    def wait(self) -> None:
        for _ in range(self.random.choice((1, 3, 12))):  # each look at a call that is received is after the last
            self.loop.pass_time(0.1)

    def note_room(self) -> None:
        for case in self.of("entering"):
            case.may_enter = case.may_enter or not self.is_behind(case.peer)

    def check(self) -> None:
        now, it = self.loop.time(), self.it
        assert not self.has_let_in, "a connection that does not read got a further call"
        self.note_room()
        known = sum(case.request_bytes(now) for case in self.cases)
        entering = 2 * RECEIVING_BYTES * len(self.of("entering"))  # some have room already, and wait for a place
        assert known <= it.requests.used_bytes <= known + entering, "bytes of requests"
        assert it.answers.used_bytes == sum(2 * case.size for case in self.of("answered")), "bytes of answers"
        assert it.requests.used_bytes <= 2 * it.requests.limit_bytes
        assert sum(case.has_place(now) for case in self.cases) <= MAX_CALLS, "more at once than there are places"
        assert sum(case.is_slow(now) for case in self.cases) <= MAX_SLOW, "too many come slowly"
        assert it.waiting == len(self.of("entering")), "what is said to wait is not what waits"

    def end(self) -> None:
        """Everybody does what is left to do: then nothing is held, and every place is free."""
        for _ in range(len(self.cases) + 1):
            for case in self.of("receiving"):
                if not case.request.done():
                    case.request.set_result(100)
            self.loop.settle()
            for case in self.of("working"):
                if not case.work.done():
                    case.work.set_exception(RuntimeError("refused"))
            self.loop.settle()
            for _ in self.of("answered"):
                self.read()
            self.loop.pass_time(STALLED_SECONDS)
        assert not self.of("entering", "receiving", "working"), "somebody waits though nothing is held"
        assert (self.it.requests.used_bytes, self.it.answers.used_bytes, self.it.waiting) == (0, 0, 0)


# Streams


@dataclass(eq=False)
class _Context:
    """What gRPC says of a stream: a write is done when the client reads, or when the call is over."""

    name: str
    loop: SteppedLoop
    callbacks: list[Callable[[Any], None]] = field(default_factory=list)
    unread: asyncio.Future[None] | None = None
    is_over: bool = False

    def peer(self) -> str:
        return self.name

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.callbacks.append(callback)

    async def write(self, frame: bytes) -> None:
        self.unread = self.loop.create_future()
        await self.unread

    def read(self) -> None:
        if self.unread is not None and not self.unread.done():
            self.unread.set_result(None)

    def end(self) -> None:
        self.is_over = True
        for callback in self.callbacks:
            callback(self)


@dataclass(eq=False)
class _Reader:
    context: _Context
    stream: Stream
    task: asyncio.Task[None] | None = None
    size: int = 0
    """Of the frame that it was given, or for which it waits."""
    stage: str = "idle"


def streams(random: Random, loop: SteppedLoop) -> None:
    """Readers come up to the bound, are written to, read, stand still for longer than is allowed, and leave."""
    it = Outflow(buffer_bytes=64 * MIN_FRAME_BYTES, max_streams=4, write_timeout_seconds=5.0)
    readers: list[_Reader] = []
    for _ in range(STEPS):
        _stream_step(random, loop, it, readers)
        loop.settle()
        _check_streams(it, readers)
    for reader in tuple(readers):
        _end(loop, reader)
        readers.remove(reader)
    assert (it.budget.used_bytes, it.streams) == (0, 0), "those who left left something"


def _stream_step(random: Random, loop: SteppedLoop, it: Outflow, readers: list[_Reader]) -> None:
    step = random.random()
    if step < 0.2:
        context = _Context(random.choice("ab"), loop)
        try:
            readers.append(_Reader(context, loop.run_until_complete(_opened(it, context))))
        except TooManyStreams:
            assert len(readers) == 4
        else:
            assert len(readers) <= 4, "more streams than are allowed"
    elif not readers:
        return
    elif step < 0.55:
        reader = random.choice(readers)
        if reader.stage == "idle":
            reader.size = random.choice((1, 4, 20)) * MIN_FRAME_BYTES
            reader.task = loop.create_task(_write(reader))
    elif step < 0.85:
        random.choice(readers).context.read()
    elif step < 0.93:
        reader = random.choice(readers)
        if reader.stage == "stuck" or random.random() < 0.3:
            readers.remove(reader)
            _end(loop, reader)
    else:
        loop.pass_time(random.choice((1.0, 6.0)))


async def _opened(it: Outflow, context: _Context) -> Stream:
    return it.stream(context)


async def _write(reader: _Reader) -> None:
    try:
        if not reader.stream.fits(reader.size):
            reader.stage = "waiting"
            await reader.stream.room(reader.size)
        reader.stage = "writing"
        await reader.stream.write(bytes(reader.size))
        reader.stage = "idle"
    except SlowConsumer:
        reader.stage = "stuck" if reader.stage == "writing" else "idle"


def _end(loop: SteppedLoop, reader: _Reader) -> None:
    if reader.task is not None:
        reader.task.cancel()
        loop.settle()
    reader.context.end()
    loop.settle()


def _check_streams(it: Outflow, readers: list[_Reader]) -> None:
    held = sum(2 * reader.size for reader in readers if reader.stage in ("writing", "stuck"))
    assert it.budget.used_bytes == held, "what is counted is not what clients have not taken"
    assert it.streams == len(readers)
    assert not [reader for reader in readers if reader.stage == "writing" and reader.task is None]
