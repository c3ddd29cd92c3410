"""Metrics: one table in code and documentation, text that Prometheus reads, and nothing while nobody asks."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from runwire import metrics, prometheus
from runwire.errors import ConfigurationError

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
SAMPLE = re.compile(r'(\w+?)(_bucket|_sum|_count)?(\{(?:\w+="(?:[^"\\\n]|\\["\\n])*",?)+\})? (\S+)')


def test_the_page_has_what_the_code_has() -> None:
    """Every instrument stands in docs/metrics.md as it is, in order, and nothing else does."""
    rows = re.findall(
        r"^\| `(runwire\.[\w.]+)` \| (\w+) \| `(.+?)` \| (.*?) \| (.*) \|$", PAGE.read_text(), re.MULTILINE
    )
    told = [(name, kind, unit, tuple(re.findall(r"`(\w+)`", labels)), text) for name, kind, unit, labels, text in rows]
    assert told == [(one.name, one.kind, one.unit, one.labels, one.description) for one in metrics.INSTRUMENTS]
    assert len({one.name for one in metrics.INSTRUMENTS}) == len(told)


def test_what_the_page_asks_for_exists() -> None:
    """The queries of the page name metrics that there are."""
    names = {prometheus.name_of(one) for one in metrics.INSTRUMENTS}
    asked = set(re.findall(r"runwire_\w+", PAGE.read_text().partition("## Questions")[2]))
    assert asked
    assert {re.sub(r"_bucket$", "", name) for name in asked} <= names


def test_nothing_is_counted_while_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a wish for metrics an instrument keeps nothing, and OpenTelemetry is not even imported."""
    monkeypatch.delenv(metrics.OTLP, raising=False)
    assert not metrics.wanted("")
    metrics.FENCED.add(1)
    assert not metrics.FENCED.counts
    code = "import sys; from runwire import metrics; metrics.EVENTS.add(1); print('opentelemetry' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout.strip() == "False"


def test_the_text_is_what_prometheus_reads() -> None:
    """Each line is of the format; labels are escaped, histograms are cumulative, and end with what they counted."""
    odd = 'a"b\\c\nd'
    with metrics.measuring() as reader, metrics.STREAMS_OPEN.watch(lambda: [(3, {})]):
        metrics.RUNS_STARTED.add(2, agent=odd)
        for seconds in (0.0001, 0.003, 1000.0):
            metrics.COMMIT.record(seconds, engine="memory", outcome="committed")
        lines = prometheus.text_of(reader).splitlines()
    samples = [line for line in lines if not line.startswith("#")]
    assert all(SAMPLE.fullmatch(line) for line in samples), samples
    assert 'runwire_runs_started_total{agent="a\\"b\\\\c\\nd"} 2' in samples
    assert "runwire_streams_open 3" in samples
    assert "# TYPE runwire_commit_duration_seconds histogram" in lines
    buckets = [int(line.rpartition(" ")[2]) for line in samples if "_bucket" in line]
    assert buckets == sorted(buckets)
    assert buckets[0] == 1
    assert [line for line in samples if "_bucket" in line][-1].endswith('le="+Inf",outcome="committed"} 3')
    assert any(line.startswith("runwire_commit_duration_seconds_count") and line.endswith(" 3") for line in samples)


async def test_the_page_is_served() -> None:
    """GET /metrics gives the text, other paths and methods do not, and what is no HTTP harms nobody."""
    async with prometheus.serving("127.0.0.1:0") as address, httpx.AsyncClient(base_url=f"http://{address}") as client:
        metrics.FENCED.add(1)
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(b"\x00" * 100_000)
        writer.write_eof()
        await reader.read()
        writer.close()
        answer = await client.get("/metrics?x=1")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert "runwire_commits_fenced_total 1" in answer.text.splitlines()
        assert "runwire_loop_lag_seconds" in answer.text
        assert (await client.get("/")).status_code == 404
        assert (await client.post("/metrics")).status_code == 405
    assert not metrics.FENCED.counts


@pytest.mark.parametrize(
    "address, variables, text",
    [
        ("9464", {}, "HOST:PORT"),
        ("127.0.0.1:99999", {}, "HOST:PORT"),
        ("256.1.1.1:1", {}, "cannot listen"),
        ("", {metrics.OTLP: "prometheus"}, "by otlp"),
        ("", {metrics.OTLP: "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, "over gRPC only"),
    ],
)
async def test_wrong_settings(
    address: str, variables: dict[str, str], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be is refused in one line that says what to write, and leaves nothing behind."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=text):
        async with prometheus.serving(address):
            pass
    assert not metrics.FENCED.counts
