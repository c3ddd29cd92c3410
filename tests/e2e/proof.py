"""What must be so of a run that has ended, whatever happened to the processes meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from runwire import frames
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.client import AgentClient, ResumePolicy
from runwire.connect import open_store
from runwire.fold import RunView, fold
from runwire.pubsub import Store
from runwire.scorer.v1 import scorer_run_requested_pb2
from runwire.scorer_requests import QUEUE, topic_of

LIMIT_SECONDS = 110.0
PATIENT = ResumePolicy(max_delay_seconds=0.3, give_up_seconds=60.0)
Event = run_event_pb2.RunEvent


def client(address: str) -> AgentClient:
    """A client that continues as soon as there is somebody to continue with."""
    return AgentClient(address, resume=PATIENT)


async def followed(address: str, run_id: str) -> list[Event]:
    """All events of a run, as a reader who was attached throughout saw them."""
    async with asyncio.timeout(LIMIT_SECONDS), client(address) as agent:
        stream = agent.watch(run_id, heartbeat_seconds=1.0)
        return [event async for event in stream]


async def stored_log(store: Store, run_id: str) -> list[bytes]:
    """The events of a run as the store has them."""
    found: list[bytes] = []
    while True:
        page = await store.read(topic_of("default", run_id), len(found))
        for entry in page.entries:
            assert entry.first == len(found) + 1
            found += frames.events(entry.body)
        if len(found) >= page.head.last:
            return found


def prove_log(events: Sequence[Event], stored: Sequence[bytes]) -> RunView:
    """What was seen is what is stored: dense, of attempts that only rise, with one terminal event at the end."""
    assert list(events) == [Event.FromString(event) for event in stored]
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    attempts = [event.attempt for event in events]
    assert attempts == sorted(attempts), "a stale event after the successor's first"
    finished = [event.sequence for event in events if event.HasField("run_finished")]
    assert finished == [len(events)], "terminal events"
    return fold(events)


def prove_steps(events: Sequence[Event], executions: Mapping[str, int]) -> int:
    """No step was begun after it had been finished, and none was executed in an attempt after that. `executions` says
    how often each step was. Returns how many executions were repetitions."""
    finished: dict[str, int] = {}
    for event in events:
        if event.HasField("step_started"):
            name = event.step_started.name
            assert name not in finished or name not in executions, f"{name!r} was begun again after it was finished"
        elif event.HasField("step_finished"):
            finished[event.step_finished.name] = event.attempt
    for name, times in executions.items():
        # Each attempt executes a step once at most, and none does after the one that finished it.
        assert 1 <= times <= finished[name], f"{name!r} was executed {times} times, finished by {finished[name]}"
    return sum(executions.values()) - len(executions)


async def prove_requests(url: str, expected: Mapping[str, Sequence[str]]) -> None:
    """The queue of scorer requests holds, for each run, one request for each of its scorers and no other."""
    asked: list[tuple[str, str]] = []
    async with open_store(url) as store:
        while found := await store.receive(QUEUE, consumer="proof", limit=500, lease_seconds=60):
            for delivery in found:
                request = scorer_run_requested_pb2.ScorerRunRequested.FromString(delivery.body)
                asked.append((request.sample.run_id, request.scorer_id))
            await store.acknowledge(QUEUE, [delivery.message_id for delivery in found])
    wanted = [(run_id, scorer_id) for run_id, scorers in expected.items() for scorer_id in scorers]
    assert sorted(asked) == sorted(wanted)


async def prove_run(url: str, address: str, run_id: str, events: Sequence[Event]) -> tuple[run_pb2.Run, RunView]:
    """Reads the run again, checks `events` against it, and returns it with the view that a client folds."""
    async with open_store(url) as store, client(address) as agent:
        view = prove_log(events, await stored_log(store, run_id))
        listed = [event async for event in agent.list_run_events(run_id)]
        assert listed == list(events)
        run = await agent.get_run(run_id)
    assert run.state == view.state
    assert run.last_sequence == len(events)
    return run, view


def as_json(run: run_pb2.Run) -> Any:
    from runwire.values import from_value

    return from_value(run.output)
