"""The asynchronous client of the agent service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import grpc

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc, run_event_pb2, run_pb2
from runwire.client import requests
from runwire.client.base import RunProgress
from runwire.client.calls import Client, Stream
from runwire.client.conversation import Conversation
from runwire.client.resume import OnDiscontinuity, RunReader
from runwire.errors import InvalidRequest
from runwire.fold import Fold, RunView
from runwire.values import Json


class RunStream(RunProgress, Stream[run_event_pb2.RunEvent]):
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

    async def fold(self) -> RunView:
        """Reads to the end and returns what the run looks like then. Of a stream that began after a cursor the view is
        `partial`: it holds what came after that."""
        folded = Fold()
        async for event in self:
            folded.add(event)
        return self._view(folded)

    async def _start(self) -> None:
        assert self._start_request is not None
        self._started((await self._client._call("StartRun", self._start_request)).run)


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
        input: object = None,
        *,
        request_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        scorers: Iterable[str | run_pb2.ScorerRef] = (),
        run_timeout: timedelta | float | None = None,
        traceparent: str = "",
        tracestate: str = "",
        conversation: bool = False,
        idle_timeout: timedelta | float | None = None,
        context: Mapping[str, object] | None = None,
        model: str = "",
        model_settings: Mapping[str, Json] | None = None,
    ) -> run_pb2.Run:
        """Starts a run, and returns once it is accepted: it will reach a terminal state.

        `input` is anything JSON can hold, a pydantic model or a dataclass, dates, bytes of text; for an agent a text,
        or a list of texts and parts (`runwire.parts`). `context` is for the agent's code, and no part of what the model
        is told. `model` and `model_settings` choose among what the agent offers (`Agent.models`).

        `request_id` makes repetitions by your own code return the same run; by
        default a random one makes the repetitions of this call safe. `run_timeout`, in seconds or as timedelta, is the
        time the run has. With `conversation` it stays open after its first turn, for `send_message`, until it has
        waited for `idle_timeout`. Raises AgentNotFound, InvalidRequest, AlreadyExists; TypeError and ValueError where
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
            conversation=conversation,
            idle_timeout=idle_timeout,
            context=context,
            model=model,
            model_settings=model_settings,
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
        """The events after a cursor up to now, page by page, for callers that do not want to wait for more.

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
        bounds the events of a frame. `on_discontinuity` is called where events are gone, and the stream continues with
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
        input: object = None,
        *,
        request_id: str | None = None,
        labels: Mapping[str, str] | None = None,
        scorers: Iterable[str | run_pb2.ScorerRef] = (),
        run_timeout: timedelta | float | None = None,
        context: Mapping[str, object] | None = None,
        model: str = "",
        model_settings: Mapping[str, Json] | None = None,
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
            context=context,
            model=model,
            model_settings=model_settings,
        )
        return RunStream(self, RunReader("", heartbeat_seconds=heartbeat_seconds), None, request)

    async def list_workers(self) -> list[pb.Worker]:
        """The processes that execute runs, in order of their names, as each last described itself."""
        return [worker async for worker in self._pages("ListWorkers", pb.ListWorkersRequest(), "workers")]

    async def list_queues(self) -> list[pb.RunQueue]:
        """What waits, by agent, and how many workers could do it."""
        return [queue async for queue in self._pages("ListQueues", pb.ListQueuesRequest(), "queues")]

    async def delete_runs(
        self,
        run_ids: Sequence[str] = (),
        *,
        filter: pb.RunFilter | None = None,
        dry_run: bool = False,
        cancel: bool = False,
    ) -> AsyncIterator[pb.DeleteRunsResponse]:
        """Deletes ended runs for good, by ids or by filter, and gives what each page of them came to. With `cancel`
        those that have not ended are cancelled: ask again until none is left. Needs the scope admin."""
        request = pb.DeleteRunsRequest(run_ids=run_ids, filter=filter, dry_run=dry_run, cancel=cancel)
        while True:
            response: pb.DeleteRunsResponse = await self._call("DeleteRuns", request)
            yield response
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    async def cancel_run(self, run_id: str, *, reason: str = "") -> run_pb2.Run:
        """Asks the run to stop, and returns at once; `watch` shows it end. Of no effect on a run that has ended."""
        request = pb.CancelRunRequest(run_id=run_id, reason=reason)
        response: pb.CancelRunResponse = await self._call("CancelRun", request)
        return response.run

    async def create_run_token(
        self, run_id: str, lifetime: timedelta | float | None = None
    ) -> pb.CreateRunTokenResponse:
        """A token that reads this one run, for that time (15 minutes without, an hour at most): for a browser."""
        response: pb.CreateRunTokenResponse = await self._call(
            "CreateRunToken", requests.create_run_token(run_id, lifetime)
        )
        return response

    def conversation(
        self,
        agent_id: str = "",
        *,
        run_id: str = "",
        idle_timeout: timedelta | float | None = None,
        labels: Mapping[str, str] | None = None,
        request_id: str | None = None,
        context: Mapping[str, object] | None = None,
        model: str = "",
        model_settings: Mapping[str, Json] | None = None,
    ) -> Conversation:
        """A conversation with an agent; with `run_id` one that was begun before. Nothing is called before its first
        message. Arguments as in `start_run`."""
        if not agent_id and not run_id:
            raise InvalidRequest({"agent_id": "must be set"})
        return Conversation(
            self,
            agent_id,
            run_id,
            idle_timeout=idle_timeout,
            labels=labels,
            request_id=request_id,
            context=context,
            model=model,
            model_settings=model_settings,
        )

    async def fork_run(
        self,
        run_id: str,
        *,
        turn: int | None = None,
        step: int | str | None = None,
        message: object = None,
        agent_id: str = "",
        model: str = "",
        model_settings: Mapping[str, Json] | None = None,
        wait: bool = False,
        request_id: str | None = None,
    ) -> run_pb2.Run:
        """Starts a run that continues from another; what it takes over is not done again.

        A run that has ended is forked at a `step` (its number, or the name that a workflow gave it), which is done
        again with all that came after it; one that FAILED or was CANCELLED also where it ended. A conversation is
        forked at a `turn`: its message is answered again, or `message` in its place; with `wait` the fork waits for
        one. Without `turn` it is forked after its last turn that is done. `message` of another run is its input.
        `agent_id` is another agent of the same kind; `model`, `model_settings` and `request_id` are as in `start_run`.

        Raises NotForkable, JournalGone, InvalidRequest, RunNotFound, RunExpired, AgentNotFound.
        """
        request = requests.fork_run(
            run_id,
            turn=turn,
            step=step,
            message=message,
            agent_id=agent_id,
            model=model,
            model_settings=model_settings,
            wait=wait,
            request_id=request_id,
        )
        response: pb.ForkRunResponse = await self._call("ForkRun", request)
        return response.run

    async def send_message(
        self,
        run_id: str,
        message: object,
        *,
        mode: run_pb2.MessageMode | str = "queue",
        request_id: str | None = None,
    ) -> int:
        """Gives a message to a conversation; returns its number once it is accepted: it will be consumed exactly once.

        `mode` is `queue`, `steer` or `interrupt`. `request_id` as in `start_run`. Raises NotAConversation,
        ConversationEnded, InvalidRequest, AlreadyExists, TooManyMessages.
        """
        request = requests.send_message(run_id, message, mode=mode, request_id=request_id)
        response: pb.SendMessageResponse = await self._call("SendMessage", request)
        return response.message_number

    async def end_conversation(self, run_id: str) -> run_pb2.Run:
        """Ends a conversation once all messages that were accepted are consumed. Raises NotAConversation."""
        request = pb.EndConversationRequest(run_id=run_id)
        response: pb.EndConversationResponse = await self._call("EndConversation", request)
        return response.run

    def list_turns(self, run_id: str, *, page_size: int = 0) -> AsyncIterator[run_pb2.Turn]:
        """The turns of a conversation, oldest first, fetched page by page as you iterate."""
        return self._pages("ListTurns", pb.ListTurnsRequest(run_id=run_id, page_size=page_size), "turns")

    async def resume_run(self, run_id: str, answers: Sequence[run_event_pb2.Answer]) -> run_pb2.Run:
        """Answers what a suspended run waits for; `approve`, `deny` and `supply` make answers.

        Not repeated by itself when the service is unavailable. Raises NotSuspended, AlreadyAnswered.
        """
        request = pb.ResumeRunRequest(run_id=run_id, answers=answers)
        response: pb.ResumeRunResponse = await self._call("ResumeRun", request, repeat=False)
        return response.run
