"""Ctrl-C, for commands that run for a while."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self


class CtrlC:
    """What somebody pressed. Raises KeyboardInterrupt at once, but where it is held off; and again at the end of the
    next part that holds it off, because a library may have swallowed the first (in a finaliser, in a callback)."""

    def __init__(self) -> None:
        self._presses = 0
        self._held = False

    def _press(self, number: int, frame: object) -> None:
        self._presses += 1
        if not self._held or self._presses > 1:
            raise KeyboardInterrupt

    @contextmanager
    def heard(self) -> Iterator[Self]:
        """Inside, Ctrl-C is heard here. Only the main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        previous = signal.signal(signal.SIGINT, self._press)
        try:
            yield self
        finally:
            signal.signal(signal.SIGINT, previous)

    @contextmanager
    def held_off(self) -> Iterator[None]:
        """Inside, the first Ctrl-C waits for the end of the block; a second one gets through."""
        self._held = True
        try:
            yield
        finally:
            self._held = False
        if self._presses:
            raise KeyboardInterrupt
