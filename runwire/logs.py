"""What a process writes into its log: one record, one line that begins with its time, and no secrets."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import Any, Final

from runwire.redaction import masked, one_line

_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_MORE: Final = "\n    | "
"""Begins each further line of a record."""
_PAUSE_SECONDS: Final = 10.0
_MAX_KEYS: Final = 1000


def configure(level: str) -> None:
    """Logs to stderr, in lines that cannot be forged."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(_FORMAT))
    logging.basicConfig(level=level, handlers=[handler])


class LineFormatter(logging.Formatter):
    """A record whose text has several lines, as a traceback has, goes on in lines that begin with `    | `: whatever
    somebody puts into a text, it is never taken for a record. Other control characters are written out."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _lines(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        return _lines("\n" + super().formatException(ei)).removeprefix("\n")

    def formatStack(self, stack_info: str) -> str:
        return _lines("\n" + super().formatStack(stack_info)).removeprefix("\n")


def _lines(text: str) -> str:
    return _MORE.join(one_line(line) for line in masked(text).split("\n"))


class Sparing:
    """Logs what may happen as often as a peer likes: each kind at most once in ten seconds, with how often it was left
    out. So no peer fills the log."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._last: dict[str, tuple[float, int]] = {}

    def error(
        self, key: str, message: str, *args: object, exc_info: BaseException | TracebackType | None = None
    ) -> None:
        """Logs an error of the kind `key`, or counts it."""
        now = time.monotonic()
        since, left_out = self._last.get(key, (now - _PAUSE_SECONDS, 0))
        if now - since < _PAUSE_SECONDS:
            self._last[key] = (since, left_out + 1)
            return
        if len(self._last) >= _MAX_KEYS:
            self._last.clear()
        self._last[key] = (now, 0)
        if left_out:
            message += f" ({left_out} more of it since the last time)"
        self._log.error(message, *args, exc_info=exc_info)  # type: ignore[arg-type]
