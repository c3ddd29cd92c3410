"""What a URL of the Redis engine says.

    redis://[user:password@]host[:port][/database]          rediss:// the same over TLS
    unix://[user:password@]/path/to/socket[?db=database]
    redis+sentinel://[user:password@]host[:port],host.../group[/database]      rediss+sentinel:// over TLS
    redis+cluster://[user:password@]host[:port],host...                        rediss+cluster:// over TLS
    upstash://   the database named by UPSTASH_REDIS_REST_URL and UPSTASH_REDIS_REST_TOKEN, at its TLS endpoint

Options, as `?name=value&...`: see OPTIONS.
"""

from __future__ import annotations

import math
import os
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from runwire.errors import ConfigurationError
from runwire.redis.link import Access, Address
from runwire.redis.topology import Cluster, Sentinels, Single, Topology

OPTIONS: Final = {
    "shards": "parts that the topics are spread over; fixed when the first data is written (default 1)",
    "prefix": "put before every key and channel (default none)",
    "strict": "true: refuse a server that may lose or evict data, instead of warning (default false)",
    "timeout": "seconds until a silent server counts as gone (default 5)",
    "start": "seconds to wait for the server when the store is opened (default 10)",
    "db": "number of the database, with unix://",
    "ca": "file with the certificates to trust, with TLS",
    "cert": "file with the client's certificate, with TLS",
    "key": "file with the client's key, with TLS",
    "sentinel_username": "user for the Sentinels, with redis+sentinel://",
    "sentinel_password": "password for the Sentinels, with redis+sentinel://",
}
MAX_SHARDS: Final = 1024


@dataclass(frozen=True)
class Settings:
    """A store, as its URL names it."""

    topology: Topology
    access: Access
    shards: int
    prefix: str
    strict: bool
    start_seconds: float


def parse(url: str, environment: Mapping[str, str] = os.environ) -> Settings:
    """Raises ConfigurationError with what is wrong; never with a password."""
    parts = urlsplit(_upstash(environment) if url.startswith("upstash://") else url)
    if url.startswith("upstash://"):
        parts = parts._replace(query=urlsplit(url).query)
    _check_parts(parts)
    options = _options(parts.query)
    tls = parts.scheme.startswith("rediss")
    topology_name = parts.scheme.partition("+")[2]
    credentials, _, places = parts.netloc.rpartition("@")
    username, _, password = credentials.partition(":")
    path = unquote(parts.path).strip("/")
    group = ""
    if topology_name == "sentinel":
        group, _, path = path.partition("/")
    if parts.scheme == "unix":
        path = options.get("db", "")
    elif "db" in options:
        raise ConfigurationError("the option `db` is for unix:// alone; others name the database as their path")
    access = Access(
        username=unquote(username),
        password=unquote(password),
        database=_whole("database", path or "0", 0, 1_000_000),
        tls=_tls(options) if tls else None,
        timeout_seconds=_seconds("timeout", options.get("timeout", "5")),
    )
    if not tls and {"ca", "cert", "key"} & options.keys():
        raise ConfigurationError("the options `ca`, `cert` and `key` need TLS: rediss://")
    if topology_name != "sentinel" and {"sentinel_username", "sentinel_password"} & options.keys():
        raise ConfigurationError("the options `sentinel_username` and `sentinel_password` need redis+sentinel://")
    return Settings(
        topology=_topology(parts, topology_name, places, group, access, options),
        access=access,
        shards=_whole("shards", options.get("shards", "1"), 1, MAX_SHARDS),
        prefix=_prefix(options.get("prefix", "")),
        strict=_switch("strict", options.get("strict", "false")),
        start_seconds=_seconds("start", options.get("start", "10")),
    )


def _check_parts(parts: SplitResult) -> None:
    """Refuses a URL that ends elsewhere than it was meant to, before anything of it is shown: a part that should be
    something else may be a piece of the password."""
    options = parse_qsl(parts.query, keep_blank_values=True)
    strange = any("@" in name + value for name, value in options if name not in OPTIONS)
    if parts.fragment or strange or ("@" in parts.path and parts.scheme != "unix"):
        raise ConfigurationError(
            "the store URL cannot be taken apart: in a user name or password, `/`, `?`, `#` and `@` are written "
            "%2F, %3F, %23 and %40"
        )
    credentials = parts.netloc.rpartition("@")[0]
    if "@" in credentials and "," in credentials:
        raise ConfigurationError("user and password stand once in the store URL, before the first of several hosts")


def _topology(
    parts: SplitResult, name: str, places: str, group: str, access: Access, options: Mapping[str, str]
) -> Topology:
    if parts.scheme == "unix":
        if places or not parts.path:
            raise ConfigurationError("unix:// names a socket by its absolute path, as in unix:///run/redis.sock")
        return Single(Address(path=unquote(parts.path)))
    if name == "sentinel":
        if not group:
            raise ConfigurationError("redis+sentinel:// names its group of servers as its path: .../group")
        own = replace(
            access,
            username=options.get("sentinel_username", ""),
            password=options.get("sentinel_password", ""),
            database=0,
        )
        return Sentinels(_addresses(places, 26379), group, own)
    addresses = _addresses(places, 6379)
    if name == "cluster":
        if access.database:
            raise ConfigurationError("a Redis Cluster has database 0 alone")
        return Cluster(addresses, access)
    if len(addresses) > 1:
        raise ConfigurationError(
            f"{parts.scheme}:// names one server; several are redis+sentinel:// or redis+cluster://"
        )
    return Single(addresses[0])


def _upstash(environment: Mapping[str, str]) -> str:
    token = environment.get("UPSTASH_REDIS_REST_TOKEN", "")
    try:
        host = urlsplit(environment.get("UPSTASH_REDIS_REST_URL", "")).hostname
    except ValueError:
        host = None
    if not host or not token:
        raise ConfigurationError(
            "upstash:// needs UPSTASH_REDIS_REST_URL, such as https://name.upstash.io, and UPSTASH_REDIS_REST_TOKEN"
        )
    return f"rediss://default:{quote(token, safe='')}@{host}:6379"


def _addresses(places: str, default_port: int) -> Sequence[Address]:
    addresses = []
    for place in places.split(","):
        try:
            parts = urlsplit(f"//{place}")
            port = default_port if parts.port is None else parts.port
            host = parts.hostname or "127.0.0.1"
            host.encode("idna")
            if not port or not host.isprintable() or (not place and "," in places):
                raise ValueError
            addresses.append(Address(host, port))
        except ValueError:
            # What stands where the port belongs may be a password.
            host, colon, _ = place.partition(":")
            raise ConfigurationError(f"{host + (colon and ':...')!r} in the store URL is no host:port") from None
    return addresses


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in OPTIONS:
            raise ConfigurationError(f"the store URL has an unknown option {name!r}; there are {', '.join(OPTIONS)}")
        if name in options:
            raise ConfigurationError(f"the store URL has the option {name!r} twice")
        options[name] = value
    return options


def _tls(options: Mapping[str, str]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=options.get("ca"))
        if "cert" in options:
            context.load_cert_chain(options["cert"], options.get("key"))
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(f"the TLS files of the store URL cannot be used: {error}") from None
    return context


def _whole(name: str, text: str, least: int, most: int) -> int:
    if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
        raise ConfigurationError(f"{name} in the store URL is {text!r}, and not a whole number {least}..{most}")
    return int(text)


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= 3600:
        raise ConfigurationError(f"{name} in the store URL is {text!r}, and not a number of seconds up to 3600")
    return value


def _switch(name: str, text: str) -> bool:
    if text not in ("true", "false"):
        raise ConfigurationError(f"{name} in the store URL is {text!r}, and neither true nor false")
    return text == "true"


def _prefix(text: str) -> str:
    if "{" in text or "}" in text:
        raise ConfigurationError("prefix in the store URL must not have braces: they decide where a key lies")
    return text
