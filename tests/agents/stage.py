"""A stage for runs: the real execution on the store in memory, which can die at any commit."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from agent_service import config
from agent_service.agents.definition import Definition
from agent_service.agents.registry import Registry
from agent_service.conversations import Conversations
from agent_service.execution.attempt import Execution
from agent_service.forks import Forks
from agent_service.log import record
from agent_service.log.remembered import Recollections
from agent_service.runs import Runs
from runwire import frames
from runwire.agent.v1 import agent_service_pb2, run_event_pb2, run_pb2
from runwire.caching_pubsub import CachingPubSub
from runwire.fold import RunView, fold
from runwire.identity.principal import ANONYMOUS
from runwire.memory import MemoryStore
from runwire.pubsub import MAX_GRACE_SECONDS, Claim, Commit, Committed
from runwire.scorer_requests import topic_of
from runwire.values import to_value

TENANT = "default"
LIMIT_SECONDS = 20.0


@dataclass
class Clock:
    """The store's time, moved by hand, so that no test waits for a lease."""

    seconds: float = 1_000_000.0

    def __call__(self) -> float:
        return self.seconds


class MortalStore(MemoryStore):
    """Dies with its process after so many commits: the last one took effect, and nobody hears of it."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.commits = 0
        self.commits_left: int | None = None
        self.died = asyncio.Event()

    async def commit(self, commit: Commit) -> Committed:
        if self.died.is_set():
            await asyncio.Event().wait()
        committed = await super().commit(commit)
        self.commits += 1
        if self.commits_left is not None:
            self.commits_left -= 1
            if self.commits_left <= 0:
                self.died.set()
                await asyncio.Event().wait()
        return committed


@dataclass
class Stage:
    """One run of one agent, attempt by attempt."""

    definition: Definition
    run_id: str = ""
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.store = MortalStore(self.clock)
        self.log = CachingPubSub(self.store.pubsub, self.store)
        self.registry = Registry([self.definition])
        self.runs = Runs(self.store, self.log, self.registry)
        self.conversations = Conversations(self.store, self.runs, self.registry)
        self.settings = config.load(max_losses=1000)
        self.execution: Execution | None = None
        """The latest attempt."""
        self.known: Recollections | None = None
        """What its worker keeps from attempt to attempt. None: each attempt is by another process."""

    def beside(self) -> Stage:
        """A stage for another run in the same store."""
        other = Stage(self.definition, clock=self.clock)
        other.store, other.log, other.registry, other.settings = self.store, self.log, self.registry, self.settings
        other.runs, other.conversations = self.runs, self.conversations
        return other

    @property
    def topic(self) -> str:
        return topic_of(TENANT, self.run_id)

    async def start(self, input: Any, **fields: Any) -> None:
        request = agent_service_pb2.StartRunRequest(agent_id=self.definition.agent_id, input=to_value(input), **fields)
        self.run_id = (await self.runs.start(ANONYMOUS, request)).run_id

    async def attempt(self, *, die_after: int | None = None) -> bool:
        """Executes what is due, once; dies with the commit of that number. Returns whether it got so far."""
        claims = await self._claim()
        assert claims, "the run is not due"
        self.store.commits_left, self.store.died = die_after, asyncio.Event()
        async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as bodies:
            execution = Execution(
                claims[0],
                self.definition,
                store=self.store,
                log=self.log,
                settings=self.settings,
                worker="stage",
                bodies=bodies,
                known=self.known,
            )
            self.execution = execution
            async with asyncio.TaskGroup() as group:
                running = group.create_task(execution.run())
                dying = group.create_task(self.store.died.wait())
                await asyncio.wait({running, dying}, return_when=asyncio.FIRST_COMPLETED)
                running.cancel()
                dying.cancel()
            for body in tuple(bodies._tasks):  # a process that dies asks no one
                body.cancel()
        died = self.store.died.is_set()
        self.store.commits_left, self.store.died = None, asyncio.Event()
        return died

    async def fork(self, request_id: str = "", *, message: Any = None, **at: Any) -> Stage:
        """A stage for the run that continues, in the same store."""
        request = agent_service_pb2.ForkRunRequest(run_id=self.run_id, request_id=request_id, **at)
        if message is not None:
            request.message.CopyFrom(to_value(message))
        forks = Forks(self.store, self.runs, self.registry, self.settings.fork_retention_seconds)
        other = self.beside()
        other.run_id = (await forks.fork(ANONYMOUS, request)).run_id
        return other

    async def _claim(self) -> Sequence[Claim]:
        """By a process of its own, after the lease of the one before and its grace."""
        agent_id, holder = self.definition.agent_id, secrets.token_hex(4)
        queues = [record.queue_of(agent_id, self.definition.version), record.any_queue_of(agent_id)]
        for seconds in (self.settings.lease_seconds + 1, MAX_GRACE_SECONDS + 1):
            self.clock.seconds += seconds
            for alone in (False, True):
                claims = await self.store.claim(
                    queues, holder=holder, limit=1, lease_seconds=self.settings.lease_seconds, alone=alone
                )
                if claims:
                    return claims
        return ()

    async def start_parts(self, parts: Sequence[run_pb2.InputPart]) -> None:
        """As `start`, with typed parts."""
        request = agent_service_pb2.StartRunRequest(agent_id=self.definition.agent_id, parts=parts)
        self.run_id = (await self.runs.start(ANONYMOUS, request)).run_id

    async def finish(self, input: Any, **fields: Any) -> RunView:
        """Starts a run and executes it to its end."""
        await self.start(input, **fields)
        await self.attempt()
        return await self.view()

    async def run(self) -> run_pb2.Run:
        return await self.runs.get(ANONYMOUS, self.run_id)

    async def resume(self, *answers: run_event_pb2.Answer) -> None:
        await self.runs.resume(ANONYMOUS, self.run_id, answers)

    async def converse(self, message: Any, **conversation: Any) -> None:
        """Starts a conversation with this message."""
        await self.start(message, conversation=run_pb2.Conversation(**conversation))

    async def send(self, message: Any, mode: str = "QUEUE", request_id: str = "") -> int:
        request = agent_service_pb2.SendMessageRequest(
            run_id=self.run_id, message=to_value(message), request_id=request_id
        )
        request.mode = run_pb2.MessageMode.Value(f"MESSAGE_MODE_{mode}")
        return await self.conversations.send(ANONYMOUS, request)

    async def settle(self) -> None:
        """Executes until the run waits for something, or has ended."""
        while await self.is_due():
            await self.attempt()

    async def settle_after_death(self) -> None:
        """As `settle`, of a run whose worker may have died."""
        self.clock.seconds += 1000
        await self.settle()

    async def is_due(self) -> bool:
        due = self.store._topics[self.topic].topic.due
        return due is not None and due <= self.clock.seconds

    async def events(self) -> Sequence[run_event_pb2.RunEvent]:
        page = await self.store.read(self.topic, 0, max_events=100_000, max_bytes=1 << 30)
        return [
            run_event_pb2.RunEvent.FromString(event) for entry in page.entries for event in frames.events(entry.body)
        ]

    async def view(self) -> RunView:
        return fold(await self.events())
