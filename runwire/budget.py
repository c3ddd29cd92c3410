"""The bytes that a process has in one kind of buffer: one limit for all, one share for each connection.

What clients do not take stays in this process, and neither we nor gRPC can take a message back once it is handed
over: only the client, or the end of its connection, frees it. So the budget is kept beforehand:

1. While much is held, frames get smaller, down to MIN_FRAME_BYTES. These always pass, so that nobody waits for them.
2. What cannot be made smaller (one large event) waits until it fits, and keeps its place in the line.
3. A connection has at most a part of the whole: one that does not read fills its own share and no other's.
4. Many such connections together fill the whole. Then one that has nothing outstanding still gets a message at a time,
   up to as much again: readers continue one at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

from runwire.pubsub import MAX_COMMIT_BYTES

MIN_FRAME_BYTES: Final = 16 * 1024
"""A message of that size passes however full the budget is."""
MAX_FRAME_BYTES: Final = MAX_COMMIT_BYTES
_COPIES: Final = 2
"""A message is held by us and by gRPC, each a copy."""
_SHARES: Final = 8
"""A connection has at most this part of the whole, if not said otherwise."""
_FRAMES_LEFT: Final = 16
"""Frames are such a part of what is left."""


class Budget:
    """At most `limit_bytes`, and as much again for connections that have nothing else; small messages excepted. To be
    used on one event loop.

    Room is given in turn, to connections and to the messages of each. While one that has nothing outstanding waits for
    room nobody passes it with anything but small messages: so a large one is never kept waiting by the many that would
    always fit a little earlier. One that has something outstanding waits until it has read that, or there is room.
    """

    def __init__(self, limit_bytes: int, shares: int = _SHARES) -> None:
        self.limit_bytes = limit_bytes
        self.share_bytes = limit_bytes // shares
        self.used_bytes = 0
        """Of both copies of everything that is held."""
        self.most_bytes = 0
        """The most that was ever held."""
        self._accounts: WeakValueDictionary[str, Account] = WeakValueDictionary()
        self._waiting: dict[Account, deque[_Waiter]] = {}
        self._awaited = False
        """Whether a connection that has nothing outstanding waits for room."""

    def account(self, name: str) -> Account:
        """That of a connection, as long as anybody keeps it."""
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = Account(self)
        return account

    def _has_room(self, account: Account, cost: int) -> bool:
        limit_bytes = self.limit_bytes if account.used_bytes else 2 * self.limit_bytes
        return not self.used_bytes or self.used_bytes + cost <= limit_bytes

    def _serve(self) -> None:
        """Gives what room there is to those who wait, one message of each connection at a time."""
        served = True
        while served:
            served = False
            for account in tuple(self._waiting):
                waiter = next((each for each in self._waiting[account] if not each.place.done()), None)
                if waiter is None:
                    continue  # a waiter that has left takes itself out
                fits = account._has_share(waiter.cost) and self._has_room(account, waiter.cost)
                self._awaited = not fits and not account.used_bytes
                if self._awaited:
                    return
                if not fits:
                    continue
                self._leave(account, waiter)
                waiter.place.set_result(Hold(account, waiter.cost))
                served = True
        self._awaited = False

    def _leave(self, account: Account, waiter: _Waiter) -> None:
        """Takes one out of the line; its connection comes after the others with what it has left."""
        waiting = self._waiting.pop(account)
        waiting.remove(waiter)
        if waiting:
            self._waiting[account] = waiting


@dataclass(frozen=True, slots=True, eq=False)
class _Waiter:
    cost: int
    place: asyncio.Future[Hold]


class Account:
    """The part of a budget that one connection has."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.used_bytes = 0

    def frame_bytes(self) -> int:
        """How large a frame may be made now."""
        budget = self._budget
        if budget._awaited:
            return MIN_FRAME_BYTES
        left = min(budget.limit_bytes - budget.used_bytes, budget.share_bytes - self.used_bytes)
        return max(MIN_FRAME_BYTES, min(MAX_FRAME_BYTES, left // (_FRAMES_LEFT * _COPIES)))

    def fits(self, size_bytes: int) -> bool:
        """Whether a message of that size may be handed over now. The first of a connection may exceed its share."""
        if size_bytes <= MIN_FRAME_BYTES:
            return True
        cost = _COPIES * size_bytes
        return not self._budget._awaited and self._has_share(cost) and self._budget._has_room(self, cost)

    async def room(self, size_bytes: int) -> Hold:
        """Waits until it fits, and keeps the room for it until the hold is released. Who waits should hold nothing."""
        if self.fits(size_bytes):
            return self.take(size_bytes)
        budget, waiter = self._budget, _Waiter(_COPIES * size_bytes, asyncio.get_running_loop().create_future())
        budget._waiting.setdefault(self, deque()).append(waiter)
        budget._serve()
        try:
            return await waiter.place
        except asyncio.CancelledError:
            if waiter.place.cancelled():
                budget._leave(self, waiter)
                budget._serve()
            else:
                waiter.place.result().release()
            raise

    def take(self, size_bytes: int) -> Hold:
        """Counts a message until the hold is released."""
        hold = Hold(self, _COPIES * size_bytes)
        if self._budget._awaited and self in self._budget._waiting:
            self._budget._serve()  # it has something outstanding now: nobody waits behind it any more
        return hold

    def _has_share(self, cost: int) -> bool:
        return not self.used_bytes or self.used_bytes + cost <= self._budget.share_bytes

    def _add(self, cost: int) -> None:
        budget = self._budget
        self.used_bytes += cost
        budget.used_bytes += cost
        budget.most_bytes = max(budget.most_bytes, budget.used_bytes)
        if cost < 0 and budget._waiting:
            budget._serve()


class Hold:
    """Bytes that are held, until `release`."""

    __slots__ = ("_account", "_cost")

    def __init__(self, account: Account, cost: int) -> None:
        self._account, self._cost = account, cost
        account._add(cost)

    def covers(self, size_bytes: int) -> bool:
        """Whether a message of that size needs no more room than this."""
        return _COPIES * size_bytes <= self._cost

    def resize(self, size_bytes: int) -> None:
        """Holds as much as a message of that size needs from now on; nobody else gets what it holds afterwards."""
        before, self._cost = self._cost, _COPIES * size_bytes
        self._account._add(self._cost - before)

    def release(self) -> None:
        """Of effect once."""
        cost, self._cost = self._cost, 0
        if cost:
            self._account._add(-cost)
