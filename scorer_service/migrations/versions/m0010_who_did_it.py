"""Who asked for a scorer run, redrove or cancelled it, and who paused a scorer."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    # With defaults: releases from before write rows beside this one, and PostgreSQL keeps a default in the catalogue.
    for name in ("requested_by", "redriven_by", "cancelled_by"):
        op.add_column("scorer_runs", sa.Column(name, sa.String(), nullable=False, server_default=""))
    for name in ("paused_by", "paused_by_tenant"):
        op.add_column("scorers", sa.Column(name, sa.String(), nullable=False, server_default=""))
