"""What a pydantic-ai agent remembers of a conversation: its messages, turn by turn, in pydantic-ai's own JSON."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

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

from agent_service.log.remembered import MAX_HISTORY_BYTES, MAX_PART_BYTES
from agent_service.log.turns import Turns
from agent_service.pydantic_ai.steps import Steps
from runwire.agent.v1 import run_pb2
from runwire.redaction import redact

Compact = Callable[[list[ModelMessage]], Awaitable[list[ModelMessage]]]
"""Makes fewer messages out of many, such as a summary and the newest ones."""

HISTORY_BYTES: Final = 256 * 1024
"""Of earlier turns, in pydantic-ai's JSON: some 60,000 tokens."""

logger = logging.getLogger("agent_service")


class Memory:
    """The history of one turn: what came before it, and what it leaves."""

    def __init__(self, turns: Turns, prompt: str | list[UserContent], steps: Steps) -> None:
        self._turns = turns
        self._prompt = prompt
        self._steps = steps
        self.result: AgentRunResult[Any] | None = None
        """Of the turn, once it has succeeded."""
        turns.leaves = self._leaves
        turns.said = lambda: steps.text

    async def before(self, history_bytes: int, compact: Compact | None) -> list[ModelMessage]:
        """The messages of the turns before. If they have more than `history_bytes`, they are compacted first, or the
        oldest forgotten until half of it is left: so that what a provider has cached is good for many turns."""
        kept = self._turns.recollection
        if kept.state.size_bytes > history_bytes and compact is not None:
            await self._compact(compact)
        if kept.state.size_bytes > (history_bytes if compact is None else MAX_HISTORY_BYTES):
            await self._turns.forget(history_bytes // 2)
        return self._messages()

    def _messages(self) -> list[ModelMessage]:
        # Each part is an array: made one, so that they are read at once.
        arrays = (data.strip()[1:-1].strip() for _, data in self._turns.recollection.parts)
        return ModelMessagesTypeAdapter.validate_json(b"[" + b",".join(filter(None, arrays)) + b"]")

    async def _compact(self, compact: Compact) -> None:
        """By the agent's function. Where it fails, all is kept, and it is asked again in the next turn."""
        try:
            data = ModelMessagesTypeAdapter.dump_json(
                ModelMessagesTypeAdapter.validate_python(await compact(self._messages()))
            )
            if len(data) > MAX_PART_BYTES:
                raise ValueError(f"it returned {len(data)} bytes of messages, more than {MAX_PART_BYTES}")
        except Exception as error:
            problem = redact(f"{type(error).__name__}: {error}")
            logger.warning("the history of a conversation could not be compacted: %s", problem)
            await self._turns.tell_not_compacted(problem)
        else:
            await self._turns.compact(data)

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
