"""The paths of the OpenAI Responses API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway import sse
from gateway.parts import so_far
from gateway.resources import body_of
from gateway.responses.asked import Asked, answers_of, asked_of, input_of, text_of
from gateway.responses.faults import Interrupted, fault, told, with_faults
from gateway.responses.translation import Members, ResponseId, Translation, response_id
from gateway.services import Services
from gateway.streams import Streams
from runwire.agent.v1 import run_pb2
from runwire.client import AgentClient
from runwire.errors import AgentNotFound, InvalidRequest, NotSuspended, RunNotFound, RunwireError


class Responses:
    """Answers for responses, each a run or a part of one."""

    def __init__(self, services: Callable[[Request], Services], streams: Streams, draining: asyncio.Event) -> None:
        self._services = services
        self._streams = streams
        self._draining = draining

    def routes(self) -> list[Route]:
        return [
            Route("/v1/models", with_faults(self._models), name="models"),
            Route("/v1/responses", with_faults(self._create), methods=["POST"], name="create a response"),
            Route("/v1/responses/{id}", with_faults(self._retrieve), methods=["GET"], name="a response"),
            Route("/v1/responses/{id}/cancel", with_faults(self._cancel), methods=["POST"], name="cancel a response"),
        ]

    async def _models(self, request: Request) -> Response:
        agents = await self._services(request).agents.list_agents()
        models = [{"id": each.agent_id, "object": "model", "created": 0, "owned_by": "runwire"} for each in agents]
        return JSONResponse({"object": "list", "data": models})

    async def _create(self, request: Request) -> Response:
        asked, client = asked_of(await body_of(request)), self._services(request).agents
        key = request.headers.get("idempotency-key", "")
        if asked.previous:
            run, id = await _continue(client, asked)
        else:
            run = await _start(client, asked, key)
            id = ResponseId(run.run_id)
        if asked.stream:
            return self._stream(client, run, id, -1)
        if asked.background:
            return JSONResponse(await _now(client, run, id))
        return await self._whole(request, client, run, id, again=bool(key))

    async def _retrieve(self, request: Request) -> Response:
        client, id = self._services(request).agents, response_id(request.path_params["id"])
        stream, after = _flag(request, "stream"), _after(request)
        if after >= 0 and not stream:
            raise InvalidRequest({"starting_after": "is for streams only"})
        run = await client.get_run(id.run_id)
        if stream and not id.answered:
            return self._stream(client, run, id, after)
        now = await _now(client, run, id)
        return self._stream(client, run, id, after) if stream else JSONResponse(now)

    async def _cancel(self, request: Request) -> Response:
        client, id = self._services(request).agents, response_id(request.path_params["id"])
        run = await client.cancel_run(id.run_id)
        return JSONResponse(await _now(client, run, id))

    def _stream(self, client: AgentClient, run: run_pb2.Run, id: ResponseId, after: int) -> Response:
        """The events of a response with a number above `after`."""

        async def source(write: sse.Write) -> None:
            last = -1
            async for events in _events(client, Translation(run, id)):
                last = events[-1]["sequence_number"]
                if chunk := b"".join(_message(each) for each in events if each["sequence_number"] > after):
                    await write(chunk)
            if after > last:
                raise InvalidRequest({"starting_after": f"{after} is beyond the last event, which is {last}"})

        return self._streams.answer(source, b"", told)

    async def _whole(
        self, request: Request, client: AgentClient, run: run_pb2.Run, id: ResponseId, *, again: bool
    ) -> Response:
        """The response once it has ended. A caller that leaves earlier ends nothing, and can ask for it by its id."""

        async def read() -> Response:
            translation = Translation(run, id)
            try:
                async for _ in _events(client, translation):
                    pass
            except RunwireError as error:
                return fault(error)
            return JSONResponse(translation.response())

        async with asyncio.TaskGroup() as group:
            reading = group.create_task(read())
            others = [group.create_task(self._draining.wait()), group.create_task(_left(request))]
            await asyncio.wait([reading, *others], return_when=asyncio.FIRST_COMPLETED)
            for task in (reading, *others):
                task.cancel()
        if reading.cancelled():
            raise Interrupted(f"this server shuts down; ask for {str(id)!r}, which continues", again=again)
        return reading.result()


async def _events(client: AgentClient, translation: Translation) -> AsyncIterator[list[Members]]:
    """The events of a response from its first, as they come."""
    if begun := translation.begin():
        yield begun
    async with client.watch(translation.run_id) as stream:
        async for batch in stream.batches():
            if made := [event for each in batch for event in translation.take(each)]:
                yield made
            if translation.ended:
                return


async def _now(client: AgentClient, run: run_pb2.Run, id: ResponseId) -> Members:
    """The response as it is. Raises RunNotFound for a part that the run has not come to."""
    translation = Translation(run, id)
    translation.begin()
    async for page in so_far(client, id.run_id):
        for event in page.events:
            translation.take(event)
        if translation.ended:
            break
    if not translation.begun:
        raise RunNotFound(f"no such response: {str(id)!r}")
    return translation.response()


async def _start(client: AgentClient, asked: Asked, key: str) -> run_pb2.Run:
    agents = {each.agent_id: each for each in await client.list_agents()}
    if asked.model not in agents:
        raise AgentNotFound(f"no such agent: {asked.model!r}", agent_id=asked.model)
    given = input_of(text_of(asked.input), agents[asked.model])
    return await client.start_run(asked.model, given, labels=asked.labels, request_id=key or None)


async def _continue(client: AgentClient, asked: Asked) -> tuple[run_pb2.Run, ResponseId]:
    """Answers what a response waits for; the next response is what the run does then."""
    id = response_id(asked.previous)
    run = await client.get_run(id.run_id)
    answers = answers_of(asked.input, run.pending)
    if asked.model not in ("", run.agent_id):
        raise InvalidRequest({"model": f"{asked.model!r} is not {run.agent_id!r}, whose response this is"})
    if (await _now(client, run, id.next))["status"] != "queued":
        raise NotSuspended(f"{asked.previous!r} was answered before")
    return await client.resume_run(id.run_id, answers), id.next


def _message(event: Members) -> bytes:
    return sse.message(json.dumps(event, ensure_ascii=False), event=event["type"])


def _flag(request: Request, name: str) -> bool:
    given = request.query_params.get(name, "false")
    if given not in ("true", "false"):
        raise InvalidRequest({name: f"{given!r} is neither true nor false"})
    return given == "true"


def _after(request: Request) -> int:
    """The number of the last event that the caller has; -1 for one who has none."""
    given = request.query_params.get("starting_after")
    if given is None:
        return -1
    if not given.isascii() or not given.isdigit() or len(given) > 18:
        raise InvalidRequest({"starting_after": f"{given!r} is no sequence number"})
    return int(given)


async def _left(request: Request) -> None:
    """Returns when the caller has gone."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
