"""top: workers, queues, runs and scorers of both services, looked at again and again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import click
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from runwire.agent.v1 import agent_service_pb2, run_pb2
from runwire.cli import fleet
from runwire.cli.inputs import Duration
from runwire.cli.interruption import CtrlC
from runwire.cli.output import new_table, span, state_name, styled
from runwire.cli.session import Session, on_terminal, pass_session, service_options
from runwire.errors import RunwireError, Unavailable
from runwire.scorer.v1 import scorer_service_pb2
from runwire.times import seconds_of

_NEWEST: Final = 200
"""Runs that are looked at."""
_SHOWN: Final = 12
_SECONDS: Final = 2.0


@dataclass
class Snapshot:
    """What both services say at one moment."""

    time: float
    workers: Sequence[agent_service_pb2.Worker] = ()
    queues: Sequence[agent_service_pb2.RunQueue] = ()
    runs: Sequence[run_pb2.Run] = ()
    """The newest."""
    scorer_workers: Sequence[scorer_service_pb2.ScorerWorker] = ()
    scorer_queues: Sequence[scorer_service_pb2.ScorerQueue] = ()
    problems: list[str] = field(default_factory=list)
    """Who did not answer, and why."""


@click.command()
@click.option("--every", type=Duration(), default=_SECONDS, show_default=True, help="How often to look.")
@click.option("--once", is_flag=True, help="Look once, as in a pipe.")
@service_options()
@pass_session
def top(session: Session, every: float, once: bool) -> int:
    """Show workers, queues, runs and scorers, live on a terminal; once, in plain lines, in a pipe.

    Exits with 1 if something is due that no worker can do, or the agent service did not answer.
    """
    if once or not on_terminal():
        snapshot = look(session)
        for line in plain(snapshot):
            print(line)
        return 1 if alarms(snapshot) else 0
    with CtrlC().heard(), Live(console=Console(), screen=True, auto_refresh=False) as live:
        try:
            while True:
                live.update(render(look(session)), refresh=True)
                time.sleep(max(0.2, every))
        except KeyboardInterrupt:
            return 0


def look(session: Session) -> Snapshot:
    """Asks both services; what does not answer is told, and the rest is shown."""
    snapshot = Snapshot(time.time())
    try:
        with session.asking_agents() as client:
            snapshot.workers, snapshot.queues = client.list_workers(), client.list_queues()
            snapshot.runs = list(islice(client.list_runs(page_size=_NEWEST), _NEWEST))
    except RunwireError as error:
        snapshot.problems.append(str(error))
    try:
        with session.asking_scorers() as scorers:
            snapshot.scorer_workers = scorers.list_scorer_workers()
            snapshot.scorer_queues = scorers.list_scorer_queues()
    except Unavailable:
        pass  # runs are executed without it
    except RunwireError as error:
        snapshot.problems.append(str(error))
    return snapshot


def alarms(snapshot: Snapshot) -> list[str]:
    """What somebody should look at."""
    waiting = fleet.stranded(snapshot.queues, snapshot.scorer_queues)
    return [*snapshot.problems, *(f"nobody can do {what}" for what in waiting)]


def render(snapshot: Snapshot) -> RenderableType:
    """The screen."""
    parts: list[RenderableType] = [Text(headline(snapshot), style="bold")]
    parts += [Text(f"! {alarm}", style="bold red") for alarm in alarms(snapshot)]
    for title, columns, rows in sections(snapshot):
        table = new_table(columns)
        for row in rows:
            table.add_row(*map(styled, row))
        parts += [Text(), Text(title, style="bold cyan"), table if table.row_count else Text("none", style="dim")]
    return Group(*parts)


def plain(snapshot: Snapshot) -> list[str]:
    """The same in lines: the section and the cells, with tabs between them."""
    lines = [f"summary\t{headline(snapshot)}"]
    lines += [f"alarm\t{' '.join(alarm.split())}" for alarm in alarms(snapshot)]
    for title, _, rows in sections(snapshot):
        lines += ["\t".join([title, *(" ".join(str(cell).split()) for cell in row)]) for row in rows]
    return lines


def headline(snapshot: Snapshot) -> str:
    """The first line: how much there is of everything."""
    counted = Counter(state_name(run.state, run_pb2.RunState) for run in snapshot.runs)
    due, running = (sum(getattr(queue, name) for queue in snapshot.queues) for name in ("due", "running"))
    scorer_due = sum(queue.due for queue in snapshot.scorer_queues)
    states = ", ".join(f"{count} {state}" for state, count in counted.most_common())
    return (
        f"{len(snapshot.workers)} workers, {running} runs executed, {due} due; "
        f"{len(snapshot.scorer_workers)} scorer processes, {scorer_due} scorer runs due; "
        f"of the newest {len(snapshot.runs)} runs: {states or 'none'}"
    )


def sections(snapshot: Snapshot) -> Iterable[tuple[str, Sequence[str], list[tuple[object, ...]]]]:
    """Title, columns and rows of each part."""
    workers: list[tuple[object, ...]] = [(each.worker, *fleet.of_agents(each)) for each in snapshot.workers]
    yield "workers", ("WORKER", *fleet.WORKER_COLUMNS), workers
    yield "queues", fleet.QUEUE_COLUMNS, [*fleet.rows(snapshot.queues, snapshot.scorer_queues)]
    of_runs = ("RUN", "AGENT", "STATE", "ATTEMPT", "EVENTS", "LASTED", "WORKER")
    yield "runs", of_runs, [_run(run, snapshot.time) for run in _interesting(snapshot.runs)]


def _interesting(runs: Sequence[run_pb2.Run]) -> list[run_pb2.Run]:
    """Those that are executed, those that wait longest for a start, and the newest of the others."""
    order = {run_pb2.RUN_STATE_RUNNING: 0, run_pb2.RUN_STATE_QUEUED: 1}
    return sorted(runs, key=lambda run: order.get(run.state, 2))[:_SHOWN]


def _run(run: run_pb2.Run, now: float) -> tuple[Any, ...]:
    end = seconds_of(run.end_time) if run.end_time.seconds else now
    state = state_name(run.state, run_pb2.RunState)
    worker = run.attempts[-1].worker if run.attempts else ""
    lasted = span(end - seconds_of(run.create_time))
    return run.run_id, run.agent_id, state, run.attempt, run.last_sequence, lasted, worker


COMMANDS = (top,)
