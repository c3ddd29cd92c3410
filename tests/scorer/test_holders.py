"""Scorers that are not here, on every database: who has what, and when what nobody has is given up."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from sqlalchemy import select

from scorer_service.answers.controls import Controls
from scorer_service.queue import holders as holders_module
from scorer_service.queue.holders import Holders
from scorer_service.queue.jobs import Jobs, Offer
from scorer_service.registry import Registry
from scorer_service.results import schema
from scorer_service.results.database import Database
from scorer_service.results.records import Finished, NewRun, ScoreRecord, State

ORPHAN_SECONDS = 2.0
SCORE = ScoreRecord(1.0, "", "", "{}", 1, None)
OFFERS = {"a": Offer(5000), "b": Offer(5000)}


def holders_of(database: Database, worker: str, **versions: list[str]) -> Holders:
    return Holders(database, worker, versions, orphan_seconds=ORPHAN_SECONDS)


def new(name: str, scorer_id: str, version: str = "") -> NewRun:
    return NewRun(name, "default", scorer_id, run_id=name, wanted_version=version, sample=b"s")


async def states(database: Database) -> dict[str, tuple[State, str | None]]:
    row = schema.scorer_runs.c
    query = select(row.scorer_run_id, row.state, row.error_reason)
    lines = await database.read(lambda connection: connection.execute(query).all())
    return {line[0]: (State(line[1]), line[2]) for line in lines}


async def age(database: Database, seconds: float, *, only_work: bool = False) -> None:
    """All that waits, and all that was said, is so much older."""

    def work(connection: Any) -> None:
        for table, column in ((schema.holders, "seen_time"), (schema.scorers, "seen_time")):
            if not only_work:
                connection.execute(table.update().values({column: table.c[column] - seconds}))
        runs = schema.scorer_runs
        connection.execute(runs.update().where(runs.c.due_time.is_not(None)).values(due_time=runs.c.due_time - seconds))

    await database.write(work)


async def watched(*all_of_them: Holders) -> None:
    """They have seen each other without interruption for long enough to tell what is gone."""
    ends = time.monotonic() + ORPHAN_SECONDS / 4
    while time.monotonic() < ends:
        for one in all_of_them:
            assert await one.sweep() == 0
        await asyncio.sleep(0.02)


async def test_a_claim_takes_what_this_process_has(database: Database) -> None:
    """A request that wants a version waits for a process with that version; what wants none goes to any."""
    old, late = Jobs(database, worker="old"), Jobs(database, worker="new")
    await old.register({"a": ["1"]})
    await old.add([new("one", "a", "1"), new("two", "a", "2"), new("any", "a"), new("other", "b", "1")])
    assert {job.scorer_run_id for job in (await old.claim(OFFERS, 10)).jobs} == {"one", "any"}
    assert not (await old.claim(OFFERS, 10)).jobs
    await late.register({"a": ["1", "2"], "b": ["1"]})
    assert {job.scorer_run_id for job in (await late.claim(OFFERS, 10)).jobs} == {"two", "other"}


async def test_what_others_wait_for_does_not_stand_in_the_way(database: Database) -> None:
    """A thousand rows for a version that is not here, due first, and the one that is gets its place."""
    jobs = Jobs(database, worker="w")
    await jobs.register({"a": ["1"]})
    await jobs.add([new(f"absent-{number}", "a", "9") for number in range(1000)])
    await jobs.add([new("here", "a", "1")])
    assert [job.scorer_run_id for job in (await jobs.claim(OFFERS, 1)).jobs] == ["here"]


async def test_what_nobody_has_is_given_up_in_the_end(database: Database) -> None:
    """After the orphan time: the scorer that nobody has, and the version; not what another process has, nor what is
    paused, nor what has not waited for this long."""
    mine, other = holders_of(database, "mine", a=["1"]), holders_of(database, "other", b=["2"])
    jobs = Jobs(database, worker="mine")
    await jobs.register({"paused": ["1"]})
    paused = schema.scorers.update().where(schema.scorers.c.scorer_id == "paused").values(paused=True)
    await database.write(lambda connection: connection.execute(paused))
    await jobs.add([new("typo", "nobody"), new("version", "a", "9"), new("here", "a", "1"), new("there", "b", "2")])
    await jobs.add([new("any", "b"), new("held", "paused")])
    await watched(mine, other)
    await age(database, 10 * ORPHAN_SECONDS, only_work=True)
    await jobs.add([new("fresh", "nobody")])
    assert await mine.sweep() == 2
    assert await other.sweep() == 0
    gone, waits = (State.FAILED, "scorer_unknown"), (State.PENDING, None)
    expected = dict.fromkeys(("here", "there", "any", "held", "fresh"), waits) | {"typo": gone, "version": gone}
    assert await states(database) == expected


async def test_an_outage_longer_than_the_orphan_time_costs_nothing(database: Database) -> None:
    """The database was away; whoever comes back first finds all that was said to be old. 3,000 of 3,000 are scored."""
    first, second = holders_of(database, "first", a=["1"]), holders_of(database, "second", b=["1"])
    jobs = {name: Jobs(database, worker=name) for name in ("first", "second")}
    await jobs["first"].register({"a": ["1"]})
    await jobs["second"].register({"b": ["1"]})
    await jobs["first"].add([new(f"{number}", "ab"[number % 2]) for number in range(3000)])
    await watched(first, second)
    await age(database, 10 * ORPHAN_SECONDS)
    first._last = (time.monotonic() - 100.0, 0.0)  # so long ago was its last word
    assert await first.sweep() == 0
    assert await first.sweep() == 0, "it waits for the others to say what they have"
    await watched(second, first)
    assert {state for state, _ in (await states(database)).values()} == {State.PENDING}
    for each in jobs.values():
        while claimed := (await each.claim(OFFERS, 1000)).jobs:
            await each.finish([Finished(job, State.SUCCEEDED, "1", SCORE) for job in claimed])
    assert list((await states(database)).values()) == [(State.SUCCEEDED, None)] * 3000


async def test_a_clock_that_jumps_gives_up_nothing(database: Database) -> None:
    """To the database an hour has passed, to this process none: it waits for what the others say now."""
    mine, other = holders_of(database, "mine", a=["1"]), holders_of(database, "other", b=["1"])
    await Jobs(database, worker="mine").add([new("theirs", "b")])
    await watched(other, mine)
    await age(database, 3600.0)
    assert mine._last is not None
    mine._last = (mine._last[0], mine._last[1] - 3600.0)
    assert await mine.sweep() == 0
    await watched(other, mine)
    assert await states(database) == {"theirs": (State.PENDING, None)}


async def test_what_was_running_when_the_last_one_died_is_given_up_too(database: Database) -> None:
    """Its lease is over and nobody has its scorer: FAILED, with the attempt that was lost."""
    mine = holders_of(database, "mine", a=["1"])
    dead = Jobs(database, worker="dead", lease_seconds=0.01)
    await dead.register({"b": ["1"]})
    await dead.add([new("lost", "b")])
    assert len((await dead.claim(OFFERS, 1)).jobs) == 1
    await watched(mine)
    await age(database, 10 * ORPHAN_SECONDS)
    assert await mine.sweep() == 1
    query = select(schema.attempts.c.error_reason)
    assert await database.read(lambda connection: connection.execute(query).scalars().all()) == ["worker_lost"]


async def test_it_can_be_asked_who_has_what(database: Database) -> None:
    """By scorer, version and process; who was silent for long is not told of."""
    mine, other = holders_of(database, "mine", a=["1", "2"]), holders_of(database, "other", a=["2"])
    for one in (mine, other):
        await one.sweep()
    found = [(one.scorer_id, one.version, one.worker) for one in await mine.all("default")]
    assert found == [("a", "1", "mine"), ("a", "2", "mine"), ("a", "2", "other")]
    await age(database, 10 * ORPHAN_SECONDS)
    await mine.sweep()
    assert {one.worker for one in await mine.all("default")} == {"mine"}


async def test_many_scorers_that_nobody_knows_are_walked_in_turn(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer that makes up names costs a bounded look each round, and each of them has its turn."""
    monkeypatch.setattr(holders_module, "_MAX_PAIRS", 3)
    mine = holders_of(database, "mine", a=["1"])
    await Jobs(database, worker="mine").add([new(f"{number}", f"made-up-{number}") for number in range(8)])
    await watched(mine)
    await age(database, 10 * ORPHAN_SECONDS)
    mine._place = ("", "")
    assert [await mine.sweep() for _ in range(4)] == [3, 3, 2, 0]


async def test_who_does_the_work(database: Database) -> None:
    """Processes are listed with what they have for as long as it counts that they said so."""
    here, there = holders_of(database, "b", a=["1", "2"]), holders_of(database, "a", b=["1"])
    for one in (here, there):
        await one.sweep()
    found = await here.workers()
    assert [(worker.name, worker.scorers) for worker in found] == [("a", [("b", "1")]), ("b", [("a", "1"), ("a", "2")])]
    await age(database, ORPHAN_SECONDS / 2)
    assert await here.workers() == []
    await there.sweep()
    assert [worker.name for worker in await here.workers()] == ["a"]


async def test_what_waits_and_for_how_many(database: Database) -> None:
    """What is due is counted by scorer and version that is asked for, with how many processes could do it."""
    here = holders_of(database, "w", a=["1", "2"])
    await here.sweep()
    jobs = Jobs(database, worker="w", lease_seconds=60.0)
    wanted = [("any", "a", ""), ("any-2", "a", ""), ("one", "a", "1"), ("old", "a", "0"), ("nobodys", "b", "")]
    await jobs.add([new(name, scorer_id, version) for name, scorer_id, version in wanted])
    queues, now = await here.queues()
    found = {(queue.scorer_id, queue.version): (queue.due, queue.ahead, queue.workers) for queue in queues}
    assert found == {("a", ""): (2, 0, 1), ("a", "0"): (1, 0, 0), ("a", "1"): (1, 0, 1), ("b", ""): (1, 0, 0)}
    assert list(found) == sorted(found)
    assert all(0 < queue.oldest_due <= now for queue in queues)
    assert len((await jobs.claim({"a": Offer(5000)}, 2)).jobs) == 2
    queues, _ = await here.queues()
    assert sum(queue.due for queue in queues if queue.scorer_id == "a") == 2
    assert sum(queue.ahead for queue in queues if queue.scorer_id == "a") == 2
    await Controls(database, jobs, Registry([]), wake=lambda: None).pause("a", True)
    assert {queue.paused for queue in (await here.queues())[0] if queue.scorer_id == "a"} == {True}
