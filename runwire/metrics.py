"""What a process measures: one table of instruments, which count nothing until `measuring` has been entered.

Code that has something to tell calls the instrument, as in `metrics.FENCED.add(1)`: while nobody measures that is one
look at a field. docs/metrics.md has the same table, and a test holds the two together.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from runwire.errors import ConfigurationError

Labels = Mapping[str, str]
Look = Callable[[], Iterable[tuple[float, Labels]]]
"""Tells the present values of a gauge."""

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
OTLP: Final = "OTEL_METRICS_EXPORTER"
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

INSTRUMENTS: Final[list[Instrument]] = []
"""All there are, in the order of docs/metrics.md."""


class Instrument:
    """One measure: its name as OpenTelemetry has it, its unit, what it says, and its labels."""

    kind: str

    def __init__(self, name: str, unit: str, description: str, *labels: str) -> None:
        self.name = name
        self.unit = unit
        self.description = description
        self.labels = labels
        self._bound: Any = None
        INSTRUMENTS.append(self)

    @property
    def counts(self) -> bool:
        """Whether anybody measures."""
        return self._bound is not None

    def bind(self, meter: Any) -> None:
        """Counts from now on."""
        raise NotImplementedError

    def release(self) -> None:
        """Counts no more."""
        self._bound = None


class Counter(Instrument):
    """How often something happened since the process started."""

    kind = "counter"

    def add(self, count: int, **labels: str) -> None:
        if self._bound is not None:
            self._bound.add(count, labels)

    def bind(self, meter: Any) -> None:
        self._bound = meter.create_counter(self.name, self.unit, self.description)


class Histogram(Instrument):
    """How long things took."""

    kind = "histogram"

    def record(self, value: float, **labels: str) -> None:
        if self._bound is not None:
            self._bound.record(value, labels)

    def bind(self, meter: Any) -> None:
        self._bound = meter.create_histogram(
            self.name, self.unit, self.description, explicit_bucket_boundaries_advisory=_SECONDS
        )


class Gauge(Instrument):
    """How much there is now. Whoever knows it says how to look: see `watch`."""

    kind = "gauge"

    def __init__(self, name: str, unit: str, description: str, *labels: str) -> None:
        super().__init__(name, unit, description, *labels)
        self._looks: list[Look] = []

    @contextmanager
    def watch(self, look: Look) -> Iterator[None]:
        """While the block runs, `look` tells the values. It must neither wait nor raise."""
        self._looks.append(look)
        try:
            yield
        finally:
            self._looks.remove(look)

    def bind(self, meter: Any) -> None:
        from opentelemetry.metrics import Observation

        def observe(_: object) -> Iterator[Observation]:
            for look in list(self._looks):
                for value, labels in look():
                    yield Observation(value, dict(labels))

        self._bound = meter.create_observable_gauge(self.name, [observe], self.unit, self.description)


RUNS_STARTED: Final = Counter("runwire.runs.started", "{run}", "Runs accepted by this process", "agent")
RUNS_ENDED: Final = Counter("runwire.runs.ended", "{run}", "Runs that ended in this process", "agent", "state")
RUNS_RUNNING: Final = Gauge("runwire.runs.running", "{run}", "Runs that this worker executes", "agent", "version")
FIRST_EVENT: Final = Histogram(
    "runwire.run.first_event", "s", "From the acceptance of a run to its first event, by the store's clock"
)
EVENTS: Final = Counter("runwire.events", "{event}", "Events committed")
EVENT_BYTES: Final = Counter("runwire.event.size", "By", "Bytes of events committed")
COMMIT: Final = Histogram("runwire.commit.duration", "s", "How long commits to the store took", "engine", "outcome")
FENCED: Final = Counter("runwire.commits.fenced", "{commit}", "Writes refused because another worker owns the run")
LEASES_LOST: Final = Counter("runwire.leases.lost", "{lease}", "Runs that this worker lost to another one")
STREAMS_OPEN: Final = Gauge("runwire.streams.open", "{stream}", "WatchRun streams that are open")
STREAMS_OPENED: Final = Counter("runwire.streams.opened", "{stream}", "WatchRun streams, by where they began", "start")
STREAMS_BEHIND: Final = Counter(
    "runwire.streams.behind", "{read}", "Reads of the store by a stream that was behind what is kept in memory"
)
QUEUE_DUE: Final = Gauge("runwire.queue.due", "{run}", "Runs that are due and that nobody has", "agent")
QUEUE_AGE: Final = Gauge("runwire.queue.oldest_due_age", "s", "How long the oldest of them has been due", "agent")
QUEUE_WORKERS: Final = Gauge("runwire.queue.workers", "{worker}", "Workers that could do them", "agent")
SCORER_ATTEMPTS: Final = Counter(
    "runwire.scorer.attempts", "{attempt}", "Attempts that ended, by the state that they left", "scorer", "state"
)
SCORER_DUE: Final = Gauge(
    "runwire.scorer.queue.due", "{scorer_run}", "Scorer runs that are due and that nobody has", "scorer", "version"
)
SCORER_AGE: Final = Gauge(
    "runwire.scorer.queue.oldest_due_age", "s", "How long the oldest of them has been due", "scorer", "version"
)
SCORER_WORKERS: Final = Gauge(
    "runwire.scorer.queue.workers", "{worker}", "Processes that could do them", "scorer", "version"
)
SCORER_EXPORTS: Final = Gauge("runwire.scorer.exports.waiting", "{attempt}", "Results that wait to be exported")
LOOP_LAG: Final = Gauge("runwire.loop.lag", "s", "How late the event loop was when it was last looked at")


def wanted(address: str) -> bool:
    """Whether anything is to be measured: for Prometheus at `address`, or because OTEL_METRICS_EXPORTER says otlp."""
    return bool(address) or _exports()


@contextmanager
def measuring() -> Iterator[Any]:
    """While the block runs the instruments count; gives the reader that `prometheus.text_of` reads.

    Raises ConfigurationError where OpenTelemetry is not installed, or OTLP is asked for in a way that there is not.
    """
    try:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    except ImportError:
        raise ConfigurationError("metrics need OpenTelemetry: pip install 'runwire[otel]'") from None
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader, *_exporters()], shutdown_on_exit=False)
    meter = provider.get_meter("runwire")
    for instrument in INSTRUMENTS:
        instrument.bind(meter)
    try:
        yield reader
    finally:
        for instrument in INSTRUMENTS:
            instrument.release()
        provider.shutdown(timeout_millis=2000)


def _exports() -> bool:
    return os.environ.get(OTLP, "none") not in ("", "none")


def _exporters() -> list[Any]:
    if not _exports():
        return []
    if (named := os.environ[OTLP]) != "otlp":
        raise ConfigurationError(f"{OTLP} is {named!r}; metrics are exported by otlp, or not at all: none")
    for name in _PROTOCOLS:
        if (protocol := os.environ.get(name, "grpc")) not in ("", "grpc"):
            raise ConfigurationError(f"{name} is {protocol!r}; metrics are exported by OTLP over gRPC only: grpc")
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

    return [PeriodicExportingMetricReader(OTLPMetricExporter())]
