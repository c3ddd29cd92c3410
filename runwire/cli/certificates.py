"""certificate: one that trusts itself, for a service that is to speak TLS."""

from __future__ import annotations

from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import click

from runwire.cli.output import note
from runwire.errors import ConfigurationError


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option(
    "--folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    show_default=True,
    help="Where server.pem and server.key are put.",
)
@click.option("--days", type=click.IntRange(1, 3650), default=90, show_default=True, help="How long it is good.")
@click.option("--keep", is_flag=True, help="Leave one that is for NAMES and good for a third of --days still.")
def certificate(names: tuple[str, ...], folder: Path, days: int, keep: bool) -> None:
    """Make a certificate for NAMES (host names and addresses), signed by itself, and its key. server.pem is also what
    clients trust: `--ca server.pem`. Services that use it read it again, without a restart."""
    if find_spec("cryptography") is None:
        raise ConfigurationError("certificates need a part that is not installed: pip install 'runwire[agent]'")
    from runwire.identity import self_signed

    cert, key = folder / "server.pem", folder / "server.key"
    if keep and self_signed.is_good(cert, key, names, timedelta(days=days) / 3):
        note(f"{cert} is good still")
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot make the folder {str(folder)!r}: {error.strerror}") from None
    self_signed.make(cert, key, names, days)
    note(f"for {', '.join(names)}, good for {days} days: {cert}, {key}")


COMMANDS = (certificate,)
