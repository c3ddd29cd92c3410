"""What a server sends on its streams: how many there are, how fast they may, and what those who do not read get."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from runwire.budget import Budget, Hold
from runwire.errors import SlowConsumer, TooManyStreams
from runwire.write_gate import WriteGate
from runwire.writes import Writes

BUFFER_BYTES: Final = 128 * 1024 * 1024
MAX_STREAMS: Final = 20_000
WRITE_TIMEOUT_SECONDS: Final = 60.0
RETRY_DELAY_SECONDS: Final = 0.1
_FIRST_FRAME_BYTES: Final = 32 * 1024
"""Frames grow from here with each that was taken: a client that never reads gets little."""
_MAX_DOUBLINGS: Final = 4


class Outflow:
    """The streams of one server. To be used on one event loop."""

    def __init__(
        self,
        buffer_bytes: int = BUFFER_BYTES,
        max_streams: int = MAX_STREAMS,
        write_timeout_seconds: float = WRITE_TIMEOUT_SECONDS,
    ) -> None:
        self.budget = Budget(buffer_bytes)
        self.streams = 0
        self.write_timeout_seconds = write_timeout_seconds
        self.gate = WriteGate()
        self.writes = Writes(write_timeout_seconds)
        self._max_streams = max_streams

    def stream(self, context: Any) -> Stream:
        """A further stream, which counts until its call is over, also if that has to wait for the client.

        Raises TooManyStreams.
        """
        if self.streams >= self._max_streams:
            raise TooManyStreams(f"this server has {self.streams} streams, as many as it allows")
        self.streams += 1
        context.add_done_callback(self._end)
        self.gate.opening()
        return Stream(self, context)

    def _end(self, *_: object) -> None:
        self.streams -= 1


class Stream:
    """One stream, and the way that its frames take (see `runwire.caching_pubsub.Way`)."""

    def __init__(self, outflow: Outflow, context: Any) -> None:
        self._outflow = outflow
        self._context = context
        self._account = outflow.budget.account(context.peer())
        self._taken = 0
        self._kept: Hold | None = None
        """Room that was waited for, until the frame is there that it is for."""
        context.add_done_callback(self._give_up)

    async def open(self) -> None:
        """Sends the headers. A message that takes them along and is not read would keep the status from being sent."""
        await self._context.send_initial_metadata(())

    def frame_bytes(self) -> int:
        """How large a frame may be made now."""
        return min(self._account.frame_bytes(), _FIRST_FRAME_BYTES << min(self._taken, _MAX_DOUBLINGS))

    def fits(self, size_bytes: int) -> bool:
        """Whether a frame that cannot be smaller may be sent now."""
        return (self._kept is not None and self._kept.covers(size_bytes)) or self._account.fits(size_bytes)

    async def room(self, size_bytes: int) -> None:
        """Waits until it may. Raises SlowConsumer if the client's connection does not take what it has."""
        self._give_up()
        seconds = self._outflow.write_timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                self._kept = await self._account.room(size_bytes)
        except TimeoutError:
            problem = f"the client's connection has not taken what it has for {seconds} s: resume"
            raise SlowConsumer(problem, RETRY_DELAY_SECONDS) from None

    async def write(self, frame: bytes) -> None:
        """Writes a frame. Raises SlowConsumer if the client does not read."""
        held, self._kept = self._kept, None
        if held is None:
            held = self._account.take(len(frame))
        else:
            held.resize(len(frame))
        outflow = self._outflow
        try:
            with outflow.writes.begin(outflow.gate.enter_now() or await outflow.gate.enter()):
                await self._context.write(frame)
        except TimeoutError:
            # gRPC keeps the frame, and sends the status after it, whenever the client reads.
            self._keep(held)
            seconds = outflow.write_timeout_seconds
            raise SlowConsumer(f"the client has not read for {seconds} s: resume", RETRY_DELAY_SECONDS) from None
        except BaseException:
            held.release()
            raise
        held.release()
        self._taken += 1

    def _give_up(self, *_: object) -> None:
        """Gives up room that was kept."""
        kept, self._kept = self._kept, None
        if kept is not None:
            kept.release()

    def _keep(self, held: Hold) -> None:
        self._context.add_done_callback(lambda *_: held.release())
