"""Settings of a process, from arguments and from the environment: how they are read is the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import BeforeValidator, ValidationError
from pydantic_settings import BaseSettings, NoDecode

from runwire.errors import ConfigurationError

S = TypeVar("S", bound=BaseSettings)


def _split(value: Any) -> Any:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Names: TypeAlias = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Several names in one variable, separated by commas."""


def load(kind: type[S], given: Mapping[str, Any]) -> S:
    """Settings from what was given, else from the environment, else as `kind` has them; None is not given. Raises
    ConfigurationError, one line for all that is wrong."""
    try:
        return kind(**{name: value for name, value in given.items() if value is not None})
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_url=False)]
        raise ConfigurationError("wrong settings: " + "; ".join(problems)) from None
