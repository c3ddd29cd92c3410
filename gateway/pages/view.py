"""How pages are rendered: templates, what they can show of messages, headers, errors as pages."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlencode

import jinja2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from gateway.callers import COOKIE
from gateway.problems import problem_of
from gateway.services import Services
from runwire.errors import RunwireError
from runwire.times import seconds_of
from runwire.values import from_struct, from_value

Page: TypeAlias = Callable[["View", Request], Awaitable[Response]]

_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_MAX_SHOWN: Final = 100_000
"""Characters of one value on a page; the interface has the whole."""


class View:
    """Renders pages for requests."""

    def __init__(self, services: Callable[[Request], Services]) -> None:
        self.services = services
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "state": state,
            "when": when,
            "machine_time": machine_time,
            "age": age,
            "length": length,
            "span": span,
            "json": shown,
            "number": number,
        }

    def page(self, handler: Page) -> Callable[[Request], Awaitable[Response]]:
        """The handler of a route: an error of the services becomes a page that says it."""

        async def handle(request: Request) -> Response:
            try:
                return await handler(self, request)
            except RunwireError as error:
                problem = problem_of(error)
                if problem["status"] == HTTPStatus.UNAUTHORIZED:
                    return self.go("/sign-in")
                return self.render(request, "problem.html", status=problem["status"], problem=problem)

        return handle

    def render(self, request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
        """The page that `template` makes of `values`."""
        page = self._templates.get_template(template)
        text = page.render(
            **values,
            path=request.url.path,
            query=request.query_params,
            signed_in=COOKIE in request.cookies,
            url=lambda **changed: _url(request, changed),
        )
        return HTMLResponse(text, status, _HEADERS)

    def go(self, path: str) -> Response:
        """Sends the browser to a page of ours, after a form."""
        return RedirectResponse(path, HTTPStatus.SEE_OTHER)


def _url(request: Request, changed: dict[str, str]) -> str:
    """This page with other parameters; an empty one is left out."""
    kept = [(key, value) for key, value in request.query_params.multi_items() if key not in changed]
    pairs = [*kept, *((key, value) for key, value in changed.items() if value)]
    return f"{request.url.path}?{urlencode(pairs)}" if pairs else request.url.path


def without_empty(request: Request) -> Request:
    """`request` without parameters that are empty: a form names also what nobody filled in."""
    pairs = [(key, value) for key, value in request.query_params.multi_items() if value]
    return Request({**request.scope, "query_string": urlencode(pairs).encode()})


def state(message: Any, field: str = "state") -> str:
    """The state of a run, or of a scorer run, in words. One of a newer service is shown by its number."""
    value = getattr(message, field)
    found = message.DESCRIPTOR.fields_by_name[field].enum_type
    known = found.values_by_number.get(value)
    if known is None:
        return f"state {value}"
    prefix = found.values[0].name.removesuffix("UNSPECIFIED")
    return str(known.name).removeprefix(prefix).lower().replace("_", " ")


def when(timestamp: Timestamp) -> str:
    """The time in UTC, to the second; empty where it is not set."""
    return timestamp.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if timestamp.seconds else ""


def machine_time(timestamp: Timestamp) -> str:
    """As <time datetime> has it."""
    return timestamp.ToDatetime(UTC).isoformat() if timestamp.seconds else ""


def age(timestamp: Timestamp) -> str:
    """How long ago; empty where it is not set."""
    if not timestamp.seconds:
        return ""
    return f"{span((datetime.now(UTC) - timestamp.ToDatetime(UTC)).total_seconds())} ago"


def length(message: Duration) -> str:
    """A Duration, roughly."""
    return span(seconds_of(message))


def span(seconds: float) -> str:
    """Seconds, roughly."""
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.1f} s"


def shown(value: Any) -> str:
    """A Value or Struct for people: text as it is, everything else as JSON with an indent. Cut with a word."""
    plain = from_struct(value) if value.DESCRIPTOR.full_name == "google.protobuf.Struct" else from_value(value)
    text = plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False, indent=2)
    left = len(text) - _MAX_SHOWN
    return text if left <= 0 else f"{text[:_MAX_SHOWN]}\n... {left} more characters: see the interface"


def number(value: float) -> str:
    """A score, or a share, with three digits."""
    return f"{value:.3f}".rstrip("0").rstrip(".")
