"""Scorers that do what the tests need. What they are to do comes with the sample or the options."""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from typing import Any

from pydantic import BaseModel

from scorer_service import NonRetriableError, NotScorable, Pipeline, RetryAfter, RetryPolicy, Sample, Score, scorer

calls: Counter[str] = Counter()
"""How often a scorer was called, by scorer and run."""
running: Counter[str] = Counter()
most: Counter[str] = Counter()
entered = asyncio.Event()
gate = asyncio.Event()


def reset() -> None:
    """Forgets what happened; events belong to the loop of the scorers, made on first use."""
    global entered, gate
    calls.clear()
    running.clear()
    most.clear()
    entered, gate = asyncio.Event(), asyncio.Event()


def _count(name: str, sample: Sample) -> int:
    calls[f"{name}/{sample.run_id}"] += 1
    return calls[f"{name}/{sample.run_id}"]


@scorer(id="brevity", version="1")
async def brevity(sample: Sample) -> Score:
    """The fewer words, the better."""
    _count("brevity", sample)
    return Score(1.0 / (1 + len(sample.output_text.split())), "short")


@scorer(id="brevity", version="2")
async def brevity_2(sample: Sample) -> Score:
    return Score(0.5, "second")


@scorer(id="flaky", version="1")
async def flaky(sample: Sample, options: dict[str, Any]) -> Score:
    """Raises so often as it is told."""
    if _count("flaky", sample) <= options.get("failures", 2):
        raise RuntimeError(options.get("message", "not yet"))
    return Score(1)


@scorer(id="once-only", version="1", retry=RetryPolicy(retries=0))
async def once_only(sample: Sample) -> Score:
    raise RuntimeError("never")


@scorer(id="hopeless", version="1")
async def hopeless(sample: Sample) -> Score:
    _count("hopeless", sample)
    raise NonRetriableError("it will never work")


@scorer(id="later", version="1")
async def later(sample: Sample, options: dict[str, Any]) -> Score:
    if _count("later", sample) == 1:
        raise RetryAfter(options["delay"], "busy")
    return Score(1)


@scorer(id="choosy", version="1")
async def choosy(sample: Sample) -> Score:
    raise NotScorable("nothing to see")


@scorer(id="nonsense", version="1")
async def nonsense(sample: Sample) -> float:
    _count("nonsense", sample)
    return float("nan")


@scorer(id="exiting", version="1", retry=RetryPolicy(retries=0))
async def exiting(sample: Sample) -> Score:
    raise SystemExit("goodbye")


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("even this fails")


@scorer(id="unspeakable", version="1", retry=RetryPolicy(retries=0))
async def unspeakable(sample: Sample) -> Score:
    raise UnspeakableError


@scorer(id="self-cancelling", version="1", retry=RetryPolicy(retries=0))
async def self_cancelling(sample: Sample) -> Score:
    """Waits for something that was cancelled, not by us."""
    _count("self-cancelling", sample)
    raise asyncio.CancelledError("a task of its own")


@scorer(id="strange-metadata", version="1")
async def strange_metadata(sample: Sample, options: dict[str, Any]) -> Score:
    """JSON that no message could carry."""
    if options.get("deep"):
        value: Any = 1
        for _ in range(options["deep"]):
            value = [value]
        return Score(1, metadata={"deep": value})
    return Score(1, metadata={"text": "\ud800"})


@scorer(id="odd-text", version="1")
async def odd_text(sample: Sample) -> Score:
    return Score(1, "a\0b", "c\0d\ud800", {"x": "e\0f"})


@scorer(id="slow", version="1", timeout_seconds=0.05, retry=RetryPolicy(retries=1, first_delay_seconds=0.01))
async def slow(sample: Sample) -> Score:
    await asyncio.sleep(60)
    return Score(1)


@scorer(id="waiting", version="1")
async def waiting(sample: Sample) -> Score:
    """Waits until it is cancelled, or the file that the input names is there."""
    _count("waiting", sample)
    while not os.path.exists(sample.input_text):  # noqa: ASYNC110, ASYNC240 - a test in another process makes it
        await asyncio.sleep(0.01)
    return Score(1)


@scorer(id="blocking", version="1")
async def blocking(sample: Sample) -> Score:
    """Blocks the event loop, as it should not."""
    _count("blocking", sample)
    time.sleep(float(sample.input_text))  # noqa: ASYNC251 - that is the fault
    return Score(1)


@scorer(id="threaded", version="1")
def threaded(sample: Sample) -> Score:
    return Score(len(sample.output_text))


@scorer(id="narrow", version="1", concurrency=2)
async def narrow(sample: Sample) -> Score:
    running["narrow"] += 1
    most["narrow"] = max(most["narrow"], running["narrow"])
    await asyncio.sleep(0.02)
    running["narrow"] -= 1
    return Score(1)


@scorer(id="apart", version="1", process=True, timeout_seconds=20)
def apart(sample: Sample, options: dict[str, Any]) -> Score:
    """Runs in a process; does there what the options say."""
    action = options.get("action", "")
    if action == "die":
        os._exit(7)
    if action == "hang":
        time.sleep(60)
    if action == "raise":
        raise KeyError("apart")
    if action == "print":
        print("this must not be taken for an answer")
    return Score(os.getpid())


@scorer(id="apart-hurried", version="1", process=True, timeout_seconds=0.3, retry=RetryPolicy(retries=0))
def apart_hurried(sample: Sample) -> Score:
    time.sleep(60)
    return Score(1)


@scorer(id="apart-too", version="1", process=True, timeout_seconds=6)
def apart_too(sample: Sample) -> Score:
    time.sleep(1)  # seven of them take longer than one may
    return Score(os.getpid())


class Words(BaseModel):
    words: list[str]


def _split(sample: Sample) -> Words:
    _count("split", sample)
    return Words(words=sample.output_text.split())


async def _analyze(sample: Sample, preprocessed: Words) -> dict[str, int]:
    _count("analyze", sample)
    assert isinstance(preprocessed, Words), "kept results come back as what they were"
    return {"count": len(preprocessed.words)}


async def _score(sample: Sample, analysis: dict[str, int]) -> float:
    if _count("score", sample) == 1:
        raise RuntimeError("the first time it fails")
    return float(analysis["count"])


async def _reason(sample: Sample, score: Score, preprocessed: Words) -> str:
    if _count("reason", sample) == 1:
        raise RuntimeError("the first time it fails")
    return f"{score.value:g} words, the first is {preprocessed.words[0]}"


staged = Pipeline(
    "staged", "1", preprocess=_split, analyze=_analyze, score=_score, reason=_reason, description="In four steps."
)
