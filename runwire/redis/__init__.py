"""The distributed engine: runs, logs, cursors and messages in Redis, for any number of processes.

    url.py         what the store URL says
    checks.py      whether a server is there, fit and safe, when the store is opened
    topology.py    which server holds a shard: one, the one that Sentinels name, a node of a cluster
    link.py        one connection, shared by all callers
    client.py      commands over links, repeated where that is safe
    scripts.py     ../lua: everything that must be atomic is one script, and so one round trip
    shards.py      names of keys and channels
    store.py       the Store; commits.py, work.py, messages.py are its larger parts, records.py how things look
    channels.py    pub/sub over one connection a process; live.py and doorbells.py are its users

docs/redis.md describes keys, sizes and safety; docs/wire.md the message queues.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from runwire.pubsub import Store
from runwire.redis.channels import Subscriptions
from runwire.redis.checks import check_layout, check_servers, wait_for_server
from runwire.redis.client import Client
from runwire.redis.shards import Shards
from runwire.redis.store import RedisStore
from runwire.redis.url import Settings, parse


@asynccontextmanager
async def open_redis(url: str) -> AsyncIterator[Store]:
    """The store at a URL as described in runwire.redis.url.

    Raises ConfigurationError if the URL or the server is wrong, StoreUnavailable if the server does not answer within
    the option `start`.
    """
    settings = parse(url)
    client = Client(settings)
    try:
        await wait_for_server(client, settings)
        await check_servers(client, settings)
        await check_layout(client, settings)
        async with _running_channels(client, settings) as channels, AsyncExitStack() as listening:
            yield RedisStore(client, channels, Shards(settings.shards, settings.prefix), listening)
    finally:
        client.close()


@asynccontextmanager
async def _running_channels(client: Client, settings: Settings) -> AsyncIterator[Subscriptions]:
    channels = Subscriptions(client, settings.access.timeout_seconds)
    failure: BaseException | None = None
    async with asyncio.TaskGroup() as tasks:
        running = [
            tasks.create_task(channels.run(), name="runwire-redis-channels"),
            tasks.create_task(client.run_probes(), name="runwire-redis-probes"),
        ]
        try:
            yield channels
        except BaseException as error:
            failure = error  # raised below: the group would wrap it
        for task in running:
            task.cancel()
    if failure is not None:
        raise failure
