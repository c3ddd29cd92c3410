"""How a server is reached: by whom, and over what."""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass, field

from runwire.errors import ConfigurationError
from runwire.identity.authenticator import Authenticator
from runwire.identity.limits import Most
from runwire.identity.run_tokens import RunTokens
from runwire.identity.server_certificates import ServerCertificates

logger = logging.getLogger("runwire.identity")


@dataclass(frozen=True)
class Access:
    """Without anything set up: for everybody on this machine."""

    authenticator: Authenticator = field(default_factory=Authenticator)
    certificates: ServerCertificates | None = None
    """None: in plain text."""
    run_tokens: RunTokens | None = None
    """What run tokens are made with."""
    most: Most = field(default_factory=Most)
    insecure: bool = False
    """Whether to listen beyond this machine all the same."""
    reflection: bool = True

    def check(self, listen: str) -> None:
        """A service that listens beyond this machine does it with TLS and authentication, or says that it need not be,
        and is warned each time. Raises ConfigurationError."""
        missing = ["TLS"] if self.certificates is None else []
        if self.authenticator.is_open and not (self.certificates and self.certificates.asks_clients):
            missing.append("authentication")
        if not missing or _is_loopback(listen):
            return
        lacking = " and without ".join(missing)
        if not self.insecure:
            raise ConfigurationError(
                f"will not listen on {listen} without {lacking}: anyone who reaches it could read or do everything. "
                "Set it up (docs/security.md), listen on 127.0.0.1, or say --insecure"
            )
        logger.warning(
            "listening on %s without %s: anyone who reaches it may read or do what it serves", listen, lacking
        )


def _is_loopback(listen: str) -> bool:
    host = listen.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
