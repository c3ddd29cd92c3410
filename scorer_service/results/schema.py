"""The tables, as migrations/ builds them, and the database's clock.

`scorer_runs` is the queue, the result and the record in one row:

    due_time    when the row may next be claimed; the end of the lease while it runs; NULL once it is terminal
    lane        where claims look for it: HIGH, NORMAL, or ALONE for the last delivery that a row has left
    claims      fencing token: raised by every claim and cancellation, and a finish must name it
    deliveries  how often a worker took it        } since the last redrive
    failures    how often the scorer raised       }
    losses      how often its worker died         }
    waits       how often it could not be tried   }
    revision    number of the write that changed it last, see `revisions`
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    column,
    false,
    table,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

HEAD: Final = "0011"
"""The newest migration; a test holds it to migrations/."""

VERSION_TABLE: Final = "runwire_scorer_version"
"""Where Alembic keeps the version: not in its common table, which a database may share with others."""
NEEDS: Final = "needs_version"
"""Name of the counter that says which version a release must know at least to work with these tables."""

metadata = MetaData()


class Lane(IntEnum):
    """Which rows are claimed first, and how."""

    ALONE = 0
    """One at a time, in a process of its own."""
    NORMAL = 1
    HIGH = 2


scorer_runs = Table(
    "scorer_runs",
    metadata,
    Column("scorer_run_id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("run_id", String, nullable=False),
    Column("agent_id", String, nullable=False),
    Column("scorer_id", String, nullable=False),
    Column("scorer_name", String, nullable=False, server_default=""),
    Column("scorer_version", String, nullable=False),
    Column("wanted_version", String, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    Column("lane", SmallInteger, nullable=False),
    Column("due_time", Double),
    Column("claims", Integer, nullable=False, server_default="0"),
    Column("deliveries", Integer, nullable=False, server_default="0"),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("losses", Integer, nullable=False, server_default="0"),
    Column("waits", Integer, nullable=False, server_default="0"),
    Column("waiting_since", Double),
    Column("redrives", Integer, nullable=False, server_default="0"),
    Column("worker", String, nullable=False, server_default=""),
    Column("create_time", Double, nullable=False),
    Column("start_time", Double),
    Column("end_time", Double),
    Column("deadline", Double),
    Column("rate", Double, nullable=False),
    Column("siblings", Integer, nullable=False),
    Column("options", Text, nullable=False),
    Column("labels", Text, nullable=False),
    Column("traceparent", String, nullable=False),
    Column("tracestate", String, nullable=False),
    Column("sample_id", String, nullable=False),
    Column("fingerprint", String, nullable=False),
    Column("steps", Text, nullable=False, server_default="{}"),
    Column("score_value", Double),
    Column("score_label", Text),
    Column("score_reason", Text),
    Column("score_metadata", Text),
    Column("score_direction", SmallInteger),
    Column("judgement", Text),
    Column("error_reason", String),
    Column("error_class", String),
    Column("error_message", Text),
    Column("revision", BigInteger, nullable=False),
    Column("requested_by", String, nullable=False, server_default=""),
    Column("redriven_by", String, nullable=False, server_default=""),
    Column("cancelled_by", String, nullable=False, server_default=""),
)
"""`wanted_version`: as asked for, empty for the newest. `siblings`: how many scorer runs the evaluated run asked for in
all, 0 where that is not known. `fingerprint`: hash of an ad hoc request with its id, to tell a repeat from another
request under the same id, and its scores of all versions from those of other requests; empty where a run asked."""

runs = scorer_runs.c

Index(
    "ix_scorer_runs_claim",
    runs.scorer_id,
    runs.wanted_version,
    runs.lane,
    runs.due_time,
    sqlite_where=runs.due_time.is_not(None),
    postgresql_where=runs.due_time.is_not(None),
)
Index(
    "ix_scorer_runs_port",
    runs.tenant,
    runs.scorer_id,
    runs.wanted_version,
    runs.lane,
    runs.due_time,
    sqlite_where=runs.due_time.is_not(None),
    postgresql_where=runs.due_time.is_not(None),
)
"""Of claims of external workers, which see one tenant's."""
Index(
    "ix_scorer_runs_ended",
    runs.state,
    runs.end_time,
    sqlite_where=runs.end_time.is_not(None),
    postgresql_where=runs.end_time.is_not(None),
)
Index(
    "ix_scorer_runs_deadline",
    runs.deadline,
    sqlite_where=runs.deadline.is_not(None) & runs.due_time.is_not(None),
    postgresql_where=runs.deadline.is_not(None) & runs.due_time.is_not(None),
)
Index("ix_scorer_runs_revision", runs.revision, runs.scorer_run_id)
Index("ix_scorer_runs_created", runs.tenant, runs.create_time, runs.scorer_run_id)
Index("ix_scorer_runs_run", runs.tenant, runs.run_id, runs.create_time)
Index("ix_scorer_runs_agent", runs.tenant, runs.agent_id, runs.create_time)
Index("ix_scorer_runs_scorer", runs.tenant, runs.scorer_id, runs.create_time)
Index(
    "ix_scorer_runs_state",
    runs.state,
    runs.tenant,
    runs.create_time,
    runs.scorer_id,
    runs.scorer_name,
    runs.priority,
    runs.end_time,
    runs.score_value,
)
"""With all that statistics are made of, so that they read nothing else. What follows `create_time` changes together
with the state, so that it costs no more writes."""

attempts = Table(
    "attempts",
    metadata,
    Column("scorer_run_id", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("worker", String, nullable=False),
    Column("start_time", Double, nullable=False),
    Column("end_time", Double, nullable=False),
    Column("error_reason", String),
    Column("error_class", String),
    Column("error_message", Text),
    Column("partial_results", Text, nullable=False),
    Column("spent", Text),
    Column("exchanges", Text),
    PrimaryKeyConstraint("scorer_run_id", "attempt"),
)
"""Attempts that ended without a score, and those that asked a judge. Where no judge was asked, the one that brought the
score is recorded in `scorer_runs` itself. `attempt` is the value of `scorer_runs.claims` that the attempt held; `spent`
is what judges took: see `meter.Meter.text`."""

samples = Table(
    "samples",
    metadata,
    Column("sample_id", String, primary_key=True),
    Column("tenant", String, nullable=False),
    Column("owner", String, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("create_time", Double, nullable=False),
)
"""Serialised runwire.scorer.v1.Sample, named by its hash: the scorers of one run share it. `owner` is the run, or the
scorer run of a sample that came without one: it leads back to who uses the sample."""

Index("ix_samples_created", samples.c.create_time)

scorers = Table(
    "scorers",
    metadata,
    Column("scorer_id", String, primary_key=True),
    Column("paused", Boolean, nullable=False),
    Column("seen_time", Double, nullable=False),
    Column("paused_by", String, nullable=False, server_default=""),
    Column("paused_by_tenant", String, nullable=False, server_default=""),
)
"""Scorers that some process of this service has, or had: `seen_time` is when one last said so."""

holders = Table(
    "holders",
    metadata,
    Column("worker", String, nullable=False),
    Column("scorer_id", String, nullable=False),
    Column("version", String, nullable=False),
    Column("seen_time", Double, nullable=False),
    Column("tenant", String, nullable=False, server_default=""),
    PrimaryKeyConstraint("worker", "scorer_id", "version"),
)
"""Which process has which versions of which scorers, and when it last said so. Each that has any version of a scorer
also has the version '': it does what asks for none. `tenant` is that of an external worker, and empty for the processes
of this service, which do everybody's."""

external_scorers = Table(
    "external_scorers",
    metadata,
    Column("tenant", String, nullable=False),
    Column("scorer_id", String, nullable=False),
    Column("version", String, nullable=False),
    Column("description", Text, nullable=False),
    Column("direction", SmallInteger, nullable=False),
    Column("options_schema", Text, nullable=False),
    Column("timeout_seconds", Double),
    Column("retries", Integer),
    Column("register_time", Double, nullable=False),
    PrimaryKeyConstraint("tenant", "scorer_id", "version"),
)
"""Scorers that are carried out elsewhere: see `scorer_service.port`."""

opinions = Table(
    "opinions",
    metadata,
    Column("scorer_run_id", String, nullable=False),
    Column("number", Integer, nullable=False),
    Column("tenant", String, nullable=False),
    Column("scorer_id", String, nullable=False),
    Column("run_id", String, nullable=False),
    Column("value", Double, nullable=False),
    Column("label", Text, nullable=False),
    Column("comment", Text, nullable=False),
    Column("author", String, nullable=False),
    Column("submitted_by", String, nullable=False),
    Column("submit_time", Double, nullable=False),
    Column("request_key", String, nullable=False),
    Column("fingerprint", String, nullable=False),
    Column("newest", Boolean, nullable=False),
    PrimaryKeyConstraint("scorer_run_id", "number"),
)
"""What people said, and what they said before: the newest is the score of its scorer run. `request_key` names a request
within its tenant and caller, `fingerprint` tells a repeat of it from another one under the same id."""

Index("ix_opinions_request", opinions.c.request_key, unique=True)
Index("ix_opinions_newest", opinions.c.tenant, opinions.c.newest, opinions.c.submit_time)
budgets = Table(
    "budgets",
    metadata,
    Column("tenant", String, nullable=False),
    Column("scorer_id", String, nullable=False),
    Column("window_seconds", Double, nullable=False),
    Column("max_tokens", BigInteger),
    Column("max_cost_usd", Double),
    Column("window_start", Double, nullable=False),
    Column("spent_tokens", BigInteger, nullable=False),
    Column("spent_cost_usd", Double, nullable=False),
    PrimaryKeyConstraint("tenant", "scorer_id"),
)
"""What judges may spend, and did in the window that began at `window_start`. An empty `scorer_id`: all of a tenant."""

Index("ix_holders_tenant", holders.c.tenant)
Index("ix_holders_scorer", holders.c.scorer_id, holders.c.version, holders.c.seen_time)

parked_requests = Table(
    "parked_requests",
    metadata,
    Column("message_key", String, primary_key=True),
    Column("body", LargeBinary, nullable=False),
    Column("error", Text, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("create_time", Double, nullable=False),
    Column("due_time", Double, nullable=False),
)
"""Messages whose row cannot be written, for a reason nobody knows: tried again with growing pauses, for ever. The key
is the hash of the body."""

Index("ix_parked_requests_due", parked_requests.c.due_time)

counters = Table(
    "counters",
    metadata,
    Column("name", String, primary_key=True),
    Column("value", BigInteger, nullable=False),
)
"""REVISION numbers the writes of SQLite, so that they can be watched in order: see `revisions`.
ZOMBIES counts the finishes that were refused because the row had been claimed again."""

REVISION: Final = "revision"
ZOMBIES: Final = "zombie_finishes_refused"
EXPORTS_DROPPED: Final = "exports_dropped"
EPOCH: Final = "epoch"
"""A random number that tells this database from one that replaces it: see WatchScorerRuns."""
HOME: Final = "home"
"""Which PostgreSQL server, database and sequence the numbers of writes belong to: see `revisions.settle_in`."""

kinds = table(
    "scorer_run_kinds",
    *[column(name, String) for name in ("scorer_run_id", "tenant", "scorer_id", "scorer_name")],
    *[column(name, Integer) for name in ("kept_state", "hour", "state", "ad_hoc", "bin", "scale")],
    *[column(name, Double) for name in ("create_time", "score")],
)
"""A view of `scorer_runs`: of what kind each of them is, in the words of the triggers that keep `tallies`. Indexes of
`scorer_runs` are entered by `tenant`, `create_time` and `kept_state`, which is its state."""

_TALLY_ID: Final = BigInteger().with_variant(Integer(), "sqlite")


def _tally_columns() -> list[Column[Any]]:
    return [
        Column("scorer_id", String, nullable=False),
        Column("scorer_name", String, nullable=False),
        Column("state", SmallInteger, nullable=False),
        Column("ad_hoc", SmallInteger, nullable=False),
        Column("bin", Integer, nullable=False),
        Column("scale", SmallInteger, nullable=False),
        Column("number", BigInteger, nullable=False),
        Column("total", Double, nullable=False),
    ]


tally_changes = Table(
    "tally_changes",
    metadata,
    Column("change_id", _TALLY_ID, Identity(), primary_key=True),
    Column("tenant", String, nullable=False),
    Column("hour", BigInteger, nullable=False),
    *_tally_columns(),
)
"""What changes of `scorer_runs` added to `tallies` and took away, written by triggers (migration 0011) in the same
transaction, not added up yet. Only added to, so that no commit waits for another's."""

tallies = Table(
    "tallies",
    metadata,
    Column("tenant", String, nullable=False),
    Column("period_hours", SmallInteger, nullable=False),
    Column("start", BigInteger, nullable=False),
    *_tally_columns(),
    PrimaryKeyConstraint(
        "tenant", "period_hours", "start", "scorer_id", "scorer_name", "state", "ad_hoc", "bin", "scale"
    ),
    sqlite_with_rowid=False,
)
"""How many scorer runs there are (`number`), by the hour and the day of their creation, in hours since 1970, and by
their kind:

    state       what is RUNNING counts as PENDING
    ad_hoc      1: cancelled, and asked for by somebody
    bin         of the latency, at most one percent wide
    scale       of the score: sums of each scale are kept apart, so that a large score that comes and goes leaves of
                a small one what it was

`total` is the sum of their scores. Together with `tally_changes` they are what a count would find, at any moment."""

Index(
    "ix_tallies_none",
    tallies.c.number,
    sqlite_where=tallies.c.number == 0,
    postgresql_where=tallies.c.number == 0,
)

tallied = Table(
    "tallied",
    metadata,
    Column("upto", String, nullable=False),
    Column("complete", Boolean, nullable=False),
)
"""One row: whether the scorer runs from before the triggers are counted (`complete`), and on SQLite up to which id."""

rate_limits = Table(
    "rate_limits",
    metadata,
    Column("name", String, primary_key=True),
    Column("next_time", Double, nullable=False),
    Column("per_second", Double),
    Column("cautious", Boolean, nullable=False, server_default=false()),
    Column("cut_time", Double, nullable=False, server_default="0"),
    Column("blocked_until", Double, nullable=False, server_default="0"),
    Column("failures", Integer, nullable=False, server_default="0"),
)
"""How fast a judge model may be asked, by all replicas together: see `pace.Pace`."""

exports = Table(
    "exports",
    metadata,
    Column("scorer_run_id", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("due_time", Double, nullable=False),
    Column("tries", Integer, nullable=False),
    PrimaryKeyConstraint("scorer_run_id", "attempt"),
)
"""Attempts that are still to be exported."""

Index("ix_exports_due", exports.c.due_time)


class DatabaseTime(FunctionElement[float]):
    """The database's clock: seconds since the Unix epoch. The same throughout a statement."""

    type = Double()
    inherit_cache = True
    name = "database_time"


@compiles(DatabaseTime, "sqlite")
def _sqlite_time(element: DatabaseTime, compiler: Any, **options: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(DatabaseTime, "postgresql")
def _postgresql_time(element: DatabaseTime, compiler: Any, **options: Any) -> str:
    return "CAST(EXTRACT(EPOCH FROM statement_timestamp()) AS DOUBLE PRECISION)"


NOW: Final = DatabaseTime()
