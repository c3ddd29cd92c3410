"""Claims runs that are due and executes them, as many at once as the process may."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from importlib.metadata import version
from typing import Final

from agent_service.agents.definition import Definition
from agent_service.agents.registry import Registry
from agent_service.config import Settings
from agent_service.execution.attempt import Execution, Interrupt, is_given_up
from agent_service.execution.leases import Leases, OpenStore
from agent_service.execution.orphans import Orphans
from agent_service.execution.suspects import AloneExecution, Children
from agent_service.fleet import Presence
from agent_service.log import record
from agent_service.log.remembered import Recollections
from runwire import metrics
from runwire.agent.v1 import agent_service_pb2
from runwire.backoff import Backoff
from runwire.caching_pubsub import CachingPubSub
from runwire.errors import RunwireError
from runwire.loop import Wakeup, repeat, wait_for
from runwire.pace import Pace
from runwire.pubsub import MAX_CLAIM_BYTES, Claim, Commit, Lease, LeaseState, Schedule, Store
from runwire.times import timestamp
from runwire.turns import weights_of

_MAX_HOST: Final = 64
_CLAIM_WAIT_SECONDS: Final = 1.0
_MEMORY_CLAIM_WAIT_SECONDS: Final = 0.1
"""In this process it costs nothing to look again, and a test's services end so much sooner."""
_FULL_WAIT_SECONDS: Final = 0.1
_YOUNG_SECONDS: Final = 0.5
"""After which an execution is under way, and no longer one that begins."""
_PAUSES: Final = Backoff(1.0, 1.0, jitter=0.0)
_SWEEP_SECONDS: Final = 30.0
_SUSPECT_SECONDS: Final = 1.0
"""How often it is looked whether there are suspects. There mostly are none, and they are in no hurry."""

logger = logging.getLogger("agent_service.execution.worker")


class Worker:
    """Executes runs of the registry's agents. `run` until cancelled, or until all is done after `drain`."""

    def __init__(
        self,
        store: Store,
        log: CachingPubSub,
        agents: Registry,
        settings: Settings,
        open_store: OpenStore | None,
        pace: Pace | None = None,
    ) -> None:
        """`open_store` opens the same store once more, for the leases; None: it cannot be (memory)."""
        self.name = f"{os.uname().nodename[:_MAX_HOST]}-{os.getpid()}-{secrets.token_hex(4)}"
        """Partly at random: a name that is used again would hide a crash."""
        self._start_time = time.time()
        self._store = store
        self._log = log
        self._agents = agents
        self._settings = settings
        self._executions: dict[str, Execution | AloneExecution] = {}
        self._running: Counter[str] = Counter()
        self._claimed_bytes = 0
        self._known = Recollections(settings.recollection_bytes)
        self._suspects: set[str] = set()
        """Topics that are executed alone."""
        self._in_memory = open_store is None
        # A store in memory is this process's own, and nobody's who executes a run elsewhere.
        elsewhere = not self._in_memory and settings.suspect_processes > 0
        self._children = Children(settings, self.name) if elsewhere else None
        self._pace = pace or Pace()
        self._young: dict[Execution | AloneExecution, float] = {}
        """Those that began a moment ago, and when."""
        self._changed = asyncio.Event()
        self._freed = asyncio.Event()
        """A suspect has left its process, or there are to be no more."""
        self._claiming = Wakeup()
        self._orphaning = Wakeup()
        self._weights = weights_of(settings.tenant_weights)
        self._presence = Presence(store, self.describe)
        self._leases = Leases(store, open_store, self._lease_changed, lease_seconds=settings.lease_seconds)

    async def run(self) -> None:
        """Claims and executes. After `drain`: lets executions finish within the grace, then hands them back."""
        with metrics.RUNS_RUNNING.of(self._running_now):
            await self._run()

    async def _run(self) -> None:
        async with (
            self._presence.keep(),
            self._leases.keep(),
            self._children.keep() if self._children else nullcontext(),
            asyncio.TaskGroup() as bodies,
            asyncio.TaskGroup() as group,
        ):
            sweeping = group.create_task(repeat("sweep", self._sweep, pauses=_PAUSES), name="sweep")
            async with asyncio.TaskGroup() as claiming:
                loops = {"claims": self.run_once}
                if self._children is not None:
                    loops["suspects"] = self._claim_for_children
                orphans = Orphans(self._store, self._agents, self.name, self._settings.lease_seconds)
                claiming.create_task(repeat("orphans", orphans.look, self._orphaning, pauses=_PAUSES), name="orphans")
                for name, turn in loops.items():
                    turns = repeat(name, partial(turn, group, bodies), self._claiming, pauses=_PAUSES)
                    claiming.create_task(turns, name=name)
            sweeping.cancel()
            # Not earlier: a claim under way may still bring runs, and what is handed back must not be claimed again.
            await self._wind_down()

    async def run_once(self, group: asyncio.TaskGroup, bodies: asyncio.TaskGroup) -> None:
        """Claims what is due, as far as there is room, and begins to execute it in `group`."""
        queues, limit, wait_seconds = self._room()
        if not queues:
            await self._wait_for_change(_CLAIM_WAIT_SECONDS)
            return
        limit = min(limit, self._pace.of(self._settings.concurrency) - self._count_young())
        if limit <= 0:
            await self._wait_for_change(_YOUNG_SECONDS / 4)
            return
        await self._leases.renew_overdue()
        for claim in await self._claim_suspect(queues) or await self._store.claim(
            queues,
            holder=self.name,
            limit=limit,
            lease_seconds=self._settings.lease_seconds,
            wait_seconds=wait_seconds,
            max_bytes=min(MAX_CLAIM_BYTES, self._settings.claimed_bytes - self._claimed_bytes),
            weights=self._weights,
        ):
            await self._begin_safely(claim, group, bodies)

    async def _begin_safely(self, claim: Claim, group: asyncio.TaskGroup, bodies: asyncio.TaskGroup) -> None:
        """A run that cannot be begun costs the runs that were claimed with it nothing."""
        try:
            self._begin(claim, group, bodies)
        except Exception:
            logger.exception("%s cannot be executed", claim.topic)
            self._suspects.discard(claim.topic)
            await self._give_up(claim)

    async def _claim_for_children(self, group: asyncio.TaskGroup, bodies: asyncio.TaskGroup) -> None:
        """Claims runs that may be what their workers died of, for processes of their own."""
        room = self._settings.suspect_processes - len(self._suspects)
        if room > 0:
            await self._leases.renew_overdue()
            for claim in await self._store.claim(
                [queue for definition in self._agents for queue in _queues_of(definition)],
                holder=self.name,
                limit=room,
                lease_seconds=self._settings.lease_seconds,
                alone=True,
            ):
                self._suspects.add(claim.topic)
                await self._begin_safely(claim, group, bodies)
        self._freed.clear()
        if not self._claiming.stopped:
            await wait_for(self._freed, min(_SUSPECT_SECONDS, self._settings.lease_seconds / 3))

    async def _claim_suspect(self, queues: Sequence[str]) -> Sequence[Claim]:
        """The same where there are no such processes: one, and only while nothing else is executed here.

        Runs in memory die with their process and its store: there only attempts that were given up make a suspect, and
        it need not be alone.
        """
        if self._children is not None or (self._executions and not self._in_memory):
            return ()
        claims = await self._store.claim(
            queues, holder=self.name, limit=1, lease_seconds=self._settings.lease_seconds, alone=True
        )
        if not self._in_memory:
            self._suspects.update(claim.topic for claim in claims)
        return claims

    def describe(self) -> agent_service_pb2.Worker:
        """This worker as ListWorkers shows it."""
        draining = self._claiming.stopped
        running = self._running.total()
        described = agent_service_pb2.Worker(
            worker=self.name,
            host=os.uname().nodename,
            version=version("runwire"),
            running=len(self._executions),
            room=0 if draining else max(0, self._settings.concurrency - running),
            draining=draining,
            start_time=timestamp(self._start_time),
        )
        for definition in self._agents:
            name = definition.agent_id
            described.agents.add(agent_id=name, version=definition.version, running=self._running[name])
        return described

    def drain(self) -> None:
        """Claims no more; `run` returns once what is being executed has finished or is handed back."""
        self._claiming.stop()
        self._orphaning.stop()
        self._presence.say_now()
        self._changed.set()
        self._freed.set()

    async def _wind_down(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._settings.shutdown_grace_seconds
        while self._executions and loop.time() < deadline:
            await self._wait_for_change(deadline - loop.time())
        for execution in self._executions.values():
            execution.interrupt(Interrupt.RELEASE)

    async def _wait_for_change(self, limit_seconds: float) -> None:
        self._changed.clear()
        await wait_for(self._changed, limit_seconds)

    def _running_now(self) -> Mapping[str, int]:
        return {agent_id: count for agent_id, count in dict(self._running).items() if agent_id}

    def _room(self) -> tuple[list[str], int, float]:
        """The queues of agents that have room, how many of their runs may be claimed at once, and how long to wait for
        one. One claim for all of them: whatever is due longest comes first."""
        limit = self._settings.concurrency - self._running.total()
        if (
            limit <= 0
            or self._claimed_bytes >= self._settings.claimed_bytes
            or (self._suspects and self._children is None)
        ):
            return [], 0, 0.0
        queues: list[str] = []
        wait_seconds = _MEMORY_CLAIM_WAIT_SECONDS if self._in_memory else _CLAIM_WAIT_SECONDS
        for definition in self._agents:
            room = (
                limit if definition.concurrency is None else definition.concurrency - self._running[definition.agent_id]
            )
            if room > 0:
                queues += _queues_of(definition)
                limit = min(limit, room)
            else:
                # Its queue is not waited for: look again soon, as one of its runs may end.
                wait_seconds = _FULL_WAIT_SECONDS
        return queues, limit, wait_seconds

    def _count_young(self) -> int:
        """How many began a moment ago. Those that come beside them make each turn of the event loop longer, for them
        and for every run and stream that was here before: so they come as `runwire.pace` lets them."""
        since = asyncio.get_running_loop().time() - _YOUNG_SECONDS
        while self._young and next(iter(self._young.values())) <= since:
            del self._young[next(iter(self._young))]
        return len(self._young)

    def _begin(self, claim: Claim, group: asyncio.TaskGroup, bodies: asyncio.TaskGroup) -> None:
        alone = claim.topic in self._suspects and not is_given_up(claim, self._settings)
        execution: Execution | AloneExecution
        if alone and self._children is not None:
            agent_id = ""  # it takes no room of the agent's here
            execution = AloneExecution(claim, self._store, self._children)
        else:
            execution = Execution.of(
                claim,
                self._agents,
                store=self._store,
                log=self._log,
                settings=self._settings,
                worker=self.name,
                bodies=bodies,
                known=self._known,
            )
            agent_id = execution.agent_id
            self._running[agent_id] += 1
        if (before := self._executions.get(claim.topic)) is not None:
            # Ours, from before this process was frozen for longer than its lease: the lease of now says nothing of it.
            before.lease_changed(LeaseState.LOST)
        self._executions[claim.topic] = execution
        self._young[execution] = asyncio.get_running_loop().time()
        self._pace.begins()
        self._claimed_bytes += _size(claim)
        self._leases.hold(claim.lease)
        group.create_task(self._execute(claim, agent_id, execution), name=f"execution {claim.topic}")

    async def _execute(self, claim: Claim, agent_id: str, execution: Execution | AloneExecution) -> None:
        try:
            await execution.run()
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():  # the agent's own
                await self._give_up(claim)
            raise
        except BaseException:
            # Ours, not the agent's. Another attempt is made, and losses are bounded.
            logger.exception("%s: attempt %d was given up", claim.topic, claim.head.attempt)
            await self._give_up(claim)
        finally:
            if claim.topic in self._suspects:
                self._suspects.discard(claim.topic)
                self._freed.set()
            self._leases.drop(claim.lease)
            self._claimed_bytes -= _size(claim)
            if isinstance(execution, Execution):
                self._running[agent_id] -= 1
            self._young.pop(execution, None)
            if self._executions.get(claim.topic) is execution:
                del self._executions[claim.topic]
            self._changed.set()

    async def _give_up(self, claim: Claim) -> None:
        """Hands the run back as lost: a claim by this process again would count as no loss, and never end."""
        try:
            await self._store.commit(Commit(claim.topic, claim.head.attempt, token=claim.token, schedule=Schedule.LOST))
        except RunwireError as error:
            logger.warning("%s: attempt %d could not be handed back: %s", claim.topic, claim.head.attempt, error)
        except Exception:
            logger.exception("%s: attempt %d could not be handed back", claim.topic, claim.head.attempt)

    def _lease_changed(self, lease: Lease, state: LeaseState) -> None:
        if state is LeaseState.LOST:
            metrics.LEASES_LOST.add()
        execution = self._executions.get(lease.topic)
        if execution is not None and execution.lease == lease:
            execution.lease_changed(state)
        elif state is LeaseState.LOST:
            self._leases.drop(lease)

    async def _sweep(self) -> None:
        """Removes what has expired, a little at a time."""
        await asyncio.sleep(_SWEEP_SECONDS)
        while await self._store.sweep():
            pass


def _queues_of(definition: Definition) -> tuple[str, str]:
    """Where its runs are found: those of its version, and those that any version may continue with."""
    return (
        record.queue_of(definition.agent_id, definition.version),
        record.any_queue_of(definition.agent_id),
    )


def _size(claim: Claim) -> int:
    """Bytes of the fields that an execution begins with."""
    return sum(map(len, claim.fields.values()))
