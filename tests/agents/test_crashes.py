"""A run whose process dies: at every commit, again and again, and what is done once nevertheless."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic_ai import Agent, ModelRetry, RunContext
from pydantic_ai.messages import ModelMessage, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.toolsets import DynamicToolset, FunctionToolset

from agent_service import current_idempotency_key
from agent_service.pydantic_ai.agent import durable_agent
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.fold import RunView
from tests.agents.stage import Stage

SUCCEEDED = run_event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED
FAILED = run_event_pb2.TOOL_CALL_OUTCOME_FAILED


class Ledger:
    """What really happened, written down outside of the run."""

    def __init__(self) -> None:
        self.asked: Counter[int] = Counter()
        self.ran: Counter[tuple[int, str]] = Counter()
        self.keys: dict[tuple[int, str], set[str]] = {}

    def copy(self) -> tuple[Counter[int], Counter[tuple[int, str]]]:
        return Counter(self.asked), Counter(self.ran)


def researcher(ledger: Ledger) -> Agent[None, str]:
    """Three requests to the model: three tools at once, one of which asks to be called again; that one, with an id
    that was used before; an answer."""

    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        step = 1 + sum(message.kind == "response" for message in messages)
        ledger.asked[step] += 1
        yield f"step {step} "
        await asyncio.sleep(0)
        yield "begins. "
        if step == 1:
            for index, city in enumerate(("Rome", "Oslo", "Bern"), start=1):
                yield {
                    index: DeltaToolCall("weather", json_args=f'{{"city": "{city}"}}', tool_call_id="abc"[index - 1])
                }
        elif step == 2:
            yield {1: DeltaToolCall("weather", json_args='{"city": "Bern, CH"}', tool_call_id="a")}
        else:
            yield " and ".join(str(part.content) for part in returns(messages) if part.outcome == "success")

    agent = Agent(FunctionModel(stream_function=speak), name="researcher")

    @agent.tool_plain
    async def weather(city: str) -> str:
        call = (1, {"Rome": "a", "Oslo": "b", "Bern": "c"}[city]) if city in ("Rome", "Oslo", "Bern") else (2, "a")
        ledger.ran[call] += 1
        ledger.keys.setdefault(call, set()).add(current_idempotency_key())
        for _ in range({"Rome": 30, "Oslo": 20, "Bern": 10}.get(city, 0)):  # ends in another order than it begins
            await asyncio.sleep(0)
        if city == "Bern":
            raise ModelRetry("which Bern?")
        return f"sun in {city}"

    return agent


def returns(messages: list[ModelMessage]) -> list[ToolReturnPart]:
    return [part for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]


def shape(view: RunView) -> Any:
    """What two runs must agree in."""
    return {
        "state": view.state,
        "output": view.output,
        "usage": (view.usage.requests, view.usage.input_tokens, view.usage.output_tokens, view.usage.tool_calls),
        "steps": {
            number: (step.name, step.text, step.finished, step.usage.SerializeToString(),
                     sorted((c.tool_call_id, c.tool_name, str(c.arguments), str(c.result), c.outcome)
                            for c in step.tool_calls))
            for number, step in view.steps.items()
        },
    }  # fmt: skip


async def undisturbed() -> tuple[Stage, RunView]:
    stage = Stage(durable_agent(researcher(Ledger())))
    return stage, await stage.finish("weather?")


async def test_undisturbed() -> None:
    """Without a crash the run does what the other tests compare with."""
    stage, view = await undisturbed()
    assert view.state == run_pb2.RUN_STATE_SUCCEEDED
    assert view.output == "step 3 begins. sun in Rome and sun in Oslo and sun in Bern, CH"
    outcomes = {(call.tool_call_id, call.outcome): call.result for call in view.steps[1].tool_calls}
    assert outcomes == {("a", SUCCEEDED): "sun in Rome", ("b", SUCCEEDED): "sun in Oslo", ("c", FAILED): "which Bern?"}
    assert stage.store.commits > 10


async def finished(stage: Stage) -> tuple[set[int], set[tuple[int, str]]]:
    """Requests and tool calls whose end the store knows: from the journal, or because readers were told."""
    stored = await stage.store.get(stage.topic)
    assert stored is not None
    keys = [name.removeprefix("journal/").split("/") for name in stored.fields if name.startswith("journal/")]
    asked = {int(key[1]) for key in keys if key[0] == "model"}
    called = {(int(key[1]), key[2]) for key in keys if key[0] == "tool"}
    for event in await stage.events():
        kind = event.WhichOneof("payload")
        if kind in ("tool_call_started", "step_finished"):
            asked.add(event.step)
        elif kind == "tool_call_finished":
            called.add((event.step, event.tool_call_finished.tool_call_id))
    return asked, called


def check_against(ledger: Ledger, known: Any) -> None:
    (asked, called), (asked_before, ran_before) = known
    for step in asked:
        assert ledger.asked[step] == asked_before[step], f"request {step} was finished and made again"
    for call in called:
        assert ledger.ran[call] == ran_before[call], f"tool call {call} was finished and run again"


async def test_dies_at_every_commit() -> None:
    """Wherever the process dies, no finished request and no finished tool is done again, keys of tools stay the same,
    and the output, the usage and the folded view are those of a run that nothing disturbed."""
    baseline, expected = await undisturbed()
    commits = baseline.store.commits - 1  # without the one that started the run
    for die_after in range(1, commits + 1):
        ledger = Ledger()
        stage = Stage(durable_agent(researcher(ledger)))
        await stage.start("weather?")
        assert await stage.attempt(die_after=die_after)
        known = await finished(stage), ledger.copy()
        if die_after < commits:
            assert not await stage.attempt()
        check_against(ledger, known)
        assert shape(await stage.view()) == shape(expected), f"died after commit {die_after}"
        assert {len(keys) for keys in ledger.keys.values()} == {1}
        assert len(set.union(*ledger.keys.values())) == 4


@pytest.mark.parametrize("commits_each", [6, 7, 9])
async def test_dies_again_and_again(commits_each: int) -> None:
    """A run that gets only so far in each attempt ends with the same result, each finished thing done once."""
    _, expected = await undisturbed()
    ledger, known = Ledger(), []
    stage = Stage(durable_agent(researcher(ledger)))
    await stage.start("weather?")
    for _ in range(40):
        died = await stage.attempt(die_after=commits_each)
        if not died:
            break
        known.append((await finished(stage), ledger.copy()))
    else:
        pytest.fail("the run does not get any further")
    for each in known:
        check_against(ledger, each)
    assert len(known) >= 2
    assert shape(await stage.view()) == shape(expected)


async def test_a_step_that_stands_is_not_told_again() -> None:
    """After a crash among the tools the step's text stands; only the tools that were cut are told again."""
    for die_after in range(2, 20):
        stage = Stage(durable_agent(researcher(Ledger())))
        await stage.start("weather?")
        await stage.attempt(die_after=die_after)
        asked, called = await finished(stage)
        if asked == {1} and len(called) == 1:
            break
    else:
        pytest.fail("the process never died among the tools")
    before = len(await stage.events())

    await stage.attempt()

    later = [event for event in (await stage.events())[before:] if event.step == 1]
    kinds = Counter(event.WhichOneof("payload") for event in later)
    assert kinds["step_started"] == kinds["text_delta"] == 0
    assert kinds["tool_call_started"] == kinds["tool_call_finished"] == 2
    assert kinds["step_finished"] == 1


async def test_toolsets_made_for_the_run() -> None:
    """Tools of a toolset that is made for each run, under a prefix, and their validators are remembered too."""
    ran: Counter[str] = Counter()

    async def allowed(context: RunContext[None], n: int) -> None:
        ran["validated"] += 1

    def double(n: int) -> int:
        ran["doubled"] += 1
        return 2 * n

    def made(context: RunContext[None]) -> FunctionToolset[None]:
        toolset: FunctionToolset[None] = FunctionToolset(id="numbers")
        toolset.add_function(double, args_validator=allowed)
        return toolset

    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        if returned := returns(messages):
            yield f"twice is {returned[0].content}"
        else:
            yield {0: DeltaToolCall("n_double", json_args='{"n": 4}', tool_call_id="d")}

    toolset = DynamicToolset(made, id="made").prefixed("n")
    definition = durable_agent(Agent(FunctionModel(stream_function=speak), name="counter", toolsets=[toolset]))
    undisturbed = Stage(definition)
    assert (await undisturbed.finish("double")).output == "twice is 8"
    for die_after in range(1, undisturbed.store.commits - 1):
        ran.clear()
        stage = Stage(definition)
        await stage.start("double")
        assert await stage.attempt(die_after=die_after)
        _, called = await finished(stage)
        before = Counter(ran)
        await stage.attempt()
        assert (await stage.view()).output == "twice is 8"
        if called:
            assert ran == before
