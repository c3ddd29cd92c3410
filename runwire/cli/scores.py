"""scores, scorers, score, redrive, cancel-scores, pause, unpause, stats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

from runwire.cli.inputs import Since, State, parse_json
from runwire.cli.interruption import CtrlC
from runwire.cli.output import new_table, print_json, print_table, span, state_name, styled
from runwire.cli.session import Interrupted, Session, on_terminal, pass_session, service_options
from runwire.client import fold, sample_of, scorer_run_filter, to_value
from runwire.client.walk import OnProgress
from runwire.errors import Unavailable
from runwire.scorer.v1 import scorer_run_pb2
from runwire.scorer.v1 import scorer_service_pb2 as pb
from runwire.times import seconds_of

_STATE = State(scorer_run_pb2.ScorerRunState)
_STATISTICS = (
    "SCORER",
    "ELIGIBLE",
    "SCORED",
    "COVERAGE",
    "WAITING",
    "FAILED",
    "DECLINED",
    "MEAN",
    "P50",
    "P99",
    "OLDEST",
    "DUE",
)
_COLUMNS = ("SCORER", "VERSION", "STATE", "SCORE", "LABEL", "ATTEMPTS", "WHO", "REASON")


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--follow", "-f", is_flag=True, help="Wait until every score is there or given up.")
@service_options()
@pass_session
def scores(session: Session, run_id: str, follow: bool) -> None:
    """Show the scores of a run."""
    if follow:
        _follow(session, run_id)
        return
    with session.asking_scorers() as client:
        found = list(client.list_scorer_runs(scorer_run_filter(run_id=run_id)))
    _show(session, found, empty=f"no scores of {run_id}; is the run finished, and does its agent name scorers?")


@click.command("scorers")
@service_options()
@pass_session
def list_scorers(session: Session) -> None:
    """List the scorers of the scorer service."""
    with session.asking_scorers() as client:
        found = client.list_scorers()
    if session.json:
        for scorer in found:
            print_json(scorer)
        return
    print_table(
        ("SCORER", "VERSION", "BETTER", "JUDGE", "PAUSED", "DESCRIPTION"),
        (
            (
                each.scorer_id,
                each.version,
                state_name(each.direction, scorer_run_pb2.ScoreDirection).partition(" ")[0],
                each.judge_model if each.judge else "",
                _paused(each),
                each.description,
            )
            for each in found
        ),
        empty="this service has no scorers",
    )


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--scorer", "scorer_id", required=True, metavar="ID", help="The scorer to ask.")
@click.option("--scorer-version", default="", metavar="VERSION", help="Its version; without: the newest.")
@click.option("--options", metavar="JSON", help="Settings for the scorer, a JSON object.")
@click.option("--ground-truth", metavar="JSON", help="What a right answer looks like.")
@service_options()
@pass_session
def score(
    session: Session,
    run_id: str,
    scorer_id: str,
    scorer_version: str,
    options: str | None,
    ground_truth: str | None,
) -> None:
    """Ask for a score of a finished run, whatever its agent asked for."""
    settings = parse_json(options, "--options") if options is not None else None
    if settings is not None and not isinstance(settings, dict):
        raise click.UsageError("--options must be a JSON object")
    with session.asking_agents() as agents:
        run = agents.get_run(run_id)
        if not run.HasField("end_time"):
            raise click.UsageError(f"{run_id} has not ended; only finished runs are scored")
        sample = sample_of(run, fold(agents.list_run_events(run_id, page_size=1000)))
    truth = to_value(parse_json(ground_truth, "--ground-truth")) if ground_truth is not None else None
    with session.asking_scorers() as scorers:
        requested = scorers.request_scorer_run(
            scorer_id, sample=sample, ground_truth=truth, options=settings, scorer_version=scorer_version
        )
    if session.json:
        print_json(requested)
    else:
        print(requested.scorer_run_id)


def _selection(function: Callable[..., None]) -> Callable[..., None]:
    """The arguments of a command that goes through many scorer runs: ids, or a filter."""
    for decorate in reversed(
        (
            click.argument("scorer_run_ids", nargs=-1, metavar="[SCORER_RUN]..."),
            click.option("--run", "run_id", help="Those of this run."),
            click.option("--agent", "agent_id", help="Those of this agent's runs."),
            click.option("--scorer", "scorer_id", help="Those of this scorer."),
            click.option("--name", "scorer_name", help="Those of this use of a scorer; '' for the one without a name."),
            click.option("--state", "states", multiple=True, type=_STATE, help="Those in this state; repeatable."),
            click.option("--since", type=Since(), help="Those created since: 2h, or 2026-01-31T12:00."),
            click.option("--dry-run", is_flag=True, help="Only count."),
        )
    ):
        function = decorate(function)
    return function


def _chosen(ids: Sequence[str], since: datetime | None, **conditions: Any) -> pb.ScorerRunFilter | None:
    """The filter, or None where ids are given."""
    chosen = scorer_run_filter(created_after=since, **conditions)
    filtered = chosen.ByteSize() > 0
    if bool(ids) == filtered:
        raise click.UsageError("name scorer runs, or select them with --run, --agent, --scorer, --state or --since")
    return chosen if filtered else None


@click.command()
@_selection
@click.option("--scorer-version", default="", help="Score again with this version, beside the old result.")
@click.option("--declined", type=click.Choice(["budget"]), help="Those that there was no budget for.")
@service_options()
@pass_session
def redrive(
    session: Session,
    /,
    scorer_run_ids: Sequence[str],
    since: datetime | None,
    scorer_version: str,
    declined: str | None,
    dry_run: bool,
    **conditions: Any,
) -> None:
    """Try failed scorer runs again: those named, or those that fit all options."""
    if declined is not None:
        conditions |= {"states": [scorer_run_pb2.SCORER_RUN_STATE_DECLINED], "error_reason": declined}
    chosen = _chosen(scorer_run_ids, since, **conditions)
    with session.asking_scorers() as client:

        def work(dry: bool, on_progress: OnProgress) -> pb.RetryScorerRunsResponse:
            return client.retry_scorer_runs(
                scorer_run_ids, filter=chosen, scorer_version=scorer_version, dry_run=dry, on_progress=on_progress
            )

        _go_through(session, work, "redriven", dry_run=dry_run, many=chosen is not None)


@click.command("cancel-scores")
@_selection
@service_options()
@pass_session
def cancel_scores(
    session: Session, /, scorer_run_ids: Sequence[str], since: datetime | None, dry_run: bool, **conditions: Any
) -> None:
    """Cancel scorer runs that wait or run: those named, or those that fit all options."""
    chosen = _chosen(scorer_run_ids, since, **conditions)
    with session.asking_scorers() as client:

        def work(dry: bool, on_progress: OnProgress) -> pb.CancelScorerRunsResponse:
            return client.cancel_scorer_runs(scorer_run_ids, filter=chosen, dry_run=dry, on_progress=on_progress)

        _go_through(session, work, "cancelled", dry_run=dry_run, many=chosen is not None)


def _go_through(
    session: Session, work: Callable[[bool, OnProgress], Any], done: str, *, dry_run: bool, many: bool
) -> None:
    """Does what a command does to many scorer runs, with a bar on a terminal, and says how many it were."""
    so_far = 0
    with CtrlC().heard() as ctrl_c, _bar(session) if many and not dry_run else nullcontext() as bar:

        def on_progress(count: int) -> None:
            nonlocal so_far
            with ctrl_c.held_off():
                so_far = count
                if bar is not None:
                    bar.update(count)

        try:
            if bar is not None:
                bar.count(work(True, lambda count: None).count)
            response = work(dry_run, on_progress)
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted: {so_far} scorer runs are {done}, the others are as they were") from None
        except Unavailable as error:
            if so_far:
                error.message = f"{error.message}; {so_far} scorer runs are {done}, the same command does the others"
            raise
    if session.json:
        print_json(response)
    else:
        print(f"{response.count} scorer runs {'would be' if dry_run else 'are'} {done}")


class _Bar:
    """A bar for the person at a terminal."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("counting", total=None)

    def count(self, total: int) -> None:
        """Says how many it will be."""
        self._progress.update(self._task, description="", total=total)

    def update(self, done: int) -> None:
        self._progress.update(self._task, completed=done)


@contextmanager
def _bar(session: Session) -> Iterator[_Bar | None]:
    if not _is_live(session):
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=Console(), transient=True) as progress:
        yield _Bar(progress)


@click.command()
@click.argument("scorer_id", metavar="SCORER")
@service_options()
@pass_session
def pause(session: Session, scorer_id: str) -> None:
    """Hold a scorer's work. Requests are taken in and wait; `unpause` lets them continue."""
    with session.asking_scorers() as client:
        _print_scorer(session, client.pause_scorer(scorer_id))


@click.command()
@click.argument("scorer_id", metavar="SCORER")
@service_options()
@pass_session
def unpause(session: Session, scorer_id: str) -> None:
    """End a pause."""
    with session.asking_scorers() as client:
        _print_scorer(session, client.resume_scorer(scorer_id))


@click.command()
@click.argument("scorer_id", metavar="[SCORER]", default="")
@click.option("--since", type=Since(), help="Only what was created since: 2h, or 2026-01-31T12:00.")
@service_options()
@pass_session
def stats(session: Session, scorer_id: str, since: datetime | None) -> None:
    """Show counts, coverage, ages and latencies by scorer."""
    with session.asking_scorers() as client:
        found = client.get_scorer_stats(scorer_id, created_after=since)
    if session.json:
        for each in found:
            print_json(each)
        return
    print_table(
        _STATISTICS,
        (
            (
                f"{use_of(each)}{' (paused)' if each.paused else ''}",
                each.eligible,
                each.scored,
                f"{each.coverage:.0%}" if each.eligible else "",
                each.waiting,
                each.failed,
                each.declined,
                f"{each.mean_score:.3f}" if each.scored else "",
                span(seconds_of(each.latency_p50)) if each.scored else "",
                span(seconds_of(each.latency_p99)) if each.scored else "",
                span(seconds_of(each.oldest_age)) if each.waiting else "",
                span(seconds_of(each.oldest_due_age)) if each.HasField("oldest_due_age") else "",
            )
            for each in found
        ),
        empty="nothing was scored yet",
    )


COMMANDS = (scores, list_scorers, score, redrive, cancel_scores, pause, unpause, stats)


def _follow(session: Session, run_id: str) -> None:
    latest: dict[str, scorer_run_pb2.ScorerRun] = {}
    if not _has_scores(session, run_id):
        _show(session, [], empty=f"{run_id} asks for no scores")
        return
    live = Live(console=Console(), refresh_per_second=8, transient=True) if _is_live(session) else None
    with session.asking_scorers(patiently=True) as client:
        try:
            with CtrlC().heard() as ctrl_c, client.watch_scorer_runs(run_id) as stream, live or nullcontext():
                for scorer_run in stream:
                    with ctrl_c.held_off():
                        latest[scorer_run.scorer_run_id] = scorer_run
                        if session.json:
                            print_json(scorer_run)
                        elif live is not None:
                            live.update(_table(latest.values()))
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; the scorers continue. See: runwire scores {run_id}") from None
    if not session.json:
        _show(session, list(latest.values()), empty=f"{run_id} asked for no scores")


def _is_live(session: Session) -> bool:
    """Whether a table may be redrawn: a live one takes over what is printed, and would wrap lines of JSON."""
    return on_terminal() and not session.json


def _has_scores(session: Session, run_id: str) -> bool:
    """Whether there is anything to follow. A run that asks for no scores need not be waited for."""
    with session.asking_scorers() as scorers:
        if any(True for _ in scorers.list_scorer_runs(scorer_run_filter(run_id=run_id), page_size=1)):
            return True
    try:
        with session.asking_agents() as agents:
            return len(agents.get_run(run_id).scorers) > 0
    except Unavailable:
        return True  # nobody to ask: wait and see


def _show(session: Session, found: Sequence[scorer_run_pb2.ScorerRun], *, empty: str) -> None:
    if session.json:
        for each in found:
            print_json(each)
    else:
        print_table(_COLUMNS, map(_row, _sorted(found)), empty=empty)


def _sorted(found: Iterable[scorer_run_pb2.ScorerRun]) -> list[scorer_run_pb2.ScorerRun]:
    return sorted(found, key=lambda each: (each.scorer_id, each.scorer_name, each.scorer_version, each.scorer_run_id))


def use_of(each: scorer_run_pb2.ScorerRun | scorer_run_pb2.ScorerStats) -> str:
    """A scorer, and in brackets the name under which it is used."""
    return f"{each.scorer_id} [{each.scorer_name}]" if each.scorer_name else each.scorer_id


def _table(found: Iterable[scorer_run_pb2.ScorerRun]) -> Table:
    table = new_table(_COLUMNS)
    for each in _sorted(found):
        table.add_row(*map(styled, _row(each)))
    return table


def _row(each: scorer_run_pb2.ScorerRun) -> tuple[str, ...]:
    scored = each.HasField("score")
    problem = f"{each.error.reason}: {each.error.message}" if each.HasField("error") else ""
    return (
        use_of(each),
        each.scorer_version,
        state_name(each.state, scorer_run_pb2.ScorerRunState),
        f"{each.score.value:.3f}" if scored else "",
        each.score.label,
        str(len(each.attempts)),
        _who(each),
        each.score.reason or problem,
    )


def _who(each: scorer_run_pb2.ScorerRun) -> str:
    """Who had a hand in it."""
    named = {"asked": each.requested_by, "redriven": each.redriven_by, "cancelled": each.cancelled_by}
    return ", ".join(f"{what} by {who}" for what, who in named.items() if who)


def _paused(scorer: scorer_run_pb2.Scorer) -> str:
    if not scorer.paused:
        return ""
    return f"paused by {scorer.paused_by}" if scorer.paused_by else "paused"


def _print_scorer(session: Session, scorer: scorer_run_pb2.Scorer) -> None:
    if session.json:
        print_json(scorer)
    else:
        print(f"{scorer.scorer_id} is {_paused(scorer) or 'working'}")
