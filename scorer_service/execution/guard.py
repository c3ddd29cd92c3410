"""An event loop, in a thread, that continues whatever is done to it by what runs on it.

A task that raises SystemExit ends `run_forever`, and so does `loop.stop()`; then it is run again, and nothing is lost.
Only a loop that cannot run any more (its selector is broken) ends, and says so.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

logger = logging.getLogger("scorer_service")

_FUTILE: Final = 1000
"""How often in a row a loop may end without having done anything until it is given up."""
_CLOSING_SECONDS: Final = 0.5
_PULSE_SECONDS: Final = 0.25


class GuardedLoop:
    """One loop in one thread, from `start` to `stop`.

    `on_death` is called in its thread, with words, when the loop ended although nobody had stopped it.
    """

    def __init__(self, name: str, threads: ThreadPoolExecutor, on_death: Callable[[str], None]) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.set_default_executor(threads)
        self.dead = False
        self.stalled_seconds = 0.0
        """For how long, in all, something kept the loop from going round."""
        self.ended = threading.Event()
        self._name = name
        self._on_death = on_death
        self._stopping = False
        self._turned = False
        self._ended_by: set[str] = set()
        self._told: set[str] = set()
        self._pulse_due = 0.0

    def start(self) -> None:
        """A daemon: a loop that never ends must not keep the process from ending."""
        threading.Thread(target=self._body, name=self._name, daemon=True).start()

    def call(self, function: Callable[..., object], *arguments: Any) -> bool:
        """Has the loop call a function. From any thread; False where the loop has ended."""
        if self.dead:
            return False
        try:
            self.loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # it is closed
            return False
        return True

    def stop(self) -> None:
        """Ends the loop. On the loop only."""
        self._stopping = True
        self.loop.stop()

    def _body(self) -> None:
        asyncio.set_event_loop(self.loop)
        futile = 0
        while not self._stopping:
            how = self._run()
            futile = 0 if self._turned else futile + 1
            if not self._stopping and (futile > _FUTILE or self.loop.is_closed()):
                self.dead = True
                self._on_death(f"the event loop of the scorers cannot continue: {how}")
                break
            self._ended_by.add(how)
        self._close()
        self.ended.set()

    def _run(self) -> str:
        """Runs the loop until something ends it; what that was."""
        self._turned = False
        try:
            self.loop.call_soon(self._turn)
            self.loop.run_forever()
        except BaseException as error:
            return type(error).__name__
        return "it was stopped"

    def _turn(self) -> None:
        self._turned = True
        for how in self._ended_by - self._told:
            self._told.add(how)
            logger.error("something ended the event loop of the scorers (%s); it continues", how)
        if not self._pulse_due:
            self._pulse()

    def _pulse(self) -> None:
        now = self.loop.time()
        if self._pulse_due:
            self.stalled_seconds += max(0.0, now - self._pulse_due - 0.05)
        self._pulse_due = now + _PULSE_SECONDS
        self.loop.call_at(self._pulse_due, self._pulse)

    def _close(self) -> None:
        """Cancels what scorers left behind."""
        try:
            if left := asyncio.all_tasks(self.loop):
                for task in left:
                    task.cancel()
                self.loop.run_until_complete(asyncio.wait(left, timeout=_CLOSING_SECONDS))
            self.loop.close()
        except BaseException as error:
            logger.debug("the event loop of the scorers did not close: %r", error)
