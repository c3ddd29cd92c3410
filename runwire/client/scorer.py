"""The asynchronous client of the scorer service."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import grpc
from google.protobuf import struct_pb2

from runwire.client import requests
from runwire.client.calls import Client, Stream
from runwire.client.resume import OnDiscontinuity, ScorerRunReader
from runwire.client.walk import OnProgress, Walk
from runwire.scorer.v1 import scorer_port_pb2, scorer_run_pb2, scorer_run_requested_pb2, scorer_service_pb2_grpc
from runwire.scorer.v1 import scorer_service_pb2 as pb
from runwire.values import Json


class ScorerClient(Client):
    """Reads scores, asks for them, and looks after the scorers, asynchronously. Errors as AgentClient."""

    @staticmethod
    def _stub(channel: grpc.aio.Channel) -> Any:
        return scorer_service_pb2_grpc.ScorerServiceStub(channel)

    async def list_scorers(self) -> list[scorer_run_pb2.Scorer]:
        """The scorers of the service, in order of scorer_id."""
        return [scorer async for scorer in self._pages("ListScorers", pb.ListScorersRequest(), "scorers")]

    async def get_scorer_run(self, scorer_run_id: str, *, include_sample: bool = False) -> scorer_run_pb2.ScorerRun:
        """Raises ScorerRunNotFound."""
        request = pb.GetScorerRunRequest(scorer_run_id=scorer_run_id, include_sample=include_sample)
        response: pb.GetScorerRunResponse = await self._call("GetScorerRun", request)
        return response.scorer_run

    def list_scorer_runs(
        self, filter: pb.ScorerRunFilter | None = None, *, page_size: int = 0
    ) -> AsyncIterator[scorer_run_pb2.ScorerRun]:
        """All scorer runs that fit (`scorer_run_filter` makes a filter), newest first, page by page."""
        return self._pages(
            "ListScorerRuns", pb.ListScorerRunsRequest(filter=filter, page_size=page_size), "scorer_runs"
        )

    def watch_scorer_runs(
        self,
        run_id: str,
        *,
        after: str = "",
        heartbeat_seconds: float | None = None,
        on_discontinuity: OnDiscontinuity | None = None,
    ) -> Stream[scorer_run_pb2.ScorerRun]:
        """The scorer runs of one run as they change, until all are terminal.

        A change that a newer one of the same scorer run overtook may be left out; after a cut the newest state of a
        scorer run may come once more. For a run that asks for no scores it ends when the run has. Raises InvalidRequest
        for an empty run id: `watch_all_scorer_runs` is for all runs.
        """
        reader = ScorerRunReader(requests.given(run_id, "run_id"), after=after, heartbeat_seconds=heartbeat_seconds)
        return Stream(self, "WatchScorerRuns", reader, on_discontinuity)

    def watch_all_scorer_runs(
        self,
        *,
        after: str = "",
        heartbeat_seconds: float | None = None,
        on_discontinuity: OnDiscontinuity | None = None,
    ) -> Stream[scorer_run_pb2.ScorerRun]:
        """The scorer runs of all runs as they change, without end. Otherwise as `watch_scorer_runs`."""
        reader = ScorerRunReader("", after=after, heartbeat_seconds=heartbeat_seconds)
        return Stream(self, "WatchScorerRuns", reader, on_discontinuity)

    async def request_scorer_run(
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
        """Scores `input` and `output`, or a whole `sample` (`sample_of` makes one of a run).

        `request_id` as in AgentClient.start_run. Raises ScorerNotFound, InvalidRequest.
        """
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
        response: pb.RequestScorerRunResponse = await self._call("RequestScorerRun", request)
        return response.scorer_run

    async def retry_scorer_runs(
        self,
        scorer_run_ids: Sequence[str] = (),
        *,
        filter: pb.ScorerRunFilter | None = None,
        scorer_version: str = "",
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
    ) -> pb.RetryScorerRunsResponse:
        """Redrives scorer runs, by ids or by filter; with `scorer_version` scores again with that version.

        By filter any number of them, page by page: what the filter selects is fixed at the beginning, and nothing is
        redriven twice. `on_progress` is told how many it are so far. `timeout` bounds each page, which is repeated when
        its answer is lost; what it had redriven by then is not counted. The first call, and one by ids, is not
        repeated.
        """
        request = pb.RetryScorerRunsRequest(
            scorer_run_ids=scorer_run_ids, filter=filter, scorer_version=scorer_version, dry_run=dry_run
        )
        walk = Walk(request, pb.RetryScorerRunsResponse(), on_progress)
        while walk.take(await self._call("RetryScorerRuns", walk.request, repeat=walk.repeatable)):
            pass
        return walk.total

    async def cancel_scorer_runs(
        self,
        scorer_run_ids: Sequence[str] = (),
        *,
        filter: pb.ScorerRunFilter | None = None,
        dry_run: bool = False,
        on_progress: OnProgress | None = None,
    ) -> pb.CancelScorerRunsResponse:
        """Cancels scorer runs that are not terminal, by ids or by filter: as retry_scorer_runs, page by page."""
        request = pb.CancelScorerRunsRequest(scorer_run_ids=scorer_run_ids, filter=filter, dry_run=dry_run)
        walk = Walk(request, pb.CancelScorerRunsResponse(), on_progress)
        while walk.take(await self._call("CancelScorerRuns", walk.request)):
            pass
        return walk.total

    async def delete_scorer_runs(self, run_ids: Sequence[str], *, dry_run: bool = False) -> int:
        """Deletes all scorer runs of these runs for good, whatever their state; how many. Needs the scope admin."""
        request = pb.DeleteScorerRunsRequest(run_ids=run_ids, dry_run=dry_run)
        count = 0
        while True:
            response: pb.DeleteScorerRunsResponse = await self._call("DeleteScorerRuns", request)
            count += response.count
            if not response.more:
                return count

    async def list_scorer_workers(self) -> list[pb.ScorerWorker]:
        """The processes that do scorer runs, in order of their names, and what each has."""
        return [worker async for worker in self._pages("ListScorerWorkers", pb.ListScorerWorkersRequest(), "workers")]

    async def list_scorer_queues(self) -> list[pb.ScorerQueue]:
        """What is to be done, by scorer and version, and how many workers could do it."""
        return [queue async for queue in self._pages("ListScorerQueues", pb.ListScorerQueuesRequest(), "queues")]

    async def pause_scorer(self, scorer_id: str) -> scorer_run_pb2.Scorer:
        """Holds a scorer's work; requests are taken in and wait. Raises ScorerNotFound."""
        response: pb.PauseScorerResponse = await self._call("PauseScorer", pb.PauseScorerRequest(scorer_id=scorer_id))
        return response.scorer

    async def resume_scorer(self, scorer_id: str) -> scorer_run_pb2.Scorer:
        """Ends a pause. Raises ScorerNotFound."""
        request = pb.ResumeScorerRequest(scorer_id=scorer_id)
        response: pb.ResumeScorerResponse = await self._call("ResumeScorer", request)
        return response.scorer

    async def get_scorer_stats(
        self, scorer_id: str = "", *, created_after: datetime | None = None, created_before: datetime | None = None
    ) -> list[scorer_run_pb2.ScorerStats]:
        """Counts, coverage, ages and latencies of one scorer, or of each."""
        request = requests.scorer_stats(scorer_id, created_after, created_before)
        response: pb.GetScorerStatsResponse = await self._call("GetScorerStats", request)
        return list(response.stats)

    async def set_scorer_budget(
        self,
        scorer_id: str = "",
        *,
        window: timedelta | float = 86_400.0,
        max_tokens: int | None = None,
        max_cost_usd: float | None = None,
    ) -> pb.ScorerBudget:
        """Says what judges may spend in a window, of one scorer or of all; without a limit there is no budget any
        more."""
        request = requests.set_scorer_budget(scorer_id, window, max_tokens, max_cost_usd)
        response: pb.SetScorerBudgetResponse = await self._call("SetScorerBudget", request)
        return response.budget

    async def list_scorer_budgets(self) -> list[pb.ScorerBudget]:
        """The budgets of the tenant, with what is spent."""
        response: pb.ListScorerBudgetsResponse = await self._call("ListScorerBudgets", pb.ListScorerBudgetsRequest())
        return list(response.budgets)

    async def submit_score(
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
        """Records what a person, or an outcome that came later, says of a run: a value, or a thumb `up` or `down`. The
        same author corrects by submitting again. `request_id` as in AgentClient.start_run. Raises RunNotFound,
        AlreadyExists."""
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
        response: pb.SubmitScoreResponse = await self._call("SubmitScore", request)
        return response.scorer_run

    # For workers of scorers that are carried out elsewhere; `runwire.client.worker` has a whole one.

    async def register_scorer(self, scorer: scorer_port_pb2.ExternalScorer) -> scorer_port_pb2.ExternalScorer:
        """Says what a scorer is that is carried out elsewhere. Raises InvalidRequest."""
        request = scorer_port_pb2.RegisterScorerRequest(scorer=scorer)
        response: scorer_port_pb2.RegisterScorerResponse = await self._call("RegisterScorer", request)
        return response.scorer

    async def claim_scorer_runs(
        self, request: scorer_port_pb2.ClaimScorerRunsRequest
    ) -> scorer_port_pb2.ClaimScorerRunsResponse:
        """Takes scorer runs, once there are some. Not repeated: what an answer that was lost held comes again, when its
        lease ends. Raises ScorerNotFound for a scorer that is not registered."""
        response: scorer_port_pb2.ClaimScorerRunsResponse = await self._call("ClaimScorerRuns", request, repeat=False)
        return response

    async def report_scorer_run(
        self, request: scorer_port_pb2.ReportScorerRunRequest
    ) -> scorer_port_pb2.ReportScorerRunResponse:
        """Says how an attempt ended, or that it continues. Raises ClaimLost where it comes too late."""
        response: scorer_port_pb2.ReportScorerRunResponse = await self._call("ReportScorerRun", request)
        return response
