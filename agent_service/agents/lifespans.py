"""What agents share in a process, such as pools of connections: opened before the first run is claimed, and closed
after the last one has ended or was handed back, on the loop that executes them."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager, suppress
from contextvars import Context, copy_context
from typing import Any, Final

from runwire.errors import ConfigurationError
from runwire.redaction import redact

Lifespan = Callable[[], AbstractAsyncContextManager[Any]]

_OPEN_SECONDS: Final = 60.0
_CLOSE_SECONDS: Final = 5.0

logger = logging.getLogger("agent_service.agents")


class StoppedEarly(Exception):
    """The process is to end while a lifespan is still being opened."""


def check(agent_id: str, lifespan: Any) -> None:
    """Raises ConfigurationError for what is no lifespan, as far as that can be told without opening it."""
    if inspect.isasyncgenfunction(lifespan) or inspect.iscoroutinefunction(lifespan):
        raise ConfigurationError(f"agent {agent_id!r}: lifespan {_name(lifespan)} lacks its @asynccontextmanager")
    if not callable(lifespan):
        raise ConfigurationError(
            f"agent {agent_id!r}: lifespan is {type(lifespan).__name__!r}; it must be a function with "
            "@asynccontextmanager, and not be called"
        )


@asynccontextmanager
async def opened(
    agents: Mapping[Lifespan, str], stopping: asyncio.Event | None = None
) -> AsyncIterator[Mapping[Lifespan, Any]]:
    """What each lifespan has opened, until the block is left. `agents` names an agent for each, `stopping` breaks it
    off.

    Raises ConfigurationError, in a line, if one does not open, after those before it were closed; StoppedEarly. One
    that does not close is told in the log, and keeps no other from it.
    """
    found: dict[Lifespan, Any] = {}
    async with AsyncExitStack() as stack:
        for lifespan, agent_id in agents.items():
            found[lifespan] = await stack.enter_async_context(_opened(lifespan, agent_id, stopping))
        yield found


@asynccontextmanager
async def _opened(lifespan: Lifespan, agent_id: str, stopping: asyncio.Event | None) -> AsyncIterator[Any]:
    """It is opened and closed in a task of its own. What it has started there, such as the reader of a connection, may
    fail, and then cancels the task that opened it: that must not be the service's."""
    opening: asyncio.Future[tuple[Any, Context]] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()
    problem: BaseException | None = None
    async with asyncio.TaskGroup() as group:
        keeping = group.create_task(
            _keep(lifespan, agent_id, stopping, opening, over), name=f"lifespan {_name(lifespan)}"
        )
        try:
            resource, context = await opening
            with _taken_over(context):
                yield resource
        except BaseException as error:
            problem = error  # raised below: it is to come out as it is, and not in a group
        over.set()
        if opening.cancelled():
            keeping.cancel()  # nobody waits any more for what is still being opened
    if problem is not None:
        raise problem


async def _keep(
    lifespan: Lifespan,
    agent_id: str,
    stopping: asyncio.Event | None,
    opening: asyncio.Future[tuple[Any, Context]],
    over: asyncio.Event,
) -> None:
    where = f"agent {agent_id!r}: its lifespan {_name(lifespan)}"
    try:
        manager = lifespan()
        if not isinstance(manager, AbstractAsyncContextManager):
            raise TypeError(f"it returned {type(manager).__name__}, which is no asynchronous context manager")
        resource = await _enter(manager, stopping)
    except StoppedEarly as error:
        if not opening.done():
            opening.set_exception(error)
        return
    except (Exception, SystemExit) as error:
        problem = ConfigurationError(redact(f"{where} cannot be opened: {type(error).__name__}: {error}"))
        problem.__cause__ = error
        if not opening.done():
            opening.set_exception(problem)
        return
    if not opening.done():
        opening.set_result((resource, copy_context()))
    failed: BaseException | None = None
    try:
        await over.wait()
    except asyncio.CancelledError as error:
        failed = error
    try:
        async with asyncio.timeout(_CLOSE_SECONDS):
            await manager.__aexit__(type(failed) if failed else None, failed, None)
    except (Exception, SystemExit) as error:
        ended = "ended by itself" if failed is not None and not over.is_set() else "was not closed"
        logger.error(redact(f"{where} {ended}: {type(error).__name__}: {error}"))
    else:
        if failed is not None:
            raise failed


@contextmanager
def _taken_over(context: Context) -> Iterator[None]:
    """What a lifespan has set for those inside, such as another model of an agent, holds in the block."""
    now = copy_context()
    tokens = [(name, name.set(value)) for name, value in context.items() if name not in now or now[name] is not value]
    try:
        yield
    finally:
        for name, token in tokens:
            with suppress(ValueError):  # it was entered in another context: a fixture's
                name.reset(token)


async def _enter(manager: AbstractAsyncContextManager[Any], stopping: asyncio.Event | None) -> Any:
    """Opens it, in this task, which closes it too. Raises what it raises, TimeoutError, StoppedEarly."""
    patience = asyncio.timeout(_OPEN_SECONDS)
    problem: BaseException | None = None
    resource: Any = None
    async with asyncio.TaskGroup() as group:
        hurrying = group.create_task(_hurry(patience, stopping)) if stopping is not None else None
        try:
            async with patience:
                resource = await manager.__aenter__()
        except (Exception, SystemExit) as error:
            problem = error  # raised below: it is to come out as it is, and not in a group
        if hurrying is not None:
            hurrying.cancel()
    if problem is None:
        return resource
    if isinstance(problem, TimeoutError) and patience.expired():
        if stopping is not None and stopping.is_set():
            raise StoppedEarly from None
        raise TimeoutError(f"not within {_OPEN_SECONDS:g} s") from problem
    raise problem


async def _hurry(patience: asyncio.Timeout, stopping: asyncio.Event) -> None:
    await stopping.wait()
    patience.reschedule(asyncio.get_running_loop().time())


def _name(lifespan: Any) -> str:
    return getattr(lifespan, "__qualname__", None) or type(lifespan).__name__
