"""What the URL of a Redis store may say, and that a wrong one is refused with a reason and without its password."""

from __future__ import annotations

import pytest

from runwire.connect import open_store
from runwire.errors import ConfigurationError
from runwire.redis.link import Address
from runwire.redis.topology import Cluster, Sentinels, Single, slot
from runwire.redis.url import parse


async def test_one_server() -> None:
    """Host, port, database and credentials, percent-decoded."""
    settings = parse("redis://user%40x:p%3Ass@example.org:7000/3?shards=4&prefix=team:&timeout=2.5&strict=true")
    assert isinstance(settings.topology, Single)
    assert await settings.topology.locate(0) == Address("example.org", 7000)
    access = settings.access
    assert (access.username, access.password, access.database) == ("user@x", "p:ss", 3)
    assert access.tls is None
    assert (settings.shards, settings.prefix, settings.strict, access.timeout_seconds) == (4, "team:", True, 2.5)


async def test_defaults() -> None:
    """This machine, the usual port, no credentials, one shard."""
    settings = parse("redis://")
    assert await settings.topology.locate(0) == Address("127.0.0.1", 6379)
    assert (settings.access.password, settings.access.database, settings.shards, settings.prefix) == ("", 0, 1, "")


async def test_a_unix_socket() -> None:
    """The path is the socket, and the database an option."""
    settings = parse("unix://:secret@/run/redis/redis.sock?db=2")
    assert await settings.topology.locate(0) == Address(path="/run/redis/redis.sock")
    assert (settings.access.password, settings.access.database) == ("secret", 2)


def test_tls() -> None:
    """Certificates and host names are checked, always."""
    context = parse("rediss://example.org").access.tls
    assert context is not None
    assert context.check_hostname
    assert context.verify_mode.name == "CERT_REQUIRED"


def test_sentinels_and_clusters() -> None:
    """Several servers, separated by commas."""
    assert isinstance(parse("redis+sentinel://a:1,b,[::1]:3/group/1").topology, Sentinels)
    assert isinstance(parse("redis+cluster://a:1,b:2?shards=16").topology, Cluster)
    assert parse("rediss+cluster://a:1").access.tls is not None


async def test_upstash() -> None:
    """From the variables of its REST interface to its TLS endpoint; options are those of the URL."""
    environment = {"UPSTASH_REDIS_REST_URL": "https://eu1-good-1.upstash.io", "UPSTASH_REDIS_REST_TOKEN": "t0ken"}
    settings = parse("upstash://?prefix=a:", environment)
    assert await settings.topology.locate(0) == Address("eu1-good-1.upstash.io", 6379)
    assert (settings.access.username, settings.access.password, settings.prefix) == ("default", "t0ken", "a:")
    assert settings.access.tls is not None
    assert parse("upstash://", environment | {"UPSTASH_REDIS_REST_TOKEN": "a/b%#@:="}).access.password == "a/b%#@:="
    for wrong in ({"UPSTASH_REDIS_REST_TOKEN": ""}, {"UPSTASH_REDIS_REST_URL": "https://[eu1"}):
        with pytest.raises(ConfigurationError, match="UPSTASH_REDIS_REST_TOKEN"):
            parse("upstash://", environment | wrong)


@pytest.mark.parametrize(
    "url, reason",
    [
        ("redis://h:123456", "store URL"),
        ("redis://h:x", "store URL"),
        ("redis://h/one", "database"),
        ("redis://h/-1", "database"),
        ("redis://h?shards=0", "shards"),
        ("redis://h?shards=2&shards=3", "twice"),
        ("redis://h?shards=1025", "shards"),
        ("redis://h?timeout=0", "timeout"),
        ("redis://h?timeout=nan", "timeout"),
        ("redis://h?timeout=soon", "timeout"),
        ("redis://h?start=-1", "start"),
        ("redis://h?strict=yes", "neither true nor false"),
        ("redis://h?prefix={x}", "braces"),
        ("redis://h?colour=blue", "unknown option 'colour'"),
        ("redis://h?db=1", "unix:// alone"),
        ("redis://h?ca=/x", "need TLS"),
        ("redis://h?sentinel_password=x", "redis\\+sentinel"),
        ("rediss://h?ca=/does/not/exist", "TLS files"),
        ("redis://a,b", "names one server"),
        ("redis+sentinel://a,b", "group"),
        ("redis+cluster://a/1", "database 0"),
        ("redis+cluster://a,b:x", "no host:port"),
        ("redis+cluster://a,", "no host:port"),
        ("redis://h:0", "no host:port"),
        ("redis+cluster://a,user:hidden@b", "stand once"),
        ("redis://a..b", "no host:port"),
        ("redis+sentinel://a\0b/group", "no host:port"),
        ("redis://h#x", "%23"),
        ("unix://run/redis.sock", "absolute path"),
        ("unix://", "absolute path"),
    ],
)
async def test_a_wrong_url_is_refused(url: str, reason: str) -> None:
    """With what is wrong, before anything is connected, and never with the password."""
    with pytest.raises(ConfigurationError, match=reason) as caught:
        async with open_store(url.replace("://", "://user:hidden@", 1)):
            pass
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+sentinel", "redis+cluster"])
@pytest.mark.parametrize(
    "password",
    ["12/hid", "12?hid", "12#hid", "hid/x", "hid?x", "hid#x", "hid?x=1", "12?hid=1", "12?x=hid", "12/hid,a", "a,hid/x"],
)
async def test_a_password_that_is_not_encoded(scheme: str, password: str) -> None:
    """It ends the host's part of the URL too early: what comes of it is refused, and no piece of it is shown."""
    for user in ("user", ""):
        with pytest.raises(ConfigurationError) as caught:
            async with open_store(f"{scheme}://{user}:{password}@127.0.0.1:1"):
                pass
        assert "hid" not in str(caught.value)


def test_a_shard_lies_where_the_cluster_says() -> None:
    """The slot of `{runwire:n}` by the specification of Redis Cluster: CRC-16/XMODEM of what is in braces."""
    assert [slot(shard) for shard in range(3)] == [crc16(f"runwire:{shard}".encode()) % 16384 for shard in range(3)]


def crc16(data: bytes) -> int:
    value = 0
    for byte in data:
        value ^= byte << 8
        for _ in range(8):
            value = (value << 1 ^ 0x1021 if value & 0x8000 else value << 1) & 0xFFFF
    return value
