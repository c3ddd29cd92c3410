"""token new, token list, token revoke: the file of tokens that a service reads (RUNWIRE_TOKENS)."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import click

from runwire.cli.inputs import Duration
from runwire.cli.output import note, print_table
from runwire.identity import run_tokens, static_tokens
from runwire.identity.principal import SCOPES
from runwire.scorer_requests import DEFAULT_TENANT

_file = click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="RUNWIRE_TOKENS",
    required=True,
    help="The file of tokens. [RUNWIRE_TOKENS]",
)


@click.group()
def token() -> None:
    """Make, list and revoke the tokens of the services. Changes are in force within a second, without a restart."""


@token.command()
@click.argument("subject")
@_file
@click.option("--tenant", default=DEFAULT_TENANT, show_default=True, help="Whose things it sees.")
@click.option(
    "--scope", "scopes", multiple=True, required=True, type=click.Choice(SCOPES), help="What it may; repeatable."
)
@click.option("--expires", type=Duration(), help="How long it is good, such as 90d; without: until it is revoked.")
def new(subject: str, path: Path, tenant: str, scopes: tuple[str, ...], expires: float | None) -> None:
    """Make a token for SUBJECT and print it: only now, as the file keeps a hash."""
    expire_time = None if expires is None else round(time.time() + expires, 3)
    made = static_tokens.new(path, subject, tenant, scopes, expire_time)
    note(f"for {subject} of {tenant}, added to {path}; it is not shown again:")
    print(made)


@token.command("list")
@_file
@click.option("--json", "as_json", is_flag=True, help="One line of JSON a token.")
def list_tokens(path: Path, as_json: bool) -> None:
    """List the tokens, oldest first. The tokens themselves are not there."""
    now, found = time.time(), static_tokens.listed(path)
    if as_json:
        for each in found:
            shown = {key: value for key, value in asdict(each).items() if key not in ("salt", "hash")}
            print(json.dumps(shown | {"state": each.state(now)}))
        return
    print_table(
        ("TOKEN", "STATE", "SUBJECT", "TENANT", "SCOPES", "MADE", "EXPIRES"),
        (
            (
                each.token_id,
                each.state(now),
                each.subject,
                each.tenant,
                " ".join(each.scopes),
                _when(each.create_time),
                _when(each.expire_time),
            )
            for each in found
        ),
        empty="there are no tokens",
    )


@token.command()
@click.argument("token_id")
@_file
def revoke(token_id: str, path: Path) -> None:
    """Take a token back, by the id that `token list` shows, or by the token itself."""
    static_tokens.revoke(path, token_id.removeprefix(static_tokens.PREFIX).partition("_")[0])
    note(f"revoked in {path}")


def _when(seconds: float | None) -> str:
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


@token.command()
def key() -> None:
    """Print a new key for run tokens, for the file that RUNWIRE_RUN_TOKEN_KEYS names: its first line signs."""
    print(run_tokens.new_key())


COMMANDS = (token,)
