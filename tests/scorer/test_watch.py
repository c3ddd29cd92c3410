"""Watches share what is read; who falls behind reads by itself."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import text

from runwire.errors import StoreUnavailable
from scorer_service.answers import feed as feeds
from scorer_service.answers.gathered import Gathered
from scorer_service.answers.queries import Queries
from scorer_service.answers.watch import Frame, Watch
from scorer_service.queue.jobs import Jobs, Offer
from scorer_service.results.database import Database
from scorer_service.results.records import Finished, NewRun, ScoreRecord, State
from tests.scorer.stage import request, service

SCORE = ScoreRecord(1.0, "", "", "{}", 1, None)


class Counting(Queries):
    """Queries that are counted."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.asked: Counter[str] = Counter()

    async def settled(self) -> Any:
        self.asked["settled"] += 1
        return await super().settled()

    async def changes(self, *given: Any, **named: Any) -> Any:
        self.asked["changes"] += 1
        return await super().changes(*given, **named)

    async def changes_of(self, *given: Any, **named: Any) -> Any:
        self.asked["changes_of"] += 1
        return await super().changes_of(*given, **named)

    async def progress(self, *given: Any) -> Any:
        self.asked["progress"] += 1
        return await super().progress(*given)


def new(run: int, scorer: int = 0, *, options: str = "{}", siblings: int = 1) -> NewRun:
    key = f"{run:016x}{scorer:016x}"
    return NewRun(key, "default", "a", run_id=f"run-{run}", siblings=siblings, sample=key.encode(), options=options)


async def finish_all(jobs: Jobs) -> None:
    while claimed := (await jobs.claim({"a": Offer(500)}, 500)).jobs:
        await jobs.finish([Finished(job, State.SUCCEEDED, "1", SCORE) for job in claimed])


class Follower:
    """Reads a watch up to its first heartbeat, or its end, each time it is asked."""

    def __init__(self, watch: Watch, run_id: str = "", cursor: str = "") -> None:
        self._frames: AsyncIterator[Frame] = watch.read("default", run_id, cursor, 0.0)
        self.states: dict[str, int] = {}
        self.changes = 0
        self.ended = False

    async def read(self, most: int = 1_000_000) -> None:
        for _ in range(0 if self.ended else most):
            frame = await anext(self._frames)
            self.ended = frame.ended
            if not frame.found:
                return
            self.changes += len(frame.found)
            self.states |= {one.run.scorer_run_id: one.run.state for one in frame.found}

    async def close(self) -> None:
        await self._frames.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("watches", [1, 60])
async def test_changes_are_read_once_for_all_watches(database: Database, watches: int) -> None:
    """However many watch everything, or a run each: changes are read once, and how far the runs are is asked once."""
    queries = Counting(database)
    watch, jobs = Watch(queries), Jobs(database, worker="w")
    await jobs.register(["a"])
    everything = [Follower(watch) for _ in range(watches)]
    of_runs = [Follower(watch, f"run-{number}") for number in range(watches)]
    for follower in (*everything, *of_runs):
        await follower.read()
    queries.asked.clear()
    await jobs.add([new(number) for number in range(60)])
    await watch.poll_once()
    await finish_all(jobs)
    await watch.poll_once()
    for follower in (*everything, *of_runs):
        await follower.read()
    await watch.poll_once()
    assert queries.asked == {"settled": 3, "changes": 2, "progress": 1}
    assert all(len(each.states) == 60 and set(each.states.values()) == {State.SUCCEEDED} for each in everything)
    assert all(each.ended for each in of_runs)
    for follower in everything:
        await follower.close()


@pytest.mark.parametrize("seed", range(4))
async def test_every_reader_gets_the_newest_of_everything(database: Database, seed: int) -> None:
    """Readers that are quick, slow, late or come back with a cursor, on a ring that holds a few changes, while rows of
    all sizes are written in transactions of all sizes: each ends with the newest state of every row."""
    choose = random.Random(seed)
    watch, jobs = Watch(Queries(database)), Jobs(database, worker="w")
    watch.feed = feeds.Feed(Queries(database), most_weight=choose.choice([1, 5_000, 100_000, 10_000_000]))
    await jobs.register(["a"])
    followers = [Follower(watch), Follower(watch, "run-3")]
    number = 0
    for _ in range(25):
        match choose.choice(["add", "add", "finish", "poll", "poll", "read", "come"]):
            case "add":
                size = choose.choice([1, 3, 150])
                big = '{"x":"' + "y" * choose.choice([1, 1000, 20_000]) + '"}'
                await jobs.add([new(number + each, options=big) for each in range(size)])
                number += size
            case "finish":
                claimed = (await jobs.claim({"a": Offer(40)}, 40)).jobs
                await jobs.finish([Finished(job, State.SUCCEEDED, "1", SCORE) for job in claimed])
            case "poll":
                await watch.poll_once()
            case "read":
                await choose.choice(followers).read(choose.choice([1, 2, 1000]))
            case "come":
                followers.append(Follower(watch))
    await jobs.add([new(3), new(number)])
    await finish_all(jobs)
    while await watch.poll_once() == 0.0:
        pass
    for follower in followers:
        await follower.read()
    everyone = {f"{each:016x}{0:016x}" for each in range(number + 1)} | {f"{3:016x}{0:016x}"}
    for follower in followers:
        wanted = everyone if follower is not followers[1] else {f"{3:016x}{0:016x}"}
        assert set(follower.states) == wanted
        assert set(follower.states.values()) == {State.SUCCEEDED}
        assert follower.ended == (follower is followers[1])
        await follower.close()


async def test_an_idle_watch_of_a_run_stays_on_the_ring(database: Database) -> None:
    """What others change may push everything out of the ring: a watch that has missed nothing asks for nothing."""
    queries = Counting(database)
    watch, jobs = Watch(queries), Jobs(database, worker="w")
    watch.feed = feeds.Feed(queries, most_weight=3_000)
    follower = Follower(watch, "run-1000")
    await follower.read()
    await jobs.add([new(number) for number in range(50)])
    await watch.poll_once()
    queries.asked.clear()
    for _ in range(5):
        await follower.read()
    assert not queries.asked
    await follower.close()


async def test_a_feed_that_cannot_read_is_no_silence(database: Database) -> None:
    """Watches end with StoreUnavailable, to be opened again, and work again when the database does."""
    watch, jobs = Watch(Queries(database)), Jobs(database, worker="w")
    follower = Follower(watch)
    await follower.read()
    await database.write(lambda c: c.execute(text("ALTER TABLE counters RENAME TO away")))
    with pytest.raises(Exception, match="counters"):
        await watch.poll_once()
    with pytest.raises(StoreUnavailable):
        await follower.read()
    await database.write(lambda c: c.execute(text("ALTER TABLE away RENAME TO counters")))
    again = Follower(watch)
    await watch.poll_once()
    await jobs.add([new(1)])
    await again.read()
    await watch.poll_once()
    await again.read()
    assert len(again.states) == 1
    await again.close()


async def test_watches_that_come_and_go_leave_nothing(database: Database) -> None:
    """Hundreds that are opened, and cancelled at any point: the feed forgets them all, and stops."""
    watch, jobs = Watch(Queries(database)), Jobs(database, worker="w")
    await jobs.add([new(number) for number in range(150)])

    async def come_and_go(number: int) -> None:
        follower = Follower(watch, f"run-{number}" if number % 2 else "")
        try:
            async with asyncio.timeout(0.001 * (number % 50)):
                while True:
                    await follower.read(1)
        except (TimeoutError, StopAsyncIteration):
            pass
        await follower.close()

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for number in range(400):
            group.create_task(come_and_go(number))
    assert not watch.feed._listeners
    assert watch._readers == 0
    await watch.poll_once()
    assert not watch.feed._ring


async def test_watchers_that_do_not_read_cost_others_nothing(results_url: str) -> None:
    """Forty streams nobody reads, of many large rows: another watch gets its run's end, and none holds more than a
    frame."""
    big = {"text": "x" * 50_000}
    async with service(results_url) as running, asyncio.timeout(30):
        silent = [running.watch(all_runs=True, heartbeat_interval=Duration(seconds=1)) for _ in range(40)]
        for call in silent:
            await call.read()
        await running.send(*[request("brevity", f"big-{number}", options=big) for number in range(100)])
        await running.score(request("brevity", "run-1", siblings=1))
        frames = [frame async for frame in running.watch("run-1")]
        assert frames[-1].WhichOneof("frame") == "ended"
        assert all(frame.ByteSize() < 600_000 for frame in frames)
        for call in silent:
            call.cancel()


async def test_watches_that_are_opened_together_are_read_together(database: Database) -> None:
    """150 watches of a run each, opened at once: each gets what is of its run, also the one whose run has more than a
    frame, and runs are read and asked about many at a time."""
    queries = Counting(database)
    watch, jobs = Watch(queries), Jobs(database, worker="w")
    await jobs.register(["a"])
    await jobs.add([new(number) for number in range(120)] + [new(119, number) for number in range(1, 140)])
    await finish_all(jobs)
    followers = [Follower(watch, f"run-{number}") for number in range(150)]
    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for follower in followers:
            group.create_task(follower.read())
    assert [len(each.states) for each in followers] == [1] * 119 + [140] + [0] * 30
    assert all(each.ended for each in followers[:119])
    assert queries.asked["changes_of"] <= 10, queries.asked
    assert queries.asked["progress"] <= 40, queries.asked
    for follower in followers:
        await follower.close()


async def test_one_question_for_many() -> None:
    """Who asks while a read is under way gets the answer of a later one; if the one who reads for the others is
    cancelled, another reads; an error is that of all who waited for it, and of nobody else."""
    reads = list[list[int]]()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def read(keys: Sequence[int]) -> dict[int, str]:
        reads.append(list(keys))
        turn = len(reads)
        begun.set()
        await go_on.wait()
        if 13 in keys:
            raise StoreUnavailable("injected")
        return {key: f"{key} in {turn}" for key in keys if key != 7}

    gathered = Gathered(read, most=3)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        leader = group.create_task(gathered.ask(1))
        await begun.wait()
        others = [group.create_task(gathered.ask(key)) for key in (1, 7, 2)]
        bad = [asyncio.ensure_future(gathered.ask(key)) for key in (13, 3)]
        gone = group.create_task(gathered.ask(4))
        await asyncio.sleep(0)
        leader.cancel()
        gone.cancel()
        go_on.set()
        told = await asyncio.gather(*bad, return_exceptions=True)
    assert reads[0] == [1]
    assert reads[1:] == [[1, 7, 2], [13, 3]]
    assert [task.result() for task in others][:2] == ["1 in 2", None]
    assert [str(each) for each in told] == ["injected"] * 2
    assert gathered._waiting == []
