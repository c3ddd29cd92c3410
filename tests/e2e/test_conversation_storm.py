"""Many people, many messages, and workers that die all the time."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections import Counter
from contextlib import suppress

import grpc
import pytest

from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.client import AgentClient
from runwire.fold import RunView, fold
from runwire.values import from_value
from tests.e2e.cuts import CutReader
from tests.e2e.processes import Processes, processes
from tests.e2e.proof import client

AGENTS = {"agents": "tests.e2e.chatter"}
MODES = ("queue",) * 12 + ("steer",) * 6 + ("interrupt",)
MESSAGES = int(os.environ.get("STORM_MESSAGES", "3000"))
"""10,000 take a quiet machine with two cores a quarter of an hour on either engine."""
CONVERSATIONS = max(1, min(300, MESSAGES // 33))
SENT_A_SECOND = 50
LIMIT_SECONDS = 120 + MESSAGES / 10


async def talk(
    agent: AgentClient, run_id: str, words: list[str], chance: random.Random, seconds: float
) -> dict[int, str]:
    """Says these words at random moments of so many seconds, each twice under its request id; what was accepted, by
    number."""
    said: dict[int, str] = {}

    async def say(word: str) -> None:
        await asyncio.sleep(chance.uniform(0, seconds))  # the moment is what is drawn by lot
        mode = chance.choice(MODES)
        numbers = {await agent.send_message(run_id, word, mode=mode, request_id=f"{run_id} {word}") for _ in range(2)}
        assert len(numbers) == 1
        said[numbers.pop()] = word

    async with asyncio.TaskGroup() as group:
        for word in words:
            group.create_task(say(word))
    await agent.end_conversation(run_id)
    return said


def prove(events: list[run_event_pb2.RunEvent], said: dict[int, str]) -> RunView:
    """Each message that was accepted is consumed once, in that order; each turn begun and ended once."""
    consumed = []
    ends: Counter[int] = Counter()
    for event in events:
        payload = event.WhichOneof("payload")
        if payload == "turn_started":
            consumed.append((event.turn_started.message_number, from_value(event.turn_started.message)))
        elif payload == "message_received":
            consumed.append((event.message_received.message_number, from_value(event.message_received.message)))
        elif payload == "turn_finished":
            ends[event.turn] += 1
    assert consumed == sorted((said | {1: "hello"}).items())
    view = fold(events)
    assert ends == Counter(dict.fromkeys(view.turns, 1))
    assert view.state == run_pb2.RUN_STATE_SUCCEEDED
    for turn in view.turns.values():
        if turn.state == run_pb2.RUN_STATE_SUCCEEDED:
            heard = [turn.message, *(content for _, content in turn.received)]
            assert str(turn.output).startswith("so: "), turn
            assert set(str(turn.output)[4:].split(" and ")) <= {"", *map(str, heard)}, "an answer is of its turn"
    return view


async def cut(address: str, run_id: str, chance: random.Random) -> list[run_event_pb2.RunEvent]:
    """What a reader sees who is cut again and again."""
    async with grpc.aio.insecure_channel(address) as channel:
        reader = CutReader([channel], run_id, chance)
        while not reader.ended:
            await reader.read(chance.randint(1, 6))
    return [run_event_pb2.RunEvent.FromString(event) for event in reader.events]


class Crew:
    """So many workers, of which one is killed every second, among those that have started."""

    def __init__(self, start: Processes, count: int, chance: random.Random) -> None:
        self._start = start
        self._chance = chance
        self._up = start.start_all(*["work"] * count, **AGENTS)
        self.kills = 0

    async def dwindle(self) -> None:
        """Kills, and replaces, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(1.0)
                if self._up:
                    self._up.pop(self._chance.randrange(len(self._up))).close()
                    self.kills += 1
                    group.create_task(self._replace())

    async def _replace(self) -> None:
        worker = self._start.launch("work", **AGENTS)
        self._up.append(await asyncio.to_thread(worker.wait_started))


async def storm(url: str, workers: int, conversations: int, messages: int, seed: int) -> None:
    chance = random.Random(seed)
    began = time.monotonic()
    with processes(url) as start:
        server = start.start("serve", **AGENTS)
        crew = Crew(start, workers, chance)
        async with client(server.address) as agent, asyncio.timeout(LIMIT_SECONDS):
            runs = [await agent.start_run("chatter", "hello", conversation=True) for _ in range(conversations)]
            killing = asyncio.create_task(crew.dwindle())
            try:
                each = messages // conversations
                said = await asyncio.gather(
                    *(
                        talk(agent, run.run_id, [f"w{n}" for n in range(each)], chance, messages / SENT_A_SECOND)
                        for run in runs
                    )
                )
            finally:
                killing.cancel()
                with suppress(asyncio.CancelledError):
                    await killing
            logs = [[event async for event in agent.watch(run.run_id)] for run in runs]
            seconds = time.monotonic() - began
            views = [prove(log, words) for log, words in zip(logs, said, strict=True)]
            for log, run in zip(logs[:5], runs[:5], strict=True):
                assert await cut(server.address, run.run_id, chance) == log
    turns = Counter(
        run_pb2.RunState.Name(turn.state).removeprefix("RUN_STATE_") for view in views for turn in view.turns.values()
    )
    steered = sum(len(turn.received) for view in views for turn in view.turns.values())
    attempts = sum(view.attempt for view in views)
    print(
        f"\n{sum(map(len, said))} messages in {conversations} conversations, {crew.kills} kills, seed {seed}: "
        f"{dict(turns)} turns, {steered} messages steered, {attempts} attempts, {seconds:.0f} s"
    )


@pytest.mark.chaos
@pytest.mark.timeout(LIMIT_SECONDS + 30)
@pytest.mark.parametrize("url, workers", [("sqlite_url", 2), ("valkey_url", 3)])
async def test_messages_while_workers_die(request: pytest.FixtureRequest, url: str, workers: int) -> None:
    """Messages at random moments, in random modes, sent twice each; as long as they come a worker that has started is
    killed every second. Each is consumed exactly once, in the order of acceptance, and each answer is of its turn."""
    await storm(request.getfixturevalue(url), workers, CONVERSATIONS, MESSAGES, seed=random.randrange(10**6))
