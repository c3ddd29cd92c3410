"""Export by OTLP, to a collector of the test's own."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2, logs_service_pb2_grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from sqlalchemy import func, select
from sqlalchemy.event import listen

from scorer_service.answers.controls import Controls
from scorer_service.export import Exporter, Item, OtlpSink, Outcome, Verdict, has_result
from scorer_service.queue.backlog import Backlog
from scorer_service.queue.holders import give_up
from scorer_service.queue.jobs import Jobs, Offer
from scorer_service.queue.retention import Ages, Retention
from scorer_service.registry import load
from scorer_service.results import schema
from scorer_service.results.database import Database, open_database
from scorer_service.results.records import Error, Finished, NewRun, ScoreRecord, State
from tests.scorer.stage import eventually, request, service
from tests.servers import free_port

TRACE_ID, SPAN_ID = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


@dataclass
class Collector:
    """What arrived."""

    url: str = ""
    available: bool = True
    refused: int = 0
    code: grpc.StatusCode | None = None
    rejects: int = 0
    events: list[Any] = field(default_factory=list)
    spans: list[Any] = field(default_factory=list)

    async def _check(self, context: Any) -> None:
        if self.code is not None:
            await context.abort(self.code, "as the test says")
        if not self.available:
            self.refused += 1
            # Not UNAVAILABLE, which the exporter would repeat by itself for a while.
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "not now")


def attributes(record: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in record.attributes}


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    """A collector, and an environment that leads to it."""
    collected = Collector()

    class Logs(logs_service_pb2_grpc.LogsServiceServicer):
        async def Export(self, request: Any, context: Any) -> Any:
            await collected._check(context)
            for resource in request.resource_logs:
                for scope in resource.scope_logs:
                    collected.events.extend(scope.log_records)
            response = logs_service_pb2.ExportLogsServiceResponse()
            response.partial_success.rejected_log_records = collected.rejects
            return response

    class Traces(trace_service_pb2_grpc.TraceServiceServicer):
        async def Export(self, request: Any, context: Any) -> Any:
            await collected._check(context)
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    collected.spans.extend(scope.spans)
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.aio.server()
    logs_service_pb2_grpc.add_LogsServiceServicer_to_server(Logs(), server)
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    collected.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collected.url)
    await server.start()
    yield collected
    await server.stop(None)


async def waiting(database: Database) -> int:
    query = select(func.count()).select_from(schema.exports)
    return int(await database.read(lambda c: c.execute(query).scalar_one()))


async def test_results_are_exported(results_url: str, collector: Collector) -> None:
    """An event parented to the run's span for each result, and a span linked to it for each attempt; then nothing
    waits any more."""
    good, bad = request("flaky", "good", options={"failures": 1}), request("hopeless", "bad")
    declined = request("brevity", "declined", sampled=False)
    for message in (good, bad, declined):
        message.traceparent = TRACEPARENT
    async with service(results_url, scorer_export="otel") as running, open_database(results_url) as database:
        await running.score(good)
        await running.score(bad)
        await running.score(declined)

        async def all_delivered() -> bool:
            return len(collector.spans) == 3 and await waiting(database) == 0

        await eventually(all_delivered)
        run = await running.get(good.scorer_run_id)
    by_name = {attributes(event)["gen_ai.evaluation.name"]: event for event in collector.events}
    assert set(by_name) == {"flaky", "hopeless"}
    for event in by_name.values():
        assert event.event_name == "gen_ai.evaluation.result"
        assert (event.trace_id.hex(), event.span_id.hex()) == (TRACE_ID, SPAN_ID)
    scored = attributes(by_name["flaky"])
    assert scored["gen_ai.evaluation.score.value"] == 1.0
    assert scored["runwire.scorer_run.id"] == good.scorer_run_id
    assert by_name["flaky"].time_unix_nano == run.end_time.ToNanoseconds()
    failed = attributes(by_name["hopeless"])
    assert failed["error.type"] == "scorer_error"
    assert "gen_ai.evaluation.score.value" not in failed
    assert {span.links[0].span_id.hex() for span in collector.spans} == {SPAN_ID}
    assert {(span.trace_id.hex(), span.parent_span_id.hex()) for span in collector.spans} == {(TRACE_ID, SPAN_ID)}
    assert len({span.span_id for span in collector.spans}) == 3
    flaky = [span for span in collector.spans if span.name.endswith("flaky")]
    first = min(flaky, key=lambda span: attributes(span)["runwire.scorer_run.attempt"])
    assert first.status.code == 2


async def test_a_collector_that_is_away_is_waited_for(sqlite_url: str, collector: Collector) -> None:
    """Results wait in the database, also over a restart of the service, and arrive with the same ids and times."""
    collector.available = False
    message = request("brevity")
    async with service(sqlite_url, scorer_export="otel") as running, open_database(sqlite_url) as database:
        await running.score(message)

        async def was_refused() -> bool:
            return collector.refused > 0

        await eventually(was_refused)
        assert await waiting(database) == 1
    collector.available = True
    async with open_database(sqlite_url) as database:
        due_now = schema.exports.update().values(due_time=0.0)
        await database.write(lambda c: c.execute(due_now))
        async with service(sqlite_url, scorer_export="otel"):

            async def is_delivered() -> bool:
                return await waiting(database) == 0

            await eventually(is_delivered)
    (event,) = collector.events
    assert attributes(event)["runwire.scorer_run.id"] == message.scorer_run_id


async def test_nothing_is_exported_unless_asked_for(sqlite_url: str, collector: Collector) -> None:
    """Off by default: nothing is sent, and nothing gathers."""
    async with service(sqlite_url) as running, open_database(sqlite_url) as database:
        await running.score(request("brevity"))
        assert await waiting(database) == 0
    assert (collector.events, collector.spans, collector.refused) == ([], [], 0)


class Remembering:
    """A sink that takes what it is allowed to."""

    def __init__(self, *answers: Verdict) -> None:
        self._answers = list(answers)
        self.seen: list[list[tuple[str, int]]] = []

    def send(self, items: Any) -> Outcome:
        self.seen.append([(item.run.scorer_run_id, item.attempt.attempt) for item in items])
        assert all(isinstance(item, Item) for item in items)
        return Outcome(self._answers.pop(0))

    def close(self) -> None:
        raise AssertionError("nobody stops it")


async def finish_some(database: Database, count: int, backlog: int) -> Jobs:
    jobs = Jobs(database, worker="w", export_backlog=backlog)
    await jobs.register(["a"])
    await jobs.add([NewRun(f"{number:032x}", "default", "a") for number in range(count)])
    claimed = (await jobs.claim({"a": Offer(count)}, count)).jobs
    score = ScoreRecord(1.0, "", "", "{}", 1, None)
    await jobs.finish([Finished(job, State.SUCCEEDED, "1", score) for job in claimed])
    return jobs


async def test_the_backlog_is_bounded(database: Database) -> None:
    """What does not fit is not exported, and counted."""
    await finish_some(database, 10, 4)
    assert await waiting(database) == 4
    query = select(schema.counters.c.value).where(schema.counters.c.name == schema.EXPORTS_DROPPED)
    assert await database.read(lambda c: c.execute(query).scalar_one()) == 6


async def test_several_exporters_share_the_work(database: Database) -> None:
    """What one has in its hands is not sent by another; what failed is sent again later."""
    await finish_some(database, 5, 100)
    sink = Remembering(Verdict.FAILED, Verdict.TAKEN)
    exporter = Exporter(database, sink)
    await asyncio.gather(exporter.run_once(), Exporter(database, sink).run_once())
    assert len(sink.seen) == 1
    assert await waiting(database) == 5
    await database.write(lambda c: c.execute(schema.exports.update().values(due_time=0.0)))
    await exporter.run_once()
    assert sorted(sink.seen[0]) == sorted(sink.seen[1])
    assert await waiting(database) == 0


async def dropped(database: Database) -> int:
    query = select(schema.counters.c.value).where(schema.counters.c.name == schema.EXPORTS_DROPPED)
    return int(await database.read(lambda c: c.execute(query).scalar_one()))


class Picky(Remembering):
    """A sink that refuses, or chokes on, whatever is sent together with certain results."""

    def __init__(self, bad: set[str], *, raises: bool = False, verdict: Verdict = Verdict.REFUSED) -> None:
        super().__init__()
        self._bad, self._raises, self._verdict = bad, raises, verdict
        self.taken: set[str] = set()

    def send(self, items: Any) -> Outcome:
        keys = {item.run.scorer_run_id for item in items}
        self.seen.append([(key, 1) for key in sorted(keys)])
        if keys & self._bad:
            if self._raises:
                raise ValueError("cannot be encoded")
            return Outcome(self._verdict)
        self.taken |= keys
        return Outcome(Verdict.TAKEN)


@pytest.mark.parametrize("raises", [False, True])
async def test_what_is_refused_blocks_nothing_else(
    database: Database, raises: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Three of 300 that the collector will never take, or that cannot be encoded: they are found by halving, given up,
    counted and told of; all others arrive."""
    await finish_some(database, 300, 1000)
    bad = {f"{number:032x}" for number in (0, 128, 299)}
    sink = Picky(bad, raises=raises)
    exporter = Exporter(database, sink)
    with caplog.at_level(logging.WARNING, "scorer_service"):
        for _ in range(200):
            if await exporter.run_once():
                break
    assert sink.taken == {f"{number:032x}" for number in range(300)} - bad
    assert await waiting(database) == 0
    assert await dropped(database) == 3
    assert len(caplog.records) == 1
    assert len(sink.seen) < 80


async def test_what_fails_for_an_unknown_reason_ends_up_alone(database: Database) -> None:
    """It is sent in ever smaller company, and never given up; all others arrive."""
    await finish_some(database, 40, 1000)
    bad = {f"{7:032x}"}
    sink = Picky(bad, verdict=Verdict.FAILED)
    exporter = Exporter(database, sink)
    earlier = schema.exports.update().values(due_time=schema.exports.c.due_time - 1000.0)
    for _ in range(60):
        await exporter.run_once()
        await database.write(lambda c: c.execute(earlier))
    assert len(sink.taken) == 39
    assert (await waiting(database), await dropped(database)) == (1, 0)


async def test_a_collector_that_is_away_is_nobodys_fault(database: Database) -> None:
    """What waited for it goes out in whole batches when it is back; the pauses grow meanwhile."""
    await finish_some(database, 200, 1000)
    sink = Remembering(*[Verdict.AWAY] * 12, Verdict.TAKEN)
    exporter = Exporter(database, sink)
    pauses = []
    for _ in range(12):
        pauses.append(await exporter.run_once())
        await database.write(lambda c: c.execute(schema.exports.update().values(due_time=0.0)))
    assert pauses == sorted(pauses)
    assert pauses[-1] == 30.0
    await exporter.run_once()
    assert len(sink.seen[-1]) == 200


async def test_a_batch_is_bounded_in_bytes(database: Database) -> None:
    """Large explanations go out few at a time, together everything."""
    jobs = await finish_some(database, 0, 1000)
    await jobs.add([NewRun(f"{number:032x}", "default", "a") for number in range(40)])
    claimed = (await jobs.claim({"a": Offer(40)}, 40)).jobs
    score = ScoreRecord(1.0, "", "\u4e16" * 50_000, "{}", 1, None)
    await jobs.finish([Finished(job, State.SUCCEEDED, "1", score) for job in claimed])
    sink = Picky(set())
    exporter = Exporter(database, sink)
    while not await exporter.run_once():
        pass
    assert len(sink.taken) == 40
    assert all(len(batch) * 150_000 < 1_100_000 for batch in sink.seen)


@pytest.mark.parametrize(
    "code, verdict",
    [
        (grpc.StatusCode.INVALID_ARGUMENT, Verdict.REFUSED),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, Verdict.REFUSED),
        (grpc.StatusCode.PERMISSION_DENIED, Verdict.FAILED),
        (grpc.StatusCode.INTERNAL, Verdict.FAILED),
        (grpc.StatusCode.UNAVAILABLE, Verdict.AWAY),
        (None, Verdict.TAKEN),
    ],
)
async def test_the_collectors_word_is_heard(
    sqlite_url: str, collector: Collector, code: grpc.StatusCode | None, verdict: Verdict, monkeypatch: Any
) -> None:
    """What a real collector answers says whether to halve, to wait or to try again; one that takes a batch without some
    of it has that counted."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    collector.code, collector.rejects = code, 2
    async with open_database(sqlite_url) as database:
        await finish_some(database, 3, 10)
        sink = OtlpSink()
        seen: list[Outcome] = []

        class Noting:
            def send(self, items: Any) -> Outcome:
                seen.append(sink.send(items))
                return seen[-1]

            def close(self) -> None:
                sink.close()

        exporter = Exporter(database, Noting())
        await exporter.run_once()
        exporter.stop()
        assert seen[0].verdict is verdict
        assert await dropped(database) == (2 if code is None else 0)


async def test_every_failure_is_exported_whoever_ends_it(database: Database) -> None:
    """What nobody has the scorer for, what is late, what was refused at intake, and an attempt that a cancellation
    ended: their failure is sent as it is, with the number under which the scorer run shows it."""
    jobs = Jobs(database, worker="w", lease_seconds=-1, export_backlog=100)
    await jobs.register(["a"])
    runs = [
        NewRun("orphan", "default", "gone"),
        NewRun("late", "default", "a", deadline=1.0),
        NewRun("malformed", "default", "a", state=State.FAILED, error=Error("malformed_request", "no sense")),
        NewRun("running", "default", "a"),
        NewRun("dead", "default", "a"),
    ]
    await jobs.add([new for new in runs if new.scorer_run_id in ("running", "dead")])
    assert len((await jobs.claim({"a": Offer(2)}, 2)).jobs) == 2
    await jobs.add(runs)
    controls = Controls(database, jobs, load([]), wake=lambda: None)
    assert (await controls.cancel("default", ["running"])).count == 1
    assert await Retention(database, Ages(0, 0, 0), backlog=jobs.backlog).end_late() == 1
    await database.write(lambda c: give_up_all(c, jobs.backlog))
    items: dict[tuple[str, int], Item] = {}

    class Keeping(Remembering):
        def send(self, sent: Any) -> Outcome:
            items.update({(item.run.scorer_run_id, item.attempt.attempt): item for item in sent})
            return Outcome(Verdict.TAKEN)

    while not await Exporter(database, Keeping()).run_once():
        pass
    reasons = {key: item.attempt.error_reason for key, item in items.items()}
    assert reasons == {
        ("orphan", 1): "scorer_unknown",
        ("late", 1): "deadline_exceeded",
        ("malformed", 0): "malformed_request",
        ("running", 1): "cancelled",
        ("dead", 1): "worker_lost",
        ("dead", 2): "scorer_unknown",
    }
    results = {item.run.scorer_run_id for item in items.values() if has_result(item)}
    assert results == {"orphan", "late", "malformed", "dead"}
    assert (await waiting(database), await dropped(database)) == (0, 0)


def give_up_all(connection: Any, backlog: Backlog) -> None:
    """As the orphan rule does, for all that is open."""
    row = schema.scorer_runs.c
    columns = (row.scorer_run_id, row.state, row.claims, row.worker, row.start_time, row.steps)
    lines = connection.execute(select(*columns).where(row.due_time.is_not(None))).all()
    give_up(connection, lines, Error("scorer_unknown", "nobody has it"), backlog)


async def test_the_backlog_is_not_counted_for_every_write(database: Database) -> None:
    """Counting what waits costs more than adding to it: it is done once in a while, and room that an exporter made is
    found by the next count."""
    statements: list[str] = []
    backlog = Backlog(10)

    def work(connection: Any, first: int) -> None:
        listen(connection, "before_cursor_execute", lambda c, cursor, text, *rest: statements.append(text))
        backlog.add(connection, [(f"{first + number}", 1) for number in range(4)])

    for first in range(0, 20, 4):
        await database.write(lambda connection, at=first: work(connection, at))  # type: ignore[misc]
    assert len([text for text in statements if "count(" in text.lower()]) == 1
    assert (await waiting(database), await dropped(database)) == (10, 10)
    await database.write(lambda c: c.execute(schema.exports.delete()))
    backlog._count_again = 0.0
    await database.write(lambda connection: backlog.add(connection, [("more", 1)]))
    assert await waiting(database) == 1


async def test_attempts_that_died_with_their_worker_are_exported(database: Database) -> None:
    """Each of them, also while others follow."""
    jobs = Jobs(database, worker="w", lease_seconds=-1, export_backlog=10)
    await jobs.register(["a"])
    await jobs.add([NewRun("one", "default", "a")])
    for _ in range(2):
        assert (await jobs.claim({"a": Offer(1)}, 1)).jobs
    sink = Remembering(Verdict.TAKEN)
    await Exporter(database, sink).run_once()
    assert sink.seen == [[("one", 1)]]


async def test_a_collector_that_is_dead_keeps_nobody() -> None:
    """Closing the sink ends what it is sending, for however long that would have been tried."""
    tries = threading.Event()

    class Noticing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tries.set()

    handler = Noticing()
    logging.getLogger("opentelemetry").addHandler(handler)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
        patch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
        sink = OtlpSink()
    run = SimpleNamespace(
        scorer_run_id="one",
        scorer_id="a",
        scorer_name="",
        scorer_version="1",
        run_id="",
        agent_id="",
        traceparent="",
        claims=2,
        state=3,
    )
    attempt = SimpleNamespace(scorer_run_id="one", attempt=1, start_time=0.0, end_time=1.0, error_reason=None)
    sending = asyncio.create_task(asyncio.to_thread(sink.send, [Item(attempt, run, 1)]))
    try:
        assert await asyncio.to_thread(tries.wait, 10)
        sink.close()
        async with asyncio.timeout(10):
            assert (await sending).verdict is not Verdict.TAKEN
    finally:
        logging.getLogger("opentelemetry").removeHandler(handler)
