"""The state of one topic, and what a commit, a claim or an extension makes of it.

The rules of `runwire.pubsub.Commit` as code without a store: the engines that are written in Python load a Topic, ask
it, and keep what it became. (Redis has the same rules in Lua; the conformance suite holds all of them to one body.)
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from runwire.errors import Fenced, LogClosed, RunExpired, SequenceHole
from runwire.pubsub import (
    MAX_COMMIT_BYTES,
    MAX_COMMIT_EVENTS,
    SUSPECT_LOSSES,
    Commit,
    Entry,
    Head,
    Lease,
    LeaseState,
    Schedule,
    grace_seconds,
)

_CHECK_BYTES = 8
_MOVING = (Schedule.DUE, Schedule.NEVER, Schedule.WAKE)


def validate(commit: Commit) -> None:
    """Refuses, as ValueError, what only a fault in the caller can bring about."""
    if not commit.topic:
        raise ValueError("a commit needs a topic")
    _check_names(commit)
    if commit.final and not commit.events:
        raise ValueError("a log is closed by its last event: `final` needs `events`")
    if commit.token and commit.attempt is None:
        raise ValueError("an owner shows `token` and `attempt`")
    if commit.schedule is Schedule.LOST and not commit.token:
        raise ValueError("only the owner gives a topic up: Schedule.LOST needs `token`")
    if commit.queue and not commit.create and commit.schedule not in _MOVING:
        raise ValueError(f"a topic moves to another queue where its due time is set, and not with {commit.schedule!r}")
    if not commit.events:
        return
    count = commit.last - commit.first + 1
    if commit.attempt is None:
        raise ValueError("only the owner appends: `events` needs `attempt`")
    if commit.first < 1 or count < 1:
        raise ValueError(f"events {commit.first}..{commit.last} are no ascending sequence from 1")
    if count > MAX_COMMIT_EVENTS or (count > 1 and len(commit.events) > MAX_COMMIT_BYTES):
        raise ValueError(f"{count} events of {len(commit.events)} bytes are too many for one commit")
    if len(commit.check) != _CHECK_BYTES:
        raise ValueError(f"`check` has {len(commit.check)} bytes and not {_CHECK_BYTES}")


def _check_names(commit: Commit) -> None:
    """Each is stored as UTF-8: lone surrogates have none."""
    names = [commit.topic, commit.queue, *commit.indexes, *commit.puts, *commit.puts_once, *commit.deletes]
    for name in (*names, *(message.queue for message in commit.messages)):
        if not name.isascii():
            name.encode()


@dataclass(slots=True)
class Topic:
    """One topic, without its events and fields."""

    epoch: str
    queue: str
    create_time: float
    attempt: int = 0
    losses: int = 0
    earliest: int = 1
    last: int = 0
    check: bytes = b""
    final: int = 0
    due: float | None = None
    """When it is to be claimed; None: not until somebody wakes it. Under a lease this is the lease's end."""
    leased: bool = False
    woken: bool = False
    """Somebody committed Schedule.WAKE since the last claim."""
    expire_time: float = 0.0
    tombstone_time: float = 0.0
    token: str = ""
    """Of the latest claim."""
    holder: str = ""
    """Who made it."""
    alone: bool = False
    """Whether it was made for suspects."""
    alone_losses: int = 0
    lease: float = 0.0
    """The length in seconds that the lease was last given."""
    suspect: bool = False
    """`due` is its place in the lane of suspects."""
    overdue: bool = False
    """A claim has found that the lease ran out: `due` is the end of its grace."""

    @classmethod
    def new(cls, queue: str, now: float) -> Topic:
        """A topic that has just been created, with a fresh epoch."""
        return cls(epoch=secrets.token_hex(8), queue=queue, create_time=now)

    def expired(self, now: float) -> bool:
        """Events and fields are out of sight, whether they were swept away yet or not."""
        return self.final != 0 and now >= self.expire_time

    def gone(self, now: float) -> bool:
        """The tombstone, too, has had its time."""
        return self.final != 0 and now >= self.tombstone_time

    def head(self, now: float) -> Head:
        """What readers see of it."""
        expired = self.expired(now)
        return Head(
            epoch=self.epoch,
            attempt=self.attempt,
            earliest=self.last + 1 if expired else self.earliest,
            last=self.last,
            check=self.check,
            final=self.final,
            expired=expired,
            create_time=self.create_time,
            expire_time=self.expire_time,
        )

    def admits(self, commit: Commit, now: float) -> bool:
        """Checks 1 to 5 of Commit, for a topic that exists. False: a repeat of what is there already."""
        if self.expired(now):
            raise RunExpired("the events of the run are purged", final_state=self.final)
        self._check_owner(commit)
        if commit.events and commit.last == self.last and commit.check == self.check:
            return False
        if self.final:
            raise LogClosed("the log has its last event", final_state=self.final)
        if commit.events and (commit.first != self.last + 1 or commit.previous != self.check):
            raise SequenceHole(
                f"events {commit.first}..{commit.last} do not continue event {self.last}", last_sequence=self.last
            )
        return True

    def _check_owner(self, commit: Commit) -> None:
        if commit.attempt is None:
            return
        if commit.attempt > self.attempt and not commit.token:
            raise ValueError(f"attempt {commit.attempt} was never claimed; the latest is {self.attempt}")
        if commit.attempt != self.attempt or (commit.token and commit.token != self.token):
            raise fenced(commit, self.attempt)

    def apply(self, commit: Commit, now: float) -> None:
        """Becomes what the commit makes of it. Events and fields are the engine's."""
        if commit.events:
            self.last = commit.last
            self.check = commit.check
        if commit.progress:
            self._absolve()
        if commit.final:
            self.final = commit.final
            self.expire_time = now + commit.retention
            self.tombstone_time = self.expire_time + commit.tombstone
            self._end_lease(None)
        elif commit.schedule is Schedule.DUE:
            self._end_lease(now if self.woken else now + commit.due_in)
            self.queue = commit.queue or self.queue
        elif commit.schedule is Schedule.NEVER:
            self._end_lease(now if self.woken else None)
            self.queue = commit.queue or self.queue
        elif commit.schedule is Schedule.WAKE:
            # The mark is set without a lease too: a NEVER that the owner repeats after a time-out must not undo it.
            self.woken = True
            if not self.leased:
                self.due = now if self.due is None or self.due > now else self.due
                self.queue = commit.queue or self.queue
        elif commit.schedule is Schedule.LOST and self.leased:
            self._lose()
            self.leased = self.overdue = False
            self.suspect = self.losses >= SUSPECT_LOSSES
            self.due = now if self.woken else now + grace_seconds(self.lease, self.losses)

    def _end_lease(self, due: float | None) -> None:
        self.due = due
        self.leased = self.overdue = False
        self._absolve()

    def _absolve(self) -> None:
        self.losses = self.alone_losses = 0
        self.suspect = False

    def _lose(self) -> None:
        self.losses += 1
        if self.alone:
            self.alone_losses += 1

    def spare(self, now: float) -> bool:
        """Whether this topic, which is due, is one whose lease has just been found to have run out: then it waits for
        its grace."""
        if not self.leased or self.overdue:
            return False
        grace = grace_seconds(self.lease, self.losses + 1)
        if grace <= 0:
            return False
        self.overdue = True
        self.due = now + grace
        return True

    def claim(self, holder: str, token: str, lease_seconds: float, alone: bool, now: float) -> None:
        """Becomes a new owner's."""
        if self.leased and holder != self.holder:
            self._lose()
        self.attempt += 1
        self.token = token
        self.holder = holder
        self.alone = alone
        self.woken = False
        self._hold(lease_seconds, now)

    def extend(self, lease: Lease, lease_seconds: float, now: float) -> LeaseState:
        """Renews the lease, also where it has run out and nobody has claimed the topic since."""
        if not self.leased or lease.attempt != self.attempt or lease.token != self.token:
            return LeaseState.LOST
        self._hold(lease_seconds, now)
        return LeaseState.WOKEN if self.woken else LeaseState.HELD

    def _hold(self, lease_seconds: float, now: float) -> None:
        self.leased = True
        self.overdue = False
        self.lease = lease_seconds
        self.suspect = self.losses + 1 >= SUSPECT_LOSSES
        self.due = now + lease_seconds


def fenced(commit: Commit, latest: int) -> Fenced:
    """The refusal of a writer that does not own the topic, whose latest attempt this is."""
    if commit.attempt is not None and commit.attempt < latest:
        return Fenced(f"attempt {commit.attempt} is superseded by attempt {latest}", attempt=latest)
    return Fenced(f"attempt {commit.attempt}, the latest being {latest}, is another's claim", attempt=latest)


def entry_of(commit: Commit, epoch: str) -> Entry | None:
    """What a commit appends, or has appended where it is a repeat."""
    if not commit.events:
        return None
    return Entry(
        epoch=epoch,
        first=commit.first,
        last=commit.last,
        body=commit.events,
        check=commit.check,
        previous=commit.previous,
        final=commit.final,
    )
