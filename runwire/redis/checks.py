"""What is looked at when a store is opened: whether the server is there, fit, and safe."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Final

from runwire.backoff import Backoff
from runwire.errors import ConfigurationError, StoreUnavailable
from runwire.pubsub import Risk
from runwire.redis.client import Client
from runwire.redis.link import Address, LinkLost, ReplyError
from runwire.redis.shards import all_at_once
from runwire.redis.topology import Cluster, tag
from runwire.redis.url import Settings

logger = logging.getLogger("runwire.redis")

LAYOUT: Final = "1"
"""Of keys and entries. A later version that reads them differently counts up."""
_OLDEST: Final = (6, 2)
_BACKOFF: Final = Backoff(0.1, 2.0, factor=1.6, jitter=0.5)
_SHUT_OUT: Final = {"NOAUTH", "WRONGPASS", "NOPERM", "ERR"}


async def wait_for_server(client: Client, settings: Settings) -> None:
    """Returns when every server answers, or when the time is over and some do: a part that is away must not keep a
    process from serving the rest.

    Raises StoreUnavailable if none does for as long as the settings allow, ConfigurationError if one does not let this
    client in.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + settings.start_seconds
    for tries in count(1):
        answered, problems = await _ask_each(client)
        if not problems:
            return
        delay = _BACKOFF.pause(tries)
        if loop.time() + delay > deadline:
            break
        await asyncio.sleep(delay)
    if not answered:
        problem = next(iter(problems.values()))
        raise StoreUnavailable(f"no Redis within {settings.start_seconds:g} s: {problem}") from None
    for shard, problem in problems.items():
        logger.warning("Redis: a part is away, and the rest is served: %s", client.leave_out(shard, str(problem)))


async def _ask_each(client: Client) -> tuple[int, Mapping[int, Exception]]:
    """How many servers answer, and why others do not, by one of their shards. Raises ConfigurationError."""
    problems: dict[int, Exception] = {}
    answered = 0
    try:
        for shard in (await client.servers()).values():
            try:
                await client.attempt(shard, "PING")
                answered += 1
            except LinkLost as error:
                problems[shard] = error
    except ReplyError as error:
        if error.code in _SHUT_OUT:
            raise ConfigurationError(f"Redis does not let this client in: {error}") from None
        problems[0] = error
    except StoreUnavailable as error:
        problems[0] = error
    return answered, problems


async def check_layout(client: Client, settings: Settings) -> None:
    """Raises ConfigurationError if the data was written with another number of shards or another layout.

    What the first store to come says is kept, for as long as the database is: in shard 0, and beside every other one,
    so that it can be read where shard 0 is away. Raises StoreUnavailable where nobody can say.
    """
    there = [shard for shard in range(settings.shards) if not client.is_away(shard)]
    known = there[:1] == [0] and await _check_layout_of(client, settings, 0, write=True)
    others = [shard for shard in there if shard]
    found = await all_at_once(_check_layout_of(client, settings, shard, write=known) for shard in others)
    if not known and not any(found):
        raise StoreUnavailable("the part of Redis that knows with how many shards its data was written is away")


async def _check_layout_of(client: Client, settings: Settings, shard: int, *, write: bool) -> bool:
    """Whether it is said there. `write`: it is said from now on."""
    try:
        return await _compare_layout(client, settings, shard, write=write)
    except StoreUnavailable as error:
        if settings.shards == 1:
            raise
        logger.warning("Redis: the layout of shard %d could not be read: %s", shard, error)
        return False


async def _compare_layout(client: Client, settings: Settings, shard: int, *, write: bool) -> bool:
    key = f"{settings.prefix}{tag(shard)}:store"
    for name, mine in (("layout", LAYOUT), ("shards", str(settings.shards))):
        if write:
            await client.call(shard, "HSETNX", key, name, mine)
        kept = await client.call(shard, "HGET", key, name)
        if kept is None:
            return False
        if kept != mine.encode():
            said = kept.decode(errors="replace")
            raise ConfigurationError(
                f"the data in this Redis was written with {name}={said}, and this store is opened with {name}={mine}"
                f"{'; put ?shards=' + said + ' into the store URL' if name == 'shards' else ''}"
            )
    return True


async def check_servers(client: Client, settings: Settings) -> None:
    """Warns of servers that may lose or evict data, or refuses them if the settings are strict.

    Raises ConfigurationError then, and if a server is too old; StoreUnavailable.
    """
    for address, risks in (await server_risks(client, settings)).items():
        said = [f"{risk.problem}; {risk.advice}" for risk in risks]
        if said and settings.strict:
            raise ConfigurationError(f"?strict=true, and Redis at {address} is not safe: {'; '.join(said)}")
        for each in said:
            logger.warning("Redis at %s: %s", address, each)


async def server_risks(client: Client, settings: Settings | None = None) -> Mapping[Address, Sequence[Risk]]:
    """What may be lost, by the address of each server that answers. With `settings` those that are not fit are refused.

    Raises ConfigurationError then, StoreUnavailable.
    """
    servers = (await client.servers()).items()
    return {address: await _risks(client, shard, settings) for address, shard in servers if not client.is_away(shard)}


async def _risks(client: Client, shard: int, settings: Settings | None) -> Sequence[Risk]:
    try:
        # One INFO for several sections came with 7.0.
        sections = [await client.call(shard, "INFO", name) for name in ("server", "memory", "persistence")]
    except StoreUnavailable as error:
        problem = f"whether it may lose or evict data could not be checked ({error})"
        return [Risk("settings", problem, "see to it that nothing is evicted")]
    info = _parse(b"\n".join(sections))
    if settings is not None:
        _check_kind(info, settings)
    return [*_eviction_risk(info), *_persistence_risk(info)]


def _parse(info: bytes) -> Mapping[str, str]:
    lines = (line.partition(":") for line in info.decode(errors="replace").splitlines())
    return {name: value.strip() for name, colon, value in lines if colon}


def _check_kind(info: Mapping[str, str], settings: Settings) -> None:
    version = info.get("redis_version", "")
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < _OLDEST:
        raise ConfigurationError(f"this Redis is {version}, and Runwire needs 6.2 or newer")
    mode = info.get("redis_mode") or info.get("server_mode")  # Valkey's name for it
    if mode == "sentinel":
        raise ConfigurationError("this server is a Sentinel: use redis+sentinel://")
    if mode == "cluster" and not isinstance(settings.topology, Cluster):
        raise ConfigurationError("this server is a node of a Redis Cluster: use redis+cluster://")


def _eviction_risk(info: Mapping[str, str]) -> Sequence[Risk]:
    policy = info.get("maxmemory_policy")
    advice = "set `noeviction` (CONFIG SET maxmemory-policy noeviction), then it refuses new writes instead"
    if policy is None:
        problem = "its eviction policy could not be checked; with any but `noeviction` it may throw away running runs"
        return [Risk("eviction", problem, advice)]
    if policy == "noeviction":
        return []
    problem = f"maxmemory-policy is {policy}: when memory is full it throws away running runs and their events"
    return [Risk("eviction", problem, advice)]


def _persistence_risk(info: Mapping[str, str]) -> Sequence[Risk]:
    enabled = info.get("aof_enabled")
    advice = (
        "set `appendonly yes` (CONFIG SET appendonly yes), unless a replica takes over; `appendfsync everysec` loses "
        "at most a second on a power cut, `always` nothing"
    )
    if enabled is None:
        problem = "whether it keeps an append-only file could not be checked; without one a restart loses runs"
        return [Risk("durability", problem, advice)]
    if enabled != "0":
        return []
    problem = "appendonly is off: a restart loses every run, event and message since the last snapshot"
    return [Risk("durability", problem, advice)]
