"""How SQLite answers the engine's statements: by indexes, and never by going through a table."""

from __future__ import annotations

import ast
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runwire.bell import messages_in, work_in
from runwire.pubsub import Commit, Message
from runwire.sqlite import open_sqlite, tables
from tests.conformance.logs import LONG_SECONDS, append, claim_one, finish, start, started

VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE")

HELD: dict[str, str] = {
    "SELECT count(*) FROM messages WHERE queue = ?": "counts what is waiting, in the index alone",
    "SELECT name, seq FROM sqlite_sequence": "a row for each table",
    "DELETE FROM turns WHERE put_time < ?": "a row for each set of queues that is claimed from",
    "DELETE FROM notices WHERE id IN": "the oldest notices, as many as one sweep takes",
}
"""Statements that read more than they give, and why they may."""


class Recording(sqlite3.Connection):
    """Notes every statement."""

    statements: set[str]

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        type(self).statements.add(sql)
        return super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        type(self).statements.add(sql)
        return super().executemany(sql, parameters)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    Recording.statements = set()
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Recording))
    return Recording.statements


async def everything(path: Path) -> None:
    """Calls every operation of the store, each so that it has something to do."""
    async with (
        open_sqlite(f"sqlite:///{path}") as store,
        open_sqlite(f"sqlite:///{path}") as other,
        other.pubsub.subscribe("default/run", lambda entry: None),
    ):
        claim = await started(store, indexes=["all", "x"], puts={"f": b"1"}, puts_once={"g": b"1"})
        await append(store, claim.topic, claim.head.attempt, 1, 2)
        await append(store, claim.topic, claim.head.attempt, 3, 3)
        await store.extend([claim.lease], lease_seconds=LONG_SECONDS)
        await store.commit(Commit(claim.topic, puts_once={"h": b"1"}, deletes=["f"], leaves=["x"], indexes=["y"]))
        await store.read(claim.topic, 0)
        await store.get(claim.topic)
        await store.get(claim.topic, ["g"])
        await store.heads([claim.topic])
        await store.scan("all", also=["y"], fields=["g"], limit=2)
        await store.scan("all", fields=["g"], before=(1e12, "x"))
        await store.trim(claim.topic, 3)
        await finish(store, claim.topic, claim.head.attempt, 4, retention=0.0, tombstone=LONG_SECONDS)
        await started(store, "default/long", puts={str(number): b"x" for number in range(200)})
        deletes = [str(number) for number in range(200)]
        await finish(store, "default/long", 1, 1, deletes=deletes, retention=LONG_SECONDS)
        await start(store, "default/cleared", indexes=["all"], messages=[Message("m", b"x")])
        await store.depths()
        await store.queued(["runs"], "default")
        await claim_one(store)
        await store.clear("default/cleared")
        while await store.sweep():
            pass
        for _ in range(2):
            deliveries = await store.receive("m", consumer="c", limit=9, lease_seconds=LONG_SECONDS)
        await store.backlog("m")
        await store.acknowledge("m", [delivery.message_id for delivery in deliveries] or ["1"])
        await store.claim(["runs"], holder="c", limit=1, lease_seconds=1.0, wait_seconds=0.3)
        await store.receive("m", consumer="c", limit=1, lease_seconds=1.0, wait_seconds=0.3)
        await store.put_up("b", "n", b"v", seconds=LONG_SECONDS)
        await store.notices("b")
        await store.ping()
    with closing(sqlite3.connect(path)) as connection:
        for waited in (work_in("runs"), work_in("runs", suspects=True), messages_in("m")):
            tables.due_time(connection, waited)


def written() -> Iterator[str]:
    """How each statement begins that the engine's source has."""
    for node in ast.walk(ast.parse(Path(tables.__file__).read_text())):
        if isinstance(node, ast.JoinedStr) and node.values and isinstance(node.values[0], ast.Constant):
            node = node.values[0]
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(VERBS):
            yield node.value


async def test_no_statement_scans_a_table(tmp_path: Path, recorded: set[str]) -> None:
    """Every statement of the engine, as SQLite plans it: no table is gone through and nothing is sorted."""
    path = tmp_path / "runs.db"
    await everything(path)
    statements = {sql for sql in recorded if sql.startswith(VERBS) and "sqlite_master" not in sql}
    missed = [begin for begin in written() if not any(begin.strip() in sql for sql in statements)]
    assert missed == []
    with closing(sqlite3.connect(path)) as connection:
        for sql in sorted(statements):
            if sql.startswith((*HELD, "INSERT", "SELECT 1")):
                continue
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", [None] * sql.count("?"))]
            wrong = [step for step in plan if step.startswith("SCAN") or "TEMP B-TREE" in step]
            assert not wrong, (sql, plan)


def test_waiting_looks_only_at_what_is_to_be_done(tmp_path: Path) -> None:
    """The index of due times holds the topics that have one: what has ended is not in it."""
    path = tmp_path / "runs.db"
    tables_sql = (Path(tables.__file__).parent.parent / "sqlite" / "schema.sql").read_text()
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(tables_sql)
        for queue in (work_in("runs"), work_in("runs", suspects=True)):
            seen: list[str] = []
            connection.set_trace_callback(seen.append)
            tables.due_time(connection, queue)
            connection.set_trace_callback(None)
            [plan] = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {seen[0]}")]
            assert "topics_by_lane (queue=? AND suspect=? AND due>?)" in plan
