"""What agents share in a process, such as pools of connections: opened before the first run is claimed, and closed
after the last one has ended or was handed back, on the loop that executes them."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
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
    where = f"agent {agent_id!r}: its lifespan {_name(lifespan)}"
    try:
        manager = lifespan()
        if not isinstance(manager, AbstractAsyncContextManager):
            raise TypeError(f"it returned {type(manager).__name__}, which is no asynchronous context manager")
        resource = await _enter(manager, stopping)
    except StoppedEarly:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigurationError(redact(f"{where} cannot be opened: {type(error).__name__}: {error}")) from error
    try:
        yield resource
    finally:
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await manager.__aexit__(None, None, None)
        except (Exception, SystemExit) as error:
            logger.error(redact(f"{where} was not closed: {type(error).__name__}: {error}"))


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
