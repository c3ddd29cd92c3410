"""The end of the process, which nothing can hold up.

Once it is asked to end, a process is gone within the grace and `LAST_SECONDS`: whatever an agent swallows, blocks or
starts, whether the store answers or not, up to the end of the interpreter. No task and no event loop can be relied on
for that, so there is a thread, told through a pipe, and behind it a timer that needs no interpreter.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import threading
from contextlib import suppress
from typing import Final

LAST_SECONDS: Final = 12.0
"""After the shutdown grace: time to cancel agents and to hand back their runs."""
_THREADS_SECONDS: Final = 2.0
"""After everything was handed back: time for threads of agents."""
_LOG_SECONDS: Final = 1.0
"""For the last line of the log, which may be blocked as anything else."""
_NATIVE_SECONDS: Final = 3.0

logger = logging.getLogger("agent_service")


class BoundedEnd:
    """Ends the process `limit_seconds` after `begin`, if it has not ended by then."""

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._told, self._tell = os.pipe()
        self._begun = False
        # Made now: to start a thread takes locks, which a signal handler must not wait for.
        threading.Thread(target=self._watch, name="bounded-end", daemon=True).start()

    def begin(self) -> None:
        """The process begins to end. Safe in a signal handler, and more than once."""
        if self._begun:
            return
        self._begun = True
        os.write(self._tell, b"!")
        with suppress(Exception):  # without a stderr there is no such timer
            # Native code may keep the interpreter's lock, and then no thread of Python comes to anything.
            faulthandler.dump_traceback_later(self._limit_seconds + _NATIVE_SECONDS, exit=True)

    def _watch(self) -> None:
        os.read(self._told, 1)
        threading.Event().wait(self._limit_seconds)
        _say_and_exit(
            logging.ERROR,
            "the process does not end: an agent swallows its cancellation, or the store does not answer. What it still "
            "owns continues elsewhere when the leases end",
            1,
        )


def leave(code: int) -> None:
    """Everything is handed back and closed: the process ends, with `code`, whatever threads still run."""
    timer = threading.Timer(_THREADS_SECONDS, _leave_threads, (code,))
    timer.daemon = True
    timer.start()


def _leave_threads(code: int) -> None:
    main, mine = threading.main_thread(), threading.current_thread()
    names = [each.name for each in threading.enumerate() if not each.daemon and each not in (main, mine)]
    _say_and_exit(
        logging.WARNING,
        f"the process ends although something in it still runs, of runs that were handed back: threads {names!r}",
        code,
    )


def _say_and_exit(level: int, message: str, code: int) -> None:
    last = threading.Timer(_LOG_SECONDS, os._exit, (code,))
    last.daemon = True
    last.start()
    logger.log(level, "%s", message)
    os._exit(code)
