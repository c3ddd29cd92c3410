"""doctor."""

from __future__ import annotations

import asyncio
import json
import platform
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click

from runwire.agent.v1 import agent_service_pb2
from runwire.cli.fleet import stranded
from runwire.cli.output import print_table
from runwire.cli.session import Session, pass_session, service_options
from runwire.client.access import Access
from runwire.client.probe import Probe, probe_agent_service, probe_scorer_service
from runwire.errors import ConfigurationError, RunwireError, Unavailable
from runwire.scorer.v1 import scorer_service_pb2
from runwire.scorer_requests import QUEUE

LIMIT_SECONDS: Final = 5.0
SKEW_SECONDS: Final = 2.0
OK, WARNING, FAILED = "ok", "warning", "failed"


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    check: str
    result: str
    detail: str
    advice: str = ""
    unreachable: bool = False


@click.command()
@click.option("--store", envvar="RUNWIRE_STORE", show_envvar=True, help="Store of the runs, to be checked too.")
@click.option("--results", envvar="RUNWIRE_RESULTS", show_envvar=True, help="Database of the scores, the same.")
@service_options()
@pass_session
def doctor(session: Session, store: str | None, results: str | None) -> int:
    """Check both services, and the store and the database where they are named, and say what to do.

    Exits with 0 if all is well (warnings aside), 3 if something cannot be reached, 1 for any other failure.
    """
    findings = list(_examine(session, store, results))
    if session.json:
        for each in findings:
            print(
                json.dumps({"check": each.check, "result": each.result, "detail": each.detail, "advice": each.advice})
            )
    else:
        print_table(
            ("CHECK", "RESULT", "DETAIL", "WHAT TO DO"),
            ((each.check, each.result, each.detail, each.advice) for each in findings),
            empty="",
        )
    if any(each.unreachable for each in findings):
        return 3
    return 1 if any(each.result == FAILED for each in findings) else 0


COMMANDS = (doctor,)


def _examine(session: Session, store: str | None, results: str | None) -> Iterator[Finding]:
    yield _here()
    listed: list[Any] = []
    yield from _service(session, "agent service", session.agent_address, probe_agent_service, listed)
    yield from _service(session, "scorer service", session.scorer_address, probe_scorer_service, listed)
    if len(listed) == 2:
        yield _scorers_of_agents(*listed)
    if listed:
        yield _waiting(session, [found.DESCRIPTOR.name for found in listed])
    if store:
        yield from asyncio.run(_store(store))
    if results:
        yield asyncio.run(_database(results))


def _here() -> Finding:
    parts = ", ".join(f"{name} {version(name)}" for name in ("grpcio", "protobuf"))
    return Finding("this client", OK, f"runwire {version('runwire')}, Python {platform.python_version()}, {parts}")


def _service(
    session: Session,
    name: str,
    address: str,
    probe: Callable[[str, Access, float], Probe],
    listed: list[Any],
) -> Iterator[Finding]:
    """Whether it answers, its health, its version and its clock. What it lists goes into `listed`."""
    try:
        found = probe(address, session.access(address), LIMIT_SECONDS)
    except RunwireError as error:
        unreachable = isinstance(error, Unavailable)
        option = f"--{name.partition(' ')[0]}-address"
        advice = f"start it (`runwire dev`), or name another with {option}" if unreachable else "look at its log"
        reason = error.message.rpartition("Failed to connect to remote host: ")[2]
        yield Finding(name, FAILED, f"{address}: {reason}", advice, unreachable)
        return
    listed.append(found.response)
    if found.serving:
        yield Finding(name, OK, f"{address} serves, and answers in {found.seconds * 1000:.1f} ms")
    else:
        yield Finding(name, WARNING, f"{address} answers, but its health is NOT_SERVING", "it starts, or stops")
    yield _version(name, found.version)
    if found.clock_skew_seconds is not None:
        yield _clock(name, found.clock_skew_seconds, found.seconds / 2)


def _version(name: str, theirs: str) -> Finding:
    ours = version("runwire")
    check = f"{name}: version"
    if theirs == ours:
        return Finding(check, OK, theirs)
    return Finding(
        check,
        WARNING,
        f"{theirs or 'not told'}; this client is {ours}",
        "they work together within a major version; install the same to be sure",
    )


def _clock(name: str, skew: float, uncertainty: float) -> Finding:
    detail = f"{skew:+.3f} s from this machine's, to within {uncertainty:.3f} s"
    if abs(skew) <= SKEW_SECONDS + uncertainty:
        return Finding(f"{name}: clock", OK, detail)
    return Finding(f"{name}: clock", WARNING, detail, "run a time service (NTP) on both machines")


def _scorers_of_agents(
    agents: agent_service_pb2.ListAgentsResponse, scorers: scorer_service_pb2.ListScorersResponse
) -> Finding:
    known = {scorer.scorer_id for scorer in scorers.scorers}
    wanted = {(agent.agent_id, scorer.scorer_id) for agent in agents.agents for scorer in agent.scorers}
    unknown = sorted(f"{scorer_id} (of {agent_id})" for agent_id, scorer_id in wanted if scorer_id not in known)
    if unknown:
        advice = "give the scorer service the module that defines them (--scorers)"
        return Finding("scorers of agents", WARNING, f"no such scorer: {', '.join(unknown)}", advice)
    detail = f"{len(agents.agents)} agents ask for {len({each for _, each in wanted})} scorers, all known"
    return Finding("scorers of agents", OK, detail)


def _waiting(session: Session, listed: Sequence[str]) -> Finding:
    """Whether something waits that nobody can do."""
    check, runs, scorer_runs = "what waits", list[Any](), list[Any]()
    try:
        if "ListAgentsResponse" in listed:
            with session.asking_agents() as agents:
                runs = agents.list_queues()
        if "ListScorersResponse" in listed:
            with session.asking_scorers() as scorers:
                scorer_runs = scorers.list_scorer_queues()
    except RunwireError as error:
        return Finding(check, WARNING, f"cannot be told: {error.message}", "a service of this release tells it")
    found = stranded(runs, scorer_runs)
    if found:
        advice = "start a worker that has it (`runwire workers` lists those that there are)"
        return Finding(check, FAILED, f"nobody can do {'; '.join(found)}", advice)
    due = sum(queue.due for queue in (*runs, *scorer_runs))
    return Finding(check, OK, f"{due} runs and scorer runs are due, and each has a worker that can do it")


async def _store(url: str) -> list[Finding]:
    """Opens the store as the services do, and asks it for its time."""
    from runwire.connect import open_store  # not before it is needed: it knows every engine

    # Opening it would make it, and all would be well with a store that nobody uses.
    if url.startswith("sqlite:///") and _file(url).parent.is_dir() and not _file(url).is_file():
        advice = "start the agent service: it makes it"
        return [Finding("store", FAILED, f"there is no file {str(_file(url))!r}", advice)]
    try:
        async with asyncio.timeout(LIMIT_SECONDS), open_store(url) as store:
            await store.ping()
            began = time.time()
            theirs = await store.now()
            ended = time.time()
            backlog = await store.backlog(QUEUE)
            risks = await store.risks()
    except TimeoutError:
        return [Finding("store", FAILED, f"no answer within {LIMIT_SECONDS:g} s", "is it up, and the URL right?", True)]
    except RunwireError as error:
        wrong = isinstance(error, ConfigurationError)
        advice = "correct --store or RUNWIRE_STORE" if wrong else "start it, or correct --store or RUNWIRE_STORE"
        return [Finding("store", FAILED, str(error), advice, unreachable=not wrong)]
    found = [
        Finding(
            "store", OK, f"answers in {(ended - began) * 1000:.1f} ms; {backlog} requests wait for the scorer service"
        ),
        _clock("store", theirs - (began + ended) / 2, (ended - began) / 2),
    ]
    if not risks:
        found.append(Finding("store: settings", OK, "nothing that is accepted is lost by them"))
    return found + [Finding(f"store: {risk.subject}", WARNING, risk.problem, risk.advice) for risk in risks]


async def _database(url: str) -> Finding:
    """Whether the scores' database can be read, and is one."""
    try:
        scheme = urlsplit(url).scheme.partition("+")[0]
        if scheme == "sqlite":
            return _sqlite(url)
        if scheme in ("postgresql", "postgres"):
            return await _postgres(url)
    except (OSError, TimeoutError) as error:
        # The message of a driver may hold the URL, and that a password.
        return Finding("database", FAILED, f"cannot be reached: {type(error).__name__}", "is it up?", True)
    except (ValueError, OverflowError):
        return Finding("database", FAILED, "the URL cannot be read", "correct --results or RUNWIRE_RESULTS")
    advice = "use sqlite:///file or postgresql://user@host/name"
    return Finding("database", FAILED, f"unknown scheme {scheme!r}", advice)


def _file(url: str) -> Path:
    return Path(urlsplit(url).path.removeprefix("/"))


def _sqlite(url: str) -> Finding:
    path = _file(url)
    if not path.is_file():
        return Finding("database", FAILED, f"there is no file {str(path)!r}", "start the scorer service: it makes it")
    try:
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            return _tables(connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall())
        finally:
            connection.close()
    except sqlite3.Error as error:
        return Finding("database", FAILED, f"{str(path)!r}: {error}", "is it a database of the scorer service?")


async def _postgres(url: str) -> Finding:
    if find_spec("asyncpg") is None:
        return Finding("database", FAILED, "asyncpg is not installed", "pip install 'runwire[postgres]'")
    import asyncpg

    plain = "postgresql" + url[url.index("://") :]
    try:
        connection = await asyncpg.connect(plain, timeout=LIMIT_SECONDS)
    except asyncpg.PostgresError as error:
        return Finding("database", FAILED, f"it refuses us: {error}", "correct --results or RUNWIRE_RESULTS")
    try:
        return _tables(
            await connection.fetch("SELECT table_name FROM information_schema.tables", timeout=LIMIT_SECONDS)
        )
    finally:
        await connection.close(timeout=LIMIT_SECONDS)


def _tables(rows: Sequence[Any]) -> Finding:
    if "scorer_runs" in {row[0] for row in rows}:
        return Finding("database", OK, "answers, and has the scorer service's tables")
    return Finding("database", FAILED, "it has no table scorer_runs", "start the scorer service once with --migrate")
