"""Outages as long as they are in life, with a service on top: `make chaos`. The same, scaled, is in test_outages.py."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import Counter
from contextlib import ExitStack
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agent_service import RunContext, workflow
from runwire.agent.v1 import run_pb2
from runwire.redis.topology import slot
from tests.redis.places import any_binary, start_cluster
from tests.redis.test_topologies import owns
from tests.servers import start_redis
from tests.service.replica import ENDED, Replica, replica

AWAY_SECONDS = 180.0
SHARDS = 16


async def end(it: Replica, run_id: str, seconds: float) -> run_pb2.Run:
    """The run once it has ended; calls may fail meanwhile."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            run = await it.get(run_id)
            if run.state in ENDED:
                return run
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise
        assert time.monotonic() < deadline, f"{run_id} did not end"
        await asyncio.sleep(0.5)


@pytest.mark.chaos
@pytest.mark.timeout(900)
@pytest.mark.parametrize("silent", [False, True], ids=["killed", "silent"])
async def test_a_dead_node_for_three_minutes(silent: bool) -> None:
    """Of three nodes one is dead: every run on the others ends SUCCEEDED in one attempt, and is begun as quickly as
    ever; health is SERVING all the time; runs on the dead one continue when it is back."""
    begun: dict[str, float] = {}

    @workflow(id="work")
    async def work(ctx: RunContext, input: Any) -> str:
        begun.setdefault(input, time.monotonic())
        for number in range(3):
            await ctx.step(f"step {number}", asyncio.sleep, 1.0)
        return "done"

    with ExitStack() as stack:
        cluster = start_cluster(stack, any_binary(), "--appendonly", "yes")
        dead = max(cluster.nodes, key=lambda node: sum(owns(node, slot(shard)) for shard in range(SHARDS)))
        url = f"{cluster.url}?shards={SHARDS}"
        asked: dict[str, float] = {}
        runs: dict[str, str] = {}

        async with replica(url, work, lease_seconds=5.0, concurrency=500) as it:

            async def begin(name: str) -> None:
                try:
                    run = await it.start("work", name)
                except (grpc.aio.AioRpcError, TimeoutError):
                    return  # it would lie on the dead one
                asked[name], runs[name] = time.monotonic(), run.run_id

            async with asyncio.TaskGroup() as group:
                for number in range(30):
                    group.create_task(begin(f"before-{number}"))
            before = set(runs)
            await asyncio.to_thread(dead.pause if silent else dead.kill)
            ends = time.monotonic() + AWAY_SECONDS
            async with asyncio.TaskGroup() as group:
                number = 0
                while time.monotonic() < ends:
                    group.create_task(begin(f"during-{number}"))
                    number += 1
                    await asyncio.sleep(0.25)
                    answer = await health_pb2_grpc.HealthStub(it.channel).Check(health_pb2.HealthCheckRequest())
                    assert answer.status == health_pb2.HealthCheckResponse.SERVING
            await asyncio.sleep(5)
            during = [name for name in runs if name.startswith("during")]
            alive = [await end(it, runs[name], 30) for name in during]
            await asyncio.to_thread(dead.resume if silent else dead.start)
            after = [await end(it, runs[name], 90) for name in before]
    assert Counter((run.state, len(run.attempts)) for run in alive) == {(run_pb2.RUN_STATE_SUCCEEDED, 1): len(during)}
    assert {run.state for run in after} == {run_pb2.RUN_STATE_SUCCEEDED}
    waits = sorted(begun[name] - asked[name] for name in during)
    p99 = statistics.quantiles(waits, n=100)[98]
    print(f"{len(during)} runs, claim p50 {statistics.median(waits):.3f} s, p99 {p99:.3f} s, most {waits[-1]:.3f} s")
    print("attempts of those from before:", Counter(len(run.attempts) for run in after))
    assert p99 < 0.5


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_redis_away_for_longer_than_a_lease_five_times() -> None:
    """One Redis is silent for 18 s, with a lease of 15 s, five times: no run is lost, no step is begun twice."""
    done: Counter[str] = Counter()

    async def note(name: str) -> str:
        done[name] += 1
        await asyncio.sleep(2.0)
        return name

    @workflow(id="long")
    async def long(ctx: RunContext, input: Any) -> int:
        for number in range(25):
            await ctx.step(f"step {number}", note, f"{input} {number}")
        return 25

    with start_redis(any_binary()) as server:
        async with replica(server.url, long, lease_seconds=15.0) as it, replica(server.url, long, lease_seconds=15.0):
            runs = [(await it.start("long", f"run {number}")).run_id for number in range(6)]
            for _ in range(5):
                await asyncio.sleep(4)
                server.pause()
                await asyncio.sleep(18)
                server.resume()
            ended = [await end(it, run_id, 120) for run_id in runs]
    assert {(run.state, len(run.attempts)) for run in ended} == {(run_pb2.RUN_STATE_SUCCEEDED, 1)}
    assert set(done.values()) == {1}
    assert len(done) == 6 * 25
    print(f"{len(done)} steps, each begun once; attempts {[len(run.attempts) for run in ended]}")
