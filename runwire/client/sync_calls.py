"""Calls of the synchronous clients: what `calls` does, for threads.

A stream has one thread beside the caller's, which cancels a call that has been silent for too long: gRPC's blocking
read has no time-out of its own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Generic, Self

import grpc

from runwire.client.calls import DEFAULT_TIMEOUT_SECONDS
from runwire.client.channels import Channels, Lease, MetadataSource, call_metadata, channel_options, readable
from runwire.client.resume import Delays, FrameReader, Item, OnDiscontinuity, ResumePolicy, is_news
from runwire.client.status import error_of
from runwire.errors import (
    ClientClosed,
    CursorError,
    CursorMismatch,
    EventsLost,
    RunwireError,
    ServerDraining,
    Unavailable,
)


class Client:
    """What the clients of both services have in common. Safe to use from several threads."""

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
        """As `runwire.client.AgentClient`."""
        arguments = channel_options(options)

        def connect() -> grpc.Channel:
            if credentials is None:
                return grpc.insecure_channel(target, options=arguments)
            return grpc.secure_channel(target, credentials, options=arguments)

        self.target = target
        self._metadata = metadata
        self._timeout = timeout
        self._policy = resume or ResumePolicy()
        self._channels: Channels[grpc.Channel] = Channels(connect, self._stub)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the client and its streams. Runs go on. Calls under way in other threads end with ClientClosed."""
        with self._lock:
            channel = self._channels.close()
        if channel is not None:
            channel.close()

    @staticmethod
    def _stub(channel: grpc.Channel) -> Any:
        raise NotImplementedError

    def _call(self, method: str, request: Any, *, repeat: bool = True) -> Any:
        """Makes a unary call, and with `repeat` makes it again while the service is unavailable."""
        ends = time.monotonic() + self._timeout
        delays = Delays(self._policy)
        while True:
            try:
                return self._try(method, request, ends - time.monotonic(), repeat=repeat)
            except Unavailable as error:
                now = time.monotonic()
                pause = delays.delay(error, now)
                if not repeat or now + pause >= ends:
                    raise
            time.sleep(pause)

    def _try(self, method: str, request: Any, seconds: float, *, repeat: bool) -> Any:
        # A third, so that a dead connection does not use up the time in which another one would answer.
        limit = min(seconds, self._timeout / 3) if repeat else seconds
        lease = self._acquire()
        silent = False
        try:
            answer = getattr(lease.stub, method)(request, timeout=limit, metadata=call_metadata(self._metadata))
            return readable(answer, self.target)
        except (grpc.RpcError, ValueError) as failure:
            # ValueError: gRPC says so that the channel was closed at this very moment.
            if self._channels.closed:
                raise ClientClosed(f"this client is closed: {method} was under way") from None
            if not isinstance(failure, grpc.RpcError):
                raise
            silent = failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if silent:
                raise Unavailable(f"{self.target} did not answer within {limit:.3g} s", 0.0) from failure
            raise error_of(failure) from failure
        finally:
            self._release(lease, broken=silent)

    def _acquire(self) -> Lease[grpc.Channel]:
        with self._lock:
            return self._channels.acquire()

    def _release(self, lease: Lease[grpc.Channel], *, broken: bool) -> None:
        with self._lock:
            channel = self._channels.release(lease, broken=broken)
        if channel is not None:
            channel.close()

    def _pages(self, method: str, request: Any, items: str) -> Iterator[Any]:
        while True:
            response = self._call(method, request)
            yield from getattr(response, items)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token


class Stream(Generic[Item]):
    """Items of a server's stream, through every cut: `for item in stream`.

    Use it as a context manager, or call `close`, when you may leave before its end. One thread reads at a time;
    `close` may come from another. Attributes as those of `runwire.client.Stream`.
    """

    def __init__(
        self,
        client: Client,
        method: str,
        reader: FrameReader[Item, Any, Any],
        on_discontinuity: OnDiscontinuity | None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self._client = client
        self._method = method
        self._reader = reader
        self._on_discontinuity = on_discontinuity
        self._prepare = prepare
        self._delays = Delays(client._policy)
        self._items: deque[Item] = deque()
        self._current: Item | None = None
        self._call: Any = None
        self._lease: Lease[grpc.Channel] | None = None
        self._watchdog: _Watchdog | None = None
        self._closed = threading.Event()
        self._handover = threading.Lock()
        """Around the call, its lease and its watchdog, which `close` takes from the thread that reads."""
        self.connected = False
        """Whether something was received since the stream was last opened."""
        self.reconnects = 0
        """How often the stream was opened again."""

    @property
    def cursor(self) -> str:
        """Where to resume: after the last frame whose items were all handled."""
        return self._reader.cursor

    @property
    def next_cursor(self) -> str:
        """Where to resume once everything that was given out is handled."""
        return self._reader.next_cursor

    @property
    def ended(self) -> bool:
        """Whether the service said that nothing more will come."""
        return self._reader.ended

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        """The next item. Errors as in `runwire.client.Stream`."""
        if self._items and self._current is not None:
            self._reader.handled(self._current)  # within a frame there is nothing else to settle
        else:
            self._settle()
            if not self._items:
                self._fill()
        self._current = self._items.popleft()
        return self._current

    def batches(self) -> Iterator[Sequence[Item]]:
        """Items by frame; `next_cursor` is the place after the batch."""
        while True:
            self._settle(whole=True)
            try:
                self._fill()
            except StopIteration:
                return
            yield list(self._items)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the stream, also one that another thread waits for; the run goes on."""
        self._closed.set()
        self._drop()

    def _settle(self, *, whole: bool = False) -> None:
        if self._current is not None:
            self._reader.handled(self._current)
            self._current = None
        if whole:
            for item in self._items:
                self._reader.handled(item)
            self._items.clear()
        if not self._items:
            self._reader.settle()

    def _fill(self) -> None:
        """Waits for a frame with items. Raises StopIteration at the end."""
        while not self._items:
            if self._reader.ended:
                self._finish()
            if self._closed.is_set() or self._reader.ended:
                self._drop()
                raise StopIteration
            try:
                self._take(self._read())
            except RunwireError as error:
                if not self._closed.is_set():
                    self._recover(error)

    def _take(self, frame: Any) -> None:
        self._items.extend(self._reader.take(frame))
        if is_news(frame):
            self._delays.heard()
        if self._items:
            self._delays.progressed()
        else:
            self._reader.settle()

    def _read(self) -> Any:
        if self._prepare is not None:
            self._prepare()
            self._prepare = None
        limit = self._reader.heartbeat_seconds * self._client._policy.missed_heartbeats
        call, watchdog = self._open(limit)
        try:
            with watchdog.guarding(limit):
                frame = next(call, None)
        except grpc.RpcError as failure:
            if watchdog.bit:
                self._drop(broken=True)
                raise Unavailable(f"nothing was heard for {limit:g} s", 0.0) from None
            if self._client._channels.closed and not self._closed.is_set():
                raise ClientClosed("this client is closed: the stream was being read") from None
            raise error_of(failure) from failure
        if frame is None:
            raise Unavailable("the stream ended before its end was announced", 0.0)
        self.connected = True
        return readable(frame, self._client.target)

    def _open(self, limit: float) -> tuple[Any, _Watchdog]:
        call, watchdog = self._call, self._watchdog
        if call is not None and watchdog is not None:
            return call, watchdog
        lease = self._client._acquire()
        try:
            metadata = call_metadata(self._client._metadata)
            call = getattr(lease.stub, self._method)(self._reader.request(), metadata=metadata)
        except BaseException:
            self._client._release(lease, broken=False)
            raise
        watchdog = _Watchdog(call.cancel, limit)
        with self._handover:
            self._call, self._lease, self._watchdog = call, lease, watchdog
        if self._closed.is_set():  # meanwhile, when there was nothing to cancel yet
            call.cancel()
        return call, watchdog

    def _recover(self, error: RunwireError) -> None:
        """Waits until the stream may be opened again, or raises `error`."""
        # A server that drains is left for another one, which a new connection may find.
        self._drop(broken=isinstance(error, ServerDraining))
        if isinstance(error, CursorError | EventsLost) and not isinstance(error, CursorMismatch):
            if self._on_discontinuity is None:
                raise error
            self._on_discontinuity(self._reader.restart(error))
            error = Unavailable(error.message, 0.0)
        if not isinstance(error, Unavailable):
            raise error
        pause = self._delays.delay(error, time.monotonic(), at_least=self._reader.retry_delay_seconds)
        self.reconnects += 1
        self._closed.wait(pause)

    def _finish(self) -> None:
        """Lets the call end by itself after `ended`. How it ends says nothing more."""
        call, watchdog = self._call, self._watchdog
        if call is not None and watchdog is not None:
            try:
                with watchdog.guarding(1.0):
                    while next(call, None) is not None:
                        pass
            except grpc.RpcError:
                pass
        self._drop()

    def _drop(self, *, broken: bool = False) -> None:
        with self._handover:
            call, lease, watchdog = self._call, self._lease, self._watchdog
            self._call = self._lease = self._watchdog = None
        self.connected = False
        if watchdog is not None:
            watchdog.stop()
        if call is not None:
            call.cancel()
        if lease is not None:
            self._client._release(lease, broken=broken)


class _Watchdog:
    """A thread that calls `bite` when what it guards has taken too long."""

    def __init__(self, bite: Callable[[], object], longest_seconds: float) -> None:
        self.bit = False
        self._bite = bite
        # Looking at least this often, it need not be woken whenever a guard begins.
        self._glance_seconds = longest_seconds
        self._limit: float | None = None
        self._wakes = 0.0
        self._changed = threading.Condition()
        self._stopped = False
        self._thread = threading.Thread(target=self._watch, name="runwire-watchdog", daemon=True)
        self._thread.start()

    @contextmanager
    def guarding(self, seconds: float) -> Iterator[None]:
        """Bites when the block is not left within `seconds`."""
        self._limit_to(time.monotonic() + seconds)
        try:
            yield
        finally:
            self._limit_to(None)

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def _limit_to(self, limit: float | None) -> None:
        with self._changed:
            self._limit = limit
            if limit is not None and limit < self._wakes:
                self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                if self._limit is not None and self._limit <= now:
                    self.bit = True
                    break
                self._wakes = self._limit or now + self._glance_seconds
                self._changed.wait(self._wakes - now)
        if self.bit:
            self._bite()
