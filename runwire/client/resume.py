"""How a client follows a stream through every cut: what it asks for next, what it accepts, when it tries again.

No input or output here: the asynchronous and the synchronous client share these decisions and differ in how they wait.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from google.protobuf import duration_pb2

from runwire.agent.v1 import agent_service_pb2, run_event_pb2, run_pb2
from runwire.backoff import Backoff
from runwire.errors import CursorEpochMismatch, CursorExpired, EventsLost, RunwireError, Unavailable
from runwire.scorer.v1 import scorer_run_pb2, scorer_service_pb2
from runwire.times import duration, seconds_of

DEFAULT_HEARTBEAT_SECONDS: Final = 10.0

Item = TypeVar("Item")
Request = TypeVar("Request")
Response = TypeVar("Response", agent_service_pb2.WatchRunResponse, scorer_service_pb2.WatchScorerRunsResponse)


@dataclass(frozen=True, slots=True)
class ResumePolicy:
    """When a broken stream is opened again. The defaults suit a service with many clients."""

    first_delay_seconds: float = 0.05
    """Bound of the first delay. Each delay is drawn evenly from 0 to its bound (full jitter)."""
    growth: float = 1.6
    """By how much the bound grows at each failure in a row. It is reset only by a new event: a server that accepts
    streams and cuts them at once is not hammered."""
    max_delay_seconds: float = 10.0
    missed_heartbeats: float = 2.5
    """A stream that is silent for this many heartbeat intervals is taken for dead."""
    give_up_seconds: float | None = 600.0
    """The error is raised when nothing useful was received for this long after a failure. None: never."""


class Delays:
    """The delays of one stream or call."""

    def __init__(self, policy: ResumePolicy, uniform: Callable[[float, float], float] = random.uniform) -> None:
        self._policy = policy
        self._backoff = Backoff(policy.first_delay_seconds, policy.max_delay_seconds, policy.growth)
        self._uniform = uniform
        self._failures = 0
        self._failing_since: float | None = None

    def delay(self, error: Unavailable, now: float, *, at_least: float = 0.0) -> float:
        """Seconds to wait after `error`: what the service asked for, at least `at_least`, and jitter on top.

        Raises `error` if the policy says to give up. `now` is any clock that ascends.
        """
        if self._failing_since is None:
            self._failing_since = now
        limit = self._policy.give_up_seconds
        if limit is not None and now - self._failing_since >= limit:
            raise error
        self._failures += 1
        jitter = self._uniform(0.0, self._backoff.bound(self._failures))
        return max(error.retry_delay_seconds, at_least) + jitter

    def heard(self) -> None:
        """The service works: the time to give up starts over at the next failure."""
        self._failing_since = None

    def progressed(self) -> None:
        """Something new arrived: the next delay is a short one."""
        self._failing_since = None
        self._failures = 0


@dataclass(frozen=True, slots=True)
class Discontinuity:
    """Events that a reader can no longer get, or a log that is another one than before."""

    error: RunwireError
    """What would have been raised: CursorExpired, CursorAhead, CursorEpochMismatch or EventsLost."""
    last_sequence: int
    """The last event that was handled; 0 if there was none or it is not known."""
    new_log: bool
    """Whether what was read so far is void: the stream begins again with the first event of another log. Otherwise it
    continues with the oldest event that is left."""


OnDiscontinuity = Callable[[Discontinuity], None]
"""Called before a stream continues after a discontinuity. Raise to end the stream with that exception."""


class FrameReader(ABC, Generic[Item, Request, Response]):
    """What a client knows of the stream it follows."""

    def __init__(self, cursor: str, heartbeat_seconds: float | None) -> None:
        self.cursor = cursor
        """After the last frame that was handled whole."""
        self.ended = False
        self.retry_delay_seconds = 0.0
        """What the last `closing` frame asked for."""
        self.heartbeat_seconds = heartbeat_seconds or DEFAULT_HEARTBEAT_SECONDS
        """Interval in force, as far as known."""
        self._asked_heartbeat = heartbeat_seconds
        self._frame_cursor = cursor

    @property
    def next_cursor(self) -> str:
        """After the last frame that was received."""
        return self._frame_cursor

    @abstractmethod
    def request(self) -> Request:
        """What to ask for now: all after `cursor`."""

    @abstractmethod
    def take(self, response: Response) -> Sequence[Item]:
        """New items of a frame, to be handled before `settle`. Raises as Discontinuity.error says."""

    def handled(self, item: Item) -> None:
        """One item of the frame was handled."""

    def settle(self) -> None:
        """All items of the last frame were handled."""
        self.cursor = self._frame_cursor

    @abstractmethod
    def restart(self, error: RunwireError) -> Discontinuity:
        """Begins again where `error` allows to, and says what that means."""

    def _heartbeat(self) -> duration_pb2.Duration | None:
        return None if self._asked_heartbeat is None else duration(self._asked_heartbeat)


class RunReader(
    FrameReader[run_event_pb2.RunEvent, agent_service_pb2.WatchRunRequest, agent_service_pb2.WatchRunResponse]
):
    """Follows the log of a run."""

    def __init__(
        self,
        run_id: str,
        *,
        after: str = "",
        last_sequence: int = 0,
        latest: bool = False,
        heartbeat_seconds: float | None = None,
        max_batch_size: int = 0,
    ) -> None:
        super().__init__(after, heartbeat_seconds)
        self.run_id = run_id
        self.last_sequence = last_sequence
        self.state: run_pb2.RunState = run_pb2.RUN_STATE_UNSPECIFIED
        self.caught_up = False
        self._latest = latest
        self._max_batch_size = max_batch_size
        self._epoch = ""
        # None: the next event may have any sequence, because a cursor does not tell its own.
        self._next: int | None = last_sequence + 1 if last_sequence else None

    def request(self) -> agent_service_pb2.WatchRunRequest:
        request = agent_service_pb2.WatchRunRequest(
            run_id=self.run_id,
            heartbeat_interval=self._heartbeat(),
            max_batch_size=self._max_batch_size,
            gap_policy=agent_service_pb2.GAP_POLICY_FAIL,
        )
        if self.cursor:
            request.cursor = self.cursor
        elif self._latest:
            request.position = agent_service_pb2.START_POSITION_LATEST
        return request

    def take(self, response: agent_service_pb2.WatchRunResponse) -> Sequence[run_event_pb2.RunEvent]:
        kind = response.WhichOneof("frame")
        items: Sequence[run_event_pb2.RunEvent] = ()
        if kind == "opened":
            self._open(response.opened)
        elif kind == "batch":
            items = self._fresh(response.batch.events)
        elif kind == "caught_up":
            self.caught_up = True
        elif kind == "closing":
            self.retry_delay_seconds = seconds_of(response.closing.retry_delay)
        elif kind == "ended":
            self._end(response.ended)
        # Kinds of a newer service carry nothing that this reader could miss: a hole in the sequences would show.
        self._frame_cursor = response.cursor or self._frame_cursor
        return items

    def handled(self, item: run_event_pb2.RunEvent) -> None:
        self.last_sequence = item.sequence

    def restart(self, error: RunwireError) -> Discontinuity:
        last_sequence, self._latest = self.last_sequence, False
        if isinstance(error, CursorExpired):
            self.cursor, self._next = error.earliest_cursor, error.earliest_sequence or None
        else:
            self.cursor, self._next, self._epoch, self.last_sequence = "", None, "", 0
        self._frame_cursor = self.cursor
        return Discontinuity(error, last_sequence, new_log=not isinstance(error, CursorExpired))

    def _open(self, opened: agent_service_pb2.Opened) -> None:
        if self._epoch and opened.epoch != self._epoch:
            raise CursorEpochMismatch("the log was re-created since the last event")
        self._epoch = opened.epoch
        self.heartbeat_seconds = seconds_of(opened.heartbeat_interval) or self.heartbeat_seconds
        self.retry_delay_seconds = 0.0
        if self._next is None and not self.cursor:
            self._next = opened.latest_sequence + 1 if self._latest else max(opened.earliest_sequence, 1)

    def _fresh(self, events: Sequence[run_event_pb2.RunEvent]) -> Sequence[run_event_pb2.RunEvent]:
        fresh, following = [], self._next
        if events and following is not None:
            after = following + len(events)
            if [event.sequence for event in events] == list(range(following, after)):
                self._next = after
                return events
        for event in events:
            expected = event.sequence if following is None else following
            if event.sequence < expected:
                continue
            if event.sequence > expected:
                raise EventsLost(f"event {event.sequence} follows event {expected - 1}", expected_sequence=expected)
            following = expected + 1
            fresh.append(event)
        self._next = following  # not before the whole frame is taken: a reader may continue after the error
        return fresh

    def _end(self, ended: agent_service_pb2.Ended) -> None:
        if self._next is not None and ended.last_sequence >= self._next:
            raise EventsLost(
                f"the stream ended after event {self._next - 1} of {ended.last_sequence}", expected_sequence=self._next
            )
        self.ended = True
        self.state = ended.state


class ScorerRunReader(
    FrameReader[
        scorer_run_pb2.ScorerRun,
        scorer_service_pb2.WatchScorerRunsRequest,
        scorer_service_pb2.WatchScorerRunsResponse,
    ]
):
    """Follows the changes of one run's scorer runs, or with an empty run id of all."""

    def __init__(self, run_id: str, *, after: str = "", heartbeat_seconds: float | None = None) -> None:
        super().__init__(after, heartbeat_seconds)
        self.run_id = run_id

    def request(self) -> scorer_service_pb2.WatchScorerRunsRequest:
        return scorer_service_pb2.WatchScorerRunsRequest(
            run_id=self.run_id,
            all_runs=not self.run_id,
            cursor=self.cursor,
            heartbeat_interval=self._heartbeat(),
        )

    def take(self, response: scorer_service_pb2.WatchScorerRunsResponse) -> Sequence[scorer_run_pb2.ScorerRun]:
        self._frame_cursor = response.cursor or self._frame_cursor
        self.ended = response.WhichOneof("frame") == "ended"
        return response.batch.scorer_runs

    def restart(self, error: RunwireError) -> Discontinuity:
        self.cursor = self._frame_cursor = ""
        return Discontinuity(error, 0, new_log=True)


def is_news(response: agent_service_pb2.WatchRunResponse | scorer_service_pb2.WatchScorerRunsResponse) -> bool:
    """Whether a frame shows that the service works, and does not only answer."""
    return response.WhichOneof("frame") not in ("opened", "closing")
