"""An agent service under full control: each stream plays the next part of a script, then the log is served whole."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf import duration_pb2
from grpc_status import rpc_status

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc, run_event_pb2, run_pb2
from runwire.errors import RunwireError
from runwire.rpc import to_status

RUN_ID = "run-1"
Context = grpc.aio.ServicerContext[Any, Any]
Part = Callable[["ScriptedAgentService", pb.WatchRunRequest, Context], Awaitable[None]]


def text_log(count: int) -> list[run_event_pb2.RunEvent]:
    """RunStarted, `count` - 2 text deltas, RunFinished."""
    started = run_event_pb2.RunEvent(run_started=run_event_pb2.RunStarted(run_id=RUN_ID, agent_id="scripted"))
    texts = [
        run_event_pb2.RunEvent(text_delta=run_event_pb2.TextDelta(text=f"{number} "), step=1)
        for number in range(2, count)
    ]
    finished = run_event_pb2.RunEvent(run_finished=run_event_pb2.RunFinished(state=run_pb2.RUN_STATE_SUCCEEDED))
    events = [started, *texts, finished][:count]
    for sequence, event in enumerate(events, start=1):
        event.sequence, event.attempt = sequence, 1
    return events


class ScriptedAgentService(agent_service_pb2_grpc.AgentServiceServicer):
    """Serves `events` of one run; what it was asked is in `requests`."""

    def __init__(self, events: Sequence[run_event_pb2.RunEvent]) -> None:
        self.events = list(events)
        self.epoch = "e1"
        self.heartbeat_seconds = 10.0
        self.parts: deque[Part] = deque()
        self.requests: list[pb.WatchRunRequest] = []
        self.starts: list[pb.StartRunRequest] = []
        self.unary: deque[Callable[[Context], Awaitable[None]]] = deque()
        self.metadata: list[dict[str, Any]] = []

    async def WatchRun(self, request: pb.WatchRunRequest, context: Context) -> None:
        self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata() or ()))
        part = self.parts.popleft() if self.parts else play()
        await part(self, request, context)

    async def StartRun(self, request: pb.StartRunRequest, context: Context) -> pb.StartRunResponse:
        self.starts.append(request)
        if self.unary:
            await self.unary.popleft()(context)
        return pb.StartRunResponse(run=run_pb2.Run(run_id=RUN_ID, agent_id=request.agent_id))

    async def ListRunEvents(self, request: pb.ListRunEventsRequest, context: Context) -> pb.ListRunEventsResponse:
        begin = int(request.page_token or self.after(request.cursor))
        end = begin + (request.page_size or 100)
        token = str(end) if end < len(self.events) else ""
        return pb.ListRunEventsResponse(events=self.events[begin:end], next_page_token=token, cursor=self.cursor(end))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        begin = int(request.page_token or 0)
        runs = [run_pb2.Run(run_id=f"run-{number}") for number in range(begin, min(begin + 2, 5))]
        return pb.ListRunsResponse(runs=runs, next_page_token=str(begin + 2) if begin + 2 < 5 else "")

    def cursor(self, sequence: int) -> str:
        return f"{self.epoch}-{sequence}"

    @staticmethod
    def after(cursor: str) -> int:
        return int(cursor.rpartition("-")[2] or 0)

    def opened(self, request: pb.WatchRunRequest, *, earliest: int = 1) -> pb.WatchRunResponse:
        opened = pb.Opened(
            epoch=self.epoch,
            resumed=bool(request.cursor),
            earliest_sequence=earliest,
            latest_sequence=len(self.events),
            heartbeat_interval=seconds(self.heartbeat_seconds),
        )
        return pb.WatchRunResponse(cursor=self.cursor(self.start(request, earliest)), opened=opened)

    def start(self, request: pb.WatchRunRequest, earliest: int = 1) -> int:
        if request.position == pb.START_POSITION_LATEST:
            return len(self.events)
        return self.after(request.cursor) if request.cursor else earliest - 1

    def batch(self, events: Sequence[run_event_pb2.RunEvent]) -> pb.WatchRunResponse:
        return pb.WatchRunResponse(cursor=self.cursor(events[-1].sequence), batch=pb.Batch(events=events))

    def ended(self) -> pb.WatchRunResponse:
        last = len(self.events)
        return pb.WatchRunResponse(
            cursor=self.cursor(last), ended=pb.Ended(state=run_pb2.RUN_STATE_SUCCEEDED, last_sequence=last)
        )


def play(
    events: int | None = None,
    *,
    batch: int = 1,
    error: RunwireError | None = None,
    code: grpc.StatusCode | None = None,
    details: str = "",
    ok: bool = False,
    freeze: bool = False,
    heartbeat: bool = False,
    closing_seconds: float | None = None,
) -> Part:
    """Sends `opened`, then up to `events` events (None: all) in batches, then ends as told: with `error`, with a bare
    status `code`, with OK and no `ended`, in silence (`freeze`); otherwise with `ended` and OK."""

    async def part(service: ScriptedAgentService, request: pb.WatchRunRequest, context: Context) -> None:
        await context.write(service.opened(request))
        begin = service.start(request)
        end = len(service.events) if events is None else min(len(service.events), begin + events)
        for first in range(begin, end, batch):
            await context.write(service.batch(service.events[first : min(first + batch, end)]))
        if heartbeat:
            await context.write(pb.WatchRunResponse(cursor=service.cursor(end), heartbeat=pb.Heartbeat()))
        if closing_seconds is not None:
            await context.write(pb.WatchRunResponse(closing=pb.Closing(retry_delay=seconds(closing_seconds))))
        if freeze:
            await asyncio.Event().wait()
        if error is not None:
            await fail(error)(context)
        if code is not None:
            await context.abort(code, details)
        if not ok:
            await context.write(service.ended())

    return part


def refuse(error: RunwireError) -> Part:
    """Refuses the stream before its first frame."""

    async def part(service: ScriptedAgentService, request: pb.WatchRunRequest, context: Context) -> None:
        await fail(error)(context)

    return part


def frames(*make: Callable[[ScriptedAgentService], pb.WatchRunResponse]) -> Part:
    """Sends exactly these frames and then OK."""

    async def part(service: ScriptedAgentService, request: pb.WatchRunRequest, context: Context) -> None:
        for each in make:
            await context.write(each(service))

    return part


def fail(error: RunwireError) -> Callable[[Context], Awaitable[None]]:
    async def abort(context: Context) -> None:
        await context.abort_with_status(rpc_status.to_status(to_status(error)))

    return abort


def seconds(value: float) -> duration_pb2.Duration:
    duration = duration_pb2.Duration()
    duration.FromNanoseconds(round(value * 1e9))
    return duration


@asynccontextmanager
async def serving(service: ScriptedAgentService) -> AsyncIterator[str]:
    """The address at which `service` is served."""
    server = grpc.aio.server()
    agent_service_pb2_grpc.add_AgentServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
