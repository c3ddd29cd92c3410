"""Instruments: nothing while they are off, what was told while they are on; and how a page of them is opened."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from prometheus_client.parser import text_string_to_metric_families

from runwire import metrics, telemetry
from runwire.errors import ConfigurationError


def read(address: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """What the page shows: by name, and by labels."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


@pytest.fixture
def source() -> Iterator[dict[str, int]]:
    """What RUNS_RUNNING is asked for."""
    running = {"librarian": 2}
    with ExitStack() as stack:
        stack.enter_context(metrics.RUNS_RUNNING.of(lambda: running))
        stack.enter_context(metrics.RUNS_RUNNING.of(lambda: {"librarian": 1, "ticker": 4}))
        stack.enter_context(metrics.SCORER_MESSAGES.of(lambda: None))
        yield running


async def test_off_is_nothing() -> None:
    """By default nothing is loaded, listens or is recorded, and telling an instrument does no harm."""
    async with telemetry.measured("agent", "memory") as address:
        metrics.FENCED.add()
        metrics.COMMIT_SECONDS.record(1.0)
        assert address == ""
        assert all(each._live is None for each in metrics.ALL)


async def test_a_page_in_prometheus_text(source: dict[str, int]) -> None:
    """Counters, histograms and gauges are shown under the names that the table gives, with their labels; a gauge that
    is not known now is left out; several sources add up."""
    async with telemetry.measured("agent", "sqlite", "127.0.0.1:0") as address:
        metrics.RUNS_ENDED.add(agent_id="a", agent_version="1", state="failed", reason="agent_error")
        metrics.RUNS_ENDED.add(2, agent_id="a", agent_version="1", state="failed", reason="agent_error")
        metrics.COMMIT_SECONDS.record(0.003)
        metrics.EVENT_BYTES.add(100)
        metrics.SCORER_COST.add(0.5, scorer_id="bias")
        found = read(address)
        labels = (("agent_id", "a"), ("agent_version", "1"), ("reason", "agent_error"), ("state", "failed"))
        assert found[metrics.RUNS_ENDED.prometheus_name] == {labels: 3.0}
        assert found[f"{metrics.COMMIT_SECONDS.prometheus_name}_count"] == {(("engine", "sqlite"),): 1.0}
        assert found[metrics.EVENT_BYTES.prometheus_name] == {(("engine", "sqlite"),): 100.0}
        assert found[metrics.SCORER_COST.prometheus_name] == {(("scorer_id", "bias"),): 0.5}
        assert found[metrics.RUNS_RUNNING.prometheus_name] == {
            (("agent_id", "librarian"),): 3.0,
            (("agent_id", "ticker"),): 4.0,
        }
        assert metrics.SCORER_MESSAGES.prometheus_name not in found
        source["librarian"] = 0
        assert read(address)[metrics.RUNS_RUNNING.prometheus_name][(("agent_id", "librarian"),)] == 1.0
    with pytest.raises(OSError, match="refused"):
        read(address)
    assert all(each._live is None for each in metrics.ALL)


async def test_it_can_be_switched_on_again() -> None:
    """A second service in the same process begins at nothing, and finds no reader of the first."""
    for _ in range(2):
        async with telemetry.measured("agent", "memory", "127.0.0.1:0") as address:
            metrics.FENCED.add()
            assert read(address)[metrics.FENCED.prometheus_name] == {(): 1.0}


@pytest.mark.parametrize("listen", ["9464", "nowhere:port", ":9464", "127.0.0.1:70000", "no.such.host.invalid:9464"])
async def test_a_wrong_address_is_told(listen: str) -> None:
    """It is a wrong setting, in one line that names it."""
    with pytest.raises(ConfigurationError, match="cannot show metrics on"):
        async with telemetry.measured("agent", "memory", listen):
            pass


async def test_a_port_in_use_is_told() -> None:
    """The second process on a port does not start with half of the scrapes."""
    async with telemetry.measured("agent", "memory", "127.0.0.1:0") as address:
        with pytest.raises(ConfigurationError, match="Address already in use"):
            async with telemetry.measured("scorer", "memory", address):
                pass


async def test_an_unknown_protocol_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """OTLP goes by gRPC or by HTTP with protobuf; another name is a wrong setting."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    with pytest.raises(ConfigurationError, match="'http/json'"):
        async with telemetry.measured("agent", "memory", export="otlp"):
            pass
