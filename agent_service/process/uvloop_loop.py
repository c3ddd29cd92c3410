"""uvloop's event loop, where it is installed: whose a callback is that breaks out of it can be told here too.

asyncio's loop runs each callback from a Handle that is seen in the traceback, with its context. uvloop's is not to be
seen, so callbacks in the context of a run are wrapped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
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


def loop_class(is_owned: Callable[[Context | None], bool]) -> type[asyncio.AbstractEventLoop]:
    """The class of such loops. `is_owned` says whether callbacks of a context (None: the present one) are a run's."""

    def owned(callback: Callable[..., Any], context: Context | None) -> Callable[..., Any]:
        return OwnedCallback(callback, context or copy_context()) if is_owned(context) else callback

    base: Any = uvloop.Loop

    class Loop(base):  # type: ignore[misc]  # its methods are typed more loosely than asyncio says
        def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
            return super().call_soon(owned(callback, context), *args, context=context)

        def call_soon_threadsafe(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
            return super().call_soon_threadsafe(owned(callback, context), *args, context=context)

        def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
            return super().call_later(delay, owned(callback, context), *args, context=context)

        def add_reader(self, fileno: Any, callback: Any, *args: Any) -> Any:
            return super().add_reader(fileno, owned(callback, None), *args)

        def add_writer(self, fileno: Any, callback: Any, *args: Any) -> Any:
            return super().add_writer(fileno, owned(callback, None), *args)

    return Loop
