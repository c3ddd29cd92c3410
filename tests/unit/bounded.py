"""Random histories of what bounds a process: each step is checked against what the bound promises.

Nothing here has a task or a clock of its own: a `SteppedLoop` is driven, so every history is the same each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Final

from runwire.alarm import Alarm
from runwire.budget import MIN_FRAME_BYTES, Account, Budget, Hold
from runwire.gate import Gate, Place
from runwire.pubsub import MAX_COMMIT_BYTES, Head
from runwire.read_ahead import PAGE_BYTES, Ahead, ReadAhead
from runwire.tail import Rings, Tail
from tests.log.one_log import entry
from tests.log.stepped_loop import SteppedLoop

STEPS = 80


def hold(history: Callable[[Random, SteppedLoop], None], histories: int) -> None:
    """Plays so many histories. An AssertionError names the one that failed."""
    for seed in range(histories):
        with _loop() as loop:
            try:
                history(Random(seed), loop)
            except AssertionError as error:
                raise AssertionError(f"history {seed} of {history.__name__}: {error}") from error


@contextmanager
def _loop() -> Iterator[SteppedLoop]:
    loop = SteppedLoop()
    # Exceptions of tasks that nobody awaits are found at the end, by their results.
    loop.set_exception_handler(lambda *_: None)
    asyncio.set_event_loop(loop)
    try:
        yield loop
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.settle()
        asyncio.set_event_loop(None)
        loop.close()


# The budget of messages


@dataclass
class _Wish:
    """Somebody who asked for room."""

    account: Account
    size: int
    task: asyncio.Task[Hold]

    @property
    def cost(self) -> int:
        return 2 * self.size


def budget(random: Random, loop: SteppedLoop) -> None:
    """Connections ask for room, take small messages, leave and let go, in any order."""
    it = Budget(64 * MIN_FRAME_BYTES, shares=4)
    accounts = [it.account(str(number)) for number in range(8)]
    wishes: list[_Wish] = []
    held: list[tuple[Account, int, Hold]] = []
    for _ in range(STEPS):
        account = random.choice(accounts)
        step = random.random()
        if step < 0.6:
            size = random.choice((1, 2, 4, 20)) * MIN_FRAME_BYTES
            passed = _awaited(wishes)
            wish = _Wish(account, size, loop.create_task(account.room(size)))
            loop.settle()
            assert not (passed and wish.task.done() and size > MIN_FRAME_BYTES), "it passed one that has nothing"
            wishes.append(wish)
        elif step < 0.65 and wishes:
            wish = random.choice(wishes)
            wish.task.cancel()
        elif step < 0.67 and held:
            # One that waits leaves just as it is given its room.
            held.pop(random.randrange(len(held)))[2].release()
            for wish in wishes:
                wish.task.cancel()
        elif held:
            _, _, hold = held.pop(random.randrange(len(held)))
            hold.release()
            hold.release()
        loop.settle()
        _collect(wishes, held)
        _check_budget(it, accounts, wishes, held)
    while held:
        held.pop(0)[2].release()
        loop.settle()
        _collect(wishes, held)
    assert not wishes, f"{len(wishes)} wait though nothing is held"
    assert it.used_bytes == 0


def _awaited(wishes: list[_Wish]) -> bool:
    return any(not wish.account.used_bytes for wish in wishes)


def _collect(wishes: list[_Wish], held: list[tuple[Account, int, Hold]]) -> None:
    for wish in tuple(wishes):
        if wish.task.done():
            wishes.remove(wish)
            if not wish.task.cancelled():
                held.append((wish.account, wish.cost, wish.task.result()))


def _check_budget(
    it: Budget, accounts: list[Account], wishes: list[_Wish], held: list[tuple[Account, int, Hold]]
) -> None:
    assert it.used_bytes == sum(cost for _, cost, _ in held), "what is counted is not what is held"
    large = [(account, cost) for account, cost, _ in held if cost > 2 * MIN_FRAME_BYTES]
    small = it.used_bytes - sum(cost for _, cost in large)
    assert it.used_bytes - small <= 2 * it.limit_bytes
    for account in accounts:
        own = [cost for other, cost in large if other is account]
        assert len(own) <= 1 or sum(own) <= it.share_bytes, "more than its share"
    if empty := [wish for wish in wishes if not wish.account.used_bytes]:
        most = max(wish.cost for wish in empty)
        assert it.used_bytes + most > 2 * it.limit_bytes, "one that has nothing waits though there is room"
    else:
        for wish in {wish.account: wish for wish in reversed(wishes)}.values():  # the first of each
            fits_share = wish.account.used_bytes + wish.cost <= it.share_bytes
            assert not (fits_share and it.used_bytes + wish.cost <= it.limit_bytes), "it waits though there is room"


# The gate of calls


def gate(random: Random, loop: SteppedLoop) -> None:
    """Callers come, leave, and give their places up, in any order; some stand still."""
    crowd = _Crowd(random.randint(1, 3))
    for _ in range(STEPS):
        name = random.choice("aaabc")
        step = random.random()
        if step < 0.5:
            crowd.waiting[name].append(loop.create_task(crowd.gate.enter(name)))
        elif step < 0.6 and crowd.waiting[name]:
            random.choice(crowd.waiting[name]).cancel()
        elif crowd.taken:
            crowd.taken.pop(random.randrange(len(crowd.taken))).close()
            if step > 0.95:
                crowd.leave_as_they_get_it()
        loop.settle()
        crowd.collect()
        crowd.check()
    for _ in range(2 * STEPS):  # whoever has a place and does not continue is counted no more
        loop.pass_time(1.0)
    assert all(task.done() for tasks in crowd.waiting.values() for task in tasks)
    for place in crowd.taken:
        place.close()  # of no effect any more
    assert loop.run_until_complete(_places_of(crowd.gate)) == crowd.places


class _Crowd:
    """Those who want places, by the name of who calls."""

    def __init__(self, places: int) -> None:
        self.places = places
        self.gate = Gate(places)
        self.waiting: dict[str, list[asyncio.Task[Place]]] = {name: [] for name in "abc"}
        self.taken: list[Place] = []
        self.passed = dict.fromkeys(self.waiting, 0)
        """How many places others got since each has waited for one."""

    def leave_as_they_get_it(self) -> None:
        for tasks in self.waiting.values():
            for task in tasks[:1]:
                task.cancel()

    def collect(self) -> None:
        """Sees who got a place."""
        for name, tasks in self.waiting.items():
            done = [task for task in tasks if task.done()]
            tasks[:] = [task for task in tasks if not task.done()]
            for task in done:
                if not task.cancelled():
                    self.taken.append(task.result())
                    self.passed = {other: self.passed[other] + 1 for other in self.waiting} | {name: 0}
        self.passed = {name: self.passed[name] if tasks else 0 for name, tasks in self.waiting.items()}

    def check(self) -> None:
        assert len(self.taken) <= self.places, "more than there are places"
        assert len(self.taken) == self.places or not any(self.waiting.values()), "a place stands empty"
        assert max(self.passed.values()) <= len(self.waiting), f"no turn between callers: {self.passed}"


async def _places_of(it: Gate) -> int:
    """How many can be had at once."""
    found = 0
    while True:
        task = asyncio.ensure_future(it.enter("last"))
        await asyncio.sleep(0)
        if not task.done():
            task.cancel()
            return found
        found += 1


# What is read ahead

_ZEROS: Final = bytes(PAGE_BYTES)


def read_ahead(random: Random, loop: SteppedLoop) -> None:
    """Readers keep, give out and drop pages; time passes."""

    async def play() -> None:
        it = ReadAhead(3 * PAGE_BYTES)
        readers = [Ahead(it) for _ in range(8)]
        given = dict.fromkeys(readers, 0)
        used = dict.fromkeys(readers, 0.0)
        for _ in range(STEPS):
            loop._clock += random.choice((0.0, 0.0, 0.0, 0.3))
            reader = random.choice(readers)
            kept = {other: other.size_bytes for other in readers}
            step = random.random()
            if step < 0.4:
                slow = all(loop.time() - used[other] > 0.25 for other in readers)
                size = it.page_bytes()
                assert not slow or size == PAGE_BYTES, "nobody who reads has the room"
                assert size == MAX_COMMIT_BYTES or it.used_bytes + PAGE_BYTES <= it.limit_bytes, "read with no room"
            elif step < 0.7:
                first = given[reader] + 1
                page = [
                    entry(first + n, first + n, body=bytes(random.choice((1000, PAGE_BYTES // 2)))) for n in range(3)
                ]
                reader.keep(page, given[reader])
                used[reader] = loop.time()
            elif step < 0.9:
                given[reader] += 1
                found = reader.after(given[reader])
                assert not found or found[-1].last > given[reader], "what was given out is kept"
            else:
                reader.drop()
                assert reader.size_bytes == 0
            for other in readers:
                fresh = loop.time() - used[other] < 0.2
                assert other is reader or not fresh or other.size_bytes == kept[other], (
                    "it was taken from one that reads"
                )
            assert it.used_bytes == sum(other.size_bytes for other in readers), "what is counted is not what is kept"
            assert it.used_bytes <= it.limit_bytes, "more than there is room for"
        for reader in readers:
            reader.drop()
        assert it.used_bytes == 0
        assert it.page_bytes() == PAGE_BYTES

    loop.run_until_complete(play())


# The rings of tails


def rings(random: Random, loop: SteppedLoop) -> None:
    """Tails of several logs take entries, are read and are forgotten."""
    it = Rings(20_000)
    tails = [Tail(it) for _ in range(4)]
    for tail in tails:
        tail.begin(Head("0" * 16, 1, 1, 0, b"", 0, False, 0.0, 0.0))
        tail.readers = 2
    for _ in range(STEPS):
        tail = random.choice(tails)
        if random.random() < 0.7:
            tail.offer(entry(tail.last + 1, tail.last + 1, body=bytes(random.choice((10, 4000, 9000)))))
        elif random.random() < 0.5:
            tail.forget()
        else:
            readers = [loop.create_task(_wait(tail)) for _ in range(tail.readers)]
            loop.settle()
            assert tail.size_bytes == 0, "all have had what is kept"
            loop.pass_time(2.0)
            assert all(reader.done() for reader in readers)
        found = tail.after(0)
        assert found is None or sum(len(one.body) for one in found) == tail.size_bytes
        assert it.used_bytes == sum(each.size_bytes for each in tails), "what is counted is not what is kept"
        alone = sum(each.size_bytes > 0 for each in tails) == 1
        assert alone or it.used_bytes <= it.limit_bytes, "more than there is room for"
    for tail in tails:
        tail.forget()
    assert it.used_bytes == 0


async def _wait(tail: Tail) -> None:
    alarm = Alarm()
    await tail.wait(1.0, alarm)
    alarm.close()
