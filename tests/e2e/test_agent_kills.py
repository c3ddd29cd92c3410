"""Workers killed by kill -9 while they execute pydantic-ai agents: what was finished is not done again, and nobody who
reads notices. `make chaos ARGS="tests/e2e/test_agent_kills.py -s"` shows the figures."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.client import RunView, approve, fold
from runwire.connect import open_store
from runwire.errors import AlreadyAnswered
from runwire.pubsub import Store
from runwire.scorer_requests import topic_of
from tests.e2e import agents
from tests.e2e.ledger import Ledger
from tests.e2e.processes import AgentProcess, Processes, processes
from tests.e2e.proof import Event, as_json, client, followed, prove_run
from tests.servers import free_port

pytestmark = pytest.mark.timeout(180)
LIMIT_SECONDS = 100.0
TOTAL_SECONDS = 500.0
AT_ONCE = 3
PATIENT_WITH_LOSSES = {"RUNWIRE_MAX_LOSSES": 1000}
Unit = tuple[str, str]
"""Run id, and the name that a request to the model or a tool call has in the journal."""


@dataclass
class Executions:
    """What the ledger knows of the agents' units, by run and unit."""

    begun: dict[Unit, list[int]] = field(default_factory=dict)
    """The attempts in which it was begun."""
    ended: Counter[Unit] = field(default_factory=Counter)
    keys: dict[Unit, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, ledger: Ledger) -> Executions:
        found = cls()
        for line in ledger.lines:
            words = line.split()
            if len(words) != 5:
                continue  # of a process, not of a unit
            run_id, unit, what, attempt, key = words
            if what == "begin":
                found.begun.setdefault((run_id, unit), []).append(int(attempt))
                found.keys.setdefault((run_id, unit), set()).add(key)
            else:
                found.ended[run_id, unit] += 1
        return found


@dataclass
class Report:
    """What came of it."""

    runs: int = 0
    units: int = 0
    losses: int = 0
    """Attempts that died, over all runs."""
    executions: int = 0
    cut: int = 0
    """Executions that a kill cut short, and that were therefore repeated."""
    uncommitted: int = 0
    """Executions that ended, but whose process died before their result was committed: repeated too."""
    doubled: int = 0
    """Executions of what the store knew to be finished."""
    known: int = 0
    """Units that the store knew to be finished when a process was killed."""

    def __str__(self) -> str:
        return (
            f"{self.runs} runs, {self.losses} lost attempts; {self.executions} executions of {self.units} requests "
            f"and tools: {self.cut} cut and repeated, {self.uncommitted} ended but not committed and repeated, "
            f"{self.doubled} doubled; {self.known} times a finished one was seen to stay so"
        )


class Runs:
    """Runs of one kind of agent, each watched from its beginning by a reader that stays, and approves what is asked."""

    def __init__(
        self, kind: agents.Kind, store: Store, url: str, address: str, ledger: Ledger, group: asyncio.TaskGroup
    ) -> None:
        self._kind = kind
        self._store = store
        self._url = url
        self._address = address
        self._ledger = ledger
        self._group = group
        self._known: list[tuple[Unit, int]] = []
        """Units that were finished at some moment, and how often they had been begun by then."""
        self.readers: dict[str, asyncio.Task[list[Event]]] = {}

    async def start(self, agent_id: str) -> str:
        async with client(self._address) as agent:
            run = await agent.start_run(agent_id, "weather?")
        reading = followed_with_approval(self._address, run.run_id)
        self.readers[run.run_id] = self._group.create_task(reading, name=f"reader of {agent_id}")
        return run.run_id

    async def remember(self, run_id: str) -> None:
        """Called while nobody executes the run: notes what the store knows to be finished."""
        stored = await self._store.get(topic_of("default", run_id))
        assert stored is not None
        executions = Executions.of(self._ledger)
        if stored.head.final:
            units = list(self._kind.units)  # a run that has ended keeps no journal
        else:
            units = [name.removeprefix("journal/") for name in stored.fields if name.startswith("journal/")]
            assert set(units) <= set(self._kind.units)
        for unit in units:
            self._known.append(((run_id, unit), len(executions.begun[run_id, unit])))

    async def prove(self, expected: object) -> Report:
        """Waits for the end of every run and proves it."""
        report = Report()
        for run_id, reader in self.readers.items():
            events = await reader
            run, view = await prove_run(self._url, self._address, run_id, events)
            assert run.state == run_pb2.RUN_STATE_SUCCEEDED, run.error
            assert as_json(run) == view.output == self._kind.output
            assert shape(view, events) == expected
            assert run.usage == view.usage
            prove_executions(run_id, self._kind.units, events, Executions.of(self._ledger), report)
            report.runs += 1
            report.units += len(self._kind.units)
            report.losses += sum(attempt.outcome == "worker_lost" for attempt in run.attempts)
        executions = Executions.of(self._ledger)
        doubled = {unit for unit, times in self._known if len(executions.begun[unit]) != times}
        report.doubled, report.known = len(doubled), len(self._known)
        assert not doubled, "finished, and done again"
        return report


async def followed_with_approval(address: str, run_id: str) -> list[Event]:
    """All events of a run, as a reader saw them who was there throughout and approved whatever it was asked."""
    found = []
    async with asyncio.timeout(TOTAL_SECONDS), client(address) as agent:
        async for event in agent.watch(run_id, heartbeat_seconds=1.0):
            found.append(event)
            for pending in event.run_suspended.pending:
                await agent.resume_run(run_id, [approve(pending.request_id, override_arguments={"path": "/tmp/x"})])
    return found


def prove_executions(
    run_id: str, units: Sequence[str], events: list[Event], executions: Executions, report: Report
) -> None:
    """Each unit of the run was begun at most once an attempt, never after the log told of its end, and always under
    the same key, which no other unit has."""
    told = ends(events)
    for unit in units:
        begun, ended = executions.begun[run_id, unit], executions.ended[run_id, unit]
        assert begun == sorted(set(begun)), f"{unit} was begun in attempts {begun}"
        assert begun[-1] <= told[unit], f"{unit} was begun in attempts {begun}, and its end told in {told[unit]}"
        assert ended >= 1
        assert len(executions.keys[run_id, unit]) == 1
        report.executions += len(begun)
        report.cut += len(begun) - ended
        report.uncommitted += ended - 1
    keys = [key for unit in units if unit.startswith("tool/") for key in executions.keys[run_id, unit]]
    assert len(set(keys)) == len(keys)
    assert {unit for run, unit in executions.begun if run == run_id} == set(units)


def ends(events: list[Event]) -> dict[str, int]:
    """The attempt in which the log first tells, by itself or by what follows from it, that a unit is finished."""
    found: dict[str, int] = {}
    for event in events:
        match event.WhichOneof("payload"):
            case "tool_call_started" | "step_finished":
                found.setdefault(f"model/{event.step}", event.attempt)
            case "tool_call_finished":
                found.setdefault(f"tool/{event.step}/{event.tool_call_finished.tool_call_id}", event.attempt)
    return found


def shape(view: RunView, events: list[Event]) -> object:
    """What two runs must agree in."""
    kinds = Counter(event.WhichOneof("payload") for event in events)
    return {
        "asked": (kinds["run_suspended"], kinds["run_resumed"]),
        "output": view.output,
        "usage": view.usage.SerializeToString(deterministic=True),
        "steps": {
            number: (step.name, step.text, step.finished, step.usage.SerializeToString(deterministic=True),
                     sorted((c.tool_call_id, c.tool_name, str(c.arguments), str(c.result), c.outcome)
                            for c in step.tool_calls))
            for number, step in view.steps.items()
        },
    }  # fmt: skip


@dataclass
class Stage:
    """A process that serves agents of one kind, and what one of them does when nobody disturbs it."""

    kind: str
    start: Processes
    server: AgentProcess
    runs: Runs
    expected: object
    commits: int
    events: int

    def launch(self, number: int | str, role: str = "work", **environment: object) -> AgentProcess:
        """Begins to start a process for the agent of this number, or for `all`; with MORTAL_COMMIT it kills itself."""
        module = "tests.e2e.mortal" if "MORTAL_COMMIT" in environment else "agent_service"
        modules = f"tests.e2e.agents:{self.kind}_{number}"
        return self.start.launch(role, agents=modules, module=module, environment=environment)


@asynccontextmanager
async def stage(url: str, ledger: Ledger, kind: str = "researcher") -> AsyncIterator[Stage]:
    with processes(url, **ledger.environment, **PATIENT_WITH_LOSSES) as start:
        async with open_store(url) as store, asyncio.TaskGroup() as group:
            launched = start.launch("serve", agents=f"tests.e2e.agents:{kind}_all")
            environment = {"MORTAL_COMMIT": 0, "MORTAL_WHEN": "after"}
            worker = start.launch(
                "work", agents=f"tests.e2e.agents:{kind}_0", module="tests.e2e.mortal", environment=environment
            )
            server = await asyncio.to_thread(launched.wait_started)
            runs = Runs(agents.KINDS[kind], store, url, server.address, ledger, group)
            events = await runs.readers[await runs.start(f"{kind}_0")]
            worker.close()
            commits = ledger.done["a commit"]
            assert commits > len(agents.KINDS[kind].units)
            yield Stage(kind, start, server, runs, shape(fold(events), events), commits, len(events))


async def in_parallel(work: Callable[[int], Coroutine[Any, Any, bool]], numbers: range) -> int:
    """Does it for each number, a few at a time; returns how often it said yes."""
    places = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> bool:
        async with places:
            return await work(number)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(number)) for number in numbers]
    return sum(task.result() for task in tasks)


# Kill at every commit


async def killed_at_commits(
    url: str, ledger: Ledger, every: int, whens: Sequence[str], kind: str = "researcher"
) -> None:
    """Kills at every so many commits, in turn as `whens` says."""
    async with stage(url, ledger, kind) as on:
        numbers = range(1, on.commits + 1, every)

        async def kill(number: int) -> bool:
            """Whether the run came so far: how many events share a commit is not the same each time."""
            run_id = await on.runs.start(f"{kind}_{number}")
            when = whens[numbers.index(number) % len(whens)]
            worker = await asyncio.to_thread(on.launch, number, MORTAL_COMMIT=number, MORTAL_WHEN=when)
            killed = await ended_before(worker, on.runs.readers[run_id])
            worker.close()
            await on.runs.remember(run_id)
            return killed

        kills = await in_parallel(kill, numbers)
        on.launch("all")
        report = await on.runs.prove(on.expected)
        deaths = sum(line.startswith("killed at commit") for line in ledger.lines)
        assert deaths >= kills >= 0.6 * len(numbers)
    print(f"\n{kind}: {deaths} kills, {' or '.join(whens)} {len(numbers)} of {on.commits} commits: {report}")


async def ended_before(worker: AgentProcess, reader: asyncio.Task[list[Event]]) -> bool:
    """Waits until the worker died or the run ended; whether it was the worker."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while worker.running and not reader.done():
            await asyncio.wait({reader}, timeout=0.02)  # a process tells nobody of its end
    return not reader.done()


async def test_killed_at_some_commits(sqlite_url: str, ledger: Ledger) -> None:
    """The same as below for every fourth commit."""
    await killed_at_commits(sqlite_url, ledger, every=4, whens=["after", "before"])


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_at_every_commit(store_url: str, ledger: Ledger, when: str) -> None:
    """Whichever of its commits a worker dies at, right before or right after it took effect: no request to the model
    and no tool that was finished is done again, keys of tools stay the same, the run ends once with the same output,
    steps and usage, and a reader who was there all the time saw a dense log that folds to it."""
    await killed_at_commits(store_url, ledger, every=1, whens=[when])


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_killed_at_every_commit_around_an_approval(store_url: str, ledger: Ledger, when: str) -> None:
    """The same for a run that is suspended until somebody approves: it is asked and answered once, and what was
    approved is executed with the arguments of whoever approved."""
    await killed_at_commits(store_url, ledger, every=1, whens=[when], kind="careful")


# Kill when a reader has seen an event


async def killed_when_seen(url: str, ledger: Ledger) -> None:
    async with stage(url, ledger) as on:

        async def kill(number: int) -> bool:
            worker = await asyncio.to_thread(on.launch, number)
            run_id = await on.runs.start(f"researcher_{number}")
            await seen(on.server, run_id, number)
            worker.close()
            await on.runs.remember(run_id)
            return True

        kills = await in_parallel(kill, range(1, on.events + 1))
        on.launch("all")
        report = await on.runs.prove(on.expected)
    assert report.losses >= 0.5 * kills
    print(f"\n{kills} kills, one when a reader saw each event: {report}")


async def seen(server: AgentProcess, run_id: str, sequence: int) -> None:
    """Returns when a reader has seen this event, or the last one."""
    async with asyncio.timeout(LIMIT_SECONDS), client(server.address) as agent, agent.watch(run_id) as stream:
        async for event in stream:
            if event.sequence >= sequence:
                return


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_killed_when_a_reader_saw_each_event(store_url: str, ledger: Ledger) -> None:
    """Whichever event a reader of another process has just seen when the worker is killed from outside: what the
    event tells of stays finished, and the same holds as for a kill at a commit."""
    await killed_when_seen(store_url, ledger)


# Kill at any moment


async def killed_at_random(url: str, ledger: Ledger, kills: int, seed: int) -> None:
    chance = random.Random(seed)
    async with stage(url, ledger) as on:
        for _ in range(kills):
            await on.runs.start("researcher_1")
            worker = await asyncio.to_thread(on.launch(1, RUNWIRE_CONCURRENCY=3).wait_started)
            await asyncio.sleep(chance.uniform(0.0, 0.8))  # the moment is what is drawn by lot
            worker.close()
            for run_id, reader in on.runs.readers.items():
                if not reader.done():
                    await on.runs.remember(run_id)
        on.launch(1)
        report = await on.runs.prove(on.expected)
    print(f"\n{kills} kills at random moments (seed {seed}): {report}")


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_killed_at_fifty_random_moments(store_url: str, ledger: Ledger) -> None:
    """Workers with several runs each, one worker after the other killed from outside whatever it is doing: the same
    holds for every run, however many of its attempts died."""
    await killed_at_random(store_url, ledger, 50, seed=random.randrange(10**6))


# Tools that wait, and tools that must not be repeated


@pytest.mark.parametrize("url", ["sqlite_url", pytest.param("valkey_url", marks=pytest.mark.chaos)])
async def test_an_approval_after_all_was_killed(request: pytest.FixtureRequest, ledger: Ledger, url: str) -> None:
    """All processes are killed while a run waits for an approval, and again once it was answered: what it waits for is
    still told, the answer counts once, the tool runs once, what was done before stays done, and a reader who was
    there from the beginning sees one log."""
    store_url: str = request.getfixturevalue(url)
    address = f"127.0.0.1:{free_port()}"
    with processes(store_url, **ledger.environment) as start:

        def restart(*old: AgentProcess) -> AgentProcess:
            for process in old:
                process.close()
            return start.start("all", agents="tests.e2e.agents:careful_0", listen=address)

        service = restart()
        async with client(address) as agent, asyncio.TaskGroup() as group:
            run = await agent.start_run("careful_0", "clean up")
            reader = group.create_task(followed(address, run.run_id))
            async with asyncio.timeout(LIMIT_SECONDS), agent.watch(run.run_id) as stream:
                async for event in stream:
                    if event.HasField("run_suspended"):
                        break

            service = await asyncio.to_thread(restart, service)
            waiting = await agent.get_run(run.run_id)
            assert waiting.state == run_pb2.RUN_STATE_SUSPENDED
            [pending] = waiting.pending
            assert (pending.name, pending.request_id) == ("delete", "tool/1/d")
            await agent.resume_run(run.run_id, [approve(pending.request_id, override_arguments={"path": "/tmp/x"})])

            service = await asyncio.to_thread(restart, service)
            with pytest.raises(AlreadyAnswered):
                await agent.resume_run(run.run_id, [approve(pending.request_id)])
            events = await reader
        run, view = await prove_run(store_url, address, run.run_id, events)

    assert run.state == run_pb2.RUN_STATE_SUCCEEDED, run.error
    assert as_json(run) == view.output == agents.KINDS["careful"].output
    kinds = Counter(event.WhichOneof("payload") for event in events)
    assert kinds["run_suspended"] == kinds["run_resumed"] == 1
    executions = Executions.of(ledger)
    assert {unit: len(begun) for (_, unit), begun in executions.begun.items() if unit != "tool/1/d"} == {
        "model/1": 1,
        "tool/1/l": 1,
        "model/2": 1,
    }
    deletions = executions.begun[run.run_id, "tool/1/d"]
    assert deletions == sorted(set(deletions)), "at most once an attempt"
    assert len(executions.keys[run.run_id, "tool/1/d"]) == 1


async def test_killed_inside_a_tool_that_must_not_be_repeated(sqlite_url: str, ledger: Ledger) -> None:
    """A tool that is declared not repeatable and takes its process with it is begun once; the model is told that
    nobody knows what became of it, and so are readers."""
    with processes(sqlite_url, **ledger.environment) as start:
        only = {"agents": "tests.e2e.agents:payer"}
        server, dying = start.launch("serve", **only), start.launch("work", **only)
        await asyncio.to_thread(server.wait_started)
        async with client(server.address) as agent:
            run = await agent.start_run("payer", "pay them")
        assert await dying.wait(LIMIT_SECONDS) == -signal.SIGKILL
        start.launch("work", **only)
        events = await followed(server.address, run.run_id)
        run, view = await prove_run(sqlite_url, server.address, run.run_id, events)

    assert run.state == run_pb2.RUN_STATE_SUCCEEDED, run.error
    assert "unknown_after_crash" in str(view.output)
    [call] = view.tool_calls
    assert call.outcome == run_event_pb2.TOOL_CALL_OUTCOME_UNKNOWN_AFTER_CRASH
    begun = Executions.of(ledger).begun
    assert {unit: attempts for (_, unit), attempts in begun.items()} == {
        "model/1": [1],
        "tool/1/p": [1],
        "model/2": [2],
    }
