"""HOST:PORT, where something of ours listens."""

from __future__ import annotations

import socket
from typing import Final

from runwire.errors import ConfigurationError

IN_USE: Final = "the port is in use, or the address is not this machine's"


def split(listen: str, what: str = "listen on", example: str = "127.0.0.1:50051") -> tuple[str, int]:
    """Host, with the brackets of IPv6, and port. Raises ConfigurationError, which says `what` cannot be done there."""
    host, separator, port = listen.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > 65535:
        raise ConfigurationError(f"cannot {what} {listen!r}: expected HOST:PORT, such as {example}")
    return host, int(port)


def probe(host: str, port: int) -> tuple[tuple[int, int, int], tuple[str | int, ...]]:
    """What to make a socket with that listens there, and the address, with a free port where `port` is 0. Raises
    OSError where nobody can listen, also because another program does that would share it."""
    family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as tried:
        # As gRPC does it: connections that are still closing do not count.
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tried.bind(address)
        return (family, kind, protocol), tried.getsockname()
