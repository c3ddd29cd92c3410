"""Tokens of a file and JWTs: which are good, and what is said of the others."""

from __future__ import annotations

import base64
import hmac
import json
import os
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from runwire.errors import ConfigurationError, KeysUnavailable, TokenExpired, TokenInvalid, TokenRevoked
from runwire.identity import static_tokens, watched_files, web_tokens
from runwire.identity.principal import Principal
from runwire.identity.static_tokens import StaticTokens
from runwire.identity.web_tokens import Provider, WebTokens, keys_of
from tests.identity.proofs import AUDIENCE, ISSUER, Issuer, Proofs, rsa_key


@pytest.fixture(autouse=True)
def looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changed is read by whoever asks next."""
    monkeypatch.setattr(watched_files, "LOOK_SECONDS", 0.0)


@pytest.fixture
def proofs(tmp_path: Path) -> Proofs:
    return Proofs(tmp_path)


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    return Issuer(tmp_path / "jwks.json")


def test_a_token_proves_who_it_was_made_for(proofs: Proofs) -> None:
    """Subject, tenant and scopes are those that the operator gave."""
    token = proofs.token("anna", "acme", "runs:read", own=True)
    found = StaticTokens(proofs.tokens).principal(token)
    assert found == Principal("anna", "acme", frozenset({"runs:read", "own"}))
    assert found.owner == "anna"


def test_the_file_holds_no_secret(proofs: Proofs) -> None:
    """Who reads the file cannot call: it holds hashes, each with its salt, and is nobody else's to read."""
    tokens = [proofs.token("anna") for _ in range(2)]
    content = proofs.tokens.read_text()
    assert not any(token.split("_", 2)[2] in content for token in tokens)
    lines = [json.loads(line) for line in content.splitlines()]
    assert len({line["salt"] for line in lines}) == len(lines)
    assert stat.S_IMODE(os.stat(proofs.tokens).st_mode) == 0o600


def _other_secret(token: str) -> str:
    return token[:-1] + ("A" if token[-1] != "A" else "B")


@pytest.mark.parametrize(
    "forge",
    [
        _other_secret,
        lambda token: token[:-1],
        lambda token: token + "A",
        lambda token: token.upper(),
        lambda token: "rw_000000000000_" + token.split("_", 2)[2],
        lambda token: "rw_" + token.split("_", 2)[2],
        lambda token: "rw__",
        lambda token: "rw_",
    ],
)
def test_a_forged_token_is_none(proofs: Proofs, forge: Callable[[str], str]) -> None:
    """Whatever differs from the token by a character proves nothing, and is told nothing."""
    token = proofs.token("anna")
    with pytest.raises(TokenInvalid, match="there is no such token"):
        StaticTokens(proofs.tokens).principal(forge(token))


def test_what_was_taken_back_or_is_over(proofs: Proofs) -> None:
    """Who has the secret learns that it is revoked or expired; who has not, nothing."""
    revoked, expired = proofs.revoked("anna"), proofs.token("anna", expire_time=time.time() - 1)
    tokens = StaticTokens(proofs.tokens)
    with pytest.raises(TokenRevoked):
        tokens.principal(revoked)
    with pytest.raises(TokenExpired):
        tokens.principal(expired)
    for token in (revoked, expired):
        with pytest.raises(TokenInvalid):
            tokens.principal(_other_secret(token))


def test_changes_are_in_force_without_a_restart(proofs: Proofs) -> None:
    """A new token is good, and a revoked one is not, for whoever has read the file before; a principal knows it."""
    tokens = StaticTokens(proofs.tokens)
    token = proofs.token("late")
    principal = tokens.principal(token)
    assert principal.is_proven()
    static_tokens.revoke(proofs.tokens, token.split("_")[1])
    assert not principal.is_proven()
    with pytest.raises(TokenRevoked):
        tokens.principal(token)


@pytest.mark.parametrize("content", [b"{", b"[]\n", b'{"token_id": "x"}\n', b"\xff\xfe", None])
def test_a_damaged_file_changes_nothing(
    proofs: Proofs, content: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is half written, or gone, leaves the tokens as they were, and is said once; at the start it is an
    error."""
    token = proofs.token("anna")
    tokens = StaticTokens(proofs.tokens)
    good = proofs.tokens.read_bytes()
    proofs.tokens.unlink() if content is None else proofs.tokens.write_bytes(content)
    for _ in range(3):
        assert tokens.principal(token).subject == "anna"
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    with pytest.raises(ConfigurationError, match="cannot use"):
        StaticTokens(proofs.tokens)
    proofs.tokens.write_bytes(good)
    later = proofs.token("later")
    assert tokens.principal(later).subject == "later"


def test_many_make_tokens_at_once(tmp_path: Path) -> None:
    """No token is lost where several commands write the file."""
    path = tmp_path / "tokens"
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda n: static_tokens.new(path, f"s{n}", "acme", ["runs:read"], None), range(24)))
    tokens = StaticTokens(path)
    assert {tokens.principal(token).subject for token in made} == {f"s{n}" for n in range(24)}


def provider(of: Issuer, /, **given: Any) -> WebTokens:
    settings: dict[str, Any] = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": str(of.path), **given}
    return WebTokens(Provider(**settings))


async def test_a_jwt_proves_its_claims(issuer: Issuer) -> None:
    """Subject, tenant and the scopes that are ours; those of others are left out."""
    found = await provider(issuer).principal(issuer.token(scope="openid runs:read own", exp=time.time() + 50))
    assert (found.subject, found.tenant, found.scopes) == ("anna", "acme", {"runs:read", "own"})
    assert found.expire_time is not None
    assert found.is_proven()
    as_list = await provider(issuer, scope_claim="roles").principal(issuer.token(roles=["admin", "x"]))
    assert as_list.scopes == {"admin"}


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "other"},
        {"aud": None},
        {"aud": []},
        {"iss": "https://other.example"},
        {"iss": None},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "a\nb"},
        {"exp": None},
        {"exp": "never"},
        {"exp": 1e400},
        {"nbf": 4_102_444_800},  # the year 2100
        {"tenant": None},
        {"tenant": "a/b"},
        {"tenant": ["acme"]},
        {"scope": {"admin": True}},
        {"scope": [["admin"]]},
    ],
    ids=str,
)
async def test_a_jwt_with_a_wrong_claim_is_none(issuer: Issuer, claims: dict[str, Any]) -> None:
    """A good signature is not enough, and which claim is wrong is not told."""
    with pytest.raises(TokenInvalid, match="no JWT that this service takes"):
        await provider(issuer).principal(_encoded(issuer, claims))


def _encoded(issuer: Issuer, claims: dict[str, Any]) -> str:
    """Signed by hand where PyJWT would not sign."""
    try:
        return issuer.token(**claims)
    except (TypeError, ValueError):
        header, payload, _ = issuer.token().split(".")
        content = json.loads(base64.urlsafe_b64decode(payload + "==")) | claims
        body = f"{header}.{_base64(json.dumps(content).encode())}"
        signature = jwt.get_algorithm_by_name("ES256").sign(body.encode(), issuer.key)
        return f"{body}.{_base64(signature)}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


HS256 = b'{"alg":"HS256","kid":"one"}'


def _signed_by_secret(secret: bytes, payload: str) -> str:
    """As the public key were a secret that both sides have."""
    body = f"{_base64(HS256)}.{payload}"
    return f"{body}.{_base64(hmac.digest(secret, body.encode(), 'sha256'))}"


async def test_a_jwt_of_another_signer_is_none(issuer: Issuer, tmp_path: Path) -> None:
    """Another key under the same id, no signature, the public key as a secret, another algorithm, a key in the header:
    all of them are forged."""
    other = Issuer(tmp_path / "other.json")
    public = issuer.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    header, payload, signature = issuer.token().split(".")
    forged = [
        other.token(),
        issuer.token(key=rsa_key(), algorithm="RS256"),
        _signed_by_secret(public, payload),
        jwt.encode({"sub": "anna"}, key="", algorithm="none"),
        f"{_base64(json.dumps({'alg': 'none', 'kid': 'one'}).encode())}.{payload}.",
        other.token(header={"jwk": json.loads(other.path.read_text())["keys"][0]}),
        other.token(header={"jku": "http://127.0.0.1:1/keys"}),
        f"{header}.{payload[:-2]}.{signature}",
        f"{header}.{payload}",
        f"{_base64(b'[' * 4000)}.{payload}.{signature}",
        issuer.token(header={"kid": "two"}),
        "x" * 100_000,
        "...",
        "é.é.é",
    ]
    web = provider(issuer)
    for token in forged:
        with pytest.raises(TokenInvalid):
            await web.principal(token)


async def test_a_jwt_expires_with_leeway(issuer: Issuer) -> None:
    """A token is good for the leeway after its end, and then expired."""
    over = issuer.token(exp=time.time() - 10)
    assert (await provider(issuer, leeway_seconds=30.0).principal(over)).subject == "anna"
    with pytest.raises(TokenExpired):
        await provider(issuer, leeway_seconds=1.0).principal(over)


async def test_keys_in_a_file_are_rotated(issuer: Issuer) -> None:
    """Tokens of the new key are good at once, those of a key that is not published any more are not."""
    web, before = provider(issuer), issuer.token()
    assert (await web.principal(before)).subject == "anna"
    issuer.rotate("two")
    assert (await web.principal(issuer.token())).subject == "anna"
    with pytest.raises(TokenInvalid):
        await web.principal(before)


async def test_keys_at_a_url_are_fetched_and_kept(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are fetched once; a token of an unknown key fetches them again, but not a flood of them; a provider that is
    away leaves those that are there in force."""
    fetched: list[str] = []

    def fetch(url: str) -> bytes:
        fetched.append(url)
        if away:
            raise OSError("away")
        return issuer.path.read_bytes()

    away = True
    keys = web_tokens._PublishedKeys("https://issuer.example/keys", fetch)
    with pytest.raises(KeysUnavailable):
        await keys.get("one")
    away = False
    monkeypatch.setattr(web_tokens, "_UNKNOWN_KEY_SECONDS", 0.0)
    assert await keys.get("one") is not None
    issuer.rotate("two")
    assert await keys.get("two") is not None
    assert await keys.get("one") is None
    monkeypatch.setattr(web_tokens, "_UNKNOWN_KEY_SECONDS", 1000.0)
    before = len(fetched)
    for number in range(50):
        assert await keys.get(f"made up {number}") is None
    assert len(fetched) == before
    away = True
    monkeypatch.setattr(web_tokens, "_UNKNOWN_KEY_SECONDS", 0.0)
    monkeypatch.setattr(web_tokens, "_REFRESH_SECONDS", 0.0)
    assert await keys.get("two") is not None


async def test_a_jwt_is_verified_once(issuer: Issuer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that was good is not verified again, until it is over, or its key is exchanged, also for another of the
    same id; the memory for it is bounded."""
    web = provider(issuer, leeway_seconds=0.0)
    verified: list[str] = []
    decode = jwt.decode
    monkeypatch.setattr(jwt, "decode", lambda token, *a, **k: verified.append(token) or decode(token, *a, **k))
    token, over = issuer.token(), issuer.token(exp=time.time() + 1.5)
    for _ in range(3):
        assert (await web.principal(token)).subject == "anna"
    assert verified == [token]
    principal = await web.principal(over)
    while principal.is_proven():
        pass
    with pytest.raises(TokenExpired):
        await web.principal(over)
    issuer.rotate("one")
    with pytest.raises(TokenInvalid):
        await web.principal(token)
    monkeypatch.setattr(web_tokens, "_MAX_VERIFIED", 2)
    for number in range(5):
        await web.principal(issuer.token(sub=f"s{number}"))
    assert len(web._verified_before) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"audience": ""},
        {"issuer": ""},
        {"algorithms": ()},
        {"algorithms": ("HS256",)},
        {"algorithms": ("none",)},
        {"jwks": "http://issuer.example/keys"},
        {"jwks": "file:///etc/passwd"},
        {"jwks": "/no/such/file"},
    ],
    ids=str,
)
def test_settings_that_would_take_too_much(issuer: Issuer, wrong: dict[str, Any]) -> None:
    """A provider without an audience, with algorithms by which anybody could sign, or whose keys could be exchanged on
    their way, is refused at the start."""
    with pytest.raises(ConfigurationError):
        provider(issuer, **wrong)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"keys": []}', b'{"keys": [7]}', b'{"keys": [{"kty":"oct","k":"eA"}]}']
)
def test_what_holds_no_key_is_no_jwks(content: bytes) -> None:
    """A secret that verifies is no key to publish, and neither is nothing."""
    with pytest.raises(ValueError, match=r"JWKS|Expecting"):
        keys_of(content)
