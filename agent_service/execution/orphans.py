"""Finds work for runs whose version of their agent nobody has any more.

A run waits in the queue of the version that began it (see `agent_service.log.record`), and only workers that have that
version take it. Where it is due and no worker has it, the moment at which somebody noticed is put up on a board, for
all to see: workers come and go, and none has to watch for this long itself. After the agent's `orphan_after` any worker
that has another version brings such runs into its own queue, marked as orphans. What becomes of them is for the attempt
to say (`on_version_change`). A board that is lost begins the wait again.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from google.protobuf.message import DecodeError

from agent_service import fleet
from agent_service.agents.definition import Definition
from agent_service.agents.registry import Registry
from agent_service.log import record
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.errors import CommitRefused, NotFound
from runwire.pubsub import Claim, Commit, Notice, Schedule, Store

BOARD: Final = "orphans"
_LOOK_SECONDS: Final = 10.0
_LOOKS_AN_ORPHAN: Final = 4
_KEEP_SECONDS: Final = 300.0
"""How long a moment stays up without anybody who looks."""
_AT_ONCE: Final = 100

logger = logging.getLogger("agent_service.execution.orphans")


class Orphans:
    """Those of the agents that this worker has. `worker` is its name: it holds what it moves meanwhile."""

    def __init__(self, store: Store, agents: Registry, worker: str, lease_seconds: float) -> None:
        self._store = store
        self._agents = [definition for definition in agents if definition.on_version_change != "wait"]
        self._worker = worker
        self._lease_seconds = lease_seconds

    async def look(self) -> float:
        """Brings home what is an orphan; seconds until the next look."""
        if not self._agents:
            return _LOOK_SECONDS
        left = await self._left()
        since = {notice.name: _moment(notice) for notice in await self._store.notices(BOARD)}
        now = await self._store.now()
        for queue in since.keys() - left.keys():
            if self._definition_of(queue) is not None:
                await self._store.put_up(BOARD, queue, b"", seconds=0)
        for queue, definition in left.items():
            began = since.get(queue, now)
            await self._store.put_up(BOARD, queue, repr(began).encode(), seconds=_KEEP_SECONDS)
            if now - began >= definition.orphan_after:
                await self._bring_home(queue, definition)
        return min(_LOOK_SECONDS, *(each.orphan_after / _LOOKS_AN_ORPHAN for each in self._agents))

    async def _left(self) -> dict[str, Definition]:
        """Queues in which something is due that only a version can do which no worker has."""
        due = [depth.queue for depth in await self._store.depths() if depth.due]
        wanted = {queue: definition for queue in due if (definition := self._definition_of(queue)) is not None}
        if not wanted:
            return {}
        there = {
            record.queue_of(agent.agent_id, agent.version)
            for notice in await self._store.notices(fleet.BOARD)
            for agent in _agents(notice.value)
        }
        return {queue: definition for queue, definition in wanted.items() if queue not in there}

    def _definition_of(self, queue: str) -> Definition | None:
        """What this worker has instead of the version whose queue this is; None where it has none."""
        agent_id, version = record.agent_of(queue)
        if version is None:
            return None
        return next((each for each in self._agents if each.agent_id == agent_id and each.version != version), None)

    async def _bring_home(self, queue: str, definition: Definition) -> None:
        count = 0
        for alone in (False, True):
            while claims := await self._claim(queue, alone):
                for claim in claims:
                    count += await self._move(claim, definition)
        if count:
            agent_id, version = record.agent_of(queue)
            logger.warning(
                "%d runs of agent %r are bound to its version %r, which nobody has had for %g s: they go to "
                "version %r, where those that were begun %s",
                count,
                agent_id,
                version,
                definition.orphan_after,
                definition.version,
                "are restarted" if definition.on_version_change == "restart" else "fail (agent_changed)",
            )

    async def _claim(self, queue: str, alone: bool) -> Sequence[Claim]:
        return await self._store.claim(
            [queue], holder=self._worker, limit=_AT_ONCE, lease_seconds=self._lease_seconds, alone=alone
        )

    async def _move(self, claim: Claim, definition: Definition) -> int:
        """How many were moved."""
        try:
            await self._store.commit(
                Commit(
                    claim.topic,
                    claim.head.attempt,
                    token=claim.token,
                    queue=record.queue_of(definition.agent_id, definition.version),
                    puts={record.ORPHANED: b"1"},
                    schedule=Schedule.DUE,
                )
            )
        except (CommitRefused, NotFound) as error:
            logger.info("%s: somebody else has it: %s", claim.topic, error)
            return 0
        return 1


def _moment(notice: Notice) -> float:
    try:
        return float(notice.value)
    except ValueError:  # of a release that says it otherwise
        return notice.time


def _agents(notice: bytes) -> Sequence[pb.WorkerAgent]:
    """What a worker has that takes runs."""
    try:
        worker = pb.Worker.FromString(notice)
    except DecodeError:
        return ()
    return () if worker.draining else worker.agents
