"""Errors as HTTP has them: a status and `application/problem+json` (RFC 9457) with the same reasons as over gRPC."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from runwire import errors

_BY_CODE: Final[Mapping[str, int]] = {
    "INVALID_ARGUMENT": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "FAILED_PRECONDITION": 409,
    "OUT_OF_RANGE": 410,
    "DATA_LOSS": 410,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_BY_CLASS: Final = (
    (errors.InvalidRequest, 400),
    (errors.NotFound, 404),
    (errors.AlreadyExists, 409),
    (errors.PreconditionFailed, 409),
    (errors.CursorError, 410),
    (errors.EventsLost, 410),
    (errors.FrameUnreadable, 502),
    (errors.Unavailable, 503),
)
"""For errors that the client library raised by itself, without a status of the service."""
_TITLES: Final = {
    400: "The request is wrong",
    401: "A token is needed",
    403: "Not allowed",
    404: "Not found",
    405: "Not this method",
    409: "Not in this state",
    410: "No longer there",
    413: "Too large",
    429: "Too much at once",
    502: "What the service sent cannot be read",
    503: "The service cannot be reached for now",
    504: "The service did not answer in time",
}


def status_of(error: errors.RunwireError) -> int:
    """The HTTP status that an error of a service, or of its client, stands for."""
    code = error.metadata.get("code", "")
    if code in _BY_CODE:
        return _BY_CODE[code]
    return next((status for kind, status in _BY_CLASS if isinstance(error, kind)), 500)


def problem_of(error: errors.RunwireError) -> dict[str, Any]:
    """The members of the problem document: `reason` and `metadata` as in google.rpc.ErrorInfo, `violations` as in
    google.rpc.BadRequest."""
    status = status_of(error)
    problem: dict[str, Any] = {
        "title": _TITLES.get(status, "Something went wrong"),
        "status": status,
        "detail": error.message,
        "reason": error.reason,
    }
    metadata = {key: value for key, value in error.metadata.items() if key != "code"}
    if metadata:
        problem["metadata"] = metadata
    if isinstance(error, errors.InvalidRequest):
        problem["violations"] = [{"field": path, "description": text} for path, text in error.violations.items()]
    if isinstance(error, errors.Unavailable):
        problem["retryAfterSeconds"] = error.retry_delay_seconds
    return problem


def response_of(error: errors.RunwireError) -> JSONResponse:
    """The problem document as a response."""
    problem = problem_of(error)
    headers = {}
    if isinstance(error, errors.Unavailable):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_delay_seconds)))
    if problem["status"] == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return problem_response(problem, headers)


def problem_response(problem: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse(
        problem, status_code=problem["status"], headers=dict(headers or {}), media_type="application/problem+json"
    )


async def on_error(_: Request, error: Exception) -> JSONResponse:
    """Answers for an error of `runwire.errors` that a handler raised."""
    assert isinstance(error, errors.RunwireError)
    return response_of(error)


async def on_http_error(_: Request, error: Exception) -> JSONResponse:
    """Answers where no handler was reached: no such path, not this method."""
    assert isinstance(error, HTTPException)
    title = _TITLES.get(error.status_code, "Something went wrong")
    problem = {"title": title, "status": error.status_code, "detail": error.detail, "reason": "NO_SUCH_RESOURCE"}
    return problem_response(problem, error.headers)
