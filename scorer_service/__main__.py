"""`python -m scorer_service`: the process."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import sys
import threading
from typing import Any

import click

# gRPC logs a bind failure by itself, in its own words; ours says what to do.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from runwire import logs
from runwire.errors import ConfigurationError, RunwireError, StoreUnavailable
from runwire.identity.settings import shown
from runwire.redaction import masked, one_line
from scorer_service import config

_RESULTS_HELP = "Where scorer runs are kept: sqlite:///file or postgresql://... [sqlite:///.runwire/scores.db]"


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--listen", metavar="HOST:PORT", help="Where to listen; port 0 picks one. [127.0.0.1:50052]")
@click.option("--store", metavar="URL", help="Where requests come from. [sqlite:///.runwire/runs.db]")
@click.option("--results", metavar="URL", help=_RESULTS_HELP)
@click.option("--scorers", metavar="MODULES", help="Modules with scorers of your own, comma-separated.")
@click.option("--role", "scorer_role", help="all, or dispatch (only pushes scorer runs to executors elsewhere). [all]")
@click.option("--push-targets", "scorer_push_targets", metavar="FILE", help="The executors: JSON lines.")
@click.option("--judge-model", metavar="MODEL", help="Model of the judges, such as openai:gpt-4o-mini.")
@click.option("--concurrency", "scorer_concurrency", type=int, help="Most scorer runs at once in this process. [256]")
@click.option("--export", "scorer_export", metavar="otel", help="Export results by OTLP. [off]")
@click.option("--migrate", "scorer_migrate", is_flag=True, default=None, help="Migrate the database at start.")
@click.option("--metrics", metavar="HOST:PORT", help="Where to show metrics in Prometheus' text. [nowhere]")
@click.option("--metrics-export", metavar="otlp", help="Send metrics by OTLP. [off]")
@click.option(
    "--insecure", is_flag=True, default=None, help="Listen beyond this machine without TLS or authentication."
)
@click.option("--print-config", is_flag=True, help="Print all settings, without secrets, and end.")
@click.option("--log-level", help="DEBUG, INFO, WARNING or ERROR. [INFO]")
@click.option("--log-format", help="text, json, or auto: JSON where it is no terminal. [auto]")
@click.pass_context
def main(context: click.Context, /, print_config: bool, **given: Any) -> None:
    """Scores finished runs. Every setting is also an environment variable: RUNWIRE_STORE, RUNWIRE_RESULTS,
    RUNWIRE_SCORER_LISTEN, RUNWIRE_SCORERS, RUNWIRE_JUDGE_MODEL ... (see scorer_service/config.py)."""
    if context.invoked_subcommand is None:
        _finish(lambda: print(shown(config.load(**given))) if print_config else _serve(given))


@main.command(name="migrate")
@click.option("--results", metavar="URL", help=_RESULTS_HELP)
@click.pass_context
def migrate_command(context: click.Context, results: str | None) -> None:
    """Bring the tables of the results database to this release, and end."""

    def work() -> None:
        from scorer_service.results import migrate

        assert context.parent is not None
        settings = config.load(results=results or context.parent.params["results"])
        print(f"scorer service: {migrate.main(settings.results)}", flush=True)

    _finish(work)


def _serve(given: dict[str, Any]) -> None:
    from scorer_service import app

    settings = config.load(**given)
    logs.configure(settings.log_level, settings.log_format)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.raiseExceptions = False  # a scorer that closes our standard error must not make every log line an error
    faulthandler.enable()  # what crashes natively leaves a word
    asyncio.run(app.run(settings, lambda address: print(f"scorer service listening on {address}", flush=True)))


def _finish(work: Any) -> None:
    """Does the work and ends the process: 0, 1 for a failure, 2 for a wrong setting, 3 for what cannot be reached."""
    code = 0
    try:
        work()
    except ConfigurationError as error:
        code = _fail(str(error), 2)
    except StoreUnavailable as error:
        told = str(error)
        code = _fail(told if told.startswith("the results database") else f"cannot be reached: {told}", 3)
    except RunwireError as error:
        code = _fail(str(error), 1)
    if any(thread is not threading.main_thread() and not thread.daemon for thread in threading.enumerate()):
        # A scorer that does not end sits in a thread, and Python would wait for it for ever.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _fail(message: str, code: int) -> int:
    print(f"scorer service: {one_line(masked(' '.join(message.split())))}", file=sys.stderr)
    return code


if __name__ == "__main__":
    main(prog_name="python -m scorer_service")
