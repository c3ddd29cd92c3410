"""What KEDA is told of scorer runs, by the gRPC that it speaks, on every database."""

from __future__ import annotations

from typing import Any

import grpc

from runwire.keda import externalscaler_pb2 as pb
from runwire.keda import externalscaler_pb2_grpc
from runwire.scorer.v1 import scorer_service_pb2
from tests.scorer.stage import eventually, request, service


async def test_scorer_runs_are_work(results_url: str) -> None:
    """What is due counts, by scorer; what a pause holds and what was scored does not."""
    async with service(results_url) as it, grpc.aio.insecure_channel(it.address) as channel:
        stub: Any = externalscaler_pb2_grpc.ExternalScalerStub(channel)
        assert (await stub.IsActive(pb.ScaledObjectRef())).result is False
        await it.score(request(run_id="run-1"))
        await it.send(request("nobodys", "run-1"), request("nobodys", "run-2"))
        await it.stub.PauseScorer(scorer_service_pb2.PauseScorerRequest(scorer_id="keyword-coverage"))
        held = request(run_id="run-2")
        await it.send(held)
        await it.until(held.scorer_run_id, "PENDING")

        async def is_told() -> bool:
            (value,) = (await stub.GetMetrics(pb.GetMetricsRequest(metricName="runwire-scorer-runs"))).metricValues
            return bool(value.metricValueFloat == 2)

        await eventually(is_told)
        for names, active in (("nobodys", True), ("keyword-coverage", False)):
            asked = pb.ScaledObjectRef(scalerMetadata={"scorers": names})
            assert (await stub.IsActive(asked)).result is active
        (spec,) = (await stub.GetMetricSpec(pb.ScaledObjectRef())).metricSpecs
        assert (spec.metricName, spec.targetSizeFloat) == ("runwire-scorer-runs", 100)


async def test_what_is_in_hands_is_work(results_url: str) -> None:
    """A process that is busy is not scaled away for want of anything due."""
    async with service(results_url) as it, grpc.aio.insecure_channel(it.address) as channel:
        stub: Any = externalscaler_pb2_grpc.ExternalScalerStub(channel)
        busy = request("waiting", "run-1")
        await it.send(busy)
        await it.until(busy.scorer_run_id, "RUNNING")
        assert (await stub.IsActive(pb.ScaledObjectRef())).result is True
