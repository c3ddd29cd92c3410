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

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from runwire.testing.asking import called

if TYPE_CHECKING:
    from runwire.testing.script import call, scripted
    from runwire.testing.services import Services, serve

__all__ = ["Services", "call", "called", "scripted", "serve"]

# On first use: pytest loads the plugin wherever runwire is installed, also where only the client is, and workflows are
# tested without pydantic-ai.
_LATER: Final = {"Services": "services", "serve": "services", "call": "script", "scripted": "script"}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"runwire.testing.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
