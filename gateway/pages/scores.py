"""The pages of scores: scorers with their counts, scorer runs, one scorer run."""

from __future__ import annotations

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from gateway.pages import charts
from gateway.pages.runs import text_of
from gateway.pages.view import View, without_empty
from gateway.resources import RESOURCES, request_of
from runwire.errors import InvalidRequest
from runwire.scorer.v1 import scorer_run_pb2, scorer_service_pb2

_LIST = next(each for each in RESOURCES if each.rpc == "ListScorerRuns")
_MOST_SCORES: Final = 1000
STATES = [
    value.name.removeprefix("SCORER_RUN_STATE_").lower()
    for value in scorer_run_pb2.ScorerRunState.DESCRIPTOR.values[1:]
]


async def scorers(view: View, request: Request) -> Response:
    """Every scorer with its states, coverage and ages. The bars are pictures of the table beside them."""
    client = view.services(request).scorers
    known = await client.list_scorers()
    stats = await client.get_scorer_stats()
    return view.render(request, "scorers.html", scorers=known, stats=stats)


async def scorer(view: View, request: Request) -> Response:
    """One scorer: how its newest scores spread over time, by version."""
    client, scorer_id = view.services(request).scorers, request.path_params["scorerId"]
    known = next((each for each in await client.list_scorers() if each.scorer_id == scorer_id), None)
    chosen = scorer_service_pb2.ScorerRunFilter(scorer_id=scorer_id, states=[scorer_run_pb2.SCORER_RUN_STATE_SUCCEEDED])
    asked = scorer_service_pb2.ListScorerRunsRequest(filter=chosen, page_size=_MOST_SCORES)
    answer = await client.call("ListScorerRuns", asked)
    return view.render(
        request,
        "scorer.html",
        scorer_id=scorer_id,
        description=known.description if known else "",
        distributions=charts.distributions(each for each in answer.scorer_runs if each.HasField("score")),
        partial=bool(answer.next_page_token),
        read=len(answer.scorer_runs),
    )


async def hold(view: View, request: Request) -> Response:
    """Pauses or resumes a scorer."""
    client, scorer_id = view.services(request).scorers, request.path_params["scorerId"]
    action = request.path_params["action"]
    if action not in ("pause", "resume"):
        raise InvalidRequest({"action": f"{action!r} is neither pause nor resume"})
    await (client.pause_scorer if action == "pause" else client.resume_scorer)(scorer_id)
    return view.go("/scorers")


async def listing(view: View, request: Request) -> Response:
    asked: Any = await request_of(_LIST, without_empty(request))
    asked.page_size = asked.page_size or 50
    client = view.services(request).scorers
    answer = await client.call("ListScorerRuns", asked)
    return view.render(
        request,
        "scorer_runs.html",
        scorer_runs=answer.scorer_runs,
        next_page=answer.next_page_token,
        scorers=await client.list_scorers(),
        states=STATES,
    )


async def redrive(view: View, request: Request) -> Response:
    """Redrives what the filter of the address selects, or one scorer run: first says how many, then does it."""
    form = await request.form(max_files=0, max_fields=10)
    client = view.services(request).scorers
    if scorer_run_id := text_of(form, "scorer_run_id"):
        await client.retry_scorer_runs([scorer_run_id])
        return view.go(f"/scorer-runs/{scorer_run_id}")
    asked: Any = await request_of(_LIST, without_empty(request))
    chosen: scorer_service_pb2.ScorerRunFilter = asked.filter
    if not chosen.states:
        raise InvalidRequest({"state": "choose the states to redrive first, such as failed"})
    sure = text_of(form, "sure") == "yes"
    total = await client.retry_scorer_runs(filter=chosen, dry_run=not sure)
    return view.render(request, "redrive.html", total=total, done=sure)


async def one(view: View, request: Request) -> Response:
    client = view.services(request).scorers
    scorer_run = await client.get_scorer_run(request.path_params["scorerRunId"], include_sample=True)
    return view.render(request, "scorer_run.html", scorer_run=scorer_run)
