"""What a process writes into its log: one record, one line, and no secrets.

On a terminal a line begins with its time and is for people; elsewhere it is a JSON object. Both carry what the calling
code is about (see `about`): a line that an author writes inside a run, by `logging` or by structlog, names the run too.
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from enum import Enum
from types import TracebackType
from typing import Any, Final, Literal

from runwire.errors import ConfigurationError
from runwire.redaction import masked, one_line

Style = Literal["auto", "json", "text"]

_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_MORE: Final = "\n    | "
"""Begins each further line of a record."""
_PAUSE_SECONDS: Final = 10.0
_MAX_KEYS: Final = 1000
_FIELDS: Final = "fields"
"""Where a record holds what `fields` was given."""
_OURS: Final = frozenset({"time", "level", "logger", "event", "exception", "stack"})
_IDS: Final = frozenset(
    {"time", "level", "logger", "run_id", "tenant", "agent_id", "agent_version", "attempt", "worker", "trace_id"}
    | {"state", "scorer_run_id", "scorer_id"}
)
"""Values of ours, which hold no secrets: who gives one is held to its form, and to look costs more than the line."""
_BETWEEN: Final = "\n\x1f\n"

Context = Callable[[], Mapping[str, Any]]


def configure(level: str, style: Style = "auto") -> None:
    """Logs to stderr, in lines that cannot be forged: for people on a terminal, else JSON. What is said by structlog
    goes the same way."""
    import structlog  # only a process that serves has it

    context = structlog.contextvars.get_contextvars
    is_json = style == "json" or (style == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(context) if is_json else LineFormatter(_FORMAT, context))
    logging.basicConfig(level=level, handlers=[handler])
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            _to_record,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def about(**values: str | int) -> AbstractContextManager[Any]:
    """Every line that is written inside, also by tasks and threads that begin there, carries these values."""
    try:
        import structlog
    except ImportError:  # a service that is embedded without its extra: its lines are its owner's affair
        raise ConfigurationError("structlog is missing: pip install 'runwire[agent]' or 'runwire[scorer]'") from None
    return structlog.contextvars.bound_contextvars(**values)


def fields(**values: Any) -> Mapping[str, Any]:
    """For `extra=`: values that a line has beside its text. Those that are None are left out."""
    return {_FIELDS: {name: value for name, value in values.items() if value is not None}}


def _to_record(logger: Any, method: str, event: MutableMapping[str, Any]) -> tuple[Any, ...]:
    """What structlog was told, as arguments of `logging`."""
    known = {name: event.pop(name) for name in ("exc_info", "stack_info", "stacklevel") if name in event}
    said = event.pop("event", "")
    return ("%s", said), {"extra": {_FIELDS: dict(event)}, **known}


def _values(record: logging.LogRecord, context: Context) -> dict[str, Any]:
    """What a line carries beside its text, the nearest last. No author's value stands in the place of ours."""
    found = {**context(), **getattr(record, _FIELDS, {})}
    return {f"{name}_" if name in _OURS else str(name): value for name, value in found.items()}


def _nothing() -> Mapping[str, Any]:
    return {}


class JsonFormatter(logging.Formatter):
    """A record as one JSON object on one line."""

    def __init__(self, context: Context = _nothing) -> None:
        super().__init__()
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
            **{name: _plain(value) for name, value in _values(record, self._context).items()},
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = record.stack_info
        looked_at = {name for name, value in line.items() if isinstance(value, str) and name not in _IDS}
        if isinstance(record.msg, Enum):
            looked_at.discard("event")  # one of a vocabulary, with nothing put into it
        return json.dumps({**line, **_without_secrets({name: line[name] for name in looked_at})}, allow_nan=False)


def _plain(value: Any) -> str | int | float | bool | None:
    """A value as JSON has it at hand; anything else is its text."""
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    return value if isinstance(value, float) and math.isfinite(value) else _text(value)


def _without_secrets(values: Mapping[str, str]) -> Mapping[str, str]:
    """All are looked at together, as each look costs; each after its name, which may be what tells a secret."""
    if not values:
        return values
    texts = {name: f"{name}={value}" for name, value in values.items()}
    looked_at = masked(_BETWEEN.join(texts.values())).split(_BETWEEN)
    if len(looked_at) != len(texts):  # one of them holds what looks like the end of another, or they are long
        looked_at = [masked(text) for text in texts.values()]
    return {name: text.removeprefix(f"{name}=") for name, text in zip(texts, looked_at, strict=True)}


def _text(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # an author's object: what it cannot say must not cost the line
        return f"<{type(value).__name__}>"


class LineFormatter(logging.Formatter):
    """A record whose text has several lines, as a traceback has, continues in lines that begin with `    | `: whatever
    somebody puts into a text, it is never taken for a record. Other control characters are written out."""

    def __init__(self, line: str, context: Context = _nothing) -> None:
        super().__init__(line)
        self._context = context

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _lines(record.message)
        values = (
            f"{name}={value if isinstance(value, str) else _text(value)}"
            for name, value in _values(record, self._context).items()
        )
        return " ".join([super().formatMessage(record), *map(_lines, values)])

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
