"""`python -m gateway`: the process."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import click

from gateway import config, server
from runwire import logs
from runwire.errors import ConfigurationError
from runwire.redaction import masked, one_line


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 picks one. [127.0.0.1:8080]")
@click.option("--agent-address", metavar="HOST:PORT", help="Where the agent service is. [127.0.0.1:50051]")
@click.option("--scorer-address", metavar="HOST:PORT", help="Where the scorer service is. [127.0.0.1:50052]")
@click.option("--allowed-origins", metavar="ORIGINS", help="Origins of pages elsewhere that may call, comma-separated.")
@click.option("--pages/--no-pages", default=None, help="Whether to serve the pages too. [--pages]")
@click.option("--log-level", help="DEBUG, INFO, WARNING or ERROR. [INFO]")
@click.option("--log-format", help="text, json, or auto: JSON where it is no terminal. [auto]")
def main(**given: Any) -> None:
    """Serves browsers: HTTP, Server-Sent Events and pages over both services. Every setting is also an environment
    variable, RUNWIRE_GATEWAY_LISTEN and so on (see gateway/config.py)."""
    try:
        settings = config.load(**given)
        logs.configure(settings.log_level, settings.log_format)
        asyncio.run(server.serve(settings, _announce))
    except ConfigurationError as error:
        print(f"gateway: {one_line(masked(' '.join(str(error).split())))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        pass  # uvicorn raises again the signal that it ended by


def _announce(address: str) -> None:
    print(f"gateway listening on http://{address}", flush=True)


if __name__ == "__main__":
    main(prog_name="python -m gateway")
