"""Executes suspects, where their death hurts nobody: one by one, each in a process of its own.

A *suspect* is a run whose workers died twice in a row without progress (see `runwire.pubsub`). One of those that died
together may be what they died of, and nobody knows which. So the worker claims each alone and hands it to a child
process (`python -m agent_service.execution.alone`); it keeps the lease itself, and continues with its other runs.

    parent -> child   {"settings", "worker"}, then for each run {"run": lease and losses}, {"lease": LeaseState} and
                      {"interrupt": Interrupt} while it is executed
    child -> parent   {"ready"}, then for each run {"ended", "clean"} or {"given_up", "clean"}

JSON lines over a socket that only the two have; when it is closed, by either side, the child is gone. A child that
dies is a loss of the run that it executed, told at once and with how it ended. One that cannot be started is none.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict
from typing import Any, Final

from agent_service.config import Settings
from agent_service.execution.attempt import Interrupt
from agent_service.log import record
from runwire import metrics
from runwire.agent.v1 import run_pb2
from runwire.errors import CommitRefused, NotFound, StoreUnavailable
from runwire.loop import repeat
from runwire.pubsub import Claim, Commit, Lease, LeaseState, Schedule, Store
from runwire.runbook import Entry
from runwire.times import timestamp

_START_SECONDS: Final = 60.0
_START_RETRY_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0)
_IDLE_SECONDS: Final = 60.0
"""How long a child waits for its next run."""
_LOOK_SECONDS: Final = 5.0
_STUBBORN_SECONDS: Final = 11.0
"""How long a child may need to stop its run: a second more than it gives its body."""
_RETRY_SECONDS: Final = 1.0
_LAST_WORDS_SECONDS: Final = 0.1

_KILLS: Final = Entry.RUNS_KILL_WORKERS.said()

logger = logging.getLogger("agent_service.execution.suspects")


class ChildLost(Exception):
    """The child ended; the message says how."""


class Child:
    """A process that executes one run at a time. Made by `start`."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer
        self.idle_since = time.monotonic()

    @classmethod
    async def start(cls, settings: Settings, worker: str) -> Child:
        """Returns once it is ready. Raises ChildLost, TimeoutError, OSError."""
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = await asyncio.create_subprocess_exec(
                    sys.executable,
                    "-m",
                    "agent_service.execution.alone",
                    str(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
            except BaseException:
                ours.close()
                raise
        child = cls(process, *await asyncio.open_unix_connection(sock=ours))
        try:
            # Not as arguments: the store's URL may hold a password.
            child.tell({"settings": settings.model_dump(mode="json"), "worker": worker})
            async with asyncio.timeout(_START_SECONDS):
                await child.answer()
        except BaseException:
            await child.close()
            raise
        return child

    @property
    def living(self) -> bool:
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, message: dict[str, Any]) -> None:
        """Sends it; whether it arrives, the answer shows."""
        self._writer.write(json.dumps(message).encode() + b"\n")

    async def answer(self) -> dict[str, Any]:
        """The next message. Raises ChildLost."""
        async with asyncio.TaskGroup() as group:
            # Both: what the run started may hold the socket open after the child has died.
            reading = group.create_task(self._read(), name=f"answer of {self.pid}")
            dying = group.create_task(self._process.wait(), name=f"end of {self.pid}")
            await asyncio.wait({reading, dying}, return_when=asyncio.FIRST_COMPLETED)
            # What it said last may still be on its way.
            await asyncio.wait({reading}, timeout=_LAST_WORDS_SECONDS)
            reading.cancel()
            dying.cancel()
        line = b"" if reading.cancelled() else reading.result()
        if not line:
            raise ChildLost(_ending(await self._process.wait()))
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def _read(self) -> bytes:
        try:
            line = await self._reader.readline()
        except (ConnectionError, ValueError):
            return b""
        return line if line.endswith(b"\n") else b""

    async def close(self) -> None:
        """Ends it, whatever it does."""
        self._writer.close()
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


def _ending(code: int) -> str:
    if code >= 0:
        return f"its process ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"its process was killed by {name}"


class Children:
    """The children of a worker: as many as are in use at once, and those that were until lately."""

    def __init__(self, settings: Settings, worker: str) -> None:
        self._settings = settings
        self._worker = worker
        self._idle: list[Child] = []

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Child]:
        """A child for one run; it is used again if it is idle when the block is left without an error. Starting it
        is tried until it succeeds: it says nothing of the run."""
        child: Child | None = None
        fit = False
        try:
            child = self._living() or await self._start()
            yield child
            fit = child.living
        finally:
            if child is not None and fit:
                child.idle_since = time.monotonic()
                self._idle.append(child)
            elif child is not None:
                await asyncio.shield(child.close())

    def _living(self) -> Child | None:
        while self._idle:
            child = self._idle.pop()
            if child.living:
                return child
        return None

    async def _start(self) -> Child:
        tries = 0
        while True:
            try:
                return await Child.start(self._settings, self._worker)
            except (ChildLost, TimeoutError, OSError) as error:
                delay = _START_RETRY_SECONDS[min(tries, len(_START_RETRY_SECONDS) - 1)]
                logger.error("no process for a suspect could be started (again in %s s): %s", delay, error)
                tries += 1
                await asyncio.sleep(delay)

    @asynccontextmanager
    async def keep(self) -> AsyncIterator[None]:
        """Ends those that have been idle for long while the block runs, then all that are idle."""
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(repeat("idle processes", self._look), name="idle processes")
            try:
                yield
            finally:
                looking.cancel()
                while self._idle:
                    await asyncio.shield(self._idle.pop().close())

    async def _look(self) -> None:
        await asyncio.sleep(_LOOK_SECONDS)
        now = time.monotonic()
        for child in [each for each in self._idle if now - each.idle_since > _IDLE_SECONDS or not each.living]:
            self._idle.remove(child)
            await child.close()


class AloneExecution:
    """One attempt in a child. To the worker it is as an Execution."""

    def __init__(self, claim: Claim, store: Store, children: Children) -> None:
        self._claim = claim
        self._store = store
        self._children = children
        self._child: Child | None = None
        self._untold: list[dict[str, Any]] = []
        self._stopping: Interrupt | None = None
        self._patience: asyncio.Timeout | None = None

    @property
    def lease(self) -> Lease:
        return self._claim.lease

    def interrupt(self, why: Interrupt) -> None:
        """Stops the attempt; if it does not heed it, by killing its process."""
        self._stopping = self._stopping or why
        self._tell({"interrupt": why.value})
        if self._patience is not None:
            seconds = _STUBBORN_SECONDS if self._child is not None else 0.0
            with suppress(RuntimeError):  # it has ended already
                self._patience.reschedule(asyncio.get_running_loop().time() + seconds)

    def lease_changed(self, state: LeaseState) -> None:
        """Told by Leases."""
        if state is LeaseState.LOST:
            self.interrupt(Interrupt.LOST)
        else:
            self._tell({"lease": state.value})

    def _tell(self, message: dict[str, Any]) -> None:
        if self._child is None:
            self._untold.append(message)
        else:
            self._child.tell(message)

    async def run(self) -> None:
        """As Execution.run."""
        try:
            async with asyncio.timeout(None) as self._patience:
                await self._run_in_child()
        except ChildLost as lost:
            if self._stopping is not Interrupt.LOST:
                await self._lose(str(lost))
        except TimeoutError:
            if self._stopping is Interrupt.RELEASE:
                logger.warning(
                    "%s: its process does not stop it; it is killed, and the run handed back", self.lease.topic
                )
                await self._commit(Commit(*self._owner(), token=self.lease.token, schedule=Schedule.DUE))

    async def _run_in_child(self) -> None:
        async with self._children.use() as child:
            logger.info("%s: attempt %d is executed alone, in process %d", *self._owner(), child.pid)
            child.tell({"run": asdict(self.lease) | {"losses": self._claim.losses, "alone": self._claim.alone_losses}})
            self._child = child
            for message in self._untold:
                child.tell(message)
            answer = await child.answer()
            if given_up := answer.get("given_up"):
                raise ChildLost(f"its attempt was given up: {given_up}")
            if not answer["clean"]:
                await child.close()

    def _owner(self) -> tuple[str, int]:
        return self.lease.topic, self.lease.attempt

    async def _lose(self, how: str) -> None:
        """Counts the loss at once, and tells of it in the run's record."""
        metrics.SUSPECTS_LOST.add()
        logger.error("%s: attempt %d, executed alone, was lost: %s", *self._owner(), how, extra=_KILLS)
        puts = {record.DEATH: how.encode(errors="replace")[:1000]}
        with suppress(StoreUnavailable):
            stored = await self._store.get(self.lease.topic, [record.RUN])
            if stored is not None and stored.head.attempt == self.lease.attempt:
                puts |= _with_loss(stored.fields.get(record.RUN), self.lease.attempt, await self._store.now())
        await self._commit(Commit(*self._owner(), token=self.lease.token, puts=puts, schedule=Schedule.LOST))

    async def _commit(self, commit: Commit) -> None:
        """As long as the store needs for it: the lease is kept meanwhile."""
        while True:
            try:
                await self._store.commit(commit)
                return
            except StoreUnavailable as error:
                logger.warning("%s: how its attempt ended cannot be written yet: %s", commit.topic, error)
                await asyncio.sleep(_RETRY_SECONDS)
            except (CommitRefused, NotFound) as error:
                logger.info("%s: attempt %d does not own the run any more: %s", *self._owner(), error)
                return


def _with_loss(stored: bytes | None, attempt: int, now: float) -> dict[str, bytes]:
    """The record with the end of the attempt, if it was begun and can be read."""
    try:
        run = run_pb2.Run.FromString(stored or b"")
    except Exception:
        return {}
    if not run.attempts or run.attempts[-1].attempt != attempt or run.attempts[-1].outcome:
        return {}
    run.attempts[-1].outcome = "worker_lost"
    run.attempts[-1].end_time.CopyFrom(timestamp(now))
    return record.puts(run)
