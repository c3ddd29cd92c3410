"""`python -m benchmarks.sqlite`: the SQLite engine beside a plain transaction per event, and beside the memory engine.

Everything happens in a temporary folder (TMPDIR says where). Each figure is the median of interleaved rounds; absolute
ones drift with the machine, so compare inside one run. CPU is that of this process, in microseconds an event.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sqlite3
import struct
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, closing
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from runwire import frames
from runwire.connect import open_store
from runwire.pubsub import Commit, Entry, Schedule, Store

_EVENT_BYTES = 149
_GROUPS = (1, 16, 64, 256)
_QUEUE = "bench"
_STAMP = struct.Struct("d")


class Log:
    """One run, written by its owner in groups of events that carry the time they were made."""

    def __init__(self, store: Store, topic: str, attempt: int) -> None:
        self.store, self.topic, self.attempt, self.last, self.check = store, topic, attempt, 0, b""

    async def append(self, events: int) -> None:
        event = _STAMP.pack(time.monotonic()).ljust(_EVENT_BYTES, b"e")
        commit = Commit(
            self.topic,
            attempt=self.attempt,
            first=self.last + 1,
            last=self.last + events,
            events=frames.frame(event) * events,
            check=frames.event_check(event),
            previous=self.check,
        )
        await self.store.commit(commit)
        self.last, self.check = commit.last, commit.check


async def new_log(store: Store, name: str) -> Log:
    await store.commit(Commit(f"bench/{name}", create=True, queue=_QUEUE, schedule=Schedule.DUE))
    (claim,) = await store.claim([_QUEUE], holder="somebody", limit=1, lease_seconds=3600)
    return Log(store, claim.topic, claim.head.attempt)


class Bench:
    """Named measurements, repeated in turn."""

    def __init__(self) -> None:
        self.rates: dict[str, list[float]] = {}
        self.cpu: dict[str, list[float]] = {}

    async def measure(self, name: str, events: int, work: Callable[[], Awaitable[object]]) -> None:
        """Runs `work`, which handles this many events, and notes how it went."""
        used, begin = time.process_time(), time.perf_counter()
        await work()
        self.rates.setdefault(name, []).append(events / (time.perf_counter() - begin))
        self.cpu.setdefault(name, []).append(1e6 * (time.process_time() - used) / events)

    def show(self, title: str, base: str) -> None:
        """A table, with ratios to `base`."""
        print(f"{title:<46}{'events/s':>12}{'ratio':>8}{'us CPU':>9}")
        for name, rates in self.rates.items():
            rate = median(rates)
            print(f"{name:<46}{rate:>12,.0f}{rate / median(self.rates[base]):>8.2f}{median(self.cpu[name]):>9.2f}")
        print()


async def repeat(call: Callable[[int], Awaitable[object]], times: int, argument: int) -> None:
    for _ in range(times):
        await call(argument)


async def appending(folder: Path, rounds: int) -> None:
    """One writer, one commit after the other, by group size; beside it one plain transaction an event."""
    bench = Bench()
    plain = "plain sqlite3, a transaction an event"
    async with open_store(f"sqlite:///{folder}/append.db") as store:
        for number in range(rounds):
            await bench.measure(plain, 2000, lambda: asyncio.to_thread(_insert_singly, folder / "plain.db", 2000))
            for group in _GROUPS:
                log = await new_log(store, f"append-{group}-{number}")
                await bench.measure(f"commits of {group}", 500 * group, partial(repeat, log.append, 500, group))
                await store.clear(log.topic)
    bench.show("append, one writer", plain)


def _insert_singly(path: Path, count: int) -> None:
    """What a program would do without group commit: WAL, NORMAL, one row and one transaction an event."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("CREATE TABLE IF NOT EXISTS events (topic TEXT, sequence INTEGER, body BLOB)")
        for sequence in range(count):
            connection.execute("INSERT INTO events VALUES ('bench/plain', ?, ?)", (sequence, b"e" * _EVENT_BYTES))


async def many_writers(folder: Path, rounds: int) -> None:
    """32 runs at once, one commit of each in flight: they share transactions. Durable in three ways."""
    bench = Bench()
    urls = {
        "memory": "memory://",
        "normal": f"sqlite:///{folder}/normal.db",
        "full": f"sqlite:///{folder}/full.db?synchronous=full",
    }
    async with AsyncExitStack() as stack:
        stores = {name: await stack.enter_async_context(open_store(url)) for name, url in urls.items()}
        for number in range(rounds):
            for group in _GROUPS[:3]:
                for kind, store in stores.items():
                    logs = [await new_log(store, f"many-{group}-{number}-{writer}") for writer in range(32)]
                    name = f"{kind}, commits of {group}"
                    await bench.measure(name, 32 * 50 * group, partial(_write_all, logs, 50, group))
                    for log in logs:
                        await store.clear(log.topic)
    bench.show("append, 32 writers", "normal, commits of 1")


async def _write_all(logs: Sequence[Log], times: int, events: int) -> None:
    await asyncio.gather(*(repeat(log.append, times, events) for log in logs))


async def reading(folder: Path, rounds: int) -> None:
    """100k events in pages, as a stream reads them, by the size of the commits that wrote them."""
    bench = Bench()
    async with open_store(f"sqlite:///{folder}/read.db") as store:
        for group in _GROUPS:
            log = await new_log(store, f"read-{group}")
            await repeat(log.append, 100_000 // group, group)
            for _ in range(rounds):
                await bench.measure(f"entries of {group}", log.last, partial(_read_all, store, log))
            await store.clear(log.topic)
    bench.show("read 100k events by pages of 2,048", "entries of 1")


async def _read_all(store: Store, log: Log) -> None:
    after = 0
    while after < log.last:
        after = (await store.read(log.topic, after)).entries[-1].last


async def live(folder: Path, seconds: float) -> None:
    """Runs of 50 events a second written by another process: from the call of `commit` there to the subscriber here."""
    for runs in (1, 20, 200):
        url = f"sqlite:///{folder}/live-{runs}.db"
        latencies: list[float] = []

        def take(entry: Entry | None, latencies: list[float] = latencies) -> None:
            now = time.monotonic()
            latencies.extend(now - _STAMP.unpack(event[:8])[0] for event in frames.events(entry.body if entry else b""))

        async with open_store(url) as store, AsyncExitStack() as stack:
            for number in range(runs):
                await store.commit(Commit(f"bench/{number}", create=True, queue=_QUEUE, schedule=Schedule.DUE))
                await stack.enter_async_context(store.pubsub.subscribe(f"bench/{number}", take))
            arguments = ["-m", "benchmarks.sqlite", "--write", url, "--runs", str(runs), "--seconds", str(seconds)]
            writer = await asyncio.create_subprocess_exec(sys.executable, *arguments)
            assert await writer.wait() == 0
            await asyncio.sleep(0.1)
        _print_latencies(f"{runs} runs x 50 events/s", latencies)
    print()


async def write(url: str, runs: int, seconds: float) -> None:
    """The other process of `live`."""
    offsets = (number / 1000 for number in itertools.count())
    async with open_store(url) as store, asyncio.TaskGroup() as group:
        for claim in await store.claim([_QUEUE], holder="somebody", limit=runs, lease_seconds=3600):
            log = Log(store, claim.topic, claim.head.attempt)
            group.create_task(_write_evenly(log, int(seconds * 50), offset=next(offsets)))


async def _write_evenly(log: Log, count: int, offset: float) -> None:
    begin = time.perf_counter() + offset
    for number in range(count):
        await asyncio.sleep(max(0.0, begin + number / 50 - time.perf_counter()))
        await log.append(1)


def _print_latencies(name: str, latencies: Sequence[float]) -> None:
    ordered = sorted(latencies)
    p50, p99 = (1e3 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    print(f"{name + ', another process':<46}{len(ordered):>8} events   p50 {p50:.2f} ms   p99 {p99:.2f} ms")


async def idle(folder: Path, seconds: float) -> None:
    """What a process costs that waits for others."""

    async def rest() -> None:
        await asyncio.sleep(seconds)

    async with open_store(f"sqlite:///{folder}/idle.db") as store:

        async def subscribe() -> None:
            async with store.pubsub.subscribe("bench/idle", lambda entry: None):
                await rest()

        async def claim() -> None:
            await store.claim([_QUEUE], holder="somebody", limit=1, lease_seconds=1.0, wait_seconds=seconds)

        for name, work in {"nobody waits": rest, "a subscriber waits": subscribe, "a worker waits": claim}.items():
            used = time.process_time()
            await work()
            print(f"{name:<46}{100 * (time.process_time() - used) / seconds:>8.2f} % of a core")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement of latency")
    parser.add_argument("--only", help="one of the measurements")
    parser.add_argument("--write", help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=1, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        asyncio.run(write(given.write, given.runs, given.seconds))
        return
    shapes: dict[str, Callable[[Path], Coroutine[Any, Any, None]]] = {
        "append": lambda folder: appending(folder, given.rounds),
        "many": lambda folder: many_writers(folder, given.rounds),
        "read": lambda folder: reading(folder, given.rounds),
        "live": lambda folder: live(folder, given.seconds),
        "idle": lambda folder: idle(folder, given.seconds),
    }
    if given.only not in (None, *shapes):
        parser.error(f"--only is one of {', '.join(shapes)}")
    for name, shape in shapes.items():
        if given.only in (None, name):
            with TemporaryDirectory() as folder:
                asyncio.run(shape(Path(folder)))


if __name__ == "__main__":
    main()
