"""A kit between a client and a service that speak TLS: it must see the messages in order to break between them, so it
ends TLS on both sides, and the client trusts a certificate of the kit's own."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from runwire.client.access import Access
from runwire.errors import ConfigurationError

_HOST: Final = "127.0.0.1"


@dataclass(frozen=True)
class Encryption:
    """How the proxy speaks to both sides."""

    to_clients: ssl.SSLContext
    to_targets: Mapping[str, tuple[ssl.SSLContext, str]]
    """Of each target: how, and the name in its certificate."""
    environment: Mapping[str, str]
    """What the client under test is told, beside the address: whom to trust, and its token."""


@contextmanager
def encrypted(accesses: Mapping[str, Access]) -> Iterator[Encryption | None]:
    """For these targets; None in plain text. Its files are there while the context is open. Raises
    ConfigurationError."""
    if not any(access.is_encrypted for access in accesses.values()):
        yield None
        return
    if not all(access.is_encrypted for access in accesses.values()):
        raise ConfigurationError("either all targets speak TLS, or none does: a client under test has one way to call")
    if find_spec("cryptography") is None:
        raise ConfigurationError("TLS needs a part that is not installed: pip install 'runwire[agent]'")
    from runwire.identity import self_signed

    with TemporaryDirectory(prefix="runwire-conformance-") as folder:
        cert, key = Path(folder, "server.pem"), Path(folder, "server.key")
        self_signed.make(cert, key, [_HOST], days=1)
        to_clients = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        to_clients.load_cert_chain(cert, key)
        to_clients.set_alpn_protocols(["h2"])
        to_targets = {target: _to(target, access) for target, access in accesses.items()}
        yield Encryption(
            to_clients,
            to_targets,
            {"RUNWIRE_CA": str(cert), "RUNWIRE_SERVER_NAME": "", **_token(list(accesses.values()))},
        )


def _to(target: str, access: Access) -> tuple[ssl.SSLContext, str]:
    try:
        context = ssl.create_default_context(cafile=access.ca)
        if access.cert and access.key:
            context.load_cert_chain(access.cert, access.key)
    except OSError as error:
        raise ConfigurationError(f"cannot use the certificates for {target}: {error}") from None
    context.set_alpn_protocols(["h2"])
    return context, access.server_name or target.rpartition(":")[0].strip("[]")


def _token(accesses: Sequence[Access]) -> Mapping[str, str]:
    """The first: the client under test has one for all targets."""
    access = accesses[0]
    if access.token_file:
        return {"RUNWIRE_TOKEN_FILE": str(access.token_file.absolute())}
    return {"RUNWIRE_TOKEN": access.token} if access.token else {}
