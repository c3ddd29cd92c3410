"""The least that a client of a server-streaming RPC can be: one HTTP/2 connection, messages as bytes.

A Python gRPC client costs as much processor time for a message as the server does, and both together are more than two
cores have: with it, the reader would be what is measured. This one costs about a tenth of it, as native clients do. It
gives one large window and never updates it, so it is good for a gigabyte; nothing else that a real client must do is
done here. RFC 9113, and RFC 7541 with literal headers alone.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_WINDOW: Final = 2**30

OnMessage = Callable[[bytes], None]


class Connection(asyncio.Protocol):
    """Many streams of one connection. Made by `connect`."""

    def __init__(self, authority: str, window: int) -> None:
        self._authority = authority.encode()
        self._window = window
        self._transport: asyncio.Transport
        self._buffer = bytearray()
        self._streams: dict[int, _Stream] = {}
        self._next_id = 1

    def watch(self, path: str, request: bytes | None, on_message: OnMessage) -> asyncio.Future[None]:
        """Opens a stream; `on_message` takes each message. Done when the stream has ended, with an error if it was
        reset or the connection was lost. Without a request: begins a call, and never sends one."""
        stream_id, self._next_id = self._next_id, self._next_id + 2
        stream = self._streams[stream_id] = _Stream(on_message)
        headers = b"\x83\x86" + _literal(b"\x04", path.encode()) + _literal(b"\x01", self._authority)
        for name, value in ((b"content-type", b"application/grpc"), (b"te", b"trailers")):
            headers += b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value
        self._transport.write(_frame(_HEADERS, _END_HEADERS, stream_id, headers))
        if request is not None:
            body = b"\x00" + len(request).to_bytes(4, "big") + request
            self._transport.write(_frame(_DATA, _END_STREAM, stream_id, body))
        return stream.ended

    @property
    def socket(self) -> socket.socket:
        """What it goes through."""
        found: socket.socket = self._transport.get_extra_info("socket")
        return found

    def close(self) -> None:
        for stream in self._streams.values():
            stream.ended.cancel()
        self._transport.abort()

    # For the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        window = b"\x00\x04" + self._window.to_bytes(4, "big")
        update = _frame(8, 0, 0, self._window.to_bytes(4, "big"))
        transport.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, window) + update)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        buffer, start = bytes(self._buffer), 0
        while len(buffer) - start >= 9:
            end = start + 9 + int.from_bytes(buffer[start : start + 3], "big")
            if len(buffer) < end:
                break
            stream_id = int.from_bytes(buffer[start + 5 : start + 9], "big")
            self._take(buffer[start + 3], buffer[start + 4], stream_id, buffer[start + 9 : end])
            start = end
        del self._buffer[:start]

    def _take(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        stream = self._streams.get(stream_id)
        if kind == _DATA and stream:
            stream.take(payload)
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            self._transport.write(_frame(kind, _ACK, 0, payload if kind == _PING else b""))
        elif kind == _GOAWAY:
            self._fail(ConnectionError("the server said goodbye"))
        elif kind == _RST_STREAM and stream:
            stream.fail(ConnectionError("the stream was reset"))
        if kind in (_DATA, _HEADERS) and flags & _END_STREAM and stream:
            del self._streams[stream_id]
            if not stream.ended.done():
                stream.ended.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail(error or ConnectionError("the connection was lost"))

    def _fail(self, error: Exception) -> None:
        for stream in self._streams.values():
            stream.fail(error)


class _Stream:
    def __init__(self, on_message: OnMessage) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._on_message = on_message
        self._rest = b""

    def take(self, payload: bytes) -> None:
        data = self._rest + payload if self._rest else payload
        start = 0
        while len(data) - start >= 5:
            end = start + 5 + int.from_bytes(data[start + 1 : start + 5], "big")
            if len(data) < end:
                break
            self._on_message(data[start + 5 : end])
            start = end
        self._rest = data[start:]

    def fail(self, error: Exception) -> None:
        if not self.ended.done():
            self.ended.set_exception(error)


def _frame(kind: int, flags: int, stream_id: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream_id.to_bytes(4, "big") + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header that no table remembers; its value has at most 126 bytes."""
    assert len(value) < 127
    return name + bytes([len(value)]) + value


async def connect(address: str, window: int = _WINDOW) -> Connection:
    """`window` is what a stream, and then the connection, may be sent: a small one makes readers that do not read."""
    host, _, port = address.rpartition(":")
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(address, window), host, int(port))
    return connection
