"""What scorers can do to their service, and that it harms only themselves."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from typing import Any

import grpc
import pytest

from runwire.errors import RunwireError
from runwire.scorer.v1 import scorer_run_pb2 as S
from runwire.scorer.v1 import scorer_service_pb2 as pb
from scorer_service.execution.guard import GuardedLoop
from scorer_service.execution.room import Room
from scorer_service.execution.threads import SCORER, Threads
from scorer_service.results import schema
from scorer_service.results.database import open_database
from tests.scorer.hostile import DEEDS
from tests.scorer.stage import Service, eventually, request, service

HOSTILE = "tests.scorer.hostile:EVERYTHING"
INNOCENT = ("innocent", "innocent-thread")
MAY_SUCCEED = {
    "raise_in_background",
    "stop_the_loop",
    "cancel_everybody",
    "write_much",
    "block_for_a_while",
    "leave_threads",
    *(f"return-{number}" for number in range(2, 10)),  # what is only said of a score is carried
    "return_itself",
    "return_much",
}


async def until_all(running: Service, count: int, limit: float = 60.0) -> list[S.ScorerRun]:
    """All scorer runs, once they are terminal."""
    async with asyncio.timeout(limit):
        while True:
            stats = await running.stub.GetScorerStats(pb.GetScorerStatsRequest())
            if sum(one.eligible - one.waiting for one in stats.stats) == count:
                break
            await asyncio.sleep(0.1)
    found, token = [], ""
    while True:
        page = await running.stub.ListScorerRuns(pb.ListScorerRunsRequest(page_size=500, page_token=token))
        found += page.scorer_runs
        if not (token := page.next_page_token):
            return found


async def test_hostile_scorers_harm_only_themselves(sqlite_url: str) -> None:
    """Each deed there is, beside ten times as many innocent scorer runs, which are all scored in one delivery: the
    service lives, serves and can be listed, and each hostile one has ended with a reason of its own."""
    hostile = [request(f"hostile-{name}", f"bad-{name}") for name in DEEDS]
    innocent = [request(INNOCENT[number % 2], f"good-{number}") for number in range(10 * len(DEEDS))]
    mixed = [message for number, bad in enumerate(hostile) for message in (*innocent[number * 10 :][:10], bad)]
    async with service(sqlite_url, scorers=HOSTILE, scorer_grace_seconds=0.1) as running:
        await running.send(*mixed)
        found = await until_all(running, len(mixed))
        again = await running.score(request("innocent", "afterwards"))
    assert again.state == S.SCORER_RUN_STATE_SUCCEEDED
    good = [run for run in found if run.scorer_id in INNOCENT]
    assert len(good) == len(innocent)
    assert {(run.state, run.deliveries, len(run.attempts)) for run in good} == {(S.SCORER_RUN_STATE_SUCCEEDED, 1, 1)}
    bad = {run.scorer_id.removeprefix("hostile-"): run for run in found if run.scorer_id not in INNOCENT}
    assert set(bad) == set(DEEDS)
    wrong = {name: run for name, run in bad.items() if run.state != S.SCORER_RUN_STATE_SUCCEEDED}
    assert set(bad) - set(wrong) == MAY_SUCCEED
    assert all(run.error.reason and run.error.message for run in wrong.values())
    assert wrong["hang"].error.reason == wrong["heed_nothing"].error.reason == "timeout"
    assert "StopIteration" in wrong["stop_the_iteration"].error.message
    assert wrong["raise-2"].state == S.SCORER_RUN_STATE_NOT_SCORABLE


@pytest.mark.parametrize("deed, words", [("loop-breaker", "cannot continue"), ("hostile-hang", "do not end")])
async def test_a_process_that_is_used_up_says_so_and_ends(
    sqlite_url: str, deed: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No corpse that serves: where a scorer breaks the loop, or too much never ends, the process ends with a word; and
    under a supervisor that starts it again all that is innocent is scored, and what is not has ended."""
    monkeypatch.setattr("scorer_service.execution.worker.MAX_ASTRAY", 3)
    good = [request("innocent", f"good-{number}") for number in range(20)]
    bad = [request(deed, f"bad-{number}") for number in range(4)]
    settings: dict[str, Any] = {"scorers": HOSTILE, "scorer_grace_seconds": 0.1, "scorer_lease_seconds": 1.0}

    async def serve(*messages: Any) -> Counter[str]:
        """Until it ends by itself, as it must at first; later until everything is done."""
        async with service(sqlite_url, **settings) as running:
            await running.send(*messages)
            async with asyncio.timeout(30):
                while not running.stopping.is_set():
                    stats = await running.stub.GetScorerStats(pb.GetScorerStatsRequest())
                    ended = sum(one.eligible - one.waiting for one in stats.stats)
                    if not messages and ended == len(good) + len(bad):
                        return Counter({one.scorer_id: one.scored for one in stats.stats})
                    await asyncio.sleep(0.05)
        return Counter()

    said, scored, messages = list[str](), Counter[str](), [*bad, *good]
    while not scored and len(said) < 6:
        try:
            scored = await serve(*messages)
        except* RunwireError as group:
            said += map(str, group.exceptions)
        except* grpc.aio.AioRpcError:
            pass  # it ended while it was asked
        messages = []
    assert said
    assert all(words in each for each in said)
    assert scored == Counter({"innocent": len(good), deed: 0})


async def test_hung_threads_do_not_take_the_places_of_others(sqlite_url: str) -> None:
    """As many hung plain scorers as the process has places: other plain scorers continue at once."""
    async with service(sqlite_url, scorers=HOSTILE, scorer_concurrency=8, scorer_grace_seconds=0.1) as running:
        hung = [request("hostile-hang", f"bad-{number}") for number in range(8)]
        await running.send(*hung)
        for message in hung:
            assert (await running.until(message.scorer_run_id)).error.reason == "timeout"
        for number in range(10):
            run = await running.score(request("innocent-thread", f"good-{number}"))
            assert (run.state, run.deliveries) == (S.SCORER_RUN_STATE_SUCCEEDED, 1)


async def test_a_loop_goes_on_whatever_is_done_to_it(caplog: pytest.LogCaptureFixture) -> None:
    """What ends it is told once for each kind, and what was scheduled still happens."""
    died: list[str] = []
    guard = GuardedLoop("test", Threads(1), died.append)
    guard.start()

    def leave() -> None:
        raise SystemExit

    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            guard.call(leave)
            guard.call(guard.loop.stop)
        done = threading.Event()
        guard.call(done.set)
        assert await asyncio.to_thread(done.wait, 10)
    guard.call(guard.stop)
    assert await asyncio.to_thread(guard.ended.wait, 10)
    assert (died, len(caplog.messages)) == ([], 2)
    assert not guard.call(done.set)


async def test_a_call_that_is_given_up_keeps_no_place() -> None:
    """One thread, a call that hangs in it and is given up: the next call is made at once, by another, and what went
    astray is counted for its scorer until it ends."""
    threads, gate, loop = Threads(1), threading.Event(), asyncio.get_running_loop()
    began = threading.Event()

    def hang() -> None:
        began.set()
        gate.wait(20)

    SCORER.set("hanging")
    hanging = loop.run_in_executor(threads, hang)
    await asyncio.to_thread(began.wait)
    waiting = loop.run_in_executor(threads, threading.get_ident)
    hanging.cancel()
    async with asyncio.timeout(10):
        await waiting
    assert threads.astray() == Counter({"hanging": 1})
    gate.set()

    async def is_back() -> bool:
        return not threads.astray()

    await eventually(is_back)


async def test_room_is_given_in_turn() -> None:
    """Never more than there is, in the order of asking, and nothing is lost where somebody stops waiting."""
    room, held, most = Room(10), 0, 0
    order: list[int] = []

    async def use(number: int, size: int) -> None:
        nonlocal held, most
        async with room.hold(size) as mine:
            order.append(number)
            held += min(size, 10)
            most = max(most, held)
            await asyncio.sleep(0)
            held -= min(size, 10)
            mine.shrink(0)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(use(number, size)) for number, size in enumerate((6, 6, 20, 3, 3, 3, 3))]
        await asyncio.sleep(0)
        tasks[2].cancel()
    assert (order, most <= 10, room._free) == ([0, 1, 3, 4, 5, 6], True, 10)


async def test_what_killed_its_workers_is_tried_in_a_process_of_its_own(sqlite_url: str) -> None:
    """Nothing waits for it, and only it is found guilty: quick scorer runs continue beside it in the same process, and
    an innocent one that two workers died with is scored."""
    guilty, innocent = request("killer", "bad"), request("innocent", "good")
    async with open_database(sqlite_url) as database, service(sqlite_url, scorers=HOSTILE) as running:
        for scorer_id in ("killer", "innocent"):
            await running.stub.PauseScorer(pb.PauseScorerRequest(scorer_id=scorer_id))
        await running.send(guilty, innocent)
        await running.until(guilty.scorer_run_id, "PENDING")
        await running.until(innocent.scorer_run_id, "PENDING")
        twice = schema.scorer_runs.update().values(losses=2, lane=int(schema.Lane.ALONE))
        await database.write(lambda connection: connection.execute(twice))
        for scorer_id in ("killer", "innocent"):
            await running.stub.ResumeScorer(pb.ResumeScorerRequest(scorer_id=scorer_id))
        quick = [await running.score(request("innocent-thread", f"quick-{number}")) for number in range(5)]
        assert {(run.state, run.deliveries) for run in quick} == {(S.SCORER_RUN_STATE_SUCCEEDED, 1)}
        ended = await running.until(guilty.scorer_run_id)
        assert (ended.state, ended.error.reason) == (S.SCORER_RUN_STATE_FAILED, "worker_lost")
        assert "exit code 9" in ended.error.message
        assert (await running.until(innocent.scorer_run_id)).state == S.SCORER_RUN_STATE_SUCCEEDED
