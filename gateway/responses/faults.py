"""Errors as the OpenAI API has them."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeAlias

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gateway import sse
from gateway.problems import status_of
from runwire import errors

Handler: TypeAlias = Callable[[Request], Awaitable[Response]]

_TYPES: Final[Mapping[int, str]] = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_PARAMETERS: Final[Mapping[str, str]] = {"agent_id": "model", "labels": "metadata", "run_id": "response_id"}


class Interrupted(errors.Unavailable):
    """A caller that waited for a whole response waits no longer, and its run continues. `again` says whether the same
    request may be made again without starting a second run."""

    reason = "RESPONSE_INTERRUPTED"

    def __init__(self, message: str, *, again: bool) -> None:
        super().__init__(message)
        self.again = again


def error_of(error: errors.RunwireError) -> dict[str, Any]:
    """The members of an error object."""
    status, field = status_of(error), None
    if isinstance(error, errors.InvalidRequest) and error.violations:
        first = next(iter(error.violations))
        head = first.split(".")[0].split("[")[0]
        field = _PARAMETERS.get(head, head)
    code = "model_not_found" if isinstance(error, errors.AgentNotFound) else error.reason.lower()
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"message": error.message, "type": kind, "param": field, "code": code}


def fault(error: errors.RunwireError) -> JSONResponse:
    """The answer for an error."""
    headers = {}
    if isinstance(error, errors.Unavailable):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_delay_seconds)))
    if isinstance(error, Interrupted):
        headers["x-should-retry"] = "true" if error.again else "false"
    return JSONResponse({"error": error_of(error)}, status_of(error), headers)


def told(error: errors.RunwireError) -> bytes:
    """The last event of a stream that cannot continue. A service that is away makes it a cut, to be resumed."""
    if isinstance(error, errors.Unavailable):
        return b""
    about = error_of(error)
    members = {"type": "error", "code": about["code"], "message": about["message"], "param": None}
    return sse.message(json.dumps({**members, "sequence_number": -1}, ensure_ascii=False), event="error")


def with_faults(handler: Handler) -> Handler:
    """The handler, with its errors as this API has them."""

    @functools.wraps(handler)
    async def handled(request: Request) -> Response:
        try:
            return await handler(request)
        except errors.RunwireError as error:
            return fault(error)
        except HTTPException as error:
            about = {"message": error.detail, "type": "invalid_request_error", "param": None, "code": None}
            return JSONResponse({"error": about}, error.status_code)

    return handled
