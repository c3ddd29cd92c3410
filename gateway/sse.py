"""Server-Sent Events as a response (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from starlette.types import Receive, Scope, Send

from gateway.problems import problem_of
from runwire.errors import RunwireError

logger = logging.getLogger(__name__)

Write: TypeAlias = Callable[[bytes], Awaitable[None]]
"""Sends whole messages, once there is room for them. May be called from several tasks."""

Source: TypeAlias = Callable[[Write], Awaitable[None]]
"""Writes the messages of a stream, and returns at its end."""

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    # nginx would gather a response before it passes it on.
    (b"x-accel-buffering", b"no"),
]
GREETING: Final = b"retry: 500\n\n"
"""Tells a browser how many milliseconds to wait before it opens the stream again."""


_LINE_ENDS: Final = {ord(each): f"\\u{ord(each):04x}" for each in "\u0085\u2028\u2029"}
"""No line ends of this protocol, but of Unicode: some readers divide lines by these too."""


def message(data: str, *, id: str = "", event: str = "") -> bytes:
    """One message. `data` is JSON in one line, and `id` has no line ends either."""
    if not data.isascii():
        data = data.translate(_LINE_ENDS)
    head = f"event: {event}\n" if event else ""
    return f"{head}id: {id}\ndata: {data}\n\n".encode() if id else f"{head}data: {data}\n\n".encode()


def problem(error: RunwireError) -> bytes:
    """The last message of a stream that cannot continue. Not named `error`, which is what a browser calls a cut."""
    return message(json.dumps(problem_of(error), ensure_ascii=False), event="problem")


class EventStream:
    """An ASGI response that sends what `source` writes, for as long as somebody reads.

    Promises: no message is cut by us; a reader that does not read costs what one write and the server's buffer hold,
    because `source` waits until there is room; within `heartbeat_seconds` something is sent; once
    `draining` is set the response ends after a whole message, and the browser comes back to another process with the
    last id that it saw. An error of `runwire.errors` becomes the message that `tell` makes of it; nothing if that is
    empty, and then the stream is one that was cut.
    """

    def __init__(
        self,
        source: Source,
        *,
        heartbeat_seconds: float,
        draining: asyncio.Event,
        greeting: bytes = GREETING,
        tell: Callable[[RunwireError], bytes] = problem,
    ) -> None:
        self._source = source
        self._greeting = greeting
        self._tell = tell
        self._heartbeat_seconds = heartbeat_seconds
        self._draining = draining
        self._sending = asyncio.Lock()
        self._sent = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Readers that can look at it know by it how long a silence is a cut.
        heartbeat = (b"runwire-heartbeat-seconds", f"{self._heartbeat_seconds:g}".encode())
        await send({"type": "http.response.start", "status": 200, "headers": [*_HEADERS, heartbeat]})
        if self._greeting:
            await self._write(send, self._greeting)
        async with asyncio.TaskGroup() as group:
            pumping = group.create_task(self._pump(send))
            others = [group.create_task(self._beat(send, pumping)), group.create_task(_gone(receive, pumping))]
            await asyncio.wait([pumping])
            for other in others:
                other.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _pump(self, send: Send) -> None:
        async def write(chunk: bytes) -> None:
            await self._write(send, chunk)

        try:
            await self._source(write)
        except* RunwireError as group:
            if told := self._tell(_first(group)):
                await write(told)
        except* Exception:
            # The browser opens the stream again, and what is at fault may have passed.
            logger.exception("an event stream ended with an error")

    async def _write(self, send: Send, chunk: bytes) -> None:
        async with self._sending:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        self._sent += 1

    async def _beat(self, send: Send, pumping: asyncio.Task[None]) -> None:
        """Sends comments while nothing else is sent, and ends the stream when this process is to end."""
        while True:
            before = self._sent
            try:
                async with asyncio.timeout(self._heartbeat_seconds):
                    await self._draining.wait()
                pumping.cancel()
                return
            except TimeoutError:
                if self._sent == before and not self._sending.locked():
                    await self._write(send, b": nothing new\n\n")


def _first(group: BaseExceptionGroup[RunwireError]) -> RunwireError:
    """One error of those that happened together."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, RunwireError)
    return error


async def _gone(receive: Receive, pumping: asyncio.Task[None]) -> None:
    """Ends the stream when its reader has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
    pumping.cancel()
