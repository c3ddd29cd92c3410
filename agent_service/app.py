"""The agent service put together: the one place where its parts are made and joined."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from agent_service.agents import registry
from agent_service.agents.lifespans import StoppedEarly
from agent_service.agents.registry import Registry
from agent_service.config import Settings
from agent_service.execution.worker import Worker
from agent_service.fleet import Fleet
from agent_service.process.end import LAST_SECONDS, BoundedEnd
from agent_service.runs import Runs
from agent_service.servicer import AgentServicer
from runwire import metrics, scaler, telemetry
from runwire.agent.v1 import agent_service_pb2, agent_service_pb2_grpc
from runwire.caching_pubsub import CachingPubSub
from runwire.calls import Calls
from runwire.connect import open_store
from runwire.errors import StoreUnavailable
from runwire.identity.settings import access_of
from runwire.loop import repeat
from runwire.outflow import Outflow
from runwire.pace import Pace
from runwire.pubsub import Store
from runwire.rpc import Server, serve
from runwire.scaler import Scaler

SERVICE: Final = agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name
_RUNS_A_WORKER: Final = 20.0
"""What a worker is to have where KEDA is not told otherwise."""
_HEALTH_SECONDS: Final = 2.0
_STREAM_GRACE_SECONDS: Final = 2.0
_COMING_IN_SECONDS: Final = 0.3

logger = logging.getLogger("agent_service")


async def run(settings: Settings, announce: Callable[[str, str], None], *, shared_port: bool = False) -> None:
    """Serves until SIGTERM or SIGINT, then drains: health first, streams told, runs finished or handed back.

    It listens at once, with health NOT_SERVING until the store is there, which is waited for as long as its URL says.
    `announce` is told the address once the service answers, and that of its metrics (empty: none). `shared_port`: see
    `runwire.rpc.serve`. Raises ConfigurationError, StoreUnavailable.
    """
    agents = registry.load(settings.agents)
    opening = open_store(settings.store)
    stopping = asyncio.Event()
    async with AsyncExitStack() as stack:
        engine = urlsplit(settings.store).scheme
        page = await stack.enter_async_context(
            telemetry.measured("agent", engine, settings.metrics, settings.metrics_export)
        )
        await stack.enter_async_context(
            telemetry.traced("agent", settings.trace_export, content=settings.trace_content)
        )
        end = BoundedEnd(settings.shutdown_grace_seconds + LAST_SECONDS)
        service = await stack.enter_async_context(listen(agents, settings, shared_port))
        try:
            async with asyncio.timeout(None) as patience:

                def stop() -> None:
                    stopping.set()
                    with suppress(RuntimeError):  # the store is there: there is nothing to break off
                        patience.reschedule(0.0)

                _on_signals(end, stop)
                store = await stack.enter_async_context(opening)
        except (TimeoutError, StoreUnavailable):
            if not stopping.is_set():
                raise
        else:
            await service.run_on(store, stopping, lambda address: announce(address, page))


def _on_signals(end: BoundedEnd, stop: Callable[[], None]) -> None:
    """Heeds SIGTERM and SIGINT: `stop` on the loop, the bounded end also while an agent blocks the loop."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
        # In the place of the loop's own, which does nothing: what wakes the loop is the signal's number in its pipe.
        signal.signal(number, lambda *_: end.begin())


@asynccontextmanager
async def listen(agents: Registry, settings: Settings, shared_port: bool = False) -> AsyncIterator[Service]:
    """A service that listens, until the block is left. Raises ConfigurationError for a wrong address."""
    outflow = Outflow(settings.stream_buffer_bytes // 2, settings.max_streams, settings.write_timeout_seconds)
    pace = Pace()
    calls = Calls(settings.max_calls, settings.call_buffer_bytes, pace)
    access = access_of(settings)
    servicer = AgentServicer(agents, settings, outflow, access.run_tokens)

    def register(server: object) -> None:
        if settings.role != "work":
            agent_service_pb2_grpc.add_AgentServiceServicer_to_server(servicer, server)
            keda = Scaler("runwire-runs", "agents", _RUNS_A_WORKER, lambda agent_ids: servicer.fleet.work(agent_ids))
            scaler.register(keda, server)

    services = [] if settings.role == "work" else [SERVICE, scaler.SERVICE]
    async with serve(
        settings.listen, register, services, calls=calls, outflow=outflow, access=access, shared_port=shared_port
    ) as server:
        # Asked by the collector, in another thread.
        with metrics.STREAMS_OPEN.of(lambda: outflow.streams), metrics.CALLS_WAITING.of(lambda: calls.waiting):
            yield Service(agents, settings, servicer, server, pace)


class Service:
    """Listens, and serves once it is given a store. Made by `listen`."""

    def __init__(
        self, agents: Registry, settings: Settings, servicer: AgentServicer, server: Server, pace: Pace
    ) -> None:
        self._agents = agents
        self._settings = settings
        self._servicer = servicer
        self._server = server
        self._pace = pace

    async def run_on(self, store: Store, stopping: asyncio.Event, announce: Callable[[str], None]) -> None:
        """Serves and executes the runs of this store until `stopping` is set, then drains. Raises ConfigurationError
        for a lifespan that cannot be opened."""
        settings = self._settings
        buffer_bytes = settings.stream_buffer_bytes // 2
        pace = self._pace
        logs = CachingPubSub(
            store.pubsub, store, check_seconds=settings.check_seconds, buffer_bytes=buffer_bytes, pace=pace
        )
        fleet = Fleet(store, self._agents)
        self._servicer.open(Runs(store, logs, self._agents, settings.tenant_queued_runs), fleet)
        worker = Worker(store, logs, self._agents, settings, _reopen(store, settings.store), pace)
        with fleet.shown(), suppress(StoppedEarly):
            if settings.role == "serve":
                await self._run(store, logs, fleet, worker, stopping, announce)
            else:
                async with self._agents.opened(stopping):
                    await self._run(store, logs, fleet, worker, stopping, announce)

    async def _run(
        self,
        store: Store,
        logs: CachingPubSub,
        fleet: Fleet,
        worker: Worker,
        stopping: asyncio.Event,
        announce: Callable[[str], None],
    ) -> None:
        settings, server = self._settings, self._server
        async with asyncio.TaskGroup() as group:
            idle_check = group.create_task(repeat("idle check", logs.run), name="idle check")
            watching = [group.create_task(repeat("health", partial(_watch_store, store, server)), name="health")]
            if settings.role != "work":
                watching.append(group.create_task(repeat("queues", fleet.watch_once), name="queues"))
            if settings.metrics or settings.metrics_export:
                watching.append(group.create_task(repeat("loop lag", telemetry.watch_lag), name="loop lag"))
            if settings.role != "serve":
                group.create_task(worker.run(), name="worker")
            await server.set_serving(True)
            announce(server.address)
            await stopping.wait()
            logger.info("shutting down")
            for task in watching:
                task.cancel()
            await server.set_serving(False)
            worker.drain()
            logs.drain()
            # gRPC cuts off without a word what it has not handed to us yet when it stops: let that come in and be told.
            await asyncio.sleep(_COMING_IN_SECONDS)
            await server.stop(_STREAM_GRACE_SECONDS)
            idle_check.cancel()


async def _watch_store(store: Store, server: Server) -> None:
    """Health is NOT_SERVING while no part of the store answers. Where a part is away, the rest is served, and calls for
    what lies there are UNAVAILABLE: all replicas would be taken out for it at once, and none would serve anything."""
    serving = True
    while True:
        await asyncio.sleep(_HEALTH_SECONDS)
        problem = await _store_problem(store)
        if problem and serving:
            logger.error("the store does not answer: %s", problem)
        elif not problem and not serving:
            logger.info("the store answers again")
        if bool(problem) == serving:
            await server.set_serving(not problem)
        serving = not problem


async def _store_problem(store: Store) -> str:
    """Why no part of the store answers; empty: some does."""
    try:
        async with asyncio.timeout(_HEALTH_SECONDS):
            await store.ping()
    except TimeoutError:
        return f"not within {_HEALTH_SECONDS:g} s"
    except Exception as error:  # whatever it is: a watch that has died would leave the health as it was for ever
        return str(error) or repr(error)
    return ""


def _reopen(store: Store, url: str) -> Callable[[], AbstractAsyncContextManager[Store]] | None:
    """Opens the store once more, for another thread, where it can be opened again."""
    return (lambda: open_store(url)) if store.reopens else None
