"""Scorers that are carried out elsewhere: what they are, who has them, an index for claims; and what people say."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0007"

_OPEN = sa.text("due_time IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "external_scorers",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("scorer_id", sa.String(), nullable=False),
        sa.Column("version", sa.String(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("direction", sa.SmallInteger(), nullable=False),
        sa.Column("options_schema", sa.Text(), nullable=False),
        sa.Column("timeout_seconds", sa.Double()),
        sa.Column("retries", sa.Integer()),
        sa.Column("register_time", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "scorer_id", "version"),
    )
    op.create_table(
        "opinions",
        sa.Column("scorer_run_id", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("scorer_id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.Column("author", sa.String(), nullable=False),
        sa.Column("submitted_by", sa.String(), nullable=False),
        sa.Column("submit_time", sa.Double(), nullable=False),
        sa.Column("request_key", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("newest", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("scorer_run_id", "number"),
    )
    op.create_index("ix_opinions_request", "opinions", ["request_key"], unique=True)
    op.create_index("ix_opinions_newest", "opinions", ["tenant", "newest", "submit_time"], unique=False)
    op.create_table(
        "budgets",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("scorer_id", sa.String(), nullable=False),
        sa.Column("window_seconds", sa.Double(), nullable=False),
        sa.Column("max_tokens", sa.BigInteger()),
        sa.Column("max_cost_usd", sa.Double()),
        sa.Column("window_start", sa.Double(), nullable=False),
        sa.Column("spent_tokens", sa.BigInteger(), nullable=False),
        sa.Column("spent_cost_usd", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "scorer_id"),
    )
    # With a default for the rows of releases from before: theirs are processes of the service.
    op.add_column("holders", sa.Column("tenant", sa.String(), nullable=False, server_default=""))
    op.create_index("ix_holders_tenant", "holders", ["tenant"], unique=False)
    # Of what is open alone: it is small, and so is the time that writes wait for it.
    op.create_index(
        "ix_scorer_runs_port",
        "scorer_runs",
        ["tenant", "scorer_id", "wanted_version", "lane", "due_time"],
        unique=False,
        sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    )
