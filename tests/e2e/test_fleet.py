"""Many runs on several workers, one of which is killed every second."""

import asyncio
import random
import time

import pytest

from runwire.agent.v1 import run_pb2
from runwire.connect import open_store
from runwire.scorer_requests import topic_of
from tests.e2e.ledger import Ledger
from tests.e2e.processes import AgentProcess, Processes, processes
from tests.e2e.proof import Event, client, followed, prove_log, prove_requests, prove_steps, stored_log

WORKERS = 4
EVENTS = 20
STEPS = 6
PAUSE_SECONDS = 0.1
FOLLOW_EVERY = 10
"""A reader stays with every tenth run; the others are read when all is over."""

Followed = tuple[str, asyncio.Task[list[Event]] | None]
"""A run's id, and what its reader saw."""


async def submit(server: AgentProcess, runs: int, seconds: float, followers: asyncio.TaskGroup) -> dict[str, Followed]:
    """Starts so many runs in so much time; by name."""
    found = {}
    async with client(server.address) as agent:
        begun = time.monotonic()
        for number in range(runs):
            await asyncio.sleep(max(0.0, begun + seconds * number / runs - time.monotonic()))
            run = await agent.start_run("twenty", {"name": str(number), "pause": PAUSE_SECONDS})
            reader = None
            if number % FOLLOW_EVERY == 0:
                reader = followers.create_task(followed(server.address, run.run_id))
            found[str(number)] = run.run_id, reader
    return found


async def kill_one_every_second(
    start: Processes, workers: list[AgentProcess], seconds: float, chance: random.Random
) -> int:
    """Kills a worker and starts another in its place, every second for this long; returns how many it killed."""
    kills, ends = 0, time.monotonic() + seconds
    while time.monotonic() < ends:
        await asyncio.sleep(1.0)
        place = chance.randrange(WORKERS)
        workers[place].kill()
        workers[place] = start.launch("work")
        kills += 1
    return kills


async def all_ended(server: AgentProcess, runs: int, limit_seconds: float) -> list[run_pb2.Run]:
    """All runs, once none is under way any more."""
    under_way = [run_pb2.RUN_STATE_QUEUED, run_pb2.RUN_STATE_RUNNING, run_pb2.RUN_STATE_SUSPENDED]
    ends = time.monotonic() + limit_seconds
    async with client(server.address) as agent:
        while left := [run async for run in agent.list_runs(states=under_way, page_size=100)]:
            assert time.monotonic() < ends, f"{len(left)} runs have not ended"
            await asyncio.sleep(0.2)
        found = [run async for run in agent.list_runs(page_size=200)]
    assert len(found) == runs
    return found


async def fleet(url: str, ledger: Ledger, runs: int, seconds: float) -> None:
    seed = random.randrange(10**6)
    chance = random.Random(seed)
    with processes(url, **ledger.environment) as start:
        server, *workers = start.start_all("serve", *["work"] * WORKERS)
        async with asyncio.TaskGroup() as followers:
            async with asyncio.TaskGroup() as group:
                submitting = group.create_task(submit(server, runs, seconds, followers))
                killing = group.create_task(kill_one_every_second(start, workers, seconds, chance))
            ended = await all_ended(server, runs, 60 + seconds)
        lost, repeated = await prove_fleet(url, ledger, submitting.result(), ended)
    print(
        f"\n{runs} runs of {EVENTS} events, {killing.result()} kills (seed {seed}): {len(ended)} terminal, none lost, "
        f"none doubled; {lost} attempts lost, {repeated} of {runs * STEPS} steps repeated"
    )
    assert lost


async def prove_fleet(
    url: str, ledger: Ledger, started: dict[str, Followed], ended: list[run_pb2.Run]
) -> tuple[int, int]:
    """Proves every run; returns how many attempts were lost and how many steps repeated."""
    repeated, done = 0, ledger.done
    by_id = {run.run_id: run for run in ended}
    async with open_store(url) as store:
        for name, (run_id, reader) in started.items():
            stored = await stored_log(store, run_id)
            events = reader.result() if reader else [Event.FromString(event) for event in stored]
            view = prove_log(events, stored)
            assert by_id[run_id].state == view.state == run_pb2.RUN_STATE_SUCCEEDED
            assert view.text == "".join(f"{number} " for number in range(STEPS))
            steps = {f"step {number}": done[f"{name} step {number}"] for number in range(STEPS)}
            repeated += prove_steps(events, steps)
            assert (await store.get(topic_of("default", run_id), [])) is not None
            if by_id[run_id].attempt == 1:
                assert len(events) == EVENTS
    await prove_requests(url, {run_id: ["s"] for run_id, _ in started.values()})
    lost = sum(attempt.outcome == "worker_lost" for run in ended for attempt in run.attempts)
    return lost, repeated


@pytest.mark.timeout(120)
async def test_a_small_fleet_under_fire(sqlite_url: str, ledger: Ledger) -> None:
    """60 runs of 20 events on four workers, one killed every second: each run ends once, none is lost, no terminal
    event is doubled, and no step is repeated after it was finished."""
    await fleet(sqlite_url, ledger, 60, 6.0)


@pytest.mark.chaos
@pytest.mark.timeout(400)
async def test_a_fleet_under_fire_for_a_minute(store_url: str, ledger: Ledger) -> None:
    """500 runs, a minute."""
    await fleet(store_url, ledger, 500, 60.0)
