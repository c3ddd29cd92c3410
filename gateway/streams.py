"""The paths whose answer is a stream of events, and the events of a run as pages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway import events, sse
from gateway.config import Settings
from gateway.hub import Hub
from gateway.resources import json_of, parsed
from gateway.services import Services, current_token
from runwire.agent.v1 import agent_service_pb2
from runwire.errors import CursorMalformed, InvalidRequest, RunwireError, TooManyStreams


class Streams:
    """Makes the streams of a process, and bounds their number."""

    def __init__(
        self, settings: Settings, services: Callable[[Request], Services], hub: Hub, draining: asyncio.Event
    ) -> None:
        self._hub = hub
        self._settings = settings
        self._services = services
        self._draining = draining
        self._open = 0

    def routes(self) -> list[Route]:
        return [
            Route("/v1/events", self._of_runs, name="events of runs"),
            Route("/v1/runs/{runId}/events", self._of_run, name="events of a run"),
            Route("/v1/runs/{runId}/scorer-runs/events", self._of_scores, name="scorer runs of a run"),
        ]

    async def _of_run(self, request: Request) -> Response:
        """The events of one run: a stream for those who accept one, and else a page of what there is."""
        client, run_id = self._services(request).agents, request.path_params["runId"]
        if "text/event-stream" not in request.headers.get("accept", ""):
            return await self._page(request, run_id)
        place = events.place_of(_last_id(request))
        if place.ended:
            return Response(status_code=204)  # tells a browser to stop coming back
        key = (run_id, current_token())
        if not self._hub.covers(key, str(place)):  # where it does, the service has allowed this very reader
            await events.check(client, run_id, place)
        return self.answer(events.of_run(client, self._hub, key, place))

    async def _of_runs(self, request: Request) -> Response:
        """The events of up to 50 runs, in one stream."""
        client, runs = self._services(request).agents, request.query_params.getlist("run")
        if not 1 <= len(runs) <= events.MAX_RUNS or len(set(runs)) != len(runs):
            raise InvalidRequest({"run": f"must name 1 to {events.MAX_RUNS} different runs"})
        last = _last_id(request)
        given = last.split(",") if last else [""] * len(runs)
        if len(given) != len(runs):
            raise CursorMalformed(f"is the id of a stream of {len(given)} runs, not of {len(runs)}")
        places = {run_id: events.place_of(text) for run_id, text in zip(runs, given, strict=True)}
        if all(place.ended for place in places.values()):
            return Response(status_code=204)
        await events.check_all(client, places)
        return self.answer(events.of_runs(client, places))

    async def _of_scores(self, request: Request) -> Response:
        """The scorer runs of one run as they change, until all are terminal."""
        client, run_id = self._services(request).scorers, request.path_params["runId"]
        last = _last_id(request)
        if last.endswith(".end"):
            return Response(status_code=204)

        async def source(write: sse.Write) -> None:
            async with client.watch_scorer_runs(run_id, after=last) as stream:
                async for batch in stream.batches():
                    chunk = [sse.message(json_of(each), id=stream.cursor) for each in batch[:-1]]
                    chunk.append(sse.message(json_of(batch[-1]), id=stream.next_cursor))
                    await write(b"".join(chunk))
                await write(sse.message("{}", id=f"{stream.next_cursor}.end", event="end"))

        return self.answer(source)

    async def _page(self, request: Request, run_id: str) -> Response:
        query = dict(request.query_params)
        query.pop("access_token", None)
        asked = parsed({**query, "runId": run_id}, agent_service_pb2.ListRunEventsRequest())
        answer = await self._services(request).agents.call("ListRunEvents", asked)
        return Response(json_of(answer), media_type="application/json")

    def answer(
        self,
        source: sse.Source,
        greeting: bytes = sse.GREETING,
        tell: Callable[[RunwireError], bytes] = sse.problem,
    ) -> Response:
        """The response for a stream; see EventStream. Raises TooManyStreams."""
        if self._open >= self._settings.max_streams:
            raise TooManyStreams(
                f"this gateway has {self._open} streams open, as many as it allows",
                retry_delay_seconds=5.0,
                code="RESOURCE_EXHAUSTED",
            )
        stream = sse.EventStream(
            source,
            heartbeat_seconds=self._settings.heartbeat_seconds,
            draining=self._draining,
            greeting=greeting,
            tell=tell,
        )
        return _Counted(self, stream)

    async def serve(self, stream: sse.EventStream, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves `stream` while it counts."""
        self._open += 1
        try:
            await stream(scope, receive, send)
        finally:
            self._open -= 1


class _Counted(Response):
    """An EventStream as Starlette's handlers return it."""

    def __init__(self, streams: Streams, stream: sse.EventStream) -> None:
        super().__init__()
        self._streams = streams
        self._stream = stream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._streams.serve(self._stream, scope, receive, send)


def _last_id(request: Request) -> str:
    """Where to continue: what the browser says by itself, else what the address says."""
    header = request.headers.get("last-event-id", "")
    return header or request.query_params.get("cursor", "")
