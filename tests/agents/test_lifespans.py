"""What the runs of a process share: opened before the first claim, closed after the last run, or told in a line."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import pytest
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel
from pydantic_ai.tools import RunContext as ToolContext

from agent_service import RunContext, current_run, durable_agent, workflow
from agent_service.agents import lifespans
from agent_service.agents.lifespans import StoppedEarly, opened
from runwire.errors import ConfigurationError
from runwire.testing import serve


class Pool:
    """Knows when it was open, and on which loop."""

    def __init__(self) -> None:
        self.open = True
        self.loop = asyncio.get_running_loop()


async def test_a_pool_is_shared_by_all_runs() -> None:
    """Several agents with one lifespan have one pool, on the service's loop, in workflows, deps and tools; it is closed
    only after a run that was under way at the end."""
    made: list[Pool] = []
    at_end: list[bool] = []
    begun = asyncio.Event()

    @asynccontextmanager
    async def pools() -> AsyncIterator[Pool]:
        made.append(Pool())
        try:
            yield made[-1]
        finally:
            made[-1].open = False

    @workflow(id="flow", lifespan=pools)
    async def flow(ctx: RunContext, input: Any) -> bool:
        return ctx.resources is made[0] and ctx.resources.loop is asyncio.get_running_loop()

    @workflow(id="long", lifespan=pools)
    async def long(ctx: RunContext, input: Any) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            at_end.append(ctx.resources.open)

    agent = Agent(TestModel(), name="agent", deps_type=Pool)

    @agent.tool
    def look(ctx: ToolContext[Pool]) -> bool:
        return ctx.deps is made[0] and current_run().resources is made[0] and ctx.deps.open

    served = durable_agent(agent, lifespan=pools, deps=lambda run: run.resources)
    async with serve([flow, long, served]) as services:
        assert (await services.run("flow")).output is True
        view = await services.run("agent", "look")
        assert [call.result for call in view.tool_calls] == [True]
        await services.client.start_run("long")
        await begun.wait()
        assert len(made) == 1
    assert at_end == [True]
    assert made[0].open is False


@asynccontextmanager
async def raising() -> AsyncIterator[None]:
    raise OSError("no route to db.internal?password=hunter2\nsecond line")
    yield


@asynccontextmanager
async def leaving() -> AsyncIterator[None]:
    raise SystemExit(3)
    yield


@asynccontextmanager
async def hanging() -> AsyncIterator[None]:
    await asyncio.Event().wait()
    yield


def no_manager() -> Any:
    return 7


@pytest.mark.parametrize(
    "lifespan, said",
    [
        (raising, "agent 'a': its lifespan raising cannot be opened: OSError: no route"),
        (leaving, "SystemExit: 3"),
        (no_manager, "it returned int, which is no asynchronous context manager"),
        (hanging, "TimeoutError: not within 0.05 s"),
    ],
)
async def test_one_that_does_not_open(lifespan: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told by the agent's name and the error, without secrets; those opened before are closed."""
    monkeypatch.setattr(lifespans, "_OPEN_SECONDS", 0.05)
    closed = asyncio.Event()

    @asynccontextmanager
    async def before() -> AsyncIterator[None]:
        yield
        closed.set()

    with pytest.raises(ConfigurationError, match=said) as error:
        async with opened({before: "b", lifespan: "a"}):
            raise AssertionError("it is open")
    assert "hunter2" not in str(error.value)
    assert closed.is_set()


async def test_one_that_hangs_is_given_up_at_the_end() -> None:
    """A process that is told to end while it opens ends."""
    stopping = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, stopping.set)
    with pytest.raises(StoppedEarly):
        async with opened({hanging: "a"}, stopping):
            raise AssertionError("it is open")


async def test_one_that_does_not_close(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a line in the log, and the others are closed all the same."""
    monkeypatch.setattr(lifespans, "_CLOSE_SECONDS", 0.05)
    closed: list[str] = []

    @asynccontextmanager
    async def first() -> AsyncIterator[None]:
        yield
        closed.append("first")

    @asynccontextmanager
    async def stuck() -> AsyncIterator[None]:
        yield
        await asyncio.Event().wait()

    @asynccontextmanager
    async def bad() -> AsyncIterator[None]:
        yield
        raise ValueError("at the end")

    with caplog.at_level(logging.ERROR):
        async with opened({first: "a", stuck: "b", bad: "c"}):
            pass
    assert closed == ["first"]
    assert [record.message.partition(" was not closed: ")[2] for record in caplog.records] == [
        "ValueError: at the end",
        "TimeoutError: ",
    ]


async def test_one_that_fails_while_it_is_open(caplog: pytest.LogCaptureFixture) -> None:
    """What a lifespan has started may fail, and cancels the task that opened it: that is a line in the log, and not the
    end of the service."""
    fail, failed = asyncio.Event(), asyncio.Event()

    async def reader() -> None:
        await fail.wait()
        raise RuntimeError("the connection is gone")

    @asynccontextmanager
    async def connected() -> AsyncIterator[None]:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(reader())
                yield
        finally:
            failed.set()

    with caplog.at_level(logging.ERROR):
        async with opened({connected: "a"}):
            fail.set()
            await failed.wait()
            await asyncio.sleep(0)
    assert [" ended by itself: ExceptionGroup: " in record.message for record in caplog.records] == [True]


async def test_what_it_sets_holds_inside() -> None:
    """A lifespan that overrides something by a context variable does so for the runs, and not after them."""
    model: ContextVar[str] = ContextVar("model", default="real")

    @asynccontextmanager
    async def overriding() -> AsyncIterator[None]:
        token = model.set("fake")
        yield
        model.reset(token)

    async with opened({overriding: "a"}):
        assert model.get() == "fake"
    assert model.get() == "real"


async def test_one_that_is_cancelled_while_it_opens() -> None:
    """Nobody waits for it: the cancellation comes through at once."""
    begun = asyncio.Event()

    @asynccontextmanager
    async def slow() -> AsyncIterator[None]:
        begun.set()
        await asyncio.Event().wait()
        yield

    async def serve_with() -> None:
        async with opened({slow: "a"}):
            raise AssertionError("it is open")

    task = asyncio.create_task(serve_with())
    await begun.wait()
    task.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_a_service_does_not_start_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is served where a lifespan does not open, and nothing is claimed."""

    @workflow(id="flow", lifespan=raising)
    async def flow(ctx: RunContext, input: Any) -> None: ...

    with pytest.raises(ConfigurationError, match="its lifespan raising cannot be opened"):
        async with serve([flow]):
            raise AssertionError("it is served")


def test_what_is_no_lifespan() -> None:
    """It is refused when the agent is defined, with what is missing."""

    async def bare() -> AsyncIterator[None]:
        yield

    for lifespan, said in ((bare, "lacks its @asynccontextmanager"), (7, "must be a function")):
        with pytest.raises(ConfigurationError, match=said):
            workflow(id="w", lifespan=lifespan)(_body)  # type: ignore[arg-type]


async def _body(ctx: RunContext, input: Any) -> None: ...
