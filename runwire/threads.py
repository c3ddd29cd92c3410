"""Work that would hold up the event loop, in threads of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

LARGE_BYTES: Final = 64 * 1024
"""From here on data is parsed, checked and converted in a thread: 1 MiB of numbers takes a third of a second."""
_THREADS: Final = 2
"""More would only share the interpreter among more; those that wait hold nothing but their bytes."""

Result = TypeVar("Result")

_pool: Final = ThreadPoolExecutor(_THREADS, thread_name_prefix="runwire-convert")


async def off_loop(size_bytes: int, function: Callable[..., Result], *args: Any) -> Result:
    """`function(*args)`, which works on so many bytes: in a thread if they are many. Raises what it raises."""
    if size_bytes < LARGE_BYTES:
        return function(*args)
    return await asyncio.get_running_loop().run_in_executor(_pool, function, *args)
