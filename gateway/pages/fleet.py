"""The page of workers: who does the work, and what waits for nobody."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from gateway.pages.view import View


async def workers(view: View, request: Request) -> Response:
    """The workers of both services, and what waits by agent and by scorer."""
    services = view.services(request)
    return view.render(
        request,
        "workers.html",
        workers=await services.agents.list_workers(),
        queues=await services.agents.list_queues(),
        scorer_workers=await services.scorers.list_scorer_workers(),
        scorer_queues=await services.scorers.list_scorer_queues(),
    )
