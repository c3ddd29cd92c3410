"""What the asynchronous and the synchronous clients share: everything but waiting."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

import grpc

from runwire.agent.v1 import run_pb2
from runwire.client.channels import Channels, Lease, MetadataSource, channel_options
from runwire.client.resume import Delays, FrameReader, Item, OnDiscontinuity, ResumePolicy, RunReader, is_news
from runwire.client.status import error_of
from runwire.errors import CursorError, CursorMismatch, EventsLost, RunwireError, Unavailable
from runwire.fold import Fold, RunView

DEFAULT_TIMEOUT_SECONDS: Final = 30.0

C = TypeVar("C")


class BaseClient(Generic[C]):
    """A channel, metadata, time-outs, the resume policy."""

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: MetadataSource = (),
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        resume: ResumePolicy | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        """A client of the service at `target`: HOST:PORT, or any target that gRPC knows, such as
        `dns:///agents.internal:50051` or `ipv4:10.0.0.1:50051,10.0.0.2:50051`.

        `credentials` turn on TLS (grpc.ssl_channel_credentials). `metadata` is sent with every call; a function is
        asked at every call. `timeout` bounds each unary call in seconds, repetitions included. `resume` says when
        streams and calls are tried again. `options` are gRPC channel arguments. Nothing is connected before the
        first call.
        """
        arguments = channel_options(options)
        self.target = target
        self._metadata = metadata
        self._timeout = timeout
        self._policy = resume or ResumePolicy()
        self._channels: Channels[C] = Channels(lambda: self._connect(target, credentials, arguments), self._stub)

    @staticmethod
    def _connect(target: str, credentials: grpc.ChannelCredentials | None, options: Sequence[tuple[str, Any]]) -> C:
        raise NotImplementedError

    @staticmethod
    def _stub(channel: Any) -> Any:
        raise NotImplementedError


class Attempts:
    """When a unary call is made again, and how long each attempt may take."""

    def __init__(self, timeout_seconds: float, policy: ResumePolicy, *, repeat: bool) -> None:
        self._timeout_seconds = timeout_seconds
        self._ends = time.monotonic() + timeout_seconds
        self._delays = Delays(policy)
        self._repeat = repeat

    def limit_seconds(self) -> float:
        """How long the next attempt may take."""
        left = self._ends - time.monotonic()
        # A third, so that a dead connection does not use up the time in which another one would answer.
        return min(left, self._timeout_seconds / 3) if self._repeat else left

    def pause_seconds(self, error: Unavailable) -> float:
        """How long to wait after `error` before the next attempt. Raises `error` if there is to be none."""
        now = time.monotonic()
        pause = self._delays.delay(error, now)
        if not self._repeat or now + pause >= self._ends:
            raise error
        return pause


def is_silence(failure: grpc.RpcError) -> bool:
    """Whether nothing was heard in time, so that the connection may be dead."""
    return bool(failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED)


def call_error(failure: grpc.RpcError, target: str, limit_seconds: float) -> RunwireError:
    """What a unary call raises for a failure of gRPC."""
    if is_silence(failure):
        return Unavailable(f"{target} did not answer within {limit_seconds:.3g} s", 0.0)
    return error_of(failure)


class BaseStream(Generic[Item, C]):
    """The place in a server's stream, what was received and is not handled, and when to open the stream again."""

    def __init__(
        self,
        policy: ResumePolicy,
        method: str,
        reader: FrameReader[Item, Any, Any],
        on_discontinuity: OnDiscontinuity | None,
    ) -> None:
        self._method = method
        self._reader = reader
        self._on_discontinuity = on_discontinuity
        self._missed_heartbeats = policy.missed_heartbeats
        self._delays = Delays(policy)
        self._items: deque[Item] = deque()
        self._current: Item | None = None
        self._call: Any = None
        self._lease: Lease[C] | None = None
        self.connected = False
        """Whether something was received since the stream was last opened."""
        self.reconnects = 0
        """How often the stream was opened again."""

    @property
    def cursor(self) -> str:
        """Where to resume: after the last frame whose items were all handled. Store it whenever you like.

        An item counts as handled once the next one is asked for. A frame may hold many items and has one cursor, so
        after a crash a reader that resumes from here may get items again that it handled; see `last_sequence` of a
        run's stream, or handle whole `batches`.
        """
        return self._reader.cursor

    @property
    def next_cursor(self) -> str:
        """Where to resume once everything that was given out is handled."""
        return self._reader.next_cursor

    @property
    def ended(self) -> bool:
        """Whether the service said that nothing more will come."""
        return self._reader.ended

    @property
    def _limit_seconds(self) -> float:
        """After this long a silent stream is taken for dead."""
        return self._reader.heartbeat_seconds * self._missed_heartbeats

    def _next(self) -> Item:
        """Gives out an item that was received; the one before it counts as handled."""
        if self._current is not None:
            self._reader.handled(self._current)
        self._current = self._items.popleft()
        return self._current

    def _settle(self, *, whole: bool = False) -> None:
        """Counts as handled what was given out: the last item, or with `whole` all of the last frame's."""
        if self._current is not None:
            self._reader.handled(self._current)
            self._current = None
        if whole:
            for item in self._items:
                self._reader.handled(item)
            self._items.clear()
        if not self._items:
            self._reader.settle()

    def _take(self, frame: Any) -> None:
        self._items.extend(self._reader.take(frame))
        if is_news(frame):
            self._delays.heard()
        if self._items:
            self._delays.progressed()
        else:
            self._reader.settle()

    def _pause_seconds(self, error: RunwireError) -> float:
        """How long to wait before the stream is opened again. Raises `error` if it is not to be."""
        if isinstance(error, CursorError | EventsLost) and not isinstance(error, CursorMismatch):
            if self._on_discontinuity is None:
                raise error
            self._on_discontinuity(self._reader.restart(error))
            error = Unavailable(error.message, 0.0)
        if not isinstance(error, Unavailable):
            raise error
        pause = self._delays.delay(error, time.monotonic(), at_least=self._reader.retry_delay_seconds)
        self.reconnects += 1
        return pause


class RunProgress:
    """How far the stream of a run has come."""

    _reader: RunReader

    run: run_pb2.Run | None = None
    """The run as it was started; None on a stream from `watch`, and before the first event was asked for."""

    @property
    def run_id(self) -> str:
        """Empty on a stream from `AgentClient.run` before the first event was asked for."""
        return self._reader.run_id

    @property
    def last_sequence(self) -> int:
        """The last event that was handled. Stored with `cursor` and given back to `watch`, it makes a resumption
        exact inside a frame."""
        return self._reader.last_sequence

    @property
    def state(self) -> run_pb2.RunState:
        """The terminal state, once the stream has ended; RUN_STATE_UNSPECIFIED before."""
        return self._reader.state

    @property
    def caught_up(self) -> bool:
        """Whether everything that was committed when the stream was opened has been received."""
        return self._reader.caught_up

    def _started(self, run: run_pb2.Run) -> None:
        self.run = run
        self._reader.run_id = run.run_id

    def _view(self, folded: Fold) -> RunView:
        folded.view.run_id = folded.view.run_id or self.run_id
        return folded.view
