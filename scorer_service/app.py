"""The scorer service put together: the one place where its parts are made and joined."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from runwire import metrics, scaler, telemetry
from runwire.calls import Calls
from runwire.connect import open_store
from runwire.errors import ConfigurationError, RunwireError, StoreUnavailable
from runwire.identity.settings import access_of
from runwire.loop import Wakeup, repeat
from runwire.outflow import Outflow
from runwire.pubsub import Store
from runwire.rpc import Server, serve
from runwire.scaler import Scaler
from scorer_service import registry
from scorer_service.answers.controls import Controls
from scorer_service.answers.queries import Queries
from scorer_service.answers.statistics import Statistics
from scorer_service.answers.watch import Watch
from scorer_service.config import Settings
from scorer_service.execution.executor import Executor, Limits, start_executor
from scorer_service.execution.processes import JudgeSettings, Processes
from scorer_service.execution.worker import Worker
from scorer_service.people.opinions import Opinions
from scorer_service.port.port import Port, Rules
from scorer_service.push import targets
from scorer_service.push.dispatcher import dispatch
from scorer_service.queue.budgets import Budgets
from scorer_service.queue.holders import Holders
from scorer_service.queue.intake import Intake
from scorer_service.queue.jobs import Jobs
from scorer_service.queue.metrics import QueueMetrics
from scorer_service.queue.rates import Rate
from scorer_service.queue.retention import Ages, Retention
from scorer_service.queue.tallies import Tallies
from scorer_service.registry import Registry
from scorer_service.results import migrate, revisions
from scorer_service.results.database import WORK_SECONDS, Database, open_database
from scorer_service.runs import Runs
from scorer_service.scoring import Judge, RetryPolicy
from scorer_service.servicer import SERVICE, ScorerServicer, register

if TYPE_CHECKING:
    from scorer_service.export import Exporter

_SCORER_RUNS_A_PROCESS: Final = 100.0
"""What a process is to have where KEDA is not told otherwise."""
_HEALTH_SECONDS: Final = 2.0
_START_SECONDS: Final = 3600.0
_AWAY_SECONDS: Final = 0.5
"""How often it is looked for while it is away."""
_STREAM_GRACE_SECONDS: Final = 2.0

T = TypeVar("T")

logger = logging.getLogger("scorer_service")


async def run(
    settings: Settings,
    announce: Callable[[str], None],
    stopping: asyncio.Event | None = None,
    scorers: Registry | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT (or `stopping`, where it is given), then drains: health first, watches told, work
    finished or handed back. It ends so too while it still waits for its store or its database.

    `announce` is told the address once the service answers. `scorers` stand in for those that the settings name. Raises
    ConfigurationError, StoreUnavailable, and RunwireError where scorers used the process up: they block the others for
    good, or leave behind what never ends.
    """
    if settings.scorer_role == "dispatch":
        await _dispatch(settings, announce, stopping or _stop_on_signals())
        return
    scorers = scorers or registry.load(settings.scorers)
    judge = _judge(settings)
    stopping, stuck = stopping or _stop_on_signals(), list[str]()

    def on_stuck(why: str) -> None:
        stuck.append(why)
        stopping.set()

    async with AsyncExitStack() as stack:
        engine = urlsplit(settings.results).scheme.partition("+")[0]
        await stack.enter_async_context(telemetry.measured("scorer", engine, settings.metrics, settings.metrics_export))
        service = await _unless(stopping, _put_together(stack, settings, scorers, judge, on_stuck))
        if service is not None:
            gc.freeze()  # what is there now stays: not to look through it again and again saves 8 % of a scorer run
            await service.run(stopping, announce)
    if stuck:
        raise RunwireError(f"{stuck[0]}; this process ended for it, and what it held was handed back")


async def _dispatch(settings: Settings, announce: Callable[[str], None], stopping: asyncio.Event) -> None:
    """Pushes scorer runs to executors until it is told to stop. It listens for health checks alone."""
    found = targets.load(settings.scorer_push_targets)
    async with (
        open_database(settings.results, work_seconds=_work_seconds(settings)) as database,
        serve(settings.listen, lambda _: None, [], access=access_of(settings)) as server,
        asyncio.TaskGroup() as group,
    ):
        await _prepare(database, settings)
        work = group.create_task(dispatch(database, found, _name()), name="dispatch")
        await server.set_serving(True)
        announce(server.address)
        await stopping.wait()
        work.cancel()


def _name() -> str:
    """Of this process: another one after each start."""
    return f"{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}"


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`; None if `stopping` is set before: then it is cancelled."""
    problem: Exception | None = None
    result: T | None = None
    try:
        async with asyncio.timeout(None) as patience, asyncio.TaskGroup() as group:

            async def give_up() -> None:
                await stopping.wait()
                patience.reschedule(0.0)

            giving_up = group.create_task(give_up(), name="signal while starting")
            try:
                result = await work
            except Exception as error:  # raised below: a task group would wrap it
                problem = error
            giving_up.cancel()
    except TimeoutError:
        return None  # nothing else sets this time
    if problem is not None and not stopping.is_set():
        raise problem
    return result


async def _put_together(
    stack: AsyncExitStack,
    settings: Settings,
    scorers: Registry,
    judge: Judge | None,
    on_stuck: Callable[[str], None],
) -> _Service:
    database = await stack.enter_async_context(open_database(settings.results, work_seconds=_work_seconds(settings)))
    await _prepare(database, settings)
    exporter = _exporter(settings, database)
    jobs, holders = await _queue(settings, database, scorers, exports=exporter is not None)
    claiming = Wakeup()
    runs = Runs(max_fetched_bytes=settings.scorer_max_fetched_bytes)
    queries, statistics = Queries(database), Statistics(database)
    watch = Watch(queries, runs.all_sent)
    port = Port(database, _rules(settings), jobs.backlog, scorers.__contains__)
    servicer = ScorerServicer(
        queries,
        statistics,
        Controls(database, jobs, scorers, wake=claiming.wake, orphan_seconds=settings.scorer_orphan_seconds),
        watch,
        scorers,
        holders,
        port,
        Opinions(database, jobs),
        Budgets(database),
        owns=runs.is_owned,
        brief=runs.brief,
        judge_model=settings.judge_model,
        max_sample_bytes=settings.scorer_max_sample_bytes,
    )

    def register_all(server: Any) -> None:
        register(servicer, server)
        scaler.register(Scaler("runwire-scorer-runs", "scorers", _SCORER_RUNS_A_PROCESS, holders.work), server)

    calls, outflow = Calls(), Outflow()
    server = await stack.enter_async_context(
        serve(
            settings.listen,
            register_all,
            [SERVICE, scaler.SERVICE],
            calls=calls,
            outflow=outflow,
            access=access_of(settings),
        )
    )
    # Asked by the collector, in another thread.
    stack.enter_context(metrics.STREAMS_OPEN.of(lambda: outflow.streams))
    stack.enter_context(metrics.CALLS_WAITING.of(lambda: calls.waiting))
    # What it answers from is its own database: it lives, NOT_SERVING, while the store is waited for.
    store = await stack.enter_async_context(open_store(settings.store))
    await store.ping()
    runs.open(store)

    def on_new() -> None:
        claiming.wake()
        port.looking.wake()

    executor = _make_executor(settings, scorers, judge, runs, jobs.worker)
    worker = _make_worker(settings, jobs, scorers, executor, claiming, on_stuck)
    await stack.enter_async_context(start_executor(executor, worker))
    queue_metrics = _queue_metrics(settings, database, store)
    if queue_metrics is not None:
        stack.enter_context(queue_metrics.shown())
    return _Service(
        database=database,
        server=server,
        worker=worker,
        holders=holders,
        intake=Intake(
            store,
            jobs,
            database,
            max_sample_bytes=settings.scorer_max_fetched_bytes,
            on_new=on_new,
        ),
        port=port,
        watch=watch,
        statistics=statistics,
        tallies=Tallies(database),
        retention=Retention(database, _ages(settings), backlog=jobs.backlog),
        exporter=exporter,
        queue_metrics=queue_metrics,
    )


async def _queue(settings: Settings, database: Database, scorers: Registry, *, exports: bool) -> tuple[Jobs, Holders]:
    name = _name()
    jobs = Jobs(
        database,
        worker=name,
        lease_seconds=settings.scorer_lease_seconds,
        max_losses=settings.scorer_max_losses,
        export_backlog=settings.scorer_export_backlog if exports else 0,
    )
    await jobs.register(scorers.versions)
    holders = Holders(
        database, name, scorers.versions, orphan_seconds=settings.scorer_orphan_seconds, backlog=jobs.backlog
    )
    return jobs, holders


def _make_worker(
    settings: Settings,
    jobs: Jobs,
    scorers: Registry,
    executor: Executor,
    claiming: Wakeup,
    on_stuck: Callable[[str], None],
) -> Worker:
    return Worker(
        jobs,
        scorers,
        _limits(settings),
        executor,
        claiming,
        concurrency=settings.scorer_concurrency,
        processes=settings.scorer_processes,
        judge_rate=_rate(settings),
        grace_seconds=settings.scorer_grace_seconds,
        max_sample_bytes=settings.scorer_memory_bytes // 2,
        on_stuck=on_stuck,
    )


def _ages(settings: Settings) -> Ages:
    return Ages(
        settings.scorer_retention_seconds,
        settings.scorer_failed_retention_seconds,
        settings.scorer_sample_retention_seconds,
    )


def _queue_metrics(settings: Settings, database: Database, store: Store) -> QueueMetrics | None:
    return QueueMetrics(database, store) if settings.metrics or settings.metrics_export else None


def _work_seconds(settings: Settings) -> float:
    """What does not answer for this long is given up while leases can still be renewed."""
    return max(2.0, min(WORK_SECONDS, settings.scorer_lease_seconds / 3))


@dataclass(kw_only=True, slots=True)
class _Service:
    """The long-lived parts of the service, and the order in which they end."""

    database: Database
    server: Server
    worker: Worker
    holders: Holders
    intake: Intake
    port: Port
    watch: Watch
    statistics: Statistics
    tallies: Tallies
    retention: Retention
    exporter: Exporter | None
    queue_metrics: QueueMetrics | None
    _problem: str = ""
    _wakeups: Sequence[Wakeup] = ()
    _stopping: bool = False

    async def run(self, stopping: asyncio.Event, announce: Callable[[str], None]) -> None:
        async with asyncio.TaskGroup() as group:
            intake = Wakeup()
            loops: list[tuple[str, Any, Wakeup]] = [
                ("intake", self.intake.run_once, intake),
                ("parked requests", self.intake.retry_once, Wakeup()),
                ("claims from outside", self.port.look_once, self.port.looking),
                ("watch", self.watch.poll_once, Wakeup()),
                ("statistics", self.statistics.run_once, Wakeup()),
                ("tallies", self.tallies.run_once, Wakeup()),
                ("retention", self.retention.run_once, Wakeup()),
                ("deadlines", self.retention.end_late_once, Wakeup()),
                ("health", self._check_health, Wakeup()),
                ("registration", self.holders.run_once, Wakeup()),
            ]
            if self.exporter is not None:
                loops.append(("export", self.exporter.run_once, Wakeup()))
            if self.queue_metrics is not None:
                loops.append(("metrics", self.queue_metrics.run_once, Wakeup()))
                loops.append(("loop lag", telemetry.watch_lag, Wakeup()))
            self._wakeups = [wakeup for _, _, wakeup in loops]
            tasks = [group.create_task(repeat(name, work, wakeup), name=name) for name, work, wakeup in loops]
            working = group.create_task(self.worker.run(), name="worker")
            await self.server.set_serving(True)
            announce(self.server.address)
            await stopping.wait()
            logger.info("shutting down")
            self._stopping = True
            await self.server.set_serving(False)
            intake.stop()
            self.worker.stop()
            self.watch.drain()
            self.port.drain()
            await self.server.stop(_STREAM_GRACE_SECONDS)
            await working
            for task in tasks:
                task.cancel()
            if self.exporter is not None:
                self.exporter.stop()  # a collector that does not answer must not keep the process

    async def _check_health(self) -> float:
        """Health is NOT_SERVING while the database would take no write, and says why."""
        problem = ""
        try:
            await self.database.check()
        except StoreUnavailable as error:
            problem = str(error)
        if self._stopping:
            return _HEALTH_SECONDS
        if problem and problem != self._problem:
            logger.error("not serving: %s", problem)
        elif self._problem and not problem:
            logger.info("serving: the results database takes writes again")
        if bool(problem) != bool(self._problem):
            await self.server.set_serving(not problem)
        if self._problem and not problem:
            self.worker.resume()
            for wakeup in self._wakeups:
                wakeup.wake()  # those who wait with growing pauses need not wait any longer
        self._problem = problem
        return _AWAY_SECONDS if problem else _HEALTH_SECONDS


def _stop_on_signals() -> asyncio.Event:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    return stopping


async def _prepare(database: Database, settings: Settings) -> None:
    """The schema is made in a SQLite file of our own; a server's is only changed when asked to."""
    await database.reach()
    if database.embedded or settings.scorer_migrate:
        await migrate.migrate(database)
    else:
        await migrate.check(database)
    if await database.write(revisions.settle_in, limit_seconds=_START_SECONDS):
        logger.warning("the results database comes from another server: watches start over")


def _retries(settings: Settings) -> RetryPolicy:
    return RetryPolicy(
        settings.scorer_retries,
        settings.scorer_retry_first_seconds,
        settings.scorer_retry_max_seconds,
        settings.scorer_wait_seconds,
    )


def _rules(settings: Settings) -> Rules:
    return Rules(
        lease_seconds=settings.scorer_lease_seconds,
        timeout_seconds=settings.scorer_timeout_seconds,
        retry=_retries(settings),
        max_losses=settings.scorer_max_losses,
        orphan_seconds=settings.scorer_orphan_seconds,
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        settings.scorer_timeout_seconds,
        _retries(settings),
        settings.scorer_concurrency,
        max_losses=settings.scorer_max_losses,
        max_fetched_bytes=settings.scorer_max_fetched_bytes,
        fetched_bytes=settings.scorer_memory_bytes // 2,
        keep_content=settings.scorer_keep_content,
    )


def _rate(settings: Settings) -> Rate | None:
    if not settings.judge_model:
        return None
    return Rate(settings.judge_model, settings.judge_rate or None, settings.judge_burst, adaptive=True)


def _make_executor(settings: Settings, scorers: Registry, judge: Judge | None, runs: Runs, worker: str) -> Executor:
    return Executor(
        scorers,
        _limits(settings),
        judge,
        # One more than are offered: for what is to run alone.
        lambda: Processes(settings.scorer_processes + 1, settings.scorers, _judge_settings(settings)),
        runs.fetch,
        worker,
    )


def _judge_settings(settings: Settings) -> JudgeSettings | None:
    if not settings.judge_model:
        return None
    return JudgeSettings(settings.judge_model, settings.judge_temperature, settings.judge_timeout_seconds)


def _judge(settings: Settings) -> Judge | None:
    if not settings.judge_model:
        return None
    from scorer_service.scorers.model import configured_judge

    return configured_judge(
        settings.judge_model, temperature=settings.judge_temperature, timeout_seconds=settings.judge_timeout_seconds
    )


_OTLP_PROTOCOLS: Final = tuple(f"OTEL_EXPORTER_OTLP_{kind}PROTOCOL" for kind in ("", "LOGS_", "TRACES_"))


def _exporter(settings: Settings, database: Database) -> Exporter | None:
    if not settings.scorer_export:
        return None
    for name in _OTLP_PROTOCOLS:
        if (protocol := os.environ.get(name, "grpc")) not in ("", "grpc"):
            raise ConfigurationError(f"{name} is {protocol!r}; results are exported by OTLP over gRPC only: grpc")
    from scorer_service.export import open_exporter

    return open_exporter(database)
