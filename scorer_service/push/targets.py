"""Where scorer runs are pushed to: a file that the operator writes, and nothing that a caller says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from runwire.errors import ConfigurationError
from runwire.scorer_requests import DEFAULT_TENANT

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Target(BaseModel):
    """A scorer that an executor carries out: a line of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scorer_id: str = Field(min_length=1, max_length=128)
    version: str = Field(min_length=1, max_length=128)
    tenant: str = DEFAULT_TENANT
    executor: Literal["webhook", "inngest"]
    url: str
    """Where events are posted. It may hold a key, and is never told."""
    secret: str = ""
    """Signs the events of a webhook (HMAC-SHA256)."""
    description: str = ""
    direction: Literal["higher", "lower"] = "higher"
    lease_seconds: float = Field(default=3600.0, ge=1, le=86_400)
    """How long the executor may be silent: then the scorer run is due again, with a new claim."""
    timeout_seconds: float | None = Field(default=None, ge=1, le=30 * 86_400)
    """Longest time of an attempt. None: as long as the lease."""
    retries: int | None = Field(default=None, ge=0, le=100)
    concurrency: int = Field(default=100, ge=1, le=10_000)
    """How many are in its hands at once."""
    max_silences: int = Field(default=20, ge=1, le=1000)
    """After how many claims in a row of which nothing was heard it is FAILED, executor_silent."""
    allow_private: bool = False
    """Whether the target may be in this network: loopback, private and link-local addresses."""

    @field_validator("url")
    @classmethod
    def _is_http(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
            if good and not parts.username and not parts.fragment:
                return url
        except ValueError:
            pass  # it says parts of the URL
        raise ValueError("must be http:// or https://, with a host and without a user")

    @property
    def name(self) -> str:
        """What is told of it."""
        return f"{self.executor} target of scorer {self.scorer_id!r}"


def load(path: str) -> list[Target]:
    """The targets of a file of JSON lines. Raises ConfigurationError, without what stands in it."""
    if not path:
        raise ConfigurationError("role dispatch needs RUNWIRE_SCORER_PUSH_TARGETS: a file of JSON lines, a target each")
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the targets file {path!r} cannot be read: {type(error).__name__}") from None
    found = [_target(line, f"{path}:{number}") for number, line in enumerate(lines, 1) if line.strip()]
    keys = [(one.tenant, one.scorer_id, one.version) for one in found]
    if len(set(keys)) < len(keys):
        raise ConfigurationError(f"{path}: two targets have the same tenant, scorer_id and version")
    if not found:
        raise ConfigurationError(f"{path}: there is no target")
    return found


def _target(line: str, place: str) -> Target:
    try:
        given: Any = json.loads(line)
        return Target.model_validate(given)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise ConfigurationError(f"{place}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (ValueError, RecursionError):
        raise ConfigurationError(f"{place}: no JSON") from None
