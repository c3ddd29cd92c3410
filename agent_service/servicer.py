"""AgentService over gRPC: requests checked, items of a log as frames."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Final, TypeAlias

import grpc

from agent_service.agents.registry import Registry
from agent_service.config import Settings
from agent_service.conversations import Conversations
from agent_service.deletion import Deletion
from agent_service.fleet import Fleet
from agent_service.forks import Forks
from agent_service.runs import MAX_TRACE_LENGTH, MAX_TRACEPARENT_LENGTH, Runs, check_run_id
from agent_service.stream_frames import Frames, closing
from runwire import metrics
from runwire.agent.v1 import agent_service_pb2, agent_service_pb2_grpc, run_pb2
from runwire.caching_pubsub import Ended, Item, Start
from runwire.cursor import CursorCodec
from runwire.errors import (
    CursorExpired,
    CursorMismatch,
    InvalidRequest,
    RunExpired,
    RunNotFound,
    RunTokensOff,
    RunwireError,
    ServerDraining,
    StoreUnavailable,
    StreamMaxAge,
)
from runwire.frames import MAX_BATCH_EVENTS
from runwire.identity.principal import caller
from runwire.identity.run_tokens import DEFAULT_SECONDS, RunTokens
from runwire.outflow import RETRY_DELAY_SECONDS, Outflow, Stream
from runwire.paging import decode_token, encode_token, page_size
from runwire.pubsub import Position
from runwire.scorer_requests import topic_of
from runwire.times import seconds_of, timestamp

_HEARTBEAT_SECONDS: Final = 10.0
_EVENTS_PAGE_SIZE: Final = 100

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class AgentServicer(agent_service_pb2_grpc.AgentServiceServicer):
    """Serves the runs of a store. Stateless: every replica can answer every call."""

    def __init__(
        self, agents: Registry, settings: Settings, outflow: Outflow, run_tokens: RunTokens | None = None
    ) -> None:
        self._agents = agents
        self._settings = settings
        self._opened: tuple[Runs, Fleet] | None = None
        self._outflow = outflow
        self._frames = Frames()
        self._run_tokens = run_tokens

    def open(self, runs: Runs, fleet: Fleet) -> None:
        """The store is there: from now on calls about runs are answered. Before, they raise StoreUnavailable."""
        self._opened = runs, fleet

    @property
    def _conversations(self) -> Conversations:
        return Conversations(self._runs.store, self._runs, self._agents)

    @property
    def _forks(self) -> Forks:
        return Forks(self._runs.store, self._runs, self._agents, self._settings.fork_retention_seconds)

    @property
    def _on_store(self) -> tuple[Runs, Fleet]:
        if self._opened is None:
            raise StoreUnavailable("this server starts, and its store does not answer yet")
        return self._opened

    @property
    def _runs(self) -> Runs:
        return self._on_store[0]

    @property
    def fleet(self) -> Fleet:
        """Raises StoreUnavailable while the store is not there."""
        return self._on_store[1]

    async def ListAgents(
        self, request: agent_service_pb2.ListAgentsRequest, context: Context
    ) -> agent_service_pb2.ListAgentsResponse:
        size, place = page_size(request), decode_token(request, str)
        after = place[0] if place else ""
        agents = [definition.proto for definition in self._agents if definition.agent_id > after]
        token = encode_token(request, agents[size - 1].agent_id) if len(agents) > size else ""
        return agent_service_pb2.ListAgentsResponse(agents=agents[:size], next_page_token=token)

    async def StartRun(
        self, request: agent_service_pb2.StartRunRequest, context: Context
    ) -> agent_service_pb2.StartRunResponse:
        if not request.traceparent:
            metadata = dict(context.invocation_metadata() or ())
            given = [str(metadata.get(name, "")) for name in ("traceparent", "tracestate")]
            if len(given[0]) <= MAX_TRACEPARENT_LENGTH and len(given[1]) <= MAX_TRACE_LENGTH:
                request.traceparent, request.tracestate = given
        return agent_service_pb2.StartRunResponse(run=await self._runs.start(caller(), request))

    async def GetRun(
        self, request: agent_service_pb2.GetRunRequest, context: Context
    ) -> agent_service_pb2.GetRunResponse:
        return agent_service_pb2.GetRunResponse(run=await self._runs.get(caller(), request.run_id))

    async def ListRuns(
        self, request: agent_service_pb2.ListRunsRequest, context: Context
    ) -> agent_service_pb2.ListRunsResponse:
        runs, token = await self._runs.list(caller(), request)
        return agent_service_pb2.ListRunsResponse(runs=runs, next_page_token=token)

    async def CancelRun(
        self, request: agent_service_pb2.CancelRunRequest, context: Context
    ) -> agent_service_pb2.CancelRunResponse:
        run = await self._runs.cancel(caller(), request.run_id, request.reason)
        return agent_service_pb2.CancelRunResponse(run=run)

    async def ResumeRun(
        self, request: agent_service_pb2.ResumeRunRequest, context: Context
    ) -> agent_service_pb2.ResumeRunResponse:
        run = await self._runs.resume(caller(), request.run_id, request.answers)
        return agent_service_pb2.ResumeRunResponse(run=run)

    async def ForkRun(
        self, request: agent_service_pb2.ForkRunRequest, context: Context
    ) -> agent_service_pb2.ForkRunResponse:
        return agent_service_pb2.ForkRunResponse(run=await self._forks.fork(caller(), request))

    async def CreateRunToken(
        self, request: agent_service_pb2.CreateRunTokenRequest, context: Context
    ) -> agent_service_pb2.CreateRunTokenResponse:
        run = await self._runs.get(caller(), request.run_id)
        if self._run_tokens is None:
            raise RunTokensOff("this service has no keys to sign run tokens with: RUNWIRE_RUN_TOKEN_KEYS")
        seconds = seconds_of(request.lifetime) if request.HasField("lifetime") else DEFAULT_SECONDS
        token, expire_time = self._run_tokens.create(caller(), run.run_id, seconds)
        return agent_service_pb2.CreateRunTokenResponse(token=token, expire_time=timestamp(expire_time))

    async def SendMessage(
        self, request: agent_service_pb2.SendMessageRequest, context: Context
    ) -> agent_service_pb2.SendMessageResponse:
        number = await self._conversations.send(caller(), request)
        return agent_service_pb2.SendMessageResponse(message_number=number)

    async def EndConversation(
        self, request: agent_service_pb2.EndConversationRequest, context: Context
    ) -> agent_service_pb2.EndConversationResponse:
        run = await self._conversations.end(caller(), request.run_id)
        return agent_service_pb2.EndConversationResponse(run=run)

    async def ListTurns(
        self, request: agent_service_pb2.ListTurnsRequest, context: Context
    ) -> agent_service_pb2.ListTurnsResponse:
        return await self._conversations.turns(caller(), request)

    async def ListWorkers(
        self, request: agent_service_pb2.ListWorkersRequest, context: Context
    ) -> agent_service_pb2.ListWorkersResponse:
        size, place = page_size(request), decode_token(request, str)
        workers = [one for one in await self.fleet.workers() if place is None or one.worker > place[0]]
        token = encode_token(request, workers[size - 1].worker) if len(workers) > size else ""
        return agent_service_pb2.ListWorkersResponse(workers=workers[:size], next_page_token=token)

    async def ListQueues(
        self, request: agent_service_pb2.ListQueuesRequest, context: Context
    ) -> agent_service_pb2.ListQueuesResponse:
        size, place = page_size(request), decode_token(request, str)
        queues = [one for one in await self.fleet.queues() if place is None or one.agent_id > place[0]]
        token = encode_token(request, queues[size - 1].agent_id) if len(queues) > size else ""
        return agent_service_pb2.ListQueuesResponse(queues=queues[:size], next_page_token=token)

    async def DeleteRuns(
        self, request: agent_service_pb2.DeleteRunsRequest, context: Context
    ) -> agent_service_pb2.DeleteRunsResponse:
        return await Deletion(self._runs).delete(caller(), request)

    async def ListRunEvents(self, request: agent_service_pb2.ListRunEventsRequest, context: Context) -> bytes:
        topic = await self._topic(request.run_id)
        codec, size = CursorCodec(topic), page_size(request, _EVENTS_PAGE_SIZE)
        position = _after(request, codec)
        with _errors_of_run(request.run_id, codec):
            history = await self._runs.log.get_history(topic, position, max_events=size)
        batch, head = history.batch, history.head
        if batch is None:
            place = position or Position(head.epoch, head.earliest - 1)
            return _page(b"", "", codec.encode(place))
        cursor = codec.encode(batch.position)
        token = encode_token(request, cursor) if batch.position.sequence < head.last else ""
        return _page(batch.body, token, cursor)

    async def WatchRun(self, request: agent_service_pb2.WatchRunRequest, context: Context) -> None:
        topic = await self._topic(request.run_id)
        codec = CursorCodec(topic)
        heartbeat = _heartbeat_of(request)
        start = _start(request, codec)
        stream = self._outflow.stream(context)
        metrics.STREAMS_STARTED.add(start="resumed" if isinstance(start, Position) else start.value)
        await stream.open()
        items = self._runs.log.subscribe_with_replay(
            topic,
            start,
            max_events=request.max_batch_size or MAX_BATCH_EVENTS,
            idle_seconds=heartbeat,
            notify_gaps=request.gap_policy == agent_service_pb2.GAP_POLICY_NOTIFY,
            way=stream,
        )
        with _counted(), _errors_of_run(request.run_id, codec):
            async with aclosing(items):
                await self._send(items, codec, stream, heartbeat)

    async def _topic(self, run_id: str) -> str:
        """The log of a run that the caller may see. Raises RunNotFound."""
        who = caller()
        topic = topic_of(who.tenant, check_run_id(run_id))
        await self._runs.check_visible(who, run_id)
        return topic

    async def _send(self, items: AsyncGenerator[Item], codec: CursorCodec, stream: Stream, heartbeat: float) -> None:
        loop, who = asyncio.get_running_loop(), caller()
        end = loop.time() + self._settings.stream_max_age_seconds
        cursor = ""
        try:
            async for item in items:
                cursor, frame = self._frames.of(item, codec, heartbeat)
                ended = isinstance(item, Ended)
                del item  # while the client takes its time, its frame is all that is kept
                await stream.write(frame)
                metrics.STREAM_BYTES.add(len(frame))
                if not ended and (loop.time() >= end or not who.is_proven()):
                    raise StreamMaxAge("the stream is as old as this server allows: resume", RETRY_DELAY_SECONDS)
        except (ServerDraining, StreamMaxAge) as error:
            await stream.write(closing(error, cursor))
            raise


@contextmanager
def _counted() -> Iterator[None]:
    """Counts how a stream ends."""
    try:
        yield
    except RunwireError as error:
        metrics.STREAMS_ENDED.add(reason=error.reason.lower())
        raise
    except BaseException:
        metrics.STREAMS_ENDED.add(reason="left")
        raise
    metrics.STREAMS_ENDED.add(reason="ended")


@contextmanager
def _errors_of_run(run_id: str, codec: CursorCodec) -> Iterator[None]:
    """What the log says of a topic, said of a run."""
    try:
        yield
    except RunNotFound:
        raise RunNotFound(f"no such run: {run_id}", run_id=run_id) from None
    except RunExpired as error:
        state = run_pb2.RunState.Name(int(error.metadata["final_state"]))
        raise RunExpired(f"the events of run {run_id} are purged; it ended as {state}", final_state=state) from None
    except CursorExpired as error:
        epoch = error.metadata.pop("epoch")
        error.metadata["earliest_cursor"] = codec.encode(Position(epoch, error.earliest_sequence - 1))
        raise


def _heartbeat_of(request: agent_service_pb2.WatchRunRequest) -> float:
    """The heartbeat interval in force, in seconds."""
    if request.HasField("heartbeat_interval"):
        return seconds_of(request.heartbeat_interval)
    return _HEARTBEAT_SECONDS


def _after(request: agent_service_pb2.ListRunEventsRequest, codec: CursorCodec) -> Position | None:
    """Where a page begins; None: at the oldest event."""
    place = decode_token(request, str)
    if place is None:
        return codec.decode(request.cursor) if request.cursor else None
    try:
        return codec.decode(place[0], field="page_token")
    except CursorMismatch:
        raise InvalidRequest({"page_token": "belongs to another run"}) from None


def _start(request: agent_service_pb2.WatchRunRequest, codec: CursorCodec) -> Position | Start:
    if request.WhichOneof("start") == "cursor":
        return codec.decode(request.cursor)
    latest = request.position == agent_service_pb2.START_POSITION_LATEST
    return Start.LATEST if latest else Start.EARLIEST


def _page(body: bytes, token: str, cursor: str) -> bytes:
    """ListRunEventsResponse{events = 1, next_page_token = 2, cursor = 3}."""
    rest = agent_service_pb2.ListRunEventsResponse(next_page_token=token, cursor=cursor)
    return body + rest.SerializeToString()
