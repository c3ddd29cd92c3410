"""The bytes that a process has in one kind of buffer: one limit for all, one share for each connection.

What clients do not take stays in this process, and neither we nor gRPC can take a message back once it is handed
over: only the client, or the end of its connection, frees it. So the budget is kept beforehand:

1. While much is held, frames get smaller, down to MIN_FRAME_BYTES. These always pass, so that nobody waits for them.
2. What cannot be made smaller (one large event) waits until it fits.
3. A connection has at most a part of the whole: one that does not read fills its own share and no other's.
4. Many such connections together fill the whole. Then one that has nothing outstanding still gets a message at a time,
   up to as much again: who reads goes on, one by one.
"""

from __future__ import annotations

import asyncio
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
_LOOK_SECONDS: Final = 1.0
"""How often who waits looks by itself."""
_FRAMES_LEFT: Final = 16
"""Frames are such a part of what is left."""


class Budget:
    """At most `limit_bytes`, and as much again for connections that have nothing else; small messages excepted. To be
    used on one event loop."""

    def __init__(self, limit_bytes: int, shares: int = _SHARES) -> None:
        self.limit_bytes = limit_bytes
        self.share_bytes = limit_bytes // shares
        self.used_bytes = 0
        """Of both copies of everything that is held."""
        self.most_bytes = 0
        """The most that was ever held."""
        self._accounts: WeakValueDictionary[str, Account] = WeakValueDictionary()
        self._waiting: dict[Account, dict[asyncio.Future[None], None]] = {}

    def account(self, name: str) -> Account:
        """That of a connection, as long as anybody keeps it."""
        account = self._accounts.get(name)
        if account is None:
            account = self._accounts[name] = Account(self)
        return account

    def _wake(self) -> None:
        """Lets the first of each connection look again, beginning with the one that waits longest."""
        is_full = self.used_bytes >= self.limit_bytes
        for account, waiting in tuple(self._waiting.items()):
            if account.used_bytes < self.share_bytes and not (is_full and account.used_bytes):
                if place := next((place for place in waiting if not place.done()), None):
                    place.set_result(None)
                self._waiting[account] = self._waiting.pop(account)  # to the end: the others are first next time

    def _wait(self, account: Account, place: asyncio.Future[None]) -> None:
        self._waiting.setdefault(account, {})[place] = None

    def _forget(self, account: Account, place: asyncio.Future[None]) -> None:
        waiting = self._waiting[account]
        del waiting[place]
        if not waiting:
            del self._waiting[account]


class Account:
    """The part of a budget that one connection has."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self.used_bytes = 0

    def frame_bytes(self) -> int:
        """How large a frame may be made now."""
        budget = self._budget
        left = min(budget.limit_bytes - budget.used_bytes, budget.share_bytes - self.used_bytes)
        return max(MIN_FRAME_BYTES, min(MAX_FRAME_BYTES, left // (_FRAMES_LEFT * _COPIES)))

    def fits(self, size_bytes: int) -> bool:
        """Whether a message of that size may be handed over now. The first of a connection may exceed its share."""
        if size_bytes <= MIN_FRAME_BYTES:
            return True
        budget, cost = self._budget, _COPIES * size_bytes
        if not self.used_bytes:
            return not budget.used_bytes or budget.used_bytes + cost <= 2 * budget.limit_bytes
        return self.used_bytes + cost <= budget.share_bytes and budget.used_bytes + cost <= budget.limit_bytes

    async def room(self, size_bytes: int) -> None:
        """Waits until it fits. Who waits should hold nothing."""
        while not self.fits(size_bytes):
            loop = asyncio.get_running_loop()
            place = loop.create_future()
            self._budget._wait(self, place)
            # Whoever is woken may leave without taking anything, and then nobody else is.
            timer = loop.call_later(_LOOK_SECONDS, _wake_up, place)
            try:
                await place
            finally:
                timer.cancel()
                self._budget._forget(self, place)

    def take(self, size_bytes: int) -> Hold:
        """Counts a message until the hold is released."""
        return Hold(self, _COPIES * size_bytes)

    def _add(self, cost: int) -> None:
        budget = self._budget
        self.used_bytes += cost
        budget.used_bytes += cost
        budget.most_bytes = max(budget.most_bytes, budget.used_bytes)
        if cost < 0 and budget._waiting:
            budget._wake()


def _wake_up(place: asyncio.Future[None]) -> None:
    if not place.done():
        place.set_result(None)


class Hold:
    """Bytes that are held, until `release`."""

    __slots__ = ("_account", "_cost")

    def __init__(self, account: Account, cost: int) -> None:
        self._account, self._cost = account, cost
        account._add(cost)

    def release(self) -> None:
        """Of effect once."""
        cost, self._cost = self._cost, 0
        if cost:
            self._account._add(-cost)
