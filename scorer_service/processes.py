"""Processes for scorers with `process=True`: one job at a time each, killed when its time is over.

    parent -> child   length (4 bytes, big-endian) and JSON: scorer id, version, options, steps, sample
    child -> parent   the same form: {"step": ...} as steps complete, then {"score": ...} or {"error": ...}

A child ends when its standard input does, also in the middle of a job, so none outlives its parent.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

from scorer_service.scoring import BadScore, NonRetriableError, NotScorable, RetryAfter, Score, Scorer

HEADER_BYTES: Final = 4
MAX_FRAME_BYTES: Final = 64 * 1024 * 1024


class ProcessLost(Exception):
    """The process died under the scorer."""


class ScorerRaised(Exception):
    """What a scorer raised in its process, by name."""


class Processes:
    """Up to `size` processes, started when they are needed. Belongs to the scorers' loop."""

    def __init__(self, size: int, modules: Sequence[str]) -> None:
        self._places = asyncio.Semaphore(size)
        self._idle: list[asyncio.subprocess.Process] = []
        self._modules = list(modules)

    async def score(
        self,
        scorer: Scorer,
        sample: bytes,
        options: Mapping[str, Any],
        done: Mapping[str, Any],
        on_step: Callable[[str, Any], None],
    ) -> Score:
        """Scores in a process; cancelling kills it. Raises ProcessLost, and what the scorer raised."""
        request = {
            "scorer_id": scorer.id,
            "version": scorer.version,
            "options": options,
            "steps": done,
            "sample": base64.b64encode(sample).decode("ascii"),
        }
        async with self._places, self._process() as process:
            await _send(process, request)
            while True:
                answer = await _receive(process)
                if "step" not in answer:
                    return _score_or_raise(answer)
                on_step(answer["step"], answer["result"])

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[asyncio.subprocess.Process]:
        process = self._living() or await self._start()
        healthy = False
        try:
            yield process
            healthy = True
        except (NotScorable, NonRetriableError, RetryAfter, ScorerRaised):
            healthy = True
            raise
        finally:
            if healthy:
                self._idle.append(process)
            else:
                kill(process)

    def _living(self) -> asyncio.subprocess.Process | None:
        """An idle process, unless there is none, or they all died in the meantime."""
        while self._idle:
            process = self._idle.pop()
            if process.returncode is None:
                return process
        return None

    async def _start(self) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "scorer_service.child",
            *self._modules,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=1024 * 1024,
        )

    async def close(self) -> None:
        """Ends the idle processes."""
        while self._idle:
            process = self._idle.pop()
            kill(process)
            await process.wait()


def kill(process: asyncio.subprocess.Process) -> None:
    try:
        process.kill()
    except ProcessLookupError:
        pass  # it is gone already


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
        if size > MAX_FRAME_BYTES:
            raise ProcessLost("the scorer's process wrote what is no answer")
        answer: dict[str, Any] = json.loads(await process.stdout.readexactly(size))
    except (asyncio.IncompleteReadError, ConnectionError):
        code = await process.wait()
        raise ProcessLost(f"the scorer's process ended with exit code {code}") from None
    return answer


def _score_or_raise(answer: Mapping[str, Any]) -> Score:
    if "score" in answer:
        return Score(**answer["score"])
    error = answer["error"]
    kind, message = error["kind"], error["message"]
    if kind == "not_scorable":
        raise NotScorable(message)
    if kind == "retry_after":
        raise RetryAfter(error["delay_seconds"], message)
    if kind == "bad_score":
        raise BadScore(message)
    if kind == "non_retriable":
        raise NonRetriableError(message, reason=error["reason"])
    # The class of the exception is known by name only: it may not exist in this process.
    raise type(error["error_class"], (ScorerRaised,), {})(message)
