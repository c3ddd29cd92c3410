"""What both services count: every instrument by its name, with what it means. docs/metrics.md is the same table.

Off, which is the default, an instrument does nothing: it is not connected to anything. `switch_on` connects all of them
to OpenTelemetry. Counters and histograms are told what happens; a gauge is asked, when somebody collects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

Value: TypeAlias = float | int
Found: TypeAlias = "Value | Mapping[str, Value] | None"
"""One value; or one for each value of the gauge's label; None: not known now."""

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)

ALL: Final[list[Instrument]] = []
"""Every instrument there is."""


class Instrument:
    """What is common to all: a name, and what it means."""

    kind = ""

    def __init__(self, name: str, unit: str, description: str, labels: Sequence[str] = ()) -> None:
        self.name = name
        self.unit = unit
        self.description = description
        self.labels = tuple(labels)
        self._constant: dict[str, str] = {}
        self._live: Any = None
        ALL.append(self)

    @property
    def prometheus_name(self) -> str:
        """As it is called in Prometheus' text."""
        unit = {"s": "_seconds", "By": "_bytes", "USD": "_USD"}.get(self.unit, "")
        total = "_total" if self.kind == "counter" else ""
        return f"{self.name.replace('.', '_')}{unit}{total}"

    def connect(self, meter: Meter, constant: Mapping[str, str]) -> None:
        """From now on it is recorded. `constant` are labels that are the same for the whole process."""
        self._constant = {name: value for name, value in constant.items() if name in self.labels}
        self._live = self._make(meter)

    def disconnect(self) -> None:
        self._live = None

    def _make(self, meter: Meter) -> Any:
        raise NotImplementedError


class Counter(Instrument):
    """Something that happens, counted."""

    kind = "counter"

    def add(self, number: Value = 1, /, **labels: str) -> None:
        if self._live is not None:
            self._live.add(number, {**self._constant, **labels})

    def _make(self, meter: Meter) -> Any:
        return meter.create_counter(self.name, self.unit, self.description)


class Histogram(Instrument):
    """How long something takes."""

    kind = "histogram"

    def record(self, value: Value, /, **labels: str) -> None:
        if self._live is not None:
            self._live.record(max(0.0, value), {**self._constant, **labels})

    def _make(self, meter: Meter) -> Any:
        buckets = list(_SECONDS)
        return meter.create_histogram(
            self.name, self.unit, self.description, explicit_bucket_boundaries_advisory=buckets
        )


class Gauge(Instrument):
    """How much of something there is now."""

    kind = "gauge"

    def __init__(
        self, name: str, unit: str, description: str, labels: Sequence[str] = (), *, shared: bool = False
    ) -> None:
        super().__init__(name, unit, description, labels)
        self.shared = shared
        """Of the store: every process says the same, and several are not added up."""
        self._sources: list[Callable[[], Found]] = []

    @contextmanager
    def of(self, source: Callable[[], Found]) -> Iterator[None]:
        """Inside, `source` is asked whenever somebody collects, on a thread of theirs: it must only look at what the
        process has at hand."""
        self._sources.append(source)
        try:
            yield
        finally:
            self._sources.remove(source)

    def read(self) -> Iterable[tuple[Value, Mapping[str, str]]]:
        """All values, with their labels; those of several sources together."""
        found: dict[str, Value] = {}
        for source in list(self._sources):
            value = source()
            if isinstance(value, Mapping):
                for label, number in value.items():
                    found[label] = found.get(label, 0) + number
            elif value is not None:
                found[""] = found.get("", 0) + value
        by = [name for name in self.labels if name not in self._constant]
        return [(number, {**self._constant, **({by[0]: label} if by else {})}) for label, number in found.items()]

    def _make(self, meter: Meter) -> Any:
        from opentelemetry.metrics import Observation

        def look(_: Any) -> Iterable[Observation]:
            # Of a gauge that was disconnected the meter still knows.
            return [Observation(value, labels) for value, labels in self.read()] if self._live is not None else []

        return meter.create_observable_gauge(self.name, [look], self.unit, self.description)


def switch_on(meter: Meter, constant: Mapping[str, str]) -> None:
    """Connects every instrument."""
    for instrument in ALL:
        instrument.connect(meter, constant)


def switch_off() -> None:
    """Nothing is recorded any more."""
    for instrument in ALL:
        instrument.disconnect()


_AGENT = ("agent_id", "agent_version")

# Runs
RUNS_ACCEPTED = Counter("runwire.runs.accepted", "", "Runs that StartRun accepted; repeats do not count.", _AGENT)
RUNS_CLAIMED = Counter(
    "runwire.runs.claimed",
    "",
    "Attempts begun. cause: new, again (resumed, retried, handed back), taken_over (a worker died of it or lost it).",
    (*_AGENT, "cause"),
)
RUNS_SUSPENDED = Counter("runwire.runs.suspended", "", "Attempts that ended because the run waits.", _AGENT)
RUNS_ENDED = Counter(
    "runwire.runs.ended",
    "",
    "Runs that reached a terminal state: succeeded, failed (with its reason) or cancelled.",
    (*_AGENT, "state", "reason"),
)
RUNS_RUNNING = Gauge("runwire.runs.running", "", "Runs that this process executes now.", ("agent_id",))
RUNS_DUE = Gauge(
    "runwire.runs.due",
    "",
    "Runs whose time has come and that nobody has, suspects too; at most 10,000.",
    ("agent_id",),
    shared=True,
)
RUNS_OLDEST_DUE_SECONDS = Gauge(
    "runwire.runs.oldest_due", "s", "Age of the one that is due longest; 0: none is.", ("agent_id",), shared=True
)
RUNS_WORKERS = Gauge(
    "runwire.runs.workers",
    "",
    "Workers that have the agent and are not shutting down; 0: nobody can do it.",
    ("agent_id",),
    shared=True,
)
RUNS_STRANDED = Gauge(
    "runwire.runs.stranded",
    "",
    "Those of them that no worker can do: it has not the agent, or not the version that they are bound to.",
    ("agent_id",),
)
RUN_SECONDS = Histogram("runwire.run.duration", "s", "From acceptance to the terminal state.", ("agent_id", "state"))
RUN_WAIT_SECONDS = Histogram("runwire.run.wait", "s", "From acceptance to the first claim.", ("agent_id",))
RUN_FIRST_EVENT_SECONDS = Histogram(
    "runwire.run.first_event", "s", "From acceptance until the first event is stored and can be read.", ("agent_id",)
)
LEASES_LOST = Counter("runwire.leases.lost", "", "Leases that this process lost while it executed the run.")

SUSPECTS_LOST = Counter(
    "runwire.suspects.lost", "", "Attempts at suspects, each in a process of its own, that were lost with that process."
)

# The log
COMMIT_SECONDS = Histogram("runwire.commit.duration", "s", "What a commit to the store takes.", ("engine",))
EVENTS = Counter("runwire.events", "", "Events that were stored.", ("engine",))
EVENT_BYTES = Counter("runwire.events.size", "By", "Bytes of the events that were stored.", ("engine",))
FENCED = Counter("runwire.commits.fenced", "", "Commits that were refused because another worker owns the run.")
COMMIT_FAILURES = Counter("runwire.commits.unavailable", "", "Commits that the store could not take, and are repeated.")

# Streams and calls
STREAMS_OPEN = Gauge("runwire.streams.open", "", "Streams that are open now.", ("service",))
STREAMS_STARTED = Counter(
    "runwire.streams.started", "", "WatchRun streams. start: beginning, latest or resumed (with a cursor).", ("start",)
)
STREAMS_ENDED = Counter(
    "runwire.streams.ended",
    "",
    "How WatchRun streams ended: ended (with the run), left (the client), or the reason of the error.",
    ("reason",),
)
STREAM_BYTES = Counter("runwire.streams.sent", "By", "Bytes of the frames that clients of WatchRun took.")
READERS_BEHIND = Counter(
    "runwire.readers.behind", "", "Pages that a reader behind the tail had to read from the store by itself."
)
HEALED = Counter(
    "runwire.idle_check.healed", "", "Logs of which live delivery had lost the end; the idle check saw it."
)
CALLS_WAITING = Gauge("runwire.calls.waiting", "", "Unary calls that wait for a place or for room.", ("service",))
LOOP_LAG_SECONDS = Histogram(
    "runwire.loop.lag", "s", "How late the event loop is, looked at twice a second.", ("service",)
)

# Scoring
SCORER_ATTEMPTS = Counter(
    "runwire.scorer.attempts",
    "",
    "Attempts at scorer runs that ended, by the state they led to.",
    ("scorer_id", "state"),
)
SCORER_TOKENS = Counter(
    "runwire.scorer.judge.tokens", "", "Tokens that judges took. direction: input, output.", ("scorer_id", "direction")
)
SCORER_COST = Counter(
    "runwire.scorer.judge.cost", "USD", "What judges cost, as far as prices are known.", ("scorer_id",)
)
SCORER_REFUSED = Counter(
    "runwire.scorer.finishes.refused", "", "Ends of attempts that were refused: the row was claimed again meanwhile."
)
SCORER_LEASES_LOST = Counter("runwire.scorer.leases.lost", "", "Scorer runs that this process lost while it scored.")
SCORER_RUNNING = Gauge("runwire.scorer.running", "", "Scorer runs that this process scores now.")
SCORER_RUNS = Gauge(
    "runwire.scorer.runs",
    "",
    "Scorer runs of the database that are not ended, by state; at most 10,000.",
    ("state",),
    shared=True,
)
SCORER_DUE = Gauge(
    "runwire.scorer.due", "", "Scorer runs whose time has come and that nobody has; at most 10,000.", shared=True
)
SCORER_OLDEST_DUE_SECONDS = Gauge(
    "runwire.scorer.oldest_due", "s", "Age of the one that is due longest; 0: none is.", shared=True
)
SCORER_MESSAGES = Gauge("runwire.scorer.messages", "", "Requests in the store that were not taken in yet.", shared=True)
SCORER_PARKED = Gauge("runwire.scorer.parked", "", "Requests that cannot be written, and are tried again.", shared=True)
EXPORT_BACKLOG = Gauge("runwire.scorer.export.backlog", "", "Attempts that are still to be exported.", shared=True)
