"""start, watch, runs, show, events, cancel, resume."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

import click

from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.cli.follow import describe, follow
from runwire.cli.inputs import (
    Duration,
    pairs,
    parse_input,
    parse_json,
    parse_object,
    read_input,
    read_parts,
)
from runwire.cli.many import Selection, cancel_many, chosen, delete_many, selecting
from runwire.cli.output import age, compact, note, print_json, print_table, span, state_name, when
from runwire.cli.session import Session, on_terminal, pass_session, service_options
from runwire.client import Fold, RunView, approve, deny, from_value, supply
from runwire.times import seconds_of

_MOST: Final = 100_000
"""Runs that are looked at to sort or to count them."""


@click.command()
@click.argument("agent")
@click.argument("input", required=False)
@click.option("--watch", "-w", is_flag=True, help="Follow the run to its end; answer here what it asks.")
@click.option("--text", is_flag=True, help="Take INPUT as text, although it looks like JSON.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Label of the run; repeatable.")
@click.option("--scorer", "scorers", multiple=True, metavar="ID", help="Scorer to ask for too; repeatable.")
@click.option("--timeout", type=Duration(), help="Time the run has.")
@click.option("--request-id", help="Makes a repeated command return the same run.")
@click.option("--file", "-f", "files", multiple=True, metavar="FILE", help="Image, recording or document; repeatable.")
@click.option("--url", "urls", multiple=True, metavar="URL", help="The same by its address; repeatable.")
@click.option("--run-context", metavar="JSON", help="An object for the agent's code, of which the model is not told.")
@click.option("--model", default="", help="Model to use, one that the agent offers.")
@click.option("--setting", "settings", multiple=True, metavar="KEY=VALUE", help="Setting of the model; repeatable.")
@service_options()
@pass_session
def start(
    session: Session,
    agent: str,
    input: str | None,
    watch: bool,
    text: bool,
    labels: Sequence[str],
    scorers: Sequence[str],
    timeout: float | None,
    request_id: str | None,
    files: Sequence[str],
    urls: Sequence[str],
    run_context: str | None,
    model: str,
    settings: Sequence[str],
) -> int:
    """Start a run of AGENT and print its id.

    INPUT is JSON, or else a plain string; @FILE reads it from a file, - from standard input. Without INPUT the
    agent gets null. With --file or --url an agent gets them as parts, after the text of INPUT.
    """
    value = read_parts(input, files, urls) if files or urls else read_input(input, as_text=text)
    given = {key: parse_input(value) for key, value in pairs(settings, "--setting").items()}
    with session.asking_agents() as client:
        run = client.start_run(
            agent,
            value,
            request_id=request_id,
            labels=pairs(labels, "--label"),
            scorers=scorers,
            run_timeout=timeout,
            context=None if run_context is None else parse_object(run_context, "--run-context"),
            model=model,
            model_settings=given or None,
        )
    if session.json:
        print_json(pb.StartRunResponse(run=run))
    elif watch:
        note(f"run {run.run_id}")
    else:
        print(run.run_id, flush=True)
        if on_terminal():
            note(f"follow it with: runwire watch {run.run_id}")
    return follow(session, run.run_id, answers=True) if watch else 0


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--after", metavar="CURSOR", default="", help="Begin after this cursor; without: with the first event.")
@click.option("--latest", is_flag=True, help="Begin with what comes from now on.")
@service_options()
@pass_session
def watch(session: Session, run_id: str, after: str, latest: bool) -> int:
    """Follow a run to its end, through every cut.

    Exits with 0 if the run succeeded and with 1 if it failed or was cancelled. Ctrl-C leaves the run alone and prints
    the cursor to continue from.
    """
    if after and latest:
        raise click.UsageError("--after and --latest exclude each other")
    with session.asking_agents() as client:
        # Asked first, because a stream would try for minutes to reach a service that never was there.
        client.get_run(run_id)
    return follow(session, run_id, after=after, latest=latest)


@click.command("runs")
@selecting
@click.option(
    "--sort",
    type=click.Choice(["newest", "oldest", "longest"]),
    default="newest",
    show_default=True,
    help="oldest and longest look at all that fit, up to 100,000.",
)
@click.option("--counts", is_flag=True, help="How many there are in each state, instead of the runs.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=20, show_default=True, help="At most this many.")
@service_options()
@pass_session
def list_runs(session: Session, selection: Selection, sort: str, counts: bool, limit: int) -> None:
    """List runs, newest first."""
    with session.asking_agents() as client:
        found = selection.find(client)
        runs = list(islice(found, limit if sort == "newest" and not counts else _MOST))
    if counts:
        _print_counts(session, runs)
        return
    if sort == "oldest":
        runs.reverse()
    elif sort == "longest":
        runs.sort(key=_lasted, reverse=True)
    if session.json:
        for run in runs[:limit]:
            print_json(run)
        return
    print_table(
        ("RUN", "AGENT", "STATE", "EVENTS", "CREATED", "LASTED", "INPUT"),
        (
            (r.run_id, r.agent_id, _state(r.state), r.last_sequence, _created(r), span(_lasted(r)), _input(r))
            for r in runs[:limit]
        ),
        empty="no runs; start one with: runwire start AGENT INPUT --watch",
    )


def _print_counts(session: Session, runs: Sequence[run_pb2.Run]) -> None:
    counted = Counter(_state(run.state) for run in runs)
    if session.json:
        print(json.dumps(counted))
        return
    rows = [(state, counted[state]) for state in sorted(counted, key=lambda state: -counted[state])]
    print_table(("STATE", "RUNS"), [*rows, ("all", len(runs))], empty="no runs")
    if len(runs) == _MOST:
        note(f"there are more: only the newest {_MOST:,} were counted")


def _lasted(run: run_pb2.Run) -> float:
    """Seconds from its acceptance to its end, or to now."""
    end = seconds_of(run.end_time) if run.end_time.seconds else time.time()
    return max(0.0, end - seconds_of(run.create_time))


@click.command()
@click.argument("run_id", metavar="RUN")
@service_options()
@pass_session
def show(session: Session, run_id: str) -> None:
    """Show one run: state, input, output, attempts, what it waits for."""
    with session.asking_agents() as client:
        run = client.get_run(run_id)
    if session.json:
        print_json(run)
        return
    for name, value in _details(run):
        if value:
            print(f"{name:<10} {value}")


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--after", metavar="CURSOR", default="", help="Begin after this cursor.")
@click.option("--limit", type=click.IntRange(1), help="At most this many events.")
@service_options()
@pass_session
def events(session: Session, run_id: str, after: str, limit: int | None) -> None:
    """Print the events that a run has so far, one a line. Does not wait for more."""
    folded = Fold()
    with session.asking_agents() as client:
        for event in islice(client.list_run_events(run_id, after=after, page_size=min(limit or 1000, 1000)), limit):
            if session.json:
                print_json(event)
            else:
                print(_event_line(event, folded.view))
            folded.add(event)


@click.command()
@click.argument("run_id", metavar="[RUN]", required=False)
@selecting
@click.option("--all", "every", is_flag=True, help="Every run that has not ended.")
@click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
@click.option("--reason", default="", help="Why, for people who read the run later.")
@service_options()
@pass_session
def cancel(session: Session, run_id: str | None, selection: Selection, every: bool, dry_run: bool, reason: str) -> int:
    """Ask a run to stop, or all runs that fit the options. Of no effect on runs that have ended."""
    if (several := chosen([run_id] if run_id else [], selection, every=every)) is not None:
        return cancel_many(session, several, reason, dry_run=dry_run)
    assert run_id is not None
    with session.asking_agents() as client:
        run = client.get_run(run_id) if dry_run else client.cancel_run(run_id, reason=reason)
    if session.json:
        print_json(run)
    elif run.end_time.seconds:
        print(f"{run.run_id} has ended: {_state(run.state)}")
    else:
        print(f"{run.run_id} {'would be' if dry_run else 'is'} asked to stop; it is {_state(run.state)}")
    return 0


@click.command()
@click.argument("run_id", metavar="RUN")
@click.option("--approve", "approved", multiple=True, metavar="REQUEST", help="Let this tool call happen.")
@click.option("--arguments", multiple=True, metavar="REQUEST=JSON", help="Approve it with these arguments instead.")
@click.option("--deny", "denied", multiple=True, metavar="REQUEST", help="Forbid this tool call.")
@click.option("--message", default="", help="What the model is told about what was denied.")
@click.option("--data", multiple=True, metavar="REQUEST=JSON", help="Supply what was asked for.")
@service_options()
@pass_session
def resume(
    session: Session,
    run_id: str,
    approved: Sequence[str],
    arguments: Sequence[str],
    denied: Sequence[str],
    message: str,
    data: Sequence[str],
) -> None:
    """Answer what a suspended run waits for. Without an answer, list what it waits for."""
    answers = [approve(request_id) for request_id in approved]
    answers += [approve(each, _object(text, each)) for each, text in pairs(arguments, "--arguments").items()]
    answers += [deny(request_id, message) for request_id in denied]
    answers += [supply(each, parse_json(text, f"the data of {each}")) for each, text in pairs(data, "--data").items()]
    with session.asking_agents() as client:
        run = client.resume_run(run_id, answers) if answers else client.get_run(run_id)
    if session.json:
        print_json(run)
    elif answers:
        print(f"{run.run_id} is {_state(run.state)}")
    else:
        _print_pending(run)


@click.command()
@click.argument("run_ids", metavar="[RUN]...", nargs=-1)
@selecting
@click.option("--all", "every", is_flag=True, help="Every run of the tenant.")
@click.option("--cancel", is_flag=True, help="Cancel those that have not ended first, and wait for it.")
@click.option("--keep-scores", is_flag=True, help="Leave what the scorer service has of them.")
@click.option("--dry-run", is_flag=True, help="Only say how many it would be.")
@service_options()
@pass_session
def delete(
    session: Session,
    run_ids: Sequence[str],
    selection: Selection,
    every: bool,
    cancel: bool,
    keep_scores: bool,
    dry_run: bool,
) -> None:
    """Delete ended runs for good, with their logs, conversations and scores: those named, or those that fit.

    Needs the scope admin, where the services ask for tokens.
    """
    several = chosen(run_ids, selection, every=every)
    delete_many(session, run_ids, several, scores=not keep_scores, cancel=cancel, dry_run=dry_run)


COMMANDS = (start, watch, list_runs, show, events, cancel, resume, delete)


def _print_pending(run: run_pb2.Run) -> None:
    print_table(
        ("REQUEST", "KIND", "NAME", "ARGUMENTS"),
        (
            (each.request_id, state_name(each.kind, run_pb2.PendingKind), each.name, _short(each.arguments))
            for each in run.pending
        ),
        empty=f"{run.run_id} waits for nothing; it is {_state(run.state)}",
    )


def _object(text: str, request_id: str) -> dict[str, Any]:
    value = parse_json(text, f"the arguments of {request_id}")
    if not isinstance(value, dict):
        raise click.UsageError(f"the arguments of {request_id} must be a JSON object")
    return value


def _lineage(run: run_pb2.Run) -> str:
    """Which run it continues from, and where."""
    if not run.forked_from:
        return ""
    kind = f"turn {run.forked_from_turn}" if run.forked_from_turn else f"step {run.forked_from_step}"
    place = kind if run.forked_from_turn or run.forked_from_step else "its end"
    return f"{run.forked_from} at {place}, after event {run.forked_from_sequence}"


def _details(run: run_pb2.Run) -> list[tuple[str, str]]:
    usage = run.usage
    return [
        ("run", run.run_id),
        ("agent", " ".join(filter(None, [run.agent_id, run.agent_version]))),
        ("fork of", _lineage(run)),
        ("state", _state(run.state) + (", asked to stop" if run.cancel_requested and not run.end_time.seconds else "")),
        ("input", _json(run.input)),
        ("output", _json(run.output) if run.HasField("output") else ""),
        ("error", f"{run.error.reason}: {run.error.message}" if run.HasField("error") else ""),
        ("waits for", ", ".join(f"{each.name} ({each.request_id})" for each in run.pending)),
        ("labels", ", ".join(f"{key}={value}" for key, value in sorted(run.labels.items()))),
        ("events", str(run.last_sequence)),
        ("cursor", run.cursor),
        (
            "attempts",
            "; ".join(f"{each.attempt} {each.outcome or 'running'} on {each.worker}" for each in run.attempts),
        ),
        (
            "usage",
            f"{usage.requests} requests, {usage.input_tokens} + {usage.output_tokens} tokens, "
            f"{usage.tool_calls} tool calls",
        ),
        ("scorers", ", ".join(each.scorer_id for each in run.scorers)),
        ("owner", run.owner),
        ("cancelled by", run.cancelled_by),
        ("created", when(run.create_time)),
        ("started", when(run.start_time)),
        ("ended", when(run.end_time)),
        ("expires", when(run.expire_time)),
    ]


def _event_line(event: run_event_pb2.RunEvent, before: RunView) -> str:
    kind = event.WhichOneof("payload") or "unknown"
    line = describe(event, before)
    if event.HasField("text_delta"):
        text = json.dumps(event.text_delta.text, ensure_ascii=False)
    elif event.HasField("reasoning_delta"):
        text = json.dumps(event.reasoning_delta.text, ensure_ascii=False)
    elif event.HasField("run_finished"):
        text = _state(event.run_finished.state)
    else:
        text = line.plain if line else ""
    return f"{event.sequence:>6} {event.attempt}/{event.step} {kind:<18} {text}".rstrip()


def _state(state: int) -> str:
    return state_name(state, run_pb2.RunState)


def _created(run: run_pb2.Run) -> str:
    return age(run.create_time) if sys.stdout.isatty() else when(run.create_time)


def _json(value: Any) -> str:
    return json.dumps(from_value(value), ensure_ascii=False)


def _input(run: run_pb2.Run) -> str:
    """As far as a list has it."""
    return "(large)" if "input" in run.omitted else _short(run.input)


def _short(value: Any) -> str:
    text = compact(from_value(value))
    return text if len(text) <= 60 else f"{text[:59]}…"
