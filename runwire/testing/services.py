"""Both services in this process."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final
from uuid import uuid4

from agent_service import app, config
from agent_service.agents import pauses
from agent_service.agents.definition import Definition
from agent_service.agents.registry import Registry
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.client import AgentClient, Conversation, Fold, RunView, ScorerClient
from runwire.connect import share_memory
from runwire.errors import NotFound
from runwire.memory import MemoryStore
from runwire.scorer.v1 import scorer_run_pb2
from runwire.scorer_requests import DEFAULT_TENANT, QUEUE, scorer_run_id
from runwire.values import Json

if TYPE_CHECKING:
    from scorer_service.scoring import Scorer

_LIMIT_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.02
_LEASE_SECONDS: Final = 10 * 365 * 86_400.0
"""So long that no jump of the clock ends it: nobody else could take the runs of this process."""
_UNDER_WAY: Final = frozenset(
    scorer_run_pb2.ScorerRunState.Value(f"SCORER_RUN_STATE_{name}") for name in ("PENDING", "RUNNING", "RETRYING")
)


class Services:
    """Both services, and clients of them. Made by `serve`."""

    def __init__(self, client: AgentClient, scorers: ScorerClient | None, store: MemoryStore, clock: Clock) -> None:
        self.client = client
        self.scorer_client = scorers
        """None where no scorers were given."""
        self._store = store
        self._clock = clock

    async def run(self, agent_id: str, input: Json = None, **given: Any) -> RunView:
        """Starts a run and reads it to its end, or until it waits for an answer: then `pending` is set. `given` as
        `AgentClient.start_run`. Raises TimeoutError where it takes longer than 30 s."""
        run = await self.client.start_run(agent_id, input, **given)
        return await self.follow(run.run_id)

    async def resume(self, run_id: str, *answers: run_event_pb2.Answer) -> RunView:
        """Answers what a run waits for, and continues as `follow`."""
        run = await self.client.resume_run(run_id, answers)
        return await self.follow(run_id, answered=run.last_sequence)

    async def follow(self, run_id: str, *, answered: int = 0) -> RunView:
        """Reads a run to its end, or until it waits for an answer, other than it did at sequence `answered`."""
        folded = Fold()
        async with asyncio.timeout(_LIMIT_SECONDS), self.client.watch(run_id) as stream:
            async for event in stream:
                folded.add(event)
                if event.sequence > answered and _asks(event) and await self._is_last(run_id, event.sequence):
                    break
        return folded.view

    async def view(self, run_id: str) -> RunView:
        """A run or a conversation as it is now."""
        folded = Fold()
        async for event in self.client.list_run_events(run_id):
            folded.add(event)
        return folded.view

    async def _is_last(self, run_id: str, sequence: int) -> bool:
        return (await self.client.get_run(run_id)).last_sequence == sequence

    def conversation(self, agent_id: str, **given: Any) -> Conversation:
        """A conversation with an agent, as `AgentClient.conversation`."""
        return self.client.conversation(agent_id, **given)

    async def scores(self, run_id: str, *, turn: int = 0) -> dict[str, scorer_run_pb2.ScorerRun]:
        """What the scorers made of a run, or of a turn of a conversation (by default the newest), once all of them are
        done; by the name that the agent gave them, else their id. A scorer that does not want such a run is missing."""
        run = await self.client.get_run(run_id)
        turn = turn or run.turn.turn
        found: dict[str, scorer_run_pb2.ScorerRun] = {}
        async with asyncio.timeout(_LIMIT_SECONDS):
            await self._taken_in()
            for each in run.scorers:
                name = scorer_run_id(DEFAULT_TENANT, run_id, each.scorer_id, each.scorer_version, each.name, turn=turn)
                if (scored := await self._scored(name)) is not None:
                    found[each.name or each.scorer_id] = scored
        return found

    async def _taken_in(self) -> None:
        """Returns once the scorer service has all requests."""
        while await self._store.backlog(QUEUE):  # noqa: ASYNC110 - the queue rings no bell for who does not take
            await asyncio.sleep(_LOOK_SECONDS)

    async def _scored(self, scorer_run_id: str) -> scorer_run_pb2.ScorerRun | None:
        if self.scorer_client is None:
            return None
        try:
            scored = await self.scorer_client.get_scorer_run(scorer_run_id)
            while scored.state in _UNDER_WAY:
                await asyncio.sleep(_LOOK_SECONDS)
                scored = await self.scorer_client.get_scorer_run(scorer_run_id)
        except NotFound:
            return None
        return scored

    def advance(self, duration: timedelta | float) -> None:
        """Moves the clock of the runs forward, in seconds: sleeps, deadlines and idle conversations that come to their
        end by that are over now. What is being executed does not notice."""
        self._clock.ahead_seconds += duration.total_seconds() if isinstance(duration, timedelta) else duration


def _asks(event: run_event_pb2.RunEvent) -> bool:
    return any(each.kind != run_pb2.PENDING_KIND_TIME for each in event.run_suspended.pending)


class Clock:
    """The time, and what it was moved forward by."""

    def __init__(self) -> None:
        self.ahead_seconds = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_seconds


@asynccontextmanager
async def serve(
    agents: Iterable[Definition],
    *,
    scorers: Iterable[Scorer] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> AsyncIterator[Services]:
    """Serves `agents` in this process until the block is left, on a store in memory of its own, over real gRPC on a
    free port of the loopback. With `scorers` (an empty list: the prebuilt ones alone) the scorer service too, with a
    database that ends with it. `settings` are those of the agent service, by name. Pauses before tools, steps and
    requests to the model are tried again take no time.
    """
    problem: BaseException | None = None
    clock, name = Clock(), uuid4().hex
    store = MemoryStore(clock)
    async with AsyncExitStack() as stack:
        stack.enter_context(share_memory(name, store))
        group = await stack.enter_async_context(asyncio.TaskGroup())
        try:
            clients = await _start(stack, group, f"memory://{name}", store, agents, scorers, settings)
            yield Services(*clients, store, clock)
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:
            # Of the test, or why a service does not start: as it is, and not in the group's wrapping.
            problem = error
    if problem is not None:
        raise problem


async def _start(
    stack: AsyncExitStack,
    group: asyncio.TaskGroup,
    url: str,
    store: MemoryStore,
    agents: Iterable[Definition],
    scorers: Iterable[Scorer] | None,
    settings: Mapping[str, Any] | None,
) -> tuple[AgentClient, ScorerClient | None]:
    stopping, registry = asyncio.Event(), Registry(agents)
    # Before the group waits for the services, the clients are closed and these are told to stop.
    stack.callback(stopping.set)
    address = await _begin(group, lambda said: _serve_agents(registry, store, url, settings, stopping, said))
    client = await stack.enter_async_context(AgentClient(address))
    scorer_client = None
    if scorers is not None:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="runwire-"))
        wanted = list(scorers)
        address = await _begin(group, lambda said: _serve_scorers(wanted, url, folder, stopping, said))
        scorer_client = await stack.enter_async_context(ScorerClient(address))
    return client, scorer_client


async def _begin(group: asyncio.TaskGroup, service: Callable[[Callable[[str], None]], Any]) -> str:
    """Starts a service; where it listens. Raises what keeps it from that."""
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def keep() -> None:
        try:
            await service(address.set_result)
        except Exception as error:
            if address.done():
                raise
            address.set_exception(error)

    group.create_task(keep())
    async with asyncio.timeout(_LIMIT_SECONDS):
        return await address


async def _serve_agents(
    agents: Registry,
    store: MemoryStore,
    url: str,
    settings: Mapping[str, Any] | None,
    stopping: asyncio.Event,
    announce: Callable[[str], None],
) -> None:
    given = {"shutdown_grace_seconds": 0.1, "lease_seconds": _LEASE_SECONDS, "suspect_processes": 0}
    loaded = config.load(listen="127.0.0.1:0", store=url, **{**given, **(settings or {})})
    async with app.listen(agents, loaded) as service:
        with pauses.skipped():
            await service.run_on(store, stopping, announce)


async def _serve_scorers(
    scorers: list[Scorer], url: str, folder: str, stopping: asyncio.Event, announce: Callable[[str], None]
) -> None:
    import scorer_service.app
    import scorer_service.config
    from scorer_service.registry import with_prebuilt

    loaded = scorer_service.config.load(
        listen="127.0.0.1:0",
        store=url,
        results=f"sqlite:///{folder}/scores.db",
        scorer_retry_first_seconds=0.01,
        scorer_retry_max_seconds=0.05,
        scorer_grace_seconds=0.5,
    )
    await scorer_service.app.run(loaded, announce, stopping, with_prebuilt(scorers))
