"""dev: both services on one machine, for development."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import click

from runwire.cli.output import note
from runwire.errors import ConfigurationError

_NEEDS: Final = {
    "agent": ("grpc_health", "grpc_reflection", "pydantic", "pydantic_settings", "pydantic_ai"),
    "scorer": ("grpc_health", "grpc_reflection", "pydantic_settings", "sqlalchemy", "alembic", "rapidfuzz"),
}
_LINE_BYTES: Final = 1024 * 1024
_STOP_SECONDS: Final = 25.0
_COLOURS: Final = {"agent": "36", "scorer": "35"}


@click.command()
@click.option("--agents", default="agent_service.demo", show_default=True, help="Modules with agents.")
@click.option("--scorers", default="", help="Modules with scorers, beside those built in.")
@click.option("--model", default="", help="Model of the librarian, such as openai:gpt-5; without: a local stand-in.")
@click.option("--agent-port", type=click.IntRange(0, 65535), default=50051, show_default=True)
@click.option("--scorer-port", type=click.IntRange(0, 65535), default=50052, show_default=True)
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), default=Path(".runwire"), show_default=True)
@click.option("--store", help="Where runs are kept; without: a SQLite file under --data.")
@click.option("--results", help="Where scores are kept; without: a SQLite file under --data.")
def dev(
    agents: str,
    scorers: str,
    model: str,
    agent_port: int,
    scorer_port: int,
    data: Path,
    store: str | None,
    results: str | None,
) -> int:
    """Start both services here, until Ctrl-C. Runs and scores are kept under .runwire/."""
    _check_parts()
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot make the folder {str(data)!r}: {error.strerror}") from None
    store = store or f"sqlite:///{data.resolve() / 'runs.db'}"
    results = results or f"sqlite:///{data.resolve() / 'scores.db'}"
    services = (
        Service("agent", _command("agent", agent_port, store, "--agents", agents, *_given("--model", model))),
        Service("scorer", _command("scorer", scorer_port, store, "--results", results, *_given("--scorers", scorers))),
    )
    return asyncio.run(_run(services))


COMMANDS = (dev,)


@dataclass(frozen=True)
class Service:
    name: str
    command: tuple[str, ...]

    def say(self, line: str) -> None:
        """Log lines go to stderr, with the service's name before them."""
        colour = _COLOURS[self.name] if sys.stderr.isatty() and "NO_COLOR" not in os.environ else ""
        label = f"\x1b[{colour}m{self.name:<6}\x1b[0m" if colour else f"{self.name:<6}"
        note(f"{label} | {line}")


def _check_parts() -> None:
    missing = [extra for extra, modules in _NEEDS.items() if any(find_spec(module) is None for module in modules)]
    if missing:
        raise ConfigurationError(
            f"`runwire dev` needs parts that are not installed ({', '.join(missing)}): "
            "pip install 'runwire[agent,scorer]'"
        )


def _command(name: str, port: int, store: str, *more: str) -> tuple[str, ...]:
    module = f"{name}_service"
    return (sys.executable, "-m", module, "--listen", f"127.0.0.1:{port}", "--store", store, *more)


def _given(option: str, value: str) -> tuple[str, ...]:
    return (option, value) if value else ()


async def _run(services: tuple[Service, ...]) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    addresses: dict[str, str] = {}
    codes: dict[str, int] = {}
    try:
        async with asyncio.TaskGroup() as group:
            for service in services:
                group.create_task(_serve(service, stopping, addresses, codes, len(services)), name=service.name)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    # A service that ended by itself says so with its code; one that we stopped, with 0.
    return next((code for code in codes.values() if code), 0)


async def _serve(
    service: Service, stopping: asyncio.Event, addresses: dict[str, str], codes: dict[str, int], count: int
) -> None:
    """Runs one service until it ends or everything is to stop, and then makes everything stop."""
    process = await asyncio.create_subprocess_exec(
        *service.command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=_LINE_BYTES,
        # A Ctrl-C at the terminal goes to us alone; we stop the services in order.
        start_new_session=True,
    )
    try:
        async with asyncio.TaskGroup() as group:
            printing = group.create_task(_print_lines(service, process, addresses, count))
            stop = group.create_task(_stop(process, stopping))
            code = await process.wait()
            if not stopping.is_set():
                service.say(f"ended with exit code {code}")
                codes[service.name] = code or 1
            stopping.set()
            await printing
            await stop
    finally:
        if process.returncode is None:
            process.kill()


async def _stop(process: asyncio.subprocess.Process, stopping: asyncio.Event) -> None:
    await stopping.wait()
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()


async def _print_lines(
    service: Service, process: asyncio.subprocess.Process, addresses: dict[str, str], count: int
) -> None:
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
        _, found, address = line.partition(" service listening on ")
        if found and service.name not in addresses:
            addresses[service.name] = address
            if len(addresses) == count:
                _say_what_next(addresses)


def _say_what_next(addresses: dict[str, str]) -> None:
    agent, scorer = addresses["agent"], addresses["scorer"]
    options = "" if agent.endswith(":50051") else f" --agent-address {agent}"
    scorer_options = "" if scorer.endswith(":50052") else f" --scorer-address {scorer}"
    print(
        "\nBoth services are up. In another terminal:\n\n"
        f"    runwire start librarian 'How does a cursor work?' --watch{options}\n"
        f"    runwire runs{options}\n"
        f"    runwire scores RUN --follow{options}{scorer_options}\n\n"
        "Ctrl-C stops them; finished and unfinished runs are kept.\n",
        flush=True,
    )
