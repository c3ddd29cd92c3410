"""Who has which scorer, requests that wait to be written, and indexes by version, by end and by deadline.

Only adds, but for the index of claims: the release before works with these tables too.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_OPEN = sa.text("due_time IS NOT NULL")
_ENDED = sa.text("end_time IS NOT NULL")
_TIMED = sa.text("deadline IS NOT NULL AND due_time IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "holders",
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("scorer_id", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("seen_time", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("worker", "scorer_id", "version"),
    )
    op.create_index("ix_holders_scorer", "holders", ["scorer_id", "version", "seen_time"], unique=False)
    op.create_table(
        "parked_requests",
        sa.Column("message_key", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("create_time", sa.Double(), nullable=False),
        sa.Column("due_time", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("message_key"),
    )
    op.create_index("ix_parked_requests_due", "parked_requests", ["due_time"], unique=False)
    op.create_index(
        "ix_scorer_runs_claim",
        "scorer_runs",
        ["scorer_id", "wanted_version", "lane", "due_time"],
        unique=False,
        sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    )
    op.drop_index("ix_scorer_runs_queue", "scorer_runs")
    op.create_index(
        "ix_scorer_runs_ended",
        "scorer_runs",
        ["state", "end_time"],
        unique=False,
        sqlite_where=_ENDED,
        postgresql_where=_ENDED,
    )
    op.create_index(
        "ix_scorer_runs_deadline",
        "scorer_runs",
        ["deadline"],
        unique=False,
        sqlite_where=_TIMED,
        postgresql_where=_TIMED,
    )
    counters = sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger))
    op.bulk_insert(counters, [{"name": "needs_version", "value": 1}])
