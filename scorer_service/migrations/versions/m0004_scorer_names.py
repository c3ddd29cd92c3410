"""References to scorers have names: one scorer may score a run several times."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("scorer_runs", sa.Column("scorer_name", sa.String(), nullable=False, server_default=""))
