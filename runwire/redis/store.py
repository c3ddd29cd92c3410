"""The store itself: each call is one script, or one for each shard."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Final, TypeVar
from zlib import crc32

from runwire.errors import (
    Fenced,
    FieldExists,
    LogClosed,
    RunExpired,
    RunNotFound,
    SequenceHole,
    TopicExists,
)
from runwire.pubsub import (
    Claim,
    Commit,
    Committed,
    Deliver,
    Delivery,
    Entry,
    Head,
    LeaseState,
    Page,
    PubSub,
    Schedule,
    Stored,
)
from runwire.redis.channels import Channels
from runwire.redis.client import Client, Lane
from runwire.redis.link import Reply, Word
from runwire.redis.records import (
    ENTRY_HEADER_BYTES,
    fields_of,
    head_of,
    microseconds,
    pack,
    pack_live,
    page_of,
    seconds,
    unpack_live,
)
from runwire.redis.scripts import (
    ACKNOWLEDGE,
    CLAIM,
    CLEAR,
    COMMIT,
    DUE,
    EXTEND,
    GET,
    HEADS,
    READ,
    RECEIVE,
    SCAN,
    SWEEP,
    TRIM,
)
from runwire.redis.topology import tag
from runwire.redis.url import Settings
from runwire.topic import entry_of, validate

T = TypeVar("T")

GROUP: Final = "workers"
"""The consumer group of every message queue."""
DEFAULT_LEASE_SECONDS: Final = 60.0
"""How long a message is in the hands of a consumer whose name does not say it."""

_POLL_SECONDS: Final = 0.2
_LEAST_WAIT_SECONDS: Final = 0.001
_FORGET_CONSUMER_SECONDS: Final = 600.0
_LOOK_AT_CONSUMERS_SECONDS: Final = 60.0
_MOST_CONSUMER_NAMES: Final = 64


class Keys:
    """The names of keys and channels of one store."""

    def __init__(self, settings: Settings) -> None:
        self._shards = settings.shards
        self._prefixes = [f"{settings.prefix}{tag(shard)}:" for shard in range(settings.shards)]

    def shard(self, topic: str) -> int:
        """The part that a topic belongs to."""
        return crc32(topic.encode()) % self._shards

    def prefix(self, shard: int) -> str:
        return self._prefixes[shard]

    def head(self, topic: str) -> str:
        return f"{self.prefix(self.shard(topic))}head:{topic}"

    def log(self, topic: str) -> str:
        return f"{self.prefix(self.shard(topic))}log:{topic}"

    def fields(self, topic: str) -> str:
        return f"{self.prefix(self.shard(topic))}fields:{topic}"

    def topic(self, topic: str) -> tuple[str, str, str]:
        """Head, log and fields."""
        return self.head(topic), self.log(topic), self.fields(topic)

    def live(self, topic: str) -> str:
        """Channel of a topic's live entries."""
        return f"{self.prefix(self.shard(topic))}live:{topic}"


class RedisPubSub:
    """Live entries, over the one pub/sub connection of the process."""

    def __init__(self, client: Client, channels: Channels, keys: Keys) -> None:
        self._client = client
        self._channels = channels
        self._keys = keys

    async def publish(self, topic: str, entry: Entry) -> None:
        await self._client.call(self._keys.shard(topic), "PUBLISH", self._keys.live(topic), pack_live(entry))

    def subscribe(self, topic: str, deliver: Deliver) -> AbstractAsyncContextManager[None]:
        def take(payload: bytes | None) -> None:
            # An empty payload says that the log was cleared or trimmed.
            deliver(unpack_live(payload) if payload else None)

        return self._channels.listen(self._keys.live(topic), take)


class RedisStore:
    """See `runwire.pubsub.Store`."""

    announces = True

    def __init__(self, client: Client, channels: Channels, settings: Settings, listening: AsyncExitStack) -> None:
        self._client = client
        self._channels = channels
        self._shards = settings.shards
        self._keys = Keys(settings)
        self.pubsub: PubSub = RedisPubSub(client, channels, self._keys)
        self._bells: set[str] = set()
        self._listening = listening
        self._consumers: dict[str, dict[str, None]] = {}
        self._looked_at_consumers: dict[tuple[str, int], float] = {}

    # The log

    async def commit(self, commit: Commit) -> Committed:
        validate(commit)
        keys = self._keys
        shard = keys.shard(commit.topic)
        names = keys.topic(commit.topic)
        # A commit with events knows its own repetition, and one that only puts may be repeated. Of others, the second
        # time would be refused or count twice, and whether the first one was carried out is for the caller to find out.
        repeatable = bool(commit.events) or not (commit.create or commit.puts_once or commit.messages)
        words = _commit_words(keys.prefix(shard), commit)
        reply = await self._client.run(COMMIT, shard, names, words, repeatable=repeatable)
        if reply[0] != b"ok":
            raise _refusal(commit, reply)
        head = head_of(reply[2])
        return Committed(head, entry_of(commit, head.epoch), seconds(reply[1]))

    async def read(self, topic: str, after: int, *, max_events: int = 2048, max_bytes: int = 1024 * 1024) -> Page:
        reply = await self._client.run(
            READ,
            self._keys.shard(topic),
            (self._keys.head(topic), self._keys.log(topic)),
            (after, max_events, max_bytes, ENTRY_HEADER_BYTES),
            lane=Lane.READS,
        )
        if len(reply) == 1:
            raise _not_found(topic)
        return page_of(reply[1], reply[2], after)

    async def heads(self, topics: Sequence[str]) -> Sequence[Head | None]:
        found: list[Head | None] = [None] * len(topics)
        shards = self._by_shard(topics)
        replies = await _all_at_once(
            self._client.run(HEADS, shard, [self._keys.head(topics[i]) for i in places], ())
            for shard, places in shards.items()
        )
        for places, reply in zip(shards.values(), replies, strict=True):
            for i, values in zip(places, reply, strict=True):
                found[i] = head_of(values) if values else None
        return found

    async def trim(self, topic: str, before: int) -> None:
        names = (self._keys.head(topic), self._keys.log(topic))
        await self._client.run(TRIM, self._keys.shard(topic), names, (before, self._keys.live(topic)))

    async def clear(self, topic: str) -> None:
        keys = self._keys
        shard = keys.shard(topic)
        names = keys.topic(topic)
        await self._client.run(CLEAR, shard, names, (keys.prefix(shard), topic))

    # Topics

    async def now(self) -> float:
        whole, micro = await self._client.call(0, "TIME")
        return int(whole) + int(micro) / 1_000_000

    async def get(self, topic: str, fields: Sequence[str] | None = None) -> Stored | None:
        names = (self._keys.head(topic), self._keys.fields(topic))
        args = ("all",) if fields is None else ("named", *fields)
        reply = await self._client.run(GET, self._keys.shard(topic), names, args)
        return Stored(topic, head_of(reply[0]), fields_of(reply[1])) if reply else None

    async def scan(
        self,
        index: str,
        *,
        fields: Sequence[str],
        before: tuple[float, str] | None = None,
        since: float = 0.0,
        limit: int = 100,
    ) -> Sequence[Stored]:
        bound: tuple[Word, Word] = (microseconds(before[0]), before[1]) if before else ("", "")
        replies = await _all_at_once(
            self._client.run(
                SCAN,
                shard,
                (f"{self._keys.prefix(shard)}index:{index}",),
                (self._keys.prefix(shard), microseconds(since), *bound, limit, *fields),
            )
            for shard in range(self._shards)
        )
        found = [
            Stored(topic.decode(), head_of(head), fields_of(pairs)) for reply in replies for topic, head, pairs in reply
        ]
        found.sort(key=lambda stored: (stored.head.create_time, stored.topic), reverse=True)
        return found[:limit]

    async def sweep(self, limit: int = 1000) -> int:
        removed = 0
        for shard in self._shards_in_turn():
            if removed >= limit:
                break
            prefix = self._keys.prefix(shard)
            removed += await self._client.run(SWEEP, shard, (f"{prefix}ends",), (prefix, limit - removed))
        return removed

    async def ping(self) -> None:
        await self._client.ping()

    # Work

    async def claim(
        self, queues: Sequence[str], *, limit: int, lease_seconds: float, wait_seconds: float = 0.0
    ) -> Sequence[Claim]:
        return await self._wait_for("due", queues, wait_seconds, lambda: self._claim(queues, limit, lease_seconds))

    async def _claim(self, queues: Sequence[str], limit: int, lease_seconds: float) -> tuple[Sequence[Claim], float]:
        """Claims, and the seconds until there may be more."""
        parts = {0: limit} if self._shards == 1 else await self._share_out(queues, limit)
        if not parts:
            return [], _POLL_SECONDS
        replies = await _all_at_once(
            self._client.run(
                CLAIM,
                shard,
                self._due(shard, queues),
                (self._keys.prefix(shard), part, microseconds(lease_seconds)),
                repeatable=False,
                unclaimed=self._hand_back,
            )
            for shard, part in parts.items()
        )
        claims = [claim for reply in replies for claim in _claims_of(reply)]
        claims.sort(key=lambda claim: claim[0])
        waits = [seconds(reply[1]) for reply in replies if reply[1]]
        return [claim for _, claim in claims], min(waits, default=_POLL_SECONDS)

    async def _share_out(self, queues: Sequence[str], limit: int) -> Mapping[int, int]:
        """How many topics to claim in each shard, so that they are those due longest in all."""
        replies = await _all_at_once(
            self._client.run(DUE, shard, self._due(shard, queues), (limit,)) for shard in range(self._shards)
        )
        times = sorted((int(time), shard) for shard, reply in enumerate(replies) for time in reply)
        return Counter(shard for _, shard in times[:limit])

    def _due(self, shard: int, queues: Sequence[str]) -> Sequence[str]:
        return [f"{self._keys.prefix(shard)}due:{queue}" for queue in dict.fromkeys(queues)]

    def _hand_back(self, reply: Reply) -> None:
        """Ends the leases of claims that came too late for a caller that was cancelled."""
        for _, claim in _claims_of(reply):
            commit = Commit(claim.topic, attempt=claim.head.attempt, schedule=Schedule.DUE)
            shard = self._keys.shard(claim.topic)
            names = self._keys.topic(claim.topic)
            self._client.run_unheard(COMMIT, shard, names, _commit_words(self._keys.prefix(shard), commit))

    async def extend(self, leases: Sequence[tuple[str, int]], *, lease_seconds: float) -> Sequence[LeaseState]:
        states = [LeaseState.LOST] * len(leases)
        shards = self._by_shard([topic for topic, _ in leases])
        replies = await _all_at_once(
            self._client.run(
                EXTEND,
                shard,
                [self._keys.head(leases[i][0]) for i in places],
                (
                    self._keys.prefix(shard),
                    microseconds(lease_seconds),
                    *(word for i in places for word in leases[i]),
                ),
            )
            for shard, places in shards.items()
        )
        for places, reply in zip(shards.values(), replies, strict=True):
            for i, state in zip(places, reply, strict=True):
                states[i] = LeaseState(state.decode())
        return states

    # Messages

    async def receive(
        self, queue: str, *, consumer: str, limit: int, lease_seconds: float, wait_seconds: float = 0.0
    ) -> Sequence[Delivery]:
        name = self._consumer(queue, consumer, lease_seconds)
        return await self._wait_for("messages", [queue], wait_seconds, lambda: self._receive(queue, name, limit))

    async def _receive(self, queue: str, name: str, limit: int) -> tuple[Sequence[Delivery], float]:
        """Messages, and the seconds until there may be more."""
        deliveries: list[Delivery] = []
        wait = _POLL_SECONDS
        for shard in self._shards_in_turn():
            if len(deliveries) >= limit:
                break
            next_end, *found = await self._client.run(
                RECEIVE,
                shard,
                (self._stream(queue, shard),),
                (
                    GROUP,
                    name,
                    limit - len(deliveries),
                    int(DEFAULT_LEASE_SECONDS * 1000),
                    self._forget_after(queue, shard),
                ),
                repeatable=False,
            )
            deliveries += (Delivery(f"{shard}/{place.decode()}", body, count) for place, body, count in found)
            wait = min(wait, int(next_end) / 1000) if next_end else wait
        return deliveries, wait

    async def acknowledge(self, queue: str, message_ids: Sequence[str]) -> None:
        ids: dict[int, list[str]] = {}
        for message_id in message_ids:
            shard, slash, place = message_id.partition("/")
            if slash and shard.isdecimal() and int(shard) < self._shards:
                ids.setdefault(int(shard), []).append(place)
        names = tuple(self._consumers.get(queue, ()))
        await _all_at_once(
            self._client.run(ACKNOWLEDGE, shard, (self._stream(queue, shard),), (GROUP, len(names), *names, *places))
            for shard, places in ids.items()
        )

    async def backlog(self, queue: str) -> int:
        lengths = await _all_at_once(
            self._client.call(shard, "XLEN", self._stream(queue, shard)) for shard in range(self._shards)
        )
        return sum(lengths)

    def _stream(self, queue: str, shard: int) -> str:
        return f"{self._keys.prefix(shard)}messages:{queue}"

    def _consumer(self, queue: str, consumer: str, lease_seconds: float) -> str:
        """The consumer's name in the group, which says its lease to those who look for ended ones."""
        name = f"{consumer}:{max(1, round(lease_seconds * 1000))}"
        names = self._consumers.setdefault(queue, {})
        names.pop(name, None)
        names[name] = None
        if len(names) > _MOST_CONSUMER_NAMES:
            del names[next(iter(names))]
        return name

    def _forget_after(self, queue: str, shard: int) -> Word:
        """Now and then: milliseconds after which a consumer without messages is forgotten."""
        now = time.monotonic()
        if (
            now - self._looked_at_consumers.get((queue, shard), -_LOOK_AT_CONSUMERS_SECONDS)
            < _LOOK_AT_CONSUMERS_SECONDS
        ):
            return ""
        self._looked_at_consumers[queue, shard] = now
        return int(_FORGET_CONSUMER_SECONDS * 1000)

    # Waiting

    async def _wait_for(
        self,
        kind: str,
        queues: Sequence[str],
        wait_seconds: float,
        look: Callable[[], Awaitable[tuple[Sequence[T], float]]],
    ) -> Sequence[T]:
        """What `look` finds, as soon as it finds anything. It looks when the bell rings, when the time comes that it
        has named, and now and then: a bell may be lost."""
        if wait_seconds <= 0:
            return (await look())[0]
        deadline = time.monotonic() + wait_seconds
        async with AsyncExitStack() as stack:
            rung = await self._doorbell(stack, kind, queues)
            while True:
                rung.clear()
                found, wait = await look()
                remaining = deadline - time.monotonic()
                if found or remaining <= 0:
                    return found
                await _wait(rung, min(remaining, max(wait, _LEAST_WAIT_SECONDS), _POLL_SECONDS))

    async def _doorbell(self, stack: AsyncExitStack, kind: str, queues: Sequence[str]) -> asyncio.Event:
        """An event that is set, as long as `stack` is open, when something comes into one of the queues."""
        rung = asyncio.Event()
        for shard in range(self._shards):
            for queue in queues:
                name = f"{self._keys.prefix(shard)}bell:{kind}:{queue}"
                await self._keep_listening(name)
                await stack.enter_async_context(self._channels.listen(name, lambda _: rung.set()))
        return rung

    async def _keep_listening(self, name: str) -> None:
        """Subscribes once and for all, so that waiting again and again costs nothing."""
        if name in self._bells:
            return
        self._bells.add(name)
        try:
            await self._listening.enter_async_context(self._channels.listen(name, lambda _: None))
        except BaseException:
            self._bells.discard(name)
            raise

    # Shards

    def _by_shard(self, topics: Sequence[str]) -> Mapping[int, list[int]]:
        """The places in `topics` that belong to each shard."""
        shards: dict[int, list[int]] = {}
        for i, topic in enumerate(topics):
            shards.setdefault(self._keys.shard(topic), []).append(i)
        return shards

    def _shards_in_turn(self) -> Iterable[int]:
        """All shards, from a random one on, so that none is always the last."""
        start = random.randrange(self._shards)
        return (*range(start, self._shards), *range(start))


def _commit_words(prefix: str, commit: Commit) -> Sequence[Word]:
    """ARGV of lua/commit.lua. The usual commit is short: events, and nothing else."""
    attempt: Word = "" if commit.attempt is None else commit.attempt
    words: list[Word] = [prefix, commit.topic, attempt, commit.schedule.value, pack(commit)]
    groups = (
        tuple(dict.fromkeys(commit.indexes)) if commit.create else (),
        tuple(word for pair in commit.puts.items() for word in pair),
        tuple(word for pair in commit.puts_once.items() for word in pair),
        tuple(commit.deletes),
        tuple(word for message in commit.messages for word in (message.queue, message.body)),
    )
    if not (commit.create or commit.progress or commit.final or commit.due_in or any(groups)):
        return words
    words += (microseconds(commit.due_in), int(commit.progress))
    words += (microseconds(commit.retention), microseconds(commit.tombstone))
    words += (secrets.token_hex(8) if commit.create else "", commit.queue)
    words += (len(group) // width for group, width in zip(groups, (1, 2, 2, 1, 2), strict=True))
    words += (word for group in groups for word in group)
    return words


def _claims_of(reply: Reply) -> Sequence[tuple[int, Claim]]:
    """The claims that lua/claim.lua returned, each with the time at which it was due."""
    now = seconds(reply[0])
    return [
        (int(due), Claim(topic.decode(), head_of(head), losses, fields_of(pairs), now))
        for topic, head, losses, pairs, due in reply[2:]
    ]


def _refusal(commit: Commit, reply: Reply) -> Exception:
    """The error for what lua/commit.lua returned."""
    code, *details = reply
    match code:
        case b"exists":
            return TopicExists(f"there is a log {commit.topic!r} already")
        case b"not_found":
            return _not_found(commit.topic)
        case b"expired":
            return RunExpired("the events of the run are purged", final_state=details[0])
        case b"fenced":
            return Fenced(f"attempt {commit.attempt} is superseded by attempt {details[0]}", attempt=details[0])
        case b"unclaimed":
            return ValueError(f"attempt {commit.attempt} was never claimed; the latest is {details[0]}")
        case b"closed":
            return LogClosed("the log has its last event", final_state=details[0])
        case b"hole":
            last = int(details[0])
            return SequenceHole(
                f"events {commit.first}..{commit.last} do not continue event {last}", last_sequence=last
            )
        case b"field":
            return FieldExists(details[0].decode(), details[1])
    raise AssertionError(f"lua/commit.lua returned {code!r}")


def _not_found(topic: str) -> RunNotFound:
    return RunNotFound(f"there is no log {topic!r}")


async def _wait(rung: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await rung.wait()
    except TimeoutError:
        pass  # nothing happened; the caller looks for itself


async def _all_at_once(calls: Iterable[Coroutine[Any, Any, Reply]]) -> Sequence[Reply]:
    """The results of calls to several shards, which go out together."""
    coroutines = tuple(calls)
    if len(coroutines) < 2:
        return [await coroutine for coroutine in coroutines]
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]
