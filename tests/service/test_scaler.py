"""What KEDA is told, by the gRPC that it speaks, on every engine and database."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import pytest

from agent_service import RunContext, fleet, workflow
from runwire import scaler
from runwire.keda import externalscaler_pb2 as pb
from runwire.keda import externalscaler_pb2_grpc
from tests.scorer.stage import eventually
from tests.service.replica import LIMIT_SECONDS, refused, replica

TARGET = {"scalerAddress": "runwire-agent:50051", "target": "2.5"}


@workflow(id="holds")
async def holds(ctx: RunContext, input: Any) -> None:
    """Is executed until it is cancelled."""
    await ctx.emit_text("begun")
    await asyncio.Event().wait()


@workflow(id="sleeps")
async def sleeps(ctx: RunContext, input: Any) -> None:
    """Waits for an answer, and is nobody's meanwhile."""
    await ctx.suspend("name", {}, answer_type=str)


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaler, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(fleet, "SAY_SECONDS", 0.05)


def ref(**metadata: str) -> pb.ScaledObjectRef:
    return pb.ScaledObjectRef(name="worker", namespace="runwire", scalerMetadata=metadata)


async def work(stub: Any, **metadata: str) -> float:
    request = pb.GetMetricsRequest(scaledObjectRef=ref(**metadata), metricName="runwire-runs")
    (value,) = (await stub.GetMetrics(request)).metricValues
    assert value.metricValue == value.metricValueFloat
    return float(value.metricValueFloat)


async def test_from_zero_and_back(url: str) -> None:
    """Nothing to do is not active; runs that wait, and those that are executed, are; suspended ones are not."""
    async with replica(url, holds, sleeps, role="serve") as it:
        stub: Any = externalscaler_pb2_grpc.ExternalScalerStub(it.channel)
        active = stub.StreamIsActive(ref())
        async with asyncio.timeout(LIMIT_SECONDS):
            assert (await active.read()).result is False
        assert (await stub.IsActive(ref())).result is False
        runs = [await it.start("holds") for _ in range(3)]
        waiting = await it.start("sleeps")
        async with asyncio.timeout(LIMIT_SECONDS):
            assert (await active.read()).result is True
        assert await work(stub) == 4
        assert await work(stub, agents="sleeps, nobodys") == 1
        assert (await stub.IsActive(ref(agents="nobodys"))).result is False
        async with replica(url, holds, sleeps, role="work"):
            await it.suspended(waiting.run_id)
            for run in runs:
                async with it.watch(run.run_id) as watch:
                    await watch.until_event("text_delta")

            async def are_executed() -> bool:
                return await work(stub) == 3

            await eventually(are_executed)
            for run in runs:
                await it.cancel(run.run_id)
            async with asyncio.timeout(LIMIT_SECONDS):
                assert (await active.read()).result is False
        active.cancel()


async def test_the_target(url: str) -> None:
    """The metric is named with what one process is to have, as the metadata says; whole numbers are rounded up."""
    async with replica(url, holds, role="serve") as it:
        stub: Any = externalscaler_pb2_grpc.ExternalScalerStub(it.channel)
        (spec,) = (await stub.GetMetricSpec(ref(**TARGET))).metricSpecs
        assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == ("runwire-runs", 3, 2.5)
        (spec,) = (await stub.GetMetricSpec(ref())).metricSpecs
        assert spec.targetSizeFloat == spec.targetSize == 20


@pytest.mark.parametrize("target", ["", "0", "-1", "many", "nan", "inf", "1e99"])
async def test_wrong_targets(memory_url: str, target: str) -> None:
    """A target that is no positive number is refused by every call, with the entry that is wrong."""
    async with replica(memory_url, holds, role="serve") as it:
        stub: Any = externalscaler_pb2_grpc.ExternalScalerStub(it.channel)
        wrong = ref(target=target)
        calls = [stub.IsActive(wrong), stub.GetMetricSpec(wrong), stub.StreamIsActive(wrong).read()]
        for call in (*calls, stub.GetMetrics(pb.GetMetricsRequest(scaledObjectRef=wrong))):
            refusal = await refused(call)
            assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
            assert list(refusal.violations) == ["scalerMetadata['target']"]


async def test_a_metric_that_there_is_not(memory_url: str) -> None:
    """KEDA is told which metric there is, and gets no zero for another."""
    async with replica(memory_url, holds, role="serve") as it:
        stub: Any = externalscaler_pb2_grpc.ExternalScalerStub(it.channel)
        refusal = await refused(stub.GetMetrics(pb.GetMetricsRequest(metricName="queue-length")))
        assert refusal.code is grpc.StatusCode.INVALID_ARGUMENT
        assert "runwire-runs" in refusal.violations["metricName"]
