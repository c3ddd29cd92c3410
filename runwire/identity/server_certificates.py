"""What a server proves itself with over TLS, and whose client certificates it takes: files, read again when they
change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from runwire.identity.watched_files import WatchedFiles


@dataclass(frozen=True)
class Identity:
    """In PEM."""

    key: bytes
    chain: bytes
    """The server's certificate, and those between it and a root."""
    client_ca: bytes | None
    """Who signs the certificates of clients; None: they need none."""


class ServerCertificates:
    """The files of a server. A pair that does not fit, as in the middle of an exchange, is not used: what was read last
    stays until there is a whole new one."""

    def __init__(self, chain: Path, key: Path, client_ca: Path | None) -> None:
        """Raises ConfigurationError."""
        self.asks_clients = client_ca is not None
        self._files = WatchedFiles([chain, key, *([client_ca] if client_ca else [])], _identity)

    def get(self) -> Identity:
        """What is in force now; the same object as long as nothing has changed. Safe for several threads."""
        return self._files.get()


def _identity(contents: Sequence[bytes]) -> Identity:
    chain, key, *client_ca = contents
    certificate = x509.load_pem_x509_certificates(chain)[0]
    try:
        private = load_pem_private_key(key, None)
    except UnsupportedAlgorithm as error:
        raise ValueError(str(error)) from None
    except TypeError:
        raise ValueError("the key is encrypted; gRPC reads only keys without a password") from None
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    if certificate.public_key().public_bytes(*form) != private.public_key().public_bytes(*form):
        raise ValueError("the key is not that of the certificate")
    for content in client_ca:
        x509.load_pem_x509_certificates(content)
    return Identity(key, chain, client_ca[0] if client_ca else None)
