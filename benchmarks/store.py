"""`make bench-store`: the Redis engine, against plain commands, and over gRPC against the memory engine.

Starts its own Redis (the machine's, else another that is installed) and services. Each figure is the median of
interleaved rounds; absolute ones drift with the machine, so compare inside one run. CPU is that of this process and of
the server, in microseconds an event.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import io
import pstats
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from statistics import median
from typing import Any

import grpc
import redis.asyncio

from benchmarks.processes import cpu_seconds, service
from runwire import frames
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc, run_pb2
from runwire.connect import open_store
from runwire.pubsub import Commit, Entry, Schedule, Store
from runwire.redis.link import Access, Address, connect
from runwire.values import to_value
from tests.servers import RedisServer, redis_servers, start_redis

_EVENT = b"e" * 149
_CHECK = frames.event_check(_EVENT)
_FRAMED = frames.frame(_EVENT)
_GROUPS = (1, 16, 64, 256)
_QUEUE = "bench"


class Log:
    """One run, written by its owner in groups."""

    def __init__(self, store: Store, topic: str, attempt: int) -> None:
        self.store, self.topic, self.attempt, self.last = store, topic, attempt, 0

    async def append(self, events: int) -> None:
        await self.store.commit(
            Commit(
                self.topic,
                attempt=self.attempt,
                first=self.last + 1,
                last=self.last + events,
                events=_FRAMED * events,
                check=_CHECK,
                previous=_CHECK if self.last else b"",
            )
        )
        self.last += events


async def new_log(store: Store, name: str) -> Log:
    await store.commit(Commit(f"bench/{name}", create=True, queue=_QUEUE, schedule=Schedule.DUE))
    (claim,) = await store.claim([_QUEUE], holder="somebody", limit=1, lease_seconds=3600)
    return Log(store, claim.topic, claim.head.attempt)


class Bench:
    """Named measurements, repeated in turn."""

    def __init__(self, server: RedisServer) -> None:
        self.server = server
        self.rates: dict[str, list[float]] = {}
        self.cpu: dict[str, list[tuple[float, float]]] = {}

    async def measure(self, name: str, events: int, work: Callable[[], Awaitable[object]]) -> None:
        """Runs `work`, which handles this many events, and notes how it went."""
        own, theirs, begin = time.process_time(), cpu_seconds(self.server.pid), time.perf_counter()
        await work()
        seconds = time.perf_counter() - begin
        self.rates.setdefault(name, []).append(events / seconds)
        self.cpu.setdefault(name, []).append(
            (1e6 * (time.process_time() - own) / events, 1e6 * (cpu_seconds(self.server.pid) - theirs) / events)
        )

    def rate(self, name: str) -> float:
        return median(self.rates[name])

    def show(self, base: str, names: Sequence[str]) -> None:
        """A table, with ratios to `base`."""
        print(f"{'':<46}{'events/s':>12}{'ratio':>8}{'us client':>11}{'us server':>11}")
        for name in names:
            own, theirs = (median(pair[i] for pair in self.cpu[name]) for i in (0, 1))
            ratio = self.rate(name) / self.rate(base)
            print(f"{name:<46}{self.rate(name):>12,.0f}{ratio:>8.2f}{own:>11.2f}{theirs:>11.2f}")
        print()


async def appending(server: RedisServer, rounds: int) -> None:
    """One writer, one commit after the other, by group size; beside it what a plain client would do."""
    bench = Bench(server)
    plain = redis.asyncio.Redis(port=server.port)
    single, publishing = "XADD, one by one (redis-py)", "XADD and PUBLISH of each event (redis-py)"
    names = {group: f"commits of {group}" for group in _GROUPS}

    async def publish() -> None:
        for _ in range(2000):
            await plain.xadd("plain:{a}", {"event": _EVENT})
            await plain.publish("live:{a}", _EVENT)

    async def add() -> None:
        for _ in range(2000):
            await plain.xadd("plain:{a}", {"event": _EVENT})

    async with open_store(server.url) as store, plain:
        for number in range(rounds):
            await bench.measure(single, 2000, add)
            await bench.measure(publishing, 2000, publish)
            for group, name in names.items():
                log = await new_log(store, f"append-{group}-{number}")
                await bench.measure(name, 500 * group, lambda log=log, group=group: repeat(log.append, 500, group))
                await store.clear(log.topic)
            await plain.delete("plain:{a}")
    print("append, one writer")
    bench.show(publishing, [publishing, single, *names.values()])


async def repeat(call: Callable[[int], Awaitable[object]], times: int, argument: int) -> None:
    for _ in range(times):
        await call(argument)


async def many_writers(server: RedisServer, rounds: int) -> None:
    """32 runs at once, one commit of each in flight: they share round trips."""
    bench = Bench(server)
    async with open_store(server.url) as store:
        for number in range(rounds):
            for group in _GROUPS[:3]:
                logs = [await new_log(store, f"many-{group}-{number}-{writer}") for writer in range(32)]
                name = f"32 writers, commits of {group}"
                await bench.measure(
                    name,
                    32 * 100 * group,
                    lambda logs=logs, group=group: asyncio.gather(*(repeat(log.append, 100, group) for log in logs)),
                )
                for log in logs:
                    await store.clear(log.topic)
    print("append, many writers")
    bench.show("32 writers, commits of 1", list(bench.rates))


async def durability(server: RedisServer, rounds: int) -> None:
    """What the append-only file costs: 32 runs at once, commits of 16."""
    bench = Bench(server)
    settings = {"no append-only file": ("no", "no"), "everysec": ("yes", "everysec"), "always": ("yes", "always")}
    async with open_store(server.url) as store:
        for number in range(rounds):
            for name, (append_only, sync) in settings.items():
                server.execute("CONFIG", "SET", "appendonly", append_only)
                server.execute("CONFIG", "SET", "appendfsync", sync)
                logs = [await new_log(store, f"durable-{name}-{number}-{writer}") for writer in range(32)]
                writing = [repeat(log.append, 50, 16) for log in logs]
                await bench.measure(name, 32 * 50 * 16, lambda writing=writing: asyncio.gather(*writing))
                for log in logs:
                    await store.clear(log.topic)
    print("append, 32 writers, commits of 16, by appendfsync")
    bench.show("no append-only file", list(bench.rates))


async def reading(server: RedisServer, rounds: int) -> None:
    """100k events in pages, as a stream reads them, by the size of the commits that wrote them."""
    bench = Bench(server)
    async with open_store(server.url) as store:
        for group in _GROUPS:
            log = await new_log(store, f"read-{group}")
            await repeat(log.append, 100_000 // group, group)
            for _ in range(rounds):
                await bench.measure(f"read, entries of {group}", log.last, lambda log=log: read_all(store, log))
            await store.clear(log.topic)
    print("read 100k events by pages of 2,048")
    bench.show("read, entries of 1", list(bench.rates))


async def read_all(store: Store, log: Log) -> None:
    after = 0
    while after < log.last:
        after = (await store.read(log.topic, after)).entries[-1].last


async def live(server: RedisServer, seconds: float) -> None:
    """20 runs, 50 events a second each: from the call of `commit` to the subscriber, in two stores."""
    latencies: list[float] = []
    sent: dict[str, list[float]] = {}
    async with open_store(server.url) as writing, open_store(server.url) as listening, AsyncExitStack() as stack:
        logs = [await new_log(writing, f"live-{number}") for number in range(20)]
        for log in logs:
            times = sent[log.topic] = []

            def take(entry: Entry | None, times: list[float] = times) -> None:
                assert entry is not None
                latencies.append(time.perf_counter() - times[entry.last - 1])

            await stack.enter_async_context(listening.pubsub.subscribe(log.topic, take))

        async def write(log: Log, offset: float) -> None:
            begin = time.perf_counter() + offset
            for number in range(int(seconds * 50)):
                await asyncio.sleep(max(0.0, begin + number / 50 - time.perf_counter()))
                sent[log.topic].append(time.perf_counter())
                await log.append(1)

        await asyncio.gather(*(write(log, number / 1000) for number, log in enumerate(logs)))
        await asyncio.sleep(0.1)
    print("commit to subscriber, 20 runs x 50 events/s, writer and reader in one process")
    print_latencies("the store alone", latencies)
    print()


def print_latencies(name: str, latencies: Sequence[float]) -> None:
    ordered = sorted(latencies)
    p50, p99 = (1e3 * ordered[int(len(ordered) * share)] for share in (0.5, 0.99))
    print(f"{name:<46}{len(ordered):>8} events   p50 {p50:.2f} ms   p99 {p99:.2f} ms")


async def connection(server: RedisServer, rounds: int) -> None:
    """Why there is a connection of our own: the same script by redis-py (with hiredis) and by runwire.redis.link."""
    bench = Bench(server)
    plain = redis.asyncio.Redis(port=server.port)
    link = await connect(Address("127.0.0.1", server.port), Access())
    script = "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('PUBLISH', KEYS[2], ARGV[1])"
    sha = await plain.script_load(script)

    async def by_redis_py(_: int) -> None:
        await plain.evalsha(sha, 2, "{a}key", "{a}channel", _EVENT)

    async def by_link(_: int) -> None:
        await link.call("EVALSHA", sha, 2, "{a}key", "{a}channel", _EVENT)

    calls: dict[str, Callable[[int], Awaitable[None]]] = {"redis-py": by_redis_py, "runwire.redis.link": by_link}
    for _ in range(rounds):
        for name, call in calls.items():
            await bench.measure(f"{name}, one caller", 2000, lambda call=call: repeat(call, 2000, 0))
            await bench.measure(
                f"{name}, 20 callers",
                4000,
                lambda call=call: asyncio.gather(*(repeat(call, 200, 0) for _ in range(20))),
            )
    link.close()
    await plain.aclose()
    print("one script call an event, by client")
    bench.show("redis-py, one caller", sorted(bench.rates))


async def replay(server: RedisServer, rounds: int, count: int) -> None:
    """A run of 100k events, read over gRPC by a client that parses every event: Redis against memory, in turn."""
    with (
        service("agent_service", agents="benchmarks.agents", store="memory://") as in_memory,
        service("agent_service", agents="benchmarks.agents", store=server.url) as in_redis,
    ):
        await _replay({"memory": in_memory, "redis": in_redis}, rounds, count)


async def _replay(places: dict[str, tuple[str, int]], rounds: int, count: int) -> None:
    rates: dict[str, list[float]] = {name: [] for name in places}
    firsts: dict[str, list[float]] = {name: [] for name in places}
    cpu: dict[str, list[float]] = {name: [] for name in places}
    async with AsyncExitStack() as stack:
        runs = {}
        for name, (address, _) in places.items():
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(address))
            stub = agent_service_pb2_grpc.AgentServiceStub(channel)
            response = await stub.StartRun(pb.StartRunRequest(agent_id="emitter", input=to_value({"count": count})))
            runs[name] = (stub, response.run.run_id)
            async for _ in stub.WatchRun(pb.WatchRunRequest(run_id=response.run.run_id)):
                pass
        for _ in range(rounds):
            for name, (stub, run_id) in runs.items():
                begin, used = time.perf_counter(), cpu_seconds(places[name][1])
                events, first = await _watch(stub, run_id, begin)
                rates[name].append(events / (time.perf_counter() - begin))
                firsts[name].append(first)
                cpu[name].append(1e6 * (cpu_seconds(places[name][1]) - used) / events)
    print(f"replay of {count} events over gRPC, the client parses every event; ratios of each round by itself")
    for name in places:
        ratio = median(own / memory for own, memory in zip(rates[name], rates["memory"], strict=True))
        print(
            f"{name:<46}{median(rates[name]):>12,.0f} events/s{ratio:>8.2f}"
            f"   first event after {1e3 * median(firsts[name]):.1f} ms   {median(cpu[name]):.2f} us of the service"
        )
    print()


async def _watch(stub: Any, run_id: str, begin: float) -> tuple[int, float]:
    events, first = 0, 0.0
    async for frame in stub.WatchRun(pb.WatchRunRequest(run_id=run_id)):
        events += len(frame.batch.events)
        if events and not first:
            first = time.perf_counter() - begin
    return events, first


async def through(server: RedisServer, seconds: float) -> None:
    """The whole way: an agent in one process, the stream from another, the client here; 20 runs x 50 events/s."""
    settings: dict[str, Any] = {"agents": "benchmarks.agents", "store": server.url}
    latencies: list[float] = []
    with (
        service("agent_service", role="work", **settings) as _,
        service("agent_service", role="serve", **settings) as (
            address,
            _,
        ),
    ):
        async with grpc.aio.insecure_channel(address) as channel, asyncio.TaskGroup() as group:
            stub = agent_service_pb2_grpc.AgentServiceStub(channel)
            load = to_value({"count": int(seconds * 50), "per_second": 50, "lead_seconds": 1})
            for _ in range(20):
                response = await stub.StartRun(pb.StartRunRequest(agent_id="emitter", input=load))
                group.create_task(_follow(stub, response.run.run_id, latencies))
    print("publish to client, 20 runs x 50 events/s: worker, Redis, server, client in four processes")
    print_latencies("create_time of the event to the client", latencies)
    print()


async def _follow(stub: Any, run_id: str, latencies: list[float]) -> None:
    async for frame in stub.WatchRun(pb.WatchRunRequest(run_id=run_id)):
        now = time.time()
        for event in frame.batch.events:
            if event.HasField("text_delta"):
                latencies.append(now - event.create_time.seconds - event.create_time.nanos / 1e9)
        if frame.WhichOneof("frame") == "ended":
            assert frame.ended.state == run_pb2.RUN_STATE_SUCCEEDED, frame


async def profile(server: RedisServer) -> None:
    """Where the time of this process goes in commits of one event by 32 writers."""
    async with open_store(server.url) as store:
        logs = [await new_log(store, f"profile-{writer}") for writer in range(32)]
        profiler = cProfile.Profile()
        profiler.enable()
        await asyncio.gather(*(repeat(log.append, 200, 1) for log in logs))
        profiler.disable()
        for log in logs:
            await store.clear(log.topic)
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(12)
    print("profile: 32 writers, commits of 1")
    print("\n".join(line for line in text.getvalue().splitlines()[4:] if line.strip()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement of latency")
    parser.add_argument("--only", help="one of the measurements")
    given = parser.parse_args()
    shapes: dict[str, Callable[[RedisServer], Coroutine[Any, Any, None]]] = {
        "append": lambda server: appending(server, given.rounds),
        "many": lambda server: many_writers(server, given.rounds),
        "durability": lambda server: durability(server, given.rounds),
        "read": lambda server: reading(server, given.rounds),
        "live": lambda server: live(server, given.seconds),
        "connection": lambda server: connection(server, given.rounds),
        "replay": lambda server: replay(server, 4 * given.rounds, 100_000),
        "through": lambda server: through(server, given.seconds),
        "profile": profile,
    }
    if given.only not in (None, *shapes):
        parser.error(f"--only is one of {', '.join(shapes)}")
    kind = next(kind for kind in reversed(redis_servers()) if kind.path)
    print(f"server: {kind.name}\n")
    for name, shape in shapes.items():
        if given.only in (None, name):
            with start_redis(kind) as server:
                asyncio.run(shape(server))


if __name__ == "__main__":
    main()
