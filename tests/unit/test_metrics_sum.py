"""One page of metrics for several processes."""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from runwire.metrics_sum import SummedPage
from runwire.telemetry import serve_page

prometheus = pytest.importorskip("prometheus_client")


class Process:
    """One that shows its metrics."""

    def __init__(self, stack: ExitStack) -> None:
        registry = prometheus.CollectorRegistry()
        self.runs = prometheus.Counter("runwire_runs_ended", "Ended.", ["state"], registry=registry)
        self.seconds = prometheus.Histogram("runwire_run_seconds", "Took.", registry=registry, buckets=(1, 10))
        self.streams = prometheus.Gauge("runwire_streams_open", "Open.", registry=registry)
        self.due = prometheus.Gauge("runwire_runs_due", "Due.", registry=registry)
        self.page, close = serve_page("127.0.0.1:0", registry)
        self._closes = stack.enter_context(ExitStack())
        self._closes.callback(close)

    def stop(self) -> None:
        self._closes.close()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as made:
        yield made


def samples(page: SummedPage) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{page.address}/metrics", timeout=10) as answer:
        lines = [line for line in answer.read().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if "_created" not in name}


def test_what_is_added_up_and_what_is_not(stack: ExitStack) -> None:
    """Counters, histograms and the streams of processes are sums; what both see of the store is shown once."""
    page = stack.enter_context(SummedPage("127.0.0.1:0"))
    for number, process in enumerate([Process(stack), Process(stack)], start=1):
        process.runs.labels("succeeded").inc(number)
        process.seconds.observe(5 * number)
        process.streams.set(number)
        process.due.set(7)
        page.shown(number, process.page)
    found = samples(page)
    assert found['runwire_runs_ended_total{state="succeeded"}'] == 3
    assert found["runwire_run_seconds_count"] == 2
    assert found['runwire_run_seconds_bucket{le="10.0"}'] == 2
    assert found["runwire_run_seconds_sum"] == 15
    assert found["runwire_streams_open"] == 3
    assert found["runwire_runs_due"] == 7


def test_no_sum_goes_back(stack: ExitStack) -> None:
    """A process that does not answer, is gone, or is started again counts as it last did; its gauges are gone."""
    page = stack.enter_context(SummedPage("127.0.0.1:0"))
    stays, dies = Process(stack), Process(stack)
    for number, process in ((1, stays), (2, dies)):
        process.runs.labels("succeeded").inc(10)
        process.streams.set(1)
        page.shown(number, process.page)
    name = 'runwire_runs_ended_total{state="succeeded"}'
    assert samples(page)[name] == 20
    dies.stop()
    assert samples(page)[name] == 20
    page.gone(2)
    found = samples(page)
    assert (found[name], found["runwire_streams_open"]) == (20, 1)
    again = Process(stack)
    again.runs.labels("succeeded").inc(1)
    page.shown(2, again.page)
    assert samples(page)[name] == 21
    again.stop()
    page.gone(2)
    assert samples(page)[name] == 21


def test_an_answer_that_is_cut_is_none(stack: ExitStack) -> None:
    """A process that dies while it answers costs the page of the others nothing."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

    def cut() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n# HELP")

    dying = threading.Thread(target=cut, daemon=True)
    dying.start()
    page = stack.enter_context(SummedPage("127.0.0.1:0"))
    lives = Process(stack)
    lives.streams.set(1)
    page.shown(1, lives.page)
    page.shown(2, f"127.0.0.1:{listener.getsockname()[1]}")
    assert samples(page)["runwire_streams_open"] == 1
    dying.join()
