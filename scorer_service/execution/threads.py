"""Threads for what is not async: daemons, with one call at a time each.

No thread can be stopped. One whose caller has given it up is *astray*: it keeps its thread but not its place, so that
others continue, and it is counted for the scorer that it serves. Past a bound the process has to end: see `Worker`.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Final

SCORER: Final[ContextVar[str]] = ContextVar("scorer", default="")
"""The id of the scorer whose attempt this is."""
_IDLE_SECONDS: Final = 30.0


class Threads(ThreadPoolExecutor):
    """Up to `size` threads, besides those that are astray. (An event loop takes only a ThreadPoolExecutor as its
    default; nothing else of that class is used: its threads are joined when the process ends.)"""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._size = size
        self._lock = threading.Lock()
        self._calls: SimpleQueue[_Call] = SimpleQueue()
        self._waiting = self._living = self._idle = 0
        self._astray: Counter[str] = Counter()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Future[Any]:
        """Has a thread call the function. Cancelling what is returned gives up a call that runs."""
        call = _Call(self, partial(function, *arguments, **named), SCORER.get())
        with self._lock:
            self._waiting += 1
            self._serve()
            self._calls.put(call)
        return call

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Nothing: idle threads end by themselves, and the others cannot be waited for."""

    def astray(self) -> Counter[str]:
        """How many calls still run although they were given up, by scorer."""
        with self._lock:
            return +self._astray

    def give_up(self, call: _Call) -> None:
        """Counts a call as astray and gives its place to another."""
        with self._lock:
            if not call.running() or call.is_astray:
                return
            call.is_astray = True
            self._astray[call.scorer_id] += 1
            self._living -= 1
            self._serve()

    def _serve(self) -> None:
        """Finds a thread for what waits."""
        if self._waiting <= self._idle or self._living >= self._size:
            return
        self._living += 1
        try:
            threading.Thread(target=self._work, name="scorer", daemon=True).start()
        except RuntimeError:  # there are too many threads already: those that live will do it
            self._living -= 1
            if not self._living:
                self._waiting -= 1
                raise

    def _work(self) -> None:
        while (call := self._next()) is not None:
            call.run()
            with self._lock:
                if call.is_astray:  # another thread has its place
                    self._astray[call.scorer_id] -= 1
                    return
            del call  # and all that it holds

    def _next(self) -> _Call | None:
        with self._lock:
            self._idle += 1
        while True:
            try:
                call = self._calls.get(timeout=_IDLE_SECONDS)
            except Empty:
                with self._lock:
                    if self._waiting >= self._idle:
                        continue
                    self._idle -= 1
                    self._living -= 1
                    return None
            with self._lock:
                self._idle -= 1
                self._waiting -= 1
            return call


class _Call(Future[Any]):
    """A call in a thread."""

    def __init__(self, threads: Threads, function: Callable[[], Any], scorer_id: str) -> None:
        super().__init__()
        self.scorer_id = scorer_id
        self.is_astray = False
        self._threads = threads
        self._function = function

    def cancel(self) -> bool:
        """Whether it will not run; one that runs already is given up."""
        if super().cancel():
            return True
        self._threads.give_up(self)
        return False

    def run(self) -> None:
        if not self.set_running_or_notify_cancel():
            return
        try:
            result = self._function()
        except StopIteration:  # no future takes that one, and nobody would ever hear of it
            self.set_exception(RuntimeError("it raised StopIteration"))
        except BaseException as error:
            self.set_exception(error)
        else:
            self.set_result(result)
