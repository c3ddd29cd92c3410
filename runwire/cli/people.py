"""submit-score and review: what people say of runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import click

from runwire.agent.v1 import run_pb2
from runwire.cli.output import compact, note, print_json, state_name
from runwire.cli.session import Session, pass_session, service_options
from runwire.client import from_value, scorer_run_filter
from runwire.client.sync import AgentClient, ScorerClient
from runwire.scorer.v1 import scorer_run_pb2
from runwire.scorer_requests import PEOPLE

_KEYS: Final = "+ good, - bad, 0 to 9 a score of 0 to 1, c a comment first, s skip, q done"
_MOST_SHOWN: Final = 4000
"""Characters of an input or an output."""


@click.command("submit-score")
@click.argument("run_id", metavar="RUN")
@click.option("--scorer", "scorer_id", required=True, metavar="ID", help="What is scored: any name, or a judge's.")
@click.option("--value", type=float, metavar="NUMBER", help="The score.")
@click.option("--thumb", type=click.Choice(["up", "down"]), help="A score of 1 or 0.")
@click.option("--label", default="", metavar="TEXT", help="A word for it.")
@click.option("--comment", default="", metavar="TEXT", help="Why.")
@click.option("--author", default="", metavar="NAME", help="Whose opinion it is; without: yours.")
@click.option("--request-id", metavar="ID", help="Makes the command safe to repeat.")
@service_options()
@pass_session
def submit_score(
    session: Session,
    run_id: str,
    scorer_id: str,
    value: float | None,
    thumb: str | None,
    label: str,
    comment: str,
    author: str,
    request_id: str | None,
) -> None:
    """Record what a person, or an outcome that came later, says of a run. Submit again to correct it."""
    if (value is None) == (thumb is None):
        raise click.UsageError("give either --value or --thumb")
    with session.asking_scorers() as client:
        run = client.submit_score(
            run_id,
            scorer_id,
            value,
            thumb=thumb,
            label=label,
            comment=comment,
            author=author,
            request_id=request_id,
        )
    if session.json:
        print_json(run)
    else:
        print(run.scorer_run_id)


@click.command()
@click.option("--agent", "agent_id", default="", metavar="AGENT", help="Only runs of this agent.")
@click.option("--scorer", "scorer_id", default="review", metavar="ID", help="What is scored: any name, or a judge's.")
@click.option("--author", default="", metavar="NAME", help="Whose opinion it is; without: yours.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many runs.")
@service_options()
@pass_session
def review(session: Session, agent_id: str, scorer_id: str, author: str, limit: int | None) -> None:
    """Score finished runs one after the other, newest first, by a key each: those that nobody has scored yet."""
    if not sys.stdin.isatty():
        raise click.UsageError("review asks on a terminal; to submit scores from a script, use: runwire submit-score")
    with session.asking_agents() as agents, session.asking_scorers() as scorers:
        _Review(agents, scorers, scorer_id, author).go(agent_id, limit)


@dataclass
class _Review:
    """A round of a person through runs."""

    agents: AgentClient
    scorers: ScorerClient
    scorer_id: str
    author: str
    scored: int = 0
    skipped: list[str] = field(default_factory=list)

    def go(self, agent_id: str, limit: int | None) -> None:
        note(_KEYS)
        for run_id, judged in self._unscored(agent_id):
            if limit is not None and self.scored >= limit:
                break
            if not self._ask(run_id, judged):
                break
        note(f"{self.scored} scored, {len(self.skipped)} skipped")

    def _unscored(self, agent_id: str) -> Iterator[tuple[str, list[scorer_run_pb2.ScorerRun]]]:
        """Runs that nobody has scored, with what judges say of them."""
        for run in self.agents.list_runs(agent_id=agent_id, states=[run_pb2.RUN_STATE_SUCCEEDED]):
            found = list(self.scorers.list_scorer_runs(scorer_run_filter(run_id=run.run_id)))
            if not any(each.scorer_name == PEOPLE and each.scorer_id == self.scorer_id for each in found):
                yield run.run_id, found

    def _ask(self, run_id: str, judged: list[scorer_run_pb2.ScorerRun]) -> bool:
        """Shows a run and asks for its score. False: enough."""
        _show(self.agents.get_run(run_id), judged)
        comment = ""
        while True:
            click.echo("> ", nl=False)
            key = _key()
            click.echo(key if key.isprintable() else "")
            match key:
                case "q" | "\x04" | "":
                    return False
                case "s":
                    self.skipped.append(run_id)
                    return True
                case "c":
                    comment = click.prompt("comment", default="", show_default=False)
                case "+" | "-":
                    thumb = "up" if key == "+" else "down"
                    self.scorers.submit_score(run_id, self.scorer_id, thumb=thumb, comment=comment, author=self.author)
                    self.scored += 1
                    return True
                case _ if key in set("0123456789"):
                    self.scorers.submit_score(run_id, self.scorer_id, int(key) / 9, comment=comment, author=self.author)
                    self.scored += 1
                    return True
                case _:
                    note(_KEYS)


def _key() -> str:
    """One key, as soon as it is pressed; what was typed ahead is not lost."""
    import termios
    import tty

    terminal = sys.stdin.fileno()
    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal, termios.TCSADRAIN)
    try:
        return os.read(terminal, 1).decode(errors="replace")
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _show(run: run_pb2.Run, judged: list[scorer_run_pb2.ScorerRun]) -> None:
    click.echo(f"\n{run.run_id}  {run.agent_id}")
    click.echo(f"  in   {_shown(compact(from_value(run.input)))}")
    click.echo(f"  out  {_shown(compact(from_value(run.output)))}")
    for each in judged:
        if each.state == scorer_run_pb2.SCORER_RUN_STATE_SUCCEEDED:
            said = f"{each.score.value:.3g} {each.score.label}".strip()
        else:
            said = state_name(each.state, scorer_run_pb2.ScorerRunState)
        click.echo(f"  {each.scorer_id}: {_shown(said)}")


def _shown(text: str) -> str:
    """A text without what would move a terminal's cursor."""
    plain = "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)
    return plain if len(plain) <= _MOST_SHOWN else plain[:_MOST_SHOWN] + " …"


COMMANDS: Final = (submit_score, review)
