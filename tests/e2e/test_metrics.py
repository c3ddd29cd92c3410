"""The metrics of a process, as Prometheus finds them."""

from __future__ import annotations

import httpx

from tests.client.processes import AgentProcess
from tests.servers import free_port


def test_a_process_tells_its_metrics() -> None:
    """A service that is told where to serve metrics does, in the text format."""
    place = f"127.0.0.1:{free_port()}"
    with AgentProcess("agent_service.demo.ticker", agent_metrics=place) as service:
        service.start()
        answer = httpx.get(f"http://{place}/metrics")
        assert answer.status_code == 200
        assert "runwire_streams_open 0" in answer.text.splitlines()
