"""The contract of runwire/pubsub.py in SQL: what a transaction of the writer does, and what a snapshot shows.

A function that takes a Transaction writes. It checks everything before it writes anything, so a refusal leaves the
transaction as it was, and what others do in the same transaction is not touched.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import chain, islice
from typing import Final, TypeVar

from runwire.bell import Waited, messages_in, work_in
from runwire.errors import EventsLost, FieldExists, RunNotFound, TopicExists
from runwire.pubsub import (
    ASIDE,
    MAX_COUNTED,
    MAX_SCAN_LOOKS,
    Claim,
    Commit,
    Committed,
    Delivery,
    Depth,
    Entry,
    Head,
    Lease,
    LeaseState,
    Notice,
    Page,
    Scan,
    Schedule,
    Stored,
)
from runwire.topic import Topic, entry_of
from runwire.turns import Turn, Turns, Wanted, tenant_of

T = TypeVar("T")

_NOTICE_SECONDS: Final = 60.0
_FORGET_ROWS: Final = 1000
_FORGET_BYTES: Final = 1024 * 1024
"""After so many bytes of events and fields a transaction that forgets ends: commits wait for a few milliseconds."""
_MAX_DELETES: Final = 100
"""Fields that the last commit of a log deletes by itself. Where there are more it leaves all to the sweep."""
_LEFT: Final = "\0left/"
"""Begins the names of fields that tell of those which the last commit deleted, and which are there until they are
swept away."""
_AFTER_ASIDE: Final = ASIDE[:-1] + chr(ord(ASIDE[-1]) + 1)
"""The least text above all that begins with ASIDE."""
_FORGOTTEN: Final = "\0"
"""Begins the name of a topic that was cleared and is not swept yet. No caller's topic has such a name."""
_TURN_SECONDS: Final = 86400.0
"""For this long at least it is known who had the last turn."""
_NEVER: Final = float("inf")
_MAX_PARAMETERS: Final = 500
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
        _write_places(tx, topic_id, commit, topic)
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
            "UPDATE topics SET queue = ?, last = ?, event_check = ?, losses = ?, alone_losses = ?, final = ?, due = ?,"
            " leased = ?, woken = ?, suspect = ?, overdue = ?, expire_time = ?, tombstone_time = ?, sweep_time = ?"
            " WHERE id = ?",
            (
                topic.queue,
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


def _write_places(tx: Transaction, topic_id: int, commit: Commit, topic: Topic) -> None:
    for name in commit.leaves:
        tx.connection.execute(
            "DELETE FROM places WHERE list = ? AND create_time = ? AND topic = ?",
            (name, topic.create_time, commit.topic),
        )
    for name in commit.indexes:
        tx.connection.execute(
            "INSERT OR IGNORE INTO places (list, create_time, topic, topic_id) VALUES (?, ?, ?, ?)",
            (name, topic.create_time, commit.topic, topic_id),
        )


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
    if commit.final and len(commit.deletes) > _MAX_DELETES:
        # The journal of a long run: what others commit in this transaction would wait until all of it is gone.
        left = [name for name in commit.deletes if name not in commit.puts and name not in commit.puts_once]
        for number, some in enumerate(_chunks(left)):
            _put(tx, topic_id, f"{_LEFT}{number}", json.dumps(list(some)).encode())
        tx.connection.execute("UPDATE topics SET sweep_time = ? WHERE id = ?", (tx.now, topic_id))
    else:
        _delete(tx, topic_id, commit.deletes)
    for puts in (commit.puts, commit.puts_once):
        for name, value in puts.items():
            _put(tx, topic_id, name, value)


def _put(tx: Transaction, topic_id: int, name: str, value: bytes) -> None:
    tx.connection.execute(
        "INSERT OR REPLACE INTO fields (topic_id, name, value) VALUES (?, ?, ?)", (topic_id, name, value)
    )


def _delete(tx: Transaction, topic_id: int, names: Sequence[str]) -> None:
    tx.connection.executemany(
        "DELETE FROM fields WHERE topic_id = ? AND name = ?", [(topic_id, name) for name in names]
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
        rows = connection.execute(f"SELECT topic, {_TOPIC} FROM topics WHERE topic IN ({_marks(some)})", some)
        found.update((row[0], Topic(*row[1:])) for row in rows)
    return [topic.head(now) if (topic := found.get(name)) and not topic.gone(now) else None for name in topics]


def get(connection: sqlite3.Connection, now: float, topic: str, fields: Sequence[str] | None) -> Stored | None:
    row = _load(connection, topic, now)
    if row is None:
        return None
    head = row.topic.head(now)
    return Stored(topic, head, {} if head.expired else _fields(connection, row.id, fields))


def _fields(connection: sqlite3.Connection, topic_id: int, names: Sequence[str] | None) -> Mapping[str, bytes]:
    found: dict[str, bytes] = {}
    if names is None:
        # In two parts, so that what is set aside is not even gone over.
        below = "SELECT name, value FROM fields WHERE topic_id = ? AND name < ?"
        above = "SELECT name, value FROM fields WHERE topic_id = ? AND name >= ?"
        found.update(connection.execute(below, (topic_id, ASIDE)))
        found.update(connection.execute(above, (topic_id, _AFTER_ASIDE)))
    for some in _chunks(names or ()):
        statement = f"SELECT name, value FROM fields WHERE topic_id = ? AND name IN ({_marks(some)})"
        found.update(connection.execute(statement, (topic_id, *some)))
    for part, gone in _left(connection, topic_id):
        for name in (part, *gone):
            found.pop(name, None)
    return found


def scan(
    connection: sqlite3.Connection,
    now: float,
    lists: Sequence[str],
    fields: Sequence[str],
    before: tuple[float, str] | None,
    since: float,
    limit: int,
) -> Scan:
    found: list[Stored] = []
    places = _common(connection, lists, before, since)
    for create_time, name, topic_id in islice(places, max(limit, MAX_SCAN_LOOKS)):
        before = (create_time, name)
        if topic_id is None:
            continue
        topic = Topic(*connection.execute(f"SELECT {_TOPIC} FROM topics WHERE id = ?", (topic_id,)).fetchone())
        if not topic.expired(now):
            found.append(Stored(name, topic.head(now), _fields(connection, topic_id, fields)))
            if len(found) == limit:
                return Scan(found, before)
    return Scan(found, before if next(places, None) else None)


def _common(
    connection: sqlite3.Connection, lists: Sequence[str], before: tuple[float, str] | None, since: float
) -> Iterator[tuple[float, str, int | None]]:
    """Places that are in all lists, as (create_time, topic, topic id), newest first. Without an id: one that is not,
    and was only passed.

    Each list in turn is asked for its newest place that is not above the place reached, so that what lies between is
    never looked at, and the list with the fewest sets the pace.
    """
    at, below = before or (_NEVER, ""), "<"
    if len(lists) == 1:
        yield from _places(connection, lists[0], below, at, since)
        return
    while place := _place(connection, lists[0], below, at, since):
        for other in lists[1:]:
            there = _place(connection, other, "<=", place[:2], since)
            if there is None:
                return
            if there[:2] != place[:2]:
                yield *place[:2], None
                at, below = there[:2], "<="
                break
        else:
            yield place
            at, below = place[:2], "<"


def _place(
    connection: sqlite3.Connection, name: str, below: str, at: tuple[float, str], since: float
) -> tuple[float, str, int] | None:
    """The newest of `_places`."""
    return next(_places(connection, name, below, at, since), None)


def _places(
    connection: sqlite3.Connection, name: str, below: str, at: tuple[float, str], since: float
) -> Iterator[tuple[float, str, int]]:
    """The places of a list, from `at` on down. They are looked up as they are asked for."""
    return connection.execute(
        "SELECT create_time, topic, topic_id FROM places"
        f" WHERE list = ? AND create_time >= ? AND (create_time, topic) {below} (?, ?)"
        " ORDER BY create_time DESC, topic DESC",
        (name, since, *at),
    )


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    return (values[start : start + _MAX_PARAMETERS] for start in range(0, len(values), _MAX_PARAMETERS))


# Forgetting


def trim(tx: Transaction, topic: str, before: int) -> bool:
    """Forgets the oldest entries, as many as one transaction may. Whether there may be more."""
    row = _load(tx.connection, topic, tx.now)
    if row is None:
        return False
    oldest = tx.connection.execute(
        "SELECT id, length(body) FROM entries WHERE topic_id = ? AND last < ? ORDER BY last LIMIT ?",
        (row.id, before, _FORGET_ROWS),
    )
    dropped = _within(oldest, _FORGET_BYTES)
    if not dropped:
        return False
    tx.connection.executemany("DELETE FROM entries WHERE id = ?", [(entry_id,) for entry_id, _ in dropped])
    found = tx.connection.execute(
        "SELECT first FROM entries WHERE topic_id = ? ORDER BY last LIMIT 1", (row.id,)
    ).fetchone()
    earliest = found[0] if found else row.topic.last + 1
    tx.connection.execute("UPDATE topics SET earliest = ? WHERE id = ?", (earliest, row.id))
    _notify(tx, topic)
    return True


def _within(rows: Iterable[tuple[T, int]], max_bytes: int) -> list[tuple[T, int]]:
    """Of rows and their sizes the first ones, until they have so many bytes together."""
    found: list[tuple[T, int]] = []
    for row in rows:
        found.append(row)
        max_bytes -= row[1]
        if max_bytes <= 0:
            break
    return found


def forget(tx: Transaction, topic: str) -> None:
    """Removes everything of the topic, a tombstone too.

    Its name and its places go at once, its events and fields with the next sweeps: however long it is, nobody waits.
    """
    found = tx.connection.execute("SELECT id FROM topics WHERE topic = ?", (topic,)).fetchone()
    if found is None:
        return
    tx.connection.execute("DELETE FROM places WHERE topic_id = ?", found)
    tx.connection.execute(
        "UPDATE topics SET topic = ?, final = 1, due = NULL, leased = 0, expire_time = 0, tombstone_time = 0,"
        " sweep_time = 0 WHERE id = ?",
        (f"{_FORGOTTEN}{found[0]}", *found),
    )
    _notify(tx, topic)


def _notify(tx: Transaction, topic: str) -> None:
    """Tells the subscribers of every process to look at the log."""
    tx.connection.execute("INSERT INTO notices (topic, create_time) VALUES (?, ?)", (topic, tx.now))
    tx.live.append((topic, None))


def sweep(tx: Transaction, limit: int) -> int:
    """Removes up to `limit` rows, and about as many bytes as one transaction may."""
    oldest = "SELECT id, create_time FROM notices ORDER BY id LIMIT ?"
    tx.connection.execute(
        f"DELETE FROM notices WHERE id IN (SELECT id FROM ({oldest}) WHERE create_time < ?)",
        (limit, tx.now - _NOTICE_SECONDS),
    )
    due = tx.connection.execute(
        "SELECT id, topic, expire_time, tombstone_time FROM topics WHERE sweep_time <= ? ORDER BY sweep_time LIMIT ?",
        (tx.now, limit),
    ).fetchall()
    removed, room = 0, _FORGET_BYTES
    for topic_id, name, expire_time, tombstone_time in due:
        if removed >= limit or room <= 0:
            break
        # A long log goes in several sweeps, so that no transaction is long.
        expired = expire_time <= tx.now
        rows, size = (_empty if expired else _drop_left)(tx, topic_id, limit - removed, room)
        removed += rows
        room -= size
        if removed >= limit or room <= 0:
            continue
        if expired:
            removed += 1 + _end(tx, topic_id, name, tombstone_time)
        else:
            removed += 1
            tx.connection.execute("UPDATE topics SET sweep_time = expire_time WHERE id = ?", (topic_id,))
    return removed


def _drop_left(tx: Transaction, topic_id: int, limit: int, max_bytes: int) -> tuple[int, int]:
    """Removes fields that the last commit deleted, within both bounds. How many, and their bytes."""
    rows = size = 0
    for part, names in _left(tx.connection, topic_id):
        statement = f"SELECT name, length(value) FROM fields WHERE topic_id = ? AND name IN ({_marks(names)})"
        sizes = tx.connection.execute(statement, (topic_id, *names))
        dropped = _within(islice(sizes, limit - rows), max_bytes - size)
        sizes.close()
        _delete(tx, topic_id, [name for name, _ in dropped])
        rows += len(dropped)
        size += sum(size for _, size in dropped)
        if rows >= limit or size >= max_bytes:
            break
        _delete(tx, topic_id, [part])
    return rows, size


def _left(connection: sqlite3.Connection, topic_id: int) -> list[tuple[str, list[str]]]:
    """Names of fields that the last commit deleted and that are there still, by the fields that tell of them."""
    told = connection.execute(
        "SELECT name, value FROM fields WHERE topic_id = ? AND name > ? AND name < ?",
        (topic_id, _LEFT, _LEFT + "~"),
    )
    return [(part, json.loads(names)) for part, names in told]


def _marks(values: Sequence[str]) -> str:
    return ", ".join("?" * len(values))


def _empty(tx: Transaction, topic_id: int, limit: int, max_bytes: int) -> tuple[int, int]:
    """Removes events and fields of a topic, within both bounds. How many rows, and their bytes."""
    entries = tx.connection.execute(
        "SELECT id, length(body) FROM entries WHERE topic_id = ? ORDER BY last LIMIT ?", (topic_id, limit)
    )
    dropped = _within(entries, max_bytes)
    tx.connection.executemany("DELETE FROM entries WHERE id = ?", [(entry_id,) for entry_id, _ in dropped])
    rows, size = len(dropped), sum(size for _, size in dropped)
    if rows == limit or size >= max_bytes:
        return rows, size
    fields = tx.connection.execute(
        "SELECT name, length(value) FROM fields WHERE topic_id = ? ORDER BY name LIMIT ?", (topic_id, limit - rows)
    )
    named = _within(fields, max_bytes - size)
    tx.connection.executemany(
        "DELETE FROM fields WHERE topic_id = ? AND name = ?", [(topic_id, name) for name, _ in named]
    )
    return rows + len(named), size + sum(size for _, size in named)


def _end(tx: Transaction, topic_id: int, name: str, tombstone_time: float) -> int:
    """Leaves the tombstone of an empty topic, in no list, or nothing if that has had its time too. How many lists it
    was in."""
    left = tx.connection.execute("DELETE FROM places WHERE topic_id = ?", (topic_id,)).rowcount
    if tombstone_time <= tx.now:
        tx.connection.execute("DELETE FROM topics WHERE id = ?", (topic_id,))
    else:
        tx.connection.execute("UPDATE topics SET sweep_time = tombstone_time WHERE id = ?", (topic_id,))
    if not name.startswith(_FORGOTTEN):
        _notify(tx, name)
    return left


# Work


def claim(tx: Transaction, wanted: Wanted) -> list[Claim]:
    pool, max_bytes = wanted.pool, wanted.max_bytes
    waiting: dict[str, set[str]] = {}
    turns = Turns(
        _turn(tx, pool), _slashed(wanted.weights), lambda tenant, most: _due(tx, wanted, tenant, waiting[tenant], most)
    )
    before = turns.turn
    claims: dict[int, Claim] = {}
    more = True
    while more and len(claims) < wanted.limit and max_bytes > 0:
        left = wanted.limit - len(claims)
        waiting = _waiting(tx, wanted, turns.turn.tenant, left)
        more = False
        for row in turns.round(list(waiting), left) if waiting else ():
            if max_bytes <= 0:
                break
            if row.id in claims:
                continue
            more = True  # another one may be due in its place
            topic = row.topic
            if not topic.spare(tx.now):
                topic.claim(wanted.holder, secrets.token_hex(8), wanted.lease_seconds, wanted.alone, tx.now)
                claims[row.id] = _claim_of(tx, row)
                turns.took(_tenant(row.name))
                max_bytes -= sum(map(len, claims[row.id].fields.values()))
            _update_lease(tx, row)
    if turns.turn != before:
        _keep_turn(tx, pool, turns.turn)
    return list(claims.values())


def _claim_of(tx: Transaction, row: Row) -> Claim:
    topic, fields = row.topic, _fields(tx.connection, row.id, None)
    return Claim(row.name, topic.head(tx.now), topic.token, topic.losses, topic.alone_losses, fields, tx.now)


_TENANT: Final = "substr(topic, 1, instr(topic, '/'))"
"""As topics_by_tenant has it: with the `/`."""
_LANE: Final = "FROM topics WHERE queue = ?1 AND suspect = ?2 AND due IS NOT NULL"
# From one tenant to the next in the index, whatever they have queued.
_WAITING: Final = (
    "WITH RECURSIVE tenants (tenant) AS"
    f" (SELECT (SELECT {_TENANT} {_LANE} AND {_TENANT} >= ?3 ORDER BY {_TENANT} LIMIT 1)"
    f" UNION ALL SELECT (SELECT {_TENANT} {_LANE} AND {_TENANT} > tenants.tenant ORDER BY {_TENANT} LIMIT 1)"
    " FROM tenants WHERE tenants.tenant IS NOT NULL)"
    " SELECT tenant FROM tenants WHERE tenant IS NOT NULL AND EXISTS"
    f" (SELECT 1 {_LANE} AND {_TENANT} = tenants.tenant AND due <= ?4) LIMIT ?5"
)


def _waiting(tx: Transaction, wanted: Wanted, first: str, limit: int) -> dict[str, set[str]]:
    """The tenants that have something due, each with the queues in which that is, from `first` on and round again: so
    many as can have a turn, and one more, as the first may have had its turn."""
    found: dict[str, set[str]] = {}
    for start in (first, ""):
        names: dict[str, set[str]] = {}
        for queue in dict.fromkeys(wanted.queues):
            place = (queue, wanted.alone, start, tx.now, limit + 1)
            for (name,) in tx.connection.execute(_WAITING, place):
                names.setdefault(name, set()).add(queue)
        for name in sorted(names):
            found.setdefault(name, set()).update(names[name])
        if not first or len(found) > limit:
            break
    return dict(islice(found.items(), limit + 1))


def _due(tx: Transaction, wanted: Wanted, tenant: str, queues: Iterable[str], limit: int) -> list[Row]:
    """The tenant's topics of the lane that are due longest."""
    statement = (
        f"SELECT due, id, topic, {_TOPIC} FROM topics"
        f" WHERE queue = ? AND suspect = ? AND {_TENANT} = ? AND due <= ? ORDER BY due LIMIT ?"
    )
    found = [
        tx.connection.execute(statement, (queue, wanted.alone, tenant, tx.now, limit)).fetchall() for queue in queues
    ]
    longest = islice(merge(*found, key=lambda values: values[0]), limit)
    return [Row(topic_id, name, Topic(*values)) for _, topic_id, name, *values in longest]


def _tenant(topic: str) -> str:
    name = tenant_of(topic)
    return f"{name}/" if name else name


def _slashed(weights: Mapping[str, int]) -> Mapping[str, int]:
    return {f"{tenant}/": weight for tenant, weight in weights.items()}


def _turn(tx: Transaction, pool: str) -> Turn:
    found = tx.connection.execute("SELECT tenant, taken FROM turns WHERE pool = ?", (pool,)).fetchone()
    return Turn(*found) if found else Turn()


def _keep_turn(tx: Transaction, pool: str, turn: Turn) -> None:
    values = (turn.tenant, turn.taken, tx.now, pool)
    changed = tx.connection.execute("UPDATE turns SET tenant = ?, taken = ?, put_time = ? WHERE pool = ?", values)
    if not changed.rowcount:
        # Queues that nobody claims from any more: those of agents, and of versions of them, that are gone.
        tx.connection.execute("DELETE FROM turns WHERE put_time < ?", (tx.now - _TURN_SECONDS,))
        tx.connection.execute("INSERT INTO turns (tenant, taken, put_time, pool) VALUES (?, ?, ?, ?)", values)


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


# What is told to operators


def depths(connection: sqlite3.Connection, now: float) -> list[Depth]:
    found: list[Depth] = []
    queue = ""
    while True:  # from one queue to the next, whatever is in them
        row = connection.execute(
            "SELECT queue FROM topics WHERE due IS NOT NULL AND queue > ? ORDER BY queue LIMIT 1", (queue,)
        ).fetchone()
        if row is None:
            return found
        queue = row[0]
        found.append(_depth(connection, queue, now))


def _depth(connection: sqlite3.Connection, queue: str, now: float) -> Depth:
    due = ahead = 0
    oldest: list[float] = []
    for suspect in (0, 1):
        lane = (queue, suspect, now, MAX_COUNTED)
        statement = "SELECT due FROM topics WHERE queue = ? AND suspect = ? AND due <= ? ORDER BY due LIMIT ?"
        times = connection.execute(statement, lane).fetchall()
        due += len(times)
        oldest += times[0] if times else ()
        statement = "SELECT due FROM topics WHERE queue = ? AND suspect = ? AND due > ? LIMIT ?"
        ahead += len(connection.execute(statement, lane).fetchall())
    return Depth(queue, min(due, MAX_COUNTED), min(ahead, MAX_COUNTED), min(oldest, default=0.0))


def queued(connection: sqlite3.Connection, now: float, queues: Sequence[str], tenant: str) -> int:
    statement = f"SELECT count(*) FROM topics WHERE queue = ? AND suspect = 0 AND {_TENANT} = ? AND due <= ?"
    places = ((queue, f"{tenant}/", now) for queue in dict.fromkeys(queues))
    return sum(connection.execute(statement, place).fetchone()[0] for place in places)


def put_up(tx: Transaction, board: str, name: str, value: bytes, seconds: float) -> None:
    tx.connection.execute("DELETE FROM boards WHERE board = ? AND (end_time <= ? OR name = ?)", (board, tx.now, name))
    if seconds > 0:
        tx.connection.execute(
            "INSERT INTO boards (board, name, value, put_time, end_time) VALUES (?, ?, ?, ?, ?)",
            (board, name, value, tx.now, tx.now + seconds),
        )


def notices_on(connection: sqlite3.Connection, now: float, board: str) -> list[Notice]:
    statement = "SELECT name, value, put_time FROM boards WHERE board = ? AND end_time > ? ORDER BY name"
    return [Notice(*row) for row in connection.execute(statement, (board, now))]


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
