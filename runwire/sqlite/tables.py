"""The contract of runwire/pubsub.py in SQL: what a transaction of the writer does, and what a snapshot shows.

A function that takes a Transaction writes. It checks everything before it writes anything, so a refusal leaves the
transaction as it was, and what others do in the same transaction is not touched.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import chain, islice
from typing import Final

from runwire.bell import Waited, messages_in, work_in
from runwire.errors import EventsLost, FieldExists, RunNotFound, TopicExists
from runwire.pubsub import (
    Claim,
    Commit,
    Committed,
    Delivery,
    Entry,
    Head,
    Lease,
    LeaseState,
    Page,
    Schedule,
    Stored,
)
from runwire.topic import Topic, entry_of

_NOTICE_SECONDS: Final = 60.0
_MOST_PARAMETERS: Final = 500
"""How many values one statement takes; SQLite's own limit was 999 for long."""

# The columns of a Topic, in the order of its fields.
_TOPIC: Final = (
    "epoch, queue, create_time, attempt, losses, earliest, last, event_check, final, due, leased, woken, "
    "expire_time, tombstone_time, token, holder, alone, alone_losses, lease, suspect, overdue"
)
_ENTRY: Final = "first, last, body, event_check, previous_check, final"


@dataclass(slots=True)
class Transaction:
    """One transaction of the writer, and what is to be told once it is committed."""

    connection: sqlite3.Connection
    now: float
    live: list[tuple[str, Entry | None]] = field(default_factory=list)
    """For the subscribers, in order."""
    bells: set[Waited] = field(default_factory=set)
    entry_ids: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Row:
    """A topic with its key."""

    id: int
    name: str
    topic: Topic


def _load(connection: sqlite3.Connection, name: str, now: float) -> Row | None:
    """The topic; None where there is none, nor its tombstone."""
    found = connection.execute(f"SELECT id, {_TOPIC} FROM topics WHERE topic = ?", (name,)).fetchone()
    if found is None:
        return None
    row = Row(found[0], name, Topic(*found[1:]))
    return None if row.topic.gone(now) else row


def not_found(topic: str) -> RunNotFound:
    return RunNotFound(f"there is no log {topic!r}")


# Commit


def commit(tx: Transaction, commit: Commit) -> Committed:
    """The one atomic write; see Commit."""
    row = _load(tx.connection, commit.topic, tx.now)
    if commit.create and row:
        raise TopicExists(f"there is a log {commit.topic!r} already")
    if not commit.create and row is None:
        raise not_found(commit.topic)
    topic = row.topic if row else Topic.new(commit.queue, tx.now)
    entry = entry_of(commit, topic.epoch)
    if topic.admits(commit, tx.now):
        if row:
            _check_once(tx, commit, row.id)
        was_suspect = topic.suspect
        topic.apply(commit, tx.now)
        topic_id = _update(tx, commit, row, was_suspect) if row else _insert(tx, commit, topic)
        _write_entry(tx, topic_id, commit, entry)
        _write_fields(tx, topic_id, commit)
        _send(tx, commit)
        if topic.due is not None and topic.due <= tx.now:
            tx.bells.add(work_in(topic.queue, topic.suspect))
    if entry:
        tx.live.append((commit.topic, entry))
    return Committed(topic.head(tx.now), entry, tx.now)


def _check_once(tx: Transaction, commit: Commit, topic_id: int) -> None:
    for name in commit.puts_once:
        statement = "SELECT value FROM fields WHERE topic_id = ? AND name = ?"
        found = tx.connection.execute(statement, (topic_id, name)).fetchone()
        if found:
            raise FieldExists(name, found[0])


def _insert(tx: Transaction, commit: Commit, topic: Topic) -> int:
    forget(tx, commit.topic)  # a tombstone that has had its time
    marks = ", ".join("?" * 23)
    topic_id = tx.connection.execute(
        f"INSERT INTO topics (topic, {_TOPIC}, sweep_time) VALUES ({marks})",
        (commit.topic, *_values(topic), topic.expire_time or None),
    ).lastrowid
    assert topic_id is not None
    tx.connection.executemany(
        "INSERT INTO places (list, create_time, topic, topic_id) VALUES (?, ?, ?, ?)",
        [(index, topic.create_time, commit.topic, topic_id) for index in dict.fromkeys(commit.indexes)],
    )
    return topic_id


def _values(topic: Topic) -> tuple[object, ...]:
    return (
        topic.epoch,
        topic.queue,
        topic.create_time,
        topic.attempt,
        topic.losses,
        topic.earliest,
        topic.last,
        topic.check,
        topic.final,
        topic.due,
        topic.leased,
        topic.woken,
        topic.expire_time,
        topic.tombstone_time,
        topic.token,
        topic.holder,
        topic.alone,
        topic.alone_losses,
        topic.lease,
        topic.suspect,
        topic.overdue,
    )


def _update(tx: Transaction, commit: Commit, row: Row, was_suspect: bool) -> int:
    topic = row.topic
    if commit.final or commit.schedule is not Schedule.KEEP or topic.suspect != was_suspect:
        tx.connection.execute(
            "UPDATE topics SET last = ?, event_check = ?, losses = ?, alone_losses = ?, final = ?, due = ?, leased = ?,"
            " woken = ?, suspect = ?, overdue = ?, expire_time = ?, tombstone_time = ?, sweep_time = ? WHERE id = ?",
            (
                topic.last,
                topic.check,
                topic.losses,
                topic.alone_losses,
                topic.final,
                topic.due,
                topic.leased,
                topic.woken,
                topic.suspect,
                topic.overdue,
                topic.expire_time,
                topic.tombstone_time,
                topic.expire_time or None,
                row.id,
            ),
        )
    elif commit.events or commit.progress:
        # What every append does touches no index.
        tx.connection.execute(
            "UPDATE topics SET last = ?, event_check = ?, losses = ?, alone_losses = ? WHERE id = ?",
            (topic.last, topic.check, topic.losses, topic.alone_losses, row.id),
        )
    return row.id


def _write_entry(tx: Transaction, topic_id: int, commit: Commit, entry: Entry | None) -> None:
    if entry is None:
        return
    entry_id = tx.connection.execute(
        f"INSERT INTO entries (topic_id, {_ENTRY}) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (topic_id, entry.first, entry.last, entry.body, entry.check, entry.previous, entry.final),
    ).lastrowid
    assert entry_id is not None
    tx.entry_ids.append(entry_id)


def _write_fields(tx: Transaction, topic_id: int, commit: Commit) -> None:
    for name in commit.deletes:
        tx.connection.execute("DELETE FROM fields WHERE topic_id = ? AND name = ?", (topic_id, name))
    for puts in (commit.puts, commit.puts_once):
        for name, value in puts.items():
            tx.connection.execute(
                "INSERT OR REPLACE INTO fields (topic_id, name, value) VALUES (?, ?, ?)", (topic_id, name, value)
            )


def _send(tx: Transaction, commit: Commit) -> None:
    for message in commit.messages:
        tx.connection.execute(
            "INSERT INTO messages (queue, deliveries, lease_end, consumer, body) VALUES (?, 0, NULL, '', ?)",
            (message.queue, message.body),
        )
        tx.bells.add(messages_in(message.queue))


# Reading


def read(connection: sqlite3.Connection, now: float, topic: str, after: int, max_events: int, max_bytes: int) -> Page:
    row = _load(connection, topic, now)
    if row is None:
        raise not_found(topic)
    head = row.topic.head(now)
    if head.expired:
        return Page(head, ())
    found = connection.execute(
        f"SELECT {_ENTRY} FROM entries WHERE topic_id = ? AND last > ? ORDER BY last", (row.id, after)
    )
    entries: list[Entry] = []
    events = size = 0
    expected = max(after + 1, head.earliest)
    full = False
    for first, last, body, check, previous, final in found:
        events += last - first + 1
        size += len(body)
        full = bool(entries) and (events > max_events or size > max_bytes)
        if full:
            break
        if first > expected:
            raise _lost(topic, expected)
        entries.append(Entry(head.epoch, first, last, body, check, previous, final))
        expected = last + 1
    found.close()
    if not full and expected <= head.last:
        raise _lost(topic, expected)
    return Page(head, entries)


def _lost(topic: str, sequence: int) -> EventsLost:
    return EventsLost(f"event {sequence} of log {topic!r} is not in the store", sequence=sequence)


def heads(connection: sqlite3.Connection, now: float, topics: Sequence[str]) -> list[Head | None]:
    found: dict[str, Topic] = {}
    for some in _chunks(topics):
        marks = ", ".join("?" * len(some))
        rows = connection.execute(f"SELECT topic, {_TOPIC} FROM topics WHERE topic IN ({marks})", some)
        found.update((row[0], Topic(*row[1:])) for row in rows)
    return [topic.head(now) if (topic := found.get(name)) and not topic.gone(now) else None for name in topics]


def get(connection: sqlite3.Connection, now: float, topic: str, fields: Sequence[str] | None) -> Stored | None:
    row = _load(connection, topic, now)
    if row is None:
        return None
    head = row.topic.head(now)
    return Stored(topic, head, {} if head.expired else _fields(connection, row.id, fields))


def _fields(connection: sqlite3.Connection, topic_id: int, names: Sequence[str] | None) -> Mapping[str, bytes]:
    if names is None:
        return dict(connection.execute("SELECT name, value FROM fields WHERE topic_id = ?", (topic_id,)))
    found: dict[str, bytes] = {}
    for some in _chunks(names):
        marks = ", ".join("?" * len(some))
        statement = f"SELECT name, value FROM fields WHERE topic_id = ? AND name IN ({marks})"
        found.update(connection.execute(statement, (topic_id, *some)))
    return found


def scan(
    connection: sqlite3.Connection,
    now: float,
    index: str,
    fields: Sequence[str],
    before: tuple[float, str] | None,
    since: float,
    limit: int,
) -> list[Stored]:
    below = "AND (p.create_time, p.topic) < (?, ?)" if before else ""
    rows = connection.execute(
        f"SELECT p.topic, p.topic_id, {', '.join('t.' + column for column in _TOPIC.split(', '))}"
        " FROM places p JOIN topics t ON t.id = p.topic_id"
        f" WHERE p.list = ? AND p.create_time >= ? AND (t.final = 0 OR t.tombstone_time > ?) {below}"
        " ORDER BY p.create_time DESC, p.topic DESC LIMIT ?",
        (index, since, now, *(before or ()), limit),
    ).fetchall()
    found: list[Stored] = []
    for name, topic_id, *values in rows:
        head = Topic(*values).head(now)
        found.append(Stored(name, head, {} if head.expired else _fields(connection, topic_id, fields)))
    return found


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    return (values[start : start + _MOST_PARAMETERS] for start in range(0, len(values), _MOST_PARAMETERS))


# Forgetting


def trim(tx: Transaction, topic: str, before: int) -> None:
    row = _load(tx.connection, topic, tx.now)
    if row is None:
        return
    dropped = tx.connection.execute("DELETE FROM entries WHERE topic_id = ? AND last < ?", (row.id, before)).rowcount
    if not dropped:
        return
    (first,) = tx.connection.execute("SELECT min(first) FROM entries WHERE topic_id = ?", (row.id,)).fetchone()
    earliest = row.topic.last + 1 if first is None else first
    tx.connection.execute("UPDATE topics SET earliest = ? WHERE id = ?", (earliest, row.id))
    _notify(tx, topic)


def forget(tx: Transaction, topic: str) -> None:
    """Removes everything of the topic, a tombstone too."""
    found = tx.connection.execute("SELECT id FROM topics WHERE topic = ?", (topic,)).fetchone()
    if found is None:
        return
    for table, column in (("entries", "topic_id"), ("fields", "topic_id"), ("places", "topic_id"), ("topics", "id")):
        tx.connection.execute(f"DELETE FROM {table} WHERE {column} = ?", found)
    _notify(tx, topic)


def _notify(tx: Transaction, topic: str) -> None:
    """Tells the subscribers of every process to look at the log."""
    tx.connection.execute("INSERT INTO notices (topic, create_time) VALUES (?, ?)", (topic, tx.now))
    tx.live.append((topic, None))


def sweep(tx: Transaction, limit: int) -> int:
    tx.connection.execute("DELETE FROM notices WHERE create_time < ?", (tx.now - _NOTICE_SECONDS,))
    due = tx.connection.execute(
        "SELECT id, topic, tombstone_time FROM topics WHERE sweep_time <= ? ORDER BY sweep_time LIMIT ?",
        (tx.now, limit),
    ).fetchall()
    removed = 0
    for topic_id, name, tombstone_time in due:
        if removed >= limit:
            break
        # A long log goes in several sweeps, so that no transaction is long.
        removed += tx.connection.execute(
            "DELETE FROM entries WHERE id IN (SELECT id FROM entries WHERE topic_id = ? LIMIT ?)",
            (topic_id, limit - removed),
        ).rowcount
        if removed < limit:
            removed += 1
            _end(tx, topic_id, name, tombstone_time)
    return removed


def _end(tx: Transaction, topic_id: int, name: str, tombstone_time: float) -> None:
    """Leaves the tombstone, or nothing if that has had its time too."""
    if tombstone_time <= tx.now:
        forget(tx, name)
        return
    tx.connection.execute("DELETE FROM fields WHERE topic_id = ?", (topic_id,))
    tx.connection.execute("UPDATE topics SET sweep_time = tombstone_time WHERE id = ?", (topic_id,))
    _notify(tx, name)


# Work


def claim(
    tx: Transaction, queues: Sequence[str], holder: str, limit: int, lease_seconds: float, alone: bool
) -> list[Claim]:
    claims: dict[int, Claim] = {}
    spared = True
    while spared and len(claims) < limit:
        spared = False
        for row in _due(tx, queues, alone, limit - len(claims)):
            if row.id in claims:
                continue
            topic = row.topic
            if topic.spare(tx.now):
                spared = True  # another one may be due in its place
            else:
                topic.claim(holder, secrets.token_hex(8), lease_seconds, alone, tx.now)
                claims[row.id] = _claim_of(tx, row)
            _update_lease(tx, row)
    return list(claims.values())


def _claim_of(tx: Transaction, row: Row) -> Claim:
    topic, fields = row.topic, _fields(tx.connection, row.id, None)
    return Claim(row.name, topic.head(tx.now), topic.token, topic.losses, topic.alone_losses, fields, tx.now)


def _due(tx: Transaction, queues: Sequence[str], alone: bool, limit: int) -> list[Row]:
    """The topics of the lane that are due longest."""
    statement = (
        f"SELECT due, id, topic, {_TOPIC} FROM topics WHERE queue = ? AND suspect = ? AND due <= ? ORDER BY due LIMIT ?"
    )
    found = [
        tx.connection.execute(statement, (queue, alone, tx.now, limit)).fetchall() for queue in dict.fromkeys(queues)
    ]
    longest = islice(merge(*found, key=lambda values: values[0]), limit)
    return [Row(topic_id, name, Topic(*values)) for _, topic_id, name, *values in longest]


def _update_lease(tx: Transaction, row: Row) -> None:
    topic = row.topic
    tx.connection.execute(
        "UPDATE topics SET attempt = ?, token = ?, holder = ?, alone = ?, losses = ?, alone_losses = ?, lease = ?,"
        " suspect = ?, overdue = ?, due = ?, leased = ?, woken = ? WHERE id = ?",
        (
            topic.attempt,
            topic.token,
            topic.holder,
            topic.alone,
            topic.losses,
            topic.alone_losses,
            topic.lease,
            topic.suspect,
            topic.overdue,
            topic.due,
            topic.leased,
            topic.woken,
            row.id,
        ),
    )


def extend(tx: Transaction, leases: Sequence[Lease], lease_seconds: float) -> list[LeaseState]:
    return [_extend(tx, lease, lease_seconds) for lease in leases]


def _extend(tx: Transaction, lease: Lease, lease_seconds: float) -> LeaseState:
    row = _load(tx.connection, lease.topic, tx.now)
    if row is None:
        return LeaseState.LOST
    state = row.topic.extend(lease, lease_seconds, tx.now)
    if state is not LeaseState.LOST:
        _update_lease(tx, row)
    return state


# Messages


def receive(
    tx: Transaction, queue: str, consumer: str, limit: int, lease_seconds: float, max_bytes: int
) -> list[Delivery]:
    ended = tx.connection.execute(
        "SELECT id, body, deliveries FROM messages WHERE queue = ? AND lease_end <= ? ORDER BY lease_end, id LIMIT ?",
        (queue, tx.now, limit),
    )
    new = tx.connection.execute(
        "SELECT id, body, deliveries FROM messages WHERE queue = ? AND lease_end IS NULL ORDER BY id LIMIT ?",
        (queue, limit),
    )
    found: list[tuple[int, bytes, int]] = []
    size = 0
    for row in islice(chain(ended, new), limit):
        if size >= max_bytes:
            break
        found.append(row)
        size += len(row[1])
    ended.close()  # or the rows that are left would hold up the update
    new.close()
    tx.connection.executemany(
        "UPDATE messages SET deliveries = deliveries + 1, lease_end = ?, consumer = ? WHERE id = ?",
        [(tx.now + lease_seconds, consumer, message_id) for message_id, _, _ in found],
    )
    return [Delivery(str(message_id), body, deliveries + 1) for message_id, body, deliveries in found]


def acknowledge(tx: Transaction, queue: str, message_ids: Sequence[str]) -> None:
    known = [(int(message_id), queue) for message_id in message_ids if _is_id(message_id)]
    tx.connection.executemany("DELETE FROM messages WHERE id = ? AND queue = ?", known)


def _is_id(message_id: str) -> bool:
    return message_id.isascii() and message_id.isdecimal() and len(message_id) < 19


def backlog(connection: sqlite3.Connection, queue: str) -> int:
    count: int = connection.execute("SELECT count(*) FROM messages WHERE queue = ?", (queue,)).fetchone()[0]
    return count


def due_time(connection: sqlite3.Connection, waited: Waited) -> float | None:
    """When there is something of what is waited for; 0 for already. None: not by the passing of time."""
    _, queue = waited
    if waited in (work_in(queue), work_in(queue, suspects=True)):
        statement = "SELECT min(due) FROM topics WHERE queue = ? AND suspect = ? AND due IS NOT NULL"
        found = connection.execute(statement, (queue, waited == work_in(queue, suspects=True))).fetchone()
    else:  # NULL, a message that nobody has had, comes first
        statement = "SELECT ifnull(lease_end, 0) FROM messages WHERE queue = ? ORDER BY lease_end LIMIT 1"
        found = connection.execute(statement, (queue,)).fetchone()
    return found[0] if found else None


# What other processes did


def newest(connection: sqlite3.Connection) -> tuple[int, int]:
    """The last ids of entries and of notices that were given."""
    given = dict(connection.execute("SELECT name, seq FROM sqlite_sequence"))
    return given.get("entries", 0), given.get("notices", 0)


def entries_between(connection: sqlite3.Connection, after: int, until: int, limit: int) -> list[tuple[int, str, str]]:
    """(entry id, topic, epoch) of the entries of all logs with `after` < id <= `until`."""
    return connection.execute(
        "SELECT e.id, t.topic, t.epoch FROM entries e JOIN topics t ON t.id = e.topic_id"
        " WHERE e.id > ? AND e.id <= ? ORDER BY e.id LIMIT ?",
        (after, until, limit),
    ).fetchall()


def entry(connection: sqlite3.Connection, entry_id: int, epoch: str) -> Entry | None:
    found = connection.execute(f"SELECT {_ENTRY} FROM entries WHERE id = ?", (entry_id,)).fetchone()
    return Entry(epoch, *found) if found else None


def notices_after(connection: sqlite3.Connection, after: int, limit: int) -> list[tuple[int, str]]:
    return connection.execute(
        "SELECT id, topic FROM notices WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
    ).fetchall()
