"""What metrics and traces cost: CPU time of one process, with them and without, turn about, as ratios in one run.

    python -m benchmarks.telemetry [--rounds 5] [--runs 40] [--events 250]

The live path: runs that speak, executed, stored (SQLite) and watched by a client in the same process. Scoring: scorer
runs taken in, scored by a function and persisted, as `runwire.metrics` and the log see them. Spans are made by the SDK
and put into a batch that is thrown away: what a collector costs is not ours.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from agent_service import RunContext, workflow
from runwire import metrics, tracing
from runwire.scorer.v1 import scorer_run_requested_pb2
from tests.scorer.stage import service
from tests.service.replica import replica

WAYS = ("off", "metrics", "traces", "both")


class Nowhere(SpanExporter):
    """Takes everything."""

    def export(self, spans: Any) -> SpanExportResult:
        return SpanExportResult.SUCCESS


@workflow(id="speaks")
async def speaks(ctx: RunContext, input: int) -> int:
    """So many texts, a step for every ten of them."""
    for number in range(input // 10):
        await ctx.step(f"step {number}", say, ctx)
    return input


async def say(ctx: RunContext) -> None:
    for _ in range(10):
        await ctx.emit_text("some words ")
        await asyncio.sleep(0)


@contextmanager
def telemetry(way: str) -> Iterator[None]:
    """Switched on as `way` says."""
    if way in ("metrics", "both"):
        meter = MeterProvider([InMemoryMetricReader()]).get_meter("bench")
        metrics.switch_on(meter, {"service": "agent", "engine": "sqlite"})
    if way in ("traces", "both"):
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(Nowhere()))
        tracing.switch_on(provider.get_tracer("bench"))
    try:
        yield
    finally:
        metrics.switch_off()
        tracing.switch_off()


async def live(runs: int, events: int) -> float:
    """CPU seconds of so many runs at once, watched to their ends."""
    with tempfile.TemporaryDirectory() as folder:
        async with replica(f"sqlite:///{Path(folder) / 'runs.db'}", speaks) as it:
            began = time.process_time()
            started = [await it.start("speaks", events) for _ in range(runs)]
            async with asyncio.TaskGroup() as group:
                for run in started:
                    group.create_task(it.watched(run.run_id))
            return time.process_time() - began


async def scoring(count: int) -> float:
    """CPU seconds of so many scorer runs."""
    with tempfile.TemporaryDirectory() as folder:
        async with service(f"sqlite:///{Path(folder) / 'scores.db'}") as running:
            began = time.process_time()
            asked = [
                scorer_run_requested_pb2.ScorerRunRequested(
                    scorer_run_id=f"run-{number}",
                    tenant="default",
                    scorer_id="brevity",
                    sampling={"rate": 1.0, "sampled": True},
                    sample={"run_id": f"run-{number}", "output": {"string_value": "short"}},
                )
                for number in range(count)
            ]
            for message in asked:
                await running.send(message)
            await running.until(asked[-1].scorer_run_id)
            return time.process_time() - began


async def compare(name: str, rounds: int, work: Callable[[], Awaitable[float]]) -> None:
    """Prints the medians of each way, and what they are to `off`."""
    await work()  # imports and caches
    taken: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds):
        for way in WAYS if number % 2 == 0 else WAYS[::-1]:
            with telemetry(way):
                taken[way].append(await work())
    off = statistics.median(taken["off"])
    for way, seconds in taken.items():
        median = statistics.median(seconds)
        spread = f"{min(seconds):.2f} to {max(seconds):.2f} s"
        print(f"{name:8} {way:8} {median:6.2f} s CPU ({spread})  {median / off:.3f}x")


async def main() -> None:
    """Both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--events", type=int, default=250)
    parser.add_argument("--scores", type=int, default=1000)
    given = parser.parse_args()
    await compare("live", given.rounds, lambda: live(given.runs, given.events))
    await compare("scoring", given.rounds, lambda: scoring(given.scores))


if __name__ == "__main__":
    asyncio.run(main())
