"""Tools that must not be repeated: after a crash inside one, the model is told, or a person is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from agent_service import current_idempotency_key, current_run
from agent_service.pydantic_ai.agent import durable_agent
from agent_service.pydantic_ai.steps import UNKNOWN_AFTER_CRASH, AfterCrash
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.client import approve, deny
from tests.agents.stage import Stage


class Bank:
    """Takes payments, and can keep one from ending."""

    def __init__(self) -> None:
        self.payments: list[str] = []
        self.began = asyncio.Event()
        self.hangs = True

    async def pay(self) -> str:
        self.payments.append(current_idempotency_key())
        self.began.set()
        if self.hangs:
            await asyncio.Event().wait()
        return "paid"


def payer(bank: Bank, metadata: dict[str, object] | None = None) -> Agent[None, str]:
    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        returned = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
        if returned:
            yield f"the bank says: {returned[0].content}"
        else:
            yield {0: DeltaToolCall("pay", json_args="{}", tool_call_id="p")}
            yield {1: DeltaToolCall("look", json_args="{}", tool_call_id="l")}

    agent = Agent(FunctionModel(stream_function=speak), name="payer")
    agent.tool_plain(metadata=metadata)(bank.pay)

    @agent.tool_plain
    async def look() -> str:
        await current_run().emit_text("looking ")
        return "seen"

    return agent


async def died_inside(stage: Stage, bank: Bank) -> None:
    """An attempt whose process dies while the bank is at work."""
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        attempt = group.create_task(stage.attempt())
        await bank.began.wait()
        stage.store.died.set()
        await asyncio.wait({attempt})
    bank.hangs = False


async def test_may_be_repeated() -> None:
    """By default a tool that was cut runs again, with the same key, and stands once in the view."""
    bank = Bank()
    stage = Stage(durable_agent(payer(bank)))
    await stage.start("pay")
    await died_inside(stage, bank)

    await stage.attempt()

    view = await stage.view()
    assert view.output == "the bank says: paid"
    assert len(bank.payments) == 2
    assert len(set(bank.payments)) == 1
    assert [call.tool_call_id for call in view.steps[1].tool_calls] == ["p", "l"]


@pytest.mark.parametrize("by_metadata", [False, True])
async def test_the_model_is_told(by_metadata: bool) -> None:
    """A tool that must not be repeated is not; the model is told that nobody knows what became of it, and so is the
    log, once, whatever dies later."""
    bank = Bank()
    policy: dict[str, AfterCrash] = {} if by_metadata else {"pay": "tell_model"}
    agent = payer(bank, {"repeatable": False} if by_metadata else None)
    stage = Stage(durable_agent(agent, not_repeatable=policy))
    await stage.start("pay")
    await died_inside(stage, bank)

    assert await stage.attempt(die_after=3)
    await stage.attempt()

    view = await stage.view()
    assert view.output == f"the bank says: {UNKNOWN_AFTER_CRASH}"
    assert len(bank.payments) == 1
    call = view.steps[1].tool_calls[0]
    assert call.outcome == run_event_pb2.TOOL_CALL_OUTCOME_UNKNOWN_AFTER_CRASH
    told = [e for e in await stage.events() if e.tool_call_finished.tool_call_id == "p"]
    assert len(told) == 1


async def test_not_repeatable_without_a_crash() -> None:
    """Where nothing dies such a tool is as any other, and its result is remembered."""
    bank = Bank()
    bank.hangs = False
    stage = Stage(durable_agent(payer(bank), not_repeatable={"pay": "suspend"}))
    await stage.start("pay")
    assert await stage.attempt(die_after=8)
    if not (await stage.view()).ended:
        await stage.attempt()
    view = await stage.view()
    assert view.output == "the bank says: paid"
    assert len(bank.payments) == 1


async def test_a_person_is_asked() -> None:
    """With `suspend` the run waits for somebody who knows: to deny tells the model what they say."""
    bank, stage = await asked()
    await stage.resume(deny("unknown/1/p/1", "it went through, number 7"))
    await stage.attempt()
    view = await stage.view()
    assert view.output == "the bank says: it went through, number 7"
    assert len(bank.payments) == 1


async def test_a_person_says_again() -> None:
    """To approve runs the tool again; if it dies once more, the person is asked once more."""
    bank, stage = await asked()
    bank.hangs, bank.began = True, asyncio.Event()
    await stage.resume(approve("unknown/1/p/1"))
    await died_inside(stage, bank)

    await stage.attempt()
    assert [request.request_id for request in (await stage.run()).pending] == ["unknown/1/p/2"]
    await stage.resume(approve("unknown/1/p/2"))
    await stage.attempt()

    assert (await stage.view()).output == "the bank says: paid"
    assert len(bank.payments) == 3
    assert len(set(bank.payments)) == 1


async def asked() -> tuple[Bank, Stage]:
    bank = Bank()
    stage = Stage(durable_agent(payer(bank), not_repeatable={"pay": "suspend"}))
    await stage.start("pay")
    await died_inside(stage, bank)
    await stage.attempt()
    run = await stage.run()
    assert run.state == run_pb2.RUN_STATE_SUSPENDED
    [request] = run.pending
    assert (request.request_id, request.kind) == ("unknown/1/p/1", run_pb2.PENDING_KIND_APPROVAL)
    return bank, stage
