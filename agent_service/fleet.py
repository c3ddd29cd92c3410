"""Which workers there are and what waits for them: each worker says in the store, again and again, what it is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

from google.protobuf.message import DecodeError

from agent_service.agents.registry import Registry
from agent_service.log.record import agent_of
from runwire import metrics, runbook
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

_STRANDED: Final = runbook.Entry.NOBODY_CAN_DO_RUNS.said()

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
        self._complained: set[tuple[str, str]] = set()
        self._seen: Sequence[pb.RunQueue] = ()
        """As it was the last time; nothing where that is not known."""

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Inside, the metrics show what `watch_once` saw."""
        with (
            metrics.RUNS_DUE.of(lambda: {queue.agent_id: queue.due for queue in self._seen}),
            metrics.RUNS_OLDEST_DUE_SECONDS.of(lambda: {queue.agent_id: _age(queue) for queue in self._seen}),
            metrics.RUNS_WORKERS.of(lambda: {queue.agent_id: queue.workers for queue in self._seen}),
            metrics.RUNS_STRANDED.of(lambda: {queue.agent_id: _stranded_count(queue) for queue in self._seen}),
        ):
            yield

    @property
    def has_stranded(self) -> bool:
        """Whether `watch_once` has found something due that nobody can do."""
        return bool(self._complained)

    async def workers(self) -> list[pb.Worker]:
        """In order of their names."""
        return [worker for notice in await self._store.notices(BOARD) if (worker := _worker(notice)) is not None]

    async def queues(self) -> list[pb.RunQueue]:
        """In order of agent_id: what waits, and also the agents of this process and of workers where nothing does."""
        depths: dict[str, list[tuple[str | None, Depth]]] = {}
        for depth in await self._store.depths():
            agent_id, version = agent_of(depth.queue)
            depths.setdefault(agent_id, []).append((version, depth))
        workers = await self.workers()
        now = await self._store.now()
        names = {definition.agent_id for definition in self._agents}
        names.update(depths, (agent.agent_id for worker in workers for agent in worker.agents))
        return [_queue(name, depths.get(name, []), workers, now) for name in sorted(names)]

    async def work(self, names: frozenset[str]) -> int:
        """How many runs are due or being executed, of these agents or of all: what there must be processes for. A name
        may say the version too: `agent@version`."""
        return sum(_work(queue, names) for queue in await self.queues())

    async def watch_once(self) -> float:
        """Says once of each agent that its runs wait and nobody can do them, and when that is over."""
        self._seen = await self._look()
        stranded = dict(pair for queue in self._seen for pair in _stranded(queue))
        for (agent_id, version), (due, age) in sorted(stranded.items()):
            if age < _PATIENCE_SECONDS or (agent_id, version) in self._complained:
                continue
            self._complained.add((agent_id, version))
            what = f"version {version!r} of agent {agent_id!r}" if version else f"agent {agent_id!r}"
            logger.warning("%d runs of %s are due, and no worker has that agent: start one", due, what, extra=_STRANDED)
        for agent_id, version in sorted(self._complained - stranded.keys()):
            what = f"version {version!r} of agent {agent_id!r}" if version else f"agent {agent_id!r}"
            logger.info("runs of %s do not wait for a worker any more", what)
        self._complained &= stranded.keys()
        return _LOOK_SECONDS

    async def _look(self) -> Sequence[pb.RunQueue]:
        try:
            return await self.queues()
        except BaseException:
            self._seen = ()  # numbers of before would hide that the store is away
            raise


def _age(queue: pb.RunQueue) -> float:
    return seconds_of(queue.oldest_due_age)


def _stranded_count(queue: pb.RunQueue) -> int:
    return sum(due for _, (due, _) in _stranded(queue))


def _work(queue: pb.RunQueue, names: frozenset[str]) -> int:
    if not names or queue.agent_id in names:
        return queue.due + queue.running
    asked = [each for each in queue.by_version if f"{queue.agent_id}@{each.version}" in names]
    # What any version may continue with is work of each.
    free = queue.due - sum(each.due for each in queue.by_version) if asked else 0
    return free + sum(each.due + each.running for each in asked)


def _stranded(queue: pb.RunQueue) -> Iterator[tuple[tuple[str, str], tuple[int, float]]]:
    """What is due that nobody can do, by agent and version (empty where any would do): how much, and for how long."""
    for each in queue.by_version:
        if each.due and not each.workers:
            yield (queue.agent_id, each.version), (each.due, seconds_of(each.oldest_due_age))
    free = queue.due - sum(each.due for each in queue.by_version)
    if free > 0 and not queue.workers:
        yield (queue.agent_id, ""), (free, seconds_of(queue.oldest_due_age))


def _worker(notice: Notice) -> pb.Worker | None:
    try:
        worker = pb.Worker.FromString(notice.value)
    except DecodeError:  # of a release that says it otherwise
        return None
    worker.seen_time.CopyFrom(timestamp(notice.time))
    return worker


def _queue(
    agent_id: str, depths: Sequence[tuple[str | None, Depth]], workers: Sequence[pb.Worker], now: float
) -> pb.RunQueue:
    having = [(worker, agent) for worker in workers for agent in worker.agents if agent.agent_id == agent_id]
    able = [(worker, agent) for worker, agent in having if not worker.draining]
    queue = pb.RunQueue(
        agent_id=agent_id,
        due=sum(depth.due for _, depth in depths),
        ahead=sum(depth.ahead for _, depth in depths),
        running=sum(agent.running for _, agent in having),
        workers=len(able),
        room=sum(worker.room for worker, _ in able),
        versions=sorted({agent.version for _, agent in able}),
    )
    _set_age(queue, [depth for _, depth in depths], now)
    bound = {version: depth for version, depth in depths if version is not None}
    for version in sorted({*bound, *(agent.version for _, agent in having)}):
        one = queue.by_version.add(
            version=version,
            running=sum(agent.running for _, agent in having if agent.version == version),
            workers=sum(agent.version == version for _, agent in able),
        )
        if (depth := bound.get(version)) is not None:
            one.due, one.ahead = depth.due, depth.ahead
            _set_age(one, [depth], now)
    return queue


def _set_age(queue: pb.RunQueue | pb.RunQueueVersion, depths: Sequence[Depth], now: float) -> None:
    if due := [depth.oldest_due for depth in depths if depth.due]:
        queue.oldest_due_age.CopyFrom(duration(max(0.0, now - min(due))))
