"""Claims scorer runs for an executor, and posts them to it.

    claim under a long lease -> post, again after pauses -> the executor reports by ReportScorerRun
                                 not taken: handed back, tried again later, no attempt
    silence until the lease ends -> due again, with a new claim: what the executor reports for the old one is refused

An executor may so lose, double and delay what it was given: each scorer run is scored once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from google.protobuf import json_format
from google.protobuf.message import DecodeError

from runwire.backoff import Backoff
from runwire.loop import repeat
from scorer_service.port import messages
from scorer_service.port.external import External, Externals
from scorer_service.port.port import PUSH, Wanted
from scorer_service.push.claims import PushClaims, versions_of
from scorer_service.push.events import event_of
from scorer_service.push.posting import NotTaken, post
from scorer_service.push.targets import Target
from scorer_service.queue.backlog import Backlog
from scorer_service.queue.jobs import Offer
from scorer_service.results.database import Database
from scorer_service.results.records import Error, Finished, Job, State, printable

logger = logging.getLogger("scorer_service")

LOOK_SECONDS: Final = 0.25
AT_ONCE: Final = 32
"""Posts to a target at once."""
_TRIES: Final = 3
_PAUSES: Final = Backoff(0.2, 5.0)
_AWAY: Final = Backoff(5.0, 600.0, jitter=0.5)
"""Until what a target did not take is tried again."""
_MAX_SAMPLE_BYTES: Final = 256 * 1024
"""Engines take events of about so much; a larger sample goes by reference."""


class Dispatcher:
    """One target."""

    def __init__(self, database: Database, target: Target, name: str, threads: ThreadPoolExecutor) -> None:
        self._target = target
        self._externals = Externals(database)
        self._claims = PushClaims(database, target, worker=PUSH + name, backlog=Backlog())
        self._threads = threads
        self._registered = False

    async def run_once(self) -> float:
        """Claims what there is room for, and posts it; returns when to look again."""
        target = self._target
        if not self._registered:
            await self._externals.register(external_of(target))
            self._registered = True
        await self._externals.say(target.tenant, self._claims.worker, versions_of(target))
        room = min(AT_ONCE, target.concurrency - await self._claims.held())
        if room <= 0:
            return LOOK_SECONDS
        claimed = await self._claims.claim({target.scorer_id: Offer(room)}, room)
        if not claimed.jobs:
            return LOOK_SECONDS
        traces = await self._claims.traces(claimed.jobs)
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._post(job, traces.get(job.scorer_run_id, ("", "")))) for job in claimed.jobs
            ]
        refused = [done for task in tasks if (done := task.result()) is not None]
        await self._claims.finish(refused)
        return LOOK_SECONDS if refused else 0.0

    async def _post(self, job: Job, trace: tuple[str, str]) -> Finished | None:
        """Posts one; how it is handed back, where it was not taken."""
        target = self._target
        wanted = Wanted(self._claims.worker, versions_of(target), 1, 0.0, 0.0, 0, _MAX_SAMPLE_BYTES)
        try:
            claimed = messages.claimed(job, wanted, target.lease_seconds, trace)
            body, headers = event_of(target, claimed, self._claims.worker, time.time())
        except (json_format.Error, DecodeError, ValueError) as error:
            # Whoever wrote it was free to: it must not keep those that were claimed with it.
            why = Error("sample_unreadable", printable(f"its sample cannot be written as JSON: {error}"))
            return Finished(job, State.FAILED, target.version, error=why, failed=True, steps=job.steps)
        loop, problem = asyncio.get_running_loop(), ""
        for failures in range(1, _TRIES + 1):
            try:
                await loop.run_in_executor(self._threads, post, target, body, headers)
                return None
            except NotTaken as error:
                problem = str(error)
            if failures < _TRIES:
                await asyncio.sleep(_PAUSES.pause(failures))
        logger.warning("not taken: %s", problem)
        why = Error("executor_unavailable", problem)
        pause = _AWAY.pause(job.waits + 1)
        return Finished(
            job, State.RETRYING, target.version, error=why, waited=True, delay_seconds=pause, steps=job.steps
        )


def external_of(target: Target) -> External:
    """What a target is to those who ask for scorers."""
    return External(
        tenant=target.tenant,
        scorer_id=target.scorer_id,
        version=target.version,
        description=target.description,
        direction=target.direction,
        timeout_seconds=target.timeout_seconds or target.lease_seconds,
        retries=target.retries,
    )


async def dispatch(database: Database, targets: Sequence[Target], name: str) -> None:
    """Serves all targets until it is cancelled; one that is away holds up no other."""
    # Each has threads of its own: those of one that does not answer are all in use.
    pools = [ThreadPoolExecutor(AT_ONCE, "push") for _ in targets]
    try:
        async with asyncio.TaskGroup() as group:
            for target, threads in zip(targets, pools, strict=True):
                work = Dispatcher(database, target, name, threads).run_once
                group.create_task(repeat(f"dispatch to the {target.name}", work), name=target.name)
    finally:
        for threads in pools:
            threads.shutdown(wait=False, cancel_futures=True)
