"""In the place of a model, so that the example needs no key: it searches, opens what it found, and quotes it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from pydantic_ai.messages import ModelMessage, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel


async def _speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    parts = [part for message in messages for part in message.parts]
    asked = next(str(part.content) for part in parts if isinstance(part, UserPromptPart))
    returned = [part for part in parts if isinstance(part, ToolReturnPart)]
    opened = [part for part in returned if part.tool_name == "open_page"]
    if not returned:
        yield "I search. "
        yield {1: DeltaToolCall("search", json.dumps({"words": asked}), tool_call_id="search")}
    elif not opened:
        found = returned[0].content
        assert isinstance(found, list)
        for number, name in enumerate(found or ["pharos"]):
            yield {number: DeltaToolCall("open_page", json.dumps({"name": name}), tool_call_id=f"open-{name}")}
    else:
        report = {
            "answer": " ".join(str(part.content) for part in opened),
            "sources": [part.tool_call_id.removeprefix("open-") for part in opened],
        }
        yield {0: DeltaToolCall(info.output_tools[0].name, json.dumps(report), tool_call_id="report")}


stand_in = FunctionModel(stream_function=_speak, model_name="stand-in")
