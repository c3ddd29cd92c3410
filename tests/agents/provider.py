"""A model provider on loopback that speaks OpenAI's streaming protocols (chat completions and responses), and fails
as it is told to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
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


Answer = Speak | Call | Cut | Stall
Turn = Answer | Refuse


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
                if not await self._answer(turn, writer, responses=b"/responses " in head):
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, turn: Turn, writer: asyncio.StreamWriter, *, responses: bool) -> bool:
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
        for event in (_responses if responses else _chat)(turn):
            writer.write(_chunk(event))
            await writer.drain()
            await asyncio.sleep(0)
        if isinstance(turn, Stall):
            await asyncio.sleep(60)
        if isinstance(turn, Cut | Stall):
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        return True


def _chat(turn: Answer) -> Iterator[bytes]:
    """Chat completions: chunks with deltas, then the reason and the usage."""
    head = {"id": "chat", "object": "chat.completion.chunk", "created": 1, "model": "local"}
    for delta in _deltas(turn):
        yield _sse({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
    if not isinstance(turn, Cut | Stall):
        reason = "tool_calls" if isinstance(turn, Call) else "stop"
        yield _sse({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        yield _sse({**head, "choices": [], "usage": usage})
        yield b"data: [DONE]\n\n"


def _responses(turn: Answer) -> Iterator[bytes]:
    """Responses: typed, numbered events about the items of one response."""
    response = {"id": "resp", "object": "response", "created_at": 1, "model": "local", "output": [], "tools": [],
                "parallel_tool_calls": True, "tool_choice": "auto"}  # fmt: skip
    events: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": {**response, "status": "in_progress"}})
    ]
    at = {"output_index": 0, "item_id": "item"}
    if isinstance(turn, Call):
        item = {"type": "function_call", "id": "item", "call_id": "call", "name": turn.name, "arguments": ""}
        arguments = json.dumps(turn.arguments)
        done = {**item, "arguments": arguments, "status": "completed"}
        events += [
            ("response.output_item.added", {"output_index": 0, "item": {**item, "status": "in_progress"}}),
            ("response.function_call_arguments.delta", {**at, "delta": arguments}),
            ("response.function_call_arguments.done", {**at, "name": turn.name, "arguments": arguments}),
            ("response.output_item.done", {"output_index": 0, "item": done}),
        ]
    else:
        item = {"type": "message", "id": "item", "role": "assistant", "content": []}
        part = {"type": "output_text", "text": "", "annotations": []}
        done = {**item, "status": "completed", "content": [{**part, "text": "".join(turn.words)}]}
        events += [
            ("response.output_item.added", {"output_index": 0, "item": {**item, "status": "in_progress"}}),
            ("response.content_part.added", {**at, "content_index": 0, "part": part}),
            *(
                ("response.output_text.delta", {**at, "content_index": 0, "delta": word, "logprobs": []})
                for word in turn.words
            ),
        ]
    if not isinstance(turn, Cut | Stall):
        details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
        usage = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10, **details}
        whole = {**response, "status": "completed", "output": [done], "usage": usage}
        events.append(("response.completed", {"response": whole}))
    for number, (kind, event) in enumerate(events):
        yield f"event: {kind}\n".encode() + _sse({"type": kind, "sequence_number": number, **event})


def _deltas(turn: Answer) -> Sequence[dict[str, Any]]:
    if isinstance(turn, Call):
        function = {"name": turn.name, "arguments": json.dumps(turn.arguments)}
        return [
            {"role": "assistant", "tool_calls": [{"index": 0, "id": "call", "type": "function", "function": function}]}
        ]
    return [{"role": "assistant", "content": word} for word in turn.words]


def _sse(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()


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
