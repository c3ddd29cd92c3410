"""What a pydantic-ai agent remembers of a conversation: its messages, turn by turn, in pydantic-ai's own JSON."""

from __future__ import annotations

from typing import Any

from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    TextPart,
    UserContent,
    UserPromptPart,
)
from pydantic_ai.run import AgentRunResult

from agent_service.log.turns import Turns
from agent_service.pydantic_ai.steps import Steps
from runwire.agent.v1 import run_pb2


class Memory:
    """The history of one turn: what came before it, and what it leaves."""

    def __init__(self, turns: Turns, prompt: str | list[UserContent], steps: Steps) -> None:
        self._prompt = prompt
        self._steps = steps
        self.before: list[ModelMessage] = [
            message for data in turns.history() for message in ModelMessagesTypeAdapter.validate_json(data)
        ]
        self.result: AgentRunResult[Any] | None = None
        """Of the turn, once it has succeeded."""
        turns.leaves = self._leaves
        turns.said = lambda: steps.text

    def _leaves(self, state: run_pb2.RunState) -> bytes:
        """Of a turn that was cut short: what it was asked, and what had been said. Tool calls that have no answer are
        no history that a provider takes."""
        if self.result is not None and state == run_pb2.RUN_STATE_SUCCEEDED:
            return self.result.new_messages_json()
        messages: list[ModelMessage] = [
            ModelRequest(parts=[UserPromptPart(content=said) for said in (self._prompt, *self._steps.given)])
        ]
        if self._steps.text:
            messages.append(ModelResponse(parts=[TextPart(content=self._steps.text)]))
        return ModelMessagesTypeAdapter.dump_json(messages)
