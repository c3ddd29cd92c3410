"""workers, queues: who does the work of both services, and what waits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import click

from runwire.agent.v1 import agent_service_pb2
from runwire.cli.output import age, print_json, print_table, span
from runwire.cli.session import Session, pass_session, service_options
from runwire.errors import Unavailable
from runwire.scorer.v1 import scorer_service_pb2
from runwire.times import seconds_of

WORKER_COLUMNS: Final = ("RUNNING", "ROOM", "STATE", "SEEN", "HAS")
QUEUE_COLUMNS: Final = ("QUEUE", "DUE", "OLDEST", "AHEAD", "RUNNING", "WORKERS", "VERSIONS", "STATE")


@click.command()
@service_options()
@pass_session
def workers(session: Session) -> None:
    """List the processes that execute runs and scorer runs, with what each has."""
    found: list[Any] = [*_of_agents(session, "list_workers"), *_of_scorers(session, "list_scorer_workers")]
    if session.json:
        for worker in found:
            print_json(worker)
        return
    columns = ("WORKER", "SERVICE", *WORKER_COLUMNS)
    print_table(columns, map(_worker, found), empty="no worker: nothing that is started will be done")


@click.command()
@service_options()
@pass_session
def queues(session: Session) -> int:
    """List what waits, by agent and by scorer, and how many workers could do it.

    Exits with 1 if something is due that no worker can do.
    """
    runs, scorer_runs = _of_agents(session, "list_queues"), _of_scorers(session, "list_scorer_queues")
    if session.json:
        for queue in (*runs, *scorer_runs):
            print_json(queue)
    else:
        print_table(QUEUE_COLUMNS, rows(runs, scorer_runs), empty="nothing waits")
    return 1 if stranded(runs, scorer_runs) else 0


COMMANDS = (workers, queues)


def stranded(
    runs: Iterable[agent_service_pb2.RunQueue], scorer_runs: Iterable[scorer_service_pb2.ScorerQueue]
) -> list[str]:
    """What is due and can be done by nobody, each in words."""
    found = [words for queue in runs for words in _stranded_runs(queue)]
    for queue in scorer_runs:
        if _waits_for_nobody(queue) and not queue.paused:
            version = f" version {queue.scorer_version!r}" if queue.scorer_version else ""
            found.append(f"{queue.due} scorer runs of {queue.scorer_id!r}{version}")
    return found


def rows(
    runs: Iterable[agent_service_pb2.RunQueue], scorer_runs: Iterable[scorer_service_pb2.ScorerQueue]
) -> Iterator[tuple[object, ...]]:
    """The lines of a table of queues, with QUEUE_COLUMNS."""
    for queue in runs:
        yield _run_queue(queue)
        yield from _versions(queue)
    yield from map(_scorer_queue, scorer_runs)


def _stranded_runs(queue: agent_service_pb2.RunQueue) -> Iterator[str]:
    for each in queue.by_version:
        if each.due and not each.workers:
            version = f" version {each.version!r}" if each.version else ""
            yield f"{each.due} runs of agent {queue.agent_id!r}{version}"
    free = queue.due - sum(each.due for each in queue.by_version)
    if free > 0 and not queue.workers:
        yield f"{free} runs of agent {queue.agent_id!r}"


def _waits_for_nobody(queue: agent_service_pb2.RunQueue | scorer_service_pb2.ScorerQueue) -> bool:
    return queue.due > 0 and queue.workers == 0


def _of_agents(session: Session, method: str) -> list[Any]:
    with session.asking_agents() as client:
        found: list[Any] = getattr(client, method)()
        return found


def _of_scorers(session: Session, method: str) -> list[Any]:
    """What the scorer service says; nothing where there is none: runs are executed without it."""
    try:
        with session.asking_scorers() as client:
            found: list[Any] = getattr(client, method)()
            return found
    except Unavailable as error:
        click.echo(str(error), err=True)
        return []


def _worker(worker: agent_service_pb2.Worker | scorer_service_pb2.ScorerWorker) -> tuple[object, ...]:
    if isinstance(worker, scorer_service_pb2.ScorerWorker):
        has = ", ".join(f"{scorer.scorer_id} {scorer.version}".strip() for scorer in worker.scorers)
        return worker.worker, "scorer", "", "", "", age(worker.seen_time), has
    return worker.worker, "agent", *of_agents(worker)


def of_agents(worker: agent_service_pb2.Worker) -> tuple[object, ...]:
    """What a worker of the agent service does, in WORKER_COLUMNS."""
    has = ", ".join(f"{agent.agent_id} {agent.version}".strip() for agent in worker.agents)
    state = "draining" if worker.draining else "takes runs"
    return worker.running, worker.room, state, age(worker.seen_time), has


def _run_queue(queue: agent_service_pb2.RunQueue) -> tuple[object, ...]:
    return (
        f"agent {queue.agent_id}",
        queue.due,
        _oldest(queue),
        queue.ahead,
        queue.running,
        queue.workers,
        ", ".join(filter(None, queue.versions)),
        "nobody can do it" if any(_stranded_runs(queue)) else "",
    )


def _versions(queue: agent_service_pb2.RunQueue) -> Iterator[tuple[object, ...]]:
    """A line for each version where there is more than one."""
    if len(queue.by_version) > 1:
        for each in queue.by_version:
            state = "nobody can do it" if each.due and not each.workers else ""
            name = f"  version {each.version or '(none)'}"
            yield name, each.due, _oldest(each), each.ahead, each.running, each.workers, each.version, state


def _scorer_queue(queue: scorer_service_pb2.ScorerQueue) -> tuple[object, ...]:
    state = "paused" if queue.paused else "nobody can do it" if _waits_for_nobody(queue) else ""
    name = f"scorer {queue.scorer_id}"
    return name, queue.due, _oldest(queue), queue.ahead, "", queue.workers, queue.scorer_version, state


def _oldest(
    queue: agent_service_pb2.RunQueue | agent_service_pb2.RunQueueVersion | scorer_service_pb2.ScorerQueue,
) -> str:
    return span(seconds_of(queue.oldest_due_age)) if queue.due else ""
