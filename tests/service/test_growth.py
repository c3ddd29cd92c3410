"""What a run costs its worker does not grow with what the run has done."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from agent_service import RunContext, ScorerRef, workflow
from runwire.agent.v1 import run_pb2
from tests.service.replica import mortal_worker, replica
from tests.service.test_frames import Held

EARLY, LATE = 4_000, 30_000
WORDS = "a text of some words"


@contextmanager
def traced() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def held_bytes() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.parametrize("scorers", [(), (ScorerRef("s"),)], ids=["without scorers", "with one"])
async def test_events_do_not_stay_in_the_worker(sqlite_url: str, scorers: tuple[ScorerRef, ...]) -> None:
    """However many events a run has emitted, its worker holds what it held before: the log is in the store. For scorers
    it keeps what goes into a sample, and where that is too much for one nothing at all."""
    held: list[int] = []

    @workflow(id="talks", scorers=scorers)
    async def talks(ctx: RunContext, input: Any) -> None:
        for number in range(1, LATE + 1):
            await ctx.emit_text(WORDS)
            if number in (EARLY, LATE):
                held.append(held_bytes())

    with traced():
        async with replica(sqlite_url, talks, max_sample_bytes=50_000, lease_seconds=60.0) as it:
            run = await it.do("talks")
    assert run.state == run_pb2.RUN_STATE_SUCCEEDED
    early, late = held
    # What waits to be written may be a MiB at either moment. All of the events would be more than 4.
    assert late - early < 2_000_000


async def test_a_log_is_not_held_by_who_goes_on_with_it(sqlite_url: str) -> None:
    """A worker that continues with a run of many events reads them a page at a time, and keeps the steps alone."""
    held: list[int] = []
    attempts: list[int] = []

    @workflow(id="falters")
    async def falters(ctx: RunContext, input: Any) -> None:
        attempts.append(ctx.attempt)
        held.append(held_bytes())
        if len(attempts) > 1:
            return

        async def speak() -> None:
            for _ in range(LATE):
                await ctx.emit_text(WORDS)

        await ctx.step("speak", speak)
        held.append(0)
        await Held().words.get()

    async with replica(sqlite_url, falters, role="serve") as it:
        run = await it.start("falters")
        async with mortal_worker(sqlite_url, falters, lease_seconds=2.0):
            while len(held) < 2:
                await it.get(run.run_id)
        with traced():
            async with mortal_worker(sqlite_url, falters, lease_seconds=2.0):
                ended = await it.ended(run.run_id)
    assert (ended.state, len(attempts)) == (run_pb2.RUN_STATE_SUCCEEDED, 2)
    assert held[-1] < 2_000_000, "all of its texts would be more than 4 MiB"
