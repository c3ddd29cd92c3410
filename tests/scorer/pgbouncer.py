"""A real PgBouncer in transaction mode, in front of a real PostgreSQL."""

from __future__ import annotations

import os
from pathlib import Path

from tests.servers import UNPRIVILEGED_ID, PostgresServer, Server, _unprivileged, free_port, program


class PgBouncer(Server):
    """One server connection a pool, so that two clients always get each other's."""

    ready_line = "process up"

    def __init__(self, server: PostgresServer, pool_size: int = 2) -> None:
        self.binary = self._find()
        super().__init__("pgbouncer")
        self.port = free_port()
        lines = {
            "listen_addr": "127.0.0.1",
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": pool_size,
            "max_client_conn": 200,
        }
        settings = "\n".join(f"{name} = {value}" for name, value in lines.items())
        databases = f"* = host=127.0.0.1 port={server.port} user=postgres"
        self.file = self.directory / "pgbouncer.ini"
        self.file.write_text(f"[databases]\n{databases}\n[pgbouncer]\n{settings}\n")
        if os.getuid() == 0:
            for path in (self.directory, self.file):
                os.chown(path, UNPRIVILEGED_ID, UNPRIVILEGED_ID)

    @staticmethod
    def _find() -> Path:
        debian = Path("/usr/sbin/pgbouncer")
        return debian if debian.exists() else program("pgbouncer")

    def command(self) -> list[str]:
        return _unprivileged([str(self.binary), str(self.file)])

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"
