"""Values: what is compared by its contents and never changed after it was made.

Like `@dataclass(frozen=True, slots=True)`, but that nobody changes one is held by mypy alone: a frozen dataclass sets
each field by a call of its own, which takes five times as long, and several of these are made for every live event.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def value(cls: type[T]) -> type[T]:
    """Makes a class with annotated fields a value."""
    return dataclass(slots=True, unsafe_hash=True)(cls)
