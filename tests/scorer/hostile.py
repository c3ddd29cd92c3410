"""Scorers that do to their service whatever they can."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from scorer_service import NonRetriableError, NotScorable, RetryAfter, RetryPolicy, Sample, Score, scorer

ONCE = RetryPolicy(retries=0, wait_seconds=0)


class BareFailure(NonRetriableError):
    def __init__(self) -> None:  # without what its base keeps
        pass


class BareWait(RetryAfter):
    def __init__(self) -> None:
        self.delay_seconds = float("nan")


class BareRefusal(NotScorable):
    def __init__(self) -> None:
        pass


class OddReason(NonRetriableError):
    reason = b"no text"  # type: ignore[assignment]


class Shouting(BaseException):
    def __str__(self) -> str:
        raise SystemExit("even this")


class OddNumber(float):
    def __float__(self) -> float:
        raise SystemExit("not even a number")


async def raise_in_background(sample: Sample) -> float:
    async def body() -> None:
        raise SystemExit("from behind")

    task = asyncio.create_task(body())
    await asyncio.sleep(0.01)
    return float(task.done())


async def stop_the_loop(sample: Sample) -> float:
    asyncio.get_running_loop().stop()
    await asyncio.sleep(0)
    return 1.0


async def close_the_loop(sample: Sample) -> float:
    asyncio.get_running_loop().close()
    return 1.0


async def cancel_everybody(sample: Sample) -> float:
    for task in asyncio.all_tasks():
        task.cancel()
    await asyncio.sleep(0.01)
    return 1.0


async def cancel_itself(sample: Sample) -> float:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(1)
    return 1.0


async def heed_nothing(sample: Sample) -> float:
    """Until half a minute is over."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue
    return 1.0


async def return_itself(sample: Sample) -> Score:
    knot: dict[str, Any] = {}
    knot["knot"] = knot
    return Score(1, metadata=knot)


async def return_much(sample: Sample) -> Score:
    return Score(1, metadata={"much": ["x" * 1000] * 100_000})


async def write_much(sample: Sample) -> Score:
    return Score(1, "x" * 5_000_000, "y" * 5_000_000)


async def block_for_a_while(sample: Sample) -> float:
    time.sleep(0.3)  # noqa: ASYNC251 - that is the fault
    return 1.0


def recurse(sample: Sample) -> float:
    return recurse(sample)


def stop_the_iteration(sample: Sample) -> float:
    return next(iter([]))


def leave(sample: Sample) -> float:
    sys.exit(3)


def hang(sample: Sample) -> float:
    time.sleep(30)
    return 1.0


def burn(sample: Sample) -> float:
    end = time.monotonic() + 2
    while time.monotonic() < end:
        sum(range(1000))
    return 1.0


def leave_threads(sample: Sample) -> float:
    for _ in range(5):
        threading.Thread(target=time.sleep, args=(5,), daemon=True).start()
    return 1.0


def raising(make: Callable[[], BaseException]) -> Callable[[Sample], Any]:
    async def body(sample: Sample) -> float:
        raise make()

    return body


def returning(make: Callable[[], Any]) -> Callable[[Sample], Any]:
    async def body(sample: Sample) -> Any:
        return make()

    return body


def in_thread(make: Callable[[], BaseException]) -> Callable[[Sample], Any]:
    def body(sample: Sample) -> float:
        raise make()

    return body


async def _generate(sample: Sample) -> Any:
    yield 1.0


DEEDS: dict[str, Callable[..., Any]] = {
    **{
        deed.__name__: deed
        for deed in (
            raise_in_background,
            stop_the_loop,
            close_the_loop,
            cancel_everybody,
            cancel_itself,
            heed_nothing,
            return_itself,
            return_much,
            write_much,
            block_for_a_while,
            recurse,
            stop_the_iteration,
            leave,
            hang,
            burn,
            leave_threads,
        )
    },
    **{
        f"raise-{number}": raising(make)
        for number, make in enumerate(
            (
                BareFailure,
                BareWait,
                BareRefusal,
                OddReason,
                Shouting,
                SystemExit,
                KeyboardInterrupt,
                GeneratorExit,
                StopAsyncIteration,
                StopIteration,
                MemoryError,
                RecursionError,
                asyncio.CancelledError,
                lambda: BaseExceptionGroup("many", [SystemExit(), KeyboardInterrupt()]),
                lambda: RetryAfter(float("inf")),
                lambda: RetryAfter(-5),
                lambda: RuntimeError("x" * 10_000_000),
                lambda: RuntimeError("\0\ud800"),
                lambda: TimeoutError("not ours"),
            )
        )
    },
    **{
        f"return-{number}": returning(make)
        for number, make in enumerate(
            (
                lambda: OddNumber(1),
                lambda: object(),
                lambda: Score(1, label=5),  # type: ignore[arg-type]
                lambda: Score(1, reason=b"bytes"),  # type: ignore[arg-type]
                lambda: Score(1, metadata=[1, 2]),  # type: ignore[arg-type]
                lambda: Score(1, metadata={1: object()}),
                lambda: Score(1, metadata={"n": float("nan")}),
                lambda: Score(1, metadata={"n": 10**5000}),
                lambda: Score(1, judgement="me"),  # type: ignore[arg-type]
                lambda: Score(True),
                lambda: iter([1]),
                lambda: _generate(Sample()),
                lambda: RuntimeError("returned"),
                lambda: Score,
                lambda: gc.get_objects(),
            )
        )
    },
    **{
        f"thread-{number}": in_thread(make)
        for number, make in enumerate(
            (SystemExit, KeyboardInterrupt, StopIteration, GeneratorExit, BareFailure, Shouting)
        )
    },
}

SCORERS = [
    scorer(id=f"hostile-{name}", version="1", description="Hostile.", timeout_seconds=1.0, retry=ONCE)(deed)
    for name, deed in DEEDS.items()
]


@scorer(id="innocent", version="1")
async def innocent(sample: Sample) -> float:
    """Takes a moment, so that it is there when the others strike."""
    await asyncio.sleep(0.005)
    return 1.0


@scorer(id="innocent-thread", version="1")
def innocent_thread(sample: Sample) -> float:
    time.sleep(0.002)
    return 1.0


@scorer(id="killer", version="1")
async def killer(sample: Sample) -> float:
    """Takes its process with it."""
    os._exit(9)


@scorer(id="crasher", version="1")
def crasher(sample: Sample) -> float:
    os.kill(os.getpid(), signal.SIGSEGV)
    return 1.0


@scorer(id="blocker", version="1", timeout_seconds=1.0, retry=ONCE)
async def blocker(sample: Sample) -> float:
    """Blocks its loop for good."""
    time.sleep(3600)  # noqa: ASYNC251 - that is the fault
    return 1.0


@scorer(id="loop-breaker", version="1", timeout_seconds=5.0, retry=ONCE)
async def loop_breaker(sample: Sample) -> float:
    """Breaks the loop beyond repair."""
    asyncio.get_running_loop()._selector.close()  # type: ignore[attr-defined]
    await asyncio.sleep(1)
    return 1.0


EVERYTHING = [*SCORERS, innocent, innocent_thread, killer, crasher, blocker, loop_breaker]
