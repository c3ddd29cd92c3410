"""Rows that are damaged, on every database: each fails itself, in what of it is damaged, and no list and no watch."""

from __future__ import annotations

import math
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, Double, Integer, SmallInteger, Table, func, insert, literal_column, update
from sqlalchemy.exc import DBAPIError

from runwire.scorer.v1 import scorer_run_pb2
from runwire.scorer.v1 import scorer_service_pb2 as pb
from scorer_service.results.database import Database, open_database
from scorer_service.results.schema import attempts, counters, scorer_runs
from tests.scorer.stage import service

NUMBERS: list[Any] = [None, -1.0, 1e18, 1e300, math.inf, -math.inf, math.nan]
WHOLE: list[Any] = [None, -1, 2**15 - 1, 2**31 - 1, 2**62]
TEXTS: list[Any] = [None, "", "{", "[]", "[1", "7", '{"a":1e999}', "[" * 5000, '{"model":7}', "\ud800"]
SQLITE_ONLY: list[Any] = [literal_column("x'ff00'"), literal_column("CAST(x'ff' AS TEXT)"), literal_column("'word'")]
FOR_EVER = dict.fromkeys(("retention", "failed_retention", "sample_retention"), 0.0)
FOR_EVER = {f"scorer_{name}_seconds": seconds for name, seconds in FOR_EVER.items()}
KEYS = {"scorer_run_id", "tenant", "revision", "attempt"}
"""By these a row is found: another value is another row."""


def extremes(column: Column[Any]) -> list[Any]:
    if isinstance(column.type, Double):
        return NUMBERS
    return WHOLE if isinstance(column.type, (Integer, SmallInteger, BigInteger)) else TEXTS


def good(name: str, revision: int) -> dict[str, Any]:
    """A row that is scored."""
    texts = dict.fromkeys(("run_id", "agent_id", "scorer_version", "wanted_version", "sample_id", "fingerprint"), "")
    numbers = {"priority": 1, "lane": 1, "claims": 2, "create_time": 1000.0 + revision, "end_time": 2000.0}
    score = {"score_value": 0.5, "score_label": "fair", "score_reason": "so it is", "score_metadata": "{}"}
    rest = {"state": 4, "rate": 1.0, "siblings": 0, "options": "{}", "labels": "{}", "score_direction": 1}
    trace = {"traceparent": "", "tracestate": "", "start_time": 1500.0, "revision": revision}
    return (
        {"scorer_run_id": name, "tenant": "default", "scorer_id": "nobody's"} | texts | numbers | score | rest | trace
    )


def attempt(name: str) -> dict[str, Any]:
    times = {"start_time": 1100.0, "end_time": 1200.0, "partial_results": "{}", "error_reason": "scorer_error"}
    return {"scorer_run_id": name, "attempt": 1, "worker": "w"} | times


async def damage(database: Database, name: str, revision: int, table: Table, column: str, value: Any) -> bool:
    """Adds a row with this value; False where the database does not take it."""

    def work(connection: Any) -> None:
        connection.execute(insert(scorer_runs), good(name, revision))
        connection.execute(insert(attempts), attempt(name))
        connection.execute(update(table).where(table.c.scorer_run_id == name).values({column: value}))

    try:
        await database.write(work)
    except (DBAPIError, ValueError, TypeError, OverflowError):
        return False
    return True


async def fill(database: Database) -> set[str]:
    """A row for each column with each extreme that it takes; returns their names."""
    names, revision = set[str](), 0
    for table in (scorer_runs, attempts):
        for column in table.c:
            values = extremes(column) + (SQLITE_ONLY if database.embedded else [])
            for index, value in enumerate(values if column.name not in KEYS else []):
                revision += 1
                name = f"{table.name}-{column.name}-{index}"
                if await damage(database, name, revision, table, column.name, value):
                    names.add(name)
    move_on = update(counters).where(counters.c.name == "revision").values(value=revision)
    await database.write(lambda c: c.execute(move_on))
    if not database.embedded:
        await database.write(lambda c: c.execute(func.setval("scorer_revisions", revision).select()))
    return names


async def listed(stub: Any, **fields: Any) -> dict[str, scorer_run_pb2.ScorerRun]:
    found: dict[str, scorer_run_pb2.ScorerRun] = {}
    token = ""
    while True:
        page = await stub.ListScorerRuns(pb.ListScorerRunsRequest(page_size=37, page_token=token, **fields))
        found |= {run.scorer_run_id: run for run in page.scorer_runs}
        token = page.next_page_token
        if not token:
            return found


async def watched(running: Any, count: int) -> dict[str, scorer_run_pb2.ScorerRun]:
    found: dict[str, scorer_run_pb2.ScorerRun] = {}
    async for frame in running.watch(all_runs=True):  # bounded by the test's time
        found |= {run.scorer_run_id: run for run in frame.batch.scorer_runs}
        if len(found) >= count:
            return found
    raise AssertionError("it ended")


async def test_a_damaged_row_fails_itself(results_url: str) -> None:
    """Each column with every extreme that the database takes: all are in the list, in a watch and by themselves, what
    cannot be read is named, and the neighbours are whole."""
    async with open_database(results_url) as database:
        names = await fill(database)
        assert len(names) > 150
        await database.write(lambda c: c.execute(insert(scorer_runs), good("whole", 0)))
    async with service(results_url, **FOR_EVER) as running:
        found = await listed(running.stub)
        assert set(found) == names | {"whole"}
        assert (found["whole"].score.value, list(found["whole"].omitted)) == (0.5, [])
        assert list(found["scorer_runs-score_value-0"].omitted) == ["score.value"]
        assert "end_time" in found["scorer_runs-end_time-3"].omitted
        assert "state" in found["scorer_runs-state-2"].omitted
        assert not math.isnan(sum(run.score.value for run in found.values()))
        for name in names:
            one = await running.get(name, include_sample=True)
            assert one.scorer_run_id == name
        in_watch = await watched(running, len(names))
        assert set(in_watch) >= names
        stats = (await running.stub.GetScorerStats(pb.GetScorerStatsRequest())).stats
        assert all(math.isfinite(one.mean_score) for one in stats)
        assert sum(one.scored for one in stats) > 100


async def test_the_mean_of_the_largest_scores_is_a_number(results_url: str) -> None:
    """Two scores of which the sum is none do not end the statistics."""
    async with open_database(results_url) as database:
        for number in range(2):
            line = good(f"large-{number}", number) | {"score_value": 1.7e308}
            await database.write(lambda c, line=line: c.execute(insert(scorer_runs), line))  # type: ignore[misc]
    async with service(results_url, **FOR_EVER) as running:
        (one,) = (await running.stub.GetScorerStats(pb.GetScorerStatsRequest())).stats
        assert one.scored == 2
        assert math.isfinite(one.mean_score)


@pytest.mark.parametrize("states", [[4], [4, 5]])
async def test_a_filter_finds_what_is_damaged(results_url: str, states: list[int]) -> None:
    """Also where the damaged time is what a page ends with."""
    async with open_database(results_url) as database:
        assert await damage(database, "endless", 1, scorer_runs, "create_time", math.inf)
        await database.write(lambda c: c.execute(insert(scorer_runs), good("whole", 0)))
    async with service(results_url, **FOR_EVER) as running:
        request = pb.ListScorerRunsRequest(page_size=1, filter=pb.ScorerRunFilter(states=states))  # type: ignore[arg-type]
        first = await running.stub.ListScorerRuns(request)
        request.page_token = first.next_page_token
        second = await running.stub.ListScorerRuns(request)
        assert [run.scorer_run_id for page in (first, second) for run in page.scorer_runs] == ["endless", "whole"]
