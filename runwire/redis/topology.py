"""Which server holds a shard.

A shard is a fixed part of the topics; all its keys carry one hash tag, so they lie together on one server, and a
script finds them all. One server holds every shard (`Single`), or the server that some Sentinels call the primary
(`Sentinels`), or each node of a cluster holds the shards of its slots (`Cluster`).

Finding them by redis-py 8.1 was written, tried, and found no shorter and worse. Its RedisCluster finds no node at all
while the one that it asks for the list of commands is dead, and takes nodes that say no host (as with
`cluster-preferred-endpoint-type unknown-endpoint`) for one called None. Its Sentinel reads SENTINEL MASTERS, which
names the old primary until all replicas have followed the new one (redis-py issue 626, Redis issue 2615), and the text
of its error shows passwords in the oldest version that we allow.
"""

from __future__ import annotations

import asyncio
from binascii import crc_hqx
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

from runwire.redis.link import Access, Address, Link, LinkLost, Reply, ReplyError, connect

SLOTS: Final = 16384
_ASKED_A_TIMEOUT: Final = 4
"""How many silent servers are asked within a timeout."""

T = TypeVar("T")


def tag(shard: int) -> str:
    """The hash tag that all keys of a shard carry."""
    return f"{{runwire:{shard}}}"


def slot(shard: int) -> int:
    """The slot of a shard's keys. CRC-16/XMODEM of what stands inside the braces (Redis Cluster specification)."""
    return crc_hqx(tag(shard)[1:-1].encode(), 0) % SLOTS


class Topology(Protocol):
    """Finds the server of a shard."""

    async def locate(self, shard: int) -> Address:
        """Raises LinkLost if nobody knows for now, ReplyError if nobody lets us ask."""
        ...

    async def admit(self, link: Link) -> None:
        """Raises LinkLost if the server at the other end of a new connection is not the right one."""
        ...

    def forget(self) -> None:
        """What was found may have changed: the next `locate` asks again."""
        ...


class Single:
    """One server."""

    def __init__(self, address: Address) -> None:
        self._address = address

    async def locate(self, shard: int) -> Address:
        return self._address

    async def admit(self, link: Link) -> None:
        pass

    def forget(self) -> None:
        pass


class _Shared(Generic[T]):
    """What one caller finds out for all who want to know it."""

    def __init__(self, ask: Callable[[], Awaitable[T]]) -> None:
        self._ask = ask
        self._asking = asyncio.Lock()
        self._failed: tuple[float, LinkLost | ReplyError] | None = None
        self.found: T | None = None

    async def get(self) -> T:
        loop = asyncio.get_running_loop()
        came = loop.time()
        async with self._asking:
            if self.found is not None:
                return self.found
            if self._failed is not None and self._failed[0] > came:
                # Somebody asked while this caller waited. Each of hundreds asking in turn would take for ever.
                raise type(self._failed[1])(*self._failed[1].args)
            try:
                self.found = await self._ask()
            except (LinkLost, ReplyError) as error:
                self._failed = loop.time(), error
                raise
            return self.found


class Sentinels:
    """The primary of a group that Sentinels watch, asked for at each new connection."""

    def __init__(self, sentinels: Sequence[Address], group: str, access: Access) -> None:
        self._sentinels = list(sentinels)
        self._group = group
        self._access = access
        self._primary = _Shared(self._ask)

    async def locate(self, shard: int) -> Address:
        return await self._primary.get()

    async def _ask(self) -> Address:
        problems: list[str | ReplyError] = []
        for sentinel in tuple(self._sentinels):
            try:
                found = await _ask(sentinel, self._access, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._group)
            except LinkLost as error:
                problems.append(str(error))
                continue
            except ReplyError as error:
                problems.append(ReplyError(f"{error} ({sentinel})"))
                continue
            if found is None:
                problems.append(f"{sentinel} knows no group {self._group!r}")
                continue
            # The one that answered is asked first the next time.
            self._sentinels.remove(sentinel)
            self._sentinels.insert(0, sentinel)
            return Address(found[0].decode(), int(found[1]))
        raise _failure("no Sentinel names a primary", problems)

    async def admit(self, link: Link) -> None:
        # During a fail-over the Sentinels may still name the old one, or it may not know yet that it is not primary.
        role = await link.call("ROLE")
        if role[0] != b"master":
            raise LinkLost("the server is a replica as yet")

    def forget(self) -> None:
        if self._primary.found is not None:
            _ask_later(self._sentinels)  # it may be cut off from the others, and name a dead one for ever
        self._primary.found = None


class Cluster:
    """The nodes of a Redis Cluster, each with its range of slots."""

    def __init__(self, seeds: Sequence[Address], access: Access) -> None:
        self._seeds = list(seeds)
        self._access = access
        self._ranges = _Shared(self._ask)

    async def locate(self, shard: int) -> Address:
        wanted = slot(shard)
        for first, last, address in await self._ranges.get():
            if first <= wanted <= last:
                return address
        self.forget()
        _ask_later(self._seeds)  # it may have left the cluster: then it would know of no slot for ever
        raise LinkLost(f"no node of the cluster serves slot {wanted}")

    async def _ask(self) -> list[tuple[int, int, Address]]:
        problems: list[str | ReplyError] = []
        for seed in tuple(self._seeds):
            try:
                reply = await _ask(seed, self._access, "CLUSTER", "SLOTS")
            except LinkLost as error:
                problems.append(str(error))
                continue
            except ReplyError as error:
                problems.append(ReplyError(f"{error} ({seed})"))
                continue
            ranges = [(first, last, _node(primary, seed)) for first, last, primary, *_ in reply]
            known = [address for _, _, address in ranges]
            # Nodes come and go; those that were named once are asked too.
            self._seeds = list(dict.fromkeys([seed, *known, *self._seeds]))[:64]
            return ranges
        raise _failure("no node of the cluster answers", problems)

    async def admit(self, link: Link) -> None:
        pass

    def forget(self) -> None:
        self._ranges.found = None


def _ask_later(addresses: list[Address]) -> None:
    """Puts the first, which answered, at the end."""
    addresses.append(addresses.pop(0))


def _node(primary: Reply, seed: Address) -> Address:
    # A node that does not know its own address answers with none: then it is the one that was asked.
    host = (primary[0] or b"").decode() or seed.host
    return Address(host, int(primary[1]))


def _failure(what: str, problems: Sequence[str | ReplyError]) -> LinkLost | ReplyError:
    """What to raise when nobody could say. If all of them refuse to, a setting is wrong and waiting is no help."""
    refusals = [problem for problem in problems if isinstance(problem, ReplyError)]
    if len(refusals) == len(problems):
        return refusals[0]
    return LinkLost(f"{what}: {'; '.join(map(str, problems))}")


async def _ask(address: Address, access: Access, *words: str) -> Reply:
    """Asks one of several for what others know too, so that none may be silent for long."""
    try:
        async with asyncio.timeout(access.timeout_seconds / _ASKED_A_TIMEOUT):
            link = await connect(address, access)
            try:
                return await link.call(*words)
            finally:
                link.close()
    except TimeoutError:
        raise LinkLost(f"{address} does not answer in time") from None
