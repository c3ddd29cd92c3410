"""The contracts between the services and the engines that store runs.

A *topic* is the log of one run, named `tenant/run_id`, with the fields kept beside it. An engine (memory, SQLite,
Redis) implements `Store` and `PubSub`; `CachingPubSub` puts the two together; what a run means is written once, on
top, in the agent service. Docstrings here are obligations, held by tests/conformance for every engine.

How a run travels through a store:

    commit(create, schedule=Due)          the run is accepted: a topic with fields, due now
    claim(queues, holder) -> Claim        a worker takes it: attempt + 1, a new token, due again after the lease
    commit(attempt, token, events, ...)   the worker appends, as often as it likes; extend() keeps the lease
    commit(..., final, messages)          the last event, the scorer requests and the end of the schedule: one write

Rules for every engine:

- One `commit` is one atomic write: all of it or nothing, also when the process dies inside it.
- Time is the store's own. Seconds are floats since the Unix epoch; durations are floats in seconds.
- A store that cannot be reached, or refuses to write for a passing reason, raises StoreUnavailable. The caller may
  repeat the same commit: it takes effect once.
- What does not answer is "not known", never "lost": a part of the store that is away costs only what lies in it.
  Calls that take what there is (claim, receive, extend, sweep, ping) do so in the others, without waiting for it, and
  raise StoreUnavailable only where no part that they need answers. Calls whose answer would be wrong with a part
  missing (heads, scan, backlog) raise it at once where one is known to be away.
- Whatever the engine's server, file or driver reports that this contract does not name is StoreUnavailable, or
  ConfigurationError while the store is opened; in one place of the engine. That a commit itself is bad is decided by
  the checks of Commit alone.
- No call blocks the event loop. Every call is safe to cancel; a cancelled commit may have taken effect.

Who owns a topic. The attempt alone is no proof: a store that fails over to a replica may forget a claim and give out
its number once more. So every claim mints a *token*, the store keeps it with the attempt, and owners show both: with
another token they write nothing, extend nothing and end no lease.

Workers that die. Each lease that ran out and is claimed by another process (*holder*) is a *loss* of its topic; losses
count in a row, until the topic gets further. A lease that ran out is not handed out by the claim that finds it so: it
is due again after a *grace*, and until somebody has claimed it its owner may still extend it. So an outage of the
store, however long, and a step of its clock rob no living worker. Grace grows with the losses that there would be:

    grace_seconds(lease, loss) = min(lease / 3 * 2 ** (loss - 1), MAX_GRACE_SECONDS)

A topic that has lost SUSPECT_LOSSES leases in a row is a *suspect*: it may be what its workers die of. Suspects wait in
a lane of their own, which only `claim(alone=True)` takes from, so that they can be executed where they harm nobody. A
lease whose end would be that loss waits in the lane of suspects already. What was lost while claimed so is counted
apart (`Claim.alone_losses`): those losses alone show that it was this topic, and not a neighbour.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Final, Protocol

from runwire.value import value

MAX_COMMIT_EVENTS: Final = 256
"""Most events of one commit, and so of one entry."""

MAX_COMMIT_BYTES: Final = 256 * 1024
"""Most bytes of events in one commit; a single larger event goes alone."""

MAX_RECEIVE_BYTES: Final = 8 * 1024 * 1024
"""Bytes of messages after which `receive` takes hardly more."""

MAX_CLAIM_BYTES: Final = 8 * 1024 * 1024
"""Bytes of fields after which `claim` takes no more topics."""

MAX_SCAN_LOOKS: Final = 1000
"""Places of a list after which `scan` looks no further, unless it is asked for more topics than that."""

RECEIVE_CHUNK: Final = 32
"""Messages that are taken before their size is looked at."""

MAX_COUNTED: Final = 10_000
"""Topics of one queue after which `depths` counts no further: to be asked often must not cost more in a long queue."""

MAX_EVENT_BYTES: Final = 2 * 1024 * 1024
"""Most bytes of one event; below gRPC's default receive limit of 4 MiB."""

SUSPECT_LOSSES: Final = 2
"""Losses in a row that make a suspect. One is what every machine that dies causes to all its topics, and those are to
come back quickly and together; the second, soon after, points at one of them."""

MAX_GRACE_SECONDS: Final = 60.0

ASIDE: Final = "aside/"
"""Begins the names of fields that are set aside: of the topic as all others, in every commit too, but neither a claim
nor `get` without names brings them. What is seldom needed, or grows, is read by name, and costs no claim anything."""


def grace_seconds(lease_seconds: float, loss: int) -> float:
    """How long a lease of this length that has run out, which would be the topic's `loss`-th in a row, still waits for
    its owner: a third of the lease, doubled with each loss, at most MAX_GRACE_SECONDS."""
    return min(lease_seconds / 3 * (1 << min(loss - 1, 10)), MAX_GRACE_SECONDS)


@value
class Position:
    """A place in a log: after event `sequence` of the log `epoch`. Positions of different epochs do not compare."""

    epoch: str
    """Identity of the log: 16 hex digits, minted at random when the topic is created."""
    sequence: int
    """The last event before this place; 0 is the beginning."""
    check: bytes = b""
    """`frames.event_check` of that event; empty at the beginning, and where it is not known."""


@value
class Entry:
    """The events of one commit, as stored, published and sent: never parsed or encoded again."""

    epoch: str
    first: int
    """Sequence of its first event."""
    last: int
    """Sequence of its last event; first - 1 is not possible: an entry holds at least one event."""
    body: bytes
    """The events as wire bytes of `repeated RunEvent events = 1` (see `frames`)."""
    check: bytes
    """`frames.event_check` of the last event."""
    previous: bytes = b""
    """`frames.event_check` of the event before the first; empty where `first` is 1. A reader uses an entry only if
    this is the check of its own position: so it notices a log that was rolled back and rewritten."""
    final: int = 0
    """Not 0: the entry ends the log; the number says how (the agent service stores a RunState)."""


@value
class Head:
    """What is known of a log as a whole, read in one atomic step."""

    epoch: str
    attempt: int
    """Number of the latest claim; 0 before the first. Commits of lower attempts are refused."""
    earliest: int
    """Oldest sequence that is kept: 1 where nothing was trimmed, also on an empty log; last + 1 where all is gone."""
    last: int
    """Newest sequence; 0 on an empty log."""
    check: bytes
    """`frames.event_check` of the newest event; empty on an empty log."""
    final: int
    """0 while the log is open, then `Entry.final` of its last entry."""
    expired: bool
    """The retention of a closed log has passed: its events and fields are gone, and this tombstone is left."""
    create_time: float
    expire_time: float
    """When a closed log's events are purged; 0 while it is open."""

    @property
    def position(self) -> Position:
        """After the newest event."""
        return Position(self.epoch, self.last, self.check)


@value
class Page:
    """Entries in ascending order, and the head, from one atomic read."""

    head: Head
    entries: Sequence[Entry]


class Schedule(Enum):
    """What a commit does to a topic's due time and lease."""

    KEEP = "keep"
    """Nothing: the lease continues."""
    DUE = "due"
    """Ends the lease; due `Commit.due_in` seconds from now (0: at once)."""
    NEVER = "never"
    """Ends the lease; not due until somebody wakes it."""
    WAKE = "wake"
    """Due now. Under a lease it only leaves a mark, which `extend` reports and the commit that ends the lease
    heeds (DUE and NEVER then mean due now), so that a wake is never lost. `claim` clears the mark."""
    LOST = "lost"
    """Ends the lease as one that ran out: a loss is counted, and the topic is due after the grace, in the lane of its
    losses. For the owner (it needs `attempt` and `token`) that lives but cannot end the attempt: its own process
    claiming the topic again would count as no loss, and nothing would bound the row."""


@dataclass(frozen=True, slots=True)
class Message:
    """Something sent to another service in the same atomic step."""

    queue: str
    body: bytes


@value
class Commit:
    """One atomic write to one topic.

    Checks, in this order, each with its error and with nothing written:

    1. `create`: the topic must not exist, nor its tombstone (TopicExists). Otherwise it must exist (RunNotFound) and
       not be expired (RunExpired).
    2. `attempt`, if not None, must be the topic's, and `token`, if not empty, the one that its latest claim minted
       (Fenced). An attempt above the topic's without a token is a caller's bug (ValueError); with one it was claimed,
       and the store has forgotten it (Fenced).
    3. Events that are there already (same attempt, `last` and `check` equal to the head's): a repeat. It succeeds
       and changes nothing at all.
    4. A closed log takes no commit (LogClosed).
    5. `events` must begin at the head's last + 1, and `previous` must be the head's check (SequenceHole). Only the
       owner appends: `events` needs `attempt`.
    6. No field of `puts_once` may exist (FieldExists, with the value that is there).
    """

    topic: str
    attempt: int | None = None
    """The writer's attempt, from its Claim. None: not the owner (start, cancel). Who is not the owner may give the
    attempt that it has read, to be refused (Fenced) if the topic was claimed since (resume)."""
    token: str = ""
    """The owner's, from its Claim: every commit of an owner carries it beside `attempt`. Empty: not the owner."""
    create: bool = False
    """Creates the topic: mints an epoch, sets attempt 0."""
    queue: str = ""
    """With `create`: the queue in which workers find the topic. Otherwise, if not empty, the queue that it moves to:
    with a schedule that ends its lease (DUE, NEVER), and with WAKE where nobody has it."""
    indexes: Sequence[str] = ()
    """Names of lists in which `scan` finds the topic from this commit on, until it expires."""
    leaves: Sequence[str] = ()
    """Names of lists in which `scan` finds it no more. What is in `indexes` too stays."""
    first: int = 0
    """Sequence of the first event, where there are events."""
    last: int = 0
    events: bytes = b""
    """Framed events `first..last`, at most MAX_COMMIT_EVENTS and MAX_COMMIT_BYTES (a single larger one excepted)."""
    check: bytes = b""
    """`frames.event_check` of the last event."""
    previous: bytes = b""
    """`frames.event_check` of event `first - 1`; stored in the entry."""
    puts: Mapping[str, bytes] = field(default_factory=dict)
    """Fields to set."""
    puts_once: Mapping[str, bytes] = field(default_factory=dict)
    """Fields to set that must not exist."""
    deletes: Sequence[str] = ()
    """Fields to remove."""
    schedule: Schedule = Schedule.KEEP
    due_in: float = 0.0
    messages: Sequence[Message] = ()
    progress: bool = False
    """The attempt got further than those before it: resets the losses, and the topic is no suspect."""
    final: int = 0
    """Not 0: closes the log with this commit's last event, and ends the schedule."""
    retention: float = 0.0
    """With `final`: seconds until events and fields are purged and a tombstone is left."""
    tombstone: float = 0.0
    """With `final`: seconds after that until the tombstone, too, is gone."""


@value
class Committed:
    """What a commit did."""

    head: Head
    """The head after it."""
    entry: Entry | None
    """What was appended, to be published; None without events."""
    time: float
    """The store's clock."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What the owner of a topic shows to keep it."""

    topic: str
    attempt: int
    token: str


@dataclass(frozen=True, slots=True)
class Claim:
    """A topic that this caller now owns, until somebody else claims it or a commit ends the lease."""

    topic: str
    head: Head
    """`head.attempt` is the caller's attempt, one above the last."""
    token: str
    """Minted at random by this claim; shown with every commit and extension of the owner."""
    losses: int
    """Leases in a row that ran out and were claimed by another holder, or were given up as LOST, since the topic last
    got further: workers that died."""
    alone_losses: int
    """Those of `losses` that were lost while claimed with `alone`: nobody else can have been the reason."""
    fields: Mapping[str, bytes]
    """All fields of the topic but those that are set aside, read in the same atomic step."""
    time: float
    """The store's clock."""

    @property
    def lease(self) -> Lease:
        """To be extended."""
        return Lease(self.topic, self.head.attempt, self.token)


class LeaseState(Enum):
    """What `extend` found."""

    HELD = "held"
    WOKEN = "woken"
    """Held, and somebody committed Schedule.WAKE since the claim: read the fields."""
    LOST = "lost"
    """Somebody else owns the topic, its lease was ended, or it is closed or gone."""
    UNKNOWN = "unknown"
    """This part of the store did not answer: neither held nor lost. The owner continues and asks again."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A topic's head and fields, from one atomic read."""

    topic: str
    head: Head
    fields: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Scan:
    """A page of a list."""

    found: Sequence[Stored]
    """Newest first."""
    next: tuple[float, str] | None
    """Below which place there may be more; None: that was all. A page may be short, or empty, and not be the last."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message in the hands of a consumer, until it is acknowledged or its lease ends."""

    message_id: str
    body: bytes
    deliveries: int
    """How often it was handed out, this time included."""


@dataclass(frozen=True, slots=True)
class Depth:
    """What waits in one queue."""

    queue: str
    due: int
    """Topics that are due and that nobody has, suspects too; at most MAX_COUNTED."""
    ahead: int
    """Topics whose due time lies ahead, those under a lease among them; at most MAX_COUNTED."""
    oldest_due: float
    """Since when the one that is due longest is due; 0 where nothing is."""


@dataclass(frozen=True, slots=True)
class Notice:
    """What somebody has put up on a board."""

    name: str
    value: bytes
    time: float
    """When it was put up the last time, by the store's clock."""


Deliver = Callable[[Entry | None], None]
"""Takes a live entry on the event loop, at once and without waiting. None: entries may have been missed (a connection
was lost, the topic was cleared); look at the log."""


class PubSub(Protocol):
    """Tells readers of new entries, at most once and without a promise: entries may be lost, doubled, late or out of
    order, and readers must cope. The log is the truth."""

    async def publish(self, topic: str, entry: Entry) -> None:
        """Hands `entry` to the present subscribers of `topic` in every process it can reach. Never waits for a
        slow one."""
        ...

    def subscribe(self, topic: str, deliver: Deliver) -> AbstractAsyncContextManager[None]:
        """Once entered, `deliver` is called with every entry published from now on; once left, no more.
        Subscriptions of one process share its one connection, counted by topic."""
        ...


class EventCache(Protocol):
    """The log of every topic."""

    announces: bool
    """Whether `commit` itself publishes the new entry, so that `publish` need not be called."""

    async def commit(self, commit: Commit) -> Committed:
        """The one atomic write; see Commit. Safe to repeat after StoreUnavailable, a time-out or a cancellation.

        Commits of different topics that are ready in the same turn of the event loop share one round trip or one
        transaction, and each succeeds or fails by itself.
        """
        ...

    async def read(
        self,
        topic: str,
        after: int,
        *,
        max_events: int = 2048,
        max_bytes: int = 1024 * 1024,
    ) -> Page:
        """Whole entries that hold any event above `after`, from the oldest of those on: dense, until one more would
        exceed either bound, but at least one where there is one. The caller cuts inside an entry.

        Raises RunNotFound where there is no topic. An expired topic gives a page with `head.expired` and no entries.
        Raises EventsLost where the head promises events that are not there.
        """
        ...

    async def heads(self, topics: Sequence[str]) -> Sequence[Head | None]:
        """The heads of many topics in one round trip; None where there is none."""
        ...

    async def trim(self, topic: str, before: int) -> None:
        """Forgets entries whose last event is below `before`, oldest first; `Head.earliest` becomes the first event
        kept. Of many it may forget a part at a time."""
        ...

    async def clear(self, topic: str) -> None:
        """Forgets the topic, its fields, schedule and indexes: as if it had never been. However long the log is, nobody
        waits for it: what it held may be removed later, by `sweep`."""
        ...


@dataclass(frozen=True, slots=True)
class Risk:
    """A setting of an engine under which what is accepted may be lost."""

    subject: str
    """What it concerns, in a word: eviction, durability."""
    problem: str
    advice: str
    """What to do."""


class Store(EventCache, Protocol):
    """Everything an engine keeps. Made by `connect.open_store`."""

    pubsub: PubSub

    reopens: bool
    """Whether who opens the same URL again, in another thread or process, finds the same logs."""

    async def risks(self) -> Sequence[Risk]:
        """Settings under which what is accepted here may be lost; none where all is well. Raises StoreUnavailable."""
        ...

    async def now(self) -> float:
        """The store's clock."""
        ...

    async def get(self, topic: str, fields: Sequence[str] | None = None) -> Stored | None:
        """Head and the named fields (None: all that a claim brings) in one atomic read; fields that do not exist are
        left out. None where there is no topic. An expired topic has its tombstone for a head and no fields."""
        ...

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
        """Topics that are in the list `index` and in every list of `also`, with the named fields, newest first by
        (create_time, topic), strictly below `before` and created at `since` or later. Expired topics are in no list.

        At most `limit` topics, and fewer where MAX_SCAN_LOOKS places do not hold as many. So a page costs what a page
        holds, however long the lists are, and a search that finds little continues from page to page."""
        ...

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
        """Takes up to `limit` topics of these queues that are due: raises the attempt, mints a token, makes them due
        again after the lease, clears the wake mark. No topic is given to two callers at once.

        Tenants take turns (see `turns`): of one tenant those due longest come first, and no tenant has more than one
        topic taken, or as many as `weights` gives it, before another that has something due in these queues. Callers
        that name the same queues share the turns, in all processes; in a store of several parts each process has its
        own.

        `holder` names the calling process, at random per start: where it is that of the lease that ran out, nobody died
        and no loss is counted. `alone` takes suspects, and only them; otherwise none is taken. A lease that is found to
        have run out is not taken but waits for its grace (see the module). Neither lane is slower for what lies in the
        other. Once the fields of what was taken have `max_bytes` together nothing more is taken; one topic is, however
        large. A store of several parts may stop sooner, and take one, however large, of each of up to four parts.

        Waits up to `wait_seconds` for one to become due; then returns what there is, perhaps nothing. A topic that a
        commit made due is found within 50 ms, one whose time has come within 250 ms.
        """
        ...

    async def depths(self) -> Sequence[Depth]:
        """Every queue that has a topic with a due time, in order of its name: whether anybody claims from it or not."""
        ...

    async def queued(self, queues: Sequence[str], tenant: str) -> int:
        """How many topics of the tenant are due in these queues and wait to be claimed, suspects aside. A store of
        several parts counts in those that answer."""
        ...

    async def put_up(self, board: str, name: str, value: bytes, *, seconds: float) -> None:
        """Puts `value` up on a board under this name, in place of what was there under it. It comes down by itself
        after so many seconds; at once, where they are 0. For what is said again and again: nothing else keeps it."""
        ...

    async def notices(self, board: str) -> Sequence[Notice]:
        """What is up on a board, in order of the names."""
        ...

    async def extend(self, leases: Sequence[Lease], *, lease_seconds: float) -> Sequence[LeaseState]:
        """Renews leases, to end `lease_seconds` from now, in one round trip: also those that have run out, where nobody
        has claimed the topic since. One answer for each, in order; UNKNOWN for those of a part of the store that does
        not answer. Raises StoreUnavailable only where nothing is known of any."""
        ...

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
        """Takes up to `limit` messages: those whose lease has ended first, then new ones in order. Once they have
        `max_bytes` together it takes at most RECEIVE_CHUNK more. Each is in one consumer's hands at a time, for
        `lease_seconds`. Waits up to `wait_seconds` for the first. `consumer` names the calling process, at random
        per start. Messages sent before the first consumer ever came are received too."""
        ...

    async def acknowledge(self, queue: str, message_ids: Sequence[str]) -> None:
        """Deletes messages for good. Unknown ids are no error. Raises StoreUnavailable if a part of the store that
        holds some does not answer; all others are deleted then too."""
        ...

    async def backlog(self, queue: str) -> int:
        """How many messages are not acknowledged."""
        ...

    async def sweep(self, limit: int = 1000) -> int:
        """Removes up to `limit` things whose time is over (events and fields of expired topics, their places in lists,
        old tombstones), and fewer where they are large: commits of others wait for a few milliseconds at most. Returns
        how many; 0: there is nothing left to do. Every process calls it from time to time."""
        ...

    async def ping(self) -> None:
        """Raises StoreUnavailable if no part of the store answers."""
        ...
