"""Waiting for what cannot be had is counted apart from attempts; attempts keep what judges took; the rate of a judge
model is learned."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("scorer_runs", sa.Column("waits", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("scorer_runs", sa.Column("waiting_since", sa.Double(), nullable=True))
    op.add_column("attempts", sa.Column("spent", sa.Text(), nullable=True))
    op.add_column("attempts", sa.Column("exchanges", sa.Text(), nullable=True))
    op.add_column("rate_limits", sa.Column("per_second", sa.Double(), nullable=True))
    op.add_column("rate_limits", sa.Column("cautious", sa.Boolean(), nullable=False, server_default=sa.false()))
    for name in ("cut_time", "blocked_until"):
        op.add_column("rate_limits", sa.Column(name, sa.Double(), nullable=False, server_default="0"))
    op.add_column("rate_limits", sa.Column("failures", sa.Integer(), nullable=False, server_default="0"))
