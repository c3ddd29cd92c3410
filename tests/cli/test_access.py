"""How the command reaches services: over TLS, with a token, by contexts; and `runwire token`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.conftest import Result, Runwire
from tests.client.processes import AgentProcess
from tests.identity.authority import Authority
from tests.identity.proofs import Proofs


@pytest.fixture(autouse=True)
def no_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    monkeypatch.setenv("RUNWIRE_CONFIG", str(path))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("access")


@pytest.fixture(scope="module")
def secured(folder: Path) -> Iterator[AgentProcess]:
    """An agent service with TLS and tokens."""
    cert, key = Authority(folder).issue("server", "127.0.0.1")
    files = {"tls_cert_file": str(cert), "tls_key_file": str(key), "tokens": str(Proofs(folder).tokens)}
    with AgentProcess("agent_service.demo.ticker", **files) as service:
        yield service.start()


@pytest.fixture(scope="module")
def token(folder: Path, secured: AgentProcess) -> Path:
    path = folder / "token"
    path.write_text(Proofs(folder).token("anna"))
    return path


def test_tls_and_a_token_from_a_file(runwire: Runwire, secured: AgentProcess, folder: Path, token: Path) -> None:
    """With the authority and a token every command works, `doctor` too; without one of them it says what is missing."""
    there = ("--agent-address", secured.address, "--ca", str(folder / "test-authority.pem"))
    assert runwire("agents", *there, "--token-file", str(token)).out.startswith("ticker")
    found = runwire("doctor", "--json", *there, "--token-file", str(token))
    assert "agent service: clock" in [line["check"] for line in found.lines if line["result"] == "ok"]
    assert "needs a token" in runwire("agents", *there).err
    assert "no such token" in runwire("agents", *there, "--token", "rw_0123456789ab_" + "A" * 43).err
    assert runwire("agents", *there[:2], "--token-file", str(token)).code == 3


def test_a_context_says_it_all(
    runwire: Runwire,
    secured: AgentProcess,
    folder: Path,
    token: Path,
    no_profile: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The current context, or one by name, brings address, authority and token; options and variables win."""
    monkeypatch.delenv("RUNWIRE_AGENT_ADDRESS")
    no_profile.write_text(
        f"""current = "there"
        [contexts.there]
        agent-address = "{secured.address}"
        ca = "{folder / "test-authority.pem"}"
        token-file = "{token}"
        [contexts.nowhere]
        agent-address = "127.0.0.1:1"
        """
    )
    assert runwire("agents").code == 0
    assert runwire("--context", "nowhere", "agents").code == 3
    assert runwire("--context", "nowhere", "agents", "--context", "there").code == 0
    assert runwire("agents", "--agent-address", "127.0.0.1:1").code == 3
    assert runwire("agents", "--token", "x").code == 1
    refused = runwire("agents", "--context", "other")
    assert (refused.code, refused.err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    "content",
    [
        "current = 7",
        "= ",
        "current = 'x'",
        "contexts = 7\ncurrent = 'x'",
        "current='x'\n[contexts.x]\ntokn='a'",
        "current='x'\n[contexts.x]\ntls='yes'",
        "current='x'\n[contexts.x]\nca=7",
    ],
)
def test_a_profile_that_is_wrong(
    runwire: Runwire, no_profile: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    """One line that names the file, and exit code 2."""
    monkeypatch.delenv("RUNWIRE_AGENT_ADDRESS")
    no_profile.write_text(content)
    result = runwire("agents")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert str(no_profile) in result.err


@pytest.mark.parametrize("given", [("--ca", "/no/such"), ("--cert", "/no/such"), ("--token-file", "/no/such")])
def test_a_file_that_is_not_there(runwire: Runwire, given: tuple[str, str]) -> None:
    """One line, and exit code 2."""
    result = runwire("agents", *given)
    assert (result.code, result.err.count("\n")) == (2, 1)


def test_no_token_in_plain_text(runwire: Runwire) -> None:
    """A token goes to another machine over TLS, or not at all."""
    result = runwire("agents", "--agent-address", "192.0.2.1:50051", "--token", "secret-of-mine")
    assert result.code == 2
    assert "plain text" in result.err
    assert "secret-of-mine" not in result.err


def test_tokens_are_made_listed_and_revoked(runwire: Runwire, tmp_path: Path) -> None:
    """`token new` prints the token alone; `list` shows all but the token; `revoke` takes it by itself or by id."""
    file = str(tmp_path / "tokens")

    def tokens(*arguments: str) -> Result:
        return runwire("token", *arguments, "--file", file)

    made = [
        tokens("new", "anna", "--scope", "runs:read", "--scope", "own", "--tenant", "shop", "--expires", "90d"),
        tokens("new", "ben", "--scope", "admin"),
    ]
    assert [result.code for result in made] == [0, 0]
    secrets = [result.out.strip() for result in made]
    listed = tokens("list", "--json")
    lines = [json.loads(line) for line in listed.out.splitlines()]
    assert [(line["subject"], line["tenant"], line["state"]) for line in lines] == [
        ("anna", "shop", "valid"),
        ("ben", "default", "valid"),
    ]
    shown = listed.out + tokens("list").out
    assert not any(secret.split("_", 2)[2] in shown for secret in secrets)
    assert tokens("revoke", secrets[0]).code == 0
    assert tokens("revoke", lines[1]["token_id"]).code == 0
    assert [line["state"] for line in tokens("list", "--json").lines] == ["revoked", "revoked"]
    for wrong in (("revoke", "none"), ("new", "a\nb", "--scope", "admin"), ("new", "a", "--scope", "x")):
        result = tokens(*wrong)
        assert (result.code, result.err.count("\n")) == (2, 1)
    assert tokens("new", "a", "--scope", "admin", "--tenant", "a/b").code == 2
