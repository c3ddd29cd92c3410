"""What the agent service measures, on every engine: each of its instruments tells what it promises."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from agent_service import RunContext, fleet, workflow
from runwire import metrics, prometheus
from runwire.errors import Fenced
from runwire.metered_store import metered
from runwire.pubsub import Commit, Lease, LeaseState
from tests.service.replica import LIMIT_SECONDS, replica

SOMETIMES = {metrics.FENCED, metrics.LEASES_LOST, metrics.STREAMS_BEHIND}
"""Instruments of what does not happen in a good run; nothing is said of them until it does."""


@workflow(id="says", version="4")
async def says(ctx: RunContext, input: Any) -> None:
    """Says a word."""
    await ctx.emit_text("word")


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "SAY_SECONDS", 0.05)
    monkeypatch.setattr(fleet, "_LOOK_SECONDS", 0.05)


async def until(address: str, *wanted: str) -> list[str]:
    """The lines of the page, once these are among them: gauges are looked at now and then."""
    async with asyncio.timeout(LIMIT_SECONDS), httpx.AsyncClient() as client:
        while True:
            lines = (await client.get(f"http://{address}/metrics")).text.splitlines()
            if set(wanted) <= set(lines):
                return lines
            await asyncio.sleep(0.05)


async def test_a_run_is_measured(url: str) -> None:
    """After a run everything about it is told, and every instrument but those of mishaps has said something."""
    async with prometheus.serving("127.0.0.1:0") as address, replica(url, says, metrics=address) as it:
        run = await it.start("says")
        events = await it.watched(run.run_id)
        lines = await until(
            address,
            'runwire_runs_started_total{agent="says"} 1',
            'runwire_runs_ended_total{agent="says",state="succeeded"} 1',
            'runwire_runs_running{agent="says",version="4"} 0',
            f"runwire_events_total {len(events)}",
            "runwire_run_first_event_seconds_count 1",
            'runwire_streams_opened_total{start="earliest"} 1',
            "runwire_streams_open 0",
            'runwire_queue_due{agent="says"} 0',
            'runwire_queue_workers{agent="says"} 1',
        )
    engine = url.partition(":")[0]
    done = f'runwire_commit_duration_seconds_count{{engine="{engine}",outcome="committed"}}'
    assert any(line.startswith(done) and int(line.split()[1]) >= 3 for line in lines)
    told = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    mine = {one for one in metrics.INSTRUMENTS if not one.name.startswith("runwire.scorer.")}
    assert told >= {prometheus.name_of(one) for one in mine - SOMETIMES}


async def test_what_waits_is_measured(url: str) -> None:
    """What is due without a worker is told by agent, with its age."""
    async with (
        prometheus.serving("127.0.0.1:0") as address,
        replica(url, says, role="serve", metrics=address) as it,
    ):
        await it.start("says")
        lines = await until(address, 'runwire_queue_due{agent="says"} 1', 'runwire_queue_workers{agent="says"} 0')
    (age,) = [line for line in lines if line.startswith('runwire_queue_oldest_due_age_seconds{agent="says"}')]
    assert float(age.split()[1]) > 0


async def test_mishaps_are_measured(url: str) -> None:
    """Writes that are refused because another owns the run, and leases that are lost, are counted."""
    async with prometheus.serving("127.0.0.1:0") as address, replica(url, says, metrics=address) as it:
        run = await it.do("says")
        topic = f"default/{run.run_id}"
        store = metered(it.store, url)
        with pytest.raises(Fenced):
            await store.commit(Commit(topic, attempt=1, token="0" * 16, puts={"x": b""}))
        assert await store.extend([Lease(topic, 1, "0" * 16)], lease_seconds=1.0) == [LeaseState.LOST]
        await until(address, "runwire_commits_fenced_total 1", "runwire_leases_lost_total 1")
