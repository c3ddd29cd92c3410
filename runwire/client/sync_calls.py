"""Calls of the synchronous clients: what `calls` does, for threads.

A stream has one thread beside the caller's, which cancels a call that has been silent for too long: gRPC's blocking
read has no time-out of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import grpc

from runwire.client.base import Attempts, BaseClient, BaseStream, call_error, is_silence
from runwire.client.channels import Lease, call_metadata, readable
from runwire.client.resume import FrameReader, Item, OnDiscontinuity
from runwire.client.status import error_of
from runwire.errors import (
    ClientClosed,
    RunwireError,
    ServerDraining,
    Unavailable,
)


class Client(BaseClient[grpc.Channel]):
    """What the synchronous clients of both services have in common. Safe to use from several threads."""

    @staticmethod
    def _connect(
        target: str, credentials: grpc.ChannelCredentials | None, options: Sequence[tuple[str, Any]]
    ) -> grpc.Channel:
        if credentials is None:
            return grpc.insecure_channel(target, options=options)
        return grpc.secure_channel(target, credentials, options=options)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the client and its streams. Runs continue. Calls under way in other threads end with ClientClosed."""
        channel = self._channels.close()
        if channel is not None:
            channel.close()

    def _call(self, method: str, request: Any, *, repeat: bool = True) -> Any:
        """Makes a unary call, and with `repeat` makes it again while the service is unavailable."""
        attempts = Attempts(self._timeout, self._policy, repeat=repeat)
        while True:
            try:
                return self._try(method, request, attempts.limit_seconds())
            except Unavailable as error:
                pause = attempts.pause_seconds(error)
            time.sleep(pause)

    def _try(self, method: str, request: Any, limit_seconds: float) -> Any:
        lease = self._channels.acquire()
        silent = False
        try:
            answer = getattr(lease.stub, method)(request, timeout=limit_seconds, metadata=call_metadata(self._metadata))
            return readable(answer, self.target)
        except (grpc.RpcError, ValueError) as failure:
            # ValueError: gRPC says so that the channel was closed at this very moment.
            if self._channels.closed:
                raise ClientClosed(f"this client is closed: {method} was under way") from None
            if not isinstance(failure, grpc.RpcError):
                raise
            silent = is_silence(failure)
            raise call_error(failure, self.target, limit_seconds) from failure
        finally:
            self._release(lease, broken=silent)

    def _release(self, lease: Lease[grpc.Channel], *, broken: bool) -> None:
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


class Stream(BaseStream[Item, grpc.Channel]):
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
        super().__init__(client._policy, method, reader, on_discontinuity)
        self._client = client
        self._prepare = prepare
        self._watchdog: _Watchdog | None = None
        self._closed = threading.Event()
        self._handover = threading.Lock()
        """Around the call, its lease and its watchdog, which `close` takes from the thread that reads."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Item:
        """The next item. Errors as in `runwire.client.Stream`."""
        if not self._items:
            self._settle()
            self._fill()
        return self._next()

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
        """Ends the stream, also one that another thread waits for; the run continues."""
        self._closed.set()
        self._drop()

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

    def _read(self) -> Any:
        if self._prepare is not None:
            self._prepare()
            self._prepare = None
        limit = self._limit_seconds
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
        lease = self._client._channels.acquire()
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
        self._closed.wait(self._pause_seconds(error))

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
