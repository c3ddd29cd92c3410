"""EventSource itself, as every browser has it, through cuts of every kind."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page

from runwire.conformance.http_proxy import HttpFaultProxy
from runwire.conformance.proxy import Break, Fault
from tests.client.processes import AgentProcess
from tests.gateway.conftest import GatewayProcess

pytestmark = pytest.mark.browser

CUTS = 12
_READ = """url => new Promise((resolve) => {
  const taken = [], source = new EventSource(url);
  source.onmessage = ({ data }) => taken.push(Number(JSON.parse(data).sequence));
  source.addEventListener("end", () => { source.close(); resolve(taken); });
})"""


@contextmanager
def breaking(target: str, cuts: int) -> Iterator[tuple[str, list[Fault]]]:
    """The address of a proxy that breaks so many connections, and what it did."""
    chance, done = random.Random(17), list[Fault]()
    kinds = [Break.CLOSE, Break.RESET, Break.HALF, Break.OK]
    loop, ready, stop = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    address: list[str] = []

    def choose() -> Fault:
        return Fault(chance.choice(kinds), chance.randrange(1, 9)) if len(done) < cuts else Fault()

    async def serve() -> None:
        async with HttpFaultProxy([target], choose, done.append).listening() as at:
            address.append(at)
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(10)
        yield address[0], done
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


def test_event_source_through_cuts(page: Page, agent_service: AgentProcess, start: Callable[..., str]) -> None:
    """What EventSource dispatches through cuts is each event once and in order; no cut is taken for the end."""
    run_id = start("ticker", {"count": 400, "interval_ms": 1})
    with GatewayProcess(agent_service.address, "127.0.0.1:1", allowed_origins="*") as gateway:
        gateway.start()
        page.goto(f"{gateway.url}/healthz")
        with breaking(f"127.0.0.1:{gateway.port}", CUTS) as (address, done):
            taken = page.evaluate(_READ, f"http://{address}/v1/runs/{run_id}/events")
    assert taken == list(range(1, len(taken) + 1))
    assert len(taken) > 400
    assert len(done) == CUTS
