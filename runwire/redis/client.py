"""Commands to a Redis of any topology, repeated where that is safe.

Two connections to each server: one for writes and all that is short, one for reads of logs, so that the many bytes
of a replay hold nobody up.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, TypedDict

from runwire.errors import StoreUnavailable
from runwire.redis.link import Address, Link, LinkLost, Reply, ReplyError, Word, connect
from runwire.redis.scripts import Script
from runwire.redis.topology import Cluster
from runwire.redis.url import Settings

logger = logging.getLogger("runwire.redis")

_FIRST_DELAY_SECONDS: Final = 0.02
_MOST_DELAY_SECONDS: Final = 1.0
_WARN_SECONDS: Final = 5.0

_PASSING: Final = {"LOADING", "READONLY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "MOVED", "ASK"}
"""Refusals that end by themselves: the command was not carried out, and is tried again."""
_REFUSING: Final = {"OOM", "MISCONF", "NOREPLICAS"}
"""The server takes no writes until somebody helps it; nothing was written."""
_SHUT_OUT: Final = {"NOAUTH", "WRONGPASS", "NOPERM"}

Unclaimed = Callable[[Reply], None]


class _Options(TypedDict):
    lane: Lane
    repeatable: bool
    unclaimed: Unclaimed | None


class Lane(Enum):
    """Which of the connections to a server."""

    WRITES = "writes"
    READS = "reads"


class Client:
    """Connections are made when they are needed, and again when they are lost."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topology = settings.topology
        self._links: dict[tuple[Address, Lane], Link] = {}
        self._addresses: dict[int, Address] = {}
        self._connecting: dict[tuple[Address, Lane], asyncio.Lock] = {}
        self._failed: dict[tuple[Address, Lane], tuple[float, LinkLost | ReplyError]] = {}
        self._unreached: set[Address] = set()
        self._silent_until: dict[str, float] = {}
        self._listen_at = 0

    async def run(
        self,
        script: Script,
        shard: int,
        keys: Sequence[str],
        args: Sequence[Word],
        *,
        lane: Lane = Lane.WRITES,
        repeatable: bool = True,
        unclaimed: Unclaimed | None = None,
    ) -> Reply:
        """Runs a script on the server of a shard, in one round trip. Parameters and errors are those of `call`."""
        words = (len(keys), *keys, *args)
        options: _Options = {"lane": lane, "repeatable": repeatable, "unclaimed": unclaimed}
        try:
            return await self.call(shard, "EVALSHA", script.sha, *words, **options)
        except ReplyError as error:
            if error.code != "NOSCRIPT":
                raise
        # The server has not seen it yet, or has forgotten it; EVAL also makes it remember.
        return await self.call(shard, "EVAL", script.text, *words, **options)

    async def call(
        self,
        shard: int,
        *words: Word,
        lane: Lane = Lane.WRITES,
        repeatable: bool = True,
        unclaimed: Unclaimed | None = None,
    ) -> Reply:
        """A command to the server of a shard.

        Repeated for as long as a server may take to answer, if the server could not be reached or refused it for a
        passing reason, and, if `repeatable`, also where the connection was lost meanwhile and it may have been
        carried out. Then raises StoreUnavailable. Other refusals: ReplyError. `unclaimed` gets the reply if the
        caller was cancelled before it came.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.access.timeout_seconds
        delay = _FIRST_DELAY_SECONDS
        while True:
            link = None
            try:
                link = await self._link(shard, lane)
                return await self._send(link, words, unclaimed)
            except LinkLost as error:
                if link is not None and not repeatable:
                    raise StoreUnavailable("the connection to Redis was lost; whether it wrote is not known") from None
                self._stale()
                problem: Exception = error
            except ReplyError as error:
                self._judge(error, shard, lane)
                problem = error
            self._warn(problem)
            if loop.time() + delay > deadline:
                raise StoreUnavailable(f"Redis does not answer as it should: {problem}") from None
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 1.6, _MOST_DELAY_SECONDS)

    def run_unheard(self, script: Script, shard: int, keys: Sequence[str], args: Sequence[Word]) -> None:
        """Sends a script if there is a connection, and does not look at what comes back."""
        address = self._addresses.get(shard)
        link = self._links.get((address, Lane.WRITES)) if address else None
        if link is not None:
            reply = link.send("EVALSHA", script.sha, len(keys), *keys, *args)
            reply.add_done_callback(lambda done: done.exception())

    async def attempt(self, shard: int, *words: Word) -> Reply:
        """A command, once. Raises LinkLost or ReplyError."""
        try:
            return await (await self._link(shard, Lane.WRITES)).call(*words)
        except (LinkLost, ReplyError):
            self._stale()
            raise

    async def _send(self, link: Link, words: Sequence[Word], unclaimed: Unclaimed | None) -> Reply:
        try:
            return await link.call(*words, unclaimed=unclaimed)
        except ReplyError as error:
            if error.code != "ASK":
                raise
            # A slot on the move: this one command goes to its new place.
            host, _, port = str(error).split(" ")[2].rpartition(":")
            if not host:
                raise  # the server does not know it; its neighbours will
        other = await self._connected(Address(host, int(port)), Lane.WRITES)
        asking, reply = other.send("ASKING"), other.send(*words)
        await asyncio.gather(asking, return_exceptions=True)
        return await reply

    def _judge(self, error: ReplyError, shard: int, lane: Lane) -> None:
        """Returns if the command is worth repeating."""
        code = error.code
        if code == "MOVED" and not isinstance(self._topology, Cluster):
            raise StoreUnavailable("the server is a node of a Redis Cluster: use redis+cluster://") from None
        if code in _PASSING:
            if code in ("READONLY", "MASTERDOWN"):
                self._drop(shard, lane)  # the primary is another one now, or will be
            self._stale()
            return
        if code in _REFUSING:
            raise StoreUnavailable(f"Redis refuses to write: {error}", retry_delay_seconds=5.0) from None
        if code in _SHUT_OUT:
            raise StoreUnavailable(f"Redis does not let this client do it: {error}") from None
        raise error

    def _stale(self) -> None:
        self._addresses.clear()
        self._topology.forget()

    def _drop(self, shard: int, lane: Lane) -> None:
        address = self._addresses.get(shard)
        link = self._links.pop((address, lane), None) if address else None
        if link is not None:
            link.close()

    async def _link(self, shard: int, lane: Lane) -> Link:
        address = self._addresses.get(shard)
        if address is None:
            address = self._addresses[shard] = await self._topology.locate(shard)
        link = self._links.get((address, lane))
        if link is not None and not link.lost.done():
            return link
        return await self._connected(address, lane)

    async def _connected(self, address: Address, lane: Lane) -> Link:
        key = (address, lane)
        loop = asyncio.get_running_loop()
        came = loop.time()
        async with self._connecting.setdefault(key, asyncio.Lock()):
            link = self._links.get(key)
            if link is not None and not link.lost.done():
                return link
            when, problem = self._failed.get(key, (came, None))
            if problem is not None and when > came:
                # Somebody tried while this caller waited. Each of hundreds trying in turn would take for ever.
                raise type(problem)(*problem.args)
            try:
                link = self._links[key] = await self.connect(address)
            except (LinkLost, ReplyError) as error:
                self._failed[key] = (loop.time(), error)
                raise
            return link

    async def connect_for_messages(self, on_message: Callable[[list[Any]], None]) -> Link:
        """A connection of its own for pub/sub. Raises LinkLost or ReplyError."""
        # A cluster passes on to all nodes what is published at one, so any will do: each time the next, if one is dead.
        shard, self._listen_at = self._listen_at, (self._listen_at + 1) % self._settings.shards
        try:
            return await self.connect(await self._topology.locate(shard), on_message)
        except (LinkLost, ReplyError):
            self._stale()
            raise

    async def connect(self, address: Address, on_message: Callable[[list[Any]], None] | None = None) -> Link:
        """A new connection to the right server at `address`. Raises LinkLost or ReplyError."""
        try:
            link = await connect(address, self._settings.access, on_message=on_message)
            await self._admit(link)
        except (LinkLost, ReplyError) as error:
            self._unreached.add(address)
            if isinstance(error, LinkLost) or error.code in _PASSING:
                self._warn(error)
            raise
        if address in self._unreached:
            self._unreached.discard(address)
            logger.warning("Redis: connected to %s", address)
        return link

    def _warn(self, problem: Exception) -> None:
        """Says what is wrong, but not for each of hundreds who notice it."""
        kind = problem.code if isinstance(problem, ReplyError) else type(problem).__name__
        now = asyncio.get_running_loop().time()
        if now >= self._silent_until.get(kind, now):
            self._silent_until[kind] = now + _WARN_SECONDS
            logger.warning("Redis: %s; trying again", problem)

    async def _admit(self, link: Link) -> None:
        try:
            await self._topology.admit(link)
        except BaseException:
            link.close()
            raise

    async def servers(self) -> Mapping[Address, int]:
        """Each server that holds any shard, with one of its shards. Raises StoreUnavailable or ReplyError."""
        shards: dict[Address, int] = {}
        try:
            for shard in range(self._settings.shards):
                shards.setdefault(await self._topology.locate(shard), shard)
        except LinkLost as error:
            raise StoreUnavailable(str(error)) from None
        return shards

    async def ping(self) -> None:
        """Raises StoreUnavailable unless every server answers."""
        try:
            servers = await self.servers()
        except ReplyError as error:
            raise StoreUnavailable(f"Redis does not let this client do it: {error}") from None
        for shard in servers.values():
            await self.call(shard, "PING")

    def close(self) -> None:
        """Ends all connections."""
        for link in self._links.values():
            link.close()
        self._links.clear()
