"""What callers prove themselves with, good and bad: tokens in a file, and JWTs of a provider of our own."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from runwire.identity import run_tokens, static_tokens
from runwire.identity.principal import SCOPES

ISSUER = "https://issuer.example"
AUDIENCE = "runwire"
FAR = 4102444800.0


def metadata(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")] if token else []


@dataclass
class Issuer:
    """An identity provider: a key, and its JWKS in a file."""

    path: Path
    key_id: str = "one"
    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __post_init__(self) -> None:
        self.publish()

    def publish(self) -> None:
        public = jwt.get_algorithm_by_name("ES256").to_jwk(self.key.public_key(), as_dict=True)
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps({"keys": [{**public, "kid": self.key_id, "alg": "ES256", "use": "sig"}]}))
        beside.replace(self.path)

    def rotate(self, key_id: str) -> None:
        self.key_id, self.key = key_id, ec.generate_private_key(ec.SECP256R1())
        self.publish()

    def token(self, *, key: Any = None, algorithm: str = "ES256", header: Any = None, **claims: Any) -> str:
        """A token with these claims beside the usual ones; None leaves a claim out."""
        usual = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "anna",
            "exp": time.time() + 600,
            "tenant": "acme",
            "scope": "runs:read runs:write",
        }
        content = {name: value for name, value in (usual | claims).items() if value is not None}
        headers = {"kid": self.key_id, **(header or {})}
        return jwt.encode(content, self.key if key is None else key, algorithm=algorithm, headers=headers)

    @property
    def settings(self) -> dict[str, Any]:
        return {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwt_jwks": str(self.path)}


def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Proofs:
    """A file of tokens and an issuer, for one service or for both."""

    def __init__(self, folder: Path) -> None:
        self.tokens = folder / "tokens.jsonl"
        self.issuer = Issuer(folder / "jwks.json")
        self.keys = folder / "run-token-keys"
        if not self.keys.exists():
            self.keys.write_text(run_tokens.new_key() + "\n")
        self.token("nobody")

    def token(
        self, subject: str, tenant: str = "acme", *scopes: str, expire_time: float | None = None, own: bool = False
    ) -> str:
        """A token of the file; without scopes: with all of them but `own` and `admin`."""
        given = scopes or tuple(each for each in SCOPES if each not in ("own", "admin"))
        return static_tokens.new(self.tokens, subject, tenant, (*given, *(("own",) if own else ())), expire_time)

    def revoked(self, subject: str) -> str:
        token = self.token(subject)
        static_tokens.revoke(self.tokens, token.split("_")[1])
        return token

    @property
    def settings(self) -> dict[str, Any]:
        return {"tokens": self.tokens, "run_token_keys": self.keys, **self.issuer.settings}
