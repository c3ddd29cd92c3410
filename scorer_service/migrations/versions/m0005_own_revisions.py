"""Numbers of writes of our own, and statistics from one index."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_INDEX = "ix_scorer_runs_state"


def upgrade() -> None:
    op.drop_index(_INDEX, "scorer_runs")
    columns = ["state", "tenant", "create_time", "scorer_id", "scorer_name", "priority", "end_time", "score_value"]
    op.create_index(_INDEX, "scorer_runs", columns, unique=False)
    if op.get_bind().dialect.name != "postgresql":
        return
    op.execute("CREATE SEQUENCE scorer_revisions AS bigint")
    # The numbers so far were those of transactions: ours continue above them, and cursors that were given out stay
    # good.
    op.execute(
        sa.text(
            "SELECT setval('scorer_revisions', greatest(1, "
            "pg_snapshot_xmax(pg_current_snapshot())::text::bigint, (SELECT max(revision) FROM scorer_runs)))"
        )
    )
