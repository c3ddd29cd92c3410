"""Who does the work and what waits, on every engine: ListWorkers, ListQueues, and what nobody can do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from agent_service import RunContext, fleet, workflow
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.connect import open_store
from tests.service.faults import FaultyStore
from tests.service.replica import LIMIT_SECONDS, Replica, mortal_worker, replica


@workflow(id="asks", version="3")
async def asks(ctx: RunContext, input: Any) -> Any:
    """Waits for an answer: the run is nobody's meanwhile."""
    return await ctx.suspend("name", {}, answer_type=str)


@workflow(id="holds", version="1")
async def holds(ctx: RunContext, input: Any) -> None:
    """Is executed until it is cancelled."""
    await ctx.emit_text("begun")
    await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def quick_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "SAY_SECONDS", 0.05)
    monkeypatch.setattr(fleet, "SILENT_SECONDS", 1.0)
    monkeypatch.setattr(fleet, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(fleet, "_PATIENCE_SECONDS", 0.0)


async def workers(it: Replica) -> list[pb.Worker]:
    return list((await it.stub.ListWorkers(pb.ListWorkersRequest())).workers)


async def queues(it: Replica) -> dict[str, pb.RunQueue]:
    found = (await it.stub.ListQueues(pb.ListQueuesRequest())).queues
    assert [queue.agent_id for queue in found] == sorted(queue.agent_id for queue in found)
    return {queue.agent_id: queue for queue in found}


async def eventually(what: Callable[[], Awaitable[bool]]) -> None:
    """Looks until it is so: what others say comes in its own time."""
    async with asyncio.timeout(LIMIT_SECONDS):
        while not await what():  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.02)


async def test_a_worker_says_what_it_is(url: str) -> None:
    """A worker is listed by the name that stands in the attempts of its runs, with what it has, does and could do."""
    async with replica(url, asks, holds, concurrency=7) as it:
        run = await it.start("holds")
        async with it.watch(run.run_id) as watch:
            await watch.until_event("text_delta")

        async def is_shown() -> bool:
            return [worker.running for worker in await workers(it)] == [1]

        await eventually(is_shown)
        (worker,) = await workers(it)
        assert worker.worker == (await it.get(run.run_id)).attempts[0].worker
        assert worker.worker.startswith(worker.host[:64])
        assert [(agent.agent_id, agent.version, agent.running) for agent in worker.agents] == [
            ("asks", "3", 0),
            ("holds", "1", 1),
        ]
        assert (worker.room, worker.draining) == (6, False)
        assert worker.version
        assert 0 < worker.start_time.seconds <= worker.seen_time.seconds + 1
        found = await queues(it)
        assert (found["holds"].running, found["holds"].due, found["holds"].workers) == (1, 0, 1)
        assert (found["asks"].room, list(found["asks"].versions)) == (6, ["3"])
        await it.cancel(run.run_id)


async def test_what_nobody_can_do_is_told(url: str, caplog: pytest.LogCaptureFixture) -> None:
    """Runs that are due without a worker are counted with their age and said once in the log, until a worker comes."""
    caplog.set_level(logging.INFO, logger="agent_service")
    async with replica(url, asks, role="serve") as it:
        assert await workers(it) == []
        for _ in range(3):
            await it.start("asks")

        async def is_said() -> bool:
            return "no worker has that agent" in caplog.text

        await eventually(is_said)
        queue = (await queues(it))["asks"]
        assert (queue.due, queue.workers, queue.room) == (3, 0, 0)
        assert queue.oldest_due_age.ToNanoseconds() > 0
        async with replica(url, asks, role="work"):

            async def is_done() -> bool:
                return "do not wait for a worker any more" in caplog.text

            await eventually(is_done)
            queue = (await queues(it))["asks"]
            assert (queue.due, queue.ahead) == (0, 0), "they wait for an answer, and for no worker"
            assert not queue.HasField("oldest_due_age")
    assert caplog.text.count("no worker has that agent") == 1


async def test_a_worker_that_ends_in_order_is_gone_at_once(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who drains says so and takes itself off; nobody waits until its silence is noticed."""
    monkeypatch.setattr(fleet, "SILENT_SECONDS", 600.0)
    async with replica(url, asks, role="serve") as it:
        async with replica(url, asks):

            async def is_there() -> bool:
                return (await queues(it))["asks"].workers == 1

            await eventually(is_there)
        assert await workers(it) == []


async def test_a_worker_that_dies_is_gone_when_it_is_silent(url: str) -> None:
    """A process that is killed is listed no longer than its silence lasts."""
    if url.startswith("memory"):
        pytest.skip("a store in memory dies with its process")
    async with replica(url, asks, role="serve") as it:
        async with mortal_worker(url, asks):

            async def is_there() -> bool:
                return len(await workers(it)) == 1

            await eventually(is_there)

        async def is_gone() -> bool:
            return not await workers(it)

        await eventually(is_gone)


async def test_agents_that_only_another_release_had(url: str) -> None:
    """Runs of an agent that this process does not know are told of; what is no worker's word is passed over."""
    async with open_store(url) as store:
        await store.put_up(fleet.BOARD, "odd", b"\xff\xff\xff", seconds=60.0)
        async with replica(url, asks, role="serve") as first:
            await first.start("asks")
        async with replica(url, holds, role="serve") as it:
            assert [(name, queue.due) for name, queue in (await queues(it)).items()] == [("asks", 1), ("holds", 0)]
            assert await workers(it) == []


async def test_pages(url: str) -> None:
    """Workers and queues come page by page, each once."""
    async with open_store(url) as store, replica(url, asks, holds, role="serve") as it:
        for name in ("c", "a", "b"):
            await store.put_up(fleet.BOARD, name, pb.Worker(worker=name).SerializeToString(), seconds=60.0)
        names, token = list[str](), ""
        while len(names) < 3:
            page = await it.stub.ListWorkers(pb.ListWorkersRequest(page_size=2, page_token=token))
            names += [worker.worker for worker in page.workers]
            token = page.next_page_token
        assert (names, token) == (["a", "b", "c"], "")
        first = await it.stub.ListQueues(pb.ListQueuesRequest(page_size=1))
        rest = await it.stub.ListQueues(pb.ListQueuesRequest(page_size=1, page_token=first.next_page_token))
        assert [queue.agent_id for page in (first, rest) for queue in page.queues] == ["asks", "holds"]
        assert rest.next_page_token == ""


async def test_an_outage_costs_the_fleet_nothing(url: str) -> None:
    """While the store is away a worker continues, and it is listed again when the store is back."""
    stores = list[FaultyStore]()

    def wrap(store: Any) -> FaultyStore:
        stores.append(FaultyStore(store))
        return stores[0]

    async with replica(url, holds, wrap=wrap) as it:

        async def is_there() -> bool:
            return len(await workers(it)) == 1

        await eventually(is_there)
        stores[0].down = True
        await asyncio.sleep(0.2)
        stores[0].down = False
        await eventually(is_there)
        run = await it.start("holds")
        async with it.watch(run.run_id) as watch:
            await watch.until_event("text_delta")
        await it.cancel(run.run_id)


async def test_health_says_what_nobody_can_do(sqlite_url: str) -> None:
    """The detail `runwire.queues` is NOT_SERVING while runs wait for nobody; the service itself continues serving."""
    async with replica(sqlite_url, asks, role="serve") as it:
        stub: Any = health_pb2_grpc.HealthStub(it.channel)

        async def is_well(name: str = "runwire.queues") -> bool:
            try:
                answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            except grpc.aio.AioRpcError:
                return False  # it has not looked yet
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        await eventually(is_well)
        await it.start("asks")

        async def is_ill() -> bool:
            return not await is_well()

        await eventually(is_ill)
        assert await is_well("")
        async with replica(sqlite_url, asks, role="work"):
            await eventually(is_well)
