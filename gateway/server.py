"""The process: listens, serves, and drains when it is told to end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from gateway import app
from gateway.config import Settings
from gateway.protocol import OneAtATime
from runwire.errors import ConfigurationError


class _Server(uvicorn.Server):
    """Ends streams when the first signal comes: uvicorn would wait for them until the grace is over."""

    def __init__(self, config: uvicorn.Config, draining: asyncio.Event) -> None:
        super().__init__(config)
        self._draining = draining

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._draining.set()
        super().handle_exit(sig, frame)


async def serve(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT. `announce` is told HOST:PORT once connections are accepted. Raises
    ConfigurationError where it cannot listen."""
    draining = asyncio.Event()
    host, _, port = settings.listen.rpartition(":")
    listener = _listen(host.strip("[]"), int(port), settings.listen)
    config = uvicorn.Config(
        app.create(settings, draining),
        http=OneAtATime,
        log_config=None,
        # Addresses may hold tokens (`?access_token=`), so they are not logged.
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_seconds)),
    )
    bound = listener.getsockname()
    announce(f"[{bound[0]}]:{bound[1]}" if listener.family == socket.AF_INET6 else f"{bound[0]}:{bound[1]}")
    try:
        await _Server(config, draining).serve(sockets=[listener])
    finally:
        listener.close()


def _listen(host: str, port: int, named: str) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise ConfigurationError(f"cannot listen on {named}: {error.strerror or error}") from None
