"""What pydantic-ai's telemetry is told of work that is remembered and not done again; nothing before its 2.68."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from pydantic_ai import durable_exec

_scope: Any = getattr(durable_exec, "replay_scope", None)
_record: Any = getattr(durable_exec, "record_durable_unit", None)


def replay_scope() -> AbstractContextManager[None]:
    """Around one attempt at an agent."""
    scope: AbstractContextManager[None] = nullcontext() if _scope is None else _scope()
    return scope


def record_durable_unit(*, executed: bool) -> None:
    """A unit was done, or remembered."""
    if _record is not None:
        _record(executed=executed)
