"""How many unary calls a server works on at once, and how many bytes of requests and answers it holds for them.

A request is not even received before its call has a place: until then the client keeps it, but for what HTTP/2 sends
ahead (64 KiB). Places and room are given in turn between connections, and each has at most a part of the room. So a
flood of calls, or of large ones, costs those who send it their time, and nobody else memory; and between two calls that
are worked on the streams of everybody get their turn. There are fewer places while that makes the event loop less late
(`runwire.pace`): what is streamed already goes before what is newly asked for.

Who sends slowly, or does not read its answer, keeps neither a place nor another's room: of slow requests the oldest is
refused once there are many, and a connection that has not taken its answers gets no further ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar
from weakref import WeakValueDictionary

from runwire.budget import MAX_FRAME_BYTES, Account, Budget, Hold
from runwire.errors import TooManyRequests
from runwire.gate import Gate, Place
from runwire.pace import Pace

MAX_CALLS: Final = 16
MAX_WAITING: Final = 10_000
"""Calls, half of them of one connection."""
BUFFER_BYTES: Final = 256 * 1024 * 1024
"""Half for requests that are worked on, half for answers that clients have not taken. A call that waits for the store
holds its bytes, but no place."""
RECEIVING_BYTES: Final = 4 * 1024 * 1024
"""What is kept free for a request that is being received: no more may come."""

_SHARES: Final = 4
_ROOM_SECONDS: Final = 30.0
"""How long a call waits for room."""
_RECEIVE_SECONDS: Final = 20.0
"""How long a request may take to come."""
_MAX_SLOW: Final = 32
"""Requests that come slowly, at once."""
_LOOK_SECONDS: Final = 0.1
_SLOW_LOOKS: Final = 10
"""After which a request is slow. Looks, and not a time: where the loop is late the request may be here, unseen."""

Data = TypeVar("Data")


class Calls:
    """The unary calls of one server. To be used on one event loop."""

    def __init__(self, max_calls: int = MAX_CALLS, buffer_bytes: int = BUFFER_BYTES, pace: Pace | None = None) -> None:
        self._gate = Gate(max_calls)
        self._pace = pace = pace or Pace()
        pace.heed(lambda: self._gate.resize(pace.of(max_calls)))
        self.requests = Budget(buffer_bytes // 2, _SHARES)
        self.answers = Budget(buffer_bytes // 2, _SHARES)
        self.waiting = 0
        self._callers: WeakValueDictionary[str, _Caller] = WeakValueDictionary()
        self._slow: dict[Call, None] = {}
        """Those that are being received slowly, the oldest first."""

    async def enter(self, peer: str = "", who: Hashable = None) -> Call:
        """Waits for room and for a place; `peer` names the connection. Places are given in turn to all who call
        (`who`), with however many connections, and where nobody is known to connections. Raises TooManyRequests where
        too many wait already, or room did not come."""
        caller = self._callers.get(peer)
        if caller is None:
            caller = self._callers[peer] = _Caller(self.requests.account(peer), self.answers.account(peer))
        if self.waiting >= MAX_WAITING or caller.waiting >= MAX_WAITING // 2:
            raise TooManyRequests(f"{caller.waiting} calls of this connection wait, and {self.waiting} of all")
        if self._gate.taken:
            self._pace.begins()
        self.waiting += 1
        caller.waiting += 1
        try:
            held = await self._room(caller)
            try:
                place = await self._gate.enter(peer if who is None else who)
            except BaseException:
                held.release()
                raise
            if self.waiting > 1:
                # Those behind it may have come long ago: without a look the pace would stay what it was then.
                self._pace.begins()
            return Call(self, caller, held, place)
        finally:
            self.waiting -= 1
            caller.waiting -= 1

    async def _room(self, caller: _Caller) -> Hold:
        try:
            async with asyncio.timeout(_ROOM_SECONDS):
                if caller.is_behind():
                    # Once: those who wait would see each other's room, and hand it round for ever.
                    (await caller.answers.room(MAX_FRAME_BYTES)).release()
                return await caller.requests.room(RECEIVING_BYTES)
        except TimeoutError:
            raise TooManyRequests("too many bytes of requests and of answers that were not read are held") from None

    def _add_slow(self, call: Call) -> None:
        self._slow[call] = None
        if len(self._slow) > _MAX_SLOW:
            next(iter(self._slow)).cut()


class _Caller:
    """What one connection has."""

    def __init__(self, requests: Account, answers: Account) -> None:
        self.requests, self.answers = requests, answers
        self.waiting = 0

    def is_behind(self) -> bool:
        """It has not taken the answers that it has."""
        return bool(self.answers.used_bytes) and not self.answers.fits(MAX_FRAME_BYTES)


class Call:
    """A call that is let in, until it is closed."""

    def __init__(self, calls: Calls, caller: _Caller, held: Hold, place: Place) -> None:
        self._calls, self._caller = calls, caller
        self._held, self._place = held, place
        self._limit = asyncio.timeout(_RECEIVE_SECONDS)
        self._is_sending = False

    async def receive(self, read: Callable[[], Awaitable[Data]]) -> Data:
        """Its request. Raises TooManyRequests if that comes too slowly; the call is closed then."""
        self._look_later(1)
        try:
            async with self._limit:
                return await read()
        except TimeoutError:
            self.close()
            raise TooManyRequests("the request comes too slowly") from None
        except BaseException:
            self.close()
            raise
        finally:
            self._timer.cancel()
            self._calls._slow.pop(self, None)

    def _look_later(self, look: int) -> None:
        self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look, look)

    def _look(self, look: int) -> None:
        if look < _SLOW_LOOKS:
            self._look_later(look + 1)
        else:
            self.close()
            self._calls._add_slow(self)

    def cut(self) -> None:
        """Ends its reception: it has taken long, and others are as slow."""
        self._calls._slow.pop(self, None)
        if not self._limit.expired():  # or it is being cut already, by its own time
            self._limit.reschedule(asyncio.get_running_loop().time())

    @contextmanager
    def holding(self, size_bytes: int) -> Iterator[None]:
        """Its request is here and worked on; at the end the call is closed, unless it sends an answer."""
        self._held.resize(size_bytes)
        try:
            yield
        finally:
            if not self._is_sending:
                self.close()

    def send(self, size_bytes: int) -> None:
        """Its answer is on the way to the client, until the call is closed."""
        self._is_sending = True
        self.close()
        self._held = self._caller.answers.take(size_bytes)

    def close(self) -> None:
        """Gives up its place and its room."""
        self._held.release()
        self._place.close()
