"""PostgreSQL as libpq names it: the URL with its options, and a connection that does not wait for ever.

    postgresql://USER:PASSWORD@HOST:PORT,HOST:PORT/DATABASE?option=value&...

Every option of libpq is taken with its meaning or refused by name; what is not in the URL comes from PGUSER, PGPASSFILE
and their like. With several hosts the one that takes writes is looked for, as with `target_session_attrs=read-write`.

A connection that goes through a pooler in transaction mode (PgBouncer) is recognised by itself: the server behind it
is not the one that was greeted. Such a connection gets nothing that would have to outlive a transaction.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from runwire.errors import ConfigurationError

CONNECT_SECONDS: Final = 5.0
DEFAULT_PORT: Final = 5432

_TLS: Final = (
    "sslmode",
    "sslcert",
    "sslkey",
    "sslrootcert",
    "sslcrl",
    "sslpassword",
    "sslnegotiation",
    "ssl_min_protocol_version",
    "ssl_max_protocol_version",
)
_OURS: Final = (
    *("host", "port", "dbname", "user", "password", "passfile"),
    *("connect_timeout", "application_name", "fallback_application_name", "options", "client_encoding"),
    *("keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout"),
    *("target_session_attrs", "krbsrvname", "gsslib"),
)
_ONLY: Final = {
    "channel_binding": ("disable", "prefer"),
    "gssencmode": ("disable", "prefer", "allow"),
    "load_balance_hosts": ("disable",),
    "sslcompression": ("0",),
    "sslsni": ("1",),
    "sslcertmode": ("allow",),
    "replication": ("false", "off", "no", "0"),
    "client_encoding": ("utf8", "utf-8", "auto", "unicode"),
    "target_session_attrs": ("any", "read-write", "primary"),
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "keepalives": ("0", "1"),
}
"""What an option can only be here: the driver has nothing else, or it would be of no use to who writes."""
_ALIASES: Final = {"database": "dbname", "ssl": "sslmode"}
"""What the driver called it, in URLs from before."""
_NOT_HERE: Final = (
    *(
        "service",
        "hostaddr",
        "require_auth",
        "requirepeer",
        "requiressl",
        "sslcrldir",
        "sslkeylogfile",
        "gssdelegation",
    ),
    *("min_protocol_version", "max_protocol_version", "scram_client_key", "scram_server_key", "servicefile"),
    *("oauth_issuer", "oauth_client_id", "oauth_client_secret", "oauth_scope"),
)
_NUMBERS: Final = {
    "connect_timeout": 1,
    "keepalives_idle": 0,
    "keepalives_interval": 0,
    "keepalives_count": 0,
    "tcp_user_timeout": 0,
}
"""Options that are whole numbers, and the least of each."""


@dataclass(frozen=True)
class Server:
    """Where the database is, and how to get there. Without its password in `repr`."""

    arguments: Mapping[str, Any] = field(repr=False)
    """Of `asyncpg.connect`."""
    hosts: str
    connect_seconds: float = CONNECT_SECONDS
    options: Mapping[str, str] = field(default_factory=dict, repr=False)

    def number(self, name: str, default: int) -> int:
        """An option that is a number; 0 is libpq's word for the default of the system, and means ours here."""
        return int(self.options.get(name, 0)) or default


def parse(url: str) -> Server:
    """The server that a URL names. Raises ConfigurationError, in one line and without the password."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _wrong("cannot be parsed: is there a bracket that is not encoded?") from None
    if "@" in parts.path + parts.fragment or ("@" in parts.query and "@" not in parts.netloc) or parts.fragment:
        # Nothing of it is repeated: it may be a part of the password.
        raise _wrong("has a character that must be encoded: / is %2F, ? %3F, # %23, @ %40")
    login, _, place = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    options = _options(parts.query)
    hosts, ports = _hosts(unquote(options.pop("host", "")) or place, options.pop("port", ""))
    name = unquote(parts.path.removeprefix("/")) or options.pop("dbname", "")
    several = "" if len(hosts) < 2 else "read-write"
    settings = {"application_name": options.get("application_name") or options.get("fallback_application_name")}
    settings["application_name"] = settings["application_name"] or "runwire-scorer"
    if options.get("options"):
        settings["options"] = options["options"]
    tls: dict[str, str] = {name: options[name] for name in _TLS if name in options}
    arguments = {
        "dsn": f"postgresql:///?{urlencode(tls, quote_via=quote)}" if tls else None,
        "host": hosts or None,
        "port": ports or None,
        "user": unquote(user) or options.get("user"),
        "password": unquote(password) or options.get("password"),
        "database": name or None,
        "passfile": options.get("passfile"),
        "krbsrvname": options.get("krbsrvname"),
        "gsslib": options.get("gsslib"),
        "target_session_attrs": options.get("target_session_attrs") or several or None,
        "server_settings": settings,
    }
    seconds = float(options.get("connect_timeout", CONNECT_SECONDS))
    given = {key: value for key, value in arguments.items() if value is not None}
    return Server(given, ",".join(hosts) or "the default host", seconds, options)


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        known = _ALIASES.get(name, name)
        if name == "ssl" and value == "true":  # as JDBC says it, which libpq takes too
            value = "require"
        if known in _NOT_HERE:
            raise _wrong(f"has the option {name!r}, which is not supported here")
        if known not in _OURS and known not in _TLS and known not in _ONLY:
            raise _wrong(f"has the option {name!r}, which libpq does not know")
        allowed = _ONLY.get(known)
        if allowed and value.lower() not in allowed:
            raise _wrong(f"has {name}={value!r}; supported here: {', '.join(allowed)}")
        least = _NUMBERS.get(known)
        if least is not None and not (re.fullmatch(r"[0-9]{1,9}", value) and int(value) >= least):
            raise _wrong(f"has {name}={value!r}; it must be a whole number of at least {least}")
        options[known] = value
    return options


def _hosts(listed: str, port_option: str) -> tuple[list[str], list[int]]:
    """Hosts and ports, as many of each. `port_option` is one for all, or one a host."""
    hosts: list[str] = []
    ports: list[int] = []
    others = port_option.split(",") if port_option else []
    entries = listed.split(",") if listed else []
    if len(others) > 1 and len(others) != len(entries):
        raise _wrong(f"names {len(entries)} hosts and {len(others)} ports")
    for index, entry in enumerate(entries):
        found = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::(.*))?", unquote(entry))
        if found is None or not found[1]:
            raise _wrong("names a host that is none: write it as name, name:port, [address] or [address]:port")
        hosts.append(found[1].strip("[]"))
        ports.append(_port(found[2] or (others[index] if len(others) > 1 else port_option) or str(DEFAULT_PORT)))
    return hosts, ports


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        said = f"{text!r}" if text.isdecimal() and text.isascii() else "that is no number"  # or a password's rest
        raise _wrong(f"has a port {said}; it must be a number from 1 to 65535")
    return int(text)


def _wrong(what: str) -> ConfigurationError:
    return ConfigurationError(f"the results URL {what}")


@dataclass(frozen=True)
class Greeting:
    """What a server says of itself."""

    pooled: bool
    """Between us and it is a pooler in transaction mode, or might be."""
    writable: bool
    encoding: str


async def connect(server: Server) -> tuple[Any, Greeting]:
    """A connection of asyncpg, with what the server says. Raises what asyncpg raises, OSError and TimeoutError."""
    import asyncpg

    seconds = server.connect_seconds
    async with asyncio.timeout(seconds):
        # asyncpg's own cache is not used: SQLAlchemy keeps the statements, where they can be kept.
        connection = await asyncpg.connect(**server.arguments, timeout=seconds, statement_cache_size=0)
        try:
            _guard(connection, server)
            return connection, await greet(connection)
        except BaseException:
            connection.terminate()
            raise


_GREETING: Final = """
SELECT pg_backend_pid(), pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on',
       current_setting('server_encoding')
"""


async def greet(connection: Any) -> Greeting:
    """What the server of a connection says of itself now."""
    async with connection.transaction():  # a pooler in transaction mode keeps to one server only within one
        pid, read_only, encoding = await connection.fetchrow(_GREETING)
    return Greeting(pid != connection.get_server_pid(), not read_only, encoding)


def _guard(connection: Any, server: Server) -> None:
    """A peer that is gone without a word (a NAT forgot us, a machine lost its power) is noticed by the kernel within
    seconds, whether we wait for an answer or not."""
    found = connection._transport.get_extra_info("socket")
    if found is None or found.family not in (socket.AF_INET, socket.AF_INET6):
        return
    if server.options.get("keepalives", "1") == "1":
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        _set(found, "TCP_KEEPIDLE", server.number("keepalives_idle", 5))
        _set(found, "TCP_KEEPINTVL", server.number("keepalives_interval", 2))
        _set(found, "TCP_KEEPCNT", server.number("keepalives_count", 3))
    _set(found, "TCP_USER_TIMEOUT", server.number("tcp_user_timeout", 10_000))


def _set(found: Any, name: str, value: int) -> None:
    number = getattr(socket, name, None)  # each system has its own
    if number is not None:
        found.setsockopt(socket.IPPROTO_TCP, number, value)
