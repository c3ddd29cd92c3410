"""Calls of the asynchronous clients: unary ones that are repeated while that is safe, and streams that resume."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
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


class Client(BaseClient[grpc.aio.Channel]):
    """What the asynchronous clients of both services have in common."""

    @staticmethod
    def _connect(
        target: str, credentials: grpc.ChannelCredentials | None, options: Sequence[tuple[str, Any]]
    ) -> grpc.aio.Channel:
        if credentials is None:
            return grpc.aio.insecure_channel(target, options=options)
        return grpc.aio.secure_channel(target, credentials, options=options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the client and its streams. Runs continue. Calls under way in other tasks end with ClientClosed."""
        channel = self._channels.close()
        if channel is not None:
            await channel.close()

    async def call(self, method: str, request: Any, *, repeat: bool = True) -> Any:
        """Calls the unary RPC `method` with a request of its own type, for those who make requests themselves, as a
        gateway does. With `repeat`, which is for calls of no effect and idempotent ones, it is made again while the
        service is unavailable. Raises the errors of `runwire.errors`."""
        return await self._call(method, request, repeat=repeat)

    async def _call(self, method: str, request: Any, *, repeat: bool = True) -> Any:
        """Makes a unary call, and with `repeat` makes it again while the service is unavailable."""
        attempts = Attempts(self._timeout, self._policy, repeat=repeat)
        while True:
            try:
                return await self._try(method, request, attempts.limit_seconds())
            except Unavailable as error:
                pause = attempts.pause_seconds(error)
            await asyncio.sleep(pause)

    async def _try(self, method: str, request: Any, limit_seconds: float) -> Any:
        lease = self._channels.acquire()
        silent = False
        try:
            answer = await getattr(lease.stub, method)(
                request, timeout=limit_seconds, metadata=call_metadata(self._metadata)
            )
            return readable(answer, self.target)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._channels.closed and task is not None and not task.cancelling():
                # Not of the task: `close` has taken the channel from under the call.
                raise ClientClosed(f"this client is closed: {method} was under way") from None
            raise
        except grpc.aio.AioRpcError as failure:
            silent = is_silence(failure)
            raise call_error(failure, self.target, limit_seconds) from failure
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


class Stream(BaseStream[Item, grpc.aio.Channel]):
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
        super().__init__(client._policy, method, reader, on_discontinuity)
        self._client = client
        self._prepare = prepare
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        """The next item.

        Raises CursorExpired, CursorAhead, CursorEpochMismatch and EventsLost where items are gone (unless
        `on_discontinuity` lets the stream continue), NotFound, InvalidRequest, FrameUnreadable for a frame that does
        not parse (`cursor` stands before it), ClientClosed, and Unavailable when the policy says to give up.
        """
        if not self._items:
            self._settle()
            await self._fill()
        return self._next()

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

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends the stream; the run continues. `cursor` keeps its value."""
        self._closed = True
        await self._drop()

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

    async def _read(self) -> Any:
        if self._prepare is not None:
            await self._prepare()
            self._prepare = None
        limit = self._limit_seconds
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

    def _open(self) -> Any:
        self._lease = self._client._channels.acquire()
        metadata = call_metadata(self._client._metadata)
        return getattr(self._lease.stub, self._method)(self._reader.request(), metadata=metadata)

    async def _recover(self, error: RunwireError) -> None:
        """Waits until the stream may be opened again, or raises `error`."""
        # A server that drains is left for another one, which a new connection may find.
        await self._drop(broken=isinstance(error, ServerDraining))
        await asyncio.sleep(self._pause_seconds(error))

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
