"""Calls of the asynchronous clients: unary ones that are repeated while that is safe, and streams that resume."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Final, Generic, Self

import grpc

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

DEFAULT_TIMEOUT_SECONDS: Final = 30.0


class Client:
    """What the clients of both services have in common: a channel, metadata, time-outs, the resume policy."""

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

        def connect() -> grpc.aio.Channel:
            if credentials is None:
                return grpc.aio.insecure_channel(target, options=arguments)
            return grpc.aio.secure_channel(target, credentials, options=arguments)

        self.target = target
        self._metadata = metadata
        self._timeout = timeout
        self._policy = resume or ResumePolicy()
        self._channels: Channels[grpc.aio.Channel] = Channels(connect, self._stub)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the client and its streams. Runs go on. Calls under way in other tasks end with ClientClosed."""
        channel = self._channels.close()
        if channel is not None:
            await channel.close()

    @staticmethod
    def _stub(channel: grpc.aio.Channel) -> Any:
        raise NotImplementedError

    async def call(self, method: str, request: Any, *, repeat: bool = True) -> Any:
        """Calls the unary RPC `method` with a request of its own type, for those who make requests themselves, as a
        gateway does. With `repeat`, which is for calls of no effect and idempotent ones, it is made again while the
        service is unavailable. Raises the errors of `runwire.errors`."""
        return await self._call(method, request, repeat=repeat)

    async def _call(self, method: str, request: Any, *, repeat: bool = True) -> Any:
        """Makes a unary call, and with `repeat` makes it again while the service is unavailable."""
        ends = time.monotonic() + self._timeout
        delays = Delays(self._policy)
        while True:
            try:
                return await self._try(method, request, ends - time.monotonic(), repeat=repeat)
            except Unavailable as error:
                now = time.monotonic()
                pause = delays.delay(error, now)
                if not repeat or now + pause >= ends:
                    raise
            await asyncio.sleep(pause)

    async def _try(self, method: str, request: Any, seconds: float, *, repeat: bool) -> Any:
        # A third, so that a dead connection does not use up the time in which another one would answer.
        limit = min(seconds, self._timeout / 3) if repeat else seconds
        lease = self._channels.acquire()
        silent = False
        try:
            answer = await getattr(lease.stub, method)(request, timeout=limit, metadata=call_metadata(self._metadata))
            return readable(answer, self.target)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._channels.closed and task is not None and not task.cancelling():
                # Not of the task: `close` has taken the channel from under the call.
                raise ClientClosed(f"this client is closed: {method} was under way") from None
            raise
        except grpc.aio.AioRpcError as failure:
            silent = failure.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            if silent:
                raise Unavailable(f"{self.target} did not answer within {limit:.3g} s", 0.0) from failure
            raise error_of(failure) from failure
        finally:
            await self._release(lease, broken=silent)

    async def _release(self, lease: Lease[grpc.aio.Channel], *, broken: bool) -> None:
        channel = self._channels.release(lease, broken=broken)
        if channel is not None:
            await channel.close()

    async def _pages(self, method: str, request: Any, items: str) -> AsyncIterator[Any]:
        while True:
            response = await self._call(method, request)
            for item in getattr(response, items):
                yield item
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token


class Stream(Generic[Item]):
    """Items of a server's stream, through every cut: `async for item in stream`.

    Use it as an asynchronous context manager, or call `aclose`, when you may leave before its end. One task reads at a
    time. There is no task behind it: the connection is read only while you wait for the next item.
    """

    def __init__(
        self,
        client: Client,
        method: str,
        reader: FrameReader[Item, Any, Any],
        on_discontinuity: OnDiscontinuity | None,
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._client = client
        self._method = method
        self._reader = reader
        self._on_discontinuity = on_discontinuity
        self._prepare = prepare
        self._delays = Delays(client._policy)
        self._items: deque[Item] = deque()
        self._current: Item | None = None
        self._call: grpc.aio.UnaryStreamCall[Any, Any] | None = None
        self._lease: Lease[grpc.aio.Channel] | None = None
        self._closed = False
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
    def ended(self) -> bool:
        """Whether the service said that nothing more will come."""
        return self._reader.ended

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        """The next item.

        Raises CursorExpired, CursorAhead, CursorEpochMismatch and EventsLost where items are gone (unless
        `on_discontinuity` lets the stream go on), NotFound, InvalidRequest, FrameUnreadable for a frame that does not
        parse (`cursor` stands before it), ClientClosed, and Unavailable when the policy says to give up.
        """
        if self._items and self._current is not None:
            self._reader.handled(self._current)  # within a frame there is nothing else to settle
        else:
            self._settle()
            if not self._items:
                await self._fill()
        self._current = self._items.popleft()
        return self._current

    async def batches(self) -> AsyncIterator[Sequence[Item]]:
        """Items by frame. Inside the loop `next_cursor` is the place after the batch: write it in the same
        transaction as what the batch did, and every item counts exactly once."""
        while True:
            self._settle(whole=True)
            try:
                await self._fill()
            except StopAsyncIteration:
                return
            yield list(self._items)

    @property
    def next_cursor(self) -> str:
        """Where to resume once everything that was given out is handled."""
        return self._reader.next_cursor

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the stream; the run goes on. `cursor` keeps its value."""
        self._closed = True
        await self._drop()

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

    async def _fill(self) -> None:
        """Waits for a frame with items. Raises StopAsyncIteration at the end."""
        while not self._items:
            if self._reader.ended:
                await self._finish()
            if self._closed or self._reader.ended:
                raise StopAsyncIteration
            try:
                frame = await self._read()
                self._take(frame)
            except RunwireError as error:
                await self._recover(error)

    def _take(self, frame: Any) -> None:
        self._items.extend(self._reader.take(frame))
        if is_news(frame):
            self._delays.heard()
        if self._items:
            self._delays.progressed()
        else:
            self._reader.settle()

    async def _read(self) -> Any:
        if self._prepare is not None:
            await self._prepare()
            self._prepare = None
        limit = self._reader.heartbeat_seconds * self._client._policy.missed_heartbeats
        if self._call is None:
            self._call = self._open()
        try:
            async with asyncio.timeout(limit):
                frame = await self._call.read()
        except TimeoutError:
            await self._drop(broken=True)
            raise Unavailable(f"nothing was heard for {limit:g} s", 0.0) from None
        except asyncio.CancelledError:
            await self._drop()
            task = asyncio.current_task()
            if task is None or task.cancelling():
                # Of the task, or of this one wait (asyncio.timeout around anext): the next opens the stream again.
                raise
            # Not of the task: the stream or the client was closed by another one.
            if self._client._channels.closed and not self._closed:
                raise ClientClosed("this client is closed: the stream was being read") from None
            raise Unavailable("the call was cancelled", 0.0) from None
        except grpc.aio.AioRpcError as failure:
            raise error_of(failure) from failure
        if frame is grpc.aio.EOF:
            raise Unavailable("the stream ended before its end was announced", 0.0)
        self.connected = True
        return readable(frame, self._client.target)

    def _open(self) -> grpc.aio.UnaryStreamCall[Any, Any]:
        self._lease = self._client._channels.acquire()
        metadata = call_metadata(self._client._metadata)
        call: grpc.aio.UnaryStreamCall[Any, Any] = getattr(self._lease.stub, self._method)(
            self._reader.request(), metadata=metadata
        )
        return call

    async def _recover(self, error: RunwireError) -> None:
        """Waits until the stream may be opened again, or raises `error`."""
        # A server that drains is left for another one, which a new connection may find.
        await self._drop(broken=isinstance(error, ServerDraining))
        if isinstance(error, CursorError | EventsLost) and not isinstance(error, CursorMismatch):
            if self._on_discontinuity is None:
                raise error
            self._on_discontinuity(self._reader.restart(error))
            error = Unavailable(error.message, 0.0)
        if not isinstance(error, Unavailable):
            raise error
        pause = self._delays.delay(error, time.monotonic(), at_least=self._reader.retry_delay_seconds)
        self.reconnects += 1
        await asyncio.sleep(pause)

    async def _finish(self) -> None:
        """Lets the call end by itself after `ended`. How it ends says nothing more."""
        try:
            async with asyncio.timeout(1.0):
                while self._call is not None and await self._call.read() is not grpc.aio.EOF:
                    pass
        except (TimeoutError, grpc.aio.AioRpcError):
            pass
        finally:
            await self._drop()

    async def _drop(self, *, broken: bool = False) -> None:
        call, lease, self._call, self._lease = self._call, self._lease, None, None
        self.connected = False
        if call is not None:
            call.cancel()
        if lease is not None:
            await self._client._release(lease, broken=broken)
