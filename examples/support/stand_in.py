"""In the place of a model, so that the example needs no key: it knows a few words, and calls the right tools."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator

from pydantic_ai.messages import ModelMessage, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel


async def _speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    place = len(messages)
    said = [part.content for message in messages for part in message.parts if isinstance(part, UserPromptPart)]
    asked = str(said[-1])
    number = next((each for text in reversed(said) for each in re.findall(r"\d+", str(text))), "")
    last = messages[-1].parts[-1]
    if isinstance(last, ToolReturnPart):
        text = str(last.content) if last.outcome == "success" else f"I may not: {last.content}"
        for word in re.findall(r"\S+\s*", text):
            yield word
    elif not number:
        yield "Which order is it about?"
    elif "back" in asked.lower() or "refund" in asked.lower():
        arguments = json.dumps({"number": int(number), "reason": asked})
        yield {0: DeltaToolCall("refund", arguments, tool_call_id=f"refund-{place}")}
    else:
        yield {0: DeltaToolCall("find_order", json.dumps({"number": int(number)}), tool_call_id=f"find-{place}")}


stand_in = FunctionModel(stream_function=_speak, model_name="stand-in")
