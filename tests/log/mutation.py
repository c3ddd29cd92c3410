"""A fault put into a module on purpose, to see whether a test finds it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import pytest


def mutate(patch: pytest.MonkeyPatch, module: ModuleType, before: str, after: str) -> None:
    """Replaces a piece of the module's source, which must be there once, until `patch` is undone.

    The functions stay the objects they are and get the code of the changed source: so whoever imported them, or an
    object of their class, has the fault too.
    """
    source = inspect.getsource(module)
    assert source.count(before) == 1, f"{before!r} is {source.count(before)} times in {module.__name__}"
    changed: dict[str, Any] = {"__name__": module.__name__}
    exec(compile(source.replace(before, after), f"mutated {module.__name__}", "exec"), changed)
    originals = dict(_functions(vars(module), module.__name__))
    count = 0
    for name, function in _functions(changed, module.__name__):
        original = originals[name]
        if _said(function) != _said(original):
            patch.setattr(original, "__code__", function.__code__)
            count += 1
    assert count, f"{after!r} instead of {before!r} changes nothing"


def _said(function: FunctionType) -> object:
    """What a function does; not where it stands."""
    return function.__code__.co_code, function.__code__.co_names, _consts(function)


def _consts(function: FunctionType) -> list[object]:
    return [const for const in function.__code__.co_consts if not hasattr(const, "co_code")]


def _functions(namespace: Any, module: str, prefix: str = "") -> Iterator[tuple[str, FunctionType]]:
    """All functions and methods that are defined in the module."""
    for name, found in list(namespace.items()):
        found = getattr(found, "fget", found)
        found = inspect.unwrap(found) if callable(found) else found
        if isinstance(found, FunctionType) and found.__module__ == module:
            yield prefix + name, found
        elif isinstance(found, type) and found.__module__ == module:
            yield from _functions(vars(found), module, f"{prefix}{name}.")
