"""A certificate that trusts itself: for one machine, a test, or a cluster without an authority of its own.

What it is given to, and shown by, is one file: clients trust the certificate itself.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from runwire.errors import ConfigurationError

_CLOCKS_DIFFER: Final = timedelta(minutes=5)
_MAX_COMMON_NAME_LENGTH: Final = 64


def make(cert: Path, key: Path, names: Sequence[str], days: int) -> None:
    """A new certificate for DNS names and addresses, and its key, in place of those that are there. A service that
    reads in between finds a pair that does not fit, and keeps the old one. Raises ConfigurationError."""
    private = ec.generate_private_key(ec.SECP256R1())
    try:
        signed = _builder(names, private, days).sign(private, hashes.SHA256())
    except ValueError as error:
        raise ConfigurationError(f"no certificate can be for {', '.join(map(repr, names))}: {error}") from None
    form = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    try:
        _replace(key, private.private_bytes(*form), 0o600)
        _replace(cert, signed.public_bytes(Encoding.PEM), 0o644)
    except OSError as error:
        raise ConfigurationError(f"cannot write {cert} and {key}: {error.strerror}") from None


def is_good(cert: Path, key: Path, names: Sequence[str], left: timedelta) -> bool:
    """Whether there is one for just these names that is good for this long still."""
    try:
        found = x509.load_pem_x509_certificate(cert.read_bytes())
        known = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return False
    same = set(known) == {_general(name) for name in names}
    return same and key.exists() and found.not_valid_after_utc - datetime.now(UTC) > left


def _builder(names: Sequence[str], private: ec.EllipticCurvePrivateKey, days: int) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:_MAX_COMMON_NAME_LENGTH])])
    # For clients, too: the health check of an image shows the service its own.
    usages = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    return (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - _CLOCKS_DIFFER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([_general(each) for each in dict.fromkeys(names)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usages, critical=False)
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _replace(path: Path, content: bytes, mode: int) -> None:
    beside = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(beside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
