"""What every statement of the scorer service costs: as SQLite and PostgreSQL plan it, none goes through a table that
grows."""

from __future__ import annotations

import ast
import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from sqlalchemy import delete, event, insert, text, update
from sqlalchemy.engine import Engine

import scorer_service
from runwire.errors import ClaimLost
from runwire.identity.principal import ANONYMOUS
from runwire.scorer.v1 import scorer_port_pb2 as port_pb
from runwire.scorer.v1 import scorer_run_requested_pb2 as wire
from scorer_service.answers.controls import Controls
from scorer_service.answers.queries import Filter, Place, Queries
from scorer_service.answers.statistics import Statistics
from scorer_service.answers.tallied import Window
from scorer_service.export import Exporter, Verdict
from scorer_service.people.opinions import Opinions, Said
from scorer_service.port.external import External
from scorer_service.port.port import Port, Rules, Wanted
from scorer_service.push.claims import PushClaims
from scorer_service.push.targets import Target
from scorer_service.queue.backlog import Backlog
from scorer_service.queue.budgets import Budget, Budgets
from scorer_service.queue.holders import Holders
from scorer_service.queue.jobs import Held, Jobs, Offer
from scorer_service.queue.parking import Parking
from scorer_service.queue.rates import Rate
from scorer_service.queue.retention import Ages, Retention, purge
from scorer_service.registry import Registry
from scorer_service.results.database import Database, open_database
from scorer_service.results.records import Asked, Error, Finished, NewRun, ScoreRecord, State
from scorer_service.results.schema import attempts, exports, parked_requests, samples, scorer_runs
from scorer_service.scoring import RetryPolicy, Sample, scorer
from tests.scorer.many import fill
from tests.scorer.test_export import Remembering

OWN = __file__
FOLDER = Path(scorer_service.__file__).parent
MODULES = (
    *(f"answers/{name}" for name in ("controls", "queries", "statistics")),
    *(f"queue/{name}" for name in ("backlog", "budgets", "holders", "jobs", "parking", "rates", "retention", "rows")),
    *(f"port/{name}" for name in ("claims", "external", "port", "reports", "waiters")),
    "people/opinions",
    "push/claims",
    "export",
)
GROW = ("opinions", "scorer_runs", "attempts", "samples", "exports", "parked_requests")
WHOLE = {
    "count(*) AS count_1 \nFROM (SELECT exports.attempt": "what waits to be exported, once a second",
    "count(*) AS count_1 \nFROM parked_requests": "what waits to be taken in, in tests",
    "AS bin, count(*) AS number": "statistics: one pass over one index, kept and shared",
}
"""Statements that may go through a table, and why."""

Statements = dict[str, Any]


@scorer(id="brevity", version="2")
async def BREVITY(sample: Sample) -> float:
    return 1.0


def calls_written() -> Iterator[tuple[str, int, int]]:
    """Where the service executes a statement: file, first and last line."""
    for module in MODULES:
        path = FOLDER / f"{module}.py"
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = [ast.unparse(argument) for argument in node.args[:1]]
            if name == "execute" or (name in ("insert_new", "run") and given == ["connection"]):
                yield str(path), node.lineno, node.end_lineno or node.lineno


@contextmanager
def recorded() -> Iterator[tuple[Statements, set[tuple[str, int]]]]:
    """The statements executed meanwhile with values for them, and the lines of the service that did it."""
    statements: Statements = {}
    lines: set[tuple[str, int]] = set()

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, many: bool) -> None:
        frame: FrameType | None = sys._getframe(1)
        by = ""
        while frame is not None:
            path = frame.f_code.co_filename
            if path == OWN or path.startswith(str(FOLDER)):
                by = by or path
                lines.add((path, frame.f_lineno))
            frame = frame.f_back
        if by != OWN and statement.startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH")):
            statements.setdefault(statement, parameters[0] if many else parameters)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        yield statements, lines
    finally:
        event.remove(Engine, "before_cursor_execute", note)


async def work(database: Database, jobs: Jobs) -> None:
    """Everything that becomes of scorer runs in the hands of workers."""
    wanted = {"brevity": Offer(50, Rate("model", 1000.0, 1000)), "other": Offer(50)}
    await jobs.register(list(wanted))
    large = b"\x0a\x00" + b"x" * 20_000
    await jobs.add([NewRun(f"new-{number}", "default", "brevity", sample=large) for number in range(4)])
    await jobs.add(
        [NewRun("late", "default", "other", deadline=1.0), NewRun("bad", "default", "a", state=State.FAILED)]
    )
    dying = Jobs(database, worker="w", lease_seconds=-1, max_losses=2, export_backlog=100_000)
    offers = {"brevity": Offer(50)}
    (first,) = (await dying.claim(offers, 1)).jobs
    for held in (Held(frozenset({(first.scorer_run_id, first.token)})), None, None):
        await dying.claim(offers, 50, held=held)
    assert (await dying.claim(offers, 1, alone=True)).jobs
    await jobs.add([NewRun("late", "default", "other", deadline=1.0)])
    await jobs.add([NewRun(f"more-{number}", "default", "brevity", sample=large) for number in range(3)])
    claimed = (await jobs.claim(wanted, 50)).jobs
    assert len(claimed) >= 3
    await jobs.extend(claimed)
    await jobs.keep_steps({claimed[0]: "{}"})
    score = ScoreRecord(1.0, "", "", "{}", 1, None)
    asked = Asked("model", "rate_limited", 0.0)
    no = Error("scorer_error", "no")
    await jobs.finish([Finished(claimed[0], State.RETRYING, error=no, failed=True, asked=asked)])
    await jobs.finish([Finished(job, State.SUCCEEDED, "1", score) for job in claimed[1:2]])
    await jobs.finish([Finished(claimed[0], State.SUCCEEDED, "1", score)])
    assert await jobs.finish([Finished(first, State.SUCCEEDED, "1", score)])  # others had it since
    await jobs.refused()


async def others(database: Database, jobs: Jobs) -> None:
    """What the other loops do."""
    holders = Holders(database, "w", {"brevity": ["1"]}, orphan_seconds=0.02, backlog=jobs.backlog)
    gone = NewRun("gone", "default", "nobodys", run_id="r", sample=b"s")
    await jobs.add([gone])
    for _ in range(200):
        if await holders.sweep():
            break
        old = update(scorer_runs).where(scorer_runs.c.scorer_run_id == "gone").values(due_time=1.0)
        await database.write(lambda c, old=old: c.execute(old))  # type: ignore[misc]
    else:
        raise AssertionError("it was never given up")
    await holders.all("default")
    await holders.workers()
    await holders.queues()
    await holders.work(frozenset())
    await jobs.add([NewRun("late-2", "default", "nobodys", deadline=1.0, sample=b"s")])
    retention = Retention(database, Ages(1.0, 1.0, 1.0), backlog=jobs.backlog)
    assert await retention.end_late()
    for verdict in (Verdict.AWAY, Verdict.FAILED, Verdict.REFUSED, Verdict.TAKEN):
        due_now = update(exports).values(due_time=0.0)
        await database.write(lambda c, due_now=due_now: c.execute(due_now))  # type: ignore[misc]
        await Exporter(database, Remembering(verdict)).run_once()
    await database.write(lambda c: c.execute(delete(exports)))
    await database.write(lambda c: c.execute(insert(exports), {**waiting(1)[0], "scorer_run_id": "nobody"}))
    await Exporter(database, Remembering()).run_once()
    parking = Parking(database, jobs)
    body = wire.ScorerRunRequested(scorer_run_id="parked").SerializeToString()
    for error in (ValueError("odd"), ValueError("odd")):
        await parking.park(body, gone, error)
    due = update(parked_requests).values(due_time=0.0)
    await database.write(lambda c: c.execute(due))
    broken = NewRun("broken", "default", "a", labels=None)  # type: ignore[arg-type]
    for new in (broken, gone):
        await database.write(lambda c: c.execute(due))
        await parking.retry(lambda _, new=new: new)  # type: ignore[misc]
    await parking.count()
    await database.write(lambda c: Backlog(1).add(c, [("one", 1), ("two", 2)]))
    for window in (Window("default"), Window("default", "brevity", 1.0, 2.0)):
        await Statistics(database).ask(window)
    assert await retention.sweep_runs()
    assert await retention.sweep_samples()
    await jobs.add([NewRun("purged", "default", "a", run_id="purged", sample=b"purged")])
    assert await purge(database, "default", ["purged"], dry_run=True) == (1, False)
    assert await purge(database, "default", ["purged"]) == (1, False)


async def elsewhere(database: Database, jobs: Jobs) -> None:
    """What workers of scorers that are carried out elsewhere ask for."""
    rules = Rules(lease_seconds=30, timeout_seconds=60, retry=RetryPolicy(), max_losses=3, orphan_seconds=3600)
    port = Port(database, rules, jobs.backlog, lambda scorer_id: False)
    await port.register(External("default", "outside", "1"))
    await jobs.add([NewRun(f"outside-{number}", "default", "outside", sample=b"s") for number in range(3)])
    wanted = Wanted("w", {"outside": ["1"]}, 3, 0.0, 30.0, 0, 1000)
    found, claims = await port.claim(ANONYMOUS, wanted)
    first, second, third = found.jobs
    await claims.traces(found.jobs)
    for job, fields in (
        (first, {"extension": port_pb.AttemptExtension()}),
        (first, {"score": {"value": 1}}),
        (second, {"error": port_pb.AttemptError()}),
    ):
        named = {"worker": "w", "scorer_run_id": job.scorer_run_id, "claim": job.token, "scorer_version": "1"}
        await port.report(ANONYMOUS, port_pb.ReportScorerRunRequest(**named, **fields))  # type: ignore[arg-type]
    stolen = port_pb.ReportScorerRunRequest(worker="w", scorer_run_id=third.scorer_run_id, claim=7)
    with pytest.raises(ClaimLost):
        await port.report(ANONYMOUS, stolen)
    async with asyncio.TaskGroup() as group:
        group.create_task(port.claim(ANONYMOUS, Wanted("v", {"outside": ["1"]}, 3, 0.2, 30.0, 1, 1000)))
        await asyncio.sleep(0.1)
        await port.look_once()
    target = Target(scorer_id="outside", version="1", executor="webhook", url="http://x/")
    assert await PushClaims(database, target, worker="push:w", backlog=jobs.backlog).held() == 1


async def opinions(database: Database, jobs: Jobs) -> None:
    """What people say."""
    given = Said("default", "run-1", "a", {}, "brevity", 1.0, "", "", "anna", "", "one")
    kept = Opinions(database, jobs)
    for said in (given, given, replace(given, value=0.0, request_id="two")):
        await kept.submit(said)
    await kept.of(given.scorer_run_id)
    await kept.agent_of("default", "run-1")
    for window in (("", None, None), ("brevity", 1.0, 1e11)):
        await kept.agreement("default", *window)


async def spending(database: Database, jobs: Jobs) -> None:
    """What judges may spend."""
    await jobs.add([NewRun(f"judged-{number}", "default", "judged", sample=b"s") for number in range(2)])
    await jobs.register(["judged"])
    budgets = Budgets(database)
    await budgets.set(Budget("default", "judged", 60.0, 1, None))
    await budgets.set(Budget("default", "judged", 3600.0, 1, None))
    await budgets.set(Budget("default", "", 60.0, None, None))
    await budgets.all("default")
    jobs.look_again()
    spent = json.dumps({"input_tokens": 1, "output_tokens": 1, "cost_usd": None})
    (job,) = (await jobs.claim({"judged": Offer(1)}, 1)).jobs
    await jobs.finish([Finished(job, State.SUCCEEDED, "1", ScoreRecord(1.0, "", "", "{}", 1, None), spent=spent)])
    jobs.look_again()
    assert not (await jobs.claim({"judged": Offer(1)}, 1)).jobs


async def people(database: Database, jobs: Jobs) -> None:
    """What is asked from outside."""
    queries = Queries(database)
    a_run = NewRun("mine", "default", "brevity", run_id="run-1", sample=b"s")
    controls = Controls(database, jobs, Registry([BREVITY]), wake=lambda: None)
    await controls.request(a_run)
    filters = [
        Filter("default"),
        Filter("default", run_id="run-1"),
        Filter("default", agent_id="librarian"),
        Filter("default", scorer_id="brevity"),
        Filter("default", states=[5], created_after=1.0, created_before=1e10),
        Filter("default", scorer_id="brevity", states=[4, 5], scorer_name=""),
    ]
    for wanted in filters:
        await queries.page(wanted, limit=5)
        await queries.page(wanted, limit=5, after=(1500.0, "x"))
        await controls.cancel("default", wanted, dry_run=True)
        await controls.redrive("default", wanted, dry_run=True)
    await queries.get("default", "mine", with_sample=True)
    await queries.get("default", "00000000000000000000000000000002", with_sample=True)
    upto = (await queries.settled()).revision
    for run_id in ("", "run-1"):
        await queries.changes(Place(1, "a"), upto, tenant="default", run_id=run_id)
        await queries.changes(Place(1), upto, run_id=run_id)
    await queries.progress("default", ["run-1"])
    await queries.changes_of("default", ["run-1", "run-2"], upto, limit=5, most_weight=1000)
    await queries.paused("default")
    await queries.holdup()
    await controls.rescore("default", Filter("default", states=[5], created_before=1010.0), "2")
    assert (await controls.redrive("default", ["00000000000000000000000000000004"])).count
    await jobs.register(["brevity"])
    assert (await jobs.claim({"brevity": Offer(1)}, 1)).jobs
    await controls.cancel("default", Filter("default", scorer_id="brevity", created_after=time.time() - 60))
    await controls.pause("brevity", True)
    await controls.pause("brevity", False)


def waiting(count: int) -> list[dict[str, Any]]:
    """Attempts that wait to be exported."""
    return [{"scorer_run_id": f"{n:032d}", "attempt": 0, "due_time": 0.0, "tries": 0} for n in range(1, count + 1)]


async def everything(database: Database) -> None:
    runs: dict[str, Any] = {"agent_id": "'agent-' || n % 100", "run_id": "'run-' || n % 1000"}
    waits: dict[str, Any] = {
        "state": "CASE n % 3 WHEN 0 THEN 3 ELSE 5 END",
        "due_time": "CASE n % 3 WHEN 0 THEN 1e12 END",
    }
    await fill(database, 3000, end_time="CASE n % 3 WHEN 0 THEN NULL ELSE 1001.5 + n END", **runs, **waits)
    started = {"worker": "w", "start_time": 1.0, "end_time": 2.0, "error_reason": "scorer_error"}
    keys = [f"{number:032d}" for number in range(1, 2001)]
    rows = [{"scorer_run_id": key, "attempt": 0, "partial_results": "{}", **started} for key in keys]
    bodies = [
        {"sample_id": key, "tenant": "default", "owner": key, "body": b"s", "create_time": 1.0 + number}
        for number, key in enumerate(keys)
    ]
    for table, lines in ((attempts, rows), (exports, waiting(2000)), (samples, bodies)):
        await database.write(lambda c, table=table, lines=lines: c.execute(table.insert(), lines))  # type: ignore[misc]
    # Nobody tells SQLite in service what its tables hold. PostgreSQL finds out by itself.
    for told in ("DELETE FROM sqlite_stat1", "ANALYZE sqlite_schema") if database.embedded else ("ANALYZE",):
        await database.write(lambda c, told=told: c.execute(text(told)))  # type: ignore[misc]
    jobs = Jobs(database, worker="w", export_backlog=100_000)
    await Statistics(database).ask(Window("default"))
    await work(database, jobs)
    await people(database, jobs)
    await elsewhere(database, jobs)
    await opinions(database, jobs)
    await spending(database, jobs)
    await others(database, jobs)


def in_sqlite(connection: Any, statement: str, parameters: Any) -> list[str]:
    """Steps of the plan that go through a table that grows."""
    steps = [line[3] for line in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    return [step for step in steps if step.startswith("SCAN") and step.split()[1] in GROW]


def in_postgresql(connection: Any, statement: str, parameters: Any) -> list[str]:
    connection.exec_driver_sql("SET LOCAL enable_seqscan = off")  # so small as the tables are here it is the cheapest
    explained = connection.exec_driver_sql(f"EXPLAIN (FORMAT JSON) {statement}", parameters).scalar_one()
    plan = json.loads(explained) if isinstance(explained, str) else explained
    return list(scans(plan[0]["Plan"], plan[0]["Plan"]))


def scans(node: dict[str, Any], above: dict[str, Any]) -> Iterator[str]:
    kind = node["Node Type"]
    table = above.get("Relation Name") if kind == "Bitmap Index Scan" else node.get("Relation Name")
    if table in GROW and "Scan" in kind and kind != "Bitmap Heap Scan" and "Index Cond" not in node:
        yield f"{kind} on {table} by {node.get('Index Name')}: {node.get('Filter')}"
    for inner in node.get("Plans", ()):
        yield from scans(inner, node)


async def test_no_statement_goes_through_a_table(results_url: str) -> None:
    """Every statement that the service makes, of every line that executes one: each enters an index, on both kinds of
    databases, but for those that say why they do not."""
    with recorded() as (statements, lines):
        async with open_database(results_url) as database:
            await everything(database)
    missed = [
        f"{Path(path).name}:{first}"
        for path, first, last in calls_written()
        if not any((path, line) in lines for line in range(first, last + 1))
    ]
    assert missed == []
    wrong = {}
    async with open_database(results_url) as database:  # again, without what a connection remembers of its tables
        planned = in_sqlite if database.embedded else in_postgresql
        for statement, parameters in statements.items():
            if not any(table in statement for table in GROW) or any(part in statement for part in WHOLE):
                continue
            found = await database.write(lambda c, s=statement, p=parameters: planned(c, s, p))  # type: ignore[misc]
            if found:
                wrong[statement[:2000]] = found
    assert wrong == {}
    assert len(statements) > 60
