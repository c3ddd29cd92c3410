"""The first schema."""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "attempts",
        sa.Column("scorer_run_id", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("start_time", sa.Double(), nullable=False),
        sa.Column("end_time", sa.Double(), nullable=False),
        sa.Column("error_reason", sa.String(), nullable=True),
        sa.Column("error_class", sa.String(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("partial_results", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("scorer_run_id", "attempt"),
    )
    op.create_table(
        "counters",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "exports",
        sa.Column("scorer_run_id", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("due_time", sa.Double(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("scorer_run_id", "attempt"),
    )
    op.create_index("ix_exports_due", "exports", ["due_time"], unique=False)
    op.create_table(
        "rate_limits",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("next_time", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "samples",
        sa.Column("sample_id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("create_time", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("sample_id"),
    )
    op.create_index("ix_samples_created", "samples", ["create_time"], unique=False)
    op.create_table(
        "scorer_runs",
        sa.Column("scorer_run_id", sa.String(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("agent_id", sa.String(), nullable=False),
        sa.Column("scorer_id", sa.String(), nullable=False),
        sa.Column("scorer_version", sa.String(), nullable=False),
        sa.Column("wanted_version", sa.String(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("priority", sa.SmallInteger(), nullable=False),
        sa.Column("lane", sa.SmallInteger(), nullable=False),
        sa.Column("due_time", sa.Double(), nullable=True),
        sa.Column("claims", sa.Integer(), server_default="0", nullable=False),
        sa.Column("deliveries", sa.Integer(), server_default="0", nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("losses", sa.Integer(), server_default="0", nullable=False),
        sa.Column("redrives", sa.Integer(), server_default="0", nullable=False),
        sa.Column("worker", sa.String(), server_default="", nullable=False),
        sa.Column("create_time", sa.Double(), nullable=False),
        sa.Column("start_time", sa.Double(), nullable=True),
        sa.Column("end_time", sa.Double(), nullable=True),
        sa.Column("deadline", sa.Double(), nullable=True),
        sa.Column("rate", sa.Double(), nullable=False),
        sa.Column("siblings", sa.Integer(), nullable=False),
        sa.Column("options", sa.Text(), nullable=False),
        sa.Column("labels", sa.Text(), nullable=False),
        sa.Column("traceparent", sa.String(), nullable=False),
        sa.Column("tracestate", sa.String(), nullable=False),
        sa.Column("sample_id", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("steps", sa.Text(), server_default="{}", nullable=False),
        sa.Column("score_value", sa.Double(), nullable=True),
        sa.Column("score_label", sa.Text(), nullable=True),
        sa.Column("score_reason", sa.Text(), nullable=True),
        sa.Column("score_metadata", sa.Text(), nullable=True),
        sa.Column("score_direction", sa.SmallInteger(), nullable=True),
        sa.Column("judgement", sa.Text(), nullable=True),
        sa.Column("error_reason", sa.String(), nullable=True),
        sa.Column("error_class", sa.String(), nullable=True),
        sa.Column("error_message", sa.Text(), nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("scorer_run_id"),
    )
    op.create_index("ix_scorer_runs_agent", "scorer_runs", ["tenant", "agent_id", "create_time"], unique=False)
    op.create_index("ix_scorer_runs_created", "scorer_runs", ["tenant", "create_time", "scorer_run_id"], unique=False)
    op.create_index(
        "ix_scorer_runs_queue",
        "scorer_runs",
        ["scorer_id", "lane", "due_time"],
        unique=False,
        sqlite_where=sa.text("due_time IS NOT NULL"),
        postgresql_where=sa.text("due_time IS NOT NULL"),
    )
    op.create_index("ix_scorer_runs_revision", "scorer_runs", ["revision", "scorer_run_id"], unique=False)
    op.create_index("ix_scorer_runs_run", "scorer_runs", ["tenant", "run_id", "create_time"], unique=False)
    op.create_index("ix_scorer_runs_scorer", "scorer_runs", ["tenant", "scorer_id", "create_time"], unique=False)
    op.create_index("ix_scorer_runs_state", "scorer_runs", ["state", "tenant", "create_time"], unique=False)
    op.create_table(
        "scorers",
        sa.Column("scorer_id", sa.String(), nullable=False),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("seen_time", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("scorer_id"),
    )
    values = {
        "revision": 0,
        "zombie_finishes_refused": 0,
        "exports_dropped": 0,
        "epoch": secrets.randbits(62),
    }
    op.bulk_insert(
        sa.table("counters", sa.column("name", sa.String), sa.column("value", sa.BigInteger)),
        [{"name": name, "value": value} for name, value in values.items()],
    )
