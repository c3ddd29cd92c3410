"""`python -m agent_service.execution.alone`: the process in which one suspect after the other is executed.

Started by a worker alone (see `suspects`, also for what is said over the socket). It has the settings and the agents of
its parent and a store connection of its own; the lease of what it executes is its parent's to keep.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import logging
import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from typing import Any, Final

from agent_service.agents import registry
from agent_service.agents.registry import Registry
from agent_service.config import Settings
from agent_service.execution.attempt import Execution, Interrupt
from agent_service.process import event_loop
from runwire import logs, telemetry
from runwire.caching_pubsub import CachingPubSub
from runwire.connect import open_store
from runwire.errors import ConfigurationError, StoreUnavailable
from runwire.pubsub import Claim, LeaseState, Store

_RETRY_SECONDS: Final = 0.5
_PR_SET_PDEATHSIG: Final = 1

logger = logging.getLogger("agent_service.execution.alone")


class Parent:
    """The other end of the socket."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._lines = channel.makefile("rb")

    def hear(self) -> dict[str, Any]:
        """The next message. Where there is none, and will be none, the process has nothing to live for."""
        try:
            line = self._lines.readline()
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            os._exit(0)
        message: dict[str, Any] = json.loads(line)
        return message

    def say(self, message: dict[str, Any]) -> None:
        """Sends it."""
        try:
            self._channel.sendall(json.dumps(message).encode() + b"\n")
        except OSError:
            os._exit(0)


class Alone:
    """Executes what it is told to, one run at a time."""

    def __init__(self, parent: Parent, worker: str, agents: Registry, settings: Settings) -> None:
        self._parent = parent
        self._worker = worker
        self._agents = agents
        self._settings = settings
        self._orders: asyncio.Queue[dict[str, Any]] = asyncio.Queue(maxsize=8)
        self._execution: Execution | None = None
        self._early: list[dict[str, Any]] = []

    async def run(self) -> None:
        """Until the parent is gone."""
        async with (
            telemetry.traced("agent", self._settings.trace_export, content=self._settings.trace_content),
            open_store(self._settings.store) as store,
            self._agents.opened(),
            asyncio.TaskGroup() as bodies,
        ):
            loop = asyncio.get_running_loop()
            # In a thread: a run that blocks the loop must not outlive the parent.
            threading.Thread(target=self._listen, args=(loop,), name="parent", daemon=True).start()
            self._parent.say({"ready": True})
            while True:
                given_up = await self._execute(await self._orders.get(), store, bodies)
                answer = {"given_up": given_up} if given_up else {"ended": True}
                self._parent.say(answer | {"clean": not event_loop.owned_tasks()})

    def _listen(self, loop: asyncio.AbstractEventLoop) -> None:
        while True:
            loop.call_soon_threadsafe(self._heed, self._parent.hear())

    def _heed(self, message: dict[str, Any]) -> None:
        if "run" in message:
            self._early.clear()
            self._orders.put_nowait(message["run"])
        elif self._execution is None:
            self._early.append(message)
        elif "interrupt" in message:
            self._execution.interrupt(Interrupt(message["interrupt"]))
        else:
            self._execution.lease_changed(LeaseState(message["lease"]))

    async def _execute(self, order: dict[str, Any], store: Store, bodies: asyncio.TaskGroup) -> str:
        """Returns why it was given up, if it was."""
        try:
            claim = await self._claim(order, store)
            if claim is None:
                return ""
            self._execution = self._begin(claim, store, bodies)
            for message in self._early:
                self._heed(message)
            await self._execution.run()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            logger.exception("%s: attempt %d was given up", order["topic"], order["attempt"])
            return f"{type(error).__name__}"
        finally:
            self._execution = None
        return ""

    async def _claim(self, order: dict[str, Any], store: Store) -> Claim | None:
        """What the parent has claimed, as it stands now; None if it is the parent's no more."""
        while True:
            try:
                stored = await store.get(order["topic"])
                now = await store.now()
                break
            except StoreUnavailable as error:
                logger.warning("%s: cannot be read yet: %s", order["topic"], error)
                await asyncio.sleep(_RETRY_SECONDS)
        if stored is None or stored.head.attempt != order["attempt"] or stored.head.final:
            return None
        return Claim(
            topic=order["topic"],
            head=stored.head,
            token=order["token"],
            losses=order["losses"],
            alone_losses=order["alone"],
            fields=stored.fields,
            time=now,
        )

    def _begin(self, claim: Claim, store: Store, bodies: asyncio.TaskGroup) -> Execution:
        return Execution.of(
            claim,
            self._agents,
            store=store,
            log=CachingPubSub(store.pubsub, store, check_seconds=self._settings.check_seconds),
            settings=self._settings,
            worker=self._worker,
            bodies=bodies,
        )


def _die_with_parent() -> None:
    """Where native code keeps the interpreter's lock no thread sees that the parent is gone; Linux does."""
    if sys.platform == "linux":
        with suppress(Exception):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def main(descriptor: int) -> None:
    """Serves the parent at the other end of this socket."""
    _die_with_parent()
    for number in (signal.SIGTERM, signal.SIGINT):
        # They are the parent's to heed. A handler, and not SIG_IGN, which programs started by an agent would inherit.
        signal.signal(number, lambda *_: None)
    parent = Parent(socket.socket(fileno=descriptor))
    hello = parent.hear()
    settings = Settings(**hello["settings"])
    logs.configure(settings.log_level, settings.log_format)
    try:
        agents = registry.load(settings.agents)
        event_loop.run(Alone(parent, hello["worker"], agents, settings).run())
    except (ConfigurationError, StoreUnavailable) as error:
        logger.error("no run can be executed alone: %s", error)
        sys.exit(3)


if __name__ == "__main__":
    main(int(sys.argv[1]))
