"""An event loop that a test drives turn by turn, with a clock of its own: nothing waits, every run is the same."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

MAX_TURNS = 5000
"""A loop that is busy for longer will never be quiet."""


class SteppedLoop(asyncio.SelectorEventLoop):
    """Runs only when it is told to."""

    def __init__(self) -> None:
        self._clock = 0.0
        self._calls = 0
        super().__init__()

    def time(self) -> float:
        return self._clock

    def call_soon(self, callback: Callable[..., Any], *args: Any, **options: Any) -> asyncio.Handle:
        self._calls += 1
        return super().call_soon(callback, *args, **options)

    def turn(self, count: int = 1) -> None:
        """Runs what is ready now, so many times."""
        for _ in range(count):
            self.call_soon(self.stop)
            self.run_forever()

    def settle(self) -> None:
        """Turns until nothing is left to do but to wait for time to pass."""
        for _ in range(MAX_TURNS):
            before = self._calls
            self.turn()
            if self._calls == before + 1:
                return
        raise AssertionError(f"still busy after {MAX_TURNS} turns")

    def pass_time(self, seconds: float) -> None:
        """Lets the clock continue, and all that this brings about happen."""
        self._clock += seconds
        self.settle()


def at_once(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that never has to wait."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    coroutine.close()
    raise AssertionError(f"{coroutine} waits")
