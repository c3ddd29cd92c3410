"""What a command works with: the addresses, the clients, the form of the output."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, Final, TypeVar

import click

from runwire import errors
from runwire.client import ResumePolicy
from runwire.client.sync import AgentClient, ScorerClient

AGENT_ADDRESS: Final = "127.0.0.1:50051"
SCORER_ADDRESS: Final = "127.0.0.1:50052"
TIMEOUT_SECONDS: Final = 5.0
_PATIENT: Final = ResumePolicy()
_QUICK: Final = ResumePolicy(give_up_seconds=0.5)
"""For somebody at a prompt: a service that was just restarted is met, one that is not there is told at once."""
_HOST_PORT = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(\d{1,5})")
_SCHEME = re.compile(r"(dns|unix|ipv4|ipv6|xds):\S+")

F = TypeVar("F", bound=Callable[..., Any])


class Interrupted(Exception):
    """Ctrl-C, with what to say about it."""


class Session:
    """Made once for a command line."""

    def __init__(self) -> None:
        self.agent_address = AGENT_ADDRESS
        self.scorer_address = SCORER_ADDRESS
        self.json = False

    @contextmanager
    def asking_agents(self, *, patiently: bool = False) -> Iterator[AgentClient]:
        """A client of the agent service; an error says which service could not be reached, and what to do.

        `patiently` is for following a run that exists: minutes without the service are borne.
        """
        with (
            _naming("agent service", self.agent_address, "--agent-address"),
            AgentClient(
                self.agent_address, timeout=TIMEOUT_SECONDS, resume=_PATIENT if patiently else _QUICK
            ) as client,
        ):
            yield client

    @contextmanager
    def asking_scorers(self, *, patiently: bool = False) -> Iterator[ScorerClient]:
        """As `asking_agents`, of the scorer service."""
        with (
            _naming("scorer service", self.scorer_address, "--scorer-address"),
            ScorerClient(
                self.scorer_address, timeout=TIMEOUT_SECONDS, resume=_PATIENT if patiently else _QUICK
            ) as client,
        ):
            yield client


@contextmanager
def _naming(service: str, address: str, option: str) -> Iterator[None]:
    try:
        yield
    except errors.Unavailable as error:
        reason = error.message.rpartition("Failed to connect to remote host: ")[2]
        if error.reason != errors.Unavailable.reason:
            raise errors.Unavailable(f"the {service} at {address} is not available: {reason}") from error
        raise errors.Unavailable(
            f"cannot reach the {service} at {address}: {reason}. "
            f"Start it with `runwire dev`, or name another with {option}"
        ) from error


class Address(click.ParamType):  # type: ignore[type-arg] # generic only in newer click
    """HOST:PORT, or a target with one of gRPC's schemes."""

    name = "HOST:PORT"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        match = _HOST_PORT.fullmatch(value)
        if (match and int(match[2]) <= 65535) or _SCHEME.fullmatch(value):
            return value
        self.fail(f"{value!r} is no address; write HOST:PORT, such as {AGENT_ADDRESS}", param, ctx)


def service_options(*, environment: bool = False) -> Callable[[F], F]:
    """The options of every command: taken before the command's name or after it, the latter wins."""

    def decorate(function: F) -> F:
        for name, attribute, variable, default in (
            ("--scorer-address", "scorer_address", "RUNWIRE_SCORER_ADDRESS", SCORER_ADDRESS),
            ("--agent-address", "agent_address", "RUNWIRE_AGENT_ADDRESS", AGENT_ADDRESS),
        ):
            function = click.option(
                name,
                type=Address(),
                envvar=variable if environment else None,
                expose_value=False,
                callback=_setter(attribute),
                help=f"Where the {name[2:].partition('-')[0]} service is. [{variable}, else {default}]",
            )(function)
        return click.option(
            "--json",
            is_flag=True,
            default=None,
            expose_value=False,
            callback=_setter("json"),
            help="One line of protobuf JSON an object, for machines.",
        )(function)

    return decorate


def _setter(attribute: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def set_it(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value is not None:
            setattr(ctx.ensure_object(Session), attribute, value)

    return set_it


pass_session = click.make_pass_decorator(Session, ensure=True)


def settle(stream: IO[str]) -> None:
    """Writes out what is buffered now, where a broken pipe can still be told apart."""
    stream.flush()


def on_terminal() -> bool:
    """Whether a person looks at the output."""
    return sys.stdout.isatty()
