"""A model that follows a script."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel


@dataclass(frozen=True, slots=True)
class ScriptedCall:
    """A tool call that the model makes. Made by `call`."""

    tool_name: str
    arguments: dict[str, Any]


def call(tool_name: str, /, **arguments: Any) -> ScriptedCall:
    """A reply in which the model calls this tool."""
    return ScriptedCall(tool_name, arguments)


Reply = str | ScriptedCall | Sequence[str | ScriptedCall]


class ScriptExhausted(Exception):
    """The model was asked once more than its script has replies."""


@contextmanager
def scripted(agent: Agent[Any, Any], *replies: Reply) -> Iterator[None]:
    """Inside, the agent's model follows a script: its n-th answer in a run, or in a conversation, is the n-th of
    `replies`. A reply is text, a `call`, or several of them; text comes in words.

    What counts is how many answers the model is shown, so a reply that is asked for again (after a crash, in a second
    run) is the same again. A run that asks for more fails, with ScriptExhausted.
    """
    before, agent.model = agent.model, _model(replies)
    try:
        yield
    finally:
        agent.model = before


def _model(replies: Sequence[Reply]) -> FunctionModel:
    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        place = sum(message.kind == "response" for message in messages)
        if place >= len(replies):
            raise ScriptExhausted(f"the script has {len(replies)} replies, and the model was asked for another")
        reply = replies[place]
        for number, part in enumerate([reply] if isinstance(reply, str | ScriptedCall) else reply, start=1):
            if isinstance(part, str):
                for word in re.findall(r"\S*\s*", part):
                    yield word
            else:
                arguments = json.dumps(part.arguments)
                yield {number: DeltaToolCall(part.tool_name, arguments, tool_call_id=f"call-{place + 1}-{number}")}

    return FunctionModel(stream_function=speak, model_name="scripted")
