"""The same proxy for Server-Sent Events over HTTP/1.1: it breaks streams between their messages and inside of them.

Answers that are no such stream are passed on as they are. Messages are counted by the empty lines that end them; a
comment is none.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Final

from runwire.conformance.proxy import Break, Fault, FaultProxy, hang_up

_STREAM: Final = re.compile(rb"^content-type: *text/event-stream", re.IGNORECASE | re.MULTILINE)
_END: Final = b"0\r\n\r\n"
"""Of a response in chunks."""


class HttpFaultProxy(FaultProxy):
    """Between a reader and a gateway."""

    async def to_client(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault) -> None:
        """Forwards message by message until the fault is due, and then does it."""
        while True:
            head = await upstream.readuntil(b"\r\n\r\n")
            writer.write(head)
            if _STREAM.search(head) is None:
                await _pass(head, upstream, writer)
                continue
            left = fault.messages
            async for message in _messages(upstream):
                is_comment = message.startswith(b":")
                if fault.kind is not Break.NONE and left == 0 and not is_comment:
                    self.tell(fault)
                    await _break(writer, fault.kind, message)
                    return
                left -= not is_comment
                await asyncio.sleep(fault.delay_seconds)
                writer.write(_chunk(message))
                await writer.drain()
            writer.write(_END)
            await writer.drain()


async def _pass(head: bytes, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An answer that is no stream."""
    length = re.search(rb"^content-length: *(\d+)", head, re.IGNORECASE | re.MULTILINE)
    if length is not None:
        writer.write(await upstream.readexactly(int(length[1])))
    await writer.drain()


async def _messages(upstream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The messages of a response in chunks, each with the empty line that ends it; what is left at its end too."""
    rest = b""
    while size := int((await upstream.readuntil(b"\r\n")).strip(), 16):
        rest += await upstream.readexactly(size)
        await upstream.readexactly(2)
        *whole, rest = rest.split(b"\n\n")
        for message in whole:
            yield message + b"\n\n"
    await upstream.readexactly(2)
    if rest:
        yield rest


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _break(writer: asyncio.StreamWriter, kind: Break, message: bytes) -> None:
    """Ends the response in place of `message`."""
    if kind is Break.HALF:
        writer.write(_chunk(message)[: len(message) // 2])
        await writer.drain()
    elif kind is Break.OK:
        writer.write(_END)
        await writer.drain()
        # Left open a moment, so that the end is read before the connection goes.
        await asyncio.sleep(0.03)
    else:
        await hang_up(writer, kind)
