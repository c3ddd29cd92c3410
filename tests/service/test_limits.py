"""What clients that do their worst cost a server and others: real connections, counted by the server's own accounts."""

from __future__ import annotations

import asyncio
import gc
import logging
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from agent_service import app
from benchmarks import http2
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc
from runwire.budget import MIN_FRAME_BYTES
from runwire.caching_pubsub import CachingPubSub
from runwire.calls import Calls
from runwire.outflow import Outflow
from tests.service.replica import LIMIT_SECONDS, Replica, dense, eventually, replica, value
from tests.service.test_frames import bulk

MIB = 1024 * 1024
WATCH = "/runwire.agent.v1.AgentService/WatchRun"
GET = "/runwire.agent.v1.AgentService/GetRun"


class Accounts:
    """What the server under test counts."""

    outflow: Outflow
    logs: CachingPubSub
    calls: Calls


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> Accounts:
    found = Accounts()

    def kept(name: str, kind: Any) -> Any:
        def make(*args: Any, **kwargs: Any) -> Any:
            setattr(found, name, kind(*args, **kwargs))
            return getattr(found, name)

        return make

    for name, kind in (("outflow", Outflow), ("logs", CachingPubSub), ("calls", Calls)):
        monkeypatch.setattr(app, kind.__name__, kept(name, kind))
    return found


@asynccontextmanager
async def connections(it: Replica, count: int, window: int = 65_535) -> AsyncIterator[list[http2.Connection]]:
    """Raw connections that are given so many bytes a stream, and take no more."""
    made = [await http2.connect(it.address, window) for _ in range(count)]
    try:
        yield made
    finally:
        for connection in made:
            connection.close()


def take_nothing(message: bytes) -> None:
    return None


async def test_streams_that_do_not_read(url: str, accounts: Accounts, caplog: pytest.LogCaptureFixture) -> None:
    """200 of them hold no more than the budgets, another reader and another's calls continue, and their leaving is no
    fault."""
    async with replica(url, bulk, stream_buffer_bytes=16 * MIB) as it:
        run = await it.do("bulk", [100_000] * 40)
        request = pb.WatchRunRequest(run_id=run.run_id).SerializeToString()
        async with connections(it, 10) as made:
            for number in range(200):
                made[number % 10].watch(WATCH, request, take_nothing)
            await eventually(_streams(accounts, 200))
            assert dense(await it.watched(run.run_id))
            assert (await it.get(run.run_id)).run_id == run.run_id
            budget = accounts.outflow.budget
            # Events of 100 kB do not get smaller: what does not fit has to wait.
            assert budget.most_bytes <= budget.limit_bytes + 200 * 2 * MIN_FRAME_BYTES
            assert accounts.logs.most_buffered_bytes <= 8 * MIB
        await eventually(_streams(accounts, 0))
        assert budget.used_bytes == 0
        assert accounts.logs.buffered_bytes == 0
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


def _streams(accounts: Accounts, count: int) -> Any:
    async def as_many() -> bool:
        return accounts.outflow.streams == count

    return as_many


async def test_a_stream_that_never_reads_anything(
    memory_url: str, accounts: Accounts, caplog: pytest.LogCaptureFixture
) -> None:
    """Not even its first frame is taken: it is told SLOW_CONSUMER, counts until it leaves, and is no fault."""
    async with replica(memory_url, bulk, write_timeout_seconds=0.1) as it:
        run = await it.do("bulk", [10])
        async with connections(it, 1, window=8) as [connection]:
            connection.watch(WATCH, pb.WatchRunRequest(run_id=run.run_id).SerializeToString(), take_nothing)
            await eventually(_streams(accounts, 1))
            await asyncio.sleep(1.0)  # the point: longer than the write timeout
            assert accounts.outflow.streams == 1
            assert accounts.outflow.budget.used_bytes > 0
        await eventually(_streams(accounts, 0))
        assert accounts.outflow.budget.used_bytes == 0
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


async def test_calls_that_are_never_made(memory_url: str, accounts: Accounts) -> None:
    """Hundreds of calls that begin and send no request keep nobody else's from being answered at once."""
    async with replica(memory_url, bulk) as it:
        run = await it.do("bulk", [10])
        async with connections(it, 4) as made:
            for number in range(400):
                made[number % 4].watch(GET, None, take_nothing)
            await eventually(_waiting(accounts))
            async with asyncio.timeout(LIMIT_SECONDS):
                for _ in range(10):
                    assert (await it.get(run.run_id)).run_id == run.run_id
        await eventually(_nothing_held(accounts))


def _waiting(accounts: Accounts) -> Any:
    async def some() -> bool:
        return accounts.calls.waiting > 0

    return some


def _nothing_held(accounts: Accounts) -> Any:
    async def nothing() -> bool:
        return not accounts.calls.requests.used_bytes and not accounts.calls.answers.used_bytes

    return nothing


async def test_answers_that_nobody_reads(url: str, accounts: Accounts) -> None:
    """Large pages asked for by a client that reads none of them: bounded by its share, and others get theirs."""
    async with replica(url, bulk, call_buffer_bytes=64 * MIB) as it:
        run = await it.do("bulk", [1_000_000])
        first = await it.stub.ListRunEvents(pb.ListRunEventsRequest(run_id=run.run_id))
        # The page after it is the large event.
        large = pb.ListRunEventsRequest(run_id=run.run_id, page_token=first.next_page_token)
        request = large.SerializeToString()
        async with connections(it, 2) as made:
            for number in range(100):
                made[number % 2].watch("/runwire.agent.v1.AgentService/ListRunEvents", request, take_nothing)
            await eventually(_behind(accounts))
            assert len(await it.log(run.run_id)) == run.last_sequence
            answers = accounts.calls.answers
            # Those that were worked on when the share was full may come on top.
            assert answers.most_bytes <= 2 * (answers.share_bytes + 16 * 2 * MIB)
        await eventually(_nothing_held(accounts))


def _behind(accounts: Accounts) -> Any:
    async def some() -> bool:
        return accounts.calls.answers.used_bytes >= accounts.calls.answers.share_bytes and accounts.calls.waiting > 0

    return some


async def test_refused_requests_are_let_go(memory_url: str, collector_off: None) -> None:
    """gRPC keeps the abortion of a call, with its traceback, until the collector comes: no request hangs on it."""
    async with replica(memory_url, bulk) as it:
        request = pb.StartRunRequest(agent_id="bulk", input=value("x" * 3 * MIB))
        for _ in range(5):
            with pytest.raises(grpc.aio.AioRpcError):
                await it.stub.StartRun(request)
        aborted = [one for one in gc.get_objects() if isinstance(one, grpc.aio.AbortError)]
        kept = [
            found
            for error in aborted
            for frame, _ in traceback.walk_tb(error.__traceback__)
            for found in frame.f_locals.values()
            if isinstance(found, bytes) and len(found) > MIB
        ]
        assert aborted
        assert not kept


@pytest.fixture
def collector_off() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


async def test_large_requests_at_once(memory_url: str, accounts: Accounts) -> None:
    """100 messages of 3 MiB are each refused by their fields, and few of them are held at any moment."""
    async with replica(memory_url, bulk) as it:
        request = pb.StartRunRequest(agent_id="bulk", input=value("x" * 3 * MIB))
        async with grpc.aio.insecure_channel(it.address) as channel:
            stub = agent_service_pb2_grpc.AgentServiceStub(channel)
            ends = await asyncio.gather(*(stub.StartRun(request) for _ in range(100)), return_exceptions=True)
        codes = {end.code() for end in ends if isinstance(end, grpc.aio.AioRpcError)}
        assert (len(ends), codes) == (100, {grpc.StatusCode.INVALID_ARGUMENT})
        assert accounts.calls.requests.most_bytes <= accounts.calls.requests.share_bytes
        await eventually(_nothing_held(accounts))
