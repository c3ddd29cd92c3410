"""What was executed, kept outside of every run and process: one line each, appended to one file."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from pathlib import Path

VARIABLE = "RUNWIRE_TEST_LEDGER"
LIMIT_SECONDS = 60.0


def note(what: str) -> int:
    """Called in a worker's process: writes that it was done; returns how often it had been done before."""
    path = Path(os.environ[VARIABLE])
    before = _lines(path).count(what)
    # One write in append mode: lines of several processes do not mix.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"{what}\n".encode())
    finally:
        os.close(descriptor)
    return before


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:
        return []


class Ledger:
    """The same file, read by the test."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def environment(self) -> dict[str, object]:
        return {VARIABLE: self.path}

    @property
    def lines(self) -> list[str]:
        return _lines(self.path)

    @property
    def done(self) -> Counter[str]:
        return Counter(self.lines)

    async def wait_for_value(self, prefix: str) -> str:
        """Waits for a line that begins so; the rest of it."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not (found := [line for line in self.lines if line.startswith(prefix)]):
            assert time.monotonic() < deadline, f"no {prefix!r} in {self.lines}"
            await asyncio.sleep(0.01)
        return found[0].removeprefix(prefix)

    async def wait_for(self, what: str, times: int = 1) -> None:
        """Waits until it was done so often."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while self.done[what] < times:
            assert time.monotonic() < deadline, f"{what!r} was not done {times} times: {self.done}"
            await asyncio.sleep(0.01)
