"""Every long-lived loop of the scorer service survives an exception that nobody expected, and says so once."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from runwire.backoff import Backoff
from runwire.scorer.v1 import scorer_run_pb2 as S
from scorer_service import app
from scorer_service.answers.statistics import Statistics
from scorer_service.answers.watch import Watch
from scorer_service.execution.worker import Worker
from scorer_service.export import Exporter
from scorer_service.port.port import Port
from scorer_service.queue.holders import Holders
from scorer_service.queue.intake import Intake
from scorer_service.queue.retention import Retention
from scorer_service.queue.tallies import Tallies
from tests.scorer.stage import request, service
from tests.servers import free_port
from tests.service.test_loops import Failing

LOOPS: dict[str, tuple[Any, str]] = {
    "intake": (Intake, "run_once"),
    "parked requests": (Intake, "retry_once"),
    "claims from outside": (Port, "look_once"),
    "watch": (Watch, "poll_once"),
    "statistics": (Statistics, "run_once"),
    "tallies": (Tallies, "run_once"),
    "retention": (Retention, "run_once"),
    "deadlines": (Retention, "end_late_once"),
    "health": (app._Service, "_check_health"),
    "registration": (Holders, "run_once"),
    "export": (Exporter, "run_once"),
    "finish": (Worker, "finish_once"),
    "renew": (Worker, "renew_once"),
    "worker": (Worker, "claim_once"),
}
"""What does a turn of each, by the name of its task."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runwire.loop.repeat.__kwdefaults__", {"pauses": Backoff(0.02, 0.02)})
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")


@pytest.mark.parametrize("name", LOOPS)
async def test_a_loop_outlives_an_exception(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Its turn raises three times: it continues, the log says so once, and a sample is scored as ever."""
    place, attribute = LOOPS[name]
    failing = Failing(getattr(place, attribute))
    monkeypatch.setattr(place, attribute, failing.method())
    with caplog.at_level(logging.WARNING):
        async with service(sqlite_url, scorer_export="otel") as running:
            async with asyncio.timeout(10):
                await failing.recovered.wait()
            run = await running.score(request("brevity"))
    assert run.state == S.SCORER_RUN_STATE_SUCCEEDED
    complaints = [each for each in caplog.records if "injected" in str(each.exc_info) or "injected" in each.message]
    assert len(complaints) == 1, caplog.text


async def test_no_loop_is_left_out(sqlite_url: str) -> None:
    """Every task that a service with nothing to do runs under a name is one of those above."""
    async with service(sqlite_url, scorer_export="otel"):
        named = {task.get_name() for task in asyncio.all_tasks() if not task.get_name().startswith("Task-")}
    assert named == set(LOOPS), named ^ set(LOOPS)
