"""The run, and the tool call in it, that the calling code belongs to: for tools, which are given no RunContext."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from agent_service.agents.context import RunContext

_run: Final[ContextVar[RunContext | None]] = ContextVar("runwire_run", default=None)
_call: Final[ContextVar[str]] = ContextVar("runwire_call", default="")


def current_run() -> RunContext:
    """The run that the calling tool works for. Raises LookupError outside of a run."""
    run = _run.get()
    if run is None:
        raise LookupError("there is no current run: current_run() is for tools of a durable agent")
    return run


def current_idempotency_key() -> str:
    """A key for the tool call under way, the same in every attempt and for no other call: give it to whatever the
    tool calls, so that a call that is repeated after a crash takes effect once. Raises LookupError outside of a
    tool call."""
    call = _call.get()
    if not call:
        raise LookupError("there is no current tool call: current_idempotency_key() is for tools of a durable agent")
    return current_run().idempotency_key(call)


@contextmanager
def within_run(run: RunContext) -> Iterator[None]:
    """Makes `run` the current one. For adapters."""
    token = _run.set(run)
    try:
        yield
    finally:
        _run.reset(token)


@contextmanager
def within_call(call: str) -> Iterator[None]:
    """Makes `call`, which must be unique in the run, the current tool call. For adapters."""
    token = _call.set(call)
    try:
        yield
    finally:
        _call.reset(token)
