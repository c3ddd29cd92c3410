"""KEDA's external scaler: how much work there is, for the autoscaler that decides how many processes there are."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from runwire.errors import InvalidRequest
from runwire.keda import externalscaler_pb2 as pb
from runwire.keda import externalscaler_pb2_grpc

SERVICE: Final = pb.DESCRIPTOR.services_by_name["ExternalScaler"].full_name
TARGET: Final = "target"
_LOOK_SECONDS: Final = 1.0

Look = Callable[[frozenset[str]], Awaitable[int]]
"""How much work there is of these agents or scorers; of all where none is named."""


class Scaler(externalscaler_pb2_grpc.ExternalScalerServicer):
    """Answers KEDA. See proto/runwire/keda/externalscaler.proto."""

    def __init__(self, metric: str, names_key: str, target: float, look: Look) -> None:
        """`names_key`: the entry of the metadata that says of what; `target`: work of one process, by default."""
        self._metric = metric
        self._names_key = names_key
        self._target = target
        self._look = look

    async def IsActive(self, request: pb.ScaledObjectRef, context: Any) -> pb.IsActiveResponse:
        return pb.IsActiveResponse(result=await self._work(request.scalerMetadata) > 0)

    async def StreamIsActive(self, request: pb.ScaledObjectRef, context: Any) -> AsyncIterator[pb.IsActiveResponse]:
        told: bool | None = None
        while True:
            active = await self._work(request.scalerMetadata) > 0
            if active is not told:
                told = active
                yield pb.IsActiveResponse(result=active)
            await asyncio.sleep(_LOOK_SECONDS)

    async def GetMetricSpec(self, request: pb.ScaledObjectRef, context: Any) -> pb.GetMetricSpecResponse:
        target = self._target_of(request.scalerMetadata)
        spec = pb.MetricSpec(metricName=self._metric, targetSize=math.ceil(target), targetSizeFloat=target)
        return pb.GetMetricSpecResponse(metricSpecs=[spec])

    async def GetMetrics(self, request: pb.GetMetricsRequest, context: Any) -> pb.GetMetricsResponse:
        if request.metricName not in ("", self._metric):
            raise InvalidRequest({"metricName": f"{request.metricName!r} is not here; there is {self._metric!r}"})
        work = await self._work(request.scaledObjectRef.scalerMetadata)
        value = pb.MetricValue(metricName=self._metric, metricValue=work, metricValueFloat=work)
        return pb.GetMetricsResponse(metricValues=[value])

    async def _work(self, metadata: Mapping[str, str]) -> int:
        self._target_of(metadata)  # what is wrong is told by every call, and not only by the one that KEDA makes first
        names = metadata.get(self._names_key, "")
        return await self._look(frozenset(name.strip() for name in names.split(",") if name.strip()))

    def _target_of(self, metadata: Mapping[str, str]) -> float:
        if TARGET not in metadata:
            return self._target
        try:
            target = float(metadata[TARGET])
        except ValueError:
            target = math.nan
        if not 0 < target <= 1e9:
            problem = f"{metadata[TARGET]!r} is no positive number up to 1e9"
            raise InvalidRequest({f"scalerMetadata[{TARGET!r}]": problem})
        return target


def register(scaler: Scaler, server: Any) -> None:
    """Adds the scaler to a server."""
    externalscaler_pb2_grpc.add_ExternalScalerServicer_to_server(scaler, server)
