"""Pages to look at: runs, one run live, scorers, scorer runs. Rendered here, with a script of our own for what is live.

Nothing of a model is ever HTML: the templates escape, the script writes text nodes only, and the content security
policy forbids every script and style but ours. What a page may do is what the caller's token may do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from starlette.requests import Request
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from gateway.config import Settings
from gateway.pages import fleet, runs, scores, signing
from gateway.pages.view import View
from gateway.services import Services

_STATIC: Final = Path(__file__).parent / "static"


def routes(settings: Settings, services: Callable[[Request], Services]) -> list[BaseRoute]:
    """The routes of the pages."""
    view = View(services)
    return [
        Route("/", view.page(runs.home), name="home"),
        Route("/runs", view.page(runs.listing), name="runs"),
        Route("/runs", view.page(runs.start), methods=["POST"]),
        Route("/runs/{runId}", view.page(runs.one), name="run"),
        Route("/runs/{runId}/cancel", view.page(runs.cancel), methods=["POST"]),
        Route("/runs/{runId}/fork", view.page(runs.fork), methods=["POST"]),
        Route("/runs/{runId}/answer", view.page(runs.answer), methods=["POST"]),
        Route("/runs/{runId}/messages", view.page(runs.say), methods=["POST"]),
        Route("/runs/{runId}/end", view.page(runs.end), methods=["POST"]),
        Route("/scorers", view.page(scores.scorers), name="scorers"),
        Route("/scorers/{scorerId}", view.page(scores.scorer), name="scorer"),
        Route("/scorers/{scorerId}/{action:str}", view.page(scores.hold), methods=["POST"]),
        Route("/workers", view.page(fleet.workers), name="workers"),
        Route("/scorer-runs", view.page(scores.listing), name="scorer runs"),
        Route("/scorer-runs", view.page(scores.redrive), methods=["POST"]),
        Route("/scorer-runs/{scorerRunId}", view.page(scores.one), name="scorer run"),
        *signing.routes(view, secure=settings.secure_cookies),
        Mount("/static", StaticFiles(directory=_STATIC)),
    ]
