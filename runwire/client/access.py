"""How a client reaches a service: in plain text or over TLS, and with which token.

access = Access(tls=True, token_file=Path("token"))
async with AgentClient("agents.example.com:443", **access.arguments()) as client:
    ...
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from runwire.client.channels import Metadata
from runwire.errors import ConfigurationError


@dataclass(frozen=True)
class Access:
    """TLS is on where `tls` says so, or any of its files is given."""

    tls: bool = False
    ca: Path | None = None
    """Whom to trust, in PEM; None: whom gRPC trusts by itself."""
    cert: Path | None = None
    """This client's certificate, for a service that asks for one."""
    key: Path | None = None
    server_name: str = ""
    """The name in the service's certificate, where it is not the one that is dialled."""
    token: str = ""
    token_file: Path | None = None
    """Read at every call: a token is renewed by renewing this file."""

    @property
    def is_encrypted(self) -> bool:
        return self.tls or bool(self.ca or self.cert or self.key)

    def arguments(self) -> dict[str, Any]:
        """For the constructor of any client: `credentials`, `metadata`, `options`. Raises ConfigurationError."""
        return {"credentials": self.credentials(), "metadata": self.metadata, "options": self.options()}

    def channel(self, target: str) -> grpc.Channel:
        """A channel of its own; the token is not part of it. Raises ConfigurationError."""
        credentials = self.credentials()
        if credentials is None:
            return grpc.insecure_channel(target)
        return grpc.secure_channel(target, credentials, options=self.options())

    def credentials(self) -> grpc.ChannelCredentials | None:
        """None in plain text. Raises ConfigurationError."""
        if not self.is_encrypted:
            return None
        if (self.cert is None) != (self.key is None):
            raise ConfigurationError("a client certificate needs its key, and a key its certificate")
        ca, key, cert = (_read(path) for path in (self.ca, self.key, self.cert))
        return grpc.ssl_channel_credentials(ca, key, cert)

    def metadata(self) -> Metadata:
        """What every call carries. Raises ConfigurationError."""
        content = _read(self.token_file)
        token = self.token or (content or b"").decode("ascii", "replace").strip()
        return [("authorization", f"Bearer {token}")] if token else []

    def options(self) -> list[tuple[str, Any]]:
        return [("grpc.ssl_target_name_override", self.server_name)] if self.server_name else []


def from_environment() -> Access:
    """By the variables of the command line: RUNWIRE_TLS, RUNWIRE_CA, RUNWIRE_CERT, RUNWIRE_KEY, RUNWIRE_SERVER_NAME,
    RUNWIRE_TOKEN and RUNWIRE_TOKEN_FILE."""

    def file(name: str) -> Path | None:
        return Path(found) if (found := os.environ.get(name)) else None

    return Access(
        tls=os.environ.get("RUNWIRE_TLS", "").lower() in ("1", "true", "yes", "on"),
        ca=file("RUNWIRE_CA"),
        cert=file("RUNWIRE_CERT"),
        key=file("RUNWIRE_KEY"),
        server_name=os.environ.get("RUNWIRE_SERVER_NAME", ""),
        token=os.environ.get("RUNWIRE_TOKEN", ""),
        token_file=file("RUNWIRE_TOKEN_FILE"),
    )


def _read(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cannot read {str(path)!r}: {error.strerror}") from None
