"""The process of the gateway: its command line, and what it says of its services."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable

import httpx
import pytest

from tests.client.processes import AgentProcess
from tests.gateway.conftest import GatewayProcess


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "gateway", *arguments], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    "arguments, says",
    [(["--listen", "nowhere"], "'nowhere' is no address"), (["--log-level", "LOUD"], "log_level")],
)
def test_a_wrong_setting(arguments: list[str], says: str) -> None:
    """A wrong setting is one line and exit code 2."""
    done = command(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_port_in_use() -> None:
    """A port that another process has is one line and exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = command("--listen", f"127.0.0.1:{taken.getsockname()[1]}")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_services_that_are_away() -> None:
    """Without its services the gateway is alive and says for each call which one cannot be reached, as 503."""
    settings = {"call_timeout_seconds": "0.5"}
    with GatewayProcess("127.0.0.1:1", "127.0.0.1:2", **settings) as gateway, httpx.Client() as http:
        gateway.start()
        assert http.get(f"{gateway.url}/healthz").status_code == 200
        answer = http.get(f"{gateway.url}/v1/runs")
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        page = http.get(f"{gateway.url}/runs")
        assert page.status_code == 503
        assert "Traceback" not in page.text


def test_too_many_streams(gateway: GatewayProcess) -> None:
    """Beyond the bound a stream is refused with 429, and room is made by whoever leaves."""
    addresses = gateway.services[1], gateway.services[3]
    with GatewayProcess(*addresses, max_streams="1") as small:
        small.start()
        with httpx.Client(base_url=small.url, timeout=20.0) as http:
            run_id = http.post("/v1/agents/asker/runs", json={"input": "?"}).json()["runId"]
            stream = {"headers": {"Accept": "text/event-stream"}}
            with http.stream("GET", f"/v1/runs/{run_id}/events", **stream) as first:  # type: ignore[arg-type]
                lines = first.iter_lines()
                next(lines)
                refused = http.get(f"/v1/runs/{run_id}/events", headers={"Accept": "text/event-stream"})
                assert refused.status_code == 429
                assert refused.json()["reason"] == "TOO_MANY_STREAMS"
            http.post(f"/v1/runs/{run_id}/cancel")


def test_a_reader_that_asks_twice_on_one_connection_and_leaves(
    agent_service: AgentProcess, start: Callable[..., str]
) -> None:
    """A request behind a stream that is not answered yet does not hide that the reader has left: no stream stays."""
    run_id = start("asker", "who?")
    asked = f"GET /v1/runs/{run_id}/events HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n".encode()
    with GatewayProcess(agent_service.address, "127.0.0.1:1", max_streams="1") as gateway:
        gateway.start()
        with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as connection:
            connection.sendall(asked)
            assert connection.recv(15) == b"HTTP/1.1 200 OK"
            connection.sendall(asked)
            while connection.recv(65536):
                pass
        url, accept = f"{gateway.url}/v1/runs/{run_id}/events", {"Accept": "text/event-stream"}
        while True:  # the stream ends once the gateway has heard of it, well before the limit of this test
            with httpx.stream("GET", url, headers=accept, timeout=10) as stream:
                if stream.status_code == 200:
                    break
                assert stream.status_code == 429
