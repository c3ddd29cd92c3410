"""completion."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  runwire completion bash > ~/.local/share/bash-completion/completions/runwire
    zsh:   runwire completion zsh > ~/.zfunc/_runwire      (with fpath+=~/.zfunc before compinit)
    fish:  runwire completion fish > ~/.config/fish/completions/runwire.fish
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell!r}")
    print(kind(ctx.find_root().command, {}, "runwire", "_RUNWIRE_COMPLETE").source())


COMMANDS = (completion,)
