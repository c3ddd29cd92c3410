"""Tool calls, outputs and sources while the model still speaks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, ModelResponse
from pydantic_ai.messages import (
    Citation,
    ContentCitationAnchor,
    DocumentCitationSource,
    ModelMessage,
    NativeToolCallPart,
    NativeToolReturnPart,
    TextPart,
    WebCitationSource,
)
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from agent_service import durable_agent
from runwire.agent.v1 import run_event_pb2
from runwire.fold import Fold, RunView
from tests.agents.stage import Stage


class Report(BaseModel):
    text: str
    pages: list[int] = []


LONG = json.dumps({"text": "word " * 400, "pages": list(range(200))})
SHORT = json.dumps({"text": "word"})


def writes(arguments: str, output: bool) -> Any:
    """An agent whose model writes these arguments in small pieces, of its output or of a tool."""

    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        if not output and len(messages) > 1:
            yield "done"
            return
        name = info.output_tools[0].name if output else "file"
        yield {0: DeltaToolCall(name, "", tool_call_id="a")}
        for start in range(0, len(arguments), 7):
            yield {0: DeltaToolCall(json_args=arguments[start : start + 7])}

    agent: Agent[None, Any] = Agent(
        FunctionModel(stream_function=speak), name="writer", output_type=Report if output else str
    )
    if not output:

        @agent.tool_plain
        def file(text: str, pages: list[int] = []) -> int:  # noqa: B006 - never changed
            return len(text)

    return durable_agent(agent)


async def grown(stage: Stage) -> tuple[list[run_event_pb2.RunEvent], RunView]:
    return list(await stage.events()), await stage.view()


async def test_a_tool_call_grows() -> None:
    """Long arguments are told in pieces before the call, which join to them; a view has the call as a draft until it is
    made."""
    stage = Stage(writes(LONG, output=False))
    await stage.finish("x")
    events, view = await grown(stage)
    deltas = [event.tool_call_delta for event in events if event.HasField("tool_call_delta")]
    assert "".join(each.arguments for each in deltas) == LONG
    assert {(each.tool_call_id, each.tool_name) for each in deltas} == {("a", "file")}
    assert 4 < len(deltas) <= len(LONG) / 256 + 1
    (call,) = view.tool_calls
    assert call.arguments == json.loads(LONG)
    folded, seen = Fold(), []
    for event in events:
        folded.add(event)
        seen.append(max((len(d.arguments) for s in folded.view.steps.values() for d in s.drafts.values()), default=0))
    assert seen == sorted(seen[: seen.index(len(LONG)) + 1]) + [0] * (len(seen) - seen.index(len(LONG)) - 1)


async def test_an_output_grows() -> None:
    """A long structured output is told in pieces that join to it."""
    stage = Stage(writes(LONG, output=True))
    await stage.finish("x")
    events, view = await grown(stage)
    deltas = [event.output_delta for event in events if event.HasField("output_delta")]
    assert "".join(each.text for each in deltas) == LONG == view.output_draft
    assert view.output == json.loads(LONG)
    assert view.tool_calls == []


@pytest.mark.parametrize("output", [False, True])
async def test_what_is_short_comes_whole(output: bool) -> None:
    """It costs no events of its own."""
    stage = Stage(writes(SHORT, output=output))
    await stage.finish("x")
    events, _ = await grown(stage)
    assert not [event for event in events if event.HasField("tool_call_delta") or event.HasField("output_delta")]


@pytest.mark.parametrize("output", [False, True])
async def test_it_grows_anew_after_a_crash(output: bool) -> None:
    """A request that was cut begins its step again, and a view holds its pieces once."""
    for die_after in (2, 3, 4):
        stage = Stage(writes(LONG, output=output))
        await stage.start("x")
        if await stage.attempt(die_after=die_after) and not (await stage.view()).ended:
            await stage.attempt()
        _, view = await grown(stage)
        assert view.output_draft == (LONG if output else "")
        assert all(not step.drafts for step in view.steps.values())
        assert [call.arguments for call in view.tool_calls] == ([] if output else [json.loads(LONG)])


class Searching(FunctionModel):
    """Answers with a search that the provider did, and cites."""

    def __init__(self) -> None:
        super().__init__(self._answer)

    async def _answer(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        web = Citation(
            [WebCitationSource("https://e.org/a", title="A", excerpts=["it is so"])],
            anchor=ContentCitationAnchor(start=3, end=5),
        )
        file = Citation([DocumentCitationSource(document_id="file-7", title="B"), DocumentCitationSource(title="C")])
        return ModelResponse(
            [
                NativeToolCallPart("web_search", {"query": "cursors"}, "n", provider_name="function"),
                NativeToolReturnPart("web_search", {"found": 1}, "n", provider_name="function"),
                TextPart("First. "),
                TextPart("It is so.", citations=[web, file]),
            ]
        )


async def test_what_the_provider_did_is_told() -> None:
    """Its tool calls are told once, as native ones, and its sources with their places in the step's text, also where
    the process dies at any commit."""
    for die_after in (None, 1, 2, 3, 4):
        stage = Stage(durable_agent(Agent(Searching(), name="searching")))
        await stage.start("x")
        if await stage.attempt(die_after=die_after) and not (await stage.view()).ended:
            await stage.attempt()
        _, view = await grown(stage)
        (call,) = view.tool_calls
        assert (call.tool_name, call.arguments, call.result, call.native, call.finished) == (
            "web_search",
            {"query": "cursors"},
            {"found": 1},
            True,
            True,
        )
        cited = [(each.url, each.title, each.source, each.quote) for each in view.citations]
        assert cited == [("https://e.org/a", "A", "", "it is so"), ("", "B", "file-7", ""), ("", "C", "", "")]
        assert view.text == "First. It is so."
        assert view.text[view.citations[0].start : view.citations[0].end] == view.text[10:12]
        assert view.usage.tool_calls == 0


async def test_hostile_sources() -> None:
    """A response that cites very often, or with texts of any length, is told in bounds."""

    def says(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        long = WebCitationSource("https://e.org/" + "x" * 100_000, title="\ud83d" * 9_000, excerpts=["y" * 100_000])
        return ModelResponse([TextPart("a", citations=[Citation([long]), Citation([WebCitationSource("u")] * 300)])])

    stage = Stage(durable_agent(Agent(FunctionModel(says), name="hostile")))
    view = await stage.finish("x")
    assert view.output == "a"
    assert len(view.citations) == 256
    assert max(event.ByteSize() for event in await stage.events() if event.HasField("citation_added")) < 20_000
