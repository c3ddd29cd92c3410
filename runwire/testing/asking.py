"""What a test asks of a run or a turn that it has seen."""

from __future__ import annotations

from runwire.fold import RunView, Turn
from runwire.values import Json


def called(view: RunView | Turn) -> list[tuple[str, Json]]:
    """The tool calls of a run or of a turn, in order: name and arguments of each."""
    return [(call.tool_name, call.arguments) for call in view.tool_calls]
