"""A replica of the agent service in this process: real gRPC, real execution, on any store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import struct_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from agent_service import app, config
from agent_service.agents.definition import Definition
from agent_service.agents.registry import Registry
from agent_service.execution.worker import Worker
from runwire import scorer_requests
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc, run_event_pb2, run_pb2
from runwire.caching_pubsub import CachingPubSub
from runwire.connect import open_store
from runwire.pubsub import Store
from runwire.values import to_value

LIMIT_SECONDS = 20.0
TENANT = "default"
ENDED = (run_pb2.RUN_STATE_SUCCEEDED, run_pb2.RUN_STATE_FAILED, run_pb2.RUN_STATE_CANCELLED)
Frame = pb.WatchRunResponse
HERE = {"suspect_processes": 0}
"""The agents of these tests are nothing that a process of its own could load."""


@dataclass(frozen=True)
class Refusal:
    """How a call failed, with all that the status tells."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    domain: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    violations: dict[str, str] = field(default_factory=dict)
    retry_seconds: float | None = None


def refusal_of(error: grpc.aio.AioRpcError) -> Refusal:
    """The status of a failed call, its details unpacked."""
    reason = domain = ""
    metadata: dict[str, str] = {}
    violations: dict[str, str] = {}
    retry_seconds: float | None = None
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        info, wrong, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        if detail.Unpack(info):
            reason, domain, metadata = info.reason, info.domain, dict(info.metadata)
        elif detail.Unpack(wrong):
            violations = {each.field: each.description for each in wrong.field_violations}
        elif detail.Unpack(retry):
            retry_seconds = retry.retry_delay.ToNanoseconds() / 1e9
    return Refusal(error.code(), error.details() or "", reason, domain, metadata, violations, retry_seconds)


async def refused(call: Awaitable[Any]) -> Refusal:
    """Awaits a call that must fail."""
    try:
        async with asyncio.timeout(LIMIT_SECONDS):
            answer = await call
    except grpc.aio.AioRpcError as error:
        return refusal_of(error)
    raise AssertionError(f"the call succeeded: {answer}")


class Watch:
    """One WatchRun stream, read by hand."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.frames: list[Frame] = []

    async def next(self) -> Frame | None:
        """The next frame; None at status OK. Raises AioRpcError."""
        async with asyncio.timeout(LIMIT_SECONDS):
            frame = await self.call.read()
        if frame is grpc.aio.EOF:
            return None
        self.frames.append(frame)
        return frame

    async def until(self, done: Callable[[Frame], object]) -> Frame:
        """Reads up to the first frame that is as wanted."""
        while frame := await self.next():
            if done(frame):
                return frame
        raise AssertionError(f"the stream ended after {self.kinds}")

    async def until_kind(self, kind: str) -> Frame:
        return await self.until(lambda frame: frame.WhichOneof("frame") == kind)

    async def until_event(self, payload: str) -> Frame:
        """Reads up to the batch that holds an event of this kind."""
        return await self.until(lambda frame: any(e.WhichOneof("payload") == payload for e in frame.batch.events))

    async def rest(self) -> list[Frame]:
        """Reads to the end, which must be status OK; all frames so far."""
        while await self.next():
            pass
        return self.frames

    async def refusal(self) -> Refusal:
        """Reads to the end, which must be an error."""
        try:
            await self.rest()
        except grpc.aio.AioRpcError as error:
            return refusal_of(error)
        raise AssertionError(f"the stream ended well after {self.kinds}")

    @property
    def kinds(self) -> list[str]:
        return [frame.WhichOneof("frame") or "" for frame in self.frames]

    @property
    def events(self) -> list[run_event_pb2.RunEvent]:
        return [event for frame in self.frames for event in frame.batch.events]

    @property
    def cursor(self) -> str:
        return self.frames[-1].cursor


@dataclass
class Replica:
    """A replica under test, and the store that it works on."""

    address: str
    channel: grpc.aio.Channel
    store: Store
    stopping: asyncio.Event

    def __post_init__(self) -> None:
        self.stub: Any = agent_service_pb2_grpc.AgentServiceStub(self.channel)

    async def start(self, agent_id: str, input: Any = None, **fields: Any) -> run_pb2.Run:
        request = pb.StartRunRequest(agent_id=agent_id, input=to_value(input), **fields)
        async with asyncio.timeout(LIMIT_SECONDS):
            return (await self.stub.StartRun(request)).run

    async def get(self, run_id: str) -> run_pb2.Run:
        async with asyncio.timeout(LIMIT_SECONDS):
            return (await self.stub.GetRun(pb.GetRunRequest(run_id=run_id))).run

    async def cancel(self, run_id: str, reason: str = "") -> run_pb2.Run:
        async with asyncio.timeout(LIMIT_SECONDS):
            return (await self.stub.CancelRun(pb.CancelRunRequest(run_id=run_id, reason=reason))).run

    async def resume(self, run_id: str, *answers: run_event_pb2.Answer) -> run_pb2.Run:
        async with asyncio.timeout(LIMIT_SECONDS):
            return (await self.stub.ResumeRun(pb.ResumeRunRequest(run_id=run_id, answers=answers))).run

    @asynccontextmanager
    async def watch(self, run_id: str, **fields: Any) -> AsyncIterator[Watch]:
        call = self.stub.WatchRun(pb.WatchRunRequest(run_id=run_id, **fields))
        try:
            yield Watch(call)
        finally:
            call.cancel()

    async def frames(self, run_id: str, **fields: Any) -> list[Frame]:
        """All frames of a stream that is read to its end."""
        async with self.watch(run_id, **fields) as watch:
            return await watch.rest()

    async def watched(self, run_id: str, **fields: Any) -> list[run_event_pb2.RunEvent]:
        """All events of a stream that is read to its end."""
        return [event for frame in await self.frames(run_id, **fields) for event in frame.batch.events]

    async def refusal(self, run_id: str, **fields: Any) -> Refusal:
        """How a stream ends that must fail."""
        async with self.watch(run_id, **fields) as watch:
            return await watch.refusal()

    async def ended(self, run_id: str) -> run_pb2.Run:
        """The run, once it has ended."""
        await self.frames(run_id)
        return await self.get(run_id)

    async def suspended(self, run_id: str) -> run_pb2.Run:
        """The run, once it waits for something."""
        async with self.watch(run_id, **_beyond(await self.get(run_id))) as watch:
            await watch.until_event("run_suspended")
        return await self.get(run_id)

    async def do(self, agent_id: str, input: Any = None, **fields: Any) -> run_pb2.Run:
        """Starts a run and waits for its end."""
        return await self.ended((await self.start(agent_id, input, **fields)).run_id)

    async def pages(self, run_id: str, **fields: Any) -> list[pb.ListRunEventsResponse]:
        """All pages of the log."""
        request = pb.ListRunEventsRequest(run_id=run_id, **fields)
        found = []
        while True:
            async with asyncio.timeout(LIMIT_SECONDS):
                found.append(await self.stub.ListRunEvents(request))
            if not found[-1].next_page_token:
                return found
            request.page_token = found[-1].next_page_token

    async def log(self, run_id: str, **fields: Any) -> list[run_event_pb2.RunEvent]:
        return [event for page in await self.pages(run_id, **fields) for event in page.events]


def _beyond(run: run_pb2.Run) -> dict[str, str]:
    """Where to watch from for what comes next; a suspension that is there already counts."""
    return {} if run.state == run_pb2.RUN_STATE_SUSPENDED else {"cursor": run.cursor}


@asynccontextmanager
async def replica(
    url: str, *agents: Definition, wrap: Callable[[Any], Any] = lambda store: store, **settings: Any
) -> AsyncIterator[Replica]:
    """Serves and executes `agents` on the store at `url` while the block runs, then drains. `wrap` puts something
    around its store."""
    given = {"shutdown_grace_seconds": 0.2, "lease_seconds": 5.0} | HERE | settings
    stopping, loop = asyncio.Event(), asyncio.get_running_loop()
    address: asyncio.Future[str] = loop.create_future()
    async with open_store(url) as store, asyncio.TaskGroup() as group:
        served = wrap(store)
        loaded = config.load(listen="127.0.0.1:0", store=url, **given)

        async def serve() -> None:
            async with app.listen(Registry(agents), loaded) as service:
                await service.run_on(served, stopping, address.set_result)

        serving = group.create_task(serve())
        await asyncio.wait({serving, address}, timeout=LIMIT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            serving.result()
        async with grpc.aio.insecure_channel(address.result()) as channel:
            try:
                yield Replica(address.result(), channel, served, stopping)
            finally:
                stopping.set()
                async with asyncio.timeout(LIMIT_SECONDS):
                    await asyncio.wait({serving})


@asynccontextmanager
async def mortal_worker(url: str, *agents: Definition, **settings: Any) -> AsyncIterator[Worker]:
    """Executes runs as a process does that is killed when the block is left: nothing is handed back."""
    loaded = config.load(store=url, **{"lease_seconds": 0.5} | HERE | settings)
    async with open_store(url) as store, asyncio.TaskGroup() as group:
        worker = Worker(store, CachingPubSub(store.pubsub, store), Registry(agents), loaded, app._reopen(store, url))
        running = group.create_task(worker.run())
        try:
            yield worker
        finally:
            running.cancel()


def topic_of(run_id: str) -> str:
    return scorer_requests.topic_of(TENANT, run_id)


def dense(events: Sequence[run_event_pb2.RunEvent], after: int = 0) -> bool:
    """Whether the events are all those after `after`, each once, in order."""
    return [event.sequence for event in events] == list(range(after + 1, after + 1 + len(events)))


async def eventually(predicate: Callable[[], Awaitable[object]], limit_seconds: float = LIMIT_SECONDS) -> None:
    """Waits until `predicate` gives something true, for things of which there is no signal."""
    deadline = time.monotonic() + limit_seconds
    while not await predicate():
        assert time.monotonic() < deadline, f"not within {limit_seconds} seconds"
        await asyncio.sleep(0.01)


def value(data: Any) -> struct_pb2.Value:
    return to_value(data)
