"""Who calls: the token of a request, handed on to the services and looked at nowhere else.

It comes from `Authorization: Bearer`, from the cookie of the pages, or, for streams that a browser opens by itself and
cannot give headers, from `?access_token=`. What a cookie allows is only allowed to our own pages: a request that
changes something and is authorised by the cookie must come from the same origin.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from gateway.problems import problem_response
from gateway.services import on_behalf_of

COOKIE: Final = "runwire_token"
_SAFE: Final = ("GET", "HEAD", "OPTIONS")


class Callers:
    """ASGI middleware: inside, every call of a service carries the token of the request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        if request.method not in _SAFE and not _has_header(request) and not same_origin(request):
            problem = {
                "title": "Not allowed",
                "status": 403,
                "detail": "a page of another origin may not change anything here without a token in its header",
                "reason": "CROSS_ORIGIN",
            }
            await problem_response(problem)(scope, receive, send)
            return
        with on_behalf_of(token_of(request)):
            await self._app(scope, receive, send)


def token_of(request: Request) -> str:
    """The token of a request; empty without one."""
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer" and token.strip():
        return token.strip()
    if request.method == "GET" and (token := request.query_params.get("access_token", "")):
        return token
    return request.cookies.get(COOKIE, "")


def same_origin(request: Request) -> bool:
    """Whether no page of another origin made the browser send this. Clients that are no browser send neither header."""
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host", "")


def _has_header(request: Request) -> bool:
    return "authorization" in request.headers
