"""Both clients behind one face, so that every test of the policy is one body for the two of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import pytest

from runwire.client import AgentClient, ResumePolicy, RunEvent, sync
from tests.client.scripted import ScriptedAgentService, serving, text_log

QUICK = ResumePolicy(first_delay_seconds=0.001, max_delay_seconds=0.01, give_up_seconds=5.0)


class Watched:
    """What a client saw."""

    def __init__(self) -> None:
        self.events: list[RunEvent] = []
        self.cursors: list[str] = []
        """`stream.cursor` inside the loop, at each event."""
        self.cursor = ""
        self.state = 0
        self.reconnects = 0
        self.error: BaseException | None = None

    @property
    def sequences(self) -> list[int]:
        return [event.sequence for event in self.events]


class Watch(Protocol):
    """Watches a run to its end or its error with one of the clients."""

    async def __call__(
        self, address: str, *, policy: ResumePolicy = QUICK, stop_after: int | None = None, **arguments: Any
    ) -> Watched: ...


async def watch_async(
    address: str, *, policy: ResumePolicy = QUICK, stop_after: int | None = None, **arguments: Any
) -> Watched:
    watched = Watched()
    async with (
        AgentClient(address, resume=policy) as client,
        client.watch(arguments.pop("run_id", "run-1"), **arguments) as stream,
    ):
        try:
            async for event in stream:
                watched.events.append(event)
                watched.cursors.append(stream.cursor)
                if len(watched.events) == stop_after:
                    break
        except Exception as error:
            watched.error = error
        watched.cursor, watched.state, watched.reconnects = stream.cursor, stream.state, stream.reconnects
    return watched


def _watch_sync(address: str, policy: ResumePolicy, stop_after: int | None, arguments: dict[str, Any]) -> Watched:
    watched = Watched()
    with (
        sync.AgentClient(address, resume=policy) as client,
        client.watch(arguments.pop("run_id", "run-1"), **arguments) as stream,
    ):
        try:
            for event in stream:
                watched.events.append(event)
                watched.cursors.append(stream.cursor)
                if len(watched.events) == stop_after:
                    break
        except Exception as error:
            watched.error = error
        watched.cursor, watched.state, watched.reconnects = stream.cursor, stream.state, stream.reconnects
    return watched


async def watch_sync(
    address: str, *, policy: ResumePolicy = QUICK, stop_after: int | None = None, **arguments: Any
) -> Watched:
    return await asyncio.to_thread(_watch_sync, address, policy, stop_after, arguments)


@pytest.fixture(params=[watch_async, watch_sync], ids=["async", "sync"])
def watch(request: pytest.FixtureRequest) -> Watch:
    """One of the two clients."""
    chosen: Callable[..., Any] = request.param
    return chosen  # type: ignore[return-value]


@pytest.fixture
def service() -> ScriptedAgentService:
    """A run of 12 events."""
    return ScriptedAgentService(text_log(12))


@pytest.fixture
async def address(service: ScriptedAgentService) -> AsyncIterator[str]:
    async with serving(service) as where:
        yield where
