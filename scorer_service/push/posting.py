"""Posts to a target, and to nothing that it leads to: the address is looked up and checked here, and then dialled as it
was checked; redirects are not followed; answers are not read beyond their status."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from scorer_service.push.targets import Target

SECONDS: Final = 10.0
"""Longest that connecting, sending and the answer may take, each."""
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


class NotTaken(Exception):
    """The target did not take an event; says why, without its URL."""


def post(target: Target, body: bytes, headers: Mapping[str, str]) -> None:
    """Blocks. Raises NotTaken."""
    parts = urlsplit(target.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    connection = http.client.HTTPConnection(host, port, timeout=SECONDS)
    try:
        connection.sock = _dial(target, host, port, tls=parts.scheme == "https")
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("POST", path, body, {**headers, "User-Agent": "runwire"})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NotTaken(f"{target.name}: {type(error).__name__}") from None
    finally:
        connection.close()
    if not 200 <= status < 300:
        raise NotTaken(f"{target.name}: HTTP {status}")


def _dial(target: Target, host: str, port: int, *, tls: bool) -> socket.socket:
    """A connection to the first address that may be dialled. Raises OSError, NotTaken."""
    found = {str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
    allowed = sorted(one for one in found if target.allow_private or is_public(one))
    if not allowed:
        raise NotTaken(f"{target.name}: its address is not public, and allow_private is not set")
    plain = socket.create_connection((allowed[0], port), SECONDS)
    if not tls:
        return plain
    try:
        return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise


def is_public(address: str) -> bool:
    """Whether an address is of the internet, and of no network of somebody's own."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address) and (carried := _carried(parsed)) is not None:
        parsed = carried
    return parsed.is_global and not parsed.is_multicast


def _carried(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to: mapped, translated (NAT64) or by a tunnel (6to4)."""
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
