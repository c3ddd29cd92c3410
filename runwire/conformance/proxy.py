"""A TCP proxy that breaks connections on purpose, between and inside the messages that a service sends.

It understands as much of HTTP/2 (RFC 9113, section 4.1) as is needed to find gRPC messages on their way to the client:
nine bytes of header with length, type, flags and stream, and the messages in DATA frames. One stream a connection is
assumed, as a client under test has.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Final

from runwire.conformance.encryption import Encryption

_HEADER: Final = 9
_DATA: Final = 0
_HEADERS: Final = 1
_END_STREAM_AND_HEADERS: Final = 0x5
# `grpc-status: 0` as literals without indexing (RFC 7541, 6.2.2), which leave the compression state as it is.
_OK_TRAILERS: Final = b"\x00\x0bgrpc-status\x010"
_NO_LINGER: Final = struct.pack("ii", 1, 0)


class Break(Enum):
    """How a connection ends."""

    NONE = "none"
    """Not at all."""
    CLOSE = "closed between frames"
    RESET = "reset between frames"
    HALF = "closed half-way in a frame"
    FREEZE = "frozen"
    """It stays open, and nothing comes any more."""
    OK = "ended with OK and no end"
    """The stream gets status OK in place of its next message."""


@dataclass(frozen=True)
class Fault:
    """What happens to one connection."""

    kind: Break = Break.NONE
    messages: int = 0
    """After so many messages to the client."""
    when: asyncio.Event | None = None
    """And not before this is set: a connection that is closed may take with it what the client did not read yet."""
    delay_seconds: float = 0.0
    """Each piece of data is held back for this long."""
    replace: tuple[bytes, bytes] = (b"", b"")
    """Bytes to find in messages, and others of the same length to put in their place."""


class FaultProxy:
    """Listens on a port of its own and forwards to `targets` in turn. `choose` is asked at each connection."""

    def __init__(
        self,
        targets: Sequence[str],
        choose: Callable[[], Fault],
        broke: Callable[[Fault], None] | None = None,
        encryption: Encryption | None = None,
    ) -> None:
        """`broke` is told of each fault that was carried out."""
        self._targets = targets
        self._encryption = encryption
        self._choose = choose
        self._broke = broke
        self._accepted = 0

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """The address, while the context is open."""
        connections: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                connection = group.create_task(self._forward(reader, writer))
                connections.add(connection)
                connection.add_done_callback(connections.discard)

            ours = self._encryption.to_clients if self._encryption else None
            server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=ours)
            host, port = server.sockets[0].getsockname()[:2]
            try:
                yield f"{host}:{port}"
            finally:
                server.close()
                for connection in connections:
                    connection.cancel()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fault = self._choose()
        target = self._targets[self._accepted % len(self._targets)]
        self._accepted += 1
        host, _, port = target.rpartition(":")
        context, name = self._encryption.to_targets[target] if self._encryption else (None, None)
        try:
            upstream, to_upstream = await asyncio.open_connection(
                host.strip("[]"), int(port), ssl=context, server_hostname=name
            )
        except OSError:
            writer.close()  # as if nobody listened here
            return
        try:
            async with asyncio.TaskGroup() as group:
                sending = group.create_task(_copy(reader, to_upstream))
                await self.to_client(upstream, writer, fault)
                sending.cancel()
        except* (OSError, asyncio.IncompleteReadError):
            pass  # one of the two sides has gone
        finally:
            to_upstream.close()
            writer.close()

    async def to_client(self, upstream: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: Fault) -> None:
        """Forwards message by message until the fault is due, and then does it."""
        messages = Messages()
        while True:
            header = await upstream.readexactly(_HEADER)
            body = await upstream.readexactly(int.from_bytes(header[:3]))
            if header[3] != _DATA:
                writer.write(header + body)
                await writer.drain()
                continue
            await asyncio.sleep(fault.delay_seconds)
            before = messages.count
            ends = [0, *messages.take(body)]
            if fault.kind is Break.NONE or (before + len(ends) <= fault.messages + 1 and before < fault.messages):
                writer.write(header + body.replace(*fault.replace) if fault.replace[0] else header + body)
                await writer.drain()
                continue
            end = ends[fault.messages - before]
            if end:
                writer.write(_data(header, body[:end]))
            if fault.when is not None:
                await writer.drain()
                await fault.when.wait()
            self.tell(fault)
            await _break(writer, fault.kind, header, body[end:])
            return

    def tell(self, fault: Fault) -> None:
        """A fault is carried out."""
        if self._broke is not None:
            self._broke(fault)


class Messages:
    """Finds where gRPC messages end in the DATA of one stream: a server may put several of them into one frame, and one
    into several frames. Each has five bytes of header, of which the last four are its length."""

    def __init__(self) -> None:
        self.count = 0
        """How many have ended so far."""
        self._head = b""
        self._remaining = 0

    def take(self, body: bytes) -> list[int]:
        """Offsets in `body` behind the messages that end in it."""
        ends: list[int] = []
        place = 0
        while place < len(body):
            in_head = len(self._head) < 5
            size = 5 - len(self._head) if in_head else self._remaining
            piece = body[place : place + size]
            place += len(piece)
            if in_head:
                self._head += piece
                self._remaining = int.from_bytes(self._head[1:]) if len(self._head) == 5 else 0
            else:
                self._remaining -= len(piece)
            if len(self._head) == 5 and self._remaining == 0:
                self._head = b""
                ends.append(place)
        self.count += len(ends)
        return ends


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    # The client has hung up. This ends the connection to the service, and with it the other direction.
    writer.close()


def _data(header: bytes, body: bytes) -> bytes:
    """A frame like the one with `header`, with another body."""
    return len(body).to_bytes(3) + header[3:] + body


async def _break(writer: asyncio.StreamWriter, kind: Break, header: bytes, body: bytes) -> None:
    """Ends the connection in place of the message that would come next, of which `body` is the beginning."""
    if kind is Break.HALF:
        writer.write(_data(header, body)[: _HEADER + len(body) // 2])
        await writer.drain()
    elif kind is Break.OK:
        stream = header[5:9]
        writer.write(len(_OK_TRAILERS).to_bytes(3) + bytes((_HEADERS, _END_STREAM_AND_HEADERS)) + stream + _OK_TRAILERS)
        await writer.drain()
        # Left open a moment, so that the status is read before the connection goes.
        await asyncio.sleep(0.03)
    else:
        await hang_up(writer, kind)


async def hang_up(writer: asyncio.StreamWriter, kind: Break) -> None:
    """What RESET and FREEZE do before the connection is closed; nothing for others."""
    if kind is Break.RESET:
        connection = writer.get_extra_info("socket")
        if connection is not None:  # over TLS there is none any more where the client has left already
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    elif kind is Break.FREEZE:
        await asyncio.Event().wait()
