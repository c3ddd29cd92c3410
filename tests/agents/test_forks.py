"""Going on where a run has failed: on the stage, at every commit, and over the wire on every engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from agent_service import Retry, RunContext, ScorerRef, durable_agent, workflow
from agent_service.agents.definition import Definition
from agent_service.log.history import OF_STEP
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.errors import AlreadyExists, NotForkable
from runwire.fold import fold
from runwire.scorer.v1 import scorer_run_requested_pb2
from runwire.scorer_requests import QUEUE
from tests.agents.stage import Stage

DONE: Counter[str] = Counter()


def fragile(is_broken: Callable[[], bool]) -> Definition:
    """Asks a tool that works, then one that may be broken."""

    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        step = 1 + sum(message.kind == "response" for message in messages)
        DONE[f"model {step}"] += 1
        yield f"step {step}. "
        if step < 3:
            yield {1: DeltaToolCall(("works", "breaks")[step - 1], json_args="{}", tool_call_id=f"t{step}")}

    agent = Agent(FunctionModel(stream_function=speak), name="fragile")

    @agent.tool_plain
    async def works() -> str:
        DONE["works"] += 1
        return "fine"

    @agent.tool_plain
    async def breaks() -> str:
        DONE["breaks"] += 1
        if is_broken():
            raise RuntimeError("the other service is down")
        return "mended"

    return durable_agent(agent, tool_retry=Retry(), scorers=[ScorerRef("brevity")])


def told(events: list[run_event_pb2.RunEvent], last_step: int) -> list[tuple[int, bytes]]:
    """What a log tells of its first steps, whoever wrote it and where."""
    found = []
    for event in events:
        payload = event.WhichOneof("payload")
        if payload in OF_STEP and event.step <= last_step:
            found.append((event.step, getattr(event, payload).SerializeToString()))
    return found


async def test_a_failed_run_goes_on_in_another() -> None:
    """What was finished is not done again, the log begins with what was told of it, and scorers see the whole."""
    DONE.clear()
    broken = True
    stage = Stage(fragile(lambda: broken))
    await stage.start("x")
    await stage.attempt()
    assert (await stage.run()).state == run_pb2.RUN_STATE_FAILED
    await stage.store.receive(QUEUE, consumer="t", limit=10, lease_seconds=1000)
    broken = False
    other = await stage.fork()
    await other.attempt()
    run, view = await other.run(), await other.view()
    assert (run.state, run.forked_from, view.output) == (run_pb2.RUN_STATE_SUCCEEDED, stage.run_id, "step 3. ")
    assert DONE == {"model 1": 1, "works": 1, "model 2": 1, "breaks": 2, "model 3": 1}
    assert told(list(await other.events()), 1) == told(list(await stage.events()), 1)
    assert view.text == "step 1. step 2. step 3. "
    assert (run.usage.requests, run.usage.tool_calls) == (3, 2)
    [asked] = await stage.store.receive(QUEUE, consumer="t", limit=10, lease_seconds=1000)
    sample = scorer_run_requested_pb2.ScorerRunRequested.FromString(asked.body).sample
    assert [call.outcome for call in sample.tool_calls] == ["succeeded", "succeeded"]


async def test_killed_at_every_commit_of_a_fork() -> None:
    """Whichever commit of the fork its worker dies with, what readers see in the end is the same."""
    expected: object = None
    for number in range(40):
        broken = True
        stage = Stage(fragile(lambda: broken))  # noqa: B023
        await stage.start("x")
        await stage.attempt()
        broken = False
        other = await stage.fork()
        died = await other.attempt(die_after=number or None)
        if died and not (await other.run()).HasField("end_time"):
            await other.attempt()
        view = await other.view()
        said = (view.state, view.text, view.output, [(call.tool_name, call.result) for call in view.tool_calls])
        expected = expected or said
        assert said == expected, number
        if number and not died:
            break
    else:
        raise AssertionError("never lived")
    assert number > 3


@workflow(id="stumbles")
async def stumbles(ctx: RunContext, input: str) -> str:
    await ctx.emit_text("at it: ")
    first = await ctx.step("first", count, "first")
    second = await ctx.step("second", count, "second")
    if DONE["attempts"] == 0:
        DONE["attempts"] += 1
        raise RuntimeError("a bug")
    return f"{first} {second}"


async def count(what: str) -> int:
    DONE[what] += 1
    return DONE[what]


async def test_a_workflow_goes_on() -> None:
    """Its finished steps too; what it says outside of steps is told once."""
    DONE.clear()
    stage = Stage(stumbles)
    await stage.start("x")
    await stage.attempt()
    other = await stage.fork()
    await other.attempt()
    view = fold(await other.events())
    assert (view.output, view.text) == ("1 1", "at it: ")


async def test_what_cannot_be_gone_on_from() -> None:
    """A run that has not ended, or has succeeded and no step is named. A request id makes one run, and is its own."""
    DONE.clear()
    stage = Stage(stumbles)
    await stage.start("x")
    with pytest.raises(NotForkable, match="has not ended"):
        await stage.fork()
    await stage.attempt()
    first, same = await stage.fork("once"), await stage.fork("once")
    assert first.run_id == same.run_id
    await first.attempt()
    with pytest.raises(NotForkable, match="neither"):
        await first.fork()
    with pytest.raises(AlreadyExists):
        await stage.start("x", request_id="once")
