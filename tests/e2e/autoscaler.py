"""What KEDA and Kubernetes do, with processes for pods: it asks a service's external scaler, and scales workers."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, Protocol

import grpc

from runwire.keda import externalscaler_pb2 as pb
from runwire.keda import externalscaler_pb2_grpc

POLL_SECONDS: Final = 0.5
"""KEDA asks every 15 or 30 s."""
COOLDOWN_SECONDS: Final = 3.0
"""How long fewer must do before any is taken away."""


class Pod(Protocol):
    """A worker process."""

    def begin(self) -> None:
        """Starts it, without waiting until it works."""

    async def end(self) -> int:
        """SIGTERM; its exit code."""


class Autoscaler:
    """Keeps none to `most` pods beside those that are `standing` anyway, as the scaler at `address` says: from none at
    once by its push, else by its number of pieces of work divided by `target`. `history` has (seconds, pods)."""

    def __init__(self, address: str, make: Callable[[], Pod], *, most: int, target: float, standing: int = 0) -> None:
        self._channel = grpc.aio.insecure_channel(address)
        self._stub: Any = externalscaler_pb2_grpc.ExternalScalerStub(self._channel)
        self._ref = pb.ScaledObjectRef(name="workers", namespace="runwire", scalerMetadata={"target": str(target)})
        self._make = make
        self._most, self._standing = most, standing
        self._pods: list[Pod] = []
        self._is_active = False
        self._activated = asyncio.Event()
        self._changed = asyncio.Condition()
        self._fewer_since: float | None = None
        self.codes: list[int] = []
        """Exit codes of those that were taken away."""
        self.history: list[tuple[float, int]] = []
        self._began = time.monotonic()

    @property
    def pods(self) -> int:
        return len(self._pods)

    async def until(self, is_so: Callable[[Autoscaler], bool]) -> None:
        """Waits until it is so, looked at after each change."""
        async with self._changed:
            await self._changed.wait_for(lambda: is_so(self))

    async def run(self) -> None:
        """Scales until it is cancelled; then all are taken away."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen())
                while True:
                    await self._scale()
                    self._activated.clear()
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._activated.wait(), POLL_SECONDS)
        finally:
            await asyncio.shield(self._resize(0))
            await self._channel.close()

    async def _listen(self) -> None:
        async for answer in self._stub.StreamIsActive(self._ref):
            self._is_active = answer.result
            if answer.result:
                self._activated.set()

    async def _scale(self) -> None:
        [spec] = (await self._stub.GetMetricSpec(self._ref)).metricSpecs
        request = pb.GetMetricsRequest(scaledObjectRef=self._ref, metricName=spec.metricName)
        [value] = (await self._stub.GetMetrics(request)).metricValues
        wanted = math.ceil(value.metricValueFloat / spec.targetSizeFloat) - self._standing
        least = 1 if self._is_active and not self._standing else 0
        wanted = min(self._most, max(least, wanted))
        now = time.monotonic()
        if wanted >= len(self._pods):
            self._fewer_since = None
        elif self._fewer_since is None:
            self._fewer_since = now
        has_cooled = self._fewer_since is not None and now - self._fewer_since >= COOLDOWN_SECONDS
        if wanted > len(self._pods) or has_cooled:
            await self._resize(wanted)

    async def _resize(self, count: int) -> None:
        changed = count != len(self._pods)
        while len(self._pods) < count:
            pod = self._make()
            pod.begin()
            self._pods.append(pod)
        leaving, self._pods = self._pods[count:], self._pods[:count]
        self.codes += await asyncio.gather(*(pod.end() for pod in leaving))
        if changed:
            self.history.append((round(time.monotonic() - self._began, 1), count))
        async with self._changed:
            self._changed.notify_all()
