"""How much a tenant and a principal may have of a process."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st

from agent_service import RunContext, queue_limit, workflow
from agent_service.queue_limit import QueueLimit
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import agent_service_pb2_grpc
from runwire.connect import open_store
from runwire.errors import QueueFull, RateExceeded, TooManyStreams
from runwire.identity import limits
from runwire.identity.limits import Limits, Most
from runwire.identity.principal import ANONYMOUS, Principal
from runwire.values import to_value
from tests.identity.proofs import Proofs, metadata
from tests.service.replica import LIMIT_SECONDS, Replica, refusal_of, replica

START = "/runwire.agent.v1.AgentService/StartRun"
WATCH = "/runwire.agent.v1.AgentService/WatchRun"


def somebody(tenant: str = "acme", subject: str = "anna") -> Principal:
    return Principal(subject, tenant, frozenset({"admin"}))


@given(st.lists(st.floats(0, 5), max_size=60))
def test_no_more_starts_than_rate_and_burst(pauses: list[float]) -> None:
    """Whatever the pauses, a tenant starts at most its burst and its rate times the time; RetryInfo is no lie: after
    it the next one is taken."""
    now, started = 0.0, 0
    counting = Limits(Most(tenant_starts_per_second=2.0, tenant_start_burst=3), lambda: now)
    for pause in pauses:
        now += pause
        try:
            with counting.admitted(somebody(), START):
                started += 1
        except RateExceeded as error:
            now += error.retry_delay_seconds + 1e-9
            with counting.admitted(somebody(), START):
                started += 1
        assert started <= 3 + 2.0 * now + 1e-6


def test_a_tenant_that_floods_costs_others_nothing() -> None:
    """What one tenant uses up is its own; without authentication nobody is counted; the memory for it is bounded."""
    counting = Limits(Most(1.0, 1, principal_streams=2, tenant_streams=3), lambda: 0.0)
    with counting.admitted(somebody("flood"), START):
        pass
    for _ in range(100):
        with pytest.raises(RateExceeded), counting.admitted(somebody("flood"), START):
            pass
        with counting.admitted(ANONYMOUS, START), counting.admitted(ANONYMOUS, WATCH):
            pass
    with counting.admitted(somebody("quiet"), START):
        pass
    for number in range(2 * limits._MAX_BUCKETS):
        with counting.admitted(somebody(f"t{number}"), START):
            pass
    assert len(counting._buckets) <= limits._MAX_BUCKETS


def test_streams_are_counted_while_they_last() -> None:
    """Of a subject and of its tenant; one that ends makes room for another, also after an error."""
    counting = Limits(Most(principal_streams=2, tenant_streams=3))
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(counting.admitted(somebody(), WATCH))
        with pytest.raises(TooManyStreams, match="'anna'"), counting.admitted(somebody(), WATCH):
            pass
        stack.enter_context(counting.admitted(somebody(subject="ben"), WATCH))
        with pytest.raises(TooManyStreams, match="tenant 'acme'"), counting.admitted(somebody(subject="cleo"), WATCH):
            pass
        with counting.admitted(somebody("other"), WATCH):
            pass
    with pytest.raises(ValueError, match="of its own"), counting.admitted(somebody(), WATCH):
        raise ValueError("of its own")
    assert not counting._streams


@workflow(id="waits")
async def waits(ctx: RunContext, input: str) -> str:
    """Waits for a word."""
    return str(await ctx.suspend("word"))


async def test_limits_on_the_wire(tmp_path: Path) -> None:
    """What is beyond is RESOURCE_EXHAUSTED with QuotaFailure and RetryInfo, and another tenant is served meanwhile."""
    proofs = Proofs(tmp_path)
    most = {"tenant_starts_per_second": 0.001, "tenant_start_burst": 1, "principal_streams": 1}
    async with replica(f"sqlite:///{tmp_path}/runs.db", waits, **proofs.settings, **most) as it:
        stub = agent_service_pb2_grpc.AgentServiceStub(it.channel)
        request = pb.StartRunRequest(agent_id="waits", input=to_value("x"))
        run_ids = {}
        tokens = {tenant: metadata(proofs.token("anna", tenant)) for tenant in ("flood", "quiet")}
        for tenant, token in tokens.items():
            run_ids[tenant] = (await stub.StartRun(request, metadata=token, timeout=LIMIT_SECONDS)).run.run_id
            for _ in range(5):
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.StartRun(request, metadata=token, timeout=LIMIT_SECONDS)
            refusal = refusal_of(caught.value)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_EXCEEDED")
            assert refusal.retry_seconds is not None
            assert refusal.retry_seconds > 100
            status = rpc_status.from_call(caught.value)
            assert status is not None
            assert any(detail.Is(error_details_pb2.QuotaFailure.DESCRIPTOR) for detail in status.details)
        open_streams = []
        for tenant, token in tokens.items():
            watching = pb.WatchRunRequest(run_id=run_ids[tenant])
            open_streams.append(stub.WatchRun(watching, metadata=token, timeout=LIMIT_SECONDS))
            assert await open_streams[-1].read()
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stub.WatchRun(watching, metadata=token, timeout=LIMIT_SECONDS).read()
            assert refusal_of(caught.value).reason == "TOO_MANY_STREAMS"
        for stream in open_streams:
            stream.cancel()


async def test_a_full_queue_is_told_and_others_are_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where as many runs of a tenant wait as may, another is refused with a time to come back, by every replica; one
    that was accepted is found again, another tenant is served, and there is room once workers have taken some."""
    monkeypatch.setattr(queue_limit, "LOOK_SECONDS", 0.0)
    proofs, url = Proofs(tmp_path), f"sqlite:///{tmp_path}/runs.db"
    settings = {**proofs.settings, "role": "serve", "tenant_queued_runs": 3}
    flood, quiet = (metadata(proofs.token("anna", tenant)) for tenant in ("flood", "quiet"))

    async def start(it: Replica, name: str, token: Any) -> str:
        request = pb.StartRunRequest(agent_id="waits", input=to_value("x"), request_id=name)
        stub = agent_service_pb2_grpc.AgentServiceStub(it.channel)
        return str((await stub.StartRun(request, metadata=token, timeout=LIMIT_SECONDS)).run.run_id)

    async with replica(url, waits, **settings) as one, replica(url, waits, **settings) as other:
        accepted = [await start(each, str(number), flood) for number, each in enumerate((one, other, one))]
        for each in (one, other):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await start(each, "beyond", flood)
            refusal = refusal_of(caught.value)
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
            assert refusal.retry_seconds
            assert await start(each, "0", flood) == accepted[0]
            assert await start(each, "0", quiet) != accepted[0]
        async with open_store(url) as store:
            queues = [depth.queue for depth in await store.depths()]
            assert len(await store.claim(queues, holder="worker", limit=2, lease_seconds=60)) == 2
        assert await start(one, "beyond", flood)


async def test_the_store_is_asked_once_a_second(tmp_path: Path) -> None:
    """In between what this process accepts is counted here; and whoever is not known is not counted."""
    asked: list[str] = []

    class Counting:
        async def queued(self, queues: list[str], tenant: str) -> int:
            asked.append(tenant)
            return 7

    clock = [0.0]
    limit = QueueLimit(Counting(), lambda: ["q"], 10, lambda: clock[0])  # type: ignore[arg-type]
    for _ in range(3):
        await limit.check(somebody("flood"))
    with pytest.raises(QueueFull):
        await limit.check(somebody("flood"))
    assert asked == ["flood"]
    clock[0] += queue_limit.LOOK_SECONDS
    await limit.check(somebody("flood"))
    await limit.check(ANONYMOUS)
    assert asked == ["flood", "flood"]


async def test_a_burst_gets_no_more_than_may_wait() -> None:
    """Who starts many runs at once, before the store has answered for any of them, has as many accepted as may wait."""

    class Slow:
        async def queued(self, queues: list[str], tenant: str) -> int:
            await asyncio.sleep(0)
            return 0

    limit = QueueLimit(Slow(), lambda: ["q"], 5, lambda: 0.5)  # type: ignore[arg-type]
    answers = await asyncio.gather(*(limit.check(somebody("flood")) for _ in range(20)), return_exceptions=True)
    assert [type(each) for each in answers] == [type(None)] * 5 + [QueueFull] * 15
