"""Two workers, one frozen past its lease and thawed: the fence holds."""

import asyncio
import random

import pytest

from runwire.agent.v1 import run_pb2
from tests.e2e.ledger import Ledger
from tests.e2e.processes import AgentProcess, processes
from tests.e2e.proof import client, followed, prove_requests, prove_run

pytestmark = pytest.mark.timeout(120)
RUNS_A_ROUND = 4
PATIENCE_SECONDS = 8.0


async def frozen(url: str, ledger: Ledger, rounds: int, seed: int) -> None:
    """In each round one worker is frozen in the middle of its runs, the other takes them over, and the first is thawed
    once the second has written to all of them."""
    chance = random.Random(seed)
    taken_over = held_up = 0
    expected: dict[str, list[str]] = {}
    with processes(url, **ledger.environment) as start:
        server, *workers = start.start_all("serve", "work", "work")
        for round_ in range(rounds):
            async with client(server.address) as agent, asyncio.TaskGroup() as group:
                readers = {}
                for number in range(RUNS_A_ROUND):
                    name = f"{round_}.{number}"
                    run = await agent.start_run("owned", {"name": name, "count": 40, "pause": 0.02})
                    readers[run.run_id] = group.create_task(followed(server.address, run.run_id))
                    expected[run.run_id] = ["s", "t"]
                victim = await owner(ledger, f"{round_}.{chance.randrange(RUNS_A_ROUND)}", workers)
                await asyncio.sleep(chance.uniform(0.0, 0.15))
                victim.freeze()
                held_up += not await over_elsewhere(server, list(readers))
                victim.thaw()
            for run_id, reader in readers.items():
                events = reader.result()
                ended, view = await prove_run(url, server.address, run_id, events)
                assert ended.state == run_pb2.RUN_STATE_SUCCEEDED
                assert view.text == "".join(f"{number} " for number in range(40))
                taken_over += ended.attempt > 1
            assert all(worker.running for worker in workers)
        # Whatever a thawed worker still did, it did before it could be seen to be idle: ask last.
        await prove_requests(url, expected)
    print(f"\n{rounds} rounds (seed {seed}): {taken_over} of {len(expected)} runs taken over, {held_up} rounds held up")
    assert taken_over >= rounds / 2


async def owner(ledger: Ledger, name: str, workers: list[AgentProcess]) -> AgentProcess:
    """The worker that executes a run."""
    pid = await ledger.wait_for_value(f"{name} pid ")
    return next(worker for worker in workers if worker.pid == int(pid))


async def over_elsewhere(server: AgentProcess, run_ids: list[str]) -> bool:
    """Returns when every run has ended or another worker has written to it. False: it took too long, as it does when
    the frozen worker was stopped inside a transaction of SQLite, which keeps all others out."""
    try:
        async with asyncio.timeout(PATIENCE_SECONDS), client(server.address) as agent:
            for run_id in run_ids:
                async with agent.watch(run_id) as stream:
                    async for event in stream:
                        if event.attempt > 1:
                            break
    except TimeoutError:
        return False
    return True


async def test_frozen_past_its_lease(store_url: str, ledger: Ledger) -> None:
    """A worker that comes back after its runs were given away writes no event and ends nothing: each run has one
    terminal event, one set of scorer requests, and no event of the old attempt after the first of the new one."""
    await frozen(store_url, ledger, 2, random.randrange(10**6))


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_frozen_a_hundred_times(store_url: str, ledger: Ledger) -> None:
    """A hundred rounds."""
    await frozen(store_url, ledger, 100, random.randrange(10**6))
