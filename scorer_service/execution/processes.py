"""Processes for scorers with `process=True`, and for what must run alone: one job at a time each, killed when its time
is over.

    parent -> child   length (4 bytes, big-endian) and JSON: scorer id, version, options, steps, sample, judge
    child -> parent   the same form: {"ready": true} once; then for each job {"step": ...} as steps complete, and at
                      last {"score": ...} or {"error": ...}, both with {"meter": ...}

A process serves one version of one scorer, so that what a scorer leaves behind meets only itself. A child ends when its
standard input does, also in the middle of a job, so none outlives its parent.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from scorer_service.meter import Meter
from scorer_service.scoring import (
    BadScore,
    Judgement,
    NonRetriableError,
    NotScorable,
    ProviderUnavailable,
    RetryAfter,
    Score,
    Scorer,
)

HEADER_BYTES: Final = 4
MAX_ANSWER_BYTES: Final = 8 * 1024 * 1024
_MAX_STEPS: Final = 16
_START_SECONDS: Final = 60.0

Key = tuple[str, str]
OnStep = Callable[[str, Any], None]


class ProcessLost(Exception):
    """The process died under the scorer."""


class ScorerRaised(Exception):
    """What a scorer raised in its process, by name."""


@dataclass(frozen=True)
class JudgeSettings:
    """How a process makes the judge of the service for itself."""

    model: str
    temperature: float | None
    timeout_seconds: float


class Processes:
    """Up to `size` processes at work, started when they are needed, and as many idle ones. Belongs to the scorers'
    loop."""

    def __init__(self, size: int, modules: Sequence[str], judge: JudgeSettings | None = None) -> None:
        self._size = size
        self._places = asyncio.Semaphore(size)
        self._idle: list[tuple[Key, asyncio.subprocess.Process]] = []
        self._modules = list(modules)
        self._judge = judge

    @asynccontextmanager
    async def place(self, scorer: Scorer) -> AsyncIterator[Place]:
        """A process that is ready for the scorer. It is killed unless what it is used for ends as it should; so
        cancelling kills it. Raises ProcessLost."""
        key = (scorer.id, scorer.version)
        async with self._places:
            process = self._living(key) or await self._start()
            healthy = False
            try:
                yield Place(process, scorer, self._judge)
                healthy = True
            except (NotScorable, NonRetriableError, ProviderUnavailable, ScorerRaised):
                healthy = True
                raise
            finally:
                if healthy:
                    self._keep(key, process)
                else:
                    kill(process)

    def _keep(self, key: Key, process: asyncio.subprocess.Process) -> None:
        self._idle.append((key, process))
        if len(self._idle) > self._size:
            kill(self._idle.pop(0)[1])

    def _living(self, key: Key) -> asyncio.subprocess.Process | None:
        """An idle process of the scorer, unless there is none, or they all died in the meantime."""
        self._idle = [one for one in self._idle if one[1].returncode is None]
        for index in reversed(range(len(self._idle))):
            if self._idle[index][0] == key:
                return self._idle.pop(index)[1]
        return None

    async def _start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "scorer_service.execution.child",
            *self._modules,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1024 * 1024,
            start_new_session=True,  # what it starts itself can then be killed with it
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                await _receive(process)
        except TimeoutError:
            kill(process)
            raise ProcessLost(f"the scorer's process was not ready within {_START_SECONDS:g} s") from None
        except BaseException:
            kill(process)
            raise
        return process

    async def close(self) -> None:
        """Ends the idle processes."""
        while self._idle:
            _, process = self._idle.pop()
            kill(process)
            await process.wait()


class Place:
    """A process, for one job."""

    def __init__(self, process: asyncio.subprocess.Process, scorer: Scorer, judge: JudgeSettings | None) -> None:
        self._process = process
        self._scorer = scorer
        self._judge = judge

    async def score(
        self, sample: bytes, options: Mapping[str, Any], done: Mapping[str, Any], on_step: OnStep, meter: Meter
    ) -> Score:
        """Scores in the process. Raises ProcessLost, and what the scorer raised."""
        request = {
            "scorer_id": self._scorer.id,
            "version": self._scorer.version,
            "options": options,
            "steps": done,
            "sample": base64.b64encode(sample).decode("ascii"),
            "judge": vars(self._judge) if self._judge and self._scorer.judge else None,
            "content": meter.with_content,
        }
        await _send(self._process, request)
        for _ in range(_MAX_STEPS):
            answer = await _receive(self._process)
            try:
                if "step" not in answer:
                    return _score_or_raise(answer, meter)
                on_step(str(answer["step"]), answer["result"])
            except (KeyError, TypeError, AttributeError, ValueError):
                break
        raise ProcessLost("the scorer's process wrote what is no answer")


def kill(process: asyncio.subprocess.Process) -> None:
    """With all that it started."""
    if process.returncode is not None:
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # it is gone already
    except PermissionError:
        process.kill()


async def _send(process: asyncio.subprocess.Process, message: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    body = json.dumps(message).encode()
    process.stdin.write(len(body).to_bytes(HEADER_BYTES, "big") + body)
    try:
        await process.stdin.drain()
    except ConnectionError:
        pass  # reading will say how it ended


async def _receive(process: asyncio.subprocess.Process) -> dict[str, Any]:
    assert process.stdout is not None
    try:
        size = int.from_bytes(await process.stdout.readexactly(HEADER_BYTES), "big")
        if size > MAX_ANSWER_BYTES:
            raise ProcessLost("the scorer's process wrote what is no answer")
        answer = json.loads(await process.stdout.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionError):
        code = await process.wait()
        raise ProcessLost(f"the scorer's process ended with exit code {code}") from None
    except (ValueError, RecursionError):
        raise ProcessLost("the scorer's process wrote what is no answer") from None
    if not isinstance(answer, dict):
        raise ProcessLost("the scorer's process wrote what is no answer")
    return answer


def _score_or_raise(answer: Mapping[str, Any], meter: Meter) -> Score:
    meter.take(answer["meter"])
    if "score" in answer:
        score = dict(answer["score"])
        judged = score.pop("judgement")
        return Score(**score, judgement=Judgement(**judged) if judged else None)
    error = answer["error"]
    kind, message = error["kind"], str(error["message"])
    if kind == "not_scorable":
        raise NotScorable(message)
    if kind == "rate_limited":
        raise RetryAfter(error["delay_seconds"] or 0.0, message)
    if kind == "provider_unavailable":
        raise ProviderUnavailable(message, error["delay_seconds"])
    if kind == "bad_score":
        raise BadScore(message)
    if kind == "non_retriable":
        raise NonRetriableError(message, reason=error["reason"])
    # The class of the exception is known by name only: it may not exist in this process.
    raise type(str(error["error_class"]), (ScorerRaised,), {})(message)
