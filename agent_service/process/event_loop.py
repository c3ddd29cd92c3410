"""The event loop of the process, which nothing that an agent does can end.

asyncio lets SystemExit and KeyboardInterrupt out of the loop, whichever task or callback raised them, and any code can
stop the loop or cancel every task that it sees. Rule: **what a run does to the loop happens to that run.** The loop is
entered again; what raised is found by the context that its code ran in, and is told; a task of the service is not
cancelled by the code of a run.

Beyond any guard: `os._exit`, a signal to the own process, memory, native code that keeps the interpreter's lock. They
end the process, and what was executed there continues elsewhere (see `suspects`).
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, ContextVar, copy_context
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar

try:
    from agent_service.process import uvloop_loop
except ImportError:  # it is not installed
    uvloop_loop = None  # type: ignore[assignment]

_CLOSE_SECONDS: Final = 2.0
"""For what is left when the service has ended."""

logger = logging.getLogger("agent_service.process.event_loop")

Result = TypeVar("Result")


class Owner(Protocol):
    """Whose code it is that runs."""

    def broke_out(self, error: BaseException) -> None:
        """Told, on the loop and between two of its turns, that code of its own raised this out of the loop."""
        ...


_owner: ContextVar[Owner | None] = ContextVar("runwire_owner", default=None)


def context_of(owner: Owner) -> Context:
    """A context whose tasks, callbacks and threads are the owner's."""
    context = copy_context()
    context.run(_owner.set, owner)
    return context


def owned_tasks() -> int:
    """How many tasks of runs there are on this loop."""
    return sum(isinstance(task, _Task) and task.owner is not None for task in asyncio.all_tasks())


def run(main: Coroutine[Any, Any, Result], *, threads: int = 32) -> Result:
    """Runs `main` on a new loop, as asyncio.run does, whatever else on the loop does to it. Returns or raises what
    `main` does. `threads` is the most threads of asyncio.to_thread; those that do not end are left behind."""
    loop = _new_loop()
    asyncio.set_event_loop(loop)
    loop.set_task_factory(_make_task)
    loop.set_default_executor(ThreadPoolExecutor(threads, "agent-thread"))
    try:
        task = loop.create_task(main, name="service")
        interrupted = _run_until_done(loop, task)
        _run_until_done(loop, loop.create_task(_close(task), name="close"))
        if interrupted and task.cancelled():
            raise KeyboardInterrupt
        return task.result()
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed: live events take a fifth to a third less. RUNWIRE_EVENT_LOOP=asyncio: not."""
    if uvloop_loop is None or os.environ.get("RUNWIRE_EVENT_LOOP") == "asyncio":
        return asyncio.new_event_loop()
    return uvloop_loop.loop_class(_owner)()


def _run_until_done(loop: asyncio.AbstractEventLoop, task: asyncio.Task[Any]) -> bool:
    """Returns whether Ctrl-C cancelled it."""
    interrupted = False
    task.add_done_callback(lambda _: loop.stop())
    while not task.done():
        try:
            loop.run_forever()
            if not task.done():
                logger.error("something stopped the event loop; it continues")
        except (SystemExit, KeyboardInterrupt) as error:
            if task.done():
                break  # it is the task's own
            if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
                interrupted = True  # Ctrl-C, before the service has a handler
                task.cancel()
                continue
            _tell(error)
    return interrupted


def _tell(error: BaseException) -> None:
    owner = _owner_of(error.__traceback__)
    if owner is None:
        logger.error(
            "%s came out of the event loop, and is nobody's; it continues", type(error).__name__, exc_info=error
        )
        return
    owner.broke_out(error)


def _owner_of(traceback: TracebackType | None) -> Owner | None:
    """Every step of a task and every callback is run by a Handle, in the context that it was made in."""
    while traceback is not None:
        code, found = traceback.tb_frame.f_code, traceback.tb_frame.f_locals
        if code is asyncio.Handle._run.__code__:
            context: Context = found["self"]._context
            return context.get(_owner)
        if uvloop_loop is not None and code is uvloop_loop.OwnedCallback.__call__.__code__:
            context = found["self"].context
            return context.get(_owner)
        traceback = traceback.tb_next
    return None


class _Task(asyncio.Task[Any]):
    """A task that the code of a run cannot cancel where it is the service's, or the body of another run.

    Other tasks of other runs it can: what a library keeps for all of its users began in the context of one of them.
    """

    owner: Owner | None = None
    body = False

    def cancel(self, msg: Any | None = None) -> bool:
        caller = _owner.get()
        if caller is not None and caller is not self.owner and (self.owner is None or self.body):
            logger.error("%s tried to cancel the task %r, which is not its own; it continues", caller, self.get_name())
            return False
        return super().cancel(msg)


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **given: Any) -> asyncio.Task[Any]:
    task = _Task(coroutine, loop=loop, **given)
    context: Context | None = given.get("context")
    task.owner = _owner.get() if context is None else context.get(_owner)
    task.body = _owner.get() is None
    return task


async def _close(main: asyncio.Task[Any]) -> None:
    """Cancels what `main` has left, and waits for it for a while."""
    loop, mine = asyncio.get_running_loop(), asyncio.current_task()
    left = [task for task in asyncio.all_tasks() if task is not mine and task is not main]
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=_CLOSE_SECONDS)
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await loop.shutdown_asyncgens()
    except TimeoutError:
        logger.warning("an asynchronous generator does not end; it is left behind")
