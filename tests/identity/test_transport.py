"""TLS and mutual TLS: who is let in, and that certificates are exchanged under open streams."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from agent_service import RunContext, workflow
from runwire.client import AgentClient, sync
from runwire.client.access import Access
from runwire.errors import CertificateUnknown, ConfigurationError, TokenMissing, Unavailable
from runwire.identity import access, watched_files
from runwire.identity.server_certificates import ServerCertificates
from runwire.rpc import serve
from tests.identity.authority import Authority
from tests.identity.proofs import Proofs
from tests.scorer.stage import service
from tests.service.replica import Replica, replica

LIMIT_SECONDS = 20.0


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched_files, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr("agent_service.app._COMING_IN_SECONDS", 0.0)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def tls(authority: Authority, **more: Any) -> dict[str, Any]:
    """Settings of a server."""
    cert, key = authority.issue("server", "127.0.0.1", "localhost")
    return {"tls_cert_file": cert, "tls_key_file": key, **more}


@workflow(id="waits")
async def waits(ctx: RunContext, input: str) -> str:
    """Waits for a word."""
    return str(await ctx.suspend("word"))


@asynccontextmanager
async def over_tls(url: str, **settings: Any) -> AsyncIterator[Replica]:
    async with replica(url, waits, **settings) as it:
        yield it


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/runs.db"


async def test_both_services_speak_tls(url: str, authority: Authority, tmp_path: Path) -> None:
    """A client that trusts the authority reaches either service, one that does not, or speaks plain text, neither."""
    settings = tls(authority)
    async with (
        over_tls(url, **settings) as agent,
        service(f"sqlite:///{tmp_path}/scores.db", store=url, **settings) as scorer,
    ):
        for address in (agent.address, scorer.address):
            for how, reached in (
                (Access(ca=authority.path), True),
                (Access(ca=authority.path, server_name="localhost"), True),
                (Access(ca=authority.path, server_name="other.example"), False),
                (Access(ca=Authority(tmp_path, "another").path), False),
                (Access(), False),
            ):
                assert await asyncio.to_thread(_is_reached, how, address) == reached, how


def _is_reached(how: Access, address: str) -> bool:
    with how.channel(address) as channel:
        try:
            channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5.0)
        except grpc.RpcError:
            return False
        return True


async def test_the_clients_speak_tls(url: str, authority: Authority, tmp_path: Path) -> None:
    """Both Python clients call over TLS with a token from a file, which is read at every call."""
    proofs = Proofs(tmp_path)
    async with over_tls(url, **tls(authority), **proofs.settings) as it:
        token = tmp_path / "token"
        token.write_text(proofs.token("anna") + "\n")
        arguments = Access(ca=authority.path, token_file=token).arguments()
        async with AgentClient(it.address, **arguments) as client:
            run = await client.start_run("waits", "x")
            assert run.owner == "anna"
            token.write_text(proofs.token("ben"))
            assert (await client.start_run("waits", "x")).owner == "ben"
            token.write_text("")
            with pytest.raises(TokenMissing):
                await client.get_run(run.run_id)
            token.write_text(proofs.token("anna"))

        def listed() -> list[str]:
            with sync.AgentClient(it.address, **arguments) as client:
                return [each.owner for each in client.list_runs()]

        assert sorted(await asyncio.to_thread(listed)) == ["anna", "ben"]


async def test_a_client_certificate_is_a_principal(url: str, authority: Authority, tmp_path: Path) -> None:
    """Who has a certificate is whom the rules say, in the tenant that they say; a token wins over it; without a
    certificate there is no connection."""
    rules = tmp_path / "rules"
    rules.write_text("spiffe://here/*  tenant=shop scopes=runs:read,runs:write,own\n")
    proofs = Proofs(tmp_path)
    settings = tls(authority, tls_client_ca_file=authority.path, certificate_rules=rules, tokens=proofs.tokens)
    known = authority.issue("known", "spiffe://here/checkout")
    unknown = authority.issue("unknown", "spiffe://elsewhere/checkout")
    stranger = Authority(tmp_path, "stranger").issue("stranger", "spiffe://here/checkout")
    async with over_tls(url, **settings) as it:
        async with AgentClient(it.address, **_with(authority, known).arguments()) as client:
            assert (await client.start_run("waits", "x")).owner == "spiffe://here/checkout"
            assert len([run async for run in client.list_runs()]) == 1
        token = proofs.token("anna", "shop")
        async with AgentClient(it.address, **_with(authority, known, token).arguments()) as client:
            assert (await client.start_run("waits", "x")).owner == "anna"
        async with AgentClient(it.address, **_with(authority, unknown).arguments()) as client:
            with pytest.raises(CertificateUnknown):
                await client.list_agents()
        for how in (_with(authority, stranger), Access(ca=authority.path)):
            async with AgentClient(it.address, timeout=2.0, **how.arguments()) as client:
                with pytest.raises(Unavailable):
                    await client.list_agents()


def _with(authority: Authority, pair: tuple[Path, Path], token: str = "") -> Access:
    return Access(ca=authority.path, cert=pair[0], key=pair[1], token=token)


def served_serial(address: str, authority: Authority) -> int:
    """The serial number of the certificate that a new connection gets."""
    host, port = address.split(":")
    context = ssl.create_default_context(cafile=str(authority.path))
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), 5.0) as raw,
        context.wrap_socket(raw, server_hostname=host) as peer,
    ):
        data = peer.getpeercert(binary_form=True)
    assert data is not None
    return x509.load_der_x509_certificate(data).serial_number


async def test_certificates_are_exchanged_under_open_streams(url: str, authority: Authority, tmp_path: Path) -> None:
    """Certificate, key and token file are exchanged again and again while streams are open: none is cut, a new
    connection gets the new certificate at once, a damaged pair changes nothing."""
    proofs = Proofs(tmp_path)
    async with over_tls(url, **tls(authority), **proofs.settings) as it:
        how = Access(ca=authority.path, token=proofs.token("anna"))
        async with AgentClient(it.address, **how.arguments()) as client:
            run = await client.start_run("waits", "x")
            metadata = how.metadata()
            channel = grpc.aio.secure_channel(it.address, how.credentials() or grpc.ssl_channel_credentials())
            async with channel:
                watch = channel.unary_stream("/runwire.agent.v1.AgentService/WatchRun")
                name = b"\x0a" + bytes([len(run.run_id)]) + run.run_id.encode()
                streams = [watch(name, metadata=metadata) for _ in range(200)]
                for stream in streams:
                    assert await stream.read()
                for serial in range(1, 21):
                    authority.issue("server", "127.0.0.1", serial=serial)
                    proofs.token(f"token {serial}")
                    assert await asyncio.to_thread(served_serial, it.address, authority) == serial
                key = tmp_path / "server.key"
                key.write_bytes(b"-----BEGIN PRIVATE KEY-----\n")
                assert await asyncio.to_thread(served_serial, it.address, authority) == 20
                await client.cancel_run(run.run_id)
                for stream in streams:
                    while await stream.read() is not grpc.aio.EOF:
                        pass
                    assert await stream.code() is grpc.StatusCode.OK


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1")
async def test_old_versions_of_tls_are_refused(authority: Authority, tmp_path: Path) -> None:
    """TLS 1.1 is not spoken; 1.2 and 1.3 are."""
    settings = tls(authority)
    async with serve("127.0.0.1:0", lambda _: None, [], access=_server(settings)) as server:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert await asyncio.to_thread(_speaks, server.address, authority, version)
        assert not await asyncio.to_thread(_speaks, server.address, authority, ssl.TLSVersion.TLSv1_1)


def _server(settings: dict[str, Any]) -> access.Access:
    return access.Access(certificates=ServerCertificates(settings["tls_cert_file"], settings["tls_key_file"], None))


def _speaks(address: str, authority: Authority, version: ssl.TLSVersion) -> bool:
    host, port = address.split(":")
    context = ssl.create_default_context(cafile=str(authority.path))
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    try:
        with (
            socket.create_connection((host, int(port)), 5.0) as raw,
            context.wrap_socket(raw, server_hostname=host) as peer,
        ):
            return peer.version() is not None
    except (ssl.SSLError, OSError):
        return False


@pytest.mark.parametrize(
    "wrong",
    ["no key", "no certificate", "another key", "damaged", "missing", "client ca alone", "rules alone", "encrypted"],
)
async def test_files_that_do_not_fit_are_an_error(url: str, authority: Authority, tmp_path: Path, wrong: str) -> None:
    """What cannot be served is said at the start, in one line."""
    settings = tls(authority)
    if wrong == "no key":
        del settings["tls_key_file"]
    elif wrong == "no certificate":
        del settings["tls_cert_file"]
    elif wrong == "another key":
        settings["tls_key_file"] = authority.issue("other", "other")[1]
    elif wrong == "damaged":
        settings["tls_cert_file"].write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    elif wrong == "missing":
        settings["tls_cert_file"].unlink()
    elif wrong == "client ca alone":
        settings = {"tls_client_ca_file": authority.path}
    elif wrong == "rules alone":
        settings["certificate_rules"] = tmp_path / "rules"
    else:
        _encrypt(settings["tls_key_file"])
    with pytest.raises((ConfigurationError, ExceptionGroup)) as caught:
        async with over_tls(url, **settings):
            pass
    assert "ConfigurationError" in repr(caught.value)


def _encrypt(path: Path) -> None:
    key = load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")))
