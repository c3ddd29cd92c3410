"""JSON Web Tokens of an identity provider: verified by PyJWT with the provider's published keys."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import urllib.request
from asyncio import Lock, to_thread
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import jwt

from runwire.errors import ConfigurationError, KeysUnavailable, TokenExpired, TokenInvalid
from runwire.identity.principal import SCOPES, Principal
from runwire.identity.watched_files import WatchedFiles

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Which may be allowed at all: none by which a verifier could sign."""

_REFRESH_SECONDS: Final = 300.0
_UNKNOWN_KEY_SECONDS: Final = 10.0
"""Tokens with made-up key ids cost the provider at most one request in this time."""
_FETCH_SECONDS: Final = 5.0
_MAX_BYTES: Final = 1024 * 1024
_MAX_TOKEN_LENGTH: Final = 8192
_MAX_VERIFIED: Final = 10_000

logger = logging.getLogger("runwire.identity")

Keys: TypeAlias = Mapping[str, jwt.PyJWK]


@dataclass(frozen=True)
class Provider:
    """Whose tokens are taken, and what in them says who it is."""

    issuer: str
    audience: str
    jwks: str
    """A file, or an https URL."""
    algorithms: Sequence[str] = ("RS256", "ES256")
    leeway_seconds: float = 30.0
    tenant_claim: str = "tenant"
    scope_claim: str = "scope"

    def check(self) -> None:
        """Raises ConfigurationError for settings that would take what nobody should."""
        if not self.issuer or not self.audience:
            raise ConfigurationError("JWTs need an issuer and an audience: any token of the provider would be taken")
        if wrong := [each for each in self.algorithms if each not in ALGORITHMS] or not self.algorithms:
            raise ConfigurationError(f"no algorithm to allow for JWTs: {wrong!r}; there are {', '.join(ALGORITHMS)}")


@dataclass(frozen=True, slots=True)
class _Verified:
    """A token that was good, and is as long as it is not over and its key is published: a signature takes longer to
    verify than most calls take."""

    key_id: str
    key: jwt.PyJWK
    principal: Principal


class WebTokens:
    """Tells which JWTs are good, by the keys that the provider publishes."""

    def __init__(self, provider: Provider) -> None:
        """Raises ConfigurationError."""
        provider.check()
        self._provider = provider
        self._verified_before: OrderedDict[bytes, _Verified] = OrderedDict()
        self._keys = _PublishedKeys(provider.jwks) if "://" in provider.jwks else _KeyFile(Path(provider.jwks))

    async def principal(self, token: str) -> Principal:
        """Raises TokenInvalid, TokenExpired, KeysUnavailable."""
        if len(token) > _MAX_TOKEN_LENGTH:
            raise TokenInvalid("the token is no JWT that this service takes")
        digest = hashlib.sha256(token.encode("utf-8", "replace")).digest()
        known = self._verified_before.get(digest)
        if known is not None and known.principal.is_proven() and await self._keys.get(known.key_id) is known.key:
            self._verified_before.move_to_end(digest)
            return known.principal
        verified = await self._verify(token)
        self._verified_before[digest] = verified
        while len(self._verified_before) > _MAX_VERIFIED:
            self._verified_before.popitem(last=False)
        return verified.principal

    async def _verify(self, token: str) -> _Verified:
        try:
            given = jwt.get_unverified_header(token).get("kid", "")
            key_id = given if isinstance(given, str) else ""
            key = await self._keys.get(key_id)
            if key is None:
                raise TokenInvalid("the token is signed by a key that its issuer does not publish")
            return _Verified(key_id, key, self._principal(self._verified(token, key)))
        except jwt.ExpiredSignatureError:
            raise TokenExpired("the token has expired") from None
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            # Which of its parts is wrong is the business of its maker, and helps only attackers.
            raise TokenInvalid("the token is no JWT that this service takes") from None

    def _verified(self, token: str, key: jwt.PyJWK) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=list(self._provider.algorithms),
            audience=self._provider.audience,
            issuer=self._provider.issuer,
            leeway=self._provider.leeway_seconds,
            options={"require": ["exp", "iss", "aud", "sub"]},
        )

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        given = claims.get(self._provider.scope_claim, "")
        scopes = given.split() if isinstance(given, str) else given
        if not isinstance(scopes, list) or not all(isinstance(each, str) for each in scopes):
            raise ValueError("the scopes are no list of texts")
        tenant = claims.get(self._provider.tenant_claim)
        if not isinstance(tenant, str):
            raise ValueError("the tenant is no text")
        # A provider's tokens carry the scopes of others, too.
        known = frozenset(scopes).intersection(SCOPES)
        return Principal(claims["sub"], tenant, known, float(claims["exp"]) + self._provider.leeway_seconds)


class _KeyFile:
    """Keys in a file."""

    def __init__(self, path: Path) -> None:
        self._file = WatchedFiles([path], lambda contents: keys_of(contents[0]))

    async def get(self, key_id: str) -> jwt.PyJWK | None:
        return _chosen(self._file.get(), key_id)


class _PublishedKeys:
    """Keys at a URL: fetched when they are asked for, kept while they are young, and fetched early for one that is not
    among them, as after a rotation. While the provider is away those that are there stay in force."""

    def __init__(self, url: str, fetch: Callable[[str], bytes] | None = None) -> None:
        parts = urlsplit(url)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost")):
            raise ConfigurationError(f"keys are fetched by https, or from this machine, not from {url!r}")
        self._url = url
        self._fetch = fetch or _fetch
        self._keys: Keys = {}
        self._tried = float("-inf")
        self._fetched = float("-inf")
        self._one = Lock()

    async def get(self, key_id: str) -> jwt.PyJWK | None:
        key = _chosen(self._keys, key_id)
        if key is not None and time.monotonic() - self._fetched < _REFRESH_SECONDS:
            return key
        async with self._one:
            if time.monotonic() - self._tried >= _UNKNOWN_KEY_SECONDS:
                self._tried = time.monotonic()
                await self._refresh()
        if not self._keys:
            raise KeysUnavailable("the keys of the tokens' issuer cannot be fetched", _UNKNOWN_KEY_SECONDS)
        return _chosen(self._keys, key_id)

    async def _refresh(self) -> None:
        try:
            self._keys = keys_of(await to_thread(self._fetch, self._url))
            self._fetched = time.monotonic()
        except (OSError, ValueError) as error:
            logger.error("the keys at %s cannot be fetched: %s", self._url, error)


def keys_of(content: bytes) -> Keys:
    """The keys of a JWKS that sign, by their id. Raises ValueError."""
    try:
        found = json.loads(content)["keys"]
        keys = {each.get("kid", ""): _key(each) for each in found if each.get("use", "sig") == "sig"}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"no JWKS: {error!r}") from None
    usable = {key_id: key for key_id, key in keys.items() if key is not None}
    if not usable:
        raise ValueError("the JWKS holds no key that verifies signatures")
    return usable


def _key(values: Mapping[str, Any]) -> jwt.PyJWK | None:
    """None for a key of another kind: a provider may publish what this version does not know."""
    if values.get("kty") == "oct":  # a secret is nothing to publish
        return None
    try:
        return jwt.PyJWK(dict(values))
    except jwt.PyJWTError:
        return None


def _chosen(keys: Keys, key_id: str) -> jwt.PyJWK | None:
    """The key of this id; without one, the only key there is."""
    return keys.get(key_id) if key_id or len(keys) != 1 else next(iter(keys.values()))


class _Staying(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: it could lead to where the keys can be exchanged on their way."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener: Final = urllib.request.build_opener(_Staying)


def _fetch(url: str) -> bytes:
    with _opener.open(url, timeout=_FETCH_SECONDS) as response:
        content: bytes = response.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"the answer has more than {_MAX_BYTES} bytes")
    return content
