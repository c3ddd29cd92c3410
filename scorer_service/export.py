"""Exports results by OTLP: `gen_ai.evaluation.result` events, and a span for each attempt.

Every attempt that ended waits in the table `exports`, written in the same transaction as its end, until an OTLP
endpoint has taken it. The same result exported again has the same ids and times, so a backend can tell. The event is
parented to the span of the evaluated run; the attempt's span is a trace of its own with a link to that span, which
sent the message. OTEL_EXPORTER_OTLP_ENDPOINT and its like say where to.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib.util import find_spec
from typing import Any, Final, Protocol

from sqlalchemy import delete, select, tuple_, update
from sqlalchemy.engine import Connection

from runwire.backoff import Backoff
from runwire.errors import ConfigurationError
from scorer_service.database import Database, database_time
from scorer_service.queries import Attempt
from scorer_service.records import State
from scorer_service.schema import attempts, exports, scorer_runs

log = logging.getLogger("scorer_service")

_BATCH: Final = 256
_LEASE_SECONDS: Final = 60.0
_BACKOFF: Final = Backoff(1.0, 300.0, jitter=0.5)
_IDLE_SECONDS: Final = 1.0
_TRACEPARENT: Final = re.compile(r"^[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_SCOPE: Final = "runwire.scorer_service"


@dataclass(frozen=True, slots=True)
class Item:
    """An attempt to export, with the scorer run as it is now."""

    attempt: Any
    run: Any
    tries: int


class Sink(Protocol):
    """Where items go."""

    def send(self, items: Sequence[Item]) -> bool:
        """Whether they were taken. May block."""
        ...

    def close(self) -> None:
        """Ends a `send` that another thread waits in."""
        ...


class Exporter:
    """One per process; several of them share the work."""

    def __init__(self, database: Database, sink: Sink) -> None:
        self._database = database
        self._sink = sink

    async def run_once(self) -> float:
        """Exports one batch; returns at once for the next while there is more."""
        items = await self._database.write(self._claim)
        if not items:
            return _IDLE_SECONDS
        if await asyncio.to_thread(self._sink.send, items):
            await self._database.write(lambda connection: _remove(connection, items))
            return 0.0
        await self._database.write(lambda connection: _postpone(connection, items))
        return _IDLE_SECONDS

    def stop(self) -> None:
        """Gives up what is being sent: it waits in the database for the next process."""
        self._sink.close()

    def _claim(self, connection: Connection) -> list[Item]:
        now, key = database_time(connection), exports.c
        due = (
            select(key.scorer_run_id, key.attempt, key.tries)
            .where(key.due_time <= now)
            .order_by(key.due_time)
            .limit(_BATCH)
            .with_for_update(skip_locked=True)
        )
        claimed = {(line.scorer_run_id, line.attempt): line.tries for line in connection.execute(due)}
        if not claimed:
            return []
        mine = tuple_(key.scorer_run_id, key.attempt).in_(list(claimed))
        connection.execute(update(exports).where(mine).values(due_time=now + _LEASE_SECONDS, tries=key.tries + 1))
        history = connection.execute(
            select(attempts).where(tuple_(attempts.c.scorer_run_id, attempts.c.attempt).in_(list(claimed)))
        ).all()
        runs = connection.execute(
            select(scorer_runs).where(scorer_runs.c.scorer_run_id.in_({key for key, _ in claimed}))
        )
        by_id = {line.scorer_run_id: line for line in runs}
        ended: list[Any] = [*history]
        recorded = {(line.scorer_run_id, line.attempt) for line in history}
        for line in by_id.values():
            if (line.scorer_run_id, line.claims) not in recorded:
                if line.state == State.SUCCEEDED:
                    ended.append(Attempt.of(line))
                elif line.state == State.FAILED:
                    ended.append(Attempt.never_made(line))
        items = [
            Item(line, by_id[line.scorer_run_id], claimed[line.scorer_run_id, line.attempt])
            for line in ended
            if line.scorer_run_id in by_id and (line.scorer_run_id, line.attempt) in claimed
        ]
        known = {(item.attempt.scorer_run_id, item.attempt.attempt) for item in items}
        if gone := [pair for pair in claimed if pair not in known]:
            connection.execute(delete(exports).where(tuple_(key.scorer_run_id, key.attempt).in_(gone)))
        return items


def _pairs(items: Sequence[Item]) -> list[tuple[str, int]]:
    return [(item.attempt.scorer_run_id, item.attempt.attempt) for item in items]


def _remove(connection: Connection, items: Sequence[Item]) -> None:
    connection.execute(delete(exports).where(tuple_(exports.c.scorer_run_id, exports.c.attempt).in_(_pairs(items))))


def _postpone(connection: Connection, items: Sequence[Item]) -> None:
    tries = max(item.tries for item in items)
    delay = _BACKOFF.pause(tries + 1)
    pairs = tuple_(exports.c.scorer_run_id, exports.c.attempt).in_(_pairs(items))
    connection.execute(update(exports).where(pairs).values(due_time=database_time(connection) + delay))


def open_exporter(database: Database) -> Exporter:
    """The exporter to the OTLP endpoint that the environment names. Raises ConfigurationError."""
    if find_spec("opentelemetry.exporter") is None:
        raise ConfigurationError(
            "export to otel needs OpenTelemetry, which is not installed: pip install 'runwire[otel]'"
        )
    return Exporter(database, OtlpSink())


class OtlpSink:
    """OTLP over gRPC."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource

        self._logs = OTLPLogExporter()
        self._spans = OTLPSpanExporter()
        self._resource = Resource.create({"service.name": "runwire-scorer"})

    def send(self, items: Sequence[Item]) -> bool:
        """Whether both the events and the spans were taken."""
        from opentelemetry.sdk._logs.export import LogRecordExportResult
        from opentelemetry.sdk.trace.export import SpanExportResult

        events = [_event(item, self._resource) for item in items if _has_result(item)]
        if events and self._logs.export(events) is not LogRecordExportResult.SUCCESS:
            return False
        return self._spans.export([_span(item, self._resource) for item in items]) is SpanExportResult.SUCCESS

    def close(self) -> None:
        self._logs.shutdown()
        self._spans.shutdown()


def _has_result(item: Item) -> bool:
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
    trace_id = int.from_bytes(sha256(attempt.scorer_run_id.encode()).digest()[:16], "big")
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
