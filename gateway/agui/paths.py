"""The path that AG-UI clients post to."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway import sse
from gateway.agui.asked import checked, labels, last_message, request_id, resumed
from gateway.agui.translation import Members, Translation
from gateway.parts import so_far
from gateway.problems import problem_of
from gateway.resources import body_of
from gateway.responses.asked import input_of
from gateway.services import Services
from gateway.streams import Streams
from runwire.agent.v1 import run_pb2
from runwire.client import AgentClient
from runwire.errors import AgentNotFound, AlreadyAnswered, InvalidRequest, RunwireError, Unavailable

CAPABILITIES: Final[dict[str, Any]] = {
    "transport": {"streaming": True, "websocket": False, "httpBinary": False, "resumable": True},
    "tools": {"supported": True, "clientProvided": False},
    "state": {"snapshots": False, "deltas": False},
    "reasoning": {"supported": True, "streaming": True, "encrypted": False},
    "humanInTheLoop": {"supported": True, "approvals": True, "interrupts": True, "approveWithEdits": True},
}
"""Of every agent."""


class AgUi:
    """Starts a run, or joins it, or answers what it waits for: all by the same POST, which may be repeated."""

    def __init__(self, services: Callable[[Request], Services], streams: Streams) -> None:
        self._services = services
        self._streams = streams

    def routes(self) -> list[Route]:
        return [
            Route("/v1/agui/{agentId}", self._run, methods=["POST"], name="AG-UI"),
            Route("/v1/agui/{agentId}/capabilities", self._capabilities, name="AG-UI capabilities"),
        ]

    async def _capabilities(self, request: Request) -> Response:
        """What a client may expect of an agent, as AG-UI 1.0 says it: AgentCapabilities."""
        agent = await _agent(self._services(request).agents, request.path_params["agentId"])
        identity = {"name": agent.agent_id, "type": "runwire", "description": agent.description}
        return JSONResponse({"identity": identity, **CAPABILITIES})

    async def _run(self, request: Request) -> Response:
        asked, client = checked(await body_of(request)), self._services(request).agents
        agent_id = request.path_params["agentId"]
        if asked["resume"]:
            run_id, part = await _answer(client, agent_id, asked)
        else:
            run_id, part = await _start(client, agent_id, asked), 0

        async def source(write: sse.Write) -> None:
            translation, cursor = Translation(run_id, part, asked), ""
            async for page in so_far(client, run_id):
                for event in page.events:
                    translation.take(event)
                cursor = page.cursor
            await write(_messages(translation.begin()))
            if not translation.ended:
                await _follow(client, run_id, cursor, translation, write)

        return self._streams.answer(source, b"", _told)


async def _agent(client: AgentClient, agent_id: str) -> run_pb2.Agent:
    agent = next((each for each in await client.list_agents() if each.agent_id == agent_id), None)
    if agent is None:
        raise AgentNotFound(f"no such agent: {agent_id!r}", agent_id=agent_id)
    return agent


async def _start(client: AgentClient, agent_id: str, asked: dict[str, Any]) -> str:
    agent = await _agent(client, agent_id)
    given = input_of(last_message(asked), agent)
    run = await client.start_run(agent_id, given, labels=labels(asked), request_id=request_id(agent_id, asked))
    return run.run_id


async def _answer(client: AgentClient, agent_id: str, asked: dict[str, Any]) -> tuple[str, int]:
    run_id, part, answers = resumed(asked)
    if (await client.get_run(run_id)).agent_id != agent_id:
        raise InvalidRequest({"resume": f"answers a run of another agent than {agent_id!r}"})
    try:
        await client.resume_run(run_id, answers)
    except AlreadyAnswered:
        pass  # by this very POST, before a cut; if by somebody else, theirs was first, and what follows is the same
    return run_id, part + 1


async def _follow(client: AgentClient, run_id: str, cursor: str, translation: Translation, write: sse.Write) -> None:
    async with client.watch(run_id, after=cursor) as stream:
        async for batch in stream.batches():
            if made := [event for each in batch for event in translation.take(each)]:
                await write(_messages(made))
            if translation.ended:
                return


def _messages(events: list[Members]) -> bytes:
    return b"".join(sse.message(json.dumps(each, ensure_ascii=False)) for each in events)


def _told(error: RunwireError) -> bytes:
    """The last event of a stream that cannot continue. A service that is away makes it a cut, after which a POST
    joins."""
    if isinstance(error, Unavailable):
        return b""
    problem = problem_of(error)
    return _messages([{"type": "RUN_ERROR", "message": problem["detail"], "code": problem["reason"]}])
