"""pydantic-ai agents for processes that are killed. Each request to the model and each tool notes its beginning and
its end in the ledger, as `<run> <unit> begin|end <attempt> <idempotency key>`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pydantic_ai import Agent, ModelRetry
from pydantic_ai.messages import ModelMessage, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from agent_service import current_idempotency_key, current_run
from agent_service.agents.definition import Definition
from agent_service.pydantic_ai.agent import durable_agent
from tests.e2e.ledger import note

PAUSE_SECONDS: Final = 0.015
"""Between any two events, so that most of them are commits of their own."""


@dataclass(frozen=True)
class Kind:
    """An agent that is killed, under as many names as are needed: one that only one process knows lets a test say
    which process executes a run."""

    make: Callable[[str], Definition]
    units: Sequence[str]
    """All that it does, named as in its journal."""
    output: str


@contextmanager
def noted(unit: str, key: str = "-") -> Iterator[None]:
    run = current_run()
    note(f"{run.run_id} {unit} begin {run.attempt} {key}")
    yield
    note(f"{run.run_id} {unit} end {run.attempt} {key}")


def returns(messages: list[ModelMessage]) -> list[ToolReturnPart]:
    return [part for message in messages for part in message.parts if isinstance(part, ToolReturnPart)]


def step_of(messages: list[ModelMessage]) -> int:
    return 1 + sum(message.kind == "response" for message in messages)


async def ask(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    step = step_of(messages)
    with noted(f"model/{step}"):
        for word in (f"step {step} ", "begins. "):
            yield word
            await asyncio.sleep(PAUSE_SECONDS)
        if step == 1:
            for index, city in enumerate(("Rome", "Oslo", "Bern")):
                yield {
                    index + 1: DeltaToolCall("weather", json_args=f'{{"city": "{city}"}}', tool_call_id="abc"[index])
                }
        elif step == 2:
            yield {1: DeltaToolCall("weather", json_args='{"city": "Bern, CH"}', tool_call_id="a")}
        else:
            yield " and ".join(str(part.content) for part in returns(messages) if part.outcome == "success")


async def weather(city: str) -> str:
    unit = {"Rome": "1/a", "Oslo": "1/b", "Bern": "1/c", "Bern, CH": "2/a"}[city]
    with noted(f"tool/{unit}", current_idempotency_key()):
        # They end in another order than they begin.
        await asyncio.sleep({"Rome": 4, "Oslo": 3}.get(city, 2) * PAUSE_SECONDS)
    if city == "Bern":
        raise ModelRetry("which Bern?")
    return f"sun in {city}"


@cache
def researcher(name: str) -> Definition:
    """Three requests to the model: three tools at once, one of which asks to be called again; that one, with an id
    that was used before; an answer."""
    return durable_agent(Agent(FunctionModel(stream_function=ask), name=name, tools=[weather]))


@cache
def careful(name: str) -> Definition:
    """Looks and deletes at once; whoever deletes needs an approval."""

    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        with noted(f"model/{step_of(messages)}"):
            yield f"step {step_of(messages)} "
            await asyncio.sleep(PAUSE_SECONDS)
            if step_of(messages) == 1:
                yield {1: DeltaToolCall("look", json_args='{"place": "here"}', tool_call_id="l")}
                yield {2: DeltaToolCall("delete", json_args='{"path": "/everything"}', tool_call_id="d")}
            else:
                yield "; ".join(str(part.content) for part in returns(messages))

    agent = Agent(FunctionModel(stream_function=speak), name=name)

    @agent.tool_plain
    async def look(place: str) -> str:
        with noted("tool/1/l", current_idempotency_key()):
            await asyncio.sleep(PAUSE_SECONDS)
        return f"saw {place}"

    @agent.tool_plain(requires_approval=True)
    async def delete(path: str) -> str:
        with noted("tool/1/d", current_idempotency_key()):
            await asyncio.sleep(PAUSE_SECONDS)
        return f"deleted {path}"

    return durable_agent(agent)


KINDS: Final = {
    "researcher": Kind(
        researcher,
        ("model/1", "tool/1/a", "tool/1/b", "tool/1/c", "model/2", "tool/2/a", "model/3"),
        "step 3 begins. sun in Rome and sun in Oslo and sun in Bern, CH",
    ),
    "careful": Kind(careful, ("model/1", "tool/1/l", "tool/1/d", "model/2"), "step 2 saw here; deleted /tmp/x"),
}


def __getattr__(name: str) -> Any:
    """`researcher_7` is a researcher of that name; `researcher_all` are `researcher_0` to `researcher_99`."""
    kind, _, number = name.rpartition("_")
    if kind not in KINDS:
        raise AttributeError(name)
    return [KINDS[kind].make(f"{kind}_{each}") for each in (range(100) if number == "all" else [int(number)])]


def _payer() -> Definition:
    """Takes its process with it while it pays; and paying must not be repeated."""

    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        with noted(f"model/{step_of(messages)}"):
            if step_of(messages) == 1:
                yield {1: DeltaToolCall("pay", json_args='{"amount": 5}', tool_call_id="p")}
            else:
                yield f"I was told: {returns(messages)[0].content}"

    agent = Agent(FunctionModel(stream_function=speak), name="payer")

    @agent.tool_plain(metadata={"repeatable": False})
    async def pay(amount: int) -> str:
        with noted("tool/1/p", current_idempotency_key()):
            os.kill(os.getpid(), signal.SIGKILL)
        return "unreachable"

    return durable_agent(agent)


payer: Final = _payer()


def _quitter() -> Definition:
    """Its tools end their process as a script does: by sys.exit()."""

    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        prompt = str(messages[0].parts[-1].content)  # type: ignore[union-attr]
        yield {1: DeltaToolCall(prompt, json_args="{}", tool_call_id="q")}

    agent = Agent(FunctionModel(stream_function=speak), name="quitter")

    @agent.tool_plain
    async def quit_at_once() -> str:
        sys.exit(3)

    @agent.tool_plain
    def quit_in_a_thread() -> str:
        sys.exit(3)

    @agent.tool_plain
    async def quit_aside() -> str:
        async def leave() -> None:
            sys.exit(3)

        task = asyncio.create_task(leave())
        await asyncio.sleep(5)
        return str(task)

    return durable_agent(agent)


quitter: Final = _quitter()
