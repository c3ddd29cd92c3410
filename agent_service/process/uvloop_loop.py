"""uvloop's event loop, where it is installed: whose a callback is that breaks out of it can be told here too.

asyncio's loop runs each callback from a Handle that is seen in the traceback, with its context. uvloop's is not to be
seen, so callbacks in the context of a run are wrapped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any

import uvloop


class OwnedCallback:
    """A callback, and the context that says whose it is."""

    __slots__ = ("_callback", "context")

    def __init__(self, callback: Callable[..., object], context: Context) -> None:
        self._callback = callback
        self.context = context

    def __call__(self, *args: Any) -> object:
        return self._callback(*args)

    def __repr__(self) -> str:
        return repr(self._callback)


def loop_class(owner: ContextVar[Any]) -> type[asyncio.AbstractEventLoop]:
    """The class of such loops. `owner` is set in the contexts of runs."""
    base: Any = uvloop.Loop
    call_soon_as_is: Any = base.call_soon

    def owned(callback: Callable[..., Any], context: Context | None) -> Callable[..., Any]:
        whose = owner.get() if context is None else context.get(owner)
        return callback if whose is None else OwnedCallback(callback, context or copy_context())

    class Loop(base):  # type: ignore[misc]  # its methods are typed more loosely than asyncio says
        def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
            # As `owned` has it, but a dozen times for each live event.
            if (owner.get() if context is None else context.get(owner)) is not None:
                callback = OwnedCallback(callback, context or copy_context())
            return call_soon_as_is(self, callback, *args, context=context)

        def call_soon_threadsafe(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
            return super().call_soon_threadsafe(owned(callback, context), *args, context=context)

        def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
            return super().call_later(delay, owned(callback, context), *args, context=context)

        def add_reader(self, fileno: Any, callback: Any, *args: Any) -> Any:
            return super().add_reader(fileno, owned(callback, None), *args)

        def add_writer(self, fileno: Any, callback: Any, *args: Any) -> Any:
            return super().add_writer(fileno, owned(callback, None), *args)

    return Loop
