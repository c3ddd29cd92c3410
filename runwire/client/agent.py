"""The asynchronous client of the agent service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import grpc
from google.protobuf import struct_pb2

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc, run_event_pb2, run_pb2
from runwire.client import requests
from runwire.client.calls import Client, Stream
from runwire.client.resume import OnDiscontinuity, RunReader
from runwire.fold import Fold, RunView
from runwire.values import Json


class RunStream(Stream[run_event_pb2.RunEvent]):
    """The events of one run, in order, each once, through every cut: `async for event in stream`.

    Ends after the run's last event. See Stream for cursors, batches and errors.
    """

    _reader: RunReader

    def __init__(
        self,
        client: AgentClient,
        reader: RunReader,
        on_discontinuity: OnDiscontinuity | None,
        start: pb.StartRunRequest | None = None,
    ) -> None:
        super().__init__(client, "WatchRun", reader, on_discontinuity, None if start is None else self._start)
        self._client: AgentClient = client
        self._start_request = start
        self.run: run_pb2.Run | None = None
        """The run as it was started; None on a stream from `watch`, and before the first event was asked for."""

    @property
    def run_id(self) -> str:
        """Empty on a stream from `AgentClient.run` before the first event was asked for."""
        return self._reader.run_id

    @property
    def last_sequence(self) -> int:
        """The last event that was handled. Stored with `cursor` and given back to `watch`, it makes a resumption
        exact inside a frame."""
        return self._reader.last_sequence

    @property
    def state(self) -> run_pb2.RunState:
        """The terminal state, once the stream has ended; RUN_STATE_UNSPECIFIED before."""
        return self._reader.state

    @property
    def caught_up(self) -> bool:
        """Whether everything that was committed when the stream was opened has been received."""
        return self._reader.caught_up

    async def fold(self) -> RunView:
        """Reads to the end and returns what the run looks like then. Of a stream that began after a cursor the view is
        `partial`: it holds what came after that."""
        folded = Fold()
        async for event in self:
            folded.add(event)
        folded.view.run_id = folded.view.run_id or self.run_id
        return folded.view

    async def _start(self) -> None:
        assert self._start_request is not None
        response = await self._client._call("StartRun", self._start_request)
        self.run = response.run
        self._reader.run_id = response.run.run_id


class AgentClient(Client):
    """Starts runs and follows them, asynchronously.

        async with AgentClient("127.0.0.1:50051") as client:
            async for event in client.run("librarian", "What is a cursor?"):
                print(event.text_delta.text, end="")

    Every method raises the errors of `runwire.errors`, the same that the service raised, and Unavailable when the
    service could not be reached in time. Use from one event loop.
    """

    @staticmethod
    def _stub(channel: grpc.aio.Channel) -> Any:
        return agent_service_pb2_grpc.AgentServiceStub(channel)

    async def list_agents(self) -> list[run_pb2.Agent]:
        """What the service can run, in order of agent_id."""
        return [agent async for agent in self._pages("ListAgents", pb.ListAgentsRequest(), "agents")]

    async def start_run(
        self,
        agent_id: str,
        input: Json | struct_pb2.Value = None,
        *,
        request_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        scorers: Iterable[str | run_pb2.ScorerRef] = (),
        run_timeout: timedelta | float | None = None,
        traceparent: str = "",
        tracestate: str = "",
    ) -> run_pb2.Run:
        """Starts a run, and returns once it is accepted: it will reach a terminal state.

        `input` is anything JSON can hold. `request_id` makes repetitions by your own code return the same run; by
        default a random one makes the repetitions of this call safe. `run_timeout`, in seconds or as timedelta, is the
        time the run has. Raises AgentNotFound, InvalidRequest, AlreadyExists; TypeError and ValueError where
        `input` is nothing JSON can hold.
        """
        request = requests.start_run(
            agent_id,
            input,
            request_id=request_id,
            labels=labels,
            scorers=scorers,
            run_timeout=run_timeout,
            traceparent=traceparent,
            tracestate=tracestate,
        )
        response: pb.StartRunResponse = await self._call("StartRun", request)
        return response.run

    async def get_run(self, run_id: str) -> run_pb2.Run:
        """Raises RunNotFound, RunExpired."""
        response: pb.GetRunResponse = await self._call("GetRun", pb.GetRunRequest(run_id=run_id))
        return response.run

    def list_runs(
        self,
        *,
        agent_id: str = "",
        states: Sequence[run_pb2.RunState] = (),
        labels: Mapping[str, str] | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        page_size: int = 0,
    ) -> AsyncIterator[run_pb2.Run]:
        """All runs that fit, newest first, fetched page by page as you iterate. Naive times are in UTC.

        Runs of more than 4 KiB come without what `Run.omitted` names; `get_run` has it."""
        request = requests.list_runs(
            agent_id=agent_id,
            states=states,
            labels=labels,
            created_after=created_after,
            created_before=created_before,
            page_size=page_size,
        )
        return self._pages("ListRuns", request, "runs")

    def list_run_events(
        self, run_id: str, *, after: str = "", page_size: int = 0
    ) -> AsyncIterator[run_event_pb2.RunEvent]:
        """The events after a cursor up to now, page by page, for whoever does not want to wait for more.

        Raises as `watch` does.
        """
        request = pb.ListRunEventsRequest(run_id=run_id, cursor=after, page_size=page_size)
        return self._pages("ListRunEvents", request, "events")

    def watch(
        self,
        run_id: str,
        *,
        after: str = "",
        last_sequence: int = 0,
        latest: bool = False,
        heartbeat_seconds: float | None = None,
        max_batch_size: int = 0,
        on_discontinuity: OnDiscontinuity | None = None,
    ) -> RunStream:
        """Follows a run from a cursor on; from its first event without one, or from now on with `latest`.

        `last_sequence` drops events up to that one: give the value that you stored with the cursor. `heartbeat_seconds`
        (1 to 60) is how often the service makes itself heard; a silence of 2.5 of them is a cut. `max_batch_size`
        bounds the events of a frame. `on_discontinuity` is called where events are gone, and the stream goes on with
        what is left; without it the error is raised.
        """
        reader = RunReader(
            run_id,
            after=after,
            last_sequence=last_sequence,
            latest=latest,
            heartbeat_seconds=heartbeat_seconds,
            max_batch_size=max_batch_size,
        )
        return RunStream(self, reader, on_discontinuity)

    def run(
        self,
        agent_id: str,
        input: Json | struct_pb2.Value = None,
        *,
        request_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        scorers: Iterable[str | run_pb2.ScorerRef] = (),
        run_timeout: timedelta | float | None = None,
        heartbeat_seconds: float | None = None,
    ) -> RunStream:
        """Starts a run and follows it. It is started when the first event is asked for; arguments and errors as in
        `start_run` and `watch`."""
        request = requests.start_run(
            agent_id,
            input,
            request_id=request_id,
            labels=labels,
            scorers=scorers,
            run_timeout=run_timeout,
            traceparent="",
            tracestate="",
        )
        return RunStream(self, RunReader("", heartbeat_seconds=heartbeat_seconds), None, request)

    async def list_workers(self) -> list[pb.Worker]:
        """The processes that execute runs, in order of their names, as each last described itself."""
        return [worker async for worker in self._pages("ListWorkers", pb.ListWorkersRequest(), "workers")]

    async def list_queues(self) -> list[pb.RunQueue]:
        """What waits, by agent, and how many workers could do it."""
        return [queue async for queue in self._pages("ListQueues", pb.ListQueuesRequest(), "queues")]

    async def cancel_run(self, run_id: str, *, reason: str = "") -> run_pb2.Run:
        """Asks the run to stop, and returns at once; `watch` shows it end. Of no effect on a run that has ended."""
        request = pb.CancelRunRequest(run_id=run_id, reason=reason)
        response: pb.CancelRunResponse = await self._call("CancelRun", request)
        return response.run

    async def resume_run(self, run_id: str, answers: Sequence[run_event_pb2.Answer]) -> run_pb2.Run:
        """Answers what a suspended run waits for; `approve`, `deny` and `supply` make answers.

        Not repeated by itself when the service is unavailable. Raises NotSuspended, AlreadyAnswered.
        """
        request = pb.ResumeRunRequest(run_id=run_id, answers=answers)
        response: pb.ResumeRunResponse = await self._call("ResumeRun", request, repeat=False)
        return response.run
