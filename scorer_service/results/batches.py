"""Statements about many rows.

PostgreSQL parses and plans a statement with a parameter for each row again for every number of rows, and executing one
for each row costs it several times the work. So rows and lists travel to it as arrays, one a column. For SQLite, which
is in this process, the plain forms are the faster ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Final

from sqlalchemy import ARRAY, Column, String, Table, any_, bindparam, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import ColumnElement, FunctionElement, column
from sqlalchemy.types import NullType, TypeEngine


class _Among(FunctionElement[Any]):
    """The same condition in two forms, of which a database gets the one that suits it."""

    # Not Boolean: SQLAlchemy would compare that with 1, and SQLite would then not use the index.
    type = NullType()
    inherit_cache = True
    name = "among"


@compiles(_Among)
def _as_list(element: _Among, compiler: Any, **options: Any) -> str:
    as_list, _ = element.clauses
    return str(compiler.process(as_list, **options))


@compiles(_Among, "postgresql")
def _as_array(element: _Among, compiler: Any, **options: Any) -> str:
    _, as_array = element.clauses
    return str(compiler.process(as_array, **options))


def among(wanted: Column[Any], name: str) -> ColumnElement[bool]:
    """The condition that a column of strings has one of the values of the parameter `name`, a list."""
    as_list = wanted.in_(bindparam(name, expanding=True))
    return _Among(as_list, wanted == any_(bindparam(name, type_=ARRAY(String()))))


Rows = Sequence[Mapping[str, Any]]


def insert_new(connection: Connection, table: Table, rows: Rows) -> None:
    """Inserts rows, all with the same columns; those whose key is there already are left out."""
    if connection.dialect.name == "postgresql":
        connection.execute(_insert_arrays(table, tuple(rows[0])), _arrays(rows))
    else:
        _insert_some(connection, table, rows)


def insert_into(connection: Connection, table: Table) -> Any:
    """An INSERT in the words of this database, which has `on_conflict_do_update`."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)


_AT_ONCE: Final = (64, 16, 4, 1)
"""Rows of one statement in SQLite: a few sizes, so that each is parsed once. A statement that changes a table with
triggers keeps what it may have to undo, which costs as much for one row as for many."""


def _insert_some(connection: Connection, table: Table, rows: Rows) -> None:
    names, start = tuple(rows[0]), 0
    while start < len(rows):
        size = next(size for size in _AT_ONCE if size <= len(rows) - start)
        values = tuple(row[name] for row in rows[start : start + size] for name in names)
        connection.exec_driver_sql(_insert_values(table, names, size), values)
        start += size


@cache
def _insert_values(table: Table, names: tuple[str, ...], size: int) -> str:
    places = ", ".join([f"({', '.join('?' * len(names))})"] * size)
    return f"INSERT INTO {table.name} ({', '.join(names)}) VALUES {places} ON CONFLICT DO NOTHING"


@cache
def _insert_arrays(table: Table, names: tuple[str, ...]) -> Any:
    source = _unnested({name: table.c[name].type for name in names})
    chosen = select(*[source.c[name] for name in names])
    return postgresql.insert(table).from_select(list(names), chosen).on_conflict_do_nothing()


class Update:
    """An update of many rows, each by its own values.

    `build` takes the values by name, as columns or parameters, and returns the statement.
    """

    def __init__(self, types: Mapping[str, TypeEngine[Any]], build: Callable[[Callable[[str], Any]], Any]) -> None:
        source = _unnested(types)
        self._for_arrays = build(lambda name: source.c[name])
        self._for_rows = build(lambda name: bindparam(name, type_=types[name]))

    def run(self, connection: Connection, rows: Rows) -> None:
        """Executes it with rows that have a value for every name."""
        if connection.dialect.name == "postgresql":
            connection.execute(self._for_arrays, _arrays(rows))
        else:
            connection.execute(self._for_rows, list(rows))


_PREFIX: Final = "all_"


def _unnested(types: Mapping[str, TypeEngine[Any]]) -> Any:
    """Parameters that are arrays, as a table of a row for each of their elements."""
    arrays = [bindparam(_PREFIX + name, type_=ARRAY(kind)) for name, kind in types.items()]
    columns = [column(name, kind) for name, kind in types.items()]
    return func.unnest(*arrays).table_valued(*columns).render_derived(name="new")


def _arrays(rows: Rows) -> dict[str, list[Any]]:
    return {_PREFIX + name: [row[name] for row in rows] for name in rows[0]}
