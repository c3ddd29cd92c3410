"""Pages of lists, as AIP-158 has them: sizes with a default and a bound, opaque tokens bound to their request."""

from __future__ import annotations

import base64
import json
import math
from contextlib import suppress
from hashlib import blake2b
from typing import Any, Final, Protocol

from google.protobuf.message import Message

from runwire.errors import InvalidRequest

DEFAULT_PAGE_SIZE: Final = 50
MAX_PAGE_SIZE: Final = 1000
_MAX_CHARACTERS: Final = 1024
"""Of a part of a place: ids, topics and cursors are shorter."""


class PagedRequest(Protocol):
    """A request with the two fields of every list. (Also a protobuf message.)"""

    page_size: int
    page_token: str


def page_size(request: PagedRequest, default: int = DEFAULT_PAGE_SIZE) -> int:
    """The size of the page asked for: `default` for 0, at most MAX_PAGE_SIZE. Raises InvalidRequest if negative."""
    if request.page_size < 0:
        raise InvalidRequest({"page_size": f"must not be negative, got {request.page_size}"})
    return min(request.page_size or default, MAX_PAGE_SIZE)


def encode_token(request: Message, place: Any) -> str:
    """The token of the page that begins after `place` (a text or number, or a list of them) in the list that `request`
    asks for."""
    payload = _digest(request) + json.dumps(place, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(payload).rstrip(b"=").decode("ascii")


def decode_token(request: Message, *shape: type) -> tuple[Any, ...] | None:
    """The place that `request.page_token` names; None for the first page. `shape`: what such a place consists of, `str`
    and `float`.

    Raises InvalidRequest if it is no token, one of a request with other arguments (the page size may differ), or one
    that somebody made up: a token is opaque, and not secret.
    """
    token: str = request.page_token  # type: ignore[attr-defined]
    if not token:
        return None
    try:
        payload = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        place = json.loads(payload[8:])
    except (ValueError, RecursionError):
        raise InvalidRequest({"page_token": "not a token of this service"}) from None
    if payload[:8] != _digest(request):
        raise InvalidRequest({"page_token": "belongs to a request with other arguments"})
    parts = place if isinstance(place, list) else [place]
    if len(parts) != len(shape):
        raise InvalidRequest({"page_token": "not a token of this service"})
    return tuple(_part(part, kind) for part, kind in zip(parts, shape, strict=True))


def _part(part: Any, kind: type) -> Any:
    if kind is float and isinstance(part, int | float) and not isinstance(part, bool):
        with suppress(OverflowError):
            if math.isfinite(number := float(part)):
                return number
    elif kind is str and isinstance(part, str) and len(part) <= _MAX_CHARACTERS and "\0" not in part:
        with suppress(UnicodeEncodeError):
            part.encode()
            return part
    raise InvalidRequest({"page_token": "not a token of this service"})


def _digest(request: Message) -> bytes:
    bound = type(request)()
    bound.CopyFrom(request)
    for free in ("page_token", "page_size"):
        bound.ClearField(free)
    name = bound.DESCRIPTOR.full_name.encode()
    return blake2b(name + b"\0" + bound.SerializeToString(deterministic=True), digest_size=8).digest()
