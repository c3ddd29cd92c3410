"""Wakes those tasks of one process that wait for work or for messages."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

Waited = tuple[str, str]
"""What somebody waits for: its kind, and the name of the queue."""


def work_in(queue: str, suspects: bool = False) -> Waited:
    """What those who claim from `queue`, from this lane of it, wait for."""
    return "suspects" if suspects else "work", queue


def messages_in(queue: str) -> Waited:
    """What those who receive from `queue` wait for."""
    return "messages", queue


class Bell:
    """Wakes those who wait for something. To be used on one event loop."""

    def __init__(self) -> None:
        self._listeners: dict[Waited, set[asyncio.Event]] = {}

    @contextmanager
    def listen(self, *waited: Waited) -> Iterator[asyncio.Event]:
        """An event that is set by every `ring` for one of these. Listen first and look then: so none is missed."""
        rung = asyncio.Event()
        for name in waited:
            self._listeners.setdefault(name, set()).add(rung)
        try:
            yield rung
        finally:
            for name in set(waited):
                self._listeners[name].discard(rung)
                if not self._listeners[name]:
                    del self._listeners[name]

    def ring(self, waited: Waited) -> None:
        for rung in self._listeners.get(waited, ()):
            rung.set()

    def awaited(self) -> frozenset[Waited]:
        """What somebody waits for now."""
        return frozenset(self._listeners)
