"""What a command works with: the addresses, the clients, the form of the output."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, TypeVar

import click

from runwire import errors
from runwire.cli import contexts
from runwire.client import ResumePolicy
from runwire.client.access import Access
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
        self._context: Mapping[str, Any] | None = None
        self.given: dict[str, Any] = {}
        """Options and variables, by the names that a context has for them too; what stands in the context gives way."""
        self.json = False

    @property
    def agent_address(self) -> str:
        return str(self._setting("agent-address", AGENT_ADDRESS))

    @property
    def scorer_address(self) -> str:
        return str(self._setting("scorer-address", SCORER_ADDRESS))

    def at(self, agent_address: str) -> Session:
        """The same, at another agent service."""
        other = Session()
        other.given, other.json = {**self.given, "agent-address": agent_address}, self.json
        return other

    def access(self, address: str) -> Access:
        """How a service is reached. Raises ConfigurationError, also where a token would travel in plain text."""
        files = {
            name: Path(found).expanduser() if (found := self._setting(name.replace("_", "-"), "")) else None
            for name in ("ca", "cert", "key", "token_file")
        }
        if self.given.get("token"):
            files["token_file"] = None
        access = Access(
            tls=bool(self._setting("tls", False)),
            server_name=self._setting("server-name", ""),
            token="" if files["token_file"] else self._setting("token", ""),
            **files,
        )
        if (access.token or access.token_file) and not access.is_encrypted and not _is_here(address):
            raise errors.ConfigurationError(f"will not send a token to {address} in plain text: give --tls or --ca")
        return access

    def _setting(self, name: str, default: Any) -> Any:
        if (given := self.given.get(name)) is not None:
            return given
        if self._context is None:
            self._context = contexts.load(self.given.get("context", ""))
        return self._context.get(name, default)

    @contextmanager
    def asking_agents(self, *, patiently: bool = False) -> Iterator[AgentClient]:
        """A client of the agent service; an error says which service could not be reached, and what to do.

        `patiently` is for following a run that exists: minutes without the service are borne.
        """
        with (
            _naming("agent service", self.agent_address, "--agent-address"),
            AgentClient(
                self.agent_address,
                timeout=TIMEOUT_SECONDS,
                resume=_PATIENT if patiently else _QUICK,
                **self.access(self.agent_address).arguments(),
            ) as client,
        ):
            yield client

    @contextmanager
    def asking_scorers(self, *, patiently: bool = False) -> Iterator[ScorerClient]:
        """As `asking_agents`, of the scorer service."""
        with (
            _naming("scorer service", self.scorer_address, "--scorer-address"),
            ScorerClient(
                self.scorer_address,
                timeout=TIMEOUT_SECONDS,
                resume=_PATIENT if patiently else _QUICK,
                **self.access(self.scorer_address).arguments(),
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


def _is_here(address: str) -> bool:
    host = address.removeprefix("ipv4:").removeprefix("ipv6:").rpartition(":")[0].strip("[]")
    return address.startswith("unix:") or host in ("localhost", "::1") or host.startswith("127.")


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
        for name, kind, text in _ACCESS_OPTIONS:
            variable = f"RUNWIRE_{name[2:].upper().replace('-', '_')}"
            function = click.option(
                name,
                type=kind,
                is_flag=kind is None,
                default=None,
                envvar=variable if environment else None,
                show_envvar=False,
                expose_value=False,
                hidden=not environment,
                callback=_giver(name[2:]),
                help=f"{text} [{variable}]",
            )(function)
        for name, variable, default in (
            ("--scorer-address", "RUNWIRE_SCORER_ADDRESS", SCORER_ADDRESS),
            ("--agent-address", "RUNWIRE_AGENT_ADDRESS", AGENT_ADDRESS),
        ):
            function = click.option(
                name,
                type=Address(),
                envvar=variable if environment else None,
                expose_value=False,
                callback=_giver(name[2:]),
                help=f"Where the {name[2:].partition('-')[0]} service is. [{variable}, else {default}]",
            )(function)
        return click.option(
            "--json",
            is_flag=True,
            default=None,
            expose_value=False,
            callback=_set_json,
            help="One line of protobuf JSON an object, for machines.",
        )(function)

    return decorate


_ACCESS_OPTIONS: Final[Sequence[tuple[str, Any, str]]] = (
    ("--token-file", click.Path(dir_okay=False), "A file with the token, read at every call."),
    ("--token", str, "The token to call with. Others on this machine see it in the list of processes: better a file."),
    ("--server-name", str, "The name in the service's certificate, where it is not the one that is dialled."),
    ("--key", click.Path(dir_okay=False), "The key of --cert."),
    ("--cert", click.Path(dir_okay=False), "This client's certificate, for services that ask for one."),
    ("--ca", click.Path(dir_okay=False), "Whom to trust, in PEM; turns on TLS."),
    ("--tls", None, "Reach the services over TLS."),
    ("--context", str, "A context of the profile file, ~/.config/runwire/config.toml."),
)


def _giver(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def give(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        if value is not None:
            ctx.ensure_object(Session).given[name] = value

    return give


def _set_json(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    if value is not None:
        ctx.ensure_object(Session).json = value


pass_session = click.make_pass_decorator(Session, ensure=True)


def settle(stream: IO[str]) -> None:
    """Writes out what is buffered now, where a broken pipe can still be told apart."""
    stream.flush()


def on_terminal() -> bool:
    """Whether a person looks at the output."""
    return sys.stdout.isatty()
