"""Real processes of the scorer service."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Self

LIMIT_SECONDS = 30.0
READY = "scorer service listening on "


class ScorerProcess:
    """`python -m scorer_service` on a free port, killed at the end of the block."""

    def __init__(self, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "scorer_service", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "RUNWIRE_SCORER_LISTEN": "127.0.0.1:0", **(environment or {})},
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self.errors: list[str] = []
        self._more = threading.Condition()
        self._readers = [threading.Thread(target=work, daemon=True) for work in (self._read_out, self._read_errors)]
        for reader in self._readers:
            reader.start()

    def _read_out(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put("")

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            with self._more:
                self.errors.append(line.rstrip("\n"))
                self._more.notify_all()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_ready(self) -> bool:
        """Whether it has said something."""
        return not self._lines.empty()

    def line(self) -> str:
        """The next line of its standard output; empty at the end."""
        return self._lines.get(timeout=LIMIT_SECONDS)

    def ready(self) -> str:
        """Its address, once it serves."""
        line = self.line()
        assert line.startswith(READY), (line, self.errors)
        return line.removeprefix(READY)

    def wait_for_error(self, words: str) -> None:
        """Waits until its standard error says something with these words."""
        with self._more:
            found = self._more.wait_for(lambda: any(words in line for line in self.errors), LIMIT_SECONDS)
        assert found, self.errors

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def terminate(self) -> int:
        """Ends it in order; its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self.wait()

    def kill(self) -> None:
        """Ends it as a power cut would."""
        self._process.kill()
        self._process.wait(LIMIT_SECONDS)

    def wait(self) -> int:
        code = self._process.wait(LIMIT_SECONDS)
        for reader in self._readers:
            reader.join(LIMIT_SECONDS)
        return code

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.kill()
        self._process.wait(LIMIT_SECONDS)
