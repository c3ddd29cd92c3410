"""Which workers there are and what waits for them: each worker says in the store, again and again, what it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

from google.protobuf.message import DecodeError

from agent_service.agents.registry import Registry
from agent_service.log.record import agent_of
from runwire import metrics
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.errors import RunwireError
from runwire.loop import Wakeup, repeat
from runwire.pubsub import Depth, Notice, Store
from runwire.times import duration, seconds_of, timestamp

BOARD: Final = "workers"
SAY_SECONDS: Final = 5.0
SILENT_SECONDS: Final = 15.0
"""After this long without a word a worker is listed no more."""
_LEAVE_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 10.0
_PATIENCE_SECONDS: Final = 10.0
"""What is due for less is not complained of: a worker may just be starting."""

logger = logging.getLogger("agent_service")


class Presence:
    """Says what this worker is."""

    def __init__(self, store: Store, describe: Callable[[], pb.Worker]) -> None:
        self._store = store
        self._describe = describe

        self._saying = Wakeup()

    @asynccontextmanager
    async def keep(self) -> AsyncIterator[None]:
        """Says it again and again, until the block is left; then takes it back: nobody is to count on a worker that has
        ended in order."""
        async with asyncio.TaskGroup() as group:
            saying = group.create_task(repeat("presence", self._say, self._saying), name="presence")
            try:
                yield
            finally:
                saying.cancel()
        # Where the store is away it comes down by itself.
        with suppress(RunwireError, TimeoutError):
            async with asyncio.timeout(_LEAVE_SECONDS):
                await self._store.put_up(BOARD, self._describe().worker, b"", seconds=0)

    def say_now(self) -> None:
        """Something changed that others should know soon."""
        self._saying.wake()

    async def _say(self) -> float:
        worker = self._describe()
        await self._store.put_up(BOARD, worker.worker, worker.SerializeToString(), seconds=SILENT_SECONDS)
        return SAY_SECONDS


class Fleet:
    """All workers of a store, and what waits for them."""

    def __init__(self, store: Store, agents: Registry) -> None:
        self._store = store
        self._agents = agents
        self._complained: set[str] = set()
        self._seen: Sequence[pb.RunQueue] = ()
        """As it was the last time; nothing where that is not known."""

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the metrics show what `watch_once` saw."""
        with (
            metrics.RUNS_DUE.of(lambda: {queue.agent_id: queue.due for queue in self._seen}),
            metrics.RUNS_OLDEST_DUE_SECONDS.of(lambda: {queue.agent_id: _age(queue) for queue in self._seen}),
            metrics.RUNS_WORKERS.of(lambda: {queue.agent_id: queue.workers for queue in self._seen}),
        ):
            yield

    async def workers(self) -> list[pb.Worker]:
        """In order of their names."""
        return [worker for notice in await self._store.notices(BOARD) if (worker := _worker(notice)) is not None]

    async def queues(self) -> list[pb.RunQueue]:
        """In order of agent_id: what waits, and also the agents of this process and of workers where nothing does."""
        depths = {agent_of(depth.queue): depth for depth in await self._store.depths()}
        workers = await self.workers()
        now = await self._store.now()
        names = {definition.agent_id for definition in self._agents}
        names.update(depths, (agent.agent_id for worker in workers for agent in worker.agents))
        return [_queue(name, depths.get(name), workers, now) for name in sorted(names)]

    async def work(self, agent_ids: frozenset[str]) -> int:
        """How many runs are due or being executed, of these agents or of all: what there must be processes for."""
        found = (queue for queue in await self.queues() if not agent_ids or queue.agent_id in agent_ids)
        return sum(queue.due + queue.running for queue in found)

    async def watch_once(self) -> float:
        """Says once of each agent that its runs wait and nobody can do them, and when that is over."""
        self._seen = await self._look()
        stranded = {queue.agent_id: queue for queue in self._seen if is_stranded(queue)}
        for agent_id in sorted(stranded.keys() - self._complained):
            queue = stranded[agent_id]
            if queue.oldest_due_age.seconds < _PATIENCE_SECONDS:
                del stranded[agent_id]
                continue
            logger.warning("%d runs of agent %r are due, and no worker has that agent: start one", queue.due, agent_id)
        for agent_id in sorted(self._complained - stranded.keys()):
            logger.info("runs of agent %r do not wait for a worker any more", agent_id)
        self._complained = set(stranded)
        return _LOOK_SECONDS

    async def _look(self) -> Sequence[pb.RunQueue]:
        try:
            return await self.queues()
        except BaseException:
            self._seen = ()  # numbers of before would hide that the store is away
            raise


def _age(queue: pb.RunQueue) -> float:
    return seconds_of(queue.oldest_due_age)


def is_stranded(queue: pb.RunQueue) -> bool:
    """Whether something is due that nobody can do."""
    return queue.due > 0 and queue.workers == 0


def _worker(notice: Notice) -> pb.Worker | None:
    try:
        worker = pb.Worker.FromString(notice.value)
    except DecodeError:  # of a release that says it otherwise
        return None
    worker.seen_time.CopyFrom(timestamp(notice.time))
    return worker


def _queue(agent_id: str, depth: Depth | None, workers: Sequence[pb.Worker], now: float) -> pb.RunQueue:
    having = [(worker, agent) for worker in workers for agent in worker.agents if agent.agent_id == agent_id]
    able = [(worker, agent) for worker, agent in having if not worker.draining]
    queue = pb.RunQueue(
        agent_id=agent_id,
        running=sum(agent.running for _, agent in having),
        workers=len(able),
        room=sum(worker.room for worker, _ in able),
        versions=_versions(agent for _, agent in able),
    )
    if depth is not None:
        queue.due, queue.ahead = depth.due, depth.ahead
        if depth.due:
            queue.oldest_due_age.CopyFrom(duration(max(0.0, now - depth.oldest_due)))
    return queue


def _versions(agents: Iterable[pb.WorkerAgent]) -> list[str]:
    return sorted({agent.version for agent in agents})
