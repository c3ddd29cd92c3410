-- The SQLite store, version 1. Times are seconds since the Unix epoch; the rules are those of runwire/pubsub.py.

-- One row a log, with what runwire.topic.Topic holds.
CREATE TABLE topics (
    -- Never given twice, so that an entry of a forgotten log cannot be taken for one of its successor.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL UNIQUE,
    epoch TEXT NOT NULL,
    queue TEXT NOT NULL,
    create_time REAL NOT NULL,
    attempt INTEGER NOT NULL,
    losses INTEGER NOT NULL,
    earliest INTEGER NOT NULL,
    last INTEGER NOT NULL,
    event_check BLOB NOT NULL,
    final INTEGER NOT NULL,
    -- NULL: nobody is to claim it.
    due REAL,
    leased INTEGER NOT NULL,
    woken INTEGER NOT NULL,
    expire_time REAL NOT NULL,
    tombstone_time REAL NOT NULL,
    -- When `sweep` has work here: expire_time, and once the events are gone tombstone_time. NULL: never.
    sweep_time REAL,
    -- What came later has defaults, so that processes of the version before can continue beside this one.
    token TEXT NOT NULL DEFAULT '',
    holder TEXT NOT NULL DEFAULT '',
    alone INTEGER NOT NULL DEFAULT 0,
    alone_losses INTEGER NOT NULL DEFAULT 0,
    lease REAL NOT NULL DEFAULT 0,
    suspect INTEGER NOT NULL DEFAULT 0,
    overdue INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX topics_by_lane ON topics (queue, suspect, due) WHERE due IS NOT NULL;
-- By tenant, so that one whose topics are due is found whatever others have queued. Later than the rest, as `boards`.
CREATE INDEX IF NOT EXISTS topics_by_tenant ON topics (queue, suspect, substr(topic, 1, instr(topic, '/')), due)
    WHERE due IS NOT NULL;
CREATE INDEX topics_by_sweep ON topics (sweep_time) WHERE sweep_time IS NOT NULL;

-- One row a commit that appended.
CREATE TABLE entries (
    -- Ascends over all logs and is never given twice: other processes follow it to find what is new.
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic_id INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    event_check BLOB NOT NULL,
    previous_check BLOB NOT NULL,
    final INTEGER NOT NULL,
    body BLOB NOT NULL
);
CREATE UNIQUE INDEX entries_by_topic ON entries (topic_id, last);

CREATE TABLE fields (
    topic_id INTEGER NOT NULL,
    name TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (topic_id, name)
) WITHOUT ROWID;

-- The lists that `scan` walks.
CREATE TABLE places (
    list TEXT NOT NULL,
    create_time REAL NOT NULL,
    topic TEXT NOT NULL,
    topic_id INTEGER NOT NULL,
    PRIMARY KEY (list, create_time, topic)
) WITHOUT ROWID;
CREATE INDEX places_by_topic ON places (topic_id);

CREATE TABLE messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    deliveries INTEGER NOT NULL,
    -- NULL: nobody has had it yet.
    lease_end REAL,
    consumer TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE INDEX messages_by_lease ON messages (queue, lease_end, id);

-- What processes say of themselves, until end_time. Later than the rest: a file of the version before gets it, too.
CREATE TABLE IF NOT EXISTS boards (
    board TEXT NOT NULL,
    name TEXT NOT NULL,
    value BLOB NOT NULL,
    put_time REAL NOT NULL,
    end_time REAL NOT NULL,
    PRIMARY KEY (board, name)
) WITHOUT ROWID;

-- Which tenant had the last turn with those who claim from the same queues (runwire/turns.py). Later than the rest, too.
CREATE TABLE IF NOT EXISTS turns (
    pool TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    taken INTEGER NOT NULL,
    put_time REAL NOT NULL
) WITHOUT ROWID;

-- Logs that were trimmed, cleared or purged: tells other processes that their readers must look again. Kept a minute.
CREATE TABLE notices (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    topic TEXT NOT NULL,
    create_time REAL NOT NULL
);
