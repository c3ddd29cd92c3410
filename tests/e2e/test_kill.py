"""Workers killed by kill -9, at every commit and at any moment: the run continues as if nothing had been."""

import asyncio
import random
import signal

import pytest

from runwire.agent.v1 import run_pb2
from tests.e2e.ledger import Ledger
from tests.e2e.processes import AgentProcess, Processes, processes
from tests.e2e.proof import Event, as_json, client, followed, prove_requests, prove_run, prove_steps
from tests.e2e.workflows import JOURNEY_OUTPUT, JOURNEY_STEPS

pytestmark = pytest.mark.timeout(180)
AT_ONCE = 3
JOURNEY_TEXT = "begin end" + "".join(f"{step} done " for step in JOURNEY_STEPS[:-1]) + "trying "


class Journeys:
    """Runs of the workflow `journey`, each watched from its beginning by a reader that stays."""

    def __init__(self, url: str, server: AgentProcess, ledger: Ledger, group: asyncio.TaskGroup) -> None:
        self._url = url
        self._server = server
        self._ledger = ledger
        self._group = group
        self.lost = 0
        """Attempts that a kill ended."""
        self._readers: dict[str, tuple[run_pb2.Run, asyncio.Task[list[Event]]]] = {}

    async def start(self, name: str, pause: float = 0.0) -> run_pb2.Run:
        async with client(self._server.address) as agent:
            run = await agent.start_run("journey", {"name": name, "pause": pause})
        reading = followed(self._server.address, run.run_id)
        self._readers[name] = run, self._group.create_task(reading, name=f"reader of {name}")
        return run

    async def prove(self) -> int:
        """Waits for the end of every run and proves it; returns how many steps were repeated in all."""
        repeated = 0
        expected = {}
        for name, (run, reader) in self._readers.items():
            events = await reader
            ended, view = await prove_run(self._url, self._server.address, run.run_id, events)
            assert ended.state == run_pb2.RUN_STATE_SUCCEEDED, ended.error
            assert as_json(ended) == view.output == JOURNEY_OUTPUT
            assert view.text == JOURNEY_TEXT
            assert [(custom.type, custom.data) for custom in view.custom] == [
                ("half", {"results": JOURNEY_OUTPUT["steps"]})
            ]
            self.lost += sum(attempt.outcome == "worker_lost" for attempt in ended.attempts)
            done = self._ledger.done
            repeated += prove_steps(events, {step: done[f"{name} {step}"] for step in JOURNEY_STEPS})
            expected[run.run_id] = ["a", "b"]
        await prove_requests(self._url, expected)
        return repeated


async def commits_of_a_journey(start: Processes, server: AgentProcess, ledger: Ledger) -> int:
    """How many commits a worker makes for one journey that nobody disturbs."""
    worker = start.start("work", module="tests.e2e.mortal", environment={"MORTAL_COMMIT": 0, "MORTAL_WHEN": "after"})
    async with client(server.address) as agent:
        run = await agent.start_run("journey", {"name": "unharmed"})
    await followed(server.address, run.run_id)
    worker.kill()
    await prove_requests(start.store, {run.run_id: ["a", "b"]})
    return ledger.done["a commit"]


async def kill_at(start: Processes, number: int, when: str, places: asyncio.Semaphore) -> None:
    """A worker that takes one run and is killed at its commit of that number."""
    async with places:
        environment = {"MORTAL_COMMIT": number, "MORTAL_WHEN": when, "RUNWIRE_CONCURRENCY": 1}
        worker = await asyncio.to_thread(start.launch, "work", module="tests.e2e.mortal", environment=environment)
        try:
            code = await worker.wait(60.0)
            assert code == -signal.SIGKILL, worker.errors
        finally:
            worker.close()


@pytest.mark.parametrize("when", ["after", pytest.param("before", marks=pytest.mark.chaos)])
async def test_killed_at_every_commit(every_url: str, ledger: Ledger, when: str) -> None:
    """Whichever of its commits a worker dies at, right before or right after it took effect: the run ends once, its
    finished steps are not repeated, its output is the same, and a reader who was there all the time saw a dense log
    that folds to it. Scorers are asked once, also when the worker dies right after the last commit."""
    with processes(every_url, **ledger.environment) as start:
        server = start.start("serve")
        commits = await commits_of_a_journey(start, server, ledger)
        assert commits > 10
        async with asyncio.TaskGroup() as group:
            journeys = Journeys(every_url, server, ledger, group)
            for number in range(1, commits + 1):
                await journeys.start(str(number))
            async with asyncio.TaskGroup() as killing:
                places = asyncio.Semaphore(AT_ONCE)
                for number in range(1, commits + 1):
                    killing.create_task(kill_at(start, number, when, places))
            start.start("work")
            repeated = await prove_all(journeys, ledger, commits)
    print(f"\nkilled {when} each of {commits} commits: {journeys.lost} attempts lost, {repeated} steps repeated")


async def prove_all(journeys: Journeys, ledger: Ledger, commits: int) -> int:
    killed = {line for line in ledger.lines if line.startswith("killed at commit")}
    assert killed == {f"killed at commit {number}" for number in range(1, commits + 1)}
    return await journeys.prove()


async def kill_at_random(
    start: Processes, journeys: Journeys, server: AgentProcess, name: str, chance: random.Random
) -> None:
    """A worker that is killed from outside, at a moment or when a reader has seen an event, both drawn by lot."""
    worker = await asyncio.to_thread(start.start, "work", environment={"RUNWIRE_CONCURRENCY": 2})
    run = await journeys.start(name, pause=0.03)
    try:
        if name == "0":
            # One is surely cut: with bad luck all others come too early or too late.
            await seen(server, run.run_id, 3)
        elif chance.random() < 0.5:
            await asyncio.sleep(chance.uniform(0.0, 0.4))
        else:
            await seen(server, run.run_id, chance.randrange(1, 40))
    finally:
        worker.kill()


async def seen(server: AgentProcess, run_id: str, count: int) -> None:
    """Returns when a reader has seen so many events, or all there are."""
    async with client(server.address) as agent, agent.watch(run_id) as stream:
        async for event in stream:
            if event.sequence >= count:
                return


async def killed_at_random(url: str, ledger: Ledger, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    with processes(url, **ledger.environment) as start:
        server = start.start("serve")
        async with asyncio.TaskGroup() as group:
            journeys = Journeys(url, server, ledger, group)
            for number in range(rounds):
                await kill_at_random(start, journeys, server, str(number), chance)
            start.start("work")
            repeated = await journeys.prove()
    assert journeys.lost
    print(f"\n{rounds} kills (seed {seed}): {journeys.lost} attempts lost, {repeated} steps repeated")


async def test_killed_at_a_few_random_moments(store_url: str, ledger: Ledger) -> None:
    """The same for kills from outside, whatever the worker was doing."""
    await killed_at_random(store_url, ledger, 4, seed=random.randrange(10**6))


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_killed_at_fifty_random_moments(store_url: str, ledger: Ledger) -> None:
    """Fifty times."""
    await killed_at_random(store_url, ledger, 50, seed=random.randrange(10**6))
