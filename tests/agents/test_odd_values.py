"""What models and tools say that JSON, UTF-8 or a Value cannot hold: nothing of it fails a run."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from agent_service.pydantic_ai.agent import durable_agent
from runwire.agent.v1 import run_pb2
from runwire.client import approve
from runwire.values import from_value
from tests.agents.stage import Stage

BIG = 2**63


def odd() -> Agent[None, Any]:
    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        if len(messages) == 1:
            yield "half \ud83d"
            yield {1: DeltaToolCall("look", json_args=f'{{"n": {BIG}}}', tool_call_id="a")}
            yield {2: DeltaToolCall("delete", json_args=f'{{"n": {BIG}}}', tool_call_id="b")}
        else:
            yield "done \ude00"

    agent = Agent(FunctionModel(stream_function=speak), name="odd")

    @agent.tool_plain
    def look(n: int) -> Any:
        deep: Any = n
        for _ in range(40):
            deep = [deep]
        return {"name": "\udcff.txt", "id": n, "nan": math.nan, "deep": deep}

    @agent.tool_plain(requires_approval=True)
    def delete(n: int) -> int:
        return n

    return agent


async def test_an_agent_that_says_odd_things() -> None:
    """Half an emoji in the text, 64-bit ids in arguments, results and approvals, NaN, depth: the run is suspended, goes
    on, and succeeds, with all of it in the log in its documented form."""
    stage = Stage(durable_agent(odd()))
    await stage.start("go")
    await stage.attempt()
    run = await stage.run()
    assert run.state == run_pb2.RUN_STATE_SUSPENDED, run.error
    assert from_value(run.pending[0].arguments) == {"n": str(BIG)}
    await stage.resume(approve(run.pending[0].request_id))
    await stage.attempt()
    view = await stage.view()
    assert view.state == run_pb2.RUN_STATE_SUCCEEDED, view.error
    assert view.text == "half \ufffddone \ufffd"
    results: dict[str, Any] = {call.tool_name: call.result for call in view.tool_calls}
    assert results["delete"] == str(BIG)
    assert (results["look"]["name"], results["look"]["id"]) == ("\ufffd.txt", str(BIG))
    assert "[too deep] " in str(results["look"]["deep"])
    assert view.output == "done \ufffd"
