"""From what came with a call to a Principal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from runwire.errors import TokenInvalid, TokenMissing
from runwire.identity import run_tokens, static_tokens
from runwire.identity.certificates import Certificates
from runwire.identity.principal import ANONYMOUS, Principal
from runwire.identity.run_tokens import RunTokens
from runwire.identity.static_tokens import StaticTokens
from runwire.identity.web_tokens import WebTokens

HEADER: Final = "authorization"
_NAMES: Final = "x509_subject_alternative_name"


class Authenticator:
    """Knows callers by the proofs that are set up. Without any, everybody is ANONYMOUS."""

    def __init__(
        self,
        *,
        tokens: StaticTokens | None = None,
        web_tokens: WebTokens | None = None,
        certificates: Certificates | None = None,
        signed: RunTokens | None = None,
    ) -> None:
        self._tokens = tokens
        self._web_tokens = web_tokens
        self._certificates = certificates
        self._run_tokens = signed

    @property
    def is_open(self) -> bool:
        """Whether everybody may do everything."""
        return not (self._tokens or self._web_tokens or self._certificates)

    async def by_token(self, metadata: Iterable[tuple[str, str | bytes]]) -> Principal | None:
        """By the token of a call; None where it carries none and its certificate may tell. A token that is wrong is
        never made good by a certificate. Raises Unauthenticated, KeysUnavailable."""
        if self.is_open:
            return ANONYMOUS
        given = [value for key, value in metadata if key == HEADER]
        if not given:
            if self._certificates is None:
                raise TokenMissing("this call needs a token: `authorization: Bearer TOKEN`")
            return None
        if len(given) > 1:
            raise TokenInvalid("the call carries several tokens")
        kind, _, token = str(given[0]).strip().partition(" ")
        if kind.lower() != "bearer" or not token.strip():
            raise TokenInvalid("the authorization of a call is `Bearer TOKEN`")
        return await self._by(token.strip())

    async def _by(self, token: str) -> Principal:
        if token.startswith(run_tokens.PREFIX):
            if self._run_tokens is not None:
                return self._run_tokens.principal(token)
        elif token.startswith(static_tokens.PREFIX):
            if self._tokens is not None:
                return self._tokens.principal(token)
        elif self._web_tokens is not None:
            return await self._web_tokens.principal(token)
        raise TokenInvalid("this service takes no tokens of this kind")

    def by_certificate(self, peer: Mapping[str, Iterable[bytes]]) -> Principal:
        """By what TLS knows of the peer, as gRPC tells it. Raises Unauthenticated."""
        names = [name.decode("utf-8", "replace") for name in peer.get(_NAMES, ())]
        if self._certificates is None or not names:
            raise TokenMissing("this call needs a token (`authorization: Bearer TOKEN`), or a client certificate")
        return self._certificates.principal(names)
