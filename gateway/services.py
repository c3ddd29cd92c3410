"""Both services as the gateway sees them: one client of each for the process, and the caller's token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, Self

from google.protobuf.message import Message

from gateway.config import Settings
from runwire.client import AgentClient, ResumePolicy, ScorerClient
from runwire.client.access import Access

_TOKEN: ContextVar[str] = ContextVar("token", default="")
_QUICK_SECONDS: Final = 5.0
"""A person waits for an answer; the browser tries again sooner than a patient client would."""


@contextmanager
def on_behalf_of(token: str) -> Iterator[None]:
    """Inside, and in tasks that are made inside, every call carries `token`; none, if it is empty."""
    reset = _TOKEN.set(token)
    try:
        yield
    finally:
        _TOKEN.reset(reset)


def current_token() -> str:
    """The token that calls carry here; empty without one."""
    return _TOKEN.get()


def _metadata() -> list[tuple[str, str | bytes]]:
    token = _TOKEN.get()
    return [("authorization", f"Bearer {token}")] if token else []


class Services:
    """The clients. Nothing is connected before the first call."""

    def __init__(self, settings: Settings) -> None:
        policy = ResumePolicy(max_delay_seconds=2.0, give_up_seconds=settings.give_up_seconds)
        timeout = settings.call_timeout_seconds
        credentials = Access(settings.tls, settings.ca, settings.cert, settings.key).credentials()
        self.agents = AgentClient(
            settings.agent_address, credentials=credentials, metadata=_metadata, resume=policy, timeout=timeout
        )
        self.scorers = ScorerClient(
            settings.scorer_address, credentials=credentials, metadata=_metadata, resume=policy, timeout=timeout
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.agents.close()
        await self.scorers.close()

    async def call(self, service: str, method: str, request: Message, *, repeat: bool) -> Any:
        """Calls a unary RPC of `AgentService` or `ScorerService`. Raises the errors of `runwire.errors`."""
        client = self.agents if service == "AgentService" else self.scorers
        return await client.call(method, request, repeat=repeat)
