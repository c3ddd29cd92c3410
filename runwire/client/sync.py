"""Both clients without asyncio: the same methods and errors as in `runwire.client`.

from runwire.client.sync import AgentClient

with AgentClient("127.0.0.1:50051") as client:
    for event in client.run("librarian", "What is a cursor?"):
        print(event.text_delta.text, end="")
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import grpc
from google.protobuf import struct_pb2

from runwire.agent.v1 import agent_service_pb2 as agent_pb
from runwire.agent.v1 import agent_service_pb2_grpc, run_event_pb2, run_pb2
from runwire.client import requests
from runwire.client.base import RunProgress
from runwire.client.resume import OnDiscontinuity, RunReader, ScorerRunReader
from runwire.client.sync_calls import Client, Stream
from runwire.client.sync_conversation import Conversation
from runwire.client.walk import OnProgress, Walk
from runwire.errors import InvalidRequest
from runwire.fold import Fold, RunView
from runwire.scorer.v1 import scorer_port_pb2, scorer_run_pb2, scorer_run_requested_pb2, scorer_service_pb2_grpc
from runwire.scorer.v1 import scorer_service_pb2 as scorer_pb
from runwire.values import Json


class RunStream(RunProgress, Stream[run_event_pb2.RunEvent]):
    """The events of one run, in order, each once, through every cut: `for event in stream`.

    Ends after the run's last event. See Stream for cursors, batches and errors.
    """

    _reader: RunReader

    def __init__(
        self,
        client: AgentClient,
        reader: RunReader,
        on_discontinuity: OnDiscontinuity | None,
        start: agent_pb.StartRunRequest | None = None,
    ) -> None:
        super().__init__(client, "WatchRun", reader, on_discontinuity, None if start is None else self._start)
        self._client: AgentClient = client
        self._start_request = start

    def fold(self) -> RunView:
        """Reads to the end and returns what the run looks like then."""
        folded = Fold()
        for event in self:
            folded.add(event)
        return self._view(folded)

    def _start(self) -> None:
        assert self._start_request is not None
        self._started((self._client._call("StartRun", self._start_request)).run)


class AgentClient(Client):
    """Starts runs and follows them. Methods, arguments and errors are those of `runwire.client.AgentClient`."""

    @staticmethod
    def _stub(channel: grpc.Channel) -> Any:
        return agent_service_pb2_grpc.AgentServiceStub(channel)

    def list_agents(self) -> list[run_pb2.Agent]:
        return list(self._pages("ListAgents", agent_pb.ListAgentsRequest(), "agents"))

    def start_run(
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
        response: agent_pb.StartRunResponse = self._call("StartRun", request)
        return response.run

    def get_run(self, run_id: str) -> run_pb2.Run:
        response: agent_pb.GetRunResponse = self._call("GetRun", agent_pb.GetRunRequest(run_id=run_id))
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
    ) -> Iterator[run_pb2.Run]:
        request = requests.list_runs(
            agent_id=agent_id,
            states=states,
            labels=labels,
            created_after=created_after,
            created_before=created_before,
            page_size=page_size,
        )
        return self._pages("ListRuns", request, "runs")

    def list_run_events(self, run_id: str, *, after: str = "", page_size: int = 0) -> Iterator[run_event_pb2.RunEvent]:
        request = agent_pb.ListRunEventsRequest(run_id=run_id, cursor=after, page_size=page_size)
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

    def list_workers(self) -> list[agent_pb.Worker]:
        return list(self._pages("ListWorkers", agent_pb.ListWorkersRequest(), "workers"))

    def list_queues(self) -> list[agent_pb.RunQueue]:
        return list(self._pages("ListQueues", agent_pb.ListQueuesRequest(), "queues"))

    def delete_runs(
        self,
        run_ids: Sequence[str] = (),
        *,
        filter: agent_pb.RunFilter | None = None,
        dry_run: bool = False,
        cancel: bool = False,
    ) -> Iterator[agent_pb.DeleteRunsResponse]:
        request = agent_pb.DeleteRunsRequest(run_ids=run_ids, filter=filter, dry_run=dry_run, cancel=cancel)
        while True:
            response: agent_pb.DeleteRunsResponse = self._call("DeleteRuns", request)
            yield response
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    def cancel_run(self, run_id: str, *, reason: str = "") -> run_pb2.Run:
        request = agent_pb.CancelRunRequest(run_id=run_id, reason=reason)
        response: agent_pb.CancelRunResponse = self._call("CancelRun", request)
        return response.run

    def create_run_token(
        self, run_id: str, lifetime: timedelta | float | None = None
    ) -> agent_pb.CreateRunTokenResponse:
        response: agent_pb.CreateRunTokenResponse = self._call(
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

    def fork_run(
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
        response: agent_pb.ForkRunResponse = self._call("ForkRun", request)
        return response.run

    def send_message(
        self,
        run_id: str,
        message: object,
        *,
        mode: run_pb2.MessageMode | str = "queue",
        request_id: str | None = None,
    ) -> int:
        request = requests.send_message(run_id, message, mode=mode, request_id=request_id)
        response: agent_pb.SendMessageResponse = self._call("SendMessage", request)
        return response.message_number

    def end_conversation(self, run_id: str) -> run_pb2.Run:
        request = agent_pb.EndConversationRequest(run_id=run_id)
        response: agent_pb.EndConversationResponse = self._call("EndConversation", request)
        return response.run

    def list_turns(self, run_id: str, *, page_size: int = 0) -> Iterator[run_pb2.Turn]:
        return self._pages("ListTurns", agent_pb.ListTurnsRequest(run_id=run_id, page_size=page_size), "turns")

    def resume_run(self, run_id: str, answers: Sequence[run_event_pb2.Answer]) -> run_pb2.Run:
        request = agent_pb.ResumeRunRequest(run_id=run_id, answers=answers)
        response: agent_pb.ResumeRunResponse = self._call("ResumeRun", request, repeat=False)
        return response.run


class ScorerClient(Client):
    """Reads scores, asks for them, and looks after the scorers. As `runwire.client.ScorerClient`."""

    @staticmethod
    def _stub(channel: grpc.Channel) -> Any:
        return scorer_service_pb2_grpc.ScorerServiceStub(channel)

    def list_scorers(self) -> list[scorer_run_pb2.Scorer]:
        return list(self._pages("ListScorers", scorer_pb.ListScorersRequest(), "scorers"))

    def get_scorer_run(self, scorer_run_id: str, *, include_sample: bool = False) -> scorer_run_pb2.ScorerRun:
        request = scorer_pb.GetScorerRunRequest(scorer_run_id=scorer_run_id, include_sample=include_sample)
        response: scorer_pb.GetScorerRunResponse = self._call("GetScorerRun", request)
        return response.scorer_run

    def list_scorer_runs(
        self, filter: scorer_pb.ScorerRunFilter | None = None, *, page_size: int = 0
    ) -> Iterator[scorer_run_pb2.ScorerRun]:
        return self._pages(
            "ListScorerRuns", scorer_pb.ListScorerRunsRequest(filter=filter, page_size=page_size), "scorer_runs"
        )

    def watch_scorer_runs(
        self,
        run_id: str,
        *,
        after: str = "",
        heartbeat_seconds: float | None = None,
        on_discontinuity: OnDiscontinuity | None = None,
    ) -> Stream[scorer_run_pb2.ScorerRun]:
        reader = ScorerRunReader(requests.given(run_id, "run_id"), after=after, heartbeat_seconds=heartbeat_seconds)
        return Stream(self, "WatchScorerRuns", reader, on_discontinuity)

    def watch_all_scorer_runs(
        self,
        *,
        after: str = "",
        heartbeat_seconds: float | None = None,
        on_discontinuity: OnDiscontinuity | None = None,
    ) -> Stream[scorer_run_pb2.ScorerRun]:
        reader = ScorerRunReader("", after=after, heartbeat_seconds=heartbeat_seconds)
        return Stream(self, "WatchScorerRuns", reader, on_discontinuity)

    def request_scorer_run(
        self,
        scorer_id: str,
        *,
        input: Json | struct_pb2.Value = None,
        output: Json | struct_pb2.Value = None,
        ground_truth: Json | struct_pb2.Value = None,
        context: Sequence[str] = (),
        sample: scorer_run_requested_pb2.Sample | None = None,
        options: Mapping[str, Json] | None = None,
        scorer_version: str = "",
        scorer_name: str = "",
        request_id: str | None = None,
    ) -> scorer_run_pb2.ScorerRun:
        request = requests.request_scorer_run(
            scorer_id,
            input=input,
            output=output,
            ground_truth=ground_truth,
            context=context,
            sample=sample,
            options=options,
            scorer_version=scorer_version,
            scorer_name=scorer_name,
            request_id=request_id,
        )
        response: scorer_pb.RequestScorerRunResponse = self._call("RequestScorerRun", request)
        return response.scorer_run

    def retry_scorer_runs(
        self,
        scorer_run_ids: Sequence[str] = (),
        *,
        filter: scorer_pb.ScorerRunFilter | None = None,
        scorer_version: str = "",
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
    ) -> scorer_pb.RetryScorerRunsResponse:
        request = scorer_pb.RetryScorerRunsRequest(
            scorer_run_ids=scorer_run_ids, filter=filter, scorer_version=scorer_version, dry_run=dry_run
        )
        walk = Walk(request, scorer_pb.RetryScorerRunsResponse(), on_progress)
        while walk.take(self._call("RetryScorerRuns", walk.request, repeat=walk.repeatable)):
            pass
        return walk.total

    def cancel_scorer_runs(
        self,
        scorer_run_ids: Sequence[str] = (),
        *,
        filter: scorer_pb.ScorerRunFilter | None = None,
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
    ) -> scorer_pb.CancelScorerRunsResponse:
        request = scorer_pb.CancelScorerRunsRequest(scorer_run_ids=scorer_run_ids, filter=filter, dry_run=dry_run)
        walk = Walk(request, scorer_pb.CancelScorerRunsResponse(), on_progress)
        while walk.take(self._call("CancelScorerRuns", walk.request)):
            pass
        return walk.total

    def delete_scorer_runs(self, run_ids: Sequence[str], *, dry_run: bool = False) -> int:
        request = scorer_pb.DeleteScorerRunsRequest(run_ids=run_ids, dry_run=dry_run)
        count = 0
        while True:
            response: scorer_pb.DeleteScorerRunsResponse = self._call("DeleteScorerRuns", request)
            count += response.count
            if not response.more:
                return count

    def list_scorer_workers(self) -> list[scorer_pb.ScorerWorker]:
        return list(self._pages("ListScorerWorkers", scorer_pb.ListScorerWorkersRequest(), "workers"))

    def list_scorer_queues(self) -> list[scorer_pb.ScorerQueue]:
        return list(self._pages("ListScorerQueues", scorer_pb.ListScorerQueuesRequest(), "queues"))

    def pause_scorer(self, scorer_id: str) -> scorer_run_pb2.Scorer:
        response: scorer_pb.PauseScorerResponse = self._call(
            "PauseScorer", scorer_pb.PauseScorerRequest(scorer_id=scorer_id)
        )
        return response.scorer

    def resume_scorer(self, scorer_id: str) -> scorer_run_pb2.Scorer:
        request = scorer_pb.ResumeScorerRequest(scorer_id=scorer_id)
        response: scorer_pb.ResumeScorerResponse = self._call("ResumeScorer", request)
        return response.scorer

    def get_scorer_stats(
        self, scorer_id: str = "", *, created_after: datetime | None = None, created_before: datetime | None = None
    ) -> list[scorer_run_pb2.ScorerStats]:
        request = requests.scorer_stats(scorer_id, created_after, created_before)
        response: scorer_pb.GetScorerStatsResponse = self._call("GetScorerStats", request)
        return list(response.stats)

    def set_scorer_budget(
        self,
        scorer_id: str = "",
        *,
        window: timedelta | float = 86_400.0,
        max_tokens: int | None = None,
        max_cost_usd: float | None = None,
    ) -> scorer_pb.ScorerBudget:
        request = requests.set_scorer_budget(scorer_id, window, max_tokens, max_cost_usd)
        response: scorer_pb.SetScorerBudgetResponse = self._call("SetScorerBudget", request)
        return response.budget

    def list_scorer_budgets(self) -> list[scorer_pb.ScorerBudget]:
        response: scorer_pb.ListScorerBudgetsResponse = self._call(
            "ListScorerBudgets", scorer_pb.ListScorerBudgetsRequest()
        )
        return list(response.budgets)

    def submit_score(
        self,
        run_id: str,
        scorer_id: str,
        value: float | None = None,
        *,
        thumb: str | None = None,
        label: str = "",
        comment: str = "",
        author: str = "",
        request_id: str | None = None,
    ) -> scorer_run_pb2.ScorerRun:
        request = requests.submit_score(
            run_id,
            scorer_id,
            value,
            thumb=thumb,
            label=label,
            comment=comment,
            author=author,
            request_id=request_id,
        )
        response: scorer_pb.SubmitScoreResponse = self._call("SubmitScore", request)
        return response.scorer_run

    def register_scorer(self, scorer: scorer_port_pb2.ExternalScorer) -> scorer_port_pb2.ExternalScorer:
        request = scorer_port_pb2.RegisterScorerRequest(scorer=scorer)
        response: scorer_port_pb2.RegisterScorerResponse = self._call("RegisterScorer", request)
        return response.scorer

    def claim_scorer_runs(
        self, request: scorer_port_pb2.ClaimScorerRunsRequest
    ) -> scorer_port_pb2.ClaimScorerRunsResponse:
        response: scorer_port_pb2.ClaimScorerRunsResponse = self._call("ClaimScorerRuns", request, repeat=False)
        return response

    def report_scorer_run(
        self, request: scorer_port_pb2.ReportScorerRunRequest
    ) -> scorer_port_pb2.ReportScorerRunResponse:
        response: scorer_port_pb2.ReportScorerRunResponse = self._call("ReportScorerRun", request)
        return response
