"""Removes ended runs for good: their logs, journals, conversations, fields and places in lists, on every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from agent_service.log.record import TERMINAL
from agent_service.runs import Runs
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import run_pb2
from runwire.errors import InvalidRequest, RunExpired, RunNotFound
from runwire.identity.principal import Principal
from runwire.paging import page_size
from runwire.scorer_requests import topic_of

MAX_PAGE_SIZE: Final = 500
"""Each run is a commit of its own."""


class Deletion:
    """Of the runs of one principal's tenant."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    async def delete(self, who: Principal, request: pb.DeleteRunsRequest) -> pb.DeleteRunsResponse:
        """A page of what is asked for. Raises InvalidRequest."""
        if request.run_ids and request.HasField("filter"):
            raise InvalidRequest(dict.fromkeys(("run_ids", "filter"), "give run_ids or a filter, and not both"))
        if not request.run_ids and not request.HasField("filter"):
            raise InvalidRequest({"run_ids": "must be set, or a filter (an empty one selects every run)"})
        response = pb.DeleteRunsResponse()
        async for run in self._selected(who, request, response):
            if run.state in TERMINAL:
                response.run_ids.append(run.run_id)
                response.count += 1
                if not request.dry_run:
                    await self._runs.store.clear(topic_of(who.tenant, run.run_id))
            elif request.cancel:
                response.cancelled += 1
                if not request.dry_run:
                    await self._cancel(who, run.run_id)
            else:
                response.skipped += 1
        return response

    async def _selected(
        self, who: Principal, request: pb.DeleteRunsRequest, response: pb.DeleteRunsResponse
    ) -> AsyncIterator[run_pb2.Run]:
        if request.run_ids:
            for run_id in dict.fromkeys(request.run_ids):
                try:
                    yield await self._runs.get(who, run_id)
                except (RunNotFound, RunExpired):
                    continue  # it is gone, or goes by itself: deleting twice is no fault
            return
        wanted = pb.ListRunsRequest(
            agent_id=request.filter.agent_id,
            states=request.filter.states,
            labels=request.filter.labels,
            page_size=min(page_size(request), MAX_PAGE_SIZE),
            page_token=request.page_token,
        )
        for name in ("created_after", "created_before"):
            if request.filter.HasField(name):
                getattr(wanted, name).CopyFrom(getattr(request.filter, name))
        runs, response.next_page_token = await self._runs.list(who, wanted)
        for run in runs:
            yield run

    async def _cancel(self, who: Principal, run_id: str) -> None:
        try:
            await self._runs.cancel(who, run_id, "it is to be deleted")
        except (RunNotFound, RunExpired):
            pass  # it has ended and gone meanwhile
