"""The agent service put together: the one place where its parts are made and joined."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Final

from agent_service import registry
from agent_service.config import Settings
from agent_service.registry import Registry
from agent_service.runs import Runs
from agent_service.servicer import AgentServicer
from agent_service.worker import Worker
from runwire.agent.v1 import agent_service_pb2, agent_service_pb2_grpc
from runwire.caching_pubsub import CachingPubSub
from runwire.connect import open_store
from runwire.errors import StoreUnavailable
from runwire.pubsub import Store
from runwire.rpc import Server, serve

SERVICE: Final = agent_service_pb2.DESCRIPTOR.services_by_name["AgentService"].full_name
_HEALTH_SECONDS: Final = 2.0
_STREAM_GRACE_SECONDS: Final = 2.0
_COMING_IN_SECONDS: Final = 0.3
_LAST_SECONDS: Final = 12.0
"""After the shutdown grace: time to cancel agents and to hand back their runs."""

log = logging.getLogger("agent_service")


async def run(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT, then drains: health first, streams told, runs finished or handed back.

    `announce` is told the address once the service answers. Raises ConfigurationError, StoreUnavailable.
    """
    agents = registry.load(settings.agents)
    stopping = asyncio.Event()
    with _bounded_end(settings) as begin_to_end:

        def stop() -> None:
            stopping.set()
            begin_to_end()

        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        async with open_store(settings.store) as store:
            await run_on(store, agents, settings, stopping, announce)


@contextmanager
def _bounded_end(settings: Settings) -> Iterator[Callable[[], None]]:
    """Gives what to call when the process begins to end: it then ends within the grace and a little, also if an agent
    swallows its cancellation or the store does not answer. No task can be relied on for that."""
    timer = threading.Timer(settings.shutdown_grace_seconds + _LAST_SECONDS, _give_up)
    timer.daemon = True
    begun = False

    def begin() -> None:
        nonlocal begun
        if not begun:
            begun = True
            timer.start()

    try:
        yield begin
    finally:
        timer.cancel()


def _give_up() -> None:
    log.error(
        "the process does not end: an agent swallows its cancellation, or the store does not answer. What it still "
        "owns goes on elsewhere when the leases end"
    )
    os._exit(1)


async def run_on(
    store: Store, agents: Registry, settings: Settings, stopping: asyncio.Event, announce: Callable[[str], None]
) -> None:
    """The same on an open store, until `stopping` is set."""
    logs = CachingPubSub(store.pubsub, store, check_seconds=settings.check_seconds)
    servicer = AgentServicer(Runs(store, logs, agents), logs, agents, settings)

    def register(server: object) -> None:
        if settings.role != "work":
            agent_service_pb2_grpc.add_AgentServiceServicer_to_server(servicer, server)

    async with serve(settings.listen, register, _services(settings)) as server:
        worker = Worker(store, logs, agents, settings, _reopen(settings.store))
        await _run_parts(settings, store, logs, server, worker, stopping, announce)


async def _run_parts(
    settings: Settings,
    store: Store,
    logs: CachingPubSub,
    server: Server,
    worker: Worker,
    stopping: asyncio.Event,
    announce: Callable[[str], None],
) -> None:
    async with asyncio.TaskGroup() as group:
        background = [
            group.create_task(logs.run(), name="idle check"),
            group.create_task(_watch_store(store, server), name="health"),
        ]
        if settings.role != "serve":
            group.create_task(worker.run(), name="worker")
        await server.set_serving(True)
        announce(server.address)
        await stopping.wait()
        log.info("shutting down")
        background.pop().cancel()
        await server.set_serving(False)
        worker.drain()
        logs.drain()
        # gRPC cuts off without a word what it has not handed to us yet when it stops: let that come in and be told.
        await asyncio.sleep(_COMING_IN_SECONDS)
        await server.stop(_STREAM_GRACE_SECONDS)
        background.pop().cancel()


async def _watch_store(store: Store, server: Server) -> None:
    """Health is NOT_SERVING while the store does not answer."""
    serving = True
    while True:
        await asyncio.sleep(_HEALTH_SECONDS)
        try:
            async with asyncio.timeout(_HEALTH_SECONDS):
                await store.ping()
            healthy = True
        except (StoreUnavailable, TimeoutError) as error:
            healthy = False
            if serving:
                log.error("the store does not answer: %s", error)
        if healthy != serving:
            await server.set_serving(healthy)
        serving = healthy


def _services(settings: Settings) -> list[str]:
    return [] if settings.role == "work" else [SERVICE]


def _reopen(url: str) -> Callable[[], AbstractAsyncContextManager[Store]] | None:
    """Opens the store once more, for another thread; memory cannot be shared between threads."""
    return None if url.startswith("memory:") else lambda: open_store(url)
