"""Commands to a Redis of any topology, repeated where that is safe.

Two connections to each server: one for writes and all that is short, one for reads of logs, so that the many bytes
of a replay hold nobody up.

This is the edge where what a server says becomes what the contract knows: whatever it refuses, for a known reason or
one that nobody has heard of, is StoreUnavailable to those who call (`call`, `run`, `poll`, `ask`). Only what opens a
store looks at refusals itself (`attempt`), to tell a wrong setting.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, TypedDict

from runwire.backoff import Backoff
from runwire.errors import StoreUnavailable
from runwire.redis.link import Address, Link, LinkLost, Reply, ReplyError, Word, connect
from runwire.redis.scripts import Script
from runwire.redis.shards import those_that_answer
from runwire.redis.topology import Cluster
from runwire.redis.url import Settings

logger = logging.getLogger("runwire.redis")

_BACKOFF: Final = Backoff(0.02, 0.5, factor=1.6, jitter=0.5)
_WARN_SECONDS: Final = 5.0
POLL_PATIENCE_SECONDS: Final = 0.5
"""How long a poll of several shards waits for one; twice as long each time that this was too short for a slow one."""
_POLL_TRIES: Final = 2
"""How often a poll tries what fails at once: a server that has moved is found by the second."""
_HELD_UP_SECONDS: Final = 0.1
"""How late a time-out may come before it is taken for a loop that was blocked."""
_PING_SECONDS: Final = 1.0
PROBE_SECONDS: Final = 1.0
"""How often a shard that is away is looked for."""
_NO_SCRIPT: Final = object()

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
    tries: int | None
    """None: as many as there is time for."""


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
        self._away: dict[int, StoreUnavailable] = {}
        """Shards that did not answer, and have not been seen to answer since: `run_probes` looks for them."""
        self._patience: dict[int, float] = {}
        """Seconds that a poll waits for a shard that has been slow."""

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
        options: _Options = {"lane": lane, "repeatable": repeatable, "unclaimed": unclaimed, "tries": None}
        return await self._run(script, shard, (len(keys), *keys, *args), options)

    async def _run(self, script: Script, shard: int, words: Sequence[Word], options: _Options) -> Reply:
        reply = await self._call(shard, ("EVALSHA", script.sha, *words), options)
        if reply is _NO_SCRIPT:
            # The server has not seen it yet, or has forgotten it; EVAL also makes it remember.
            reply = await self._call(shard, ("EVAL", script.text, *words), options)
        return _said(reply)

    async def poll(
        self,
        script: Script,
        shard: int,
        keys: Sequence[str],
        args: Sequence[Word],
        *,
        repeatable: bool = True,
        unclaimed: Unclaimed | None = None,
    ) -> Reply:
        """`run` for what is asked of every shard again and again: one that is away must not hold up the others.

        Where there are several shards, one that does not answer soon is left out until `run_probes` has heard of it;
        `unclaimed` gets its reply if it comes after all.
        """
        if self._settings.shards == 1:
            return await self.run(script, shard, keys, args, repeatable=repeatable, unclaimed=unclaimed)
        self._check_there(shard)
        patience = self._patience.get(shard, POLL_PATIENCE_SECONDS)
        options: _Options = {
            "lane": Lane.WRITES,
            "repeatable": repeatable,
            "unclaimed": unclaimed,
            "tries": _POLL_TRIES,
        }
        began = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(patience):
                reply = await self._run(script, shard, (len(keys), *keys, *args), options)
        except TimeoutError:
            if asyncio.get_running_loop().time() - began > patience + _HELD_UP_SECONDS:
                # This loop was held up, by a tool that blocks it perhaps: that says nothing of the shard.
                raise StoreUnavailable(f"no answer of shard {shard} was seen in time") from None
            # It may only be slow: then it is given more time, or nothing of it would ever get through.
            self._patience[shard] = min(2 * patience, self._settings.access.timeout_seconds)
            raise self.leave_out(shard, f"no answer within {patience:g} s") from None
        except StoreUnavailable as error:
            raise self.leave_out(shard, str(error)) from None
        if patience > POLL_PATIENCE_SECONDS and asyncio.get_running_loop().time() - began < POLL_PATIENCE_SECONDS / 2:
            del self._patience[shard]
        return reply

    async def ask(self, script: Script, shard: int, keys: Sequence[str], args: Sequence[Word]) -> Reply:
        """`run` for what needs the answer of every shard: it is refused at once where one is known to be away."""
        self._check_there(shard)
        return await self.run(script, shard, keys, args)

    async def ask_for(self, shard: int, *words: Word) -> Reply:
        """The same for a command."""
        self._check_there(shard)
        return await self.call(shard, *words)

    def is_away(self, shard: int) -> bool:
        """Whether the shard did not answer, and has not been seen to answer since."""
        return shard in self._away

    def _check_there(self, shard: int) -> None:
        error = self._away.get(shard)
        if error is not None:
            raise StoreUnavailable(*error.args)

    def leave_out(self, shard: int, problem: str) -> StoreUnavailable:
        """From now on the shard is away, until it has been seen to answer. Returns what to raise."""
        error = StoreUnavailable(f"shard {shard} is away: {problem}")
        if shard not in self._away:
            self._away[shard] = error
            self._warn_of_shards(shard, problem)
        return error

    def _warn_of_shards(self, shard: int, problem: str) -> None:
        """Says what is away, but not for each of hundreds of shards."""
        now = asyncio.get_running_loop().time()
        if now >= self._silent_until.get("shards", now):
            self._silent_until["shards"] = now + _WARN_SECONDS
            logger.warning("Redis: shard %d is left out until it answers: %s", shard, problem)

    async def run_probes(self) -> None:
        """Looks for the shards that are away, until cancelled. To be run beside everything else."""
        probed: set[int] = set()

        async def probe(shard: int) -> None:
            try:
                await self.attempt(shard, "PING")
                logger.warning("Redis: shard %d answers again", shard)
            except Exception as error:  # whatever it is: it is away as long as it cannot be asked
                logger.debug("Redis: shard %d is still away: %s", shard, error)
            finally:
                probed.discard(shard)

        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(PROBE_SECONDS)
                for shard in self._away.keys() - probed:
                    probed.add(shard)
                    group.create_task(probe(shard), name=f"probe of shard {shard}")

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
        carried out. Then, and for every other refusal, raises StoreUnavailable. `unclaimed` gets the reply if the
        caller was cancelled before it came.
        """
        options: _Options = {"lane": lane, "repeatable": repeatable, "unclaimed": unclaimed, "tries": None}
        return _said(await self._call(shard, words, options))

    async def _call(self, shard: int, words: Sequence[Word], options: _Options) -> Reply:
        """See `call`. _NO_SCRIPT where the server has not got the script."""
        lane = options["lane"]
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.access.timeout_seconds
        tries = 0
        while True:
            link = None
            tries += 1
            delay = _BACKOFF.pause(tries)
            try:
                link = await self._link(shard, lane)
                reply = await self._send(link, words, options["unclaimed"])
                self._away.pop(shard, None)
                return reply
            except LinkLost as error:
                if link is not None and not options["repeatable"]:
                    raise StoreUnavailable("the connection to Redis was lost; whether it wrote is not known") from None
                self._stale(shard)
                problem: Exception = error
            except ReplyError as error:
                if error.code == "NOSCRIPT":
                    return _NO_SCRIPT
                self._judge(error, shard, lane)
                problem = error
            self._warn(problem)
            if loop.time() + delay > deadline or tries == options["tries"]:
                raise StoreUnavailable(f"Redis does not answer as it should: {problem}") from None
            await asyncio.sleep(delay)

    def send(
        self, script: Script, shard: int, keys: Sequence[str], args: Sequence[Word]
    ) -> asyncio.Future[Reply] | None:
        """Sends a script, once, if there is a connection that takes it now; None if there is none. The reply may be
        LinkLost or ReplyError."""
        link = self._live_link(shard)
        if link is None or not link.writable:
            return None
        return link.send("EVALSHA", script.sha, len(keys), *keys, *args)

    def send_and_forget(self, script: Script, shard: int, keys: Sequence[str], args: Sequence[Word]) -> None:
        """Sends a script if there is a connection, and does not look at what comes back."""
        link = self._live_link(shard)
        if link is not None:
            _forget(link.send("EVALSHA", script.sha, len(keys), *keys, *args))

    def teach(self, script: Script, shard: int) -> None:
        """Lets the server of a shard keep a script that it does not know, if there is a connection."""
        link = self._live_link(shard)
        if link is not None:
            _forget(link.send("SCRIPT", "LOAD", script.text))

    def _live_link(self, shard: int) -> Link | None:
        address = self._addresses.get(shard)
        return self._links.get((address, Lane.WRITES)) if address else None

    async def attempt(self, shard: int, *words: Word) -> Reply:
        """A command, once. Raises LinkLost or ReplyError."""
        try:
            reply = await (await self._link(shard, Lane.WRITES)).call(*words)
            self._away.pop(shard, None)
            return reply
        except (LinkLost, ReplyError):
            self._stale(shard)
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
            self._stale(shard)
            return
        if code in _REFUSING:
            raise StoreUnavailable(f"Redis refuses to write: {error}", retry_delay_seconds=5.0) from None
        if code in _SHUT_OUT:
            raise StoreUnavailable(f"Redis does not let this client do it: {error}") from None
        self._warn(error)
        raise StoreUnavailable(f"Redis refuses: {error}", retry_delay_seconds=1.0) from None

    def _stale(self, shard: int) -> None:
        """The shard may have moved. Others stay where they are until they say so: who names the servers may be away
        too, and they must not wait for it."""
        self._addresses.pop(shard, None)
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
        for _ in range(self._settings.shards):
            shard, self._listen_at = self._listen_at, (self._listen_at + 1) % self._settings.shards
            if not self.is_away(shard):
                break
        try:
            return await self.connect(await self._topology.locate(shard), on_message)
        except (LinkLost, ReplyError):
            self._topology.forget()
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
        """Raises StoreUnavailable unless some server answers."""
        if self._settings.shards == 1:
            await self._ping_server(0)
            return
        shards = range(self._settings.shards)
        there = [shard for shard in shards if shard not in self._away] or shards
        # One shard of each server that is known; one that is not is asked for itself.
        servers = {self._addresses.get(shard, shard): shard for shard in there}
        await those_that_answer(self._ping(shard) for shard in servers.values())

    async def _ping(self, shard: int) -> None:
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await self._ping_server(shard)
        except TimeoutError:
            raise StoreUnavailable(f"no answer of shard {shard} within {_PING_SECONDS:g} s") from None

    async def _ping_server(self, shard: int) -> None:
        reply = await self.call(shard, "PING")
        if reply != b"PONG":
            raise StoreUnavailable(f"Redis answers {reply!r} to a PING")

    def close(self) -> None:
        """Ends all connections."""
        for link in self._links.values():
            link.close()
        self._links.clear()


def _forget(reply: asyncio.Future[Reply]) -> None:
    reply.add_done_callback(lambda done: done.exception())


def _said(reply: Reply) -> Reply:
    """The reply, unless it is the refusal of a script where none was named."""
    if reply is _NO_SCRIPT:
        raise StoreUnavailable("Redis refuses a command as a script that it does not have")
    return reply
