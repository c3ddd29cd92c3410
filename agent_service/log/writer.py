"""Group commit: the events of one run, gathered while a commit is in flight, and written by the next.

Only the owner of a run has a LogWriter. It numbers the events, serialises each once with its sequence and attempt
inside, and commits without timers: the first event goes at once, what comes meanwhile goes together.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from runwire import frames
from runwire.agent.v1 import run_event_pb2
from runwire.caching_pubsub import CachingPubSub
from runwire.errors import CommitRefused, NotFound, RunwireError, StoreUnavailable
from runwire.pubsub import (
    MAX_COMMIT_BYTES,
    MAX_COMMIT_EVENTS,
    MAX_EVENT_BYTES,
    Claim,
    Commit,
    Committed,
    Message,
    Schedule,
)
from runwire.runbook import Entry
from runwire.values import make_readable

_MAX_PENDING_EVENTS: Final = 4 * MAX_COMMIT_EVENTS
_MAX_PENDING_BYTES: Final = 4 * MAX_COMMIT_BYTES
_RETRY_SECONDS: Final = (0.05, 0.1, 0.2, 0.5, 1.0)

_AWAY: Final = Entry.STORE_TAKES_NO_COMMITS.said()

logger = logging.getLogger("agent_service.log.writer")


class EventTooLarge(RunwireError):
    """An event of more than MAX_EVENT_BYTES bytes. Nothing of it was written."""

    reason = "EVENT_TOO_LARGE"


class CommitFailed(RunwireError):
    """The store refused the end of an attempt for a reason that is neither a passing one nor the loss of the run."""

    reason = "COMMIT_FAILED"


class OwnershipLost(BaseException):
    """This worker does not own the run any more, and can write nothing.

    Not an Exception: no agent's `except Exception` may take it for a failed tool.
    """


@dataclass(frozen=True, slots=True)
class Changes:
    """What a commit writes beside events: all of it in the commit of the event it rides with, or alone."""

    puts: Mapping[str, bytes] = field(default_factory=dict)
    deletes: Sequence[str] = ()
    indexes: Sequence[str] = ()
    leaves: Sequence[str] = ()
    messages: Sequence[Message] = ()
    schedule: Schedule = Schedule.KEEP
    queue: str = ""
    """With a schedule that ends the lease: where the run is to be found from then on; empty: where it was."""
    due_in: float = 0.0
    progress: bool = False
    final: int = 0
    retention: float = 0.0
    tombstone: float = 0.0

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(map(len, self.puts.values())) + sum(len(message.body) for message in self.messages)


@dataclass(slots=True)
class _Pending:
    body: bytes
    check: bytes
    changes: Changes | None
    written: asyncio.Future[None] | None
    size: int
    """Bytes of the event and of what rides with it."""


class LogWriter:
    """Appends to the log of the run that `claim` owns. `run` must be running beside the emitters. `observe` is told of
    every event as it is emitted."""

    def __init__(
        self,
        log: CachingPubSub,
        claim: Claim,
        now: Callable[[], float],
        observe: Callable[[run_event_pb2.RunEvent], object] | None = None,
    ) -> None:
        self._log = log
        self._topic = claim.topic
        self._attempt = claim.head.attempt
        self._token = claim.token
        self._now = now
        self._observe = observe
        self._sequence = claim.head.last
        self._committed = claim.head.last
        self._check = claim.head.check
        self._pending: deque[_Pending] = deque()
        self._pending_bytes = 0
        self._wakeup = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._lost: BaseException | None = None
        self._ending = False
        self.turn = 0
        """Of the events to come."""
        self.highest_step = 0
        """Of the events so far."""
        self.unobserved = False
        """`observe` failed for an event: what it made of the log is not whole."""

    @property
    def sequence(self) -> int:
        """Of the newest event that was emitted."""
        return self._sequence

    async def emit(self, step: int = 0, **payload: Any) -> None:
        """Appends an event, given as a payload of RunEvent by name. Returns once it is queued: it waits only where
        more than about 1,000 events or 1 MiB wait to be written.

        Raises EventTooLarge, and OwnershipLost.
        """
        self._append(step, payload, None, None)
        if not self._room.is_set():
            await self._room.wait()
            self._check_owner()

    async def write(self, changes: Changes, step: int = 0, **payload: Any) -> None:
        """Writes `changes` in one atomic step with this event (without a payload: by itself), and not before anything
        that was emitted before. Returns when it is stored.

        Raises EventTooLarge, OwnershipLost, and CommitFailed (after `end`).
        """
        written = asyncio.get_running_loop().create_future()
        self._append(step, payload, changes, written)
        await written

    def end(self) -> None:
        """The attempt ends. From now on a commit that the store refuses for a reason of its own is told to its
        waits for it (CommitFailed) and forgotten with all that is not written: less may be written in its place."""
        self._ending = True

    async def run(self) -> None:
        """Commits until cancelled, or until ownership is lost (then it returns and every emitter is told)."""
        try:
            while True:
                await self._wakeup.wait()
                self._wakeup.clear()
                while self._pending:
                    try:
                        await self._commit(self._take())
                    except (CommitRefused, NotFound):
                        raise
                    except Exception as error:
                        if not self._ending:
                            raise
                        self._forget(error)
        except (CommitRefused, NotFound) as error:
            logger.info("%s: attempt %d does not own the run any more: %s", self._topic, self._attempt, error)
            self._lose(error)
        finally:
            # Nobody may wait for a writer that does not run.
            self._lose(None)

    def _append(
        self, step: int, payload: Mapping[str, Any], changes: Changes | None, written: asyncio.Future[None] | None
    ) -> None:
        self._check_owner()
        body = check = b""
        event: run_event_pb2.RunEvent | None = None
        if payload:
            event, data = self._serialise(step, payload)
            body, check = frames.frame(data), frames.event_check(data)
            self._sequence += 1
        size = len(body) + (changes.size if changes is not None else 0)
        self._pending.append(_Pending(body, check, changes, written, size))
        self._pending_bytes += size
        if len(self._pending) > _MAX_PENDING_EVENTS or self._pending_bytes > _MAX_PENDING_BYTES:
            self._room.clear()
        self._wakeup.set()
        if event is not None and self._observe is not None:
            self._tell(event, self._observe)

    def _tell(self, event: run_event_pb2.RunEvent, observe: Callable[[run_event_pb2.RunEvent], object]) -> None:
        """What is in the log does not depend on what an observer makes of it."""
        try:
            observe(event)
        except Exception:
            if not self.unobserved:
                logger.exception("%s: event %d cannot be folded", self._topic, event.sequence)
            self.unobserved = True

    def _serialise(self, step: int, payload: Mapping[str, Any]) -> tuple[run_event_pb2.RunEvent, bytes]:
        for part in payload.values():
            # No matter who made it: a log that some clients cannot read is lost for them from here on.
            make_readable(part)
        event = run_event_pb2.RunEvent(
            sequence=self._sequence + 1, attempt=self._attempt, step=step, turn=self.turn, **payload
        )
        self.highest_step = max(self.highest_step, step)
        # By hand: Timestamp.FromMicroseconds takes as long as all the rest.
        seconds, microseconds = divmod(round(self._now() * 1e6), 1_000_000)
        event.create_time.seconds, event.create_time.nanos = seconds, microseconds * 1000
        data = event.SerializeToString()
        if len(data) > MAX_EVENT_BYTES:
            raise EventTooLarge(f"an event of {len(data)} bytes is above the limit of {MAX_EVENT_BYTES}")
        return event, data

    def _take(self) -> list[_Pending]:
        """What the next commit writes: as much as it may."""
        taken = [self._pending.popleft()]
        events, size = (1 if taken[0].body else 0), taken[0].size
        while self._pending and not (taken[-1].changes and taken[-1].changes.schedule is not Schedule.KEEP):
            following = self._pending[0]
            if (following.body and events == MAX_COMMIT_EVENTS) or size + following.size > MAX_COMMIT_BYTES:
                break
            taken.append(self._pending.popleft())
            events += 1 if following.body else 0
            size += following.size
        self._pending_bytes -= size
        if len(self._pending) <= _MAX_PENDING_EVENTS // 2 and self._pending_bytes <= _MAX_PENDING_BYTES // 2:
            self._room.set()
        return taken

    async def _commit(self, taken: Sequence[_Pending]) -> None:
        try:
            commit = self._build(taken)
            await self._publish(commit)
        except BaseException:
            # They were taken off the queue: `_lose` finds the waiting ones only there.
            self._pending.extendleft(reversed(taken))
            raise
        if commit.events:
            self._committed, self._check = commit.last, commit.check
        for item in taken:
            if item.written is not None and not item.written.done():
                item.written.set_result(None)

    def _build(self, taken: Sequence[_Pending]) -> Commit:
        if len(taken) == 1 and taken[0].changes is None:
            return self._build_one(taken[0])
        events = [item for item in taken if item.body]
        gathered = [item.changes for item in taken if item.changes is not None]
        puts: dict[str, bytes] = {}
        listed: dict[str, bool] = {}
        for changes in gathered:
            for name in changes.deletes:
                puts.pop(name, None)
            puts.update(changes.puts)
            listed |= dict.fromkeys(changes.leaves, False) | dict.fromkeys(changes.indexes, True)
        last = gathered[-1] if gathered else Changes()
        return Commit(
            self._topic,
            self._attempt,
            token=self._token,
            first=self._committed + 1 if events else 0,
            last=self._committed + len(events) if events else 0,
            events=b"".join(item.body for item in events),
            check=events[-1].check if events else b"",
            previous=self._check if events else b"",
            puts=puts,
            deletes=[name for changes in gathered for name in changes.deletes],
            indexes=[name for name, stays in listed.items() if stays],
            leaves=[name for name, stays in listed.items() if not stays],
            messages=[message for changes in gathered for message in changes.messages],
            schedule=last.schedule,
            queue=last.queue,
            due_in=last.due_in,
            progress=any(changes.progress for changes in gathered),
            final=last.final,
            retention=last.retention,
            tombstone=last.tombstone,
        )

    def _build_one(self, item: _Pending) -> Commit:
        """The usual commit of a run that speaks: one event."""
        sequence = self._committed + 1
        return Commit(
            self._topic,
            self._attempt,
            token=self._token,
            first=sequence,
            last=sequence,
            events=item.body,
            check=item.check,
            previous=self._check,
        )

    async def _publish(self, commit: Commit) -> Committed:
        """Repeats a commit that the store could not take for now: it takes effect once."""
        tries = 0
        while True:
            try:
                return await self._log.publish(commit)
            except StoreUnavailable as error:
                delay = _RETRY_SECONDS[min(tries, len(_RETRY_SECONDS) - 1)]
                logger.warning("%s: commit will be repeated in %s s: %s", self._topic, delay, error, extra=_AWAY)
                tries += 1
                await asyncio.sleep(delay)

    def _check_owner(self) -> None:
        if self._lost is not None:
            raise OwnershipLost(str(self._lost))

    def _forget(self, error: Exception) -> None:
        """Takes back all that is not written, and tells who waits for it."""
        for item in self._pending:
            if item.written is not None and not item.written.done():
                item.written.set_exception(CommitFailed(f"{type(error).__name__}: {error}"))
        self._pending.clear()
        self._pending_bytes = 0
        self._sequence = self._committed
        self._room.set()

    def _lose(self, error: Exception | None) -> None:
        if self._lost is None:
            self._lost = error or OwnershipLost("the writer has stopped")
        self._room.set()
        for item in self._pending:
            if item.written is not None and not item.written.done():
                item.written.set_exception(OwnershipLost(str(self._lost)))
        self._pending.clear()
