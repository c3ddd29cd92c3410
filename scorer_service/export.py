"""Exports results by OTLP: `gen_ai.evaluation.result` events, and a span for each attempt.

Every attempt that ended waits in the table `exports`, written in the same transaction as its end, until an OTLP
endpoint has taken it. What is sent together is bounded in bytes. A batch that is refused is halved until what is at
fault is alone: that is given up, counted and told of, and nothing else waits for it. While the endpoint is away
everything waits. The same result exported again has the same ids and times, so a backend can tell. The event is
parented to the span of the evaluated run, and so is the attempt's span, with a link to it as the sender of the message;
where no trace is known the attempts of a scorer run are one of their own. OTEL_EXPORTER_OTLP_ENDPOINT and its like say
where to.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from hashlib import sha256
from importlib.util import find_spec
from typing import Any, Final, Protocol

from sqlalchemy import ColumnElement, Table, and_, delete, select, tuple_, update
from sqlalchemy.engine import Connection

from runwire.backoff import Backoff
from runwire.errors import ConfigurationError
from scorer_service.answers.queries import Attempt
from scorer_service.queue.backlog import count_dropped
from scorer_service.results.database import Database, database_time
from scorer_service.results.records import State
from scorer_service.results.schema import attempts, exports, scorer_runs

logger = logging.getLogger("scorer_service")

_BATCH: Final = 256
_LEASE_SECONDS: Final = 60.0
_BACKOFF: Final = Backoff(1.0, 300.0, jitter=0.5)
_IDLE_SECONDS: Final = 1.0
_MAX_PAUSE_SECONDS: Final = 30.0
_COMPLAIN_SECONDS: Final = 60.0
_MAX_BYTES: Final = 1024 * 1024
"""Of what is sent together: receivers take 4 MiB unless they are told otherwise, some of them less."""
_TRACEPARENT: Final = re.compile(r"^[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SCOPE: Final = "runwire.scorer_service"


@dataclass(frozen=True, slots=True)
class Item:
    """An attempt to export, with the scorer run as it is now."""

    attempt: Any
    run: Any
    tries: int

    @property
    def weight(self) -> int:
        """About how many bytes it takes in a request, at least half of it."""
        texts = (self.run.score_label, self.run.score_reason, self.attempt.error_message)
        return 2000 + sum(len((text or "").encode("utf-8", "replace")) for text in texts)


class Verdict(Enum):
    """What became of items that were sent together."""

    TAKEN = "taken"
    AWAY = "away"
    """Nobody was there to take them, or had time for it: nothing is wrong with them."""
    REFUSED = "refused"
    """They will never be taken, for what they are: one of them, at least."""
    FAILED = "failed"
    """They were not taken, and it is not known why."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of items, and how many of those that were taken the receiver left out."""

    verdict: Verdict
    rejected: int = 0


class Sink(Protocol):
    """Where items go."""

    def send(self, items: Sequence[Item]) -> Outcome:
        """Sends them. May block. What it raises counts as REFUSED: they could not even be put into words."""
        ...

    def close(self) -> None:
        """Ends a `send` that another thread waits in."""
        ...


class Exporter:
    """One per process; several of them share the work."""

    def __init__(self, database: Database, sink: Sink) -> None:
        self._database = database
        self._sink = sink
        self._pause_seconds = _IDLE_SECONDS
        self._complained = -_COMPLAIN_SECONDS
        self._given_up = 0

    async def run_once(self) -> float:
        """Exports one batch; returns at once for the next while there is more."""
        items = await self._database.write(_claim)
        if not items:
            return _IDLE_SECONDS
        outcome = await self._send(items)
        verdict = outcome.verdict
        if verdict is Verdict.AWAY:
            self._pause_seconds = min(_MAX_PAUSE_SECONDS, self._pause_seconds * 2)
            await self._database.write(lambda connection: _hand_back(connection, items, self._pause_seconds))
            return self._pause_seconds
        self._pause_seconds = _IDLE_SECONDS
        if verdict is Verdict.TAKEN:
            await self._database.write(lambda connection: _remove(connection, items, outcome.rejected))
            return 0.0
        if verdict is Verdict.REFUSED and len(items) == 1:
            await self._database.write(lambda connection: _remove(connection, items, 1))
            self._tell(items[0])
            return 0.0
        delay = 0.0 if verdict is Verdict.REFUSED else _delay(items)
        await self._database.write(lambda connection: _postpone(connection, items, delay))
        return _IDLE_SECONDS if delay else 0.0

    def stop(self) -> None:
        """Gives up what is being sent: it waits in the database for the next process."""
        self._sink.close()

    async def _send(self, items: Sequence[Item]) -> Outcome:
        try:
            return await asyncio.to_thread(self._sink.send, items)
        except Exception:
            logger.debug("results cannot be exported", exc_info=True)
            return Outcome(Verdict.REFUSED)

    def _tell(self, item: Item) -> None:
        """Of what was given up: at once, and then how many more it were, once a minute."""
        self._given_up += 1
        now = time.monotonic()
        if now >= self._complained + _COMPLAIN_SECONDS:
            self._complained = now
            logger.warning(
                "%d results were given up, which the OTLP endpoint will not take; the last one is %s, attempt %d",
                self._given_up,
                item.attempt.scorer_run_id,
                item.attempt.attempt,
            )
            self._given_up = 0


_RUN_COLUMNS: Final = [
    scorer_runs.c[name]
    for name in (
        "scorer_run_id",
        "run_id",
        "agent_id",
        "scorer_id",
        "scorer_name",
        "scorer_version",
        "state",
        "claims",
        "worker",
        "create_time",
        "start_time",
        "end_time",
        "traceparent",
        "score_value",
        "score_label",
        "score_reason",
        "error_reason",
        "error_class",
        "error_message",
    )
]
_ATTEMPT_COLUMNS: Final = [column for column in attempts.c if column.name not in ("partial_results", "exchanges")]


def _claim(connection: Connection) -> list[Item]:
    now, key = database_time(connection), exports.c
    due = (
        select(key.scorer_run_id, key.attempt, key.tries)
        .where(key.due_time <= now)
        .order_by(key.due_time)
        .limit(_BATCH)
        .with_for_update(skip_locked=True)
    )
    rows = connection.execute(due).all()
    claimed = {(row.scorer_run_id, row.attempt): row.tries for row in rows[: _together(rows)]}
    if not claimed:
        return []
    items = _load(connection, claimed)
    known = {(item.attempt.scorer_run_id, item.attempt.attempt) for item in items}
    if gone := [pair for pair in claimed if pair not in known]:
        connection.execute(delete(exports).where(_among(exports, gone)))
    items = items[: _within_bytes(items)]
    if items:
        mine = _among(exports, _pairs(items))
        connection.execute(update(exports).where(mine).values(due_time=now + _LEASE_SECONDS, tries=key.tries + 1))
    return items


def _together(rows: Sequence[Any]) -> int:
    """How many of them are sent together: half as many with each time that one of them was refused."""
    most = len(rows)
    for count, row in enumerate(rows):
        tries: int = min(row.tries, 10)
        most = min(most, max(1, _BATCH >> tries))
        if count >= most:
            return most
    return most


def _load(connection: Connection, claimed: Mapping[tuple[str, int], int]) -> list[Item]:
    """The claimed attempts, as far as they are still there, in their order."""
    of_attempts = _among(attempts, list(claimed))
    history = connection.execute(select(*_ATTEMPT_COLUMNS).where(of_attempts)).all()
    of_runs = scorer_runs.c.scorer_run_id.in_({run for run, _ in claimed})
    runs = {row.scorer_run_id: row for row in connection.execute(select(*_RUN_COLUMNS).where(of_runs))}
    by_key: dict[tuple[str, int], Any] = {(row.scorer_run_id, row.attempt): row for row in history}
    for row in runs.values():
        # What no attempt records: the row itself is the record of a score, and of a failure without any attempt.
        if row.state == State.SUCCEEDED:
            by_key.setdefault((row.scorer_run_id, row.claims), Attempt.of(row))
        elif row.state == State.FAILED:
            by_key.setdefault((row.scorer_run_id, row.claims), Attempt.never_made(row))
    return [
        Item(by_key[key], runs[key[0]], tries) for key, tries in claimed.items() if key in by_key and key[0] in runs
    ]


def _within_bytes(items: Sequence[Item]) -> int:
    """How many of them make one request: at least one, where there is one."""
    total = 0
    for count, item in enumerate(items):
        total += item.weight
        if total > _MAX_BYTES and count:
            return count
    return len(items)


def _pairs(items: Sequence[Item]) -> list[tuple[str, int]]:
    return [(item.attempt.scorer_run_id, item.attempt.attempt) for item in items]


def _among(table: Table, pairs: Sequence[tuple[str, int]]) -> ColumnElement[bool]:
    """By scorer run first: SQLite enters no index with pairs."""
    by_run = table.c.scorer_run_id.in_({run for run, _ in pairs})
    return and_(by_run, tuple_(table.c.scorer_run_id, table.c.attempt).in_(pairs))


def _remove(connection: Connection, items: Sequence[Item], dropped: int) -> None:
    """Takes them out of the table, and counts those of them that did not arrive."""
    connection.execute(delete(exports).where(_among(exports, _pairs(items))))
    if dropped:
        count_dropped(connection, dropped)


def _hand_back(connection: Connection, items: Sequence[Item], delay: float) -> None:
    """As if they had not been tried."""
    _postpone(connection, items, delay)
    pairs = _among(exports, _pairs(items))
    connection.execute(update(exports).where(pairs, exports.c.tries > 0).values(tries=exports.c.tries - 1))


def _delay(items: Sequence[Item]) -> float:
    return _BACKOFF.pause(max(item.tries for item in items) + 1)


def _postpone(connection: Connection, items: Sequence[Item], delay: float) -> None:
    pairs = _among(exports, _pairs(items))
    connection.execute(update(exports).where(pairs).values(due_time=database_time(connection) + delay))


def open_exporter(database: Database) -> Exporter:
    """The exporter to the OTLP endpoint that the environment names. Raises ConfigurationError."""
    if find_spec("opentelemetry.exporter") is None:
        raise ConfigurationError(
            "export to otel needs OpenTelemetry, which is not installed: pip install 'runwire[otel]'"
        )
    return Exporter(database, OtlpSink())


class Ear:
    """Hears what an OTLP endpoint answers, which the exporters of OpenTelemetry keep to themselves."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Before something new is sent."""
        self.code = ""
        """Of the newest answer that was none: a name of gRPC's, or an HTTP status."""
        self.asked_to_wait = False
        self.rejected = 0
        """How many items of what was taken were not (partial success)."""
        self.why = ""

    def verdict(self) -> Verdict:
        """What became of items that were not taken."""
        if self.code in _REFUSALS or (self.code in _UNLESS_ASKED_TO_WAIT and not self.asked_to_wait):
            return Verdict.REFUSED
        return Verdict.AWAY if self.code in _PASSING else Verdict.FAILED

    def hear(self, response: Any) -> None:
        """An answer that took them."""
        partial = response.partial_success
        self.rejected += getattr(partial, "rejected_spans", 0) + getattr(partial, "rejected_log_records", 0)
        self.why = partial.error_message or self.why

    def hear_error(self, error: Any) -> None:
        """An answer that did not: a grpc.RpcError."""
        self.code = error.code().name
        self.asked_to_wait = any(key == "google.rpc.retryinfo-bin" for key, _ in error.trailing_metadata() or ())


_REFUSALS: Final = ("INVALID_ARGUMENT", "400", "413", "422")
_UNLESS_ASKED_TO_WAIT: Final = ("RESOURCE_EXHAUSTED",)
"""With RetryInfo it is a limit that passes; without, the message is too large."""
_PASSING: Final = (
    *("UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "ABORTED", "RESOURCE_EXHAUSTED"),
    *("408", "429", "502", "503", "504"),
)


class _Listening:
    """A stub of a collector whose answers are heard."""

    def __init__(self, stub: Any, ear: Ear) -> None:
        self._stub = stub
        self._ear = ear

    def Export(self, **call: Any) -> Any:
        try:
            response = self._stub.Export(**call)
        except Exception as error:
            if hasattr(error, "trailing_metadata"):
                self._ear.hear_error(error)
            raise
        self._ear.hear(response)
        return response


def _listen(exporter: type[Any], ear: Ear) -> Any:
    """An exporter of that kind whose stub, which it makes again when the connection breaks, is listened to."""

    class Listened(exporter):  # type: ignore[misc] # not typed
        def _initialize_channel_and_stub(self) -> None:
            super()._initialize_channel_and_stub()
            self._client: Any = _Listening(self._client, ear)

    made = Listened()
    if not isinstance(made._client, _Listening):  # a version that makes its stub in another way
        made._client = _Listening(made._client, ear)
    return made


class OtlpSink:
    """OTLP over gRPC."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource

        self._ear = Ear()
        self._logs = _listen(OTLPLogExporter, self._ear)
        self._spans = _listen(OTLPSpanExporter, self._ear)
        self._resource = Resource.create({"service.name": "runwire-scorer"})

    def send(self, items: Sequence[Item]) -> Outcome:
        """Sends both the events and the spans."""
        from opentelemetry.sdk._logs.export import LogRecordExportResult
        from opentelemetry.sdk.trace.export import SpanExportResult

        self._ear.forget()
        events = [_event(item, self._resource) for item in items if has_result(item)]
        if events and self._logs.export(events) is not LogRecordExportResult.SUCCESS:
            return Outcome(self._ear.verdict())
        if self._spans.export([_span(item, self._resource) for item in items]) is not SpanExportResult.SUCCESS:
            return Outcome(self._ear.verdict())
        if self._ear.rejected:
            # As OTLP has it, such are not sent again: nobody says which they are.
            logger.warning(
                "the OTLP endpoint took a batch without %d of its items: %r", self._ear.rejected, self._ear.why
            )
        return Outcome(Verdict.TAKEN, min(self._ear.rejected, len(items)))

    def close(self) -> None:
        self._logs.shutdown()
        self._spans.shutdown()


def has_result(item: Item) -> bool:
    """Whether the attempt ended the scorer run with a score or a failure."""
    return item.run.claims == item.attempt.attempt and item.run.state in (State.SUCCEEDED, State.FAILED)


def _parent(run: Any) -> Any:
    """The span of the evaluated run; None where it is not known."""
    from opentelemetry.trace import SpanContext, TraceFlags

    match = _TRACEPARENT.match(run.traceparent)
    if match is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in match.groups())
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return context if context.is_valid else None


def _event(item: Item, resource: Any) -> Any:
    from opentelemetry._logs import LogRecord
    from opentelemetry.context import Context
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    run, parent = item.run, _parent(item.run)
    attributes: dict[str, Any] = {"gen_ai.evaluation.name": run.scorer_id, **_identity(item)}
    if run.state == State.SUCCEEDED:
        attributes["gen_ai.evaluation.score.value"] = run.score_value
        if run.score_label:
            attributes["gen_ai.evaluation.score.label"] = run.score_label
        if run.score_reason:
            attributes["gen_ai.evaluation.explanation"] = run.score_reason
    else:
        attributes["error.type"] = run.error_reason
    record = LogRecord(
        timestamp=_nanoseconds(item.attempt.end_time),
        observed_timestamp=_nanoseconds(item.attempt.end_time),
        context=set_span_in_context(NonRecordingSpan(parent), Context()) if parent else Context(),
        event_name="gen_ai.evaluation.result",
        attributes=attributes,
    )
    return ReadableLogRecord(record, resource, InstrumentationScope(_SCOPE))


def _span(item: Item, resource: Any) -> Any:
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags

    attempt, parent = item.attempt, _parent(item.run)
    digest = sha256(f"{attempt.scorer_run_id}/{attempt.attempt}".encode()).digest()
    own = int.from_bytes(sha256(attempt.scorer_run_id.encode()).digest()[:16], "big")
    trace_id = parent.trace_id if parent else own
    context = SpanContext(trace_id, int.from_bytes(digest[:8], "big"), False, TraceFlags(TraceFlags.SAMPLED))
    attributes = {
        "messaging.operation.type": "process",
        "messaging.destination.name": "scorer-requests",
        "messaging.message.id": attempt.scorer_run_id,
        **_identity(item),
    }
    status = Status(StatusCode.OK)
    if attempt.error_reason:
        status = Status(StatusCode.ERROR, attempt.error_message)
        attributes["error.type"] = attempt.error_reason
    return ReadableSpan(
        name=f"process scorer {item.run.scorer_id}",
        context=context,
        parent=parent,
        resource=resource,
        attributes=attributes,
        links=[Link(parent)] if parent else [],
        kind=SpanKind.CONSUMER,
        status=status,
        start_time=_nanoseconds(attempt.start_time),
        end_time=_nanoseconds(attempt.end_time),
        instrumentation_scope=InstrumentationScope(_SCOPE),
    )


def _identity(item: Item) -> dict[str, Any]:
    """What a result is known by, however often it arrives."""
    run = item.run
    return {
        "runwire.scorer_run.id": run.scorer_run_id,
        "runwire.scorer_run.attempt": item.attempt.attempt,
        "runwire.scorer.version": run.scorer_version,
        "runwire.scorer.name": run.scorer_name,
        "runwire.run.id": run.run_id,
        "runwire.agent.id": run.agent_id,
    }


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e6) * 1000
