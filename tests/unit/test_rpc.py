"""Errors on the wire: what a client gets of them, however large they are."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Hashable, Iterable
from contextlib import asynccontextmanager, suppress

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from benchmarks import http2
from runwire import rpc
from runwire.agent.v1 import agent_service_pb2, agent_service_pb2_grpc, run_pb2
from runwire.calls import Call, Calls
from runwire.errors import AgentNotFound, ConfigurationError, InvalidRequest, RunwireError
from runwire.identity.access import Access
from runwire.identity.authenticator import Authenticator
from runwire.identity.principal import ADMIN, ANONYMOUS, Principal
from runwire.logs import Sparing
from runwire.rpc import serve

LIMIT_SECONDS = 10.0


class Failing(agent_service_pb2_grpc.AgentServiceServicer):
    """Answers every GetRun with the same error."""

    def __init__(self, error: RunwireError) -> None:
        self.error = error

    async def GetRun(self, request: object, context: object) -> agent_service_pb2.GetRunResponse:
        raise self.error

    def __call__(self, server: grpc.aio.Server) -> None:
        agent_service_pb2_grpc.add_AgentServiceServicer_to_server(self, server)


@asynccontextmanager
async def failing(error: RunwireError) -> AsyncIterator[agent_service_pb2_grpc.AgentServiceStub]:
    async with (
        serve("127.0.0.1:0", Failing(error), [], grace_seconds=0.0) as server,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        yield agent_service_pb2_grpc.AgentServiceStub(channel)


async def refusal(
    error: RunwireError,
) -> tuple[grpc.StatusCode, str, list[error_details_pb2.BadRequest.FieldViolation]]:
    """Code, message and violations that a client gets."""
    async with failing(error) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetRun(agent_service_pb2.GetRunRequest(), timeout=LIMIT_SECONDS)
    status = rpc_status.from_call(caught.value)
    assert status is not None
    violations = []
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            violations = list(bad.field_violations)
    return caught.value.code(), status.message, violations


@pytest.mark.parametrize("path", [lambda n: f"input[{n}]", lambda n: f"input.{'é' * 5000}{n}"], ids=["many", "long"])
async def test_more_violations_than_fit(path: Callable[[int], str]) -> None:
    """The first are named, and how many there are; a status that is too large would be another error altogether."""
    violations = {path(number): "should be a whole number, ‘one’ is none" for number in range(3000)}
    code, message, shown = await refusal(InvalidRequest(violations))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert 0 < len(shown) < 3000
    assert message.endswith(f"({len(shown)} of 3000 violations shown)")
    for (field, problem), violation in zip(violations.items(), shown, strict=False):
        assert field.startswith(violation.field.removesuffix(" ..."))
        assert violation.description == problem


async def test_a_few_violations_come_whole() -> None:
    """What fits is not touched."""
    violations = {"input.a": "is missing", "input.b[3]": "should be a whole number"}
    code, message, shown = await refusal(InvalidRequest(violations))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message == "input.a: is missing; input.b[3]: should be a whole number"
    assert {violation.field: violation.description for violation in shown} == violations


async def test_a_long_message() -> None:
    """What quotes the client's own words is cut, and the error stays what it is."""
    name = "ü" * 100_000
    code, message, _ = await refusal(AgentNotFound(f"no agent {name}", agent_id=name))
    assert code is grpc.StatusCode.NOT_FOUND
    assert message.startswith("no agent üü")


@pytest.mark.parametrize("listen", ["a..b:0", f"{'a' * 70}:0", "a\0b:0", "localhost", ":1", "127.0.0.1:70000"])
async def test_an_address_that_is_none(listen: str) -> None:
    """It is the user's mistake, and said so."""
    with pytest.raises(ConfigurationError, match="cannot listen"):
        async with serve(listen, lambda server: None, []):
            pass


class Left(agent_service_pb2_grpc.AgentServiceServicer):
    """Each of its clients leaves while it is answered: before this process can know, or with the answer under way."""

    def __init__(self, is_known: bool, error: Exception | None) -> None:
        self.is_known, self.error = is_known, error
        self.client: http2.Connection

    def leave(self) -> str:
        """What to answer: more than the client takes."""
        if self.is_known:
            self.client.socket.shutdown(socket.SHUT_RDWR)
            time.sleep(0.1)  # the point: gRPC's own threads see it, and this loop does not
        else:
            asyncio.get_running_loop().call_soon(self.client.socket.shutdown, socket.SHUT_RDWR)
        if self.error:
            raise self.error
        return "x" * 100_000

    async def GetRun(self, request: object, context: object) -> agent_service_pb2.GetRunResponse:
        return agent_service_pb2.GetRunResponse(run=run_pb2.Run(run_id=self.leave()))

    async def WatchRun(self, request: object, context: object) -> AsyncIterator[agent_service_pb2.WatchRunResponse]:
        yield agent_service_pb2.WatchRunResponse(cursor=self.leave())

    def __call__(self, server: grpc.aio.Server) -> None:
        agent_service_pb2_grpc.add_AgentServiceServicer_to_server(self, server)


@pytest.mark.parametrize("error", [None, AgentNotFound("none", agent_id="a"), ValueError("ours")], ids=str)
@pytest.mark.parametrize("is_known", [True, False], ids=["known", "unknown"])
@pytest.mark.parametrize("method", ["GetRun", "WatchRun"])
async def test_a_client_that_leaves_is_no_fault(
    method: str,
    is_known: bool,
    error: Exception | None,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is said of one that leaves while its answer, its first frame or its error is sent; a fault of ours is."""
    monkeypatch.setattr(rpc, "_faults", Sparing(rpc.logger))  # each kind is said once in a while
    service = Left(is_known, error)
    async with serve("127.0.0.1:0", service, [], grace_seconds=0.0) as server:
        service.client = await http2.connect(server.address, window=8)
        ended = service.client.watch(f"/runwire.agent.v1.AgentService/{method}", b"", lambda _: None)
        with suppress(ConnectionError):
            await ended
    said = [record.name for record in caplog.records if record.levelno >= logging.WARNING]
    assert said == (["runwire.rpc"] if isinstance(error, ValueError) else [])


class Late(agent_service_pb2_grpc.AgentServiceServicer):
    """Its stream has something to say when the server has stopped already."""

    def __init__(self) -> None:
        self.opened, self.stopped, self.ended = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def WatchRun(self, request: object, context: object) -> AsyncIterator[agent_service_pb2.WatchRunResponse]:
        self.opened.set()
        try:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            await self.stopped.wait()
            yield agent_service_pb2.WatchRunResponse()
        finally:
            self.ended.set()

    def __call__(self, server: grpc.aio.Server) -> None:
        agent_service_pb2_grpc.add_AgentServiceServicer_to_server(self, server)


async def test_a_frame_after_the_end(caplog: pytest.LogCaptureFixture) -> None:
    """A stream that is cut by the end of the server, and continues a little, is no fault either."""
    service = Late()
    async with serve("127.0.0.1:0", service, [], grace_seconds=0.0) as server:
        client = await http2.connect(server.address)
        client.watch("/runwire.agent.v1.AgentService/WatchRun", b"", lambda _: None)
        await service.opened.wait()
        client.close()
    service.stopped.set()
    async with asyncio.timeout(LIMIT_SECONDS):
        await service.ended.wait()
    gc.collect()  # what gRPC does not hear of comes to light with its task
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


class Named(Authenticator):
    """Knows callers by what they say."""

    async def by_token(self, metadata: Iterable[tuple[str, str | bytes]]) -> Principal | None:
        names = [str(value) for key, value in metadata if key == "name"]
        return Principal(names[0], "acme", frozenset({ADMIN})) if names else ANONYMOUS


class Heard(Calls):
    """Notes who comes."""

    def __init__(self) -> None:
        super().__init__()
        self.came: list[tuple[str, Hashable]] = []

    async def enter(self, peer: str = "", who: Hashable = None) -> Call:
        self.came.append((peer, who))
        return await super().enter(peer, who)


async def test_callers_are_told_apart() -> None:
    """By tenant and name where they are known, whichever connection they come by, and else by their connection."""
    calls = Heard()
    serving = serve("127.0.0.1:0", Failing(AgentNotFound("none")), [], access=Access(Named()), calls=calls)
    async with serving as server:
        for metadata in ([("name", "ann")], [("name", "ann")], []):
            async with grpc.aio.insecure_channel(server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                stub = agent_service_pb2_grpc.AgentServiceStub(channel)
                with pytest.raises(grpc.aio.AioRpcError):
                    await stub.GetRun(agent_service_pb2.GetRunRequest(), metadata=metadata, timeout=LIMIT_SECONDS)
    assert [who for _, who in calls.came] == [("acme", "ann"), ("acme", "ann"), None]
    assert len({peer for peer, _ in calls.came}) == 3
