"""Run tokens: short-lived, for reading one run, so that a backend can let a browser watch what it started.

They are signed by keys that all replicas share: a file with one key a line, made by `runwire token key`. The first one
signs and all of them verify, so that keys are exchanged without refusing anybody: add the new one as the first line,
and take the old one out once its tokens have expired.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from runwire.errors import TokenExpired, TokenInvalid
from runwire.identity.principal import RUNS_READ, Principal
from runwire.identity.watched_files import WatchedFiles

PREFIX: Final = "rwr_"
DEFAULT_SECONDS: Final = 15 * 60.0
_KEY_BYTES: Final = 32
_MAX_LENGTH: Final = 2048


class RunTokens:
    """Makes and verifies run tokens."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigurationError."""
        self._keys = WatchedFiles([path], lambda contents: keys(contents[0]))

    def create(self, who: Principal, run_id: str, lifetime_seconds: float) -> tuple[str, float]:
        """A token for reading a run of the principal's tenant, and when it expires: not after its maker's proof."""
        expire_time = round(min(time.time() + lifetime_seconds, who.expire_time or float("inf")), 3)
        claims = {"t": who.tenant, "s": who.subject, "r": run_id, "e": expire_time}
        payload = _encode(json.dumps(claims, separators=(",", ":")).encode())
        return f"{PREFIX}{payload}.{_encode(_signature(self._keys.get()[0], payload))}", expire_time

    def principal(self, token: str) -> Principal:
        """Raises TokenInvalid, TokenExpired."""
        payload, _, signature = token.removeprefix(PREFIX).partition(".")
        if len(token) > _MAX_LENGTH or not self._is_signed(payload, signature):
            raise TokenInvalid("there is no such token")
        claims: Mapping[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        if time.time() >= claims["e"]:
            raise TokenExpired("the token has expired")
        return Principal(claims["s"], claims["t"], frozenset({RUNS_READ}), claims["e"], run_id=claims["r"])

    def _is_signed(self, payload: str, signature: str) -> bool:
        given = signature.encode("ascii", "replace")
        return any(hmac.compare_digest(_encode(_signature(key, payload)).encode(), given) for key in self._keys.get())


def new_key() -> str:
    """A line of the file."""
    return secrets.token_urlsafe(_KEY_BYTES)


def keys(content: bytes) -> Sequence[bytes]:
    """The keys of a file, the one that signs first. Raises ValueError."""
    lines = [line.strip() for line in content.decode().splitlines()]
    found = [_decoded(line) for line in lines if line and not line.startswith("#")]
    if not found or any(len(key) < _KEY_BYTES for key in found):
        raise ValueError(f"it must hold keys of at least {_KEY_BYTES} bytes, one a line: `runwire token key` makes one")
    return found


def _decoded(line: str) -> bytes:
    return base64.urlsafe_b64decode(line + "=" * (-len(line) % 4))


def _signature(key: bytes, payload: str) -> bytes:
    return hmac.digest(key, f"runwire run token {payload}".encode("utf-8", "replace"), hashlib.sha256)


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
