"""Many scorer runs in a database, quickly: copies of one, told apart by expressions."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import text
from sqlalchemy.engine import Connection

from scorer_service.queue.jobs import Jobs
from scorer_service.results.database import Database
from scorer_service.results.records import NewRun, State
from scorer_service.results.schema import scorer_runs

TEMPLATE = NewRun("template", "default", "brevity", agent_id="librarian", run_id="template", sample=b"\x0a\x00")


async def fill(database: Database, count: int, template: NewRun = TEMPLATE, **columns: str) -> None:
    """`count` copies of a scorer run, all of its sample. `columns` are SQL expressions of n, which goes from 1."""
    await Jobs(database, worker="filler").add([replace(template, state=State.FAILED)])
    key = "printf('%032d', n)" if database.embedded else "lpad(n::text, 32, '0')"
    values = {
        "scorer_run_id": key,
        "state": str(int(State.FAILED)),
        "create_time": "1000.0 + n",
        "end_time": "1001.5 + n",
        "revision": "0",
        **columns,
    }
    names = [column.name for column in scorer_runs.c]
    recursive = f"WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {count})"
    numbers = "c" if database.embedded else f"generate_series(1, {count}) AS c(n)"
    statement = (
        f"INSERT INTO scorer_runs ({', '.join(names)}) {recursive if database.embedded else ''} "
        f"SELECT {', '.join(values.get(name, name) for name in names)} "
        f"FROM (SELECT * FROM scorer_runs WHERE scorer_run_id = '{template.scorer_run_id}') AS one, {numbers}"
    )

    def work(connection: Connection) -> None:
        connection.execute(text(statement.replace(":", r"\:")))
        connection.execute(text("DELETE FROM scorer_runs WHERE scorer_run_id = :id"), {"id": template.scorer_run_id})
        connection.execute(text("ANALYZE"))

    await database.write(work)
