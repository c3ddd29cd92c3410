"""Statistics: what they count, who makes them, how old they may be; and what lists load."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import insert, text, update
from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only

from runwire.errors import StoreUnavailable, TooManyRequests
from scorer_service.answers import statistics
from scorer_service.answers.queries import Filter, Place, Queries
from scorer_service.answers.statistics import Statistics, Stats
from scorer_service.answers.tallied import Window
from scorer_service.queue.jobs import Jobs, Offer
from scorer_service.results import schema
from scorer_service.results.database import Database
from scorer_service.results.records import Finished, NewRun, ScoreRecord, State

ALL = Window("default")
SCORE = ScoreRecord(0.5, "", "", "{}", 1, None)
row = schema.scorer_runs.c


async def add(database: Database, *names: str, scorer_id: str = "a") -> None:
    jobs = Jobs(database, worker="w")
    await jobs.register([scorer_id])
    await jobs.add([NewRun(name, "default", scorer_id, sample=name.encode()) for name in names])


async def of(made: Statistics, scorer_id: str = "a") -> Stats:
    return next(one for one in await made.ask(ALL) if one.scorer_id == scorer_id)


class Passes:
    """The passes that are made, held up at a gate."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.windows: list[Window] = []
        self.at_once = self.most = 0
        self.begun = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._gate, self._gate_of_threads = asyncio.Event(), threading.Event()
        self.error: Exception | None = None
        self._really: Callable[..., Any] = statistics._pass
        monkeypatch.setattr(statistics, "_pass", self._make)

    def open(self) -> None:
        self._gate.set()
        self._gate_of_threads.set()

    def _make(self, connection: Connection, window: Window) -> Any:
        self.windows.append(window)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        self._loop.call_soon_threadsafe(self.begun.set)
        try:
            if connection.dialect.name == "postgresql":
                await_only(self._gate.wait())
            else:  # whose reads have threads
                self._gate_of_threads.wait(10)
            if self.error is not None:
                raise self.error
            return self._really(connection, window)
        finally:
            self.at_once -= 1


async def test_the_oldest_that_is_due(database: Database) -> None:
    """The scaling signal: since when something could have been taken. What runs, waits for a retry, is paused or over
    is not due, in whatever lane it is; and it is never as old as the counts beside it."""
    made = Statistics(database)
    await add(database, "late", "later", "sleeps", "alone")

    async def due(name: str, ago: float, **fields: Any) -> None:
        change = update(schema.scorer_runs).where(row.scorer_run_id == name)
        await database.write(lambda c: c.execute(change.values(due_time=schema.NOW - ago, **fields)))

    await due("late", 100.0)
    await due("later", 50.0)
    await due("sleeps", -1000.0)
    await due("alone", 500.0, lane=int(schema.Lane.ALONE))
    assert (await of(made)).oldest_due_age == pytest.approx(500, abs=20)
    await due("alone", -1000.0)
    assert (await of(made)).oldest_due_age == pytest.approx(100, abs=20)
    jobs = Jobs(database, worker="w")
    taken = (await jobs.claim({"a": Offer(1)}, 1)).jobs
    assert [job.scorer_run_id for job in taken] == ["late"]
    assert (await of(made)).oldest_due_age == pytest.approx(50, abs=20)
    paused = update(schema.scorers).values(paused=True)
    await database.write(lambda c: c.execute(paused))
    stats = await of(made)
    assert (stats.paused, stats.oldest_due_age) == (True, None)
    assert stats.oldest_age is not None
    await database.write(lambda c: c.execute(paused.values(paused=False)))
    await jobs.finish([Finished(job, State.SUCCEEDED, "1", SCORE) for job in taken])
    await due("later", -1000.0)
    assert (await of(made)).oldest_due_age is None


async def test_all_who_ask_share_a_pass(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve who ask for the same wait for one pass; of different ones, one is made at a time."""
    await add(database, "one")
    passes, made = Passes(monkeypatch), Statistics(database)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        same = [group.create_task(made.ask(ALL)) for _ in range(12)]
        others = [group.create_task(made.ask(Window("default", after=float(n)))) for n in range(5)]
        await passes.begun.wait()
        passes.open()
    assert (len(passes.windows), passes.windows.count(ALL), passes.most) == (6, 1, 1)
    assert {len(task.result()) for task in (*same, *others)} == {1}


async def test_who_stops_waiting_stops_nobody(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that makes the pass is cancelled: the others make another one."""
    await add(database, "one")
    passes, made = Passes(monkeypatch), Statistics(database)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        first = group.create_task(made.ask(ALL))
        await passes.begun.wait()
        others = [group.create_task(made.ask(ALL)) for _ in range(3)]
        await asyncio.sleep(0)
        first.cancel()
        passes.open()
    assert len(passes.windows) == 2
    assert [task.result()[0].counts for task in others] == [{State.PENDING: 1}] * 3


async def test_a_pass_that_fails_fails_for_those_who_wait(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told why, and the next to ask gets a pass of its own."""
    await add(database, "one")
    passes, made = Passes(monkeypatch), Statistics(database)
    passes.error = StoreUnavailable("injected")
    asking = [asyncio.ensure_future(made.ask(ALL)) for _ in range(3)]
    await passes.begun.wait()
    passes.open()
    told = await asyncio.gather(*asking, return_exceptions=True)
    assert [str(each) for each in told] == ["injected"] * 3
    passes.error = None
    assert (await of(made)).counts == {State.PENDING: 1}
    assert len(passes.windows) == 2


async def test_too_many_different_ones_are_refused(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a word, at once, and never those who ask for what is being made; afterwards there is room again."""
    passes, made = Passes(monkeypatch), Statistics(database)
    most = 1 + statistics._WAITING
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for number in range(most):
            group.create_task(made.ask(Window("default", after=float(number))))
        await passes.begun.wait()
        with pytest.raises(TooManyRequests, match=f"{most} statistics"):
            await made.ask(ALL)
        shared = group.create_task(made.ask(Window("default", after=0.0)))
        passes.open()
    assert shared.result() == []
    assert await made.ask(ALL) == []


async def test_counts_are_kept_for_as_long_as_they_cost(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that took long is given out again, until the background makes another; what is due is looked up at once.
    What nobody asks for any more is forgotten."""
    monkeypatch.setattr(statistics, "_TIMES_COST", 1e9)
    await add(database, "one")
    passes, made = Passes(monkeypatch), Statistics(database)
    passes.open()
    assert (await of(made)).counts == {State.PENDING: 1}
    await add(database, "two")
    await database.write(lambda c: c.execute(text("UPDATE scorer_runs SET due_time = due_time - 300")))
    kept = await of(made)
    assert (kept.counts, len(passes.windows)) == ({State.PENDING: 1}, 1)
    assert kept.oldest_due_age == pytest.approx(300, abs=20)
    assert await made.run_once() > 0
    assert len(passes.windows) == 1, "it is good for long yet"
    monkeypatch.setattr(statistics, "_LOOK_SECONDS", statistics.MAX_AGE_SECONDS / 2 - 1e-9)
    await made.run_once()
    assert ((await of(made)).counts, len(passes.windows)) == ({State.PENDING: 2}, 2)
    monkeypatch.setattr(statistics, "_WANTED_SECONDS", -1.0)
    await made.run_once()
    assert (len(passes.windows), len(made._kept)) == (2, 0)


async def test_counts_that_cost_nothing_are_new(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a pass is quick, whoever asks sees what was written just before."""
    monkeypatch.setattr(statistics, "_TIMES_COST", 0.0)
    made = Statistics(database)
    for number in range(1, 4):
        await add(database, f"{number}")
        assert (await of(made)).counts == {State.PENDING: number}


async def test_those_who_ask_meanwhile_share_a_look(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is due is looked up after somebody asked, at the latest by the look-up after the one under way: twelve who
    ask together cause two, and one that fails fails for all whom it was for, and nobody else."""
    await add(database, "one")
    made, looks = Statistics(database), list[str]()
    await made.ask(ALL)
    really = statistics._held

    def look(connection: Connection) -> Any:
        looks.append("")
        if len(looks) == 2:
            raise StoreUnavailable("injected")
        return really(connection)

    monkeypatch.setattr(statistics, "_held", look)
    told = await asyncio.gather(*[made._look() for _ in range(12)], return_exceptions=True)
    assert (len(looks), [isinstance(each, tuple) for each in told]) == (2, [True] + [False] * 11)
    assert {str(each) for each in told[1:]} == {"injected"}
    assert (await of(made)).oldest_due_age is not None
    assert len(looks) == 3


async def test_lists_load_what_they_send(database: Database) -> None:
    """Kept steps and exchanges with judges are not even read for a list or a watch; one scorer run has those of its
    newest attempts, as far as an answer may be large, after however many attempts."""
    await add(database, "big")
    large = "x" * (400 * 1024)
    await database.write(lambda c: c.execute(update(schema.scorer_runs).values(steps=large)))
    history = [
        {
            "scorer_run_id": "big", "attempt": number, "worker": "w", "start_time": 1.0, "end_time": 2.0,
            "partial_results": large, "exchanges": large,
        }
        for number in range(1, 25)
    ]  # fmt: skip
    await database.write(lambda c: c.execute(insert(schema.attempts), history))
    queries = Queries(database)
    page = (await queries.page(Filter("default"), limit=10)).found
    changes = (await queries.changes(Place(-1), (await queries.settled()).revision)).found
    for (listed,) in (page, changes):
        assert not hasattr(listed.run, "steps")
        assert {hasattr(each, name) for each in listed.attempts for name in ("partial_results", "exchanges")} == {False}
        assert (len(listed.attempts), listed.omitted) == (20, 4)
    shown = await queries.get("default", "big")
    assert shown is not None
    sizes = [len(each.partial_results or "") + len(each.exchanges or "") for each in shown.attempts]
    assert (len(sizes), sizes[-1]) == (24, 2 * len(large))
    assert sum(sizes) <= 1024 * 1024
