"""A planted fault of the scorer service raises the expression of its alert, over what the service really shows."""

from __future__ import annotations

import asyncio

from runwire import telemetry
from runwire.scorer.v1 import scorer_run_requested_pb2
from tests.deploy.alarms import entries, raised
from tests.scorer.stage import service
from tests.service.test_telling import Lines, lines  # noqa: F401 - a fixture
from tests.unit.test_metrics import read


def asked(scorer_id: str, run_id: str) -> scorer_run_requested_pb2.ScorerRunRequested:
    return scorer_run_requested_pb2.ScorerRunRequested(
        scorer_run_id=f"{run_id}-{scorer_id}",
        tenant="default",
        scorer_id=scorer_id,
        sampling={"rate": 1.0, "sampled": True},
        sample={"run_id": run_id, "agent_id": "a", "output": {"string_value": "short"}},
    )


async def test_a_scorer_that_fails(results_url: str, lines: Lines) -> None:  # noqa: F811
    """A scorer all of whose runs fail raises its alert and names its entry; one that works raises nothing."""
    async with telemetry.measured("scorer", "sqlite", "127.0.0.1:0") as address, service(results_url) as running:
        before = await asyncio.to_thread(read, address)
        await running.score(asked("brevity", "well"))
        middle = await asyncio.to_thread(read, address)
        assert raised(before, middle) == {}
        await running.score(asked("hopeless", "badly"))
        after = await asyncio.to_thread(read, address)
    assert set(raised(middle, after)) == {"RunwireScorerFails"}
    assert {dict(labels)["scorer_id"] for labels in raised(middle, after)["RunwireScorerFails"]} == {"hopeless"}
    assert "RunwireScorerFails" in entries(lines.stream.getvalue())
