"""Where the numbers of `runwire.metrics` and the spans of `runwire.tracing` go: a page in Prometheus' text, and OTLP.
All are off by default, and what they need is loaded only when one of them is on."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final, Literal

from runwire import listening, metrics, tracing
from runwire.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricReader
    from prometheus_client import CollectorRegistry

Export = Literal["", "otlp"]

_LAG_SECONDS: Final = 0.5
_CLOSE_MILLISECONDS: Final = 2_000
_NEEDED: Final = ("opentelemetry.sdk.metrics", "opentelemetry.exporter.prometheus", "opentelemetry.exporter.otlp.proto")

logger = logging.getLogger("runwire.telemetry")


@asynccontextmanager
async def measured(service: str, engine: str, listen: str = "", export: Export = "") -> AsyncIterator[str]:
    """Inside, what happens is counted, shown at `listen` (HOST:PORT; empty: nowhere) and sent by OTLP where `export`
    says so. Gives the address of the page, empty where there is none. With neither it does nothing.

    `service` and `engine` (of the store) are labels. Raises ConfigurationError.
    """
    if not listen and not export:
        yield ""
        return
    check_installed()
    from opentelemetry.sdk.metrics import MeterProvider

    readers: list[MetricReader] = []
    page = None
    if listen:
        page = _Page(listen)
        readers.append(page.reader)
    if export:
        readers.append(_otlp_reader())
    provider = MeterProvider(readers, _resource(f"runwire-{service}"))
    metrics.switch_on(provider.get_meter("runwire"), {"service": service, "engine": engine})
    try:
        if page is not None:
            logger.info("metrics at http://%s/metrics", page.address)
        yield page.address if page else ""
    finally:
        metrics.switch_off()
        if page is not None:
            page.close()
        # A collector that does not answer must not keep the process.
        await asyncio.to_thread(provider.shutdown, _CLOSE_MILLISECONDS)


@asynccontextmanager
async def traced(service: str, export: Export = "", *, content: bool = False) -> AsyncIterator[None]:
    """Inside, spans are made and sent by OTLP where `export` says so, with what was said if `content`. Otherwise it
    does nothing. Raises ConfigurationError."""
    if not export:
        yield
        return
    check_installed()
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=_resource(f"runwire-{service}"), shutdown_on_exit=False)
    exporter: Any
    if _protocol("TRACES") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as ByGrpc

        exporter = ByGrpc()
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as ByHttp

        exporter = ByHttp()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracing.switch_on(provider.get_tracer("runwire"), content=content)
    try:
        yield
    finally:
        tracing.switch_off()
        # A collector that does not answer must not keep the process.
        await asyncio.to_thread(provider.force_flush, _CLOSE_MILLISECONDS)
        threading.Thread(target=provider.shutdown, name="end of tracing", daemon=True).start()


def _protocol(signal: str) -> str:
    """Of OTLP, as the usual variables say. Raises ConfigurationError."""
    names = (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    name, protocol = next(((name, text) for name in names if (text := os.environ.get(name))), ("", "grpc"))
    if protocol not in ("grpc", "http/protobuf"):
        raise ConfigurationError(f"{name} is {protocol!r}; {signal.lower()} are exported by grpc or http/protobuf")
    return protocol


async def watch_lag() -> None:
    """Looks, until cancelled, how late the loop is."""
    now = asyncio.get_running_loop().time
    while True:
        due = now() + _LAG_SECONDS
        await asyncio.sleep(_LAG_SECONDS)
        metrics.LOOP_LAG_SECONDS.record(now() - due)


class _Page:
    """Answers GET /metrics, from threads of its own: a blocked event loop shows in what it says."""

    def __init__(self, listen: str) -> None:
        from opentelemetry.exporter.prometheus import PrometheusMetricReader
        from prometheus_client import REGISTRY

        self.address, self.close = serve_page(listen, REGISTRY)
        self.reader: MetricReader = PrometheusMetricReader(scope_info_enabled=False)


def serve_page(listen: str, registry: CollectorRegistry) -> tuple[str, Callable[[], None]]:
    """Shows what is in a registry at `listen`; the address, and what ends it. Raises ConfigurationError."""
    from prometheus_client import start_http_server

    host, port = listening.split(listen, "show metrics on", "127.0.0.1:9464")
    try:
        server, thread = start_http_server(port, host.strip("[]"), registry)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigurationError(f"cannot show metrics on {listen}: {reason}") from None

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return f"{host}:{server.server_port}", close


def check_installed() -> None:
    """Raises ConfigurationError where what metrics need is not installed."""
    for name in _NEEDED:
        try:
            found = find_spec(name) is not None
        except ModuleNotFoundError:
            found = False
        if not found:
            raise ConfigurationError("metrics and traces need OpenTelemetry: pip install 'runwire[otel]'")


def _otlp_reader() -> MetricReader:
    """The usual OTEL_EXPORTER_OTLP_* variables say where to, and how often."""
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    exporter: Any
    if _protocol("METRICS") == "grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as ByGrpc

        exporter = ByGrpc()
    else:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as ByHttp

        exporter = ByHttp()
    return PeriodicExportingMetricReader(exporter)


def _resource(service_name: str) -> Any:
    from opentelemetry.sdk.resources import Resource

    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    return Resource.create({} if named else {"service.name": service_name})
