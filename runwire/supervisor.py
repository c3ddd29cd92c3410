"""Several processes of a service on one port, as one: `--processes N`.

The process that was started serves nobody. It keeps the port and starts N others (*members*), each of which listens on
it too (SO_REUSEPORT: the kernel gives each connection to one of them), opens the store for itself, and is to the others
what another replica is.

- The first is started alone, so that what is wrong with settings is said once, and a store is laid out by one. It says
  that it listens once all of them do. A member that ends before that ends all, with its exit code.
- A member that dies later is started again, after a pause that grows while they die soon; the others continue.
- SIGTERM and SIGINT: all drain at once. It ends when the last has, with 0 if each ended well; who is not gone by then,
  although every process sees to its own end, is killed.
- Without it none of them stays: a member whose supervisor is gone drains.
- One page shows the metrics of all (`runwire.metrics_sum`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import threading
from asyncio.subprocess import DEVNULL, Process, create_subprocess_exec
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from runwire import listening
from runwire.backoff import Backoff
from runwire.errors import ConfigurationError
from runwire.loop import wait_for
from runwire.metrics_sum import SummedPage

_PAUSES: Final = Backoff(0.2, 30.0, jitter=0.5)
_CALM_SECONDS: Final = 60.0
"""A member that lived for this long did not die of how it starts."""
_KILL_SECONDS: Final = 8.0
"""After the time in which a member ends by itself."""
_SAID: Final = (2, 3)
"""Exit codes of a member that has said why, in a line of its own."""

logger = logging.getLogger("runwire.supervisor")


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start."""

    module: str
    """`python -m` this, with `--member DESCRIPTOR`."""
    count: int
    listen: str
    metrics: str
    """HOST:PORT of the page for all; empty: none."""
    given: Mapping[str, Any]
    """Options that each member gets, beside the environment."""
    end_seconds: float
    """How long a member takes at most to end by itself."""


def supervise(plan: Plan, announce: Callable[[str], None]) -> int:
    """Keeps the members until SIGTERM or SIGINT; the exit code. `announce` is told the address once all of them answer.
    Raises ConfigurationError."""
    with ExitStack() as stack:
        address = stack.enter_context(_kept(plan.listen))
        page = stack.enter_context(SummedPage(plan.metrics)) if plan.metrics else None
        return asyncio.run(_Supervisor(plan, address, page, announce).run())


@contextmanager
def _kept(listen: str) -> Iterator[str]:
    """Keeps a port for the members without listening on it; the address with the port that was picked. Raises
    ConfigurationError."""
    host, port = listening.split(listen)
    if not hasattr(socket, "SO_REUSEPORT"):
        raise ConfigurationError("several processes on one port need SO_REUSEPORT, which this system has not got")
    with ExitStack() as stack:
        try:
            made, free = listening.probe(host, port)
            kept = stack.enter_context(socket.socket(*made))
            kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            kept.bind(free)
        except OSError:
            raise ConfigurationError(f"cannot listen on {listen}: {listening.IN_USE}") from None
        yield f"{host}:{kept.getsockname()[1]}"


class _Supervisor:
    def __init__(self, plan: Plan, address: str, page: SummedPage | None, announce: Callable[[str], None]) -> None:
        self._plan = plan
        self._address = address
        self._page = page
        self._announce = announce
        self._stopping = asyncio.Event()
        self._living: dict[int, Process] = {}
        self._ready: set[int] = set()
        self._opened = asyncio.Event()
        """One of them has answered."""
        self._complete = False
        """All of them have."""
        self._code = 0

    async def run(self) -> int:
        for which in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(which, self._stop)
        async with asyncio.TaskGroup() as group:
            ending = group.create_task(self._end(), name="end")
            async with asyncio.TaskGroup() as members:
                for number in range(1, self._plan.count + 1):
                    members.create_task(self._keep(number), name=f"process {number}")
            ending.cancel()
        return self._code

    def _stop(self) -> None:
        self._stopping.set()
        self._opened.set()
        self._signal(signal.SIGTERM)

    def _signal(self, which: signal.Signals) -> None:
        for process in self._living.values():
            with suppress(ProcessLookupError):
                process.send_signal(which)

    async def _end(self) -> None:
        """Kills what does not end by itself."""
        await self._stopping.wait()
        await asyncio.sleep(self._plan.end_seconds + _KILL_SECONDS)
        logger.error("processes that do not end are killed: %s", [process.pid for process in self._living.values()])
        self._signal(signal.SIGKILL)

    async def _keep(self, number: int) -> None:
        """Starts a member, and again whenever it has died."""
        failures = 0
        if number > 1:
            await self._opened.wait()
        while not self._stopping.is_set():
            began = asyncio.get_running_loop().time()
            try:
                code = await self._live(number)
            except Exception:  # whatever it is: the others live on this process
                logger.exception("process %d of %d cannot be kept", number, self._plan.count)
                code = 1
            if self._stopping.is_set():
                self._code = self._code or _exit_code(code)
                return
            if not self._complete:
                if code not in _SAID:
                    logger.error("process %d of %d did not start: it %s", number, self._plan.count, _ending(code))
                self._code = code if code in _SAID else 1
                self._stop()
                return
            failures = 1 if asyncio.get_running_loop().time() - began > _CALM_SECONDS else failures + 1
            pause = _PAUSES.pause(failures)
            logger.error(
                "process %d of %d %s; it is started again in %.1f s", number, self._plan.count, _ending(code), pause
            )
            await wait_for(self._stopping, pause)

    async def _live(self, number: int) -> int:
        """From its start to its end; its exit code, negative for a signal."""
        ours, theirs = socket.socketpair()
        with theirs:
            descriptor = theirs.fileno()
            words = (sys.executable, "-m", self._plan.module, "--member", str(descriptor))
            try:
                # In a group of its own: a terminal's Ctrl-C comes to it through this process, and not before it can
                # heed it.
                process = await create_subprocess_exec(*words, stdin=DEVNULL, pass_fds=[descriptor], process_group=0)
            except BaseException:
                ours.close()
                raise
        self._living[number] = process
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            if self._stopping.is_set():
                process.terminate()
            # Not as arguments: the store's URL may hold a password.
            writer.write(json.dumps(self._order(number)).encode() + b"\n")
            async with asyncio.TaskGroup() as group:
                hearing = group.create_task(self._hear(number, reader), name=f"word of process {number}")
                code = await process.wait()
                hearing.cancel()
            if self._stopping.is_set() and number not in self._ready and code == -signal.SIGTERM:
                return 0  # it was not yet able to heed it
            return code
        finally:
            del self._living[number]
            self._ready.discard(number)
            if self._page is not None:
                self._page.gone(number)
            writer.close()

    def _order(self, number: int) -> dict[str, Any]:
        metrics = "127.0.0.1:0" if self._page is not None else ""
        own = {"listen": self._address, "metrics": metrics, "processes": 1}
        return {"given": dict(self._plan.given) | own, "name": f"{socket.gethostname()}/{number}"}

    async def _hear(self, number: int, reader: asyncio.StreamReader) -> None:
        """A member says one thing: that it answers, and where it shows its metrics."""
        try:
            line = await reader.readline()
        except ConnectionError:  # it died before it had read its order
            line = b""
        if not line:
            return
        self._ready.add(number)
        self._opened.set()
        if self._page is not None:
            self._page.shown(number, json.loads(line)["metrics"])
        if self._complete:
            logger.info("process %d of %d answers again", number, self._plan.count)
        elif len(self._ready) == self._plan.count:
            self._complete = True
            self._announce(self._address)


def _exit_code(code: int) -> int:
    return code if code >= 0 else 1


def _ending(code: int) -> str:
    """How a process ended, for the log."""
    if code >= 0:
        return f"ended with exit code {code}"
    with suppress(ValueError):
        return f"was killed by {signal.Signals(-code).name}"
    return f"was killed by signal {-code}"


class Member:
    """What a member knows of its supervisor."""

    def __init__(self, descriptor: int) -> None:
        # What an agent starts must not keep it open.
        os.set_inheritable(descriptor, False)
        self._socket = socket.socket(fileno=descriptor)
        self._words = self._socket.makefile("rb")
        order = json.loads(self._words.readline())
        self.given: dict[str, Any] = order["given"]
        """The options of this process."""
        _tell_apart(order["name"])
        threading.Thread(target=self._follow, name="supervisor", daemon=True).start()

    def started(self, page: str) -> None:
        """It answers, and shows its metrics at `page`."""
        self._socket.sendall(json.dumps({"metrics": page}).encode() + b"\n")

    def _follow(self) -> None:
        """Drains this process once the supervisor is gone."""
        self._words.read(1)
        os.kill(os.getpid(), signal.SIGTERM)


def _tell_apart(name: str) -> None:
    """Metrics that are sent by OTLP say of which process they are: the same from two would be taken for one."""
    attributes = os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    if "service.instance.id=" not in attributes:
        named = f"service.instance.id={name}"
        os.environ["OTEL_RESOURCE_ATTRIBUTES"] = f"{attributes},{named}" if attributes else named
