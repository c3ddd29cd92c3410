"""`python -m agent_service`: the process."""

from __future__ import annotations

import gc
import os
import sys
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

import click

# gRPC logs a bind failure by itself, in its own words; ours says what to do.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from agent_service import app, config
from agent_service.process import end, event_loop
from runwire import logs
from runwire.errors import ConfigurationError, StoreUnavailable
from runwire.identity.settings import shown
from runwire.redaction import masked, one_line
from runwire.supervisor import Member, Plan, supervise

_COLLECT_AFTER: Final = (10_000, 20, 100)

_MORE_THREADS: Final = 32
"""Beside one for each run: no run may take the threads of another, or of the service, by blocking its own."""


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 picks one. [127.0.0.1:50051]")
@click.option("--store", metavar="URL", help="Where runs are kept. [sqlite:///.runwire/runs.db]")
@click.option("--agents", metavar="MODULES", help="Modules whose agents are served, comma-separated.")
@click.option("--role", help="all, serve (answers calls only) or work (executes runs only). [all]")
@click.option("--model", help="Model of the demonstration agent, such as openai:gpt-5.2; without: a local one.")
@click.option("--processes", type=int, help="Processes that serve and execute, on one port. [1]")
@click.option("--concurrency", type=int, help="Most runs at once in this process. [100]")
@click.option("--metrics", metavar="HOST:PORT", help="Where to show metrics in Prometheus' text. [nowhere]")
@click.option("--metrics-export", metavar="otlp", help="Send metrics by OTLP. [off]")
@click.option("--trace-export", metavar="otlp", help="Send spans by OTLP. [off]")
@click.option(
    "--insecure", is_flag=True, default=None, help="Listen beyond this machine without TLS or authentication."
)
@click.option("--print-config", is_flag=True, help="Print all settings, without secrets, and end.")
@click.option("--log-level", help="DEBUG, INFO, WARNING or ERROR. [INFO]")
@click.option("--log-format", help="text, json, or auto: JSON where it is no terminal. [auto]")
@click.option("--member", type=int, hidden=True)
def main(print_config: bool, member: int | None, **given: Any) -> None:
    """Executes agents and streams their events. Every setting is also an environment variable: RUNWIRE_STORE,
    RUNWIRE_AGENTS, RUNWIRE_AGENT_LISTEN, RUNWIRE_LEASE_SECONDS ... (see agent_service/config.py)."""
    try:
        place = Member(member) if member is not None else None
        settings = config.load(**(place.given if place else given))
        if print_config:
            print(shown(settings))
            return
        logs.configure(settings.log_level, settings.log_format)
        if settings.store == config.DEFAULT_STORE:
            # Ours, so it may be made; a folder that somebody names must be there, or the name is wrong.
            config.DEFAULT_FOLDER.mkdir(exist_ok=True)
        if settings.model:
            os.environ["RUNWIRE_MODEL"] = settings.model
        if settings.processes > 1:
            sys.exit(supervise(_plan(settings, given), _say))
        event_loop.run(
            app.run(settings, partial(_announce, place), shared_port=place is not None),
            threads=settings.concurrency + _MORE_THREADS,
        )
        end.leave(0)
    except ConfigurationError as error:
        _fail(str(error), 2)
    except StoreUnavailable as error:
        _fail(f"the store cannot be reached: {error}", 3)


def _plan(settings: config.Settings, given: dict[str, Any]) -> Plan:
    """Raises ConfigurationError where several processes make no sense."""
    if urlsplit(settings.store).scheme == "memory":
        raise ConfigurationError(f"processes: {settings.processes} processes cannot share the store memory://")
    return Plan(
        "agent_service",
        settings.processes,
        settings.listen,
        settings.metrics,
        given,
        settings.shutdown_grace_seconds + end.LAST_SECONDS,
    )


def _announce(place: Member | None, address: str, page: str) -> None:
    _calm_collector()
    if place is None:
        _say(address)
    else:
        place.started(page)


def _say(address: str) -> None:
    print(f"agent service listening on {address}", flush=True)


def _calm_collector() -> None:
    """What is there once the service has started stays, and is looked at no more; what comes later is looked at less
    often. With 200 runs that speak the collector took 8 % of the time, up to 52 ms at once; now 0.1 % and 3 ms."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECT_AFTER)


def _fail(message: str, code: int) -> None:
    # One line, also where what an author's module raised has several.
    print(f"agent service: {one_line(masked(' '.join(message.split())))}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main(prog_name="python -m agent_service")
