"""The pages of runs: all of them, filtered; one, live."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import FormData
from starlette.requests import Request
from starlette.responses import Response

from gateway.pages import charts
from gateway.pages.view import View, without_empty
from gateway.resources import RESOURCES, parsed, request_of
from runwire.agent.v1 import agent_service_pb2, run_pb2
from runwire.client import approve, deny, scorer_run_filter, supply
from runwire.errors import InvalidRequest, RunwireError
from runwire.scorer.v1 import scorer_service_pb2

_LIST_RUNS = next(each for each in RESOURCES if each.rpc == "ListRuns")
STATES = [value.name.removeprefix("RUN_STATE_").lower() for value in run_pb2.RunState.DESCRIPTOR.values[1:]]


async def home(view: View, request: Request) -> Response:
    return view.go("/runs")


async def listing(view: View, request: Request) -> Response:
    """Runs, newest first, a page at a time; filters are parameters of the address, so that it can be sent on."""
    client = view.services(request).agents
    asked: Any = await request_of(_LIST_RUNS, without_empty(request))
    asked.page_size = asked.page_size or 50
    answer = await client.call("ListRuns", asked)
    agents = await client.list_agents()
    return view.render(
        request, "runs.html", runs=answer.runs, next_page=answer.next_page_token, agents=agents, states=STATES
    )


async def start(view: View, request: Request) -> Response:
    """Starts a run from the form: JSON where the input reads as JSON, else text."""
    form = await request.form(max_files=0, max_fields=10)
    members = {
        "agentId": text_of(form, "agent"),
        "input": _input(text_of(form, "input")),
        "requestId": str(uuid.uuid4()),
    }
    if text_of(form, "conversation"):
        members["conversation"] = {}
    asked = parsed(members, agent_service_pb2.StartRunRequest())
    answer = await view.services(request).agents.call("StartRun", asked)
    return view.go(f"/runs/{answer.run.run_id}")


async def one(view: View, request: Request) -> Response:
    """One run; its events come by the script."""
    services, run_id = view.services(request), request.path_params["runId"]
    run = await services.agents.get_run(run_id)
    asked = scorer_service_pb2.ListScorerRunsRequest(filter=scorer_run_filter(run_id=run_id), page_size=100)
    try:
        answer = await services.scorers.call("ListScorerRuns", asked, repeat=False)
        scores, problem = answer.scorer_runs, ""
    except RunwireError as error:
        scores, problem = [], error.message  # a scorer service that is away hides no run
    ended = bool(run.end_time.seconds)
    return view.render(
        request,
        "run.html",
        run=run,
        scores=scores,
        scores_problem=problem,
        ended=ended,
        bars=charts.timeline(run, datetime.now(UTC)),
        fork_id=str(uuid.uuid4()),
    )


async def cancel(view: View, request: Request) -> Response:
    run_id = request.path_params["runId"]
    await view.services(request).agents.cancel_run(run_id, reason="cancelled on the page")
    return view.go(f"/runs/{run_id}")


async def fork(view: View, request: Request) -> Response:
    """Continues a run that has ended in another one: from where it ended, or from a step or turn that is given. The
    form has an id, so that sending it twice makes one run."""
    run_id = request.path_params["runId"]
    form = await request.form(max_files=0, max_fields=10)
    members = {"runId": run_id, "requestId": text_of(form, "request_id") or str(uuid.uuid4())}
    members |= {name: text_of(form, name) for name in ("step", "turn") if text_of(form, name)}
    asked = parsed(members, agent_service_pb2.ForkRunRequest())
    forked = await view.services(request).agents.call("ForkRun", asked)
    return view.go(f"/runs/{forked.run.run_id}")


async def answer(view: View, request: Request) -> Response:
    """Answers one request of a suspended run: approve, perhaps with other arguments, deny, or supply data."""
    run_id = request.path_params["runId"]
    form = await request.form(max_files=0, max_fields=10)
    wanted, decision, text = text_of(form, "request"), text_of(form, "decision"), text_of(form, "text")
    if decision == "approve":
        arguments = json_object(text) if text.strip() else None
        given = approve(wanted, arguments)
    elif decision == "deny":
        given = deny(wanted, text)
    elif decision == "supply":
        given = supply(wanted, _input(text))
    else:
        raise InvalidRequest({"decision": f"{decision!r} is none of approve, deny, supply"})
    await view.services(request).agents.resume_run(run_id, [given])
    return view.go(f"/runs/{run_id}")


async def say(view: View, request: Request) -> Response:
    """Gives a message to a conversation; the script sends it in place, without it the page is shown again."""
    run_id = request.path_params["runId"]
    form = await request.form(max_files=0, max_fields=10)
    mode = text_of(form, "mode") or "queue"
    message = {"message": _input(text_of(form, "message")), "mode": f"MESSAGE_MODE_{mode.upper()}", "runId": run_id}
    if request_id := text_of(form, "request_id"):
        message["requestId"] = request_id
    asked = parsed(message, agent_service_pb2.SendMessageRequest())
    await view.services(request).agents.call("SendMessage", asked, repeat=bool(asked.request_id))
    return view.go(f"/runs/{run_id}")


async def end(view: View, request: Request) -> Response:
    """Ends a conversation once its messages are consumed."""
    run_id = request.path_params["runId"]
    request_ = agent_service_pb2.EndConversationRequest(run_id=run_id)
    await view.services(request).agents.call("EndConversation", request_)
    return view.go(f"/runs/{run_id}")


def json_object(text: str) -> dict[str, Any]:
    """Raises InvalidRequest."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest({"arguments": f"is no JSON: {error}"}) from None
    if not isinstance(value, dict):
        raise InvalidRequest({"arguments": "must be a JSON object"})
    return value


def _input(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def text_of(form: FormData, name: str) -> str:
    """A field of a form; empty without it."""
    value = form.get(name, "")
    return value if isinstance(value, str) else ""
