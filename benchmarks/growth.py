"""`make bench-growth`: what an operation costs beside many runs that have ended, and beside all that a run has done.

Each measurement is taken in turn on stores of growing sizes, as times drift with the machine; what counts is the ratio
of the largest size to the smallest. `--sizes`, `--engines` and `--parts` choose; `--json` is for machines.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Final

import grpc

from agent_service.agents.registry import Registry
from agent_service.log import record
from agent_service.runs import Runs
from benchmarks.agents import emitter
from benchmarks.processes import cpu_seconds, resident_bytes, service
from runwire import frames
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc, run_pb2
from runwire.caching_pubsub import CachingPubSub
from runwire.connect import open_store
from runwire.identity.principal import ANONYMOUS
from runwire.pubsub import Claim, Commit, Schedule, Store
from runwire.values import to_value
from tests.servers import RedisServer, redis_servers, start_redis

FLAT: Final = 1.5
"""A ratio up to this is flat."""
ROUNDS: Final = 60
SWEEPS: Final = 5
BATCH: Final = 256
IDLE_SECONDS: Final = 3.0
TENANT: Final = "default"
QUEUE: Final = record.queue_of("emitter", "")
EVENT: Final = b"e" * 149
KIBIBYTE: Final = 1024


@dataclass
class Table:
    """Figures by what was measured and at which size."""

    rows: dict[tuple[str, str], dict[str, float]] = field(default_factory=dict)

    def note(self, where: str, what: str, size: str, figure: float) -> None:
        self.rows.setdefault((where, what), {})[size] = figure
        print(f"  {where:<8} {what:<40} {size:>8} {figure:10.3f}", file=sys.stderr, flush=True)

    def ratio(self, key: tuple[str, str]) -> float:
        figures = list(self.rows[key].values())
        return figures[-1] / figures[0] if figures[0] else float("inf")

    def markdown(self) -> Iterator[str]:
        yield "| engine | what | sizes | figures | largest / smallest | flat |"
        yield "|---|---|---|---|---|---|"
        for key, figures in self.rows.items():
            ratio = self.ratio(key)
            shown = " / ".join(f"{figure:.3g}" for figure in figures.values())
            flat = "yes" if ratio <= FLAT else "NO"
            yield f"| {key[0]} | {key[1]} | {' / '.join(figures)} | {shown} | {ratio:.2f} | {flat} |"

    def json(self) -> str:
        return json.dumps(
            [
                {"engine": where, "what": what, "figures": figures, "ratio": self.ratio((where, what))}
                for (where, what), figures in self.rows.items()
            ],
            indent=2,
        )


# Many runs


def ending(claim: Claim, run: run_pb2.Run) -> Commit:
    """The only event of a run, which ends it."""
    before = run.state
    run.state = run_pb2.RUN_STATE_SUCCEEDED
    return Commit(
        claim.topic,
        attempt=claim.head.attempt,
        token=claim.token,
        first=1,
        last=1,
        events=frames.frame(EVENT),
        check=frames.event_check(EVENT),
        puts=record.puts(run),
        leaves=[record.state_list(TENANT, before)],
        indexes=[record.state_list(TENANT, run.state)],
        final=run.state,
        retention=86_400.0,
        tombstone=86_400.0,
    )


async def claim(store: Store, limit: int, wait_seconds: float = 0.0) -> Sequence[Claim]:
    return await store.claim([QUEUE], holder="bench", limit=limit, lease_seconds=3600.0, wait_seconds=wait_seconds)


async def end(store: Store, limit: int) -> int:
    """Claims runs and ends them."""
    claims = await claim(store, limit)
    await asyncio.gather(
        *(store.commit(ending(each, run_pb2.Run.FromString(each.fields[record.RUN]))) for each in claims)
    )
    return len(claims)


async def fill(store: Store, runs: Runs, begin: int, until: int) -> None:
    """Runs of many customers that have ended. One of the first has a label that no other has."""
    for first in range(begin, until, BATCH):
        numbers = range(first, min(first + BATCH, until))
        await asyncio.gather(*(runs.start(ANONYMOUS, asking(number)) for number in numbers))
        while await end(store, BATCH):
            pass


def asking(number: int, **labels: str) -> pb.StartRunRequest:
    labels = {"customer": f"c{number % 10}", "rare": str(number == 5)} | labels
    return pb.StartRunRequest(agent_id="emitter", input=to_value({"count": number}), labels=labels)


async def listed(runs: Runs, **fields: Any) -> None:
    """A page, and where a search finds little as many as it takes."""
    request = pb.ListRunsRequest(**fields)
    while True:
        found, token = await runs.list(ANONYMOUS, request)
        if found or not token:
            return
        request.page_token = token


@dataclass
class Place:
    """A store with so many runs that have ended, and its server where it has one."""

    size: int
    store: Store
    runs: Runs
    server: RedisServer | None

    def cpu(self) -> float:
        """Seconds of this process and of the server."""
        return time.process_time() + (cpu_seconds(self.server.pid) if self.server else 0.0)

    async def idle(self) -> float:
        """CPU of a second in which a worker waits for work, in ms."""
        before = self.cpu()
        await claim(self.store, 1, wait_seconds=IDLE_SECONDS)
        return 1e3 * (self.cpu() - before) / IDLE_SECONDS

    async def waiting(self) -> float:
        """From StartRun to the claim that waits for it, in ms."""
        task = asyncio.create_task(claim(self.store, 1, wait_seconds=5.0))
        await asyncio.sleep(0.02)
        begin = time.perf_counter()
        await self.runs.start(ANONYMOUS, asking(1))
        await task
        return 1e3 * (time.perf_counter() - begin)


def calls(place: Place) -> Mapping[str, Callable[[], Awaitable[object]]]:
    """What is measured beside many runs."""
    page = partial(partial, listed, place.runs)
    old = record.timestamp(time.time() - 86_400)
    return {
        "StartRun": partial(place.runs.start, ANONYMOUS, asking(1)),
        "claim": partial(claim, place.store, 1),
        "first page of 50": page(),
        "page of 1": page(page_size=1),
        "page by a frequent label": page(labels={"customer": "c7"}),
        "page by a label of one run": page(labels={"rare": "True"}),
        "page by agent, label and state": page(agent_id="emitter", labels={"customer": "c7"}, states=[4], page_size=5),
        "page by a state of no run": page(states=[5]),
        "page by a time in the past": page(created_before=old),
    }


async def beside(table: Table, name: str, places: Sequence[Place]) -> None:
    """What the calls cost beside so many runs that have ended."""
    gc.collect()
    for what in calls(places[0]):
        works = [(place, calls(place)[what], []) for place in places]
        for _ in range(ROUNDS):
            for _, work, taken in works:
                begin = time.perf_counter()
                await work()
                taken.append(1e3 * (time.perf_counter() - begin))
        for place, _, taken in works:
            table.note(name, f"{what}, ms", f"{place.size:,}", median(taken))
    waits = [[await place.waiting() for place in places] for _ in range(ROUNDS // 2)]
    idles = [[await place.idle() for place in places] for _ in range(3)]
    for what, figures in (("start to a waiting claim, ms", waits), ("idle, CPU ms a second", idles)):
        for place, taken in zip(places, zip(*figures, strict=True), strict=True):
            table.note(name, what, f"{place.size:,}", median(taken))


# One large run


async def swept(table: Table, name: str, store: Store, mebibytes: Sequence[int]) -> None:
    """What nine of ten commits take at most while the log of a large run is forgotten: the median of several such logs.
    (The longest of all would be a pause of the machine.)"""
    taken: dict[int, list[float]] = {size: [] for size in mebibytes}
    for number in range(SWEEPS):
        for size in mebibytes:
            await write_large(store, f"{TENANT}/large-{size}-{number}", size)
            await asyncio.to_thread(os.sync)  # or a checkpoint of the sweep waits until all that was written is on disk
            taken[size].append(await nine_of_ten(store, f"{TENANT}/small-{size}-{number}"))
    for size in mebibytes:
        table.note(name, "commit during a sweep, p90, ms", f"{size} MiB", median(taken[size]))


async def write_large(store: Store, topic: str, mebibytes: int) -> None:
    """A log whose retention has passed."""
    body, check = frames.frame(b"x" * (200 * KIBIBYTE)), frames.event_check(b"x" * (200 * KIBIBYTE))
    await store.commit(Commit(topic, create=True, queue=topic, schedule=Schedule.DUE))
    (claimed,) = await store.claim([topic], holder="bench", limit=1, lease_seconds=60.0)
    count = mebibytes * KIBIBYTE // 200
    for number in range(1, count + 1):
        await store.commit(
            Commit(
                topic,
                attempt=1,
                token=claimed.token,
                first=number,
                last=number,
                events=body,
                check=check,
                previous=check if number > 1 else b"",
                final=4 if number == count else 0,
                tombstone=60.0,
            )
        )


async def nine_of_ten(store: Store, topic: str) -> float:
    await store.commit(Commit(topic, create=True, queue="small"))
    sweeping = asyncio.create_task(sweep(store))
    taken: list[float] = []
    done = False
    while not done:
        done = sweeping.done()
        begin = time.perf_counter()
        await store.commit(Commit(topic, puts={"a": b"b"}))
        taken.append(1e3 * (time.perf_counter() - begin))
    return sorted(taken)[len(taken) * 9 // 10]


async def sweep(store: Store) -> None:
    while await store.sweep():
        pass


async def long_run(table: Table, folder: Path, events: Sequence[int], steps: Sequence[int]) -> None:
    """What a worker has in memory after a run of so many events, and what a step costs after so many."""
    settings = {"agents": "benchmarks.agents", "store": f"sqlite:///{folder / 'long.db'}"}
    with service("agent_service", **settings) as (address, pid):
        async with grpc.aio.insecure_channel(address) as channel:
            stub: Any = agent_service_pb2_grpc.AgentServiceStub(channel)
            await done(stub, "emitter", {"count": 1_000})
            for count in events:
                await done(stub, "emitter", {"count": count, "size": 20})
                size = resident_bytes(pid) / KIBIBYTE / KIBIBYTE
                table.note("sqlite", "memory of a worker, MiB, after a run of events", f"{count:,}", size)
            output = await done(stub, "stepper", {"count": max(steps), "at": list(steps)})
            for place in steps:
                figure = output.struct_value.fields[str(place)].number_value
                table.note("sqlite", "a step, CPU ms, after so many", f"{place:,}", figure)


async def done(stub: Any, agent_id: str, input: dict[str, Any]) -> Any:
    """The output of a run that was waited for."""
    started = await stub.StartRun(pb.StartRunRequest(agent_id=agent_id, input=to_value(input)))
    while True:
        run = (await stub.GetRun(pb.GetRunRequest(run_id=started.run.run_id))).run
        if run.state in record.TERMINAL:
            assert run.state == run_pb2.RUN_STATE_SUCCEEDED, run.error
            return run.output
        await asyncio.sleep(0.05)


# Where it happens


@contextmanager
def _redis() -> Iterator[RedisServer]:
    with start_redis(redis_servers()[0]) as server:
        yield server


@asynccontextmanager
async def engine(name: str, path: Path) -> AsyncIterator[tuple[Store, RedisServer | None]]:
    """An empty store of this engine. `redis-16` is one of 16 shards."""
    async with AsyncExitStack() as stack:
        server = None
        url = {"memory": "memory://", "sqlite": f"sqlite:///{path}"}.get(name)
        if url is None:
            server = stack.enter_context(_redis())
            shards = name.partition("-")[2]
            url = f"{server.url}?shards={shards}" if shards else server.url
        yield await stack.enter_async_context(open_store(url)), server


async def run(arguments: argparse.Namespace) -> Table:
    table = Table()
    with TemporaryDirectory(prefix="runwire-growth-") as name:
        folder = Path(name)
        for engine_name in arguments.engines:
            if "runs" in arguments.parts:
                async with AsyncExitStack() as stack:
                    places = [
                        await stack.enter_async_context(filled(engine_name, folder / f"{engine_name}-{size}.db", size))
                        for size in arguments.sizes
                    ]
                    await beside(table, engine_name, places)
            if "sweep" in arguments.parts and engine_name != "memory":
                async with engine(engine_name, folder / "sweep.db") as (store, _):
                    await swept(table, engine_name, store, arguments.mebibytes)
        if "long" in arguments.parts:
            await long_run(table, folder, arguments.events, arguments.steps)
    return table


@asynccontextmanager
async def filled(name: str, path: Path, size: int) -> AsyncIterator[Place]:
    async with engine(name, path) as (store, server):
        runs = Runs(store, CachingPubSub(store.pubsub, store), Registry([emitter]))
        begin = time.perf_counter()
        await fill(store, runs, 0, size)
        print(f"  {name}: {size:,} runs in {time.perf_counter() - begin:.0f} s", file=sys.stderr, flush=True)
        yield Place(size, store, runs, server)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = partial(str.split, sep=",")
    parser.add_argument(
        "--engines", type=names, default=["sqlite", "redis"], help="memory, sqlite, redis, redis-SHARDS"
    )
    parser.add_argument("--parts", type=names, default=["runs", "sweep", "long"], help="runs, sweep, long")
    parser.add_argument("--sizes", type=_numbers, default=[1_000, 10_000, 100_000], help="of runs that have ended")
    parser.add_argument("--mebibytes", type=_numbers, default=[8, 128], help="of a log that is swept")
    parser.add_argument("--events", type=_numbers, default=[10_000, 1_000_000], help="of one run")
    parser.add_argument("--steps", type=_numbers, default=[250, 4_000], help="of one run")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    table = asyncio.run(run(arguments))
    print(table.json() if arguments.json else "\n".join(table.markdown()))


if __name__ == "__main__":
    main()
