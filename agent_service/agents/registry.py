"""The agents that this process serves, found in the modules it was told to load."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

from agent_service.agents import lifespans
from agent_service.agents.definition import Definition
from agent_service.agents.lifespans import Lifespan
from runwire.errors import AgentNotFound, ConfigurationError
from runwire.redaction import redact


class Registry:
    """Definitions by agent id."""

    def __init__(self, definitions: Iterable[Definition]) -> None:
        self._definitions: dict[str, Definition] = {}
        for definition in definitions:
            if self._definitions.setdefault(definition.agent_id, definition) is not definition:
                raise ConfigurationError(f"two agents are called {definition.agent_id!r}: give one another id")
        self._resources: Mapping[Lifespan, Any] = {}

    @asynccontextmanager
    async def opened(self, stopping: asyncio.Event | None = None) -> AsyncIterator[None]:
        """What the lifespans of the agents open is there until the block is left; one that several have, once. Raises
        as `lifespans.opened`."""
        wanted: dict[Lifespan, str] = {}
        for definition in self:
            if definition.lifespan is not None:
                wanted.setdefault(definition.lifespan, definition.agent_id)
        async with lifespans.opened(wanted, stopping) as self._resources:
            yield

    def resources_of(self, definition: Definition | None) -> Any:
        """What the lifespan of an agent has opened; None without one."""
        if definition is None or definition.lifespan is None:
            return None
        return self._resources.get(definition.lifespan)

    def get(self, agent_id: str) -> Definition:
        """Raises AgentNotFound, naming what there is."""
        try:
            return self._definitions[agent_id]
        except KeyError:
            known = ", ".join(sorted(self._definitions))
            raise AgentNotFound(f"no agent {agent_id!r}; there are: {known}", agent_id=agent_id) from None

    def __contains__(self, agent_id: str) -> bool:
        return agent_id in self._definitions

    def __iter__(self) -> Iterator[Definition]:
        """In order of agent id."""
        return iter(sorted(self._definitions.values(), key=lambda definition: definition.agent_id))


def load(names: Iterable[str]) -> Registry:
    """Imports `package.module` (every agent found in it) or `package.module:attribute` (an agent, or a list of them).

    Raises ConfigurationError, in one line, for a module that does not import or holds no agent.
    """
    if os.getcwd() not in sys.path:
        # `python -m` has it there; the installed command has not.
        sys.path.insert(0, os.getcwd())
    unique: dict[int, Definition] = {}
    for name in names:
        for definition in _load_one(name):
            unique[id(definition)] = definition
    if not unique:
        raise ConfigurationError("no agents to serve: name a module with --agents my_package.my_module")
    return Registry(unique.values())


def _load_one(name: str) -> list[Definition]:
    module_name, _, attribute = name.partition(":")
    module = _import(module_name)
    if not attribute:
        found = _definitions(vars(module).values())
    else:
        if not hasattr(module, attribute):
            raise ConfigurationError(f"module {module_name!r} has no attribute {attribute!r}")
        value: Any = getattr(module, attribute)
        values = value.values() if isinstance(value, Mapping) else value
        found = _definitions(values if isinstance(values, Iterable) else [values])
    if not found:
        raise ConfigurationError(f"{name!r} holds no agent: make one with @workflow or durable_agent(...)")
    for definition in found:
        _check(definition)
    return found


def _check(definition: Definition) -> None:
    """Raises ConfigurationError for what would fail only in the first call: types without a schema, wrong scorers."""
    try:
        assert definition.proto
    except ConfigurationError as error:
        raise ConfigurationError(f"agent {definition.agent_id!r}: {error}") from None
    except Exception as error:
        raise ConfigurationError(
            redact(f"agent {definition.agent_id!r} cannot be described: {type(error).__name__}: {error}")
        ) from error


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ConfigurationError:
        raise
    except (Exception, SystemExit) as error:
        # Whatever the author's module does wrong is the author's to see, and no traceback of ours.
        raise ConfigurationError(redact(f"cannot import {name!r}: {type(error).__name__}: {error}")) from error


def _definitions(values: Iterable[Any]) -> list[Definition]:
    return [value for value in values if isinstance(value, Definition)]
