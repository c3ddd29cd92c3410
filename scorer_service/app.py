"""The scorer service put together: the one place where its parts are made and joined."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Final

from runwire.connect import open_store
from runwire.errors import RunwireError, StoreUnavailable
from runwire.pubsub import Store
from runwire.rpc import Server, serve
from scorer_service import fetch, migrate, registry, revisions
from scorer_service.config import Settings
from scorer_service.controls import Controls
from scorer_service.database import Database, open_database
from scorer_service.executor import Executor, Limits, start_executor
from scorer_service.intake import QUEUE, Intake
from scorer_service.jobs import Jobs, Rate
from scorer_service.loop import Bell, repeat
from scorer_service.processes import JudgeSettings, Processes
from scorer_service.queries import Queries
from scorer_service.registry import Registry
from scorer_service.retention import Ages, Retention
from scorer_service.scoring import Judge, RetryPolicy
from scorer_service.servicer import SERVICE, ScorerServicer, register
from scorer_service.watch import Watch
from scorer_service.worker import Worker

if TYPE_CHECKING:
    from scorer_service.export import Exporter

_HEALTH_SECONDS: Final = 2.0
_STREAM_GRACE_SECONDS: Final = 2.0
_REGISTER_SECONDS: Final = 60.0

log = logging.getLogger("scorer_service")


async def run(settings: Settings, announce: Callable[[str], None], stopping: asyncio.Event | None = None) -> None:
    """Serves until SIGTERM or SIGINT (or `stopping`, where it is given), then drains: health first, watches told, work
    finished or handed back.

    `announce` is told the address once the service answers. Raises ConfigurationError, StoreUnavailable, and
    RunwireError where scorers used the process up: they block the others for good, or leave behind what never ends.
    """
    scorers = registry.load(settings.scorers)
    judge = _judge(settings)
    stopping, stuck = stopping or _stop_on_signals(), list[str]()

    def on_stuck(why: str) -> None:
        stuck.append(why)
        stopping.set()

    async with AsyncExitStack() as stack:
        database = await stack.enter_async_context(open_database(settings.results))
        await _prepare(database, settings)
        exporter = _exporter(settings, database)
        jobs = Jobs(
            database,
            worker=f"{os.uname().nodename}-{os.getpid()}-{os.urandom(4).hex()}",
            lease_seconds=settings.scorer_lease_seconds,
            max_losses=settings.scorer_max_losses,
            export_backlog=settings.scorer_export_backlog if exporter else 0,
        )
        await jobs.register(scorers.ids)
        worker = Worker(
            jobs,
            scorers,
            _limits(settings),
            concurrency=settings.scorer_concurrency,
            processes=settings.scorer_processes,
            judge_rate=_rate(settings),
            grace_seconds=settings.scorer_grace_seconds,
            max_sample_bytes=settings.scorer_memory_bytes // 2,
            on_stuck=on_stuck,
        )
        queries = Queries(database)
        watch = Watch(queries)
        servicer = ScorerServicer(
            queries,
            Controls(database, jobs, scorers, wake=worker.wake),
            watch,
            scorers,
            judge_model=settings.judge_model,
            max_sample_bytes=settings.scorer_max_sample_bytes,
        )
        server = await stack.enter_async_context(
            serve(settings.listen, lambda server: register(servicer, server), [SERVICE])
        )
        # What it answers from is its own database: it lives, NOT_SERVING, while the store is waited for.
        store = await stack.enter_async_context(open_store(settings.store))
        await store.ping()
        watch.all_sent = fetch.all_sent(store, QUEUE)
        worker.executor = await stack.enter_async_context(
            start_executor(_make_executor(settings, scorers, judge, store, worker))
        )
        intake = Intake(
            store,
            jobs,
            scorers,
            max_sample_bytes=settings.scorer_max_sample_bytes,
            on_new=worker.wake,
        )
        ages = Ages(
            settings.scorer_retention_seconds,
            settings.scorer_failed_retention_seconds,
            settings.scorer_sample_retention_seconds,
        )
        parts = _Parts(
            database, store, server, worker, jobs, scorers, intake, watch, Retention(database, ages), exporter
        )
        gc.freeze()  # what is there now stays: not to look through it again and again saves 8 % of a scorer run
        await parts.run(stopping, announce)
    if stuck:
        raise RunwireError(f"{stuck[0]}; this process ended for it, and what it held was handed back")


class _Parts:
    """The long-lived parts of the service, and the order in which they end."""

    def __init__(
        self,
        database: Database,
        store: Store,
        server: Server,
        worker: Worker,
        jobs: Jobs,
        scorers: Registry,
        intake: Intake,
        watch: Watch,
        retention: Retention,
        exporter: Exporter | None,
    ) -> None:
        self._database = database
        self._store = store
        self._server = server
        self._worker = worker
        self._jobs = jobs
        self._scorers = scorers
        self._intake = intake
        self._watch = watch
        self._retention = retention
        self._exporter = exporter
        self._serving = True
        self._stopping = False

    async def run(self, stopping: asyncio.Event, announce: Callable[[str], None]) -> None:
        async with asyncio.TaskGroup() as group:
            intake, background = Bell(), Bell()
            loops: list[tuple[str, Any, Bell]] = [
                ("intake", self._intake.run_once, intake),
                ("watch", self._watch.poll_once, background),
                ("retention", self._retention.run_once, background),
                ("health", self._check_health, background),
                ("registration", self._register, background),
            ]
            if self._exporter is not None:
                loops.append(("export", self._exporter.run_once, background))
            tasks = [group.create_task(repeat(name, work, bell), name=name) for name, work, bell in loops]
            working = group.create_task(self._worker.run(), name="worker")
            await self._server.set_serving(True)
            announce(self._server.address)
            await stopping.wait()
            log.info("shutting down")
            self._stopping = True
            await self._server.set_serving(False)
            intake.stop()
            self._worker.stop()
            self._watch.drain()
            await self._server.stop(_STREAM_GRACE_SECONDS)
            await working
            for task in tasks:
                task.cancel()
            if self._exporter is not None:
                self._exporter.stop()  # a collector that does not answer must not keep the process

    async def _check_health(self) -> float:
        """Health is NOT_SERVING while the database does not answer."""
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                await self._database.now()
            healthy = True
        except (StoreUnavailable, TimeoutError):
            healthy = False
        if healthy != self._serving and not self._stopping:
            self._serving = healthy
            log.log(logging.INFO if healthy else logging.ERROR, "the results database answers: %s", healthy)
            await self._server.set_serving(healthy)
        return _HEALTH_SECONDS

    async def _register(self) -> float:
        await self._jobs.register(self._scorers.ids)
        return _REGISTER_SECONDS


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
    if await database.write(revisions.mend):
        log.warning("the results database comes from another server: watches begin anew")


def _limits(settings: Settings) -> Limits:
    policy = RetryPolicy(
        settings.scorer_retries,
        settings.scorer_retry_first_seconds,
        settings.scorer_retry_max_seconds,
        settings.scorer_wait_seconds,
    )
    return Limits(
        settings.scorer_timeout_seconds,
        policy,
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


def _make_executor(
    settings: Settings, scorers: Registry, judge: Judge | None, store: Store, worker: Worker
) -> Executor:
    return Executor(
        scorers,
        _limits(settings),
        judge,
        # One more than are offered: for what is to run alone.
        lambda: Processes(settings.scorer_processes + 1, settings.scorers, _judge_settings(settings)),
        fetch.fetch_from(store, settings.scorer_max_fetched_bytes),
        worker.deliver,
        worker.on_step,
        worker.end_process,
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


def _exporter(settings: Settings, database: Database) -> Exporter | None:
    if not settings.scorer_export:
        return None
    from scorer_service.export import open_exporter

    return open_exporter(database)
