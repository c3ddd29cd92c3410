"""dev: both services and the gateway on one machine, for development."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from runwire.cli.output import note
from runwire.cli.reload import SourceWatch
from runwire.errors import ConfigurationError

_NEEDS: Final = {
    "agent": ("grpc_health", "grpc_reflection", "pydantic", "pydantic_settings", "pydantic_ai"),
    "scorer": ("grpc_health", "grpc_reflection", "pydantic_settings", "sqlalchemy", "alembic", "rapidfuzz"),
}
_GATEWAY_NEEDS: Final = ("starlette", "uvicorn", "jinja2", "multipart")
_FILE: Final = click.Path(exists=True, dir_okay=False)
_DEMO: Final = "agent_service.demo"
_EXAMPLES: Final = ("runwire start librarian 'How does a cursor work?' --watch",)
_EXAMPLES_OF_OWN: Final = ("runwire agents", "runwire chat AGENT", "runwire start AGENT 'What can you do?' --watch")
"""Which agents there are, the service knows."""
_LINE_BYTES: Final = 1024 * 1024
_STOP_SECONDS: Final = 25.0
_LAST_LINES_SECONDS: Final = 2.0
_BRIEF_GRACE: Final = {"RUNWIRE_SHUTDOWN_GRACE_SECONDS": "0.5", "RUNWIRE_SCORER_GRACE_SECONDS": "0.5"}
"""An author who has changed a line wants to see it, and runs continue in the new process."""
_COLOURS: Final = {"agent": "36", "scorer": "35", "gateway": "34"}

Result = TypeVar("Result")


@click.command()
@click.option("--agents", default=_DEMO, show_default=True, help="Modules with agents.")
@click.option("--scorers", default="", help="Modules with scorers, beside those built in.")
@click.option("--model", default="", help="Model of the librarian, such as openai:gpt-5; without: a local stand-in.")
@click.option("--judge-model", default="", help="Model of the judges, such as openai:gpt-5-mini. [--model]")
@click.option("--reload", is_flag=True, help="Restart the services when a Python file below this folder changes.")
@click.option("--agent-port", type=click.IntRange(0, 65535), default=50051, show_default=True)
@click.option("--scorer-port", type=click.IntRange(0, 65535), default=50052, show_default=True)
@click.option("--gateway-port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@click.option("--gateway/--no-gateway", default=None, help="Whether to serve pages too. [where it is installed]")
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), default=Path(".runwire"), show_default=True)
@click.option("--store", help="Where runs are kept; without: a SQLite file under --data.")
@click.option("--cert", type=_FILE, help="The services' certificate, in PEM; turns on TLS.")
@click.option("--key", type=_FILE, help="The key of --cert.")
@click.option("--ca", type=_FILE, help="Who signed it, for the gateway. [--cert]")
@click.option("--tokens", type=_FILE, help="Tokens made by `runwire token new`; turns on authentication.")
@click.option("--results", help="Where scores are kept; without: a SQLite file under --data.")
def dev(
    agents: str,
    scorers: str,
    model: str,
    judge_model: str,
    reload: bool,
    agent_port: int,
    scorer_port: int,
    gateway_port: int,
    gateway: bool | None,
    data: Path,
    store: str | None,
    results: str | None,
    cert: str | None,
    key: str | None,
    ca: str | None,
    tokens: str | None,
) -> int:
    """Start both services and the gateway here, until Ctrl-C. Runs and scores are kept under .runwire/."""
    _check_parts()
    if gateway is None:
        gateway = _installed(_GATEWAY_NEEDS)
    elif gateway and not _installed(_GATEWAY_NEEDS):
        raise ConfigurationError("the gateway is not installed: pip install 'runwire[gateway]'")
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot make the folder {str(data)!r}: {error.strerror}") from None
    store = store or f"sqlite:///{data.resolve() / 'runs.db'}"
    results = results or f"sqlite:///{data.resolve() / 'scores.db'}"
    services = (
        Service("agent", _command("agent", agent_port, store, "--agents", agents, *_given("--model", model))),
        Service(
            "scorer",
            _command(
                "scorer",
                scorer_port,
                store,
                "--results",
                results,
                *_given("--scorers", scorers),
                *_given("--judge-model", judge_model or model),
            ),
        ),
    )
    environment = {
        "RUNWIRE_TLS_CERT_FILE": cert,
        "RUNWIRE_TLS_KEY_FILE": key,
        "RUNWIRE_TOKENS": tokens,
        "RUNWIRE_GATEWAY_CA": ca or cert,
    }
    given = {name: value for name, value in environment.items() if value}
    watch = SourceWatch(Path.cwd()) if reload else None
    examples = _EXAMPLES if agents == _DEMO else _EXAMPLES_OF_OWN
    return asyncio.run(_Development(services, gateway_port if gateway else None, given, watch, examples).run())


COMMANDS = (dev,)


@dataclass(frozen=True)
class Service:
    name: str
    command: tuple[str, ...]

    def at(self, address: str) -> Service:
        """The same, where it listened before."""
        command = list(self.command)
        command[command.index("--listen") + 1] = address
        return replace(self, command=tuple(command))

    def say(self, line: str) -> None:
        """Log lines go to stderr, with the service's name before them."""
        colour = _COLOURS[self.name] if sys.stderr.isatty() and "NO_COLOR" not in os.environ else ""
        label = f"\x1b[{colour}m{self.name:<7}\x1b[0m" if colour else f"{self.name:<7}"
        note(f"{label} | {line}")


def _check_parts() -> None:
    missing = [extra for extra, modules in _NEEDS.items() if not _installed(modules)]
    if missing:
        raise ConfigurationError(
            f"`runwire dev` needs parts that are not installed ({', '.join(missing)}): "
            "pip install 'runwire[agent,scorer]'"
        )


def _installed(modules: tuple[str, ...]) -> bool:
    return all(find_spec(module) is not None for module in modules)


def _command(name: str, port: int, store: str, *more: str) -> tuple[str, ...]:
    module = f"{name}_service"
    return (sys.executable, "-m", module, "--listen", f"127.0.0.1:{port}", "--store", store, *more)


def _given(option: str, value: str) -> tuple[str, ...]:
    return (option, value) if value else ()


class _Development:
    """The processes of one `runwire dev`. The gateway, on `gateway_port`, is started once it can be told where the
    services are; None: without it. With a `watch` the services, but not the gateway, are restarted when it says so:
    what they execute is handed back, and continues there."""

    def __init__(
        self,
        services: tuple[Service, ...],
        gateway_port: int | None,
        environment: Mapping[str, str] | None = None,
        watch: SourceWatch | None = None,
        examples: tuple[str, ...] = _EXAMPLES,
    ) -> None:
        self._examples = examples
        self._services = services
        self._gateway_port = gateway_port
        self._watch = watch
        self._changes = {service.name: asyncio.Event() for service in services}
        # What they write is for those who see us, not for the pipe that it comes through.
        text = {"RUNWIRE_LOG_FORMAT": "text", **(_BRIEF_GRACE if watch is not None else {})}
        self._environment = {**text, **os.environ, **(environment or {})}
        self._stopping = asyncio.Event()
        self._up = asyncio.Event()
        self._addresses: dict[str, str] = {}
        self._codes: dict[str, int] = {}

    async def run(self) -> int:
        """The exit code: of a service that ended by itself, else 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)
        try:
            async with asyncio.TaskGroup() as group:
                for service in self._services:
                    group.create_task(self._keep(service), name=service.name)
                if self._watch is not None:
                    group.create_task(self._look_out(self._watch), name="reload")
                stopped = group.create_task(self._stopping.wait())
                up = group.create_task(self._up.wait())
                await asyncio.wait((stopped, up), return_when=asyncio.FIRST_COMPLETED)
                up.cancel()
                if not self._stopping.is_set():
                    await self._open(group)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
        return next((code for code in self._codes.values() if code), 0)

    async def _open(self, group: asyncio.TaskGroup) -> None:
        """Says what can be done now, or starts the gateway first."""
        if self._gateway_port is None:
            _say_what_next(self._addresses, self._examples)
            return
        places = ("--agent-address", self._addresses["agent"], "--scorer-address", self._addresses["scorer"])
        listen = f"127.0.0.1:{self._gateway_port}"
        gateway = Service("gateway", (sys.executable, "-m", "gateway", "--listen", listen, *places))
        group.create_task(self._keep(gateway), name=gateway.name)

    async def _look_out(self, watch: SourceWatch) -> None:
        while (path := await _unless(self._stopping, watch.changed())) is not None:
            note(f"{path} has changed: the services restart")
            for change in self._changes.values():
                change.set()

    async def _keep(self, service: Service) -> None:
        """Runs one service until it ends or everything is to stop, and then makes everything stop; where code is
        watched it is run again after each change, also if it ended by itself."""
        change = self._changes.get(service.name) if self._watch is not None else None
        while True:
            if change is not None:
                change.clear()
            code = await self._serve(service, change or self._stopping)
            if not self._stopping.is_set() and not (change is not None and change.is_set()):
                service.say(f"ended with exit code {code}")
                if change is None:
                    self._codes[service.name] = code or 1
                    self._stopping.set()
                else:
                    service.say("waits for a change of the code")
                    await _first_of(change, self._stopping)
            if self._stopping.is_set():
                return
            if (address := self._addresses.get(service.name)) is not None:
                service = service.at(address.rpartition("//")[2])

    async def _serve(self, service: Service, change: asyncio.Event) -> int:
        """Runs it until it ends, code changes, or everything is to stop; its exit code."""
        process = await asyncio.create_subprocess_exec(
            *service.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE_BYTES,
            env=self._environment,
            # A Ctrl-C at the terminal goes to us alone; we stop the services in order.
            start_new_session=True,
        )
        try:
            async with asyncio.TaskGroup() as group:
                printing = group.create_task(self._print_lines(service, process))
                stop = group.create_task(_stop(process, change, self._stopping))
                code = await process.wait()
                # What it has started may hold the pipe open.
                await asyncio.wait({printing}, timeout=_LAST_LINES_SECONDS)
                printing.cancel()
                stop.cancel()
                return code
        finally:
            if process.returncode is None:
                process.kill()

    async def _print_lines(self, service: Service, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while True:
            try:
                raw = await process.stdout.readline()
            except ValueError:
                raw = f"(a line of more than {_LINE_BYTES} bytes was left out)\n".encode()
            if not raw:
                return
            line = raw.decode(errors="replace").rstrip()
            service.say(line)
            _, found, address = line.partition(" listening on ")
            if found and service.name not in self._addresses:
                self._addresses[service.name] = address
                self._heard()

    def _heard(self) -> None:
        """After a service said where it listens."""
        if "gateway" in self._addresses:
            _say_what_next(self._addresses, self._examples)
        elif len(self._addresses) == len(self._services):
            self._up.set()


async def _first_of(*events: asyncio.Event) -> None:
    """Returns once one of them is set."""
    async with asyncio.TaskGroup() as group:
        waits = [group.create_task(event.wait()) for event in events]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, Result]) -> Result | None:
    """What the work returns; None where it is broken off."""
    async with asyncio.TaskGroup() as group:
        working, stopped = group.create_task(work), group.create_task(stopping.wait())
        await asyncio.wait((working, stopped), return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not working.done():
            working.cancel()
            return None
        return await working


async def _stop(process: asyncio.subprocess.Process, *reasons: asyncio.Event) -> None:
    await _first_of(*reasons)
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()


def _say_what_next(addresses: dict[str, str], examples: tuple[str, ...]) -> None:
    agent, scorer = addresses["agent"], addresses["scorer"]
    options = "" if agent.endswith(":50051") else f" --agent-address {agent}"
    scorer_options = "" if scorer.endswith(":50052") else f" --scorer-address {scorer}"
    page = f"Look at {addresses['gateway']} in a browser. " if "gateway" in addresses else ""
    print(
        f"\nBoth services are up. {page}In another terminal:\n\n"
        + "".join(f"    {example}{options}\n" for example in examples)
        + f"    runwire runs{options}\n"
        f"    runwire scores RUN --follow{options}{scorer_options}\n\n"
        "Ctrl-C stops them; finished and unfinished runs are kept.\n",
        flush=True,
    )
