"""One trace from StartRun through the attempts at a run, what they do, and the messages for scorers."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from agent_service import RunContext, ScorerRef, durable_agent, workflow
from runwire import telemetry, tracing
from runwire.agent.v1 import run_pb2
from runwire.errors import ConfigurationError
from runwire.scorer.v1 import scorer_run_requested_pb2
from runwire.scorer_requests import QUEUE
from tests.service.replica import mortal_worker, replica
from tests.service.test_runs import data

SECRET = "the words of a person"
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@workflow(id="asks")
async def asks(ctx: RunContext, input: Any) -> str:
    return str(await ctx.suspend("name", {}, answer_type=str))


class Spans:
    """What was exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def all(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.all if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


@pytest.fixture(params=[False, True], ids=["no content", "content"])
def content(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def spans() -> Iterator[Spans]:
    found = Spans()
    tracing.switch_on(found.provider.get_tracer("runwire"))
    yield found
    tracing.switch_off()


def answers(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    if len(messages) == 1:
        return ModelResponse([ToolCallPart("look", {"what": SECRET}, "call-1")])
    return ModelResponse([TextPart(f"{SECRET}!")])


def librarian() -> Any:
    agent = Agent(FunctionModel(answers), name="librarian")

    @agent.tool_plain
    def look(what: str) -> str:
        return what

    return durable_agent(agent, version="7", scorers=[ScorerRef("length")])


def child_of(span: ReadableSpan, parent: ReadableSpan) -> bool:
    assert span.context is not None
    assert parent.context is not None
    return span.parent is not None and (span.parent.span_id, span.context.trace_id) == (
        parent.context.span_id,
        parent.context.trace_id,
    )


async def test_one_trace_of_a_run(
    sqlite_url: str, spans: Spans, content: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Model requests and tools are within the attempt, that within StartRun, and that within the caller's span, by the
    gen_ai conventions; the message for the scorer carries the attempt's context. What was said is in none of it, unless
    content was asked for."""
    tracing.switch_on(spans.provider.get_tracer("runwire"), content=content)
    async with replica(sqlite_url, librarian()) as it:
        run = await it.start("librarian", SECRET, traceparent=PARENT, tracestate="vendor=1")
        done = await it.ended(run.run_id)
        (delivery,) = await it.store.receive(QUEUE, consumer="test", limit=9, lease_seconds=60.0)
    assert done.state == run_pb2.RUN_STATE_SUCCEEDED
    started, attempt = spans.one("StartRun"), spans.one("invoke_agent librarian")
    assert started.parent is not None
    assert f"{started.parent.trace_id:032x}" == PARENT[3:35] == run.trace_id == done.trace_id
    assert child_of(attempt, started)
    chats = [span for span in spans.all if span.name.startswith("chat ")]
    assert len(chats) == 2
    assert all(child_of(span, attempt) for span in [*chats, spans.one("execute_tool look")])
    assert attempt.attributes is not None
    assert attempt.attributes["gen_ai.agent.version"] == "7"
    assert attempt.attributes["runwire.run.state"] == "succeeded"
    chat = dict(chats[0].attributes or {})
    assert chat["gen_ai.operation.name"] == "chat"
    assert chat["gen_ai.usage.output_tokens"]
    assert chat["gen_ai.response.model"]
    asked = scorer_run_requested_pb2.ScorerRunRequested.FromString(delivery.body)
    assert attempt.context is not None
    assert asked.traceparent.split("-")[1:3] == [run.trace_id, f"{attempt.context.span_id:016x}"]
    assert asked.tracestate == "vendor=1"
    said = json.dumps([dict(span.attributes or {}) for span in spans.all])
    assert (SECRET in said) == content


async def test_a_trace_outlives_its_worker(url: str, spans: Spans) -> None:
    """What another worker continues with after a suspension is in the same trace, and linked to the attempt before."""
    async with replica(url, asks, role="serve") as it:
        run = await it.start("asks")
        async with mortal_worker(url, asks):
            await it.suspended(run.run_id)
        await it.resume(run.run_id, data("suspend/name", "Ada"))
        async with mortal_worker(url, asks):
            await it.ended(run.run_id)

            async def both() -> bool:
                return len(spans.named("invoke_agent asks")) == 2

            deadline = time.monotonic() + 10
            while not await both():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
    first, second = spans.named("invoke_agent asks")
    assert child_of(first, spans.one("StartRun"))
    assert child_of(second, spans.one("StartRun"))
    assert [link.context for link in first.links] == []
    assert [link.context.span_id for link in second.links] == [first.context.span_id if first.context else 0]


async def test_what_fails_is_marked_and_says_no_words(sqlite_url: str, spans: Spans) -> None:
    """Spans of a step and an attempt that failed are errors by class or reason; what the agent raised is not quoted."""

    @workflow(id="fails")
    async def fails(ctx: RunContext, input: Any) -> None:
        async def broken() -> None:
            raise ValueError(SECRET)

        await ctx.step("broken", broken)

    async with replica(sqlite_url, fails) as it:
        done = await it.do("fails")
    step, attempt = spans.one("step broken"), spans.one("invoke_agent fails")
    assert child_of(step, attempt)
    assert (step.attributes or {})["error.type"] == "ValueError"
    assert (attempt.attributes or {})["error.type"] == done.error.reason == "agent_error"
    assert SECRET not in "".join(span.to_json() for span in spans.all)


async def test_what_is_remembered_is_not_traced_again(sqlite_url: str, spans: Spans) -> None:
    """A step that is finished has one span, however many attempts ask for it."""

    @workflow(id="twice")
    async def twice(ctx: RunContext, input: Any) -> str:
        async def once() -> str:
            return "done"

        await ctx.step("once", once)
        return str(await ctx.suspend("name", {}, answer_type=str))

    async with replica(sqlite_url, twice) as it:
        run = await it.start("twice")
        await it.suspended(run.run_id)
        await it.resume(run.run_id, data("suspend/name", "Ada"))
        await it.ended(run.run_id)
    assert len(spans.named("step once")) == 1


@pytest.mark.parametrize("traceparent", ["", "nonsense", "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "é" * 50])
async def test_without_tracing_what_is_given_is_passed_on(sqlite_url: str, traceparent: str) -> None:
    """A service that does not trace passes its caller's context on to scorers, and shows it; what is none is not."""
    agent = librarian()
    async with replica(sqlite_url, agent) as it:
        ran = await it.do("librarian", "x", traceparent=PARENT)
        none = await it.do("librarian", "x", traceparent=traceparent)
        deliveries = await it.store.receive(QUEUE, consumer="test", limit=9, lease_seconds=60.0)
    asked = [scorer_run_requested_pb2.ScorerRunRequested.FromString(each.body) for each in deliveries]
    assert [each.traceparent for each in asked] == [PARENT, ""]
    assert (ran.trace_id, none.trace_id) == (PARENT[3:35], "")


@contextmanager
def collector(bodies: list[bytes]) -> Iterator[str]:
    class Traces(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.path == "/v1/traces"
            bodies.append(body)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Traces)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


async def test_spans_are_sent_by_http(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf spans go there; whatever is left at the end is sent before it."""
    bodies: list[bytes] = []
    with collector(bodies) as url:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        async with telemetry.traced("agent", "otlp"), replica(sqlite_url, librarian()) as it:
            await it.do("librarian", SECRET)
    sent = [trace_service_pb2.ExportTraceServiceRequest.FromString(body) for body in bodies]
    names = [s.name for each in sent for r in each.resource_spans for scope in r.scope_spans for s in scope.spans]
    assert {"StartRun", "invoke_agent librarian", "execute_tool look"} <= set(names)
    assert SECRET.encode() not in b"".join(bodies)


async def test_a_wrong_protocol_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A protocol that there is not is a mistake of one line."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json")
    with pytest.raises(ConfigurationError, match="http/json"):
        async with telemetry.traced("agent", "otlp"):
            pass
