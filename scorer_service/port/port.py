"""What external workers ask for: registration, claims, reports.

A claim is the same claim as that of a worker of the service, and a report the same end: states, attempts, retries,
pauses, redrives, statistics and exports know no difference. What is different is whom a claim is given to: a worker is
named by its tenant, by who calls, and by the name that it gives itself, and sees the scorer runs of its tenant alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy import select
from sqlalchemy.engine import Connection

from runwire import metrics
from runwire.errors import ClaimLost, InvalidRequest, ScorerNotFound, ScorerRunNotFound, ServerDraining
from runwire.identity.principal import Principal
from runwire.loop import Wakeup
from runwire.scorer.v1 import scorer_port_pb2 as pb
from scorer_service.port.claims import Claims, Held, held
from scorer_service.port.external import External, Externals, Pair
from scorer_service.port.outcomes import finished_of, steps_of, timed_out
from scorer_service.port.reports import Reports
from scorer_service.port.waiters import Waiters
from scorer_service.queue.backlog import Backlog
from scorer_service.queue.jobs import Claimed, Offer, count_refused
from scorer_service.registry import newest_of
from scorer_service.results.database import Database
from scorer_service.results.records import Finished, Job, State
from scorer_service.results.schema import NOW, holders
from scorer_service.scoring import RetryPolicy

WORKER: Final = "port:"
"""How the names of external workers begin, where processes of the service are listed too."""
PUSH: Final = "push:"
"""How the names of dispatchers begin: what they claimed an executor reports, which has another identity."""
_ALONE_SECONDS: Final = 1.0
"""Least pause for a worker that is told that something wants it to itself, and has other things in hand."""
_DRAINING: Final = "this server ends: claim from another one"


@dataclass(frozen=True, slots=True)
class Rules:
    """What applies where a scorer does not say otherwise."""

    lease_seconds: float
    timeout_seconds: float
    retry: RetryPolicy
    max_losses: int
    orphan_seconds: float


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a worker asks for."""

    worker: str
    versions: Mapping[str, Sequence[str]]
    limit: int
    wait_seconds: float
    lease_seconds: float
    in_hand: int
    max_bytes: int


class Port:
    """One per process."""

    def __init__(self, database: Database, rules: Rules, backlog: Backlog, own: Callable[[str], bool]) -> None:
        """`own` says whether this process has a scorer itself."""
        self._database = database
        self._rules = rules
        self._backlog = backlog
        self._own = own
        self._reports = Reports(database)
        self._waiters = Waiters(database)
        self._draining = False
        self.externals = Externals(database)

    @property
    def looking(self) -> Wakeup:
        """Of the loop that calls `look_once`."""
        return self._waiters.looking

    async def look_once(self) -> float:
        """Wakes claims that wait and for which there is work."""
        return await self._waiters.look_once()

    def drain(self) -> None:
        """Ends the waits of claims."""
        self._draining = True
        self._waiters.wake_all()

    async def register(self, scorer: External) -> None:
        """Keeps what an external scorer is. Raises InvalidRequest for one that the service has itself."""
        if self._own(scorer.scorer_id) or await self._is_inner(scorer.scorer_id):
            raise InvalidRequest({"scorer.scorer_id": f"{scorer.scorer_id!r} is a scorer of the service itself"})
        await self.externals.register(scorer)

    async def _is_inner(self, scorer_id: str) -> bool:
        seen = holders.c.seen_time >= NOW - self._rules.orphan_seconds
        query = select(holders.c.worker).where(holders.c.scorer_id == scorer_id, holders.c.tenant == "", seen)
        found = await self._database.read(lambda connection: connection.execute(query.limit(1)).first())
        return found is not None

    # Claims

    async def claim(self, who: Principal, wanted: Wanted) -> tuple[Claimed, Claims]:
        """Scorer runs for a worker, once there are some; an empty answer when its patience is over."""
        pairs = {(name, version) for name, versions in wanted.versions.items() for version in versions}
        known = await self.externals.of(who.tenant, pairs)
        if missing := sorted(pairs - known.keys()):
            name, version = missing[0]
            raise ScorerNotFound(f"scorer {name!r} is not registered in version {version!r}", scorer_id=name)
        worker = worker_of(who, wanted.worker)
        await self.externals.say(who.tenant, worker, wanted.versions)
        claims = self._claims(who.tenant, worker, wanted.versions, wanted.lease_seconds)
        ends = time.monotonic() + wanted.wait_seconds
        places = [(who.tenant, name, each) for name, listed in wanted.versions.items() for each in ["", *listed]]
        while True:
            if self._draining:
                raise ServerDraining(_DRAINING)
            claimed = await self._claim(claims, wanted)
            left = ends - time.monotonic()
            if claimed.jobs or left <= 0:
                return claimed, claims
            if claimed.alone:
                await asyncio.sleep(min(left, _ALONE_SECONDS))
                return claimed, claims
            await self._waiters.wait(who.tenant, places, left)

    async def _claim(self, claims: Claims, wanted: Wanted) -> Claimed:
        offers = {scorer_id: Offer(wanted.limit) for scorer_id in wanted.versions}
        if not wanted.in_hand:  # what killed its workers comes first: it may wait long for one that is free
            alone = await claims.claim(offers, 1, alone=True, max_bytes=wanted.max_bytes, or_one=True)
            if alone.jobs:
                return alone
        found = await claims.claim(offers, wanted.limit, max_bytes=wanted.max_bytes, or_one=True)
        return found if wanted.in_hand else replace(found, alone=False)

    def _claims(self, tenant: str, worker: str, versions: Mapping[str, Sequence[str]], lease_seconds: float) -> Claims:
        return Claims(
            self._database,
            worker=worker,
            tenant=tenant,
            versions=versions,
            lease_seconds=lease_seconds or self._rules.lease_seconds,
            max_losses=self._rules.max_losses,
            backlog=self._backlog,
        )

    # Reports

    async def report(self, who: Principal, report: pb.ReportScorerRunRequest) -> tuple[State, float | None]:
        """Takes a report; returns what the scorer run is then, and when it is due. Raises ScorerRunNotFound, ClaimLost,
        InvalidRequest."""
        found = await self._database.look(lambda connection: held(connection, report.scorer_run_id))
        if found is None or found.job.tenant != who.tenant:
            raise ScorerRunNotFound(f"there is no scorer run {report.scorer_run_id!r}")
        pushed = found.worker.startswith(PUSH) and report.worker == found.worker
        if not (pushed or found.worker == worker_of(who, report.worker)) or found.job.token != report.claim:
            await self._refuse(report, "it was claimed by somebody else, cancelled or redriven since")
        scorer = await self._scorer(found.job, report.scorer_version)
        claims = self._claims(who.tenant, found.worker, {}, 0.0)
        if found.state != State.RUNNING:
            if report.WhichOneof("report") == "extension":
                await self._refuse(report, f"it is {State(found.state).name}")
            return State(found.state), found.due_time  # what came first holds
        if report.WhichOneof("report") == "extension":
            return await self._extend(claims, found, scorer, report)
        finished = finished_of(found.job, scorer, report, self._policy(scorer))
        if not await self._reports.end(claims, finished):
            raise ClaimLost(_lost(report, "it was claimed by somebody else, cancelled or redriven meanwhile"))
        return finished.state, _due(finished, found.now)

    async def _scorer(self, job: Job, version: str) -> External:
        pair: Pair = (job.scorer_id, version)
        found = (await self.externals.of(job.tenant, [pair])).get(pair)
        if found is None or job.wanted_version not in ("", version):
            raise InvalidRequest({"scorer_version": f"{version!r} is not what {job.scorer_run_id!r} was claimed for"})
        return found

    async def _extend(
        self, claims: Claims, found: Held, scorer: External, report: pb.ReportScorerRunRequest
    ) -> tuple[State, float | None]:
        job = found.job
        longest = scorer.timeout_seconds or self._rules.timeout_seconds
        left = longest - (found.now - job.start_time)
        if left <= 0:
            await self._reports.end(claims, timed_out(job, scorer, self._policy(scorer), longest))
            raise ClaimLost(_lost(report, f"the attempt took longer than {longest:g} s"))
        if report.HasField("steps"):
            await claims.keep_steps({job: steps_of(job, report)})
        asked = report.extension.lease.ToNanoseconds() / 1e9 or self._rules.lease_seconds
        claims.lease_seconds = asked  # not less, where little time is left: then the next one would come too late
        if await claims.extend([job]):
            await self._refuse(report, "it was claimed by somebody else, cancelled or redriven meanwhile")
        return State.RUNNING, found.now + claims.lease_seconds

    async def _refuse(self, report: pb.ReportScorerRunRequest, why: str) -> None:
        """Counts a report that comes too late, and says so. Raises ClaimLost."""

        def work(connection: Connection) -> None:
            count_refused(connection, 1)

        await self._database.write(work)
        metrics.SCORER_REFUSED.add(1)
        raise ClaimLost(_lost(report, why))

    def _policy(self, scorer: External) -> RetryPolicy:
        policy = self._rules.retry
        return policy if scorer.retries is None else replace(policy, retries=scorer.retries)


def worker_of(who: Principal, name: str) -> str:
    """The worker of this name, as it stands in the database. The name has no `/`: so none is taken for another."""
    return f"{WORKER}{who.tenant}/{who.subject}/{name}"


def version_of(versions: Sequence[str], wanted: str) -> str:
    """Which of a worker's versions does what asks for `wanted`."""
    return wanted or newest_of(versions)


def _lost(report: pb.ReportScorerRunRequest, why: str) -> str:
    return f"claim {report.claim} of scorer run {report.scorer_run_id!r} is lost: {why}"


def _due(finished: Finished, now: float) -> float | None:
    return now + finished.delay_seconds if finished.state in (State.RETRYING, State.PENDING) else None
