"""The command as a whole: its groups, and what becomes of errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

import click

from runwire import errors
from runwire.cli import (
    agents,
    budgets,
    certificates,
    chat,
    completion,
    conformance,
    dev,
    doctor,
    fleet,
    forks,
    people,
    runs,
    scores,
    tokens,
    top,
)
from runwire.cli.evaluation import command as evaluation
from runwire.cli.session import Interrupted, service_options, settle

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
UNREACHABLE: Final = 3
GONE: Final = 4
INTERRUPTED: Final = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="runwire", message="%(prog)s %(version)s")
@service_options(environment=True)
def runwire() -> None:
    """Start AI agents, follow their runs, read their scores.

    \b
    Exit codes: 0 succeeded, 1 the run (or the service) failed, 2 usage or bad input,
    3 a service cannot be reached, 4 events are gone, 5 the run waits for an answer,
    130 interrupted.
    """


for noun in (
    *(runs, forks, chat, agents, scores, people, evaluation, budgets, fleet),
    *(dev, doctor, conformance, tokens, certificates, top, completion),
):
    for command in noun.COMMANDS:
        runwire.add_command(command)


def run(arguments: Sequence[str]) -> int:
    """Executes one command line and returns its exit code. Errors become one line on stderr."""
    try:
        result = runwire.main(list(arguments), prog_name="runwire", standalone_mode=False)
        settle(sys.stdout)
        return result if isinstance(result, int) else OK
    except click.ClickException as error:
        return _usage(error)
    except (KeyboardInterrupt, click.Abort):
        return _say("interrupted", INTERRUPTED)
    except Interrupted as interruption:
        return _say(str(interruption), INTERRUPTED)
    except BrokenPipeError:
        # The reader of our output has gone; Python must not complain about that at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except UnicodeEncodeError as error:
        if error.encoding == "utf-8":  # what the shell gave us; no other text of ours holds such characters
            return _say("an argument is not UTF-8", USAGE)
        return _say(f"the output's encoding, {error.encoding}, cannot show this: set PYTHONUTF8=1", FAILED)
    except errors.RunwireError as error:
        return _say(str(error), exit_code(error))


def exit_code(error: errors.RunwireError) -> int:
    """The exit code of an error."""
    if isinstance(error, errors.Unavailable):
        return UNREACHABLE
    if isinstance(error, errors.CursorMismatch):
        return USAGE
    if isinstance(error, errors.CursorError | errors.EventsLost):
        return GONE
    if isinstance(error, _USERS_FAULT):
        return USAGE
    return FAILED


_USERS_FAULT = (
    errors.ConfigurationError,
    errors.InvalidRequest,
    errors.NotFound,
    errors.AlreadyExists,
    errors.PreconditionFailed,
)


def _usage(error: click.ClickException) -> int:
    hint = ""
    if isinstance(error, click.UsageError) and error.ctx is not None:
        hint = f" (see `{error.ctx.command_path} --help`)"
    return _say(f"{error.format_message()}{hint}", USAGE)


def _say(text: str, code: int) -> int:
    print(f"runwire: {' '.join(text.split())}", file=sys.stderr)
    return code
