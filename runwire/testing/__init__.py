"""Tests of your agents: both services in this process, on a store in memory, with a model that follows a script.

    from runwire.testing import call, scripted, serve

    async def test_my_agent():
        with scripted(agent, call("look_up", city="Rome"), "It is sunny."):
            async with serve([durable_agent(agent)]) as services:
                view = await services.run("assistant", "How is the weather?")
        assert view.output == "It is sunny."
        assert called(view) == [("look_up", {"city": "Rome"})]

docs/agents.md has a chapter on it. Nothing here is for production.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from runwire.testing.asking import called
from runwire.testing.services import Services, serve

if TYPE_CHECKING:
    from runwire.testing.script import call, scripted

__all__ = ["Services", "call", "called", "scripted", "serve"]


def __getattr__(name: str) -> Any:
    # On first use: workflows are tested without pydantic-ai.
    if name in ("call", "scripted"):
        from runwire.testing import script

        return getattr(script, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
