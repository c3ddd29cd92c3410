"""The engine of one process: a store in memory.

MemoryStore is the reference model of the conformance suite: every operation is one synchronous function, so atomicity
is plain to see. It serves one event loop and holds everything until it is swept.
"""

from __future__ import annotations

import heapq
import secrets
import time
from bisect import bisect_left, bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from operator import attrgetter
from types import MappingProxyType

from runwire.bell import Bell, Waited, messages_in, work_in
from runwire.errors import FieldExists, RunNotFound, TopicExists
from runwire.hub import Hub
from runwire.loop import wait_for
from runwire.pubsub import (
    ASIDE,
    MAX_CLAIM_BYTES,
    MAX_COUNTED,
    MAX_RECEIVE_BYTES,
    MAX_SCAN_LOOKS,
    Claim,
    Commit,
    Committed,
    Delivery,
    Depth,
    Entry,
    Head,
    Lease,
    LeaseState,
    Notice,
    Page,
    PubSub,
    Risk,
    Scan,
    Stored,
)
from runwire.topic import Topic, entry_of, validate
from runwire.turns import Turn, Turns, pool_of, tenant_of

_POLL_SECONDS = 0.1
"""How often a waiting `claim` or `receive` looks at the clock while a due time lies ahead."""


class MemoryPubSub(Hub):
    """The whole of publish and subscribe where there is one process."""


@dataclass(slots=True)
class _Kept:
    """A topic with everything that belongs to it."""

    topic: Topic
    indexes: set[str] = field(default_factory=set)
    entries: list[Entry] = field(default_factory=list)
    fields: dict[str, bytes] = field(default_factory=dict)
    purged: bool = False

    @property
    def brought(self) -> dict[str, bytes]:
        """The fields that are not set aside."""
        return {name: value for name, value in self.fields.items() if not name.startswith(ASIDE)}


@dataclass(slots=True)
class _Parcel:
    """A message, and until when it is in somebody's hands."""

    body: bytes
    deliveries: int = 0
    lease_end: float = 0.0


class _Mailbox:
    """The messages of one queue."""

    def __init__(self) -> None:
        self.parcels: dict[str, _Parcel] = {}
        self._fresh: deque[str] = deque()
        self._leases: list[tuple[float, str]] = []
        """Heap. An end counts only if it is still the parcel's."""

    def put(self, message_id: str, body: bytes) -> None:
        self.parcels[message_id] = _Parcel(body)
        self._fresh.append(message_id)

    def take(self, lease_seconds: float, now: float) -> Delivery | None:
        """Hands out the message whose lease ended first, or the oldest that nobody has had."""
        message_id = self._take_returned(now) or self._take_fresh()
        if message_id is None:
            return None
        parcel = self.parcels[message_id]
        parcel.deliveries += 1
        parcel.lease_end = now + lease_seconds
        heapq.heappush(self._leases, (parcel.lease_end, message_id))
        return Delivery(message_id, parcel.body, parcel.deliveries)

    def _take_returned(self, now: float) -> str | None:
        while self._leases and self._leases[0][0] <= now:
            end, message_id = heapq.heappop(self._leases)
            parcel = self.parcels.get(message_id)
            if parcel and parcel.lease_end == end:
                return message_id
        return None

    def _take_fresh(self) -> str | None:
        while self._fresh:
            message_id = self._fresh.popleft()
            if message_id in self.parcels:
                return message_id
        return None


class MemoryStore:
    """See `runwire.pubsub.Store`. `clock` gives the store's time in seconds since the Unix epoch."""

    announces = False
    reopens = False

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.hub = MemoryPubSub()
        self.pubsub: PubSub = self.hub
        self._clock = clock
        self._bell = Bell()
        self._topics: dict[str, _Kept] = {}
        self._indexes: dict[str, list[tuple[float, str]]] = {}
        self._due: dict[Waited, dict[str, list[tuple[float, str]]]] = {}
        """Heaps by queue and lane, and by tenant. A place counts only if it is still the topic's due time and lane."""
        self._turns: dict[str, Turn] = {}
        self._ends: list[tuple[float, str]] = []
        """Heap of the times at which closed topics are to be purged and their tombstones removed."""
        self._mailboxes: dict[str, _Mailbox] = {}
        self._boards: dict[str, dict[str, tuple[float, Notice]]] = {}
        """By board and name: when it comes down, and what is up."""
        self._messages_sent = 0

    # The log

    async def commit(self, commit: Commit) -> Committed:
        return self._commit(commit)

    def _commit(self, commit: Commit) -> Committed:
        validate(commit)
        now = self._clock()
        kept = self._find(commit.topic, now)
        if commit.create and kept:
            raise TopicExists(f"there is a log {commit.topic!r} already")
        if not commit.create and not kept:
            raise _not_found(commit.topic)
        kept = kept or _Kept(Topic.new(commit.queue, now))
        entry = entry_of(commit, kept.topic.epoch)
        if kept.topic.admits(commit, now):
            _check_once(commit, kept.fields)
            self._write(commit, entry, kept, now)
        return Committed(kept.topic.head(now), entry, now)

    def _write(self, commit: Commit, entry: Entry | None, kept: _Kept, now: float) -> None:
        topic = kept.topic
        if commit.create:
            self._forget(commit.topic)
            self._topics[commit.topic] = kept
        self._leave(commit.topic, kept, kept.indexes.intersection(commit.leaves).difference(commit.indexes))
        self._join(commit.topic, kept, set(commit.indexes).difference(kept.indexes))
        if entry:
            kept.entries.append(entry)
        for name in commit.deletes:
            kept.fields.pop(name, None)
        kept.fields.update(commit.puts)
        kept.fields.update(commit.puts_once)
        place_before = (topic.due, topic.suspect, topic.queue)
        topic.apply(commit, now)
        if (topic.due, topic.suspect, topic.queue) != place_before:
            self._plan(commit.topic, topic)
        if commit.final:
            heapq.heappush(self._ends, (topic.expire_time, commit.topic))
        for message in commit.messages:
            self._messages_sent += 1
            self._mailboxes.setdefault(message.queue, _Mailbox()).put(str(self._messages_sent), message.body)
            self._bell.ring(messages_in(message.queue))

    def _plan(self, name: str, topic: Topic) -> None:
        """Finds the topic a place among those of its queue and lane, by its due time."""
        if topic.due is None:
            return
        lane = work_in(topic.queue, topic.suspect)
        heapq.heappush(self._due.setdefault(lane, {}).setdefault(tenant_of(name), []), (topic.due, name))
        self._bell.ring(lane)

    def _find(self, name: str, now: float) -> _Kept | None:
        kept = self._topics.get(name)
        return None if kept is None or kept.topic.gone(now) else kept

    async def read(self, topic: str, after: int, *, max_events: int = 2048, max_bytes: int = 1024 * 1024) -> Page:
        now = self._clock()
        kept = self._find(topic, now)
        if kept is None:
            raise _not_found(topic)
        head = kept.topic.head(now)
        if head.expired:
            return Page(head, ())
        start = bisect_right(kept.entries, after, key=attrgetter("last"))
        return Page(head, _within(kept.entries, start, max_events, max_bytes))

    async def heads(self, topics: Sequence[str]) -> Sequence[Head | None]:
        now = self._clock()
        found = [self._find(topic, now) for topic in topics]
        return [kept.topic.head(now) if kept else None for kept in found]

    async def trim(self, topic: str, before: int) -> None:
        kept = self._find(topic, self._clock())
        if kept is None:
            return
        count = bisect_left(kept.entries, before, key=attrgetter("last"))
        if not count:
            return
        del kept.entries[:count]
        kept.topic.earliest = kept.entries[0].first if kept.entries else kept.topic.last + 1
        self.hub.deliver(topic, None)

    async def clear(self, topic: str) -> None:
        self._forget(topic)

    def _forget(self, name: str) -> None:
        kept = self._topics.pop(name, None)
        if kept is None:
            return
        self._leave(name, kept, set(kept.indexes))
        self.hub.deliver(name, None)

    def _join(self, name: str, kept: _Kept, indexes: Iterable[str]) -> None:
        for index in indexes:
            insort(self._indexes.setdefault(index, []), (kept.topic.create_time, name))
            kept.indexes.add(index)

    def _leave(self, name: str, kept: _Kept, indexes: Iterable[str]) -> None:
        for index in indexes:
            places = self._indexes[index]
            del places[bisect_left(places, (kept.topic.create_time, name))]
            if not places:
                del self._indexes[index]
            kept.indexes.discard(index)

    # Runs and their fields

    async def now(self) -> float:
        return self._clock()

    async def get(self, topic: str, fields: Sequence[str] | None = None) -> Stored | None:
        now = self._clock()
        kept = self._find(topic, now)
        return _stored(topic, kept, fields, now) if kept else None

    async def scan(
        self,
        index: str,
        *,
        also: Sequence[str] = (),
        fields: Sequence[str],
        before: tuple[float, str] | None = None,
        since: float = 0.0,
        limit: int = 100,
    ) -> Scan:
        now = self._clock()
        wanted = {index, *also}
        places = min((self._indexes.get(name, []) for name in wanted), key=len)
        end = len(places) if before is None else bisect_left(places, before)
        lowest = max(0, end - max(limit, MAX_SCAN_LOOKS))
        found: list[Stored] = []
        for place in places[lowest:end][::-1]:
            create_time, name = place
            if create_time < since:
                return Scan(found, None)
            kept = self._topics[name]
            if not kept.topic.expired(now) and wanted <= kept.indexes:
                found.append(_stored(name, kept, fields, now))
                if len(found) == limit:
                    return Scan(found, place)
        return Scan(found, places[lowest] if lowest else None)

    # Work

    async def claim(
        self,
        queues: Sequence[str],
        *,
        holder: str,
        limit: int,
        lease_seconds: float,
        wait_seconds: float = 0.0,
        alone: bool = False,
        max_bytes: int = MAX_CLAIM_BYTES,
        weights: Mapping[str, int] = MappingProxyType({}),
    ) -> Sequence[Claim]:
        lanes = [work_in(queue, alone) for queue in dict.fromkeys(queues)]
        pool, claim = pool_of(queues, alone), partial(self._claim, holder, lease_seconds, alone)
        with self._bell.listen(*lanes) as rung:
            deadline = time.monotonic() + wait_seconds
            while True:
                claims = self._claims(lanes, limit, max_bytes, weights, pool, claim)
                remaining = deadline - time.monotonic()
                if claims or remaining <= 0:
                    return claims
                await wait_for(rung, min(remaining, _POLL_SECONDS) if any(map(self._due.get, lanes)) else remaining)
                rung.clear()

    def _claims(
        self,
        lanes: Sequence[Waited],
        limit: int,
        max_bytes: int,
        weights: Mapping[str, int],
        pool: str,
        claim: Callable[[str], Claim],
    ) -> Sequence[Claim]:
        """Leases that have just been found to have run out stay, for their grace."""
        now = self._clock()
        turn = self._turns.get(pool, Turn())
        turns = Turns(turn, weights, lambda tenant, most: self._first(lanes, tenant, now, most))
        claims: dict[str, Claim] = {}
        more = True
        while more and len(claims) < limit and max_bytes > 0:
            left = limit - len(claims)
            tenants = self._waiting(lanes, now, turns.turn.tenant, left)
            more = False
            for name in turns.round(tenants, left) if tenants else ():
                if max_bytes <= 0:
                    break
                if name in claims:
                    continue
                more = True  # another one may be due in its place
                topic = self._topics[name].topic
                if topic.spare(now):
                    self._plan(name, topic)
                    continue
                claims[name] = claim(name)
                turns.took(tenant_of(name))
                max_bytes -= sum(map(len, claims[name].fields.values()))
        if claims:
            self._turns[pool] = turns.turn
        return list(claims.values())

    def _claim(self, holder: str, lease_seconds: float, alone: bool, name: str) -> Claim:
        now, kept = self._clock(), self._topics[name]
        topic = kept.topic
        topic.claim(holder, secrets.token_hex(8), lease_seconds, alone, now)
        self._plan(name, topic)
        head = topic.head(now)
        return Claim(name, head, topic.token, topic.losses, topic.alone_losses, kept.brought, now)

    def _waiting(self, lanes: Sequence[Waited], now: float, first: str, limit: int) -> Sequence[str]:
        """The tenants that have something due, from `first` on and round again: `limit` of them and one more, as the
        first may have had its turn."""
        names = sorted({tenant for lane in lanes for tenant in self._due.get(lane, ())})
        start = bisect_left(names, first)
        in_turn = (name for name in names[start:] + names[:start] if self._waits(lanes, name, now))
        return list(islice(in_turn, limit + 1))

    def _waits(self, lanes: Sequence[Waited], tenant: str, now: float) -> bool:
        """Whether the tenant has something due. Drops the places before it that count no more."""
        found = False
        for lane in lanes:
            heap = self._due.get(lane, {}).get(tenant, [])
            while heap and not self._counts(lane, *heap[0]):
                heapq.heappop(heap)
            if not heap:
                self._due.get(lane, {}).pop(tenant, None)
            found = found or bool(heap and heap[0][0] <= now)
        return found

    def _first(self, lanes: Sequence[Waited], tenant: str, now: float, most: int) -> Sequence[str]:
        """The tenant's topics that are due longest."""
        due: set[tuple[float, str]] = set()
        for lane in lanes:
            heap = self._due.get(lane, {}).get(tenant, [])
            found: set[tuple[float, str]] = set()
            while heap and heap[0][0] <= now and len(found) < most:
                place = heapq.heappop(heap)
                if self._counts(lane, *place):
                    found.add(place)
            for place in found:
                heapq.heappush(heap, place)
            due |= found
        return [name for _, name in sorted(due)[:most]]

    def _counts(self, lane: Waited, due: float, name: str) -> bool:
        kept = self._topics.get(name)
        return bool(kept and kept.topic.due == due and work_in(kept.topic.queue, kept.topic.suspect) == lane)

    async def extend(self, leases: Sequence[Lease], *, lease_seconds: float) -> Sequence[LeaseState]:
        return [self._extend(lease, lease_seconds) for lease in leases]

    def _extend(self, lease: Lease, lease_seconds: float) -> LeaseState:
        kept = self._topics.get(lease.topic)
        if kept is None:
            return LeaseState.LOST
        state = kept.topic.extend(lease, lease_seconds, self._clock())
        if state is not LeaseState.LOST:
            self._plan(lease.topic, kept.topic)
        return state

    # What is told to operators

    async def depths(self) -> Sequence[Depth]:
        now = self._clock()
        found: dict[str, set[tuple[float, str]]] = {}
        for lane, heaps in self._due.items():
            for due, name in chain.from_iterable(heaps.values()):
                if self._counts(lane, due, name):
                    found.setdefault(self._topics[name].topic.queue, set()).add((due, name))
        return [_depth(queue, [due for due, _ in found[queue]], now) for queue in sorted(found)]

    async def queued(self, queues: Sequence[str], tenant: str) -> int:
        now, lanes = self._clock(), [work_in(queue) for queue in dict.fromkeys(queues)]
        places = ((lane, *place) for lane in lanes for place in set(self._due.get(lane, {}).get(tenant, ())))
        return sum(due <= now and self._counts(lane, due, name) for lane, due, name in places)

    async def put_up(self, board: str, name: str, value: bytes, *, seconds: float) -> None:
        now = self._clock()
        up = {key: each for key, each in self._boards.get(board, {}).items() if each[0] > now and key != name}
        if seconds > 0:
            up[name] = (now + seconds, Notice(name, value, now))
        self._boards[board] = up

    async def notices(self, board: str) -> Sequence[Notice]:
        now = self._clock()
        up = self._boards.get(board, {})
        return [notice for _, (end, notice) in sorted(up.items()) if end > now]

    # Messages

    async def receive(
        self,
        queue: str,
        *,
        consumer: str,
        limit: int,
        lease_seconds: float,
        wait_seconds: float = 0.0,
        max_bytes: int = MAX_RECEIVE_BYTES,
    ) -> Sequence[Delivery]:
        with self._bell.listen(messages_in(queue)) as rung:
            deadline = time.monotonic() + wait_seconds
            while True:
                deliveries = self._receive(queue, limit, lease_seconds, max_bytes)
                remaining = deadline - time.monotonic()
                if deliveries or remaining <= 0:
                    return deliveries
                await wait_for(rung, min(remaining, _POLL_SECONDS) if queue in self._mailboxes else remaining)
                rung.clear()

    def _receive(self, queue: str, limit: int, lease_seconds: float, max_bytes: int) -> list[Delivery]:
        mailbox = self._mailboxes.get(queue)
        deliveries: list[Delivery] = []
        now = self._clock()
        while mailbox and len(deliveries) < limit and max_bytes > 0:
            delivery = mailbox.take(lease_seconds, now)
            if delivery is None:
                break
            deliveries.append(delivery)
            max_bytes -= len(delivery.body)
        return deliveries

    async def acknowledge(self, queue: str, message_ids: Sequence[str]) -> None:
        mailbox = self._mailboxes.get(queue)
        if mailbox is None:
            return
        for message_id in message_ids:
            mailbox.parcels.pop(message_id, None)
        if not mailbox.parcels:
            del self._mailboxes[queue]

    async def backlog(self, queue: str) -> int:
        mailbox = self._mailboxes.get(queue)
        return len(mailbox.parcels) if mailbox else 0

    # Upkeep

    async def sweep(self, limit: int = 1000) -> int:
        now = self._clock()
        removed = 0
        while removed < limit and self._ends and self._ends[0][0] <= now:
            _, name = heapq.heappop(self._ends)
            removed += self._end(name, now)
        return removed

    def _end(self, name: str, now: float) -> int:
        """Purges or forgets a topic whose time has come. 0 where it was cleared or re-created meanwhile."""
        kept = self._topics.get(name)
        if kept is None or not kept.topic.expired(now):
            return 0
        if kept.topic.gone(now):
            self._forget(name)
            return 1
        if kept.purged:
            return 0
        kept.purged = True
        kept.entries.clear()
        kept.fields.clear()
        self._leave(name, kept, set(kept.indexes))
        heapq.heappush(self._ends, (kept.topic.tombstone_time, name))
        self.hub.deliver(name, None)
        return 1

    async def ping(self) -> None:
        return None

    async def risks(self) -> Sequence[Risk]:
        return [Risk("durability", "in memory: every run ends with this process", "use sqlite:///file, or redis://")]


def _not_found(topic: str) -> RunNotFound:
    return RunNotFound(f"there is no log {topic!r}")


def _check_once(commit: Commit, fields: Mapping[str, bytes]) -> None:
    for name in commit.puts_once:
        if name in fields:
            raise FieldExists(name, fields[name])


def _depth(queue: str, times: Sequence[float], now: float) -> Depth:
    due = [time for time in times if time <= now]
    counts = (min(len(due), MAX_COUNTED), min(len(times) - len(due), MAX_COUNTED))
    return Depth(queue, *counts, min(due, default=0.0))


def _within(entries: Sequence[Entry], start: int, max_events: int, max_bytes: int) -> Sequence[Entry]:
    """Entries from index `start` on within both bounds, but at least one."""
    events = size = 0
    for end in range(start, len(entries)):
        events += entries[end].last - entries[end].first + 1
        size += len(entries[end].body)
        if end > start and (events > max_events or size > max_bytes):
            return entries[start:end]
    return entries[start:]


def _stored(name: str, kept: _Kept, fields: Sequence[str] | None, now: float) -> Stored:
    head = kept.topic.head(now)
    if head.expired:
        return Stored(name, head, {})
    if fields is None:
        return Stored(name, head, kept.brought)
    return Stored(name, head, {key: kept.fields[key] for key in fields if key in kept.fields})
