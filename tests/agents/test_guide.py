"""docs/agents.md."""

import asyncio
import re
from pathlib import Path

import pytest

from agent_service.agents.definition import Definition

GUIDE = Path(__file__).parents[2] / "docs" / "agents.md"


def test_the_examples_of_the_guide_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block of Python in the guide runs, in order, and defines what it says."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    names: dict[str, object] = {"__name__": "guide"}
    for block in re.findall(r"```python\n(.*?)```", GUIDE.read_text("utf-8"), re.DOTALL):
        exec(compile(block, str(GUIDE), "exec"), names)
    asyncio.run(names["test_refund"]())  # type: ignore[operator]
    defined = {name: value.agent_id for name, value in names.items() if isinstance(value, Definition)}
    assert defined == {
        "assistant": "assistant",
        "careful": "assistant",
        "pooled": "assistant",
        "persistent": "assistant",
        "choosing": "assistant",
        "thrifty": "assistant",
        "guessing_game": "guessing-game",
        "clerk_service": "clerk",
        "order": "order",
    }
