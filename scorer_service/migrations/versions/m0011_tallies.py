"""Statistics are kept: how many scorer runs there are of each kind, written by whatever writes the scorer runs.

A trigger writes what a change adds and takes away, in the transaction of the change, so that no writer can forget it,
nor one of a release from before during a rolling upgrade. It only adds rows: so no two commits wait for each other.
The service adds them up into `tallies`, and counts what was there before: see `queue.tallies`.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _columns() -> list[sa.Column[object]]:
    return [
        sa.Column("scorer_id", sa.String(), nullable=False),
        sa.Column("scorer_name", sa.String(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("ad_hoc", sa.SmallInteger(), nullable=False),
        sa.Column("bin", sa.Integer(), nullable=False),
        sa.Column("scale", sa.SmallInteger(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("total", sa.Double(), nullable=False),
    ]


# What is PENDING and what is RUNNING is one kind, so that a claim changes nothing.
_KIND = "CASE {row}.state WHEN 2 THEN 1 ELSE {row}.state END"
_LATENCY = "({row}.end_time - {row}.create_time)"
_SCORE = "CASE WHEN {row}.state = 4 AND {row}.score_value BETWEEN -1e300 AND 1e300 THEN {row}.score_value END"


def _place(whole: str) -> str:
    """The first three digits of a latency, and its decade from a millisecond on; 0 of what has no score."""
    places = []
    for decade in range(12):
        digits = whole.format(value=f"{_LATENCY} * 1e{6 - decade}")
        places.append(f"WHEN {_LATENCY} < 1e{decade - 3} THEN {digits} + {1000 * decade}")
    none = "WHEN {row}.state <> 4 OR {row}.end_time IS NULL THEN 0"
    return f"CASE {none} WHEN {_LATENCY} < 0 THEN 0 {' '.join(places)} ELSE 12100 END"


def _kinds(row: str, whole: str, source: str = "") -> str:
    """A row for each scorer run of `source`, or for the one that a trigger calls `row`: its kind, and its score, and
    by what an index finds it."""
    hour = whole.format(value="{row}.create_time / 3600.0")
    inner = f"""
        SELECT {{row}}.tenant AS tenant, {{row}}.scorer_id AS scorer_id, {{row}}.scorer_name AS scorer_name,
            CASE WHEN {{row}}.create_time BETWEEN 0 AND 1e12 THEN {hour} ELSE 0 END AS hour, {_KIND} AS state,
            CASE WHEN {{row}}.state = 8 AND {{row}}.priority = 2 THEN 1 ELSE 0 END AS ad_hoc,
            {_place(whole)} AS place, {_SCORE} AS score,
            {{row}}.scorer_run_id AS scorer_run_id, {{row}}.create_time AS create_time, {{row}}.state AS kept_state
            {source}
    """.format(row=row)
    # No bin is wider than one percent.
    return f"""
        SELECT tenant, scorer_id, scorer_name, hour, state, ad_hoc,
            place - place % CASE WHEN place % 1000 < 200 THEN 1 WHEN place % 1000 < 500 THEN 2 ELSE 5 END AS bin,
            CASE WHEN score IS NULL OR abs(score) <= 1e3 THEN 0 WHEN abs(score) <= 1e9 THEN 1
                WHEN abs(score) <= 1e15 THEN 2 ELSE 3 END AS scale,
            coalesce(score, 0.0) AS score, scorer_run_id, create_time, kept_state
        FROM ({inner}) AS of_it
    """


_KEY = "tenant, scorer_id, scorer_name, hour, state, ad_hoc, bin, scale"
_INSERT = f"INSERT INTO tally_changes ({_KEY}, number, total)"

# PostgreSQL: once a statement, however many rows it changes.
_FLOOR = "CAST(floor({value}) AS BIGINT)"
_NEW = _kinds("r", _FLOOR, "FROM new_rows AS r")
_OLD = _kinds("r", _FLOOR, "FROM old_rows AS r")
# With the rights of who migrates: the role of a release from before was granted nothing on our tables.
_FUNCTION = f"""
CREATE FUNCTION scorer_runs_tally() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        {_INSERT} SELECT {_KEY}, count(*), sum(score) FROM ({_NEW}) AS added GROUP BY {_KEY};
    ELSIF TG_OP = 'DELETE' THEN
        {_INSERT} SELECT {_KEY}, -count(*), -sum(score) FROM ({_OLD}) AS gone GROUP BY {_KEY};
    ELSE
        {_INSERT} SELECT {_KEY}, sum(sign), sum(sign * score)
        FROM (SELECT 1 AS sign, added.* FROM ({_NEW}) AS added
              UNION ALL SELECT -1, gone.* FROM ({_OLD}) AS gone) AS changed
        GROUP BY {_KEY} HAVING sum(sign) <> 0 OR sum(sign * score) <> 0;
    END IF;
    RETURN NULL;
END $$
"""
_REFERENCING = {
    "INSERT": "NEW TABLE AS new_rows",
    "UPDATE": "OLD TABLE AS old_rows NEW TABLE AS new_rows",
    "DELETE": "OLD TABLE AS old_rows",
}

# SQLite: once a row. Until all that was there before is counted, only of what is.
_WHOLE = "CAST({value} AS INTEGER)"
_MINE = "(SELECT complete OR {row}.scorer_run_id <= upto FROM tallied)"
_WATCHED = ("score_value", "end_time", "create_time", "priority", "tenant", "scorer_id", "scorer_name")
_SAME = " AND ".join(
    [f"{_KIND.format(row='OLD')} IS {_KIND.format(row='NEW')}", *[f"OLD.{name} IS NEW.{name}" for name in _WATCHED]]
)


def _write(row: str, sign: int) -> str:
    return f"{_INSERT} SELECT {_KEY}, {sign}, {sign} * score FROM ({_kinds(row, _WHOLE)});"


def upgrade() -> None:
    op.create_table(
        "tally_changes",
        sa.Column("change_id", _ID, sa.Identity(), primary_key=True),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("hour", sa.BigInteger(), nullable=False),
        *_columns(),
    )
    key = ("tenant", "period_hours", "start", "scorer_id", "scorer_name", "state", "ad_hoc", "bin", "scale")
    op.create_table(
        "tallies",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("period_hours", sa.SmallInteger(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        *_columns(),
        sa.PrimaryKeyConstraint(*key),
        sqlite_with_rowid=False,
    )
    none = sa.text("number = 0")
    op.create_index("ix_tallies_none", "tallies", ["number"], unique=False, sqlite_where=none, postgresql_where=none)
    op.create_table(
        "tallied",
        sa.Column("upto", sa.String(), nullable=False),
        sa.Column("complete", sa.Boolean(), nullable=False),
    )
    of_postgresql = op.get_bind().dialect.name == "postgresql"
    if of_postgresql:
        _for_statements()
    else:
        _for_rows()
    kinds = _kinds("r", _FLOOR if of_postgresql else _WHOLE, "FROM scorer_runs AS r")
    op.execute(f"CREATE VIEW scorer_run_kinds AS {kinds}")
    op.execute("INSERT INTO tallied SELECT '', NOT EXISTS (SELECT 1 FROM scorer_runs)")


def _for_statements() -> None:
    op.execute(sa.text(_FUNCTION.replace(":", "\\:")))
    for event, tables in _REFERENCING.items():
        op.execute(
            f"CREATE TRIGGER scorer_runs_tally_{event.lower()} AFTER {event} ON scorer_runs REFERENCING {tables} "
            "FOR EACH STATEMENT EXECUTE FUNCTION scorer_runs_tally()"
        )


def _for_rows() -> None:
    added, gone = _write("NEW", 1), _write("OLD", -1)
    of_new, of_old = _MINE.format(row="NEW"), _MINE.format(row="OLD")
    watched = ", ".join(("state", *_WATCHED))
    for event, of, when, body in (
        ("insert", "INSERT", of_new, added),
        ("update", f"UPDATE OF {watched}", f"NOT ({_SAME}) AND {of_new}", gone + added),
        ("delete", "DELETE", of_old, gone),
    ):
        op.execute(f"CREATE TRIGGER scorer_runs_tally_{event} AFTER {of} ON scorer_runs WHEN {when} BEGIN {body} END")
