"""The ASGI application, put together. The only place that constructs its parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from gateway import openapi, pages, problems, resources
from gateway.agui.paths import AgUi
from gateway.callers import Callers
from gateway.config import Settings
from gateway.hub import Hub
from gateway.responses.paths import Responses
from gateway.services import Services
from gateway.streams import Streams
from runwire.errors import RunwireError


def create(settings: Settings, draining: asyncio.Event | None = None) -> Starlette:
    """The application. Once `draining` is set its streams end, so that their readers go elsewhere."""
    draining, hub = draining or asyncio.Event(), Hub()

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with Services(settings) as services, hub:
            app.state.services = services
            yield

    async def health(_: Request) -> Response:
        return Response("draining" if draining.is_set() else "ok", 503 if draining.is_set() else 200)

    streams = Streams(settings, _services, hub, draining)
    routes: list[BaseRoute] = [
        Route("/healthz", _alive),
        Route("/readyz", health),
        Route("/openapi.json", _document),
        *streams.routes(),
        *Responses(_services, streams, draining).routes(),
        *AgUi(_services, streams).routes(),
        *resources.routes(_services),
    ]
    if settings.pages:
        routes += pages.routes(settings, _services)
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[_cross_origin(settings), Middleware(Callers)],
        exception_handlers={
            RunwireError: problems.on_error,
            HTTPException: problems.on_http_error,
        },
    )


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def _cross_origin(settings: Settings) -> Middleware:
    # Without allow_credentials: a page elsewhere uses a token of its own, never the cookie of our pages.
    return Middleware(
        CORSMiddleware,
        allow_origins=list(settings.allowed_origins),
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
        expose_headers=["Location", "Retry-After", "Runwire-Heartbeat-Seconds"],
    )


async def _alive(_: Request) -> Response:
    return Response("ok")


async def _document(_: Request) -> Response:
    return JSONResponse(openapi.document())
