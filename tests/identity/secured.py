"""An agent service over TLS that asks for a token, as a process, and how to reach it."""

from __future__ import annotations

from pathlib import Path

from runwire.client.access import Access
from runwire.identity import self_signed
from tests.client.processes import AgentProcess
from tests.identity.proofs import Proofs


class Secured:
    """Serves the ticker. `start` the service."""

    def __init__(self, folder: Path) -> None:
        cert, key, token = folder / "server.pem", folder / "server.key", folder / "token"
        self_signed.make(cert, key, ["127.0.0.1"], days=1)
        proofs = Proofs(folder)
        self.tenant = "acme"
        token.write_text(proofs.token("anna", self.tenant))
        self.access = Access(ca=cert, token_file=token)
        self.options = ["--ca", str(cert), "--token-file", str(token)]
        files = {"tls_cert_file": str(cert), "tls_key_file": str(key), "tokens": str(proofs.tokens)}
        self.service = AgentProcess("agent_service.demo.ticker", **files)
