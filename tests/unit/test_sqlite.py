"""What is the SQLite engine's own: grouping, faults, a locked, full, replaced or damaged file, closing."""

import asyncio
import itertools
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from runwire.errors import EventsLost, Fenced, FieldExists, RunNotFound, StoreUnavailable
from runwire.pubsub import Commit, LeaseState, Message, Schedule
from runwire.sqlite import SqliteStore, database, open_sqlite, tables, watcher, writer
from runwire.sqlite.watcher import Seen
from tests.conformance.logs import (
    LIMIT_SECONDS,
    LONG_SECONDS,
    Inbox,
    append,
    appending,
    claim_one,
    eventually,
    extend,
    fields,
    finish,
    read_all,
    start,
    started,
)

TOPIC = "default/run"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteStore]:
    async with open_sqlite(f"sqlite:///{path}") as opened:
        yield opened


@pytest.fixture
async def other(store: SqliteStore, path: Path) -> AsyncIterator[SqliteStore]:
    """A second connection, as another process has it."""
    async with open_sqlite(f"sqlite:///{path}") as opened:
        yield opened


def sql(path: Path, statement: str) -> list[tuple[object, ...]]:
    """Runs a statement behind the store's back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(statement).fetchall()


@pytest.mark.parametrize(
    "statement, after, lost",
    [
        ("DELETE FROM entries", 0, 1),
        ("DELETE FROM entries WHERE last = 2", 0, 1),
        ("DELETE FROM entries WHERE last = 4", 2, 3),
        ("DELETE FROM entries WHERE last = 6", 0, 5),
        ("DELETE FROM entries WHERE last = 6", 4, 5),
    ],
)
async def test_missing_entries_are_lost_events(
    store: SqliteStore, path: Path, statement: str, after: int, lost: int
) -> None:
    """A head that promises events which are not there is EventsLost, never a shorter or a torn page."""
    await started(store)
    for last in (2, 4, 6):
        await append(store, TOPIC, 1, last - 1, last)
    sql(path, statement)
    with pytest.raises(EventsLost, match=f"event {lost} "):
        await store.read(TOPIC, after)


async def test_waiting_commits_become_one_transaction(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits while the writer is busy is committed together; each keeps its own outcome."""
    topics = [f"default/run-{number}" for number in range(50)]
    for topic in topics:
        await started(store, topic)
    sizes: list[int] = []
    transact = writer.Writer._transact

    def count(self: writer.Writer, works: list[object]) -> object:
        sizes.append(len(works))
        time.sleep(0.01)  # so that the rest gathers
        return transact(self, works)  # type: ignore[arg-type]

    monkeypatch.setattr(writer.Writer, "_transact", count)
    await asyncio.gather(*(append(store, topic, 1, 1, 1) for topic in topics))
    assert sum(sizes) == 50
    assert len(sizes) <= 3


async def test_a_fault_in_one_commit_spoils_no_other(store: SqliteStore) -> None:
    """A commit that breaks in the middle of its writes is rolled back by itself and tells its own error."""
    topics = [f"default/run-{number}" for number in range(6)]
    for topic in topics:
        await started(store, topic)
    surrogate = {"bad \ud800 name": b"1"}
    wrong_type = {"bad": object()}
    commits = [appending(topic, 1, 1, 2, puts={"a": b"1"}, messages=[Message("m", b"x")]) for topic in topics]
    commits[2] = appending(topics[2], 1, 1, 2, puts=surrogate)
    commits[3] = appending(topics[3], 1, 1, 2, puts=wrong_type)
    results = await asyncio.gather(*map(store.commit, commits), return_exceptions=True)
    assert isinstance(results[2], UnicodeEncodeError)
    assert isinstance(results[3], StoreUnavailable)
    for number in (0, 1, 4, 5):
        assert len(await read_all(store, topics[number])) == 2
        assert await fields(store, topics[number]) == {"a": b"1"}
    for number in (2, 3):
        assert await read_all(store, topics[number]) == []
        assert await fields(store, topics[number]) == {}
    assert await store.backlog("m") == 4
    await append(store, topics[2], 1, 1, 2)


async def test_commits_of_one_turn_see_each_other(store: SqliteStore) -> None:
    """Two commits to the same topic in one transaction are checked one after the other."""
    await started(store)
    first = Commit(TOPIC, puts_once={"a": b"1"})
    second = Commit(TOPIC, puts_once={"a": b"2"})
    results = await asyncio.gather(
        store.commit(first), store.commit(second), store.commit(appending(TOPIC, 1, 1, 1)), return_exceptions=True
    )
    assert isinstance(results[1], FieldExists)
    assert await fields(store, TOPIC) == {"a": b"1"}
    assert len(await read_all(store, TOPIC)) == 1


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that waits for locks only shortly."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr(writer, "BUSY_SECONDS", 0.05)


@pytest.mark.usefixtures("impatient")
async def test_a_locked_file_is_unavailable_until_it_is_free(store: SqliteStore, path: Path) -> None:
    """While another process holds the file, writes raise StoreUnavailable and reads continue; then the commit works."""
    await started(store)
    commit = appending(TOPIC, 1, 1, 1)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked"):
            await store.commit(commit)
        assert await read_all(store, TOPIC) == []
        await store.ping()
    await store.commit(commit)
    assert len(await read_all(store, TOPIC)) == 1


async def test_a_full_disk_is_unavailable(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit for which there is no room raises StoreUnavailable and leaves nothing; with room it takes effect."""
    await started(store)
    connect = database.Database.connect

    def small(self: database.Database, busy_seconds: float) -> sqlite3.Connection:
        connection = connect(self, busy_seconds)
        connection.execute("PRAGMA max_page_count = 40")
        return connection

    commit = appending(TOPIC, 1, 1, 1, "x" * 200_000, puts={"a": b"1"})
    with monkeypatch.context() as patch:
        patch.setattr(database.Database, "connect", small)
        store._writer._handle.close()
        with pytest.raises(StoreUnavailable, match="full"):
            await store.commit(commit)
    assert await read_all(store, TOPIC) == []
    assert await fields(store, TOPIC) == {}
    await store.commit(commit)
    assert await fields(store, TOPIC) == {"a": b"1"}


async def test_a_replaced_file_is_noticed(store: SqliteStore, path: Path) -> None:
    """When the file is deleted, readers are told, and the store continues with a new, empty one."""
    await started(store)
    await append(store, TOPIC, 1, 1, 1)
    inbox = Inbox()
    async with store.pubsub.subscribe(TOPIC, inbox.deliver):
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        await inbox.until(lambda: None in inbox.got)
        with pytest.raises(RunNotFound):
            await store.read(TOPIC, 0)
        await started(store)
        await append(store, TOPIC, 1, 1, 2)
        await inbox.until_sequence(2)
    assert sql(path, "SELECT count(*) FROM entries") == [(1,)]


async def test_a_file_that_is_replaced_while_it_is_opened(
    store: SqliteStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer does not continue with the file that has just lost its name: nobody would find what it wrote there."""
    await started(store)
    connect = database.Database.connect

    another = path.with_name("another.db")
    database.Database(another).create()

    def replaced(self: database.Database, busy_seconds: float) -> sqlite3.Connection:
        connection = connect(self, busy_seconds)
        if busy_seconds == 0 and another.exists():  # the writer's own
            os.replace(another, path)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(database.Database, "connect", replaced)
        store._writer._handle.close()
        with pytest.raises(StoreUnavailable, match="replaced"):
            await append(store, TOPIC, 1, 1, 1)
    await start(store)
    assert sql(path, "SELECT topic FROM topics") == [(TOPIC,)]


async def test_a_folder_that_is_gone_is_unavailable(store: SqliteStore, path: Path) -> None:
    """When the whole folder is moved away, calls raise StoreUnavailable; when it is back, the store works again."""
    await started(store)
    away = path.parent.with_name("away")
    os.rename(path.parent, away)
    calls: list[Callable[[], Awaitable[object]]] = [
        store.ping,
        lambda: store.read(TOPIC, 0),
        lambda: append(store, TOPIC, 1, 1, 1),
        lambda: store.claim(["runs"], holder="somebody", limit=1, lease_seconds=1.0, wait_seconds=1.0),
    ]
    for call in calls:
        with pytest.raises(StoreUnavailable, match="gone"):
            await call()
    os.rename(away, path.parent)
    await append(store, TOPIC, 1, 1, 1)
    assert len(await read_all(store, TOPIC)) == 1


def overwrite(path: Path) -> None:
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(b"\xff" * size)


async def test_a_damaged_file_is_unavailable(store: SqliteStore, path: Path) -> None:
    """A file overwritten under the store raises StoreUnavailable with SQLite's word for it."""
    await started(store)
    sql(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    overwrite(path)
    with pytest.raises(StoreUnavailable):
        await append(store, TOPIC, 1, 1, 1)


async def test_closing_finishes_what_was_handed_in(path: Path) -> None:
    """Commits that wait when the store is closed are done; later calls raise StoreUnavailable."""
    async with open_sqlite(f"sqlite:///{path}") as store:
        for number in range(20):
            await started(store, f"default/run-{number}")
        async with asyncio.TaskGroup() as group:
            appends = [group.create_task(append(store, f"default/run-{number}", 1, 1, 3)) for number in range(20)]
            await asyncio.sleep(0)
            await store.close()
        assert all(task.result().head.last == 3 for task in appends)
        for call in (store.ping(), append(store, TOPIC, 1, 1, 1), store.backlog("m")):
            with pytest.raises(StoreUnavailable, match="closed"):
                await call
    async with open_sqlite(f"sqlite:///{path}") as store:
        for number in range(20):
            assert len(await read_all(store, f"default/run-{number}")) == 3


async def test_closing_ends_who_waits(path: Path) -> None:
    """Who waits for work or messages, or comes to subscribe, is told at once that the store is closed."""
    async with open_sqlite(f"sqlite:///{path}") as store:
        async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
            group.create_task(closed(claim_one(store)))
            group.create_task(closed(store.receive("m", consumer="c", limit=1, lease_seconds=1.0, wait_seconds=60.0)))
            await asyncio.sleep(0.05)  # so that they wait
            await store.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            async with store.pubsub.subscribe(TOPIC, lambda entry: None):
                pass


async def closed(call: Awaitable[object]) -> None:
    with pytest.raises(StoreUnavailable, match="closed"):
        await call


async def test_trim_and_purge_are_told_to_other_processes(store: SqliteStore, other: SqliteStore) -> None:
    """A subscriber elsewhere hears of a trim, and of the sweep that purges its log."""
    await started(store)
    await append(store, TOPIC, 1, 1, 1)
    inbox = Inbox()
    async with other.pubsub.subscribe(TOPIC, inbox.deliver):
        await finish(store, TOPIC, 1, 2, retention=0.1)
        await inbox.until_sequence(2)
        assert None not in inbox.got
        await store.trim(TOPIC, 2)
        await inbox.until(lambda: None in inbox.got)
        inbox.got.clear()
        await eventually(store.sweep)
        await inbox.until(lambda: None in inbox.got)


async def test_a_long_log_is_swept_in_portions(store: SqliteStore, path: Path) -> None:
    """No sweep removes more than its limit, and the log is out of sight all the while."""
    await started(store)
    for sequence in range(1, 26):
        await append(store, TOPIC, 1, sequence, sequence)
    await finish(store, TOPIC, 1, 26, retention=0.0)
    removed: list[int] = []
    while count := await store.sweep(limit=10):
        removed.append(count)
        assert list((await store.read(TOPIC, 0)).entries) == []
    assert removed == [10, 10, 7]  # 26 entries, and the rest of the topic
    assert sql(path, "SELECT count(*) FROM entries") == [(0,)]


def pages(path: Path) -> int:
    """Bytes of the log beside the file."""
    return Path(f"{path}-wal").stat().st_size


async def grown(store: SqliteStore, entries: int, kibibytes: int) -> None:
    """A log of entries of this size."""
    claim = await started(store, indexes=["all"], puts={"field": b"x" * 1024 * 1024})
    text = "x" * (kibibytes * 1024)
    for sequence in range(1, entries + 1):
        await store.commit(appending(TOPIC, claim.head.attempt, sequence, sequence, text))


@pytest.mark.parametrize("way", ["sweep", "clear", "trim"])
async def test_what_is_large_is_forgotten_a_little_at_a_time(store: SqliteStore, path: Path, way: str) -> None:
    """However a log of 24 MiB is forgotten, no transaction removes more than a MiB and a row: who commits meanwhile
    waits for one of these, and the file's log does not grow by what is forgotten."""
    await grown(store, 100, 240)
    text = "x" * (240 * 1024)
    if way == "sweep":
        await store.commit(appending(TOPIC, 1, 101, 101, text, final=4))
    elif way == "clear":
        await store.clear(TOPIC)
    before = sql(path, "SELECT count(*) FROM entries")[0][0]
    assert isinstance(before, int)
    assert before >= 100
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        while True:
            tx = tables.Transaction(connection, time.time())
            connection.execute("BEGIN IMMEDIATE")
            done = tables.trim(tx, TOPIC, 90) if way == "trim" else tables.sweep(tx, 1000)
            connection.execute("COMMIT")
            [(left,)] = connection.execute("SELECT count(*) FROM entries").fetchall()
            assert before - left <= 1024 // 240 + 1
            before = left
            if not done:
                break
    assert before == (11 if way == "trim" else 0)
    assert pages(path) < 8 * 1024 * 1024


async def test_a_long_journal_is_forgotten_a_little_at_a_time(store: SqliteStore, path: Path) -> None:
    """The commit that ends a run with 12 MiB in its journal removes none of it: sweeps do, a MiB at a time, and then
    the run waits for the end of its retention."""
    claim = await started(store, puts={"run": b"r"})
    names = [f"journal/{number}" for number in range(120)]
    for name in names:
        await store.commit(Commit(TOPIC, puts={name: b"x" * 100 * 1024}))
    await finish(store, TOPIC, claim.head.attempt, 1, deletes=names, retention=LONG_SECONDS)
    sizes = [sql(path, "SELECT count(*) FROM fields WHERE name LIKE 'journal/%'")[0][0]]
    while await store.sweep():
        sizes.append(sql(path, "SELECT count(*) FROM fields WHERE name LIKE 'journal/%'")[0][0])
    assert sizes[0] == 120
    assert sizes[-1] == 0
    assert all(before - after <= 11 for before, after in itertools.pairwise(sizes))  # type: ignore[operator]
    assert sql(path, "SELECT name FROM fields") == [("run",)]
    assert sql(path, "SELECT sweep_time = expire_time FROM topics") == [(1,)]


async def test_a_cleared_log_is_gone_at_once_and_its_name_is_free(store: SqliteStore, path: Path) -> None:
    """What is left of it for the sweep is nobody's: not in a list, not read, not of the log that takes its name."""
    await grown(store, 3, 10)
    await store.clear(TOPIC)
    assert (await store.scan("all", fields=[])).found == []
    assert await store.get(TOPIC) is None
    claim = await started(store, indexes=["all"], puts={"b": b"2"})
    assert claim.fields == {"b": b"2"}
    assert (await store.read(TOPIC, 0)).entries == []
    while await store.sweep():
        pass
    assert sql(path, "SELECT count(*) FROM topics") == [(1,)]
    assert sql(path, "SELECT count(*) FROM entries") == [(0,)]
    assert sql(path, "SELECT name FROM fields") == [("b",)]
    assert [stored.topic for stored in (await store.scan("all", fields=[])).found] == [TOPIC]


async def test_deleted_pages_are_not_overwritten(store: SqliteStore, path: Path) -> None:
    """On every connection of the engine, whatever the build of SQLite does by itself."""
    with closing(database.Database(path).connect()) as connection:
        assert connection.execute("PRAGMA secure_delete").fetchone() == (0,)
        assert connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (1000,)


async def test_notices_are_forgotten(store: SqliteStore, path: Path) -> None:
    """What tells other processes of a clear does not stay in the file for ever."""
    await start(store)
    await store.clear(TOPIC)
    assert sql(path, "SELECT topic FROM notices") == [(TOPIC,)]
    sql(path, "UPDATE notices SET create_time = create_time - 100")
    await store.sweep()
    assert sql(path, "SELECT topic FROM notices") == []


async def test_nobody_waits_for_a_second_transaction(store: SqliteStore, other: SqliteStore) -> None:
    """A burst of one process does not keep the other from writing."""
    await started(store, "default/burst")
    await started(other, "default/lone")

    async def burst() -> None:
        for sequence in range(1, 301):
            await append(store, "default/burst", 1, sequence, sequence)

    async def lone() -> None:
        for sequence in range(1, 21):
            await append(other, "default/lone", 1, sequence, sequence)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(burst())
        group.create_task(lone())
    assert len(await read_all(store, "default/lone")) == 20
    assert len(await read_all(other, "default/burst")) == 300


async def test_the_watcher_follows_after_a_pause(store: SqliteStore, other: SqliteStore) -> None:
    """Subscribing, leaving, and subscribing again after others have written: each time only what is new comes."""
    await started(store)
    for round_ in range(3):
        base = round_ * 10
        inbox = Inbox()
        async with other.pubsub.subscribe(TOPIC, inbox.deliver):
            for sequence in range(base + 1, base + 6):
                await append(store, TOPIC, 1, sequence, sequence)
            await inbox.until_sequence(base + 5)
        assert [entry.first for entry in inbox.entries] == list(range(base + 1, base + 6))
        await append(store, TOPIC, 1, base + 6, base + 10)
        await asyncio.sleep(0.05)  # until the watcher sleeps, of which there is no signal


async def test_the_watcher_outlives_a_fault(
    store: SqliteStore, other: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who subscribes while it cannot look is told, and who comes later hears of what others write."""
    await started(store)
    inbox = Inbox()
    with monkeypatch.context() as patch:
        patch.setattr(tables, "newest", lambda connection: 1 // 0)
        async with asyncio.timeout(LIMIT_SECONDS):
            with pytest.raises(StoreUnavailable, match="zero"):
                async with other.pubsub.subscribe(TOPIC, inbox.deliver):
                    pytest.fail("nobody looks")

    async def subscribed() -> bool:
        try:
            async with other.pubsub.subscribe(TOPIC, inbox.deliver):
                await append(store, TOPIC, 1, 1, 1)
                await inbox.until_sequence(1)
        except StoreUnavailable:  # the end of the same fault
            return False
        return True

    await eventually(subscribed)


async def test_entries_of_both_processes_come_in_full(store: SqliteStore, other: SqliteStore) -> None:
    """While both write, a subscriber of one gets every entry of the other."""
    near, far = "default/near", "default/far"
    await started(store, near)
    await started(other, far)
    boxes = {near: Inbox(), far: Inbox()}

    async def write(to: SqliteStore, topic: str) -> None:
        for sequence in range(1, 101):
            await append(to, topic, 1, sequence, sequence)

    async with store.pubsub.subscribe(near, boxes[near].deliver), store.pubsub.subscribe(far, boxes[far].deliver):
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            group.create_task(write(store, near))
            group.create_task(write(other, far))
        for inbox in boxes.values():
            await inbox.until_sequence(100)
    for topic, inbox in boxes.items():
        assert [entry.first for entry in inbox.entries] == list(range(1, 101)), topic
    assert len([entry for entry in boxes[far].got if entry]) == 100, "entries of others come once"


async def test_entries_on_both_sides_of_an_own_one(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What others wrote before and after an entry of this process is found by a single look at the file."""
    monkeypatch.setattr(watcher, "BUSY_POLL_SECONDS", 0.3)
    monkeypatch.setattr(watcher, "IDLE_POLL_SECONDS", 0.3)
    url = f"sqlite:///{path}"
    async with open_sqlite(url) as store, open_sqlite(url) as other:
        await started(store, "default/own")
        await started(other)
        inbox = Inbox()
        async with store.pubsub.subscribe(TOPIC, inbox.deliver):
            await append(other, TOPIC, 1, 1, 1)
            await inbox.until_sequence(1)  # a look has just passed, and the next one is far
            await append(other, TOPIC, 1, 2, 2)
            await append(store, "default/own", 1, 1, 1)
            await append(other, TOPIC, 1, 3, 3)
            await inbox.until_sequence(3)


def test_seen_leaves_out_what_is_known() -> None:
    """The gaps between this process's own entries are what is to be read, once each."""
    seen = Seen()
    seen.wrote(1, 5)
    seen.start(10)
    assert seen.gap()[0] == 10
    seen.wrote(11, 12)
    assert seen.gap()[0] == 12
    seen.wrote(15, 16)
    seen.wrote(20, 20)
    assert seen.gap() == (12, 14)
    seen.saw(13)
    assert seen.gap() == (13, 14)
    seen.saw(14)
    assert seen.gap() == (16, 19)
    seen.saw(19)
    assert seen.gap()[0] == 20
    seen.stop()
    seen.wrote(25, 30)
    seen.start(40)
    assert seen.gap()[0] == 40


async def test_synchronous_is_as_asked(path: Path) -> None:
    """NORMAL by default, FULL where the URL says so."""
    for query, number in (("", 1), ("?synchronous=normal", 1), ("?synchronous=full", 2)):
        async with open_sqlite(f"sqlite:///{path}{query}") as store:
            found = await store._writer.write(lambda tx: tx.connection.execute("PRAGMA synchronous").fetchone())
            assert found == (number,)


async def test_many_open_the_same_new_file_at_once(path: Path) -> None:
    """Processes that start together on a file that is not there yet all get the same store."""
    stores = [open_sqlite(f"sqlite:///{path}") for _ in range(8)]
    opened = await asyncio.gather(*(store.__aenter__() for store in stores))
    try:
        await start(opened[0])
        for store in opened:
            assert await store.get(TOPIC) is not None
    finally:
        for context in stores:
            await context.__aexit__(None, None, None)


def test_who_looks_while_another_makes_the_tables_sees_a_store(tmp_path: Path) -> None:
    """A file is judged as it is at one moment: one that gets its tables just then is not taken for something else."""
    for number in range(25):
        made = database.Database(tmp_path / f"{number}.db")
        together = threading.Barrier(4)

        def create(made: database.Database = made, together: threading.Barrier = together) -> None:
            together.wait(LIMIT_SECONDS)
            made.create()

        with ThreadPoolExecutor(together.parties) as pool:
            for created in [pool.submit(create) for _ in range(together.parties)]:
                created.result(LIMIT_SECONDS)


async def test_a_wake_by_another_process_is_prompt(store: SqliteStore, other: SqliteStore) -> None:
    """A claim that waits here is rung by a commit there, and does not wait for its own recheck."""
    await start(store, schedule=Schedule.NEVER)
    async with asyncio.timeout(LIMIT_SECONDS), asyncio.TaskGroup() as group:
        waiting = group.create_task(claim_one(store, lease_seconds=LONG_SECONDS))
        await asyncio.sleep(0.05)
        before = time.monotonic()
        await other.commit(Commit(TOPIC, schedule=Schedule.WAKE))
    assert waiting.result().topic == TOPIC
    assert time.monotonic() - before < 2.5  # the recheck alone would take 5 seconds


OLD_TOPICS = """
CREATE TABLE topics (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL UNIQUE, epoch TEXT NOT NULL, queue TEXT NOT NULL,
    create_time REAL NOT NULL, attempt INTEGER NOT NULL, losses INTEGER NOT NULL, earliest INTEGER NOT NULL,
    last INTEGER NOT NULL, event_check BLOB NOT NULL, final INTEGER NOT NULL, due REAL, leased INTEGER NOT NULL,
    woken INTEGER NOT NULL, expire_time REAL NOT NULL, tombstone_time REAL NOT NULL, sweep_time REAL
);
CREATE INDEX topics_by_due ON topics (queue, due) WHERE due IS NOT NULL;
CREATE INDEX topics_by_sweep ON topics (sweep_time) WHERE sweep_time IS NOT NULL;
"""
"""As the first version made it."""
OLD_CLAIM = "UPDATE topics SET attempt = attempt + 1, losses = 0, due = 0, leased = 1, woken = 0"


async def test_a_file_of_the_version_before_goes_on(path: Path) -> None:
    """Its topics are claimed, also one that a process of that version holds or claims beside this one: a loss is
    counted for what it lost, and attempts fence as they did."""
    async with open_sqlite(f"sqlite:///{path}") as store:
        await start(store)
    with closing(sqlite3.connect(path)) as connection:
        columns = (
            "id, topic, epoch, queue, create_time, attempt, losses, earliest, last, event_check, final, due, leased,"
            " woken, expire_time, tombstone_time, sweep_time"
        )
        connection.executescript(
            f"CREATE TABLE kept AS SELECT {columns} FROM topics; DROP TABLE topics; {OLD_TOPICS}"
            f"INSERT INTO topics ({columns}) SELECT {columns} FROM kept; DROP TABLE kept; {OLD_CLAIM};"
        )
    async with open_sqlite(f"sqlite:///{path}") as store, open_sqlite(f"sqlite:///{path}") as beside:
        claim = await claim_one(store, lease_seconds=0.1)
        assert (claim.head.attempt, claim.losses) == (2, 1)
        sql(path, OLD_CLAIM)  # the version before claims it now
        with pytest.raises(Fenced):
            await store.commit(Commit(TOPIC, claim.head.attempt, token=claim.token, puts={"a": b"1"}))
        assert await extend(store, claim) is LeaseState.LOST
        assert (await claim_one(beside, alone=True)).head.attempt == 4
