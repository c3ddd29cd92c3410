"""How often gRPC wakes the event loop.

Its own thread puts what is done (a message that has left, a call that came) into a queue, and one byte into a socket.
The loop takes one byte, and all that is in the queue: so a turn that finds 100 things done leaves 99 bytes behind,
and each costs one more turn, a wait and a read that find nothing. With 200 readers of a run that is a turn for each
message, and 4 to 11 % of its processor time.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

_QUEUE: Final = "PollerCompletionQueue"
_ROOM: Final = bytes(4)


class AllAtOnce:
    """gRPC's reader of its socket, for which all bytes but one are taken first.

    None is missed: what a byte stands for is in the queue before the byte is in the socket, and one is always left."""

    __slots__ = ("_handle", "_number")

    def __init__(self, number: int, handle: Callable[[], object]) -> None:
        self._number = number
        self._handle = handle

    def __call__(self) -> None:
        waiting = int.from_bytes(fcntl.ioctl(self._number, termios.FIONREAD, _ROOM), sys.byteorder)
        if waiting > 1:
            os.read(self._number, waiting - 1)
        self._handle()


@contextmanager
def bundled(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """What gRPC asks this loop to watch while the block runs is read as AllAtOnce. Other readers, other releases of
    gRPC and loops that cannot be told are left as they are."""
    add: Any = loop.add_reader

    def add_reader(what: Any, callback: Any, *args: Any) -> Any:
        if _is_of_queue(callback) and isinstance(what, socket.socket) and not args:
            callback = AllAtOnce(what.fileno(), callback)
        return add(what, callback, *args)

    try:
        loop.add_reader = add_reader  # type: ignore[assignment]
    except AttributeError:  # uvloop's own has no room for it, ours has
        yield
        return
    try:
        yield
    finally:
        del loop.add_reader


def _is_of_queue(callback: Any) -> bool:
    """A bound method of the queue, or the same with its loop given."""
    method = getattr(callback, "func", callback)
    return type(getattr(method, "__self__", None)).__name__ == _QUEUE
