"""The settings of the gateway: one frozen object, read once, from arguments and from the environment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from runwire import settings
from runwire.settings import Names

Seconds = Annotated[float, Field(gt=0, le=86400)]
MAX_BODY_BYTES: Final = 4 * 1024 * 1024
"""A longer request is refused: the services take no longer one either."""


class Settings(BaseSettings):
    """Each setting is an environment variable too: `max_streams` is RUNWIRE_GATEWAY_MAX_STREAMS."""

    model_config = SettingsConfigDict(env_prefix="RUNWIRE_GATEWAY_", frozen=True, extra="ignore")

    listen: str = "127.0.0.1:8080"
    """HOST:PORT; port 0 picks a free one."""
    agent_address: str = "127.0.0.1:50051"
    """Where the agent service is: HOST:PORT, or any target that gRPC knows."""
    scorer_address: str = "127.0.0.1:50052"
    """Where the scorer service is."""
    tls: bool = False
    """Whether the services are reached over TLS."""
    ca: Path | None = None
    """Whom to trust then, in PEM; turns it on. Unset: whom gRPC trusts by itself."""
    cert: Path | None = None
    """The gateway's certificate, for services that ask for one."""
    key: Path | None = None
    """The key of that certificate."""
    allowed_origins: Names = ()
    """Origins of pages elsewhere that may call this gateway (CORS), comma-separated; `*`: any. Empty: none."""
    secure_cookies: bool = False
    """Cookies of the pages are sent over HTTPS only. Set it wherever HTTPS is in front."""
    pages: bool = True
    """Whether the pages are served beside the interfaces."""
    max_streams: int = Field(10_000, ge=1)
    """Most event streams at once in this process; further ones get 429."""
    heartbeat_seconds: Seconds = 15.0
    """A stream in which nothing happens gets a comment so often, or proxies would cut it."""
    call_timeout_seconds: Seconds = 15.0
    """Time that the services have to answer one call, repetitions included."""
    give_up_seconds: Seconds = 120.0
    """A stream is ended when its service could not be reached for this long; browsers open it again by themselves."""
    shutdown_grace_seconds: Seconds = 10.0
    """Time that requests have to finish after SIGTERM. Streams end at once, and continue elsewhere."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "json", "text"] = "auto"
    """`text` is for people; `auto` is that on a terminal, and JSON elsewhere."""

    @field_validator("listen")
    @classmethod
    def _has_port(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"{value!r} is no address; write HOST:PORT, such as 127.0.0.1:8080")
        return value


def load(**given: Any) -> Settings:
    """Settings from what was given, else from the environment, else as above. Raises ConfigurationError, one line for
    all that is wrong."""
    return settings.load(Settings, given)
