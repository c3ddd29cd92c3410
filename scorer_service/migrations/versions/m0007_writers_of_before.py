"""Releases from before 0005 may still write during a rolling upgrade: their rows are numbered for them.

They write the number of their transaction as the revision of a row. Such a number says nothing beside those of our
sequence: a watch that is further has passed it, and would never see the row. So the database itself gives these rows a
number of the sequence, one for a transaction, in the order that `revisions` asks for.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0005"

# With the rights of who migrates: the role of such a release was granted nothing on the sequence.
_FUNCTION = """
CREATE FUNCTION scorer_runs_renumber() RETURNS trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    taken text := current_setting('runwire.revision', true);
BEGIN
    IF NEW.revision = 0 THEN
        -- At its start such a release takes our numbers for those of another server, and sets all of them to 0.
        RETURN CASE TG_OP WHEN 'INSERT' THEN NEW END;
    END IF;
    IF coalesce(taken, '') = '' THEN
        PERFORM pg_advisory_xact_lock_shared(
            'scorer_revisions'::regclass::oid::bigint::bit(32)::int,
            (SELECT last_value FROM scorer_revisions)::bit(32)::int);
        taken := nextval('scorer_revisions')::text;
        PERFORM set_config('runwire.revision', taken, true);
    END IF;
    NEW.revision := taken::bigint;
    RETURN NEW;
END $$
"""
# What takes numbers from the sequence has no use for that of its transaction. If they should be equal, it gets
# another number of the sequence, which does no harm.
_TRIGGER = """
CREATE TRIGGER scorer_runs_renumber BEFORE INSERT OR UPDATE OF revision ON scorer_runs FOR EACH ROW
WHEN (NEW.revision = 0 OR NEW.revision = pg_current_xact_id_if_assigned()::text::bigint)
EXECUTE FUNCTION scorer_runs_renumber()
"""
# Far above the numbers of transactions that are still to come: a watch of a release from before, and a cursor that it
# gave out, must not be ahead of what is written now. Less than half of what an advisory lock can name.
_AHEAD = """
SELECT setval('scorer_revisions', 1073741824 + greatest(
    (SELECT last_value FROM scorer_revisions), pg_snapshot_xmax(pg_current_snapshot())::text::bigint,
    (SELECT max(revision) FROM scorer_runs)))
"""


def upgrade() -> None:
    if op.get_bind().dialect.name != "postgresql":
        return  # one counter has always numbered its writes
    op.execute(_FUNCTION)
    # Waits for those that have written rows, whose numbers are then seen below; who writes later meets the trigger.
    op.execute(_TRIGGER)
    op.execute(sa.text(_AHEAD))
