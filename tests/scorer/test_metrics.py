"""What the scorer service measures, on every database."""

from __future__ import annotations

import httpx
import pytest

from runwire import metrics, prometheus
from scorer_service.queue import depth
from tests.scorer.stage import eventually, request, service
from tests.servers import free_port


async def test_scores_are_measured(results_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts are counted by the state that they left, what waits is told by scorer, and every instrument speaks."""
    monkeypatch.setattr(depth, "_LOOK_SECONDS", 0.05)
    place = f"127.0.0.1:{free_port()}"
    async with service(results_url, metrics=place) as it, httpx.AsyncClient(base_url=f"http://{place}") as client:
        await it.score(request(run_id="run-1"))
        await it.send(request("nobodys", "run-2"))
        wanted = {
            'runwire_scorer_attempts_total{scorer="keyword-coverage",state="succeeded"} 1',
            'runwire_scorer_queue_due{scorer="nobodys",version=""} 1',
            'runwire_scorer_queue_workers{scorer="nobodys",version=""} 0',
            "runwire_scorer_exports_waiting 0",
        }

        async def is_told() -> bool:
            return wanted <= set((await client.get("/metrics")).text.splitlines())

        await eventually(is_told)
        lines = (await client.get("/metrics")).text.splitlines()
    told = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    mine = [one for one in metrics.INSTRUMENTS if one.name.startswith("runwire.scorer.")]
    assert told >= {prometheus.name_of(one) for one in mine}
