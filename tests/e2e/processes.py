"""Agent services as real processes, which a test may kill, freeze, thaw and stop. Only those it started are ended."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, Self

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 40.0
ROOT: Final = Path(__file__).parents[2]
PREFIX: Final = "agent service listening on "


class AgentProcess:
    """`python -m agent_service` on 127.0.0.1, or another module with the same first line."""

    def __init__(
        self,
        store: str,
        *,
        role: str = "all",
        agents: str = "tests.e2e.workflows",
        listen: str = "127.0.0.1:0",
        module: str = "agent_service",
        arguments: Sequence[str] = (),
        environment: Mapping[str, object] | None = None,
    ) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        own = {name: value for name, value in os.environ.items() if not name.startswith("RUNWIRE_")}
        given = {
            "RUNWIRE_STORE": store,
            "RUNWIRE_AGENTS": agents,
            "RUNWIRE_ROLE": role,
            "RUNWIRE_AGENT_LISTEN": listen,
            "RUNWIRE_LEASE_SECONDS": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(ROOT),
        } | {name: str(value) for name, value in (environment or {}).items()}
        # A session of its own: Ctrl-C on the tests reaches it through them, and not before them.
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env=own | given,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        self.address = ""

    def wait_started(self) -> Self:
        """Returns once it has said where it listens. Start several before waiting for the first."""
        said: list[bytes] = []
        assert self._process.stdout is not None
        reader = threading.Thread(target=lambda: said.append(self._process.stdout.readline()), daemon=True)  # type: ignore[union-attr]
        reader.start()
        reader.join(START_SECONDS)
        line = said[0].decode().strip() if said else ""
        if not line.startswith(PREFIX):
            self.kill()
            raise RuntimeError(f"it did not start, and said {line!r}:\n{self.errors}")
        self.address = line.removeprefix(PREFIX)
        return self

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def errors(self) -> str:
        """What it wrote to stderr so far."""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM; `wait` waits for what comes of it."""
        self._process.send_signal(signal.SIGTERM)

    def freeze(self) -> None:
        """SIGSTOP: as a machine that is paused."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    async def wait(self, limit_seconds: float = STOP_SECONDS) -> int:
        """Waits until it has ended; its exit code, negative for a signal."""
        return await asyncio.to_thread(self._process.wait, limit_seconds)

    def _end(self, number: signal.Signals) -> None:
        if self.running:
            self._process.send_signal(number)
            if number is not signal.SIGKILL:
                self._process.send_signal(signal.SIGCONT)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(STOP_SECONDS)

    def close(self) -> None:
        """Ends it, if it runs, and lets go of what it held."""
        self._end(signal.SIGKILL)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()


class Processes:
    """Starts processes on one store, and ends all that are left."""

    def __init__(self, store: str, environment: Mapping[str, object], stack: ExitStack) -> None:
        self.store = store
        self._environment = dict(environment)
        self._stack = stack

    def launch(self, role: str = "all", **given: object) -> AgentProcess:
        """Begins to start one; settings beside AgentProcess's own are environment variables."""
        environment = self._environment | dict(given.pop("environment", {}))  # type: ignore[call-overload]
        process = AgentProcess(self.store, role=role, environment=environment, **given)  # type: ignore[arg-type]
        self._stack.callback(process.close)
        return process

    def start(self, role: str = "all", **given: object) -> AgentProcess:
        """Starts one."""
        return self.launch(role, **given).wait_started()

    def start_all(self, *roles: str, **given: object) -> list[AgentProcess]:
        """Starts several at once."""
        return [process.wait_started() for process in [self.launch(role, **given) for role in roles]]


@contextmanager
def processes(store: str, **environment: object) -> Iterator[Processes]:
    """Agent services on the store at the URL `store`, all of them ended when the block is left."""
    with ExitStack() as stack:
        yield Processes(store, environment, stack)
