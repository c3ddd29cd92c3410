"""Tool calls and structured output while the model still writes them, told in pieces that are worth an event."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic_ai.messages import ToolCallPart, ToolCallPartDelta

from agent_service.agents.context import pieces
from runwire.agent.v1 import run_event_pb2
from runwire.values import carry_text

_PIECE_LENGTH: Final = 256
_PIECE_SECONDS: Final = 0.1


@dataclass(slots=True)
class _Draft:
    """A call that the model is writing."""

    call_id: str
    name: str
    waiting: list[str] = field(default_factory=list)
    length: int = 0
    since: float = field(default_factory=time.monotonic)
    told: bool = False


class Growth:
    """Of the present request to the model. What is small or quick is not told here: it comes whole, and at once."""

    def __init__(self, tell: Callable[[Any], Awaitable[None]]) -> None:
        self._tell = tell
        self._drafts: dict[int, _Draft] = {}
        self.output_tools: frozenset[str] = frozenset()
        """Tools by which the model gives its output, and which nobody executes."""

    def clear(self) -> None:
        """A request begins."""
        self._drafts.clear()

    async def begin(self, index: int, part: ToolCallPart) -> None:
        """The part of this number is a call."""
        self._drafts[index] = draft = _Draft(part.tool_call_id, part.tool_name)
        if isinstance(part.args, str):
            await self._add(draft, part.args)

    async def grow(self, index: int, delta: ToolCallPartDelta) -> None:
        """There is more of it."""
        draft = self._drafts.get(index)
        if draft is None:
            return
        draft.name += delta.tool_name_delta or ""
        if isinstance(delta.args_delta, str):
            await self._add(draft, delta.args_delta)

    async def end(self, index: int) -> None:
        """It is whole. What of it was not told is told, if anything was: so that the pieces are all of it."""
        draft = self._drafts.pop(index, None)
        if draft is not None and draft.told:
            await self._flush(draft)

    async def _add(self, draft: _Draft, text: str) -> None:
        draft.waiting.append(text)
        draft.length += len(text)
        if draft.length >= _PIECE_LENGTH or (draft.length and time.monotonic() - draft.since >= _PIECE_SECONDS):
            await self._flush(draft)

    async def _flush(self, draft: _Draft) -> None:
        text = "".join(draft.waiting)
        draft.waiting.clear()
        draft.length, draft.since, draft.told = 0, time.monotonic(), True
        call_id = carry_text(draft.call_id)
        for piece in pieces(text):
            if draft.name in self.output_tools:
                await self._tell(run_event_pb2.OutputDelta(text=piece, output_id=call_id))
            else:
                name = carry_text(draft.name)
                await self._tell(run_event_pb2.ToolCallDelta(tool_call_id=call_id, tool_name=name, arguments=piece))
