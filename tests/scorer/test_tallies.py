"""Kept counts are what a count would find: after any history, whoever writes, and while they are added up."""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from typing import Any

import pytest
from sqlalchemy import delete, func, select, text, update
from sqlalchemy.engine import Connection

from runwire.errors import StoreUnavailable
from scorer_service.answers import statistics
from scorer_service.answers.controls import Controls
from scorer_service.answers.queries import Filter
from scorer_service.answers.tallied import Window
from scorer_service.queue import tallies as keeping
from scorer_service.queue.jobs import Jobs, Offer
from scorer_service.queue.retention import Ages, Retention
from scorer_service.queue.tallies import Tallies
from scorer_service.registry import Registry
from scorer_service.results import schema
from scorer_service.results.database import Database, open_database
from scorer_service.results.records import Finished, NewRun, Priority, ScoreRecord, State
from scorer_service.scoring import Sample, scorer

c = schema.scorer_runs.c
DAY = 86400.0
ENDS = (State.SUCCEEDED, State.SUCCEEDED, State.FAILED, State.NOT_SCORABLE, State.RETRYING, State.PENDING)
SCORES = (0.0, 0.5, 0.25, -3.0, 1e6, -1e12, 1e299, 1e305)


@scorer(id="a", version="1")
async def A(sample: Sample) -> float:
    return 1.0


class History:
    """Random changes of scorer runs, by the service's own ways and by SQL."""

    def __init__(self, database: Database, seed: int) -> None:
        self._database, self._choose, self._name = database, random.Random(seed), f"w{seed}"
        self._jobs = Jobs(database, worker=self._name)
        self._controls = Controls(database, self._jobs, Registry([A]), wake=lambda: None)
        self._retention = Retention(database, Ages(1e-6, 1e-6, 0.0))
        self._added = 0

    async def run(self, steps: int) -> None:
        await self._jobs.register(["a", "b"])
        for _ in range(steps):
            await self._choose.choice([self.add, self.add, self.finish, self.finish, self.ask, self.change])()

    async def add(self) -> None:
        new = []
        for _ in range(self._choose.randrange(1, 6)):
            self._added += 1
            state = self._choose.choice([State.PENDING, State.PENDING, State.DECLINED])
            new.append(
                NewRun(
                    f"{self._choose.randrange(1 << 30):x}-{self._name}-{self._added}",
                    self._choose.choice(["default", "default", "other"]),
                    self._choose.choice(["a", "b"]),
                    scorer_name=self._choose.choice(["", "strict"]),
                    state=state,
                    priority=self._choose.choice(list(Priority)),
                    sample=b"\n\0",
                    create_time=self._choose.uniform(100 * DAY, 104 * DAY),
                )
            )
        await self._jobs.add(new)

    async def finish(self) -> None:
        jobs = (await self._jobs.claim({"a": Offer(3), "b": Offer(3)}, 5)).jobs
        ended = []
        for job in jobs:
            state = self._choose.choice(ENDS)
            score = ScoreRecord(self._choose.choice(SCORES), "", "", "{}", 1, None)
            ended.append(Finished(job, state, "1", score if state is State.SUCCEEDED else None))
        await self._jobs.finish(ended[: self._choose.randrange(len(ended) + 1)])  # the others stay RUNNING

    async def ask(self) -> None:
        tenant, some = self._choose.choice(["default", "other"]), Filter("default", scorer_id="a")
        what = self._choose.randrange(4)
        if what == 0:
            await self._controls.cancel(tenant, [await self._any()])
        elif what == 1:
            await self._controls.redrive(tenant, some)
        elif what == 2:
            await self._retention.sweep_runs()
        else:
            await self._controls.redrive(tenant, [await self._any()])

    async def change(self) -> None:
        """What no release does, but somebody may."""
        key = await self._any()
        day = self._choose.uniform(99 * DAY, 105 * DAY)
        change: Any = self._choose.choice(
            [
                update(schema.scorer_runs).values(create_time=day, end_time=day + self._choose.expovariate(0.1)),
                update(schema.scorer_runs).values(score_value=self._choose.choice(SCORES)),
                update(schema.scorer_runs).values(state=int(self._choose.choice(list(State)))),
                update(schema.scorer_runs).values(tenant="other", scorer_name="moved"),
                update(schema.scorer_runs).values(due_time=schema.NOW),
                delete(schema.scorer_runs),
            ]
        )
        await self._database.write(lambda connection: connection.execute(change.where(c.scorer_run_id == key)))

    async def _any(self) -> str:
        query = select(c.scorer_run_id)
        ids = await self._database.read(lambda connection: connection.execute(query).scalars().all())
        return self._choose.choice(sorted(ids)) if ids else ""


def kept(connection: Connection, period: int) -> dict[tuple[Any, ...], tuple[int, float]]:
    """Numbers and sums by kind, as they are kept."""
    found: dict[tuple[Any, ...], list[float]] = defaultdict(lambda: [0, 0.0])
    t, changes = schema.tallies.c, schema.tally_changes.c
    for of, hour in ((t, t.start), (changes, changes.hour - changes.hour % period)):
        query = select(
            of.tenant, hour, of.scorer_id, of.scorer_name, of.state, of.ad_hoc, of.bin, of.scale, of.number, of.total
        )
        for row in connection.execute(query.where(t.period_hours == period) if of is t else query):
            sums = found[tuple(row)[:8]]
            sums[0] += row.number
            sums[1] += row.total
    return {key: (int(number), total) for key, (number, total) in found.items() if number}


def counted(connection: Connection, period: int) -> dict[tuple[Any, ...], tuple[int, float]]:
    """The same, from the rows."""
    k = schema.kinds.c
    key = (k.tenant, k.hour - k.hour % period, k.scorer_id, k.scorer_name, k.state, k.ad_hoc, k.bin, k.scale)
    query = select(*key, func.count(), func.sum(k.score)).group_by(*key)
    return {tuple(row)[:8]: (row[8], row[9]) for row in connection.execute(query)}


async def compare(database: Database) -> None:
    for period in (1, 24):
        found = await database.write(lambda connection, p=period: (kept(connection, p), counted(connection, p)))  # type: ignore[misc]
        mine, theirs = found
        assert {key: number for key, (number, _) in mine.items()} == {key: value[0] for key, value in theirs.items()}
        for key, (_, total) in theirs.items():
            assert mine[key][1] == pytest.approx(total, rel=1e-6, abs=1e-6), key


async def ask_both(database: Database, window: Window) -> None:
    """Statistics from what is kept are those from the rows."""

    def work(connection: Connection) -> Any:
        of_kept = statistics._pass(connection, window)
        connection.execute(update(schema.tallied).values(complete=False))
        of_rows = statistics._pass(connection, window)
        connection.execute(update(schema.tallied).values(complete=True))
        return of_kept, of_rows

    of_kept, of_rows = await database.write(work)
    assert of_kept.keys() == of_rows.keys()
    for use, one in of_rows.items():
        other = of_kept[use]
        assert other.sum_of_scores == pytest.approx(one.sum_of_scores, rel=1e-6, abs=1e-6)
        other.sum_of_scores = one.sum_of_scores
        assert other == one, (use, window)


async def empty_and_count_anew(database: Database) -> None:
    """As a migration leaves tables that had rows."""
    again = update(schema.tallied).values(complete=False, upto="")
    for statement in (delete(schema.tallies), delete(schema.tally_changes), again):
        await database.write(lambda connection, s=statement: connection.execute(s))  # type: ignore[misc]


async def fold_all(database: Database) -> None:
    while await Tallies(database).fold():
        pass


@pytest.mark.parametrize("seed", range(3))
async def test_kept_counts_are_what_a_count_finds(
    database: Database, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Random histories of three writers at once, from an empty table or from one whose rows are counted meanwhile,
    while two processes add up: numbers are equal and sums nearly so, before and after all is added up; nothing is kept
    of what there is none of; statistics of any window are those that the rows have."""
    monkeypatch.setattr(keeping, "FOLDED", 7)
    monkeypatch.setattr(keeping, "LEFT", 3)
    monkeypatch.setattr(keeping, "COUNTED", 5)
    monkeypatch.setattr(keeping, "_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(keeping, "_IDLE_SECONDS", 0.0)
    choose = random.Random(seed)
    if seed:
        await History(database, 1000 + seed).run(20)
        await empty_and_count_anew(database)
    over = asyncio.Event()

    async def keep() -> None:
        kept_by = Tallies(database)
        while not over.is_set():
            await kept_by.run_once()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(2):
            group.create_task(keep())
        async with asyncio.TaskGroup() as writing:
            for number in range(3):
                writing.create_task(History(database, 10 * seed + number).run(25))
        completing = Tallies(database)
        while not completing._complete:
            await completing.run_once()
        over.set()
    await compare(database)
    for _ in range(8):
        after = choose.choice([None, 0.0, 100 * DAY, choose.uniform(99 * DAY, 105 * DAY)])
        before = choose.choice([None, 102 * DAY, choose.uniform(99 * DAY, 105 * DAY), (after or 0.0) + 60.0])
        for scorer_id in ("", "a"):
            await ask_both(database, Window("default", scorer_id, after, before))
    await fold_all(database)
    await compare(database)
    none = select(func.count()).select_from(schema.tallies).where(schema.tallies.c.number <= 0)
    assert await database.read(lambda connection: connection.execute(none).scalar_one()) == 0


async def test_a_failed_write_is_not_counted(database: Database) -> None:
    """What is undone leaves nothing: neither a transaction that raises, nor one whose process dies before its end."""
    await Jobs(database, worker="w").add([NewRun("one", "default", "a")])

    def fail(connection: Connection) -> None:
        connection.execute(delete(schema.scorer_runs))
        raise StoreUnavailable("injected")

    with pytest.raises(StoreUnavailable, match="injected"):
        await database.write(fail)
    await compare(database)
    assert (await database.read(lambda connection: kept(connection, 1))) != {}
    await database.write(lambda connection: connection.execute(delete(schema.scorer_runs)))
    await fold_all(database)
    assert (await database.read(lambda connection: kept(connection, 1))) == {}


async def test_commits_do_not_wait_for_each_other(filled_postgres_url: str) -> None:
    """On PostgreSQL: a transaction of the same kind stays open, and others add, finish and are added up all the same;
    what it did is counted when it ends."""
    async with open_database(filled_postgres_url) as database, asyncio.timeout(20):
        await Jobs(database, worker="w").add([NewRun("first", "default", "a")])
        begun, go_on = asyncio.Event(), asyncio.Event()

        def hold(connection: Connection) -> None:
            from sqlalchemy.util import await_only

            change = update(schema.scorer_runs).where(c.scorer_run_id == "first")
            connection.execute(change.values(state=int(State.DECLINED)))
            begun.set()
            await_only(go_on.wait())

        async with asyncio.TaskGroup() as group:
            group.create_task(database.write(hold))
            await begun.wait()
            await Jobs(database, worker="w").add([NewRun(f"{number}", "default", "a") for number in range(20)])
            await fold_all(database)
            await compare(database)
            go_on.set()
        await compare(database)


async def test_a_large_score_leaves_no_trace(database: Database) -> None:
    """A score of 1e299 comes and goes: the mean of the small ones is what it was."""
    jobs = Jobs(database, worker="w")
    await jobs.register(["a"])
    await jobs.add([NewRun("small", "default", "a"), NewRun("large", "default", "a")])
    for job in (await jobs.claim({"a": Offer(2)}, 2)).jobs:
        value = 0.5 if job.scorer_run_id == "small" else 1e299
        await jobs.finish([Finished(job, State.SUCCEEDED, "1", ScoreRecord(value, "", "", "{}", 1, None))])
    await fold_all(database)
    await database.write(lambda connection: connection.execute(delete(schema.scorer_runs).where(c.score_value > 1)))
    await fold_all(database)
    (found,) = await statistics.Statistics(database).ask(Window("default"))
    assert found.mean_score == 0.5


async def test_bins_are_narrow(database: Database) -> None:
    """A percentile is at most one percent above the latency, from a tenth of a millisecond to a year."""
    await Jobs(database, worker="w").add([NewRun("one", "default", "a")])
    choose = random.Random(1)
    for _ in range(40):
        latency = 10 ** choose.uniform(-3.9, 7)
        change = update(schema.scorer_runs).values(
            state=int(State.SUCCEEDED), create_time=1e6, end_time=1e6 + latency, score_value=1.0
        )
        await database.write(lambda connection, change=change: connection.execute(change))  # type: ignore[misc]
        (found,) = await statistics.Statistics(database).ask(Window("default"))
        assert found.latencies is not None
        real = 1e6 + latency - 1e6
        assert real <= found.latencies[0] * (1 + 1e-9) <= real * 1.0101 + 2e-6


async def test_what_is_damaged_is_counted_all_the_same(sqlite_url: str) -> None:
    """In SQLite a column may hold anything: no write fails for it, and it goes as it came."""
    async with open_database(sqlite_url) as database:
        for number, value in enumerate(("'x'", "x'00ff'", "''", "1e308", "-5", "9e999")):
            for name in ("state", "create_time", "end_time", "score_value", "priority", "scorer_name"):
                key = f"{number}-{name}"
                await Jobs(database, worker="w").add([NewRun(key, "default", "a")])
                damage = text(f"UPDATE scorer_runs SET state = 4, {name} = {value} WHERE scorer_run_id = :key")
                await database.write(lambda c, damage=damage, key=key: c.execute(damage, {"key": key}))  # type: ignore[misc]
                if name == "state":
                    await database.write(
                        lambda c, key=key: c.execute(  # type: ignore[misc]
                            text("UPDATE scorer_runs SET score_value = 1 WHERE scorer_run_id = :key"), {"key": key}
                        )
                    )
        await fold_all(database)
        await statistics.Statistics(database).ask(Window("default"))
        await database.write(lambda connection: connection.execute(delete(schema.scorer_runs)))
        await fold_all(database)
        assert (await database.read(lambda connection: kept(connection, 1))) == {}
