"""What a turn costs late in a conversation, beside what it costs early: it must be the same.

    make bench-conversation        some minutes

An agent with a tool, talked to for 200 turns in this process, on SQLite and on Redis (Valkey). For the ten turns up to
the 20th, the 110th and the 200th: processor time a turn (client, service, worker and pydantic-ai together), what a
claim brings and costs, how much the store has grown a turn, and how large the process is.
"""

from __future__ import annotations

import asyncio
import gc
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import redis
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from agent_service import durable_agent
from benchmarks.processes import resident_bytes
from runwire.client import AgentClient
from runwire.pubsub import Store
from runwire.scorer_requests import topic_of
from tests.servers import redis_servers, start_redis
from tests.service.replica import replica

TURNS: Final = (20, 110, 200)
_WINDOW: Final = 10
_GETS: Final = 30


async def _speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    if messages[-1].parts[-1].part_kind == "user-prompt":
        yield "let me see. "
        yield {1: DeltaToolCall("look", json_args='{"word": "x"}', tool_call_id="t")}
    else:
        yield "a word about it " * 50


def _talker() -> Agent:
    agent = Agent(FunctionModel(stream_function=_speak), name="talker")

    @agent.tool_plain
    async def look(word: str) -> str:
        return "what was found " * 50

    return agent


@dataclass
class Point:
    """What was measured at one time."""

    cpu_seconds: float
    stored_bytes: float
    resident_bytes: float

    @classmethod
    def now(cls, stored: Callable[[], float]) -> Point:
        gc.collect()
        return cls(time.process_time(), stored(), resident_bytes(os.getpid()))


async def _claim(store: Store, topic: str) -> tuple[int, float]:
    """Bytes that a claim brings, and microseconds of processor time to read them."""
    begin, size = time.process_time(), 0
    for _ in range(_GETS):
        stored = await store.get(topic)
        assert stored is not None
        size = sum(len(name) + len(value) for name, value in stored.fields.items())
    return size, 1e6 * (time.process_time() - begin) / _GETS


async def measure(name: str, url: str, stored: Callable[[], float]) -> None:
    first: list[float] = []
    async with (
        replica(url, durable_agent(_talker())) as it,
        AgentClient(it.address) as client,
        client.conversation("talker") as chat,
    ):
        before = Point.now(stored)
        for turn in range(1, TURNS[-1] + 1):
            if turn + _WINDOW - 1 in TURNS:
                before = Point.now(stored)
            await chat.ask(f"question {turn} " * 10)
            if turn not in TURNS:
                continue
            after = Point.now(stored)
            claimed, micros = await _claim(it.store, topic_of("default", chat.run_id))
            found = [
                1000 * (after.cpu_seconds - before.cpu_seconds) / _WINDOW,
                claimed / 1024,
                micros,
                (after.stored_bytes - before.stored_bytes) / _WINDOW / 1024,
            ]
            first = first or found
            ratios = ", ".join(f"{now:.1f} ({now / then:.2f}x)" for now, then in zip(found, first, strict=True))
            print(f"{name:<7} turn {turn:>3}: ms CPU, KiB claimed, us to read them, KiB stored: {ratios}", end="")
            print(f"; {after.resident_bytes / 2**20:.0f} MiB resident", flush=True)


def _sqlite_bytes(path: Path) -> float:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        [pages, free, size] = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        return float((pages - free) * size)


async def main() -> None:
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        path = folder / "runs.db"
        await measure("sqlite", f"sqlite:///{path}", lambda: _sqlite_bytes(path))
        server = start_redis(redis_servers()[0])
        stack.callback(server.close)
        plain = redis.Redis.from_url(server.url)
        await measure("valkey", server.url, lambda: float(plain.info("memory")["used_memory_dataset"]))


if __name__ == "__main__":
    asyncio.run(main())
