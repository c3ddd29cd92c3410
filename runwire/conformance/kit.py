"""Runs, readers and faults: one client against one service, until enough connections were broken."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from runwire.client import AgentClient
from runwire.client.access import Access
from runwire.conformance.encryption import Encryption, encrypted
from runwire.conformance.http_proxy import HttpFaultProxy
from runwire.conformance.proxy import Break, Fault, FaultProxy
from runwire.conformance.reader import Reader
from runwire.conformance.transcript import (
    Died,
    Ended,
    Event,
    Failed,
    Saved,
    Session,
    Stuck,
    Transcript,
    another_epoch,
    of_another_log,
    place,
)
from runwire.conformance.validators import VALIDATORS
from runwire.errors import ConfigurationError
from runwire.scorer_requests import DEFAULT_TENANT, topic_of

READERS: Final = 2
"""Readers of each run, at the same time."""
_MAX_WITHOUT_PROGRESS: Final = 3
"""Connections in a row that break before a frame with an event, because each makes a client wait longer."""
_MAX_IN_A_RUN: Final = 60
"""Then a reader is left in peace until the end: a client that starts over at each cut would never get there."""
_ENOUGH_FAULTS: Final = 10
"""A client that fails so often need not fail three hundred times."""
_FREEZES: Final = 0.02
_CRASHES: Final = 0.01


@dataclass(frozen=True)
class Plan:
    """What to do to a client."""

    targets: Sequence[str]
    command: str
    cuts: int = 300
    """At least so many connections are broken."""
    agent_id: str = "ticker"
    events: int = 100
    """Text deltas of a run."""
    seed: int = 0
    patience_seconds: float = 30.0
    """A client that says nothing for this long is stuck."""
    tenant: str = DEFAULT_TENANT
    """Whose the runs are: that of the token, where there is one. Cursors say it."""
    gateways: Sequence[str] = ()
    """HOST:PORT of gateways of these targets: the client reads there, by HTTP. Empty: at the targets, by gRPC."""


@dataclass
class Report:
    """What came of it."""

    runs: int = 0
    events: int = 0
    breaks: Counter[str] = field(default_factory=Counter)
    """Connections broken, by kind, and clients killed."""
    checked: Counter[str] = field(default_factory=Counter)
    """Transcripts by validator."""
    faults: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in VALIDATORS})

    @property
    def passed(self) -> bool:
        return not any(self.faults.values())

    @property
    def cuts(self) -> int:
        return sum(self.breaks.values())

    def judge(self, transcript: Transcript, log: Sequence[Event]) -> None:
        """Holds a transcript against every validator."""
        for name, validator in VALIDATORS.items():
            self.checked[name] += 1
            self.faults[name] += [f"run {transcript.run_id}: {fault}" for fault in validator(transcript, log)]


class Chaos:
    """Chooses the fault of each connection of one reader of one run."""

    def __init__(self, chance: random.Random, report: Report) -> None:
        self.calm = False
        """No more faults: let the reader finish."""
        self._chance = chance
        self._report = report
        self._fruitless = 0
        self._done = 0

    def __call__(self) -> Fault:
        if self.calm or self._done >= _MAX_IN_A_RUN:
            return Fault()
        kind = self._kind()
        # The first message is `opened`; a stream that breaks there or before made no progress.
        messages = self._chance.randint(0, 8)
        if messages <= 1 and self._fruitless >= _MAX_WITHOUT_PROGRESS:
            messages = 2
        self._fruitless = self._fruitless + 1 if messages <= 1 else 0
        delay = self._chance.uniform(0.002, 0.02) if self._chance.random() < 0.1 else 0.0
        return Fault(kind, messages, delay_seconds=delay)

    def broke(self, fault: Fault) -> None:
        """A fault was carried out."""
        self._done += 1
        self._report.breaks[f"{fault.kind.value}, delayed" if fault.delay_seconds else fault.kind.value] += 1

    def dies(self, sequence: int) -> bool:
        """Whether the client is to be killed at this event."""
        if self.calm or self._chance.random() >= _CRASHES:
            return False
        self._report.breaks["client killed"] += 1
        return True

    def _kind(self) -> Break:
        if self._chance.random() < _FREEZES:
            return Break.FREEZE
        return self._chance.choice([Break.CLOSE, Break.RESET, Break.HALF, Break.HALF, Break.OK])


class Kit:
    """Holds one client to the contract."""

    def __init__(self, plan: Plan, access: Callable[[str], Access] | None = None) -> None:
        """`access` says how a target is reached; by default in plain text. Over TLS the client under test is told so by
        the variables of `runwire.client.access.from_environment`."""
        known = access or (lambda _: Access())
        self._accesses = {target: known(target) for target in plan.targets}
        self._encryption: Encryption | None = None
        self.report = Report()
        self._plan = plan
        self._chance = random.Random(plan.seed)
        self._clients = [
            AgentClient(target, timeout=10.0, **self._accesses[target].arguments()) for target in plan.targets
        ]

    async def run(self) -> Report:
        """Does all that the plan says.

        Raises ConfigurationError where the plan cannot be carried out, and the errors of AgentClient.
        """
        with encrypted({} if self._plan.gateways else self._accesses) as self._encryption:
            return await self._run(self._encryption.environment if self._encryption else {})

    async def _run(self, environment: Mapping[str, str]) -> Report:
        readers = [
            Reader(self._plan.command, self._plan.patience_seconds, self._plan.tenant, environment)
            for _ in range(READERS)
        ]
        try:
            await self._check_agent()
            for reader in readers:
                await reader.start()
            await self._refusals(readers[0])
            while self.report.cuts < self._plan.cuts and not self._hopeless():
                await self._one_run(readers)
        finally:
            for reader in readers:
                await reader.kill()
            for client in self._clients:
                await client.close()
        return self.report

    def _hopeless(self) -> bool:
        return sum(map(len, self.report.faults.values())) >= _ENOUGH_FAULTS

    async def _check_agent(self) -> None:
        agents = {agent.agent_id for agent in await self._clients[0].list_agents()}
        if self._plan.agent_id not in agents:
            raise ConfigurationError(
                f"the service at {self._plan.targets[0]} has no agent {self._plan.agent_id!r}; "
                f"the kit needs one that takes count, interval_ms and text, such as agent_service.demo's ticker"
            )

    async def _one_run(self, readers: Sequence[Reader]) -> None:
        """Several readers follow one run through chaos, each through its own proxy; then its log is their judge."""
        run_id = await self._start(interval_ms=self._chance.choice([0, 1, 5, 20]))
        async with asyncio.TaskGroup() as group:
            reading = [group.create_task(self._follow(reader, run_id)) for reader in readers]
        log = await self._log(run_id)
        self.report.runs += 1
        self.report.events += len(log)
        for task in reading:
            self.report.judge(task.result(), log)

    async def _follow(self, reader: Reader, run_id: str) -> Transcript:
        chaos = Chaos(random.Random(self._chance.random()), self.report)
        transcript = Transcript(run_id)
        cursor, start = "", 0
        batch = self._chance.randint(1, 5)
        async with self._proxied(chaos, chaos.broke) as address:
            for life in range(10):
                chaos.calm = life == 9
                request = _request(address, run_id, cursor, batch)
                session = await reader.watch(request, start=start, dies=chaos.dies)
                transcript.sessions.append(session)
                if not _was_killed(session):
                    break
                cursor, start = _last_saved(session, cursor)
        return transcript

    async def _refusals(self, reader: Reader) -> None:
        """Cursors and logs from which no client can continue."""
        run_id = await self._start(interval_ms=0)
        async for _ in self._clients[0].watch(run_id):
            pass
        log = await self._log(run_id)
        end = (await self._clients[0].get_run(run_id)).cursor
        other = (await self._clients[0].get_run(await self._start(interval_ms=0))).cursor
        for cursor, reason in (
            (of_another_log(self._topic(run_id), end), "CURSOR_EPOCH_MISMATCH"),
            ("rubbish", "CURSOR_MALFORMED"),
            (other, "CURSOR_MISMATCH"),
        ):
            async with self._proxied(Fault) as address:
                session = await reader.watch(_request(address, run_id, cursor, 0), start=0)
            self.report.judge(Transcript(run_id, [session], expects_error=reason), log)
        if self._plan.gateways:
            return  # their readers see no epoch: the cursor has it, and the service refuses the cursor
        known = asyncio.Event()

        def seen(sequence: int) -> bool:
            known.set()
            return False

        async with self._proxied(_another_log(self._topic(run_id), end, known)) as address:
            session = await reader.watch(_request(address, run_id, "", 4), start=0, dies=seen)
        self.report.judge(Transcript(run_id, [session], expects_error="CURSOR_EPOCH_MISMATCH"), log)

    def _topic(self, run_id: str) -> str:
        return topic_of(self._plan.tenant, run_id)

    async def _start(self, *, interval_ms: float) -> str:
        """A run, started at any of the targets."""
        client = self._chance.choice(self._clients)
        text = f"{uuid.uuid4().hex[:8]} "
        arguments: dict[str, Any] = {"count": self._plan.events, "interval_ms": interval_ms, "text": text}
        return (await client.start_run(self._plan.agent_id, arguments)).run_id

    async def _log(self, run_id: str) -> list[Event]:
        """The log of a run that has ended, in pages, from the service itself."""
        async for _ in self._clients[0].watch(run_id):
            pass
        return [Event.of(event) async for event in self._clients[0].list_run_events(run_id, page_size=1000)]

    @asynccontextmanager
    async def _proxied(
        self, choose: Callable[[], Fault], broke: Callable[[Fault], None] | None = None
    ) -> AsyncIterator[str]:
        """What the client is to be told: an address, or a URL, behind which connections break as `choose` says."""
        gateways = self._plan.gateways
        targets = list(gateways or self._plan.targets)
        make = HttpFaultProxy if gateways else FaultProxy
        proxy = make(self._chance.sample(targets, len(targets)), choose, broke, self._encryption)
        async with proxy.listening() as address:
            yield f"http://{address}" if gateways else address


def _another_log(topic: str, cursor: str, known: asyncio.Event) -> Callable[[], Fault]:
    """Faults for a log that is re-created under a reader: the first connection breaks once the reader has reported an
    event, and all others show another epoch."""
    position = place(topic, cursor)
    assert position is not None
    renamed = (position.epoch.encode(), another_epoch(position.epoch).encode())
    faults = iter([Fault(Break.CLOSE, 4, when=known)])
    return lambda: next(faults, Fault(replace=renamed))


def _request(address: str, run_id: str, cursor: str, batch: int) -> dict[str, Any]:
    return {
        "target": address,
        "run_id": run_id,
        "cursor": cursor,
        "heartbeat_seconds": 1,
        "max_batch_size": batch,
    }


def _was_killed(session: Session) -> bool:
    return not any(isinstance(line, Ended | Failed | Stuck | Died) for line in session.lines)


def _last_saved(session: Session, cursor: str) -> tuple[str, int]:
    """Where a client continues that kept nothing but its cursor."""
    saved = [line for line in session.lines if isinstance(line, Saved) and line.sequence >= 0]
    return (saved[-1].cursor, saved[-1].sequence) if saved else (cursor, session.start)
