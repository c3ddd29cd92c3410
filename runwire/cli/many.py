"""cancel, retry and delete of many runs at once: by ids, or by a filter, first without effect if one likes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import Any, Final

import click

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import run_pb2
from runwire.cli.inputs import Duration, Since, State, pairs
from runwire.cli.interruption import CtrlC
from runwire.cli.output import note, print_json
from runwire.cli.session import Interrupted, Session, on_terminal
from runwire.client.sync import AgentClient
from runwire.errors import RunExpired, RunNotFound, RunwireError, Unavailable
from runwire.times import timestamp

_OPEN: Final = (
    run_pb2.RUN_STATE_QUEUED,
    run_pb2.RUN_STATE_RUNNING,
    run_pb2.RUN_STATE_SUSPENDED,
    run_pb2.RUN_STATE_WAITING,
)
_FAILED: Final = (run_pb2.RUN_STATE_FAILED, run_pb2.RUN_STATE_CANCELLED)
_SAY_SECONDS: Final = 1.0
_LOOK_SECONDS: Final = 0.5
_STATE = State(run_pb2.RunState)


@dataclass(frozen=True)
class Selection:
    """Which runs: what is set must all fit."""

    agent: str = ""
    states: Sequence[run_pb2.RunState] = ()
    labels: Sequence[str] = ()
    since: datetime | None = None
    older_than: float | None = None
    """In seconds, since they were created."""

    @property
    def is_empty(self) -> bool:
        """Whether it selects every run."""
        return not (self.agent or self.states or self.labels or self.since or self.older_than is not None)

    @property
    def before(self) -> datetime | None:
        return None if self.older_than is None else datetime.now(UTC) - timedelta(seconds=self.older_than)

    def find(self, client: AgentClient, default: Sequence[run_pb2.RunState] = ()) -> Iterator[run_pb2.Run]:
        """Newest first; those in the states `default` where no state was asked for."""
        return client.list_runs(
            agent_id=self.agent,
            states=self.states or default,
            labels=pairs(self.labels, "--label"),
            created_after=self.since,
            created_before=self.before,
            page_size=500,
        )

    def to_proto(self) -> pb.RunFilter:
        chosen = pb.RunFilter(agent_id=self.agent, states=self.states, labels=pairs(self.labels, "--label"))
        if self.since is not None:
            chosen.created_after.CopyFrom(timestamp(self.since.timestamp()))
        if (before := self.before) is not None:
            chosen.created_before.CopyFrom(timestamp(before.timestamp()))
        return chosen


def selecting(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that select runs; the command is given `selection`."""

    @wraps(command)
    def wrapped(*args: Any, **given: Any) -> Any:
        names = ("agent", "states", "labels", "since", "older_than")
        return command(*args, selection=Selection(**{name: given.pop(name) for name in names}), **given)

    for option in reversed(
        (
            click.option("--agent", default="", metavar="ID", help="Only runs of this agent."),
            click.option("--state", "states", multiple=True, type=_STATE, help="Only runs in this state; repeatable."),
            click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="With this label; repeatable."),
            click.option("--since", type=Since(), help="Only runs created since: 2h, or 2026-01-31T12:00."),
            click.option("--older-than", type=Duration(), help="Only runs created longer ago than that: 30m, 7d."),
        )
    ):
        wrapped = option(wrapped)
    return wrapped


def chosen(run_ids: Sequence[str], selection: Selection, *, every: bool) -> Selection | None:
    """The filter, or None for ids. A usage error unless exactly one of them is given: nothing selects every run but
    --all."""
    if every and not selection.is_empty:
        raise click.UsageError("--all selects every run: leave it out, or the other options")
    if run_ids and (every or not selection.is_empty):
        raise click.UsageError("give RUN or options that select runs, and not both")
    if run_ids:
        return None
    if selection.is_empty and not every:
        raise click.UsageError("give RUN, options that select runs, or --all")
    return selection


def cancel_many(session: Session, selection: Selection, reason: str, *, dry_run: bool) -> int:
    """Asks all runs that have not ended and fit to stop; the exit code."""
    with session.asking_agents() as client:
        runs = selection.find(client, _OPEN)
        # Their state in a list may have changed since: to cancel one that has ended is of no effect.
        return _each(
            session, runs, lambda run: client.cancel_run(run.run_id, reason=reason), "asked to stop", dry_run=dry_run
        )


def retry_many(session: Session, selection: Selection, *, dry_run: bool) -> int:
    """Starts a run for each that failed, or was cancelled, and fits; the exit code. A second time it starts none."""
    with session.asking_agents() as client:
        runs = (run for run in selection.find(client, _FAILED) if not run.HasField("conversation"))
        return _each(
            session,
            runs,
            lambda run: client.fork_run(run.run_id, request_id=_retry_id(run)),
            "retried",
            dry_run=dry_run,
        )


def _retry_id(run: run_pb2.Run) -> str:
    """The same for each repetition of the command: it starts no second run."""
    return "retry-" + hashlib.sha256(run.run_id.encode()).hexdigest()[:32]


def _each(
    session: Session, runs: Iterable[run_pb2.Run], act: Callable[[run_pb2.Run], Any], done: str, *, dry_run: bool
) -> int:
    """Does it for each run, one after the other, and says how many it were, how far it is, and what was refused. The
    exit code: 1 where something was."""
    count, refused = 0, 0
    said = time.monotonic()
    with CtrlC().heard() as ctrl_c:
        try:
            for run in runs:
                with ctrl_c.held_off():
                    try:
                        result = run if dry_run else act(run)
                    except Unavailable:
                        raise
                    except RunwireError as error:
                        refused += 1
                        note(f"{run.run_id}: {error}")
                        continue
                    count += 1
                    if session.json:
                        print_json(result)
                if on_terminal() and time.monotonic() - said > _SAY_SECONDS:
                    said = time.monotonic()
                    note(f"{count} so far")
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted: {count} runs are {done}, the others are as they were") from None
        except Unavailable as error:
            if count:
                error.message = f"{error.message}; {count} runs are {done}, the same command does the others"
            raise
    if not session.json:
        print(f"{count} runs {'would be' if dry_run else 'are'} {done}" + (f", {refused} refused" if refused else ""))
    return 1 if refused else 0


@dataclass
class Deleted:
    """How many of each, so far."""

    runs: int = 0
    scorer_runs: int = 0
    skipped: int = 0
    """Runs that had not ended."""


def delete_many(
    session: Session, run_ids: Sequence[str], selection: Selection | None, *, scores: bool, cancel: bool, dry_run: bool
) -> None:
    """Deletes page by page: first what the scorer service has of a page, then the runs themselves."""
    total = Deleted()
    try:
        with session.asking_agents() as client:
            while True:
                if cancel and not dry_run:
                    _cancel(client, run_ids, selection)
                _delete_round(session, client, run_ids, selection, total, scores=scores, dry_run=dry_run)
                if not (total.skipped and cancel) or dry_run:
                    break
                time.sleep(_LOOK_SECONDS)  # those that were cancelled come to their end
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted: {total.runs} runs are deleted, the others are as they were") from None
    if session.json:
        print_json(pb.DeleteRunsResponse(count=total.runs, skipped=total.skipped))
        return
    verb = "would be" if dry_run else "are"
    print(f"{total.runs} runs and {total.scorer_runs} scorer runs {verb} deleted")
    if total.skipped:
        then = "would be cancelled first" if cancel else "are left alone; --cancel cancels them first"
        note(f"{total.skipped} runs have not ended and {then}")


def _cancel(client: AgentClient, run_ids: Sequence[str], selection: Selection | None) -> None:
    runs = (run.run_id for run in selection.find(client, _OPEN)) if selection is not None else run_ids
    for run_id in runs:
        with suppress(RunNotFound, RunExpired):
            client.cancel_run(run_id, reason="it is to be deleted")


def _delete_round(
    session: Session,
    client: AgentClient,
    run_ids: Sequence[str],
    selection: Selection | None,
    total: Deleted,
    *,
    scores: bool,
    dry_run: bool,
) -> None:
    """Goes through all once. What a page names is deleted by its ids, after its scores: once a run is gone, nobody
    knows its id any more."""
    total.skipped = 0
    wanted = selection.to_proto() if selection is not None else None
    for page in client.delete_runs(run_ids, filter=wanted, dry_run=True):
        total.skipped += page.skipped
        if page.run_ids and scores:
            with session.asking_scorers() as scorers:
                total.scorer_runs += scorers.delete_scorer_runs(page.run_ids, dry_run=dry_run)
        if dry_run:
            total.runs += page.count
        elif page.run_ids:
            total.runs += sum(each.count for each in client.delete_runs(page.run_ids))
        if on_terminal():
            note(f"{total.runs} so far")
