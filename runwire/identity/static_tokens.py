"""Tokens that an operator makes: `runwire token new`. The file holds salted hashes, one line of JSON a token.

A token is `rw_ID_SECRET`: the id finds the line, 256 random bits prove it. As they are random, one round of a hash
keeps them: there is nothing to guess.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from runwire.errors import ConfigurationError, TokenExpired, TokenInvalid, TokenRevoked
from runwire.identity.principal import Principal, checked_scopes
from runwire.identity.watched_files import WatchedFiles

PREFIX: Final = "rw_"
_TOKEN: Final = re.compile(r"rw_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class StaticToken:
    """A token as the file knows it."""

    token_id: str
    salt: str
    hash: str
    subject: str
    tenant: str
    scopes: tuple[str, ...]
    create_time: float
    expire_time: float | None = None
    revoke_time: float | None = None

    def principal(self, still_good: Callable[[], bool] | None = None) -> Principal:
        """Whom it proves. Raises ValueError."""
        return Principal(
            self.subject, self.tenant, checked_scopes(self.scopes), self.expire_time, still_good=still_good
        )

    def state(self, now: float) -> str:
        """`revoked`, `expired` or `valid`."""
        if self.revoke_time is not None:
            return "revoked"
        return "expired" if self.expire_time is not None and now >= self.expire_time else "valid"


class StaticTokens:
    """Tells by the file which tokens are good."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigurationError."""
        self._file = WatchedFiles([path], lambda contents: _parsed(contents[0]))

    def principal(self, token: str) -> Principal:
        """Raises TokenInvalid, TokenRevoked, TokenExpired."""
        match = _TOKEN.fullmatch(token)
        known = self._known(match[1]) if match else None
        if match is None or known is None or not hmac.compare_digest(_hash(known.salt, match[2]), known.hash):
            raise TokenInvalid("there is no such token")
        # Only a caller that has the secret is told more.
        state = known.state(time.time())
        if state == "revoked":
            raise TokenRevoked("the token was revoked")
        if state == "expired":
            raise TokenExpired("the token has expired")
        return known.principal(partial(self._is_kept, known.token_id))

    def _known(self, token_id: str) -> StaticToken | None:
        return self._file.get().get(token_id) or self._file.get(look=True).get(token_id)

    def _is_kept(self, token_id: str) -> bool:
        known = self._file.get().get(token_id)
        return known is not None and known.revoke_time is None


def new(path: Path, subject: str, tenant: str, scopes: Sequence[str], expire_time: float | None) -> str:
    """Adds a token to the file, which is made if need be, and returns it: it is never seen again.

    Raises ConfigurationError.
    """
    token_id, secret, salt = secrets.token_hex(6), secrets.token_urlsafe(32), secrets.token_hex(16)
    made = StaticToken(
        token_id, salt, _hash(salt, secret), subject, tenant, tuple(scopes), round(time.time(), 3), expire_time
    )
    try:
        made.principal()
    except ValueError as error:
        raise ConfigurationError(str(error)) from None
    with _changing(path) as tokens:
        tokens[token_id] = made
    return f"{PREFIX}{token_id}_{secret}"


def listed(path: Path) -> Sequence[StaticToken]:
    """The tokens of the file, oldest first. Raises ConfigurationError."""
    try:
        return list(_parsed(path.read_bytes()).values())
    except FileNotFoundError:
        return ()
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read {path}: {error}") from None


def revoke(path: Path, token_id: str) -> None:
    """Takes a token back; of no effect on one that is revoked. Raises ConfigurationError if there is none."""
    with _changing(path) as tokens:
        found = tokens.get(token_id)
        if found is None:
            raise ConfigurationError(f"there is no token {token_id!r} in {path}")
        if found.revoke_time is None:
            tokens[token_id] = replace(found, revoke_time=round(time.time(), 3))


@contextmanager
def _changing(path: Path) -> Iterator[dict[str, StaticToken]]:
    """The tokens, written back at the end: as a whole, one writer at a time, for nobody else to read."""
    try:
        lock = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR, 0o600)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tokens = {each.token_id: each for each in listed(path)}
        yield tokens
        lines = "".join(json.dumps(asdict(each), separators=(",", ":")) + "\n" for each in tokens.values())
        beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None
    finally:
        os.close(lock)


def _parsed(content: bytes) -> dict[str, StaticToken]:
    found: dict[str, StaticToken] = {}
    for number, line in enumerate(content.decode().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            token = _read(json.loads(line))
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"line {number} holds no token: {error}") from None
        found[token.token_id] = token
    return found


def _read(values: Mapping[str, Any]) -> StaticToken:
    token = StaticToken(**{**values, "scopes": tuple(values["scopes"])})
    for name in ("token_id", "salt", "hash"):
        if not isinstance(getattr(token, name), str):
            raise ValueError(f"{name} is no text")
    for name in ("expire_time", "revoke_time"):
        if not isinstance(getattr(token, name), int | float | None):
            raise ValueError(f"{name} is no time")
    token.principal()
    return token


def _hash(salt: str, secret: str) -> str:
    return hashlib.sha256(f"{salt}{secret}".encode()).hexdigest()
