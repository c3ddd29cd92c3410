"""A real pydantic-ai agent on a model that runs here: it searches, and answers with what it found."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from typing import Any, Final

from pydantic_ai import Agent
from pydantic_ai.messages import ModelMessage, ToolReturnPart, UserPromptPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

from agent_service.agents.definition import ScorerRef
from agent_service.demo.library import documentation
from agent_service.pydantic_ai.agent import durable_agent

MODEL_VARIABLE: Final = "RUNWIRE_MODEL"
"""Names the model to use in place of the local one, as pydantic-ai names models: `openai:gpt-5.2`."""
_TOOL: Final = "search_documentation"
_OPENING: Final = "Let me look that up in the documentation. "
_PAUSE_SECONDS: Final = 0.02
_QUOTE_CHARACTERS: Final = 420
_INSTRUCTIONS: Final = (
    "You answer questions about Runwire. Search the documentation first, then answer briefly with what you found, "
    "and name the source of each passage you use."
)


def search_documentation(query: str, limit: int = 3) -> list[dict[str, str]]:
    """Finds passages of Runwire's documentation.

    Args:
        query: The words to look for.
        limit: Most passages to return, 1 to 10.
    """
    found = documentation().search(query, max(1, min(limit, 10)))
    return [{"source": passage.source, "text": passage.text} for passage in found]


async def narrate(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
    """The local model: the same words for the same question, at the pace of a model."""
    found = _found(messages)
    async for word in _speak(_OPENING if found is None else _answer(found)):
        yield word
    if found is None:
        arguments = json.dumps({"query": _question(messages)})
        yield {1: DeltaToolCall(_TOOL, json_args=arguments, tool_call_id="search")}


def _question(messages: list[ModelMessage]) -> str:
    asked = [part.content for message in messages for part in message.parts if isinstance(part, UserPromptPart)]
    return asked[-1] if asked and isinstance(asked[-1], str) else ""


def _found(messages: list[ModelMessage]) -> list[dict[str, str]] | None:
    """What the search returned; None before it."""
    last = messages[-1].parts[-1]
    return last.content if isinstance(last, ToolReturnPart) and isinstance(last.content, list) else None


def _answer(found: list[dict[str, str]]) -> str:
    if not found:
        return "The documentation says nothing about that. Ask me about runs, streams, cursors, stores or scorers."
    return "\n\n".join(f"{_sentences(passage['text'])} [{passage['source']}]" for passage in found)


def _sentences(text: str) -> str:
    """The beginning of `text`, as whole sentences."""
    text = text[:1].upper() + text[1:]
    if len(text) <= _QUOTE_CHARACTERS:
        return text
    cut = text[:_QUOTE_CHARACTERS]
    end = max(cut.rfind(". "), cut.rfind("; "), cut.rfind(": "))
    return f"{cut[: end + 1] if end > 0 else cut} ..."


async def _speak(text: str) -> AsyncIterator[str]:
    for word in re.findall(r"\S+\s*", text):
        yield word
        await asyncio.sleep(_PAUSE_SECONDS)


def _model() -> Any:
    return os.environ.get(MODEL_VARIABLE) or FunctionModel(stream_function=narrate, model_name="local-narrator")


librarian: Final = durable_agent(
    Agent(_model(), name="librarian", instructions=_INSTRUCTIONS, tools=[search_documentation]),
    description="Answers questions about Runwire from its documentation, with sources.",
    scorers=[ScorerRef("keyword-coverage"), ScorerRef("content-similarity")],
    version="1",
)
