"""A model provider on loopback that speaks OpenAI's streaming protocol, and fails as it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Speak:
    """A complete answer, word by word."""

    words: Sequence[str]


@dataclass
class Call:
    """An answer that calls a tool."""

    name: str
    arguments: dict[str, Any]


@dataclass
class Refuse:
    """An HTTP error in place of an answer."""

    status: int
    message: str = "no"
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Cut:
    """The connection ends in the middle of these words."""

    words: Sequence[str]


@dataclass
class Stall:
    """These words, and then silence."""

    words: Sequence[str] = ()


Turn = Speak | Call | Refuse | Cut | Stall


@dataclass
class Provider:
    """Answers request after request as scripted; the last turn is repeated."""

    script: Sequence[Turn]
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    int(line.split(b":")[1])
                    for line in head.split(b"\r\n")
                    if line.lower().startswith(b"content-length")
                )
                self.requests.append(json.loads(await reader.readexactly(length)))
                turn = self.script[min(len(self.requests), len(self.script)) - 1]
                if not await self._answer(turn, writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, turn: Turn, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection may be used again."""
        if isinstance(turn, Refuse):
            body = json.dumps({"error": {"message": turn.message, "type": "error"}}).encode()
            headers = "".join(f"{name}: {value}\r\n" for name, value in turn.headers.items())
            writer.write(
                f"HTTP/1.1 {turn.status} No\r\ncontent-type: application/json\r\n{headers}"
                f"content-length: {len(body)}\r\n\r\n".encode()
                + body
            )
            await writer.drain()
            return True
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for delta in _deltas(turn):
            await _send(writer, {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
        if isinstance(turn, Cut):
            return False
        if isinstance(turn, Stall):
            await asyncio.sleep(60)
            return False
        reason = "tool_calls" if isinstance(turn, Call) else "stop"
        await _send(writer, {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        await _send(writer, {"choices": [], "usage": usage})
        writer.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")
        await writer.drain()
        return True


def _deltas(turn: Speak | Call | Cut | Stall) -> Sequence[dict[str, Any]]:
    if isinstance(turn, Call):
        function = {"name": turn.name, "arguments": json.dumps(turn.arguments)}
        return [
            {"role": "assistant", "tool_calls": [{"index": 0, "id": "call", "type": "function", "function": function}]}
        ]
    return [{"role": "assistant", "content": word} for word in turn.words]


async def _send(writer: asyncio.StreamWriter, chunk: dict[str, Any]) -> None:
    whole = {"id": "chat", "object": "chat.completion.chunk", "created": 1, "model": "local", **chunk}
    writer.write(_chunk(f"data: {json.dumps(whole)}\n\n".encode()))
    await writer.drain()
    await asyncio.sleep(0)


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


@asynccontextmanager
async def provider(*script: Turn) -> AsyncIterator[Provider]:
    served = Provider(script)
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        try:
            await served.serve(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            connections.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    served.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    try:
        yield served
    finally:
        server.close()
        for task in tuple(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
