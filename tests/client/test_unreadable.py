"""What a client says of an answer that it cannot parse, of its own end, and of an empty id."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from runwire import errors
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import run_event_pb2
from runwire.client import AgentClient, ScorerClient, fold, scorer_run_filter, sync
from tests.client.conftest import QUICK, Watch
from tests.client.scripted import ScriptedAgentService, serving, text_log
from tests.service.fuzzing import deep

SERVICE = pb.DESCRIPTOR.services_by_name["AgentService"].full_name


def _framed(number: int, data: bytes) -> bytes:
    size, out = len(data), bytearray([number << 3 | 2])
    while size >= 0x80:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([*out, size]) + data


def too_deep() -> bytes:
    """A frame with an event that an older service let through: its arguments have 33 levels."""
    started = _framed(3, deep(33))  # ToolCallStarted.arguments
    event = b"\x08\x02" + b"\xa2\x01" + _framed(1, started)[1:]
    return _framed(1, b"after-2") + _framed(3, _framed(1, event))


@asynccontextmanager
async def raw(frames: list[bytes], opened: list[int]) -> AsyncIterator[str]:
    """A service that answers WatchRun with these bytes, and GetRun with the last of them."""

    async def watch(request: bytes, context: Any) -> AsyncIterator[bytes]:
        opened.append(1)
        for frame in frames:
            yield frame

    async def get(request: bytes, context: Any) -> bytes:
        return frames[-1]

    handlers = {
        "WatchRun": grpc.unary_stream_rpc_method_handler(watch),
        "GetRun": grpc.unary_unary_rpc_method_handler(get),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.mark.parametrize("bad", [too_deep(), b"\xff\xff"], ids=["too deep", "damaged"])
async def test_a_frame_that_does_not_parse_is_no_cut(
    watch: Watch, bad: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is an error with a reason of its own, told at once and not after ten minutes of repetitions; the events before
    it are given out, and the cursor stands before it."""
    event = run_event_pb2.RunEvent(sequence=1, attempt=1, run_started=run_event_pb2.RunStarted(run_id="run-1"))
    first = pb.WatchRunResponse(cursor="after-1", batch=pb.Batch(events=[event])).SerializeToString()
    opened: list[int] = []
    async with raw([first, bad], opened) as address:
        watched = await watch(address)
    assert isinstance(watched.error, errors.FrameUnreadable)
    assert watched.error.reason == "FRAME_UNREADABLE"
    assert (watched.sequences, watched.cursor, len(opened)) == ([1], "after-1", 1)
    assert not caplog.records


async def test_an_answer_that_does_not_parse() -> None:
    """The same of a call, in both clients."""
    async with raw([b"\xff\xff"], []) as address:
        async with AgentClient(address, resume=QUICK) as client:
            with pytest.raises(errors.FrameUnreadable):
                await client.get_run("run-1")

        def ask() -> None:
            with sync.AgentClient(address, resume=QUICK) as client, pytest.raises(errors.FrameUnreadable):
                client.get_run("run-1")

        await asyncio.to_thread(ask)


async def test_close_cancels_nobody_else_s_task(service: ScriptedAgentService) -> None:
    """A call under way in another task ends with an error of its own when the client is closed, and the task
    continues; a task that is cancelled itself is cancelled."""
    waits = asyncio.Event()

    async def hang(context: Any) -> None:
        waits.set()
        await asyncio.Event().wait()

    async def start(client: AgentClient) -> str:
        try:
            await client.start_run("scripted")
        except errors.ClientClosed as error:
            return error.reason
        return ""

    async with serving(service) as address:
        service.unary.append(hang)
        client = AgentClient(address, resume=QUICK)
        calling = asyncio.create_task(start(client))
        await waits.wait()
        await client.close()
        async with asyncio.timeout(10):
            assert await calling == "CLIENT_CLOSED"
        waits.clear()
        service.unary.append(hang)
        async with AgentClient(address, resume=QUICK) as other:
            calling = asyncio.create_task(start(other))
            await waits.wait()
            calling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await calling


async def test_close_of_a_synchronous_client(service: ScriptedAgentService) -> None:
    """The same between threads."""
    waits = asyncio.Event()

    async def hang(context: Any) -> None:
        waits.set()
        await asyncio.Event().wait()

    async with serving(service) as address:
        service.unary.append(hang)
        client = sync.AgentClient(address, resume=QUICK)
        calling = asyncio.create_task(asyncio.to_thread(client.start_run, "scripted"))
        await waits.wait()
        await asyncio.to_thread(client.close)
        async with asyncio.timeout(10):
            with pytest.raises(errors.ClientClosed):
                await calling


@pytest.mark.parametrize(
    "call",
    [
        lambda: ScorerClient("127.0.0.1:1").watch_scorer_runs(""),
        lambda: sync.ScorerClient("127.0.0.1:1").watch_scorer_runs(""),
        lambda: scorer_run_filter(run_id=""),
        lambda: scorer_run_filter(scorer_id=""),
        lambda: AgentClient("127.0.0.1:1").run("echo", request_id=""),
    ],
)
def test_an_empty_id_is_an_error(call: Callable[[], object]) -> None:
    """It is a variable that nobody set: it never means all there is, nor a call that must not be repeated."""
    with pytest.raises(errors.InvalidRequest):
        call()


async def test_a_view_says_that_it_began_in_the_middle(service: ScriptedAgentService, address: str) -> None:
    """A fold after a cursor knows its run, and says that it is only a part; from the first event it is whole."""
    async with AgentClient(address, resume=QUICK) as client:
        part = await client.watch("run-1", after=service.cursor(5)).fold()
        whole = await client.watch("run-1").fold()
    assert (part.run_id, part.partial, part.first_sequence) == ("run-1", True, 6)
    assert (whole.run_id, whole.partial, whole.first_sequence) == ("run-1", False, 1)
    assert not fold(text_log(3)).partial
