"""One trace over processes, as a collector gets it by OTLP."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from tests.e2e.ledger import Ledger
from tests.e2e.processes import processes
from tests.e2e.proof import client

TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Received:
    """The spans that a collector was sent."""

    def __init__(self) -> None:
        self.spans: list[Any] = []

    def take(self, request: trace_service_pb2.ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def named(self, name: str) -> list[Any]:
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.start_time_unix_nano)


@contextmanager
def by_grpc(received: Received) -> Iterator[str]:
    class Traces(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            received.take(request)
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Traces(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


async def test_one_trace_over_processes(sqlite_url: str, ledger: Ledger) -> None:
    """A caller's trace goes through the replica that accepts its run, the worker that hands it back when it is stopped,
    and the one that ends it: the second attempt is linked to the first."""
    received = Received()
    with (
        by_grpc(received) as url,
        processes(
            sqlite_url,
            **ledger.environment,
            RUNWIRE_TRACE_EXPORT="otlp",
            RUNWIRE_SHUTDOWN_GRACE_SECONDS=0.1,
            OTEL_EXPORTER_OTLP_ENDPOINT=url,
            OTEL_BSP_SCHEDULE_DELAY=100,
        ) as start,
    ):
        server, first = start.start_all("serve", "work")
        async with client(server.address) as agent:
            run = await agent.start_run("journey", {"name": "a", "pause": 0.5}, traceparent=TRACEPARENT)
            await ledger.wait_for_value("a one")
            first.terminate()
            assert await first.wait() == 0
            start.start("work")
            assert [event async for event in agent.watch(run.run_id)]
            assert (await agent.get_run(run.run_id)).trace_id == TRACEPARENT[3:35]
        async with asyncio.timeout(30):
            while len(received.named("invoke_agent journey")) < 2:  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0.05)
    (accepted,) = received.named("StartRun")
    before, after = received.named("invoke_agent journey")
    assert {span.trace_id.hex() for span in received.spans} == {TRACEPARENT[3:35]}
    assert accepted.parent_span_id.hex() == TRACEPARENT[36:52]
    assert before.parent_span_id == after.parent_span_id == accepted.span_id
    assert [link.span_id for link in after.links] == [before.span_id]
    finished = [span for span in received.spans if span.name == "step one" and not span.status.code]
    assert len(finished) == 1, "what was cut is an error, and what was finished is not done again"
