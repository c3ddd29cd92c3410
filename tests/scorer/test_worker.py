"""How attempts end, and what happens to a worker that is stopped, blocked or killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from runwire.errors import StoreUnavailable
from runwire.loop import Wakeup
from runwire.scorer.v1 import scorer_run_pb2 as S
from runwire.scorer.v1 import scorer_run_requested_pb2
from runwire.scorer.v1 import scorer_service_pb2 as pb
from scorer_service.answers.queries import Filter, Queries
from scorer_service.execution.executor import Limits
from scorer_service.execution.processes import Processes
from scorer_service.execution.worker import Worker
from scorer_service.meter import Meter
from scorer_service.queue.jobs import Jobs, Offer
from scorer_service.queue.rates import Rate
from scorer_service.registry import load
from scorer_service.results import schema
from scorer_service.results.database import Database, open_database
from scorer_service.results.migrate import migrate
from scorer_service.results.records import Finished, Job, NewRun, State
from scorer_service.runs import Runs
from scorer_service.scoring import RetryPolicy, Score
from tests.scorer import scorers
from tests.scorer.stage import SCORERS, Service, request, service


@pytest.fixture
async def running(sqlite_url: str) -> AsyncIterator[Service]:
    """The service with nothing in it."""
    async with service(sqlite_url, scorer_lease_seconds=0.6) as started:
        yield started


async def test_an_attempt_that_raises_is_repeated(running: Service) -> None:
    """Until it succeeds, with the history of every attempt."""
    run = await running.score(request("flaky", options={"failures": 2}))
    assert run.state == S.SCORER_RUN_STATE_SUCCEEDED
    assert [attempt.error.reason for attempt in run.attempts] == ["scorer_error", "scorer_error", ""]
    assert [attempt.error.error_class for attempt in run.attempts] == ["RuntimeError", "RuntimeError", ""]
    assert run.attempts[0].error.message == "not yet"
    assert run.attempts[0].worker
    assert run.attempts[0].start_time.ToNanoseconds() <= run.attempts[0].end_time.ToNanoseconds()


async def test_retries_end(running: Service) -> None:
    """Four by default: the fifth failed attempt is the last, and the error is that one's."""
    run = await running.score(request("flaky", options={"failures": 99}))
    assert (run.state, run.error.reason, run.error.message) == (S.SCORER_RUN_STATE_FAILED, "scorer_error", "not yet")
    assert len(run.attempts) == scorers.calls["flaky/run-1"] == 5
    assert not run.HasField("score")
    assert not run.HasField("due_time")


async def test_a_scorer_has_its_own_policy(running: Service) -> None:
    """A scorer that says so is not repeated."""
    run = await running.score(request("once-only"))
    assert (run.state, len(run.attempts)) == (S.SCORER_RUN_STATE_FAILED, 1)


@pytest.mark.parametrize(
    "scorer_id, state, reason",
    [
        ("hopeless", S.SCORER_RUN_STATE_FAILED, "scorer_error"),
        ("nonsense", S.SCORER_RUN_STATE_FAILED, "bad_score"),
        ("choosy", S.SCORER_RUN_STATE_NOT_SCORABLE, "not_scorable"),
        ("exiting", S.SCORER_RUN_STATE_FAILED, "scorer_error"),
        ("unspeakable", S.SCORER_RUN_STATE_FAILED, "scorer_error"),
        ("self-cancelling", S.SCORER_RUN_STATE_FAILED, "scorer_error"),
        ("toxicity", S.SCORER_RUN_STATE_FAILED, "judge_not_configured"),
    ],
)
async def test_what_no_retry_will_change_ends_at_once(
    running: Service, scorer_id: str, state: S.ScorerRunState, reason: str
) -> None:
    """One attempt, no score, and the reason: a NaN too is FAILED, never a score."""
    run = await running.score(request(scorer_id))
    assert (run.state, run.error.reason, len(run.attempts)) == (state, reason, 1)
    assert not run.HasField("score")


async def test_options_that_do_not_fit_are_named(running: Service) -> None:
    """The message says which option is wrong."""
    run = await running.score(request("keyword-coverage", options={"keyword": ["x"]}))
    assert (run.state, run.error.reason) == (S.SCORER_RUN_STATE_FAILED, "invalid_options")
    assert "keyword" in run.error.message


async def test_a_scorer_says_when_to_come_back(running: Service) -> None:
    """RetryAfter sets the due time; that is no attempt, and one can see what is waited for."""
    message = request("later", options={"delay": 120})
    await running.send(message)
    run = await running.until(message.scorer_run_id, "RETRYING")
    assert 119 < (run.due_time.ToNanoseconds() - run.create_time.ToNanoseconds()) / 1e9 < 135
    assert (run.error.reason, run.error.message, run.waits, len(run.attempts)) == ("rate_limited", "busy", 1, 0)


async def test_a_pause_has_its_bounds(running: Service) -> None:
    """A scorer that asks for an eternity gets a week, and nobody's list breaks of it."""
    message = request("later", options={"delay": 1e300})
    await running.send(message)
    run = await running.until(message.scorer_run_id, "RETRYING")
    assert 6 * 86_400 < run.due_time.seconds - run.create_time.seconds < 8 * 86_400


@pytest.mark.parametrize("depth, mark", [(0, "\ufffd"), (19, ""), (40, "[too deep] ")])
async def test_what_is_kept_can_be_listed(running: Service, depth: int, mark: str) -> None:
    """Metadata that no message could carry is carried in a documented form: a score that is paid for is not refused for
    it, and every list that it is in can be read."""
    run = await running.score(request("strange-metadata", options={"deep": depth}))
    assert run.state == S.SCORER_RUN_STATE_SUCCEEDED
    assert mark in json_format.MessageToJson(run.score.metadata, ensure_ascii=False)
    listed = await running.stub.ListScorerRuns(pb.ListScorerRunsRequest())
    assert [one.score for one in listed.scorer_runs] == [run.score]


async def test_a_store_that_is_away_is_no_failure_of_the_scorer(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample that is fetched when it is scored may be waited for longer than a scorer is retried."""
    outages = iter(range(7))

    async def fetch(job: Job) -> bytes:
        if next(outages, None) is not None:
            raise StoreUnavailable("the store is away")
        return scorer_run_requested_pb2.Sample(run_id="run-1").SerializeToString()

    monkeypatch.setattr(Runs, "fetch", lambda runs, job: fetch(job))
    message = request("threaded")
    message.sample.by_reference = True
    async with service(sqlite_url) as running:
        run = await running.score(message)
    assert run.state == S.SCORER_RUN_STATE_SUCCEEDED
    assert ([attempt.error.reason for attempt in run.attempts], run.waits) == ([""], 7)


async def test_steps_of_another_version_are_done_again(sqlite_url: str) -> None:
    """What an older version of the scorer left behind is not mixed with what the present one makes."""
    message = request("staged", output="one two three")
    async with open_database(sqlite_url) as database, service(sqlite_url) as running:
        dead = Jobs(database, worker="dead", lease_seconds=0.1)
        await dead.register(["staged"])
        await running.stub.PauseScorer(pb.PauseScorerRequest(scorer_id="staged"))
        await running.send(message)
        await running.until(message.scorer_run_id, "PENDING")
        await database.write(lambda c: c.execute(schema.scorers.update().values(paused=False)))
        (job,) = (await dead.claim({"staged": Offer(1)}, 1)).jobs
        kept = {"version": "0", "steps": {"preprocess": {"words": ["stale"]}, "analyze": {"count": 99}}}
        await dead.keep_steps({job: json.dumps(kept)})
        await running.stub.ResumeScorer(pb.ResumeScorerRequest(scorer_id="staged"))
        run = await running.until(message.scorer_run_id)
    assert run.score.reason == "3 words, the first is one"


async def test_an_executor_outlives_what_it_runs(running: Service) -> None:
    """Whatever a scorer raises, the next one is scored."""
    for name in ("unspeakable", "self-cancelling", "exiting"):
        await running.score(request(name))
    assert (await running.score(request("brevity"))).state == S.SCORER_RUN_STATE_SUCCEEDED
    assert scorers.calls["self-cancelling/run-1"] == 1


class Silent:
    """An executor whose loop a scorer blocks."""

    silence = 0.0

    def __init__(self) -> None:
        self.submitted: list[Job] = []
        self.left_behind = Counter[str]()

    def silent_seconds(self) -> float:
        return self.silence

    def submit(self, jobs: Sequence[Job]) -> None:
        self.submitted += jobs

    def astray(self) -> Counter[str]:
        return self.left_behind

    def timeout_of(self, job: Job) -> float:
        return -1000.0

    def cancel(self, jobs: Sequence[Job]) -> None:
        pass


async def worker_of(database: Database, **settings: Any) -> tuple[Worker, Silent, Jobs]:
    registry = load([SCORERS])
    jobs, executor = Jobs(database, worker="w"), Silent()
    await jobs.register(registry.ids)
    limits = Limits(1.0, RetryPolicy(), 10)
    worker = Worker(jobs, registry, limits, executor, Wakeup(), concurrency=10, **settings)  # type: ignore[arg-type]
    return worker, executor, jobs


def new(name: str, scorer_id: str = "brevity") -> NewRun:
    return NewRun(name, "default", scorer_id, run_id=name, sample=b"")


async def test_a_blocked_process_claims_nothing(sqlite_url: str) -> None:
    """What it claimed would be lost with it, and innocent scorer runs have few losses to give."""
    async with open_database(sqlite_url) as database:
        worker, executor, jobs = await worker_of(database)
        await jobs.add([new("one")])
        executor.silence = 5.0
        assert await worker.claim_once() > 0
        assert not executor.submitted
        executor.silence = 0.0
        await worker.claim_once()
        assert [job.scorer_run_id for job in executor.submitted] == ["one"]


async def test_a_process_that_is_blocked_for_good_ends(sqlite_url: str) -> None:
    """Once an attempt is long overdue and the loop still does not answer, the process says that it is of no use."""
    stuck: list[str] = []
    async with open_database(sqlite_url) as database:
        worker, executor, jobs = await worker_of(database, on_stuck=stuck.append)
        await jobs.add([new("one")])
        await worker.claim_once()
        await worker.renew_once()  # overdue, but the loop answers
        assert not stuck
        await jobs.add([new("two")])
        jobs.look_again()
        await worker.claim_once()
        executor.silence = 45.0
        await worker.renew_once()
        assert len(stuck) == 1


async def test_a_lane_that_gives_nothing_is_not_asked_without_pause(sqlite_url: str) -> None:
    """A last delivery that may not be made yet, because of a rate, is asked for as often as everything else."""
    async with open_database(sqlite_url) as database:
        worker, executor, jobs = await worker_of(database, judge_rate=Rate("judge", 0.001, 1))
        await jobs.add([new("spent", "toxicity"), new("last", "toxicity")])
        await worker.claim_once()
        assert len(executor.submitted) == 1
        worker.deliver([Finished(executor.submitted[0], State.FAILED)])
        alone = schema.scorer_runs.update().values(lane=int(schema.Lane.ALONE))
        await database.write(lambda c: c.execute(alone))
        jobs.look_again()
        assert [await worker.claim_once() > 0, await worker.claim_once() > 0] == [True, True]
        assert len(executor.submitted) == 1


async def test_results_are_kept_while_the_database_refuses_them(sqlite_url: str) -> None:
    """One by one, after a batch was refused: what was not written yet is written when it can be."""

    class Fragile(Jobs):
        answers = iter([ValueError("not this batch"), ValueError("nor the first of it"), StoreUnavailable("away")])

        async def finish(self, finished: Sequence[Finished]) -> list[Finished]:
            if (error := next(self.answers, None)) is not None:
                raise error
            return await super().finish(finished)

    async with open_database(sqlite_url) as database:
        worker, executor, jobs = await worker_of(database)
        await jobs.add([new("one"), new("two")])
        await worker.claim_once()
        worker._jobs = Fragile(database, worker="w")
        worker.deliver([Finished(job, State.NOT_SCORABLE) for job in executor.submitted])
        with pytest.raises(StoreUnavailable):
            await worker.finish_once()
        await worker.finish_once()
        page = await Queries(database).page(Filter("default"), limit=10)
        assert [one.run.state for one in page.found] == [State.NOT_SCORABLE] * 2


async def test_a_process_that_died_idle_harms_nobody() -> None:
    """The next job gets another one."""
    processes, scorer = Processes(1, [SCORERS]), load([SCORERS]).newest("apart")

    async def score() -> Score:
        async with processes.place(scorer) as place:
            return await place.score(b"", {}, {}, lambda name, result: None, Meter())

    first = await score()
    ((_, idle),) = processes._idle
    idle.kill()
    await idle.wait()
    second = await score()
    assert first.value != second.value
    await processes.close()


def test_a_process_is_for_its_service_alone() -> None:
    """It heeds no signal for the whole group of processes; it ends when its service does, also in the middle of a
    job that does not."""
    command = [sys.executable, "-m", "scorer_service.execution.child", SCORERS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None

        def ask(action: str) -> None:
            body = json.dumps(
                {"scorer_id": "apart", "version": "1", "options": {"action": action}, "steps": {}, "sample": ""}
            ).encode()
            child.stdin.write(len(body).to_bytes(4, "big") + body)  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]

        def answer() -> bytes:
            return child.stdout.read(int.from_bytes(child.stdout.read(4), "big"))  # type: ignore[union-attr]

        try:
            assert b"ready" in answer()
            for number in (signal.SIGINT, signal.SIGTERM):
                ask("")
                assert b"score" in answer()
                child.send_signal(number)
            ask("hang")
            child.stdin.close()
            assert child.wait(10) == 0
        finally:
            child.kill()


async def test_an_attempt_has_a_time_limit(running: Service) -> None:
    """What takes too long is stopped, and counts as an attempt."""
    run = await running.score(request("slow"))
    assert (run.state, run.error.reason) == (S.SCORER_RUN_STATE_FAILED, "timeout")
    assert [attempt.error.reason for attempt in run.attempts] == ["timeout", "timeout"]


async def test_completed_steps_are_not_repeated(running: Service) -> None:
    """Each step that failed once is called twice, the others once, over three attempts."""
    run = await running.score(request("staged", output="one two three"))
    assert (run.state, run.score.value) == (S.SCORER_RUN_STATE_SUCCEEDED, 3.0)
    assert run.score.reason == "3 words, the first is one"
    counts = {name: scorers.calls[f"{name}/run-1"] for name in ("split", "analyze", "score", "reason")}
    assert counts == {"split": 1, "analyze": 1, "score": 2, "reason": 2}
    assert len(run.attempts) == 3
    run = await running.get(run.scorer_run_id)
    assert dict(run.attempts[0].partial_results["analyze"]) == {"count": 3}


async def test_functions_run_in_threads(running: Service) -> None:
    """A scorer need not be async."""
    assert (await running.score(request("threaded", output="four"))).score.value == 4


async def test_text_that_a_database_does_not_take_is_cleaned(results_url: str) -> None:
    """NUL and lone surrogates do not lose a score; the metadata, which is JSON, keeps the first."""
    async with service(results_url) as running:
        run = await running.score(request("odd-text"))
    assert (run.score.label, run.score.reason) == ("ab", "cd\ufffd")
    assert run.score.metadata["x"] == "e\0f"


async def test_a_scorer_has_its_own_concurrency(running: Service) -> None:
    """Never more at once than it allows."""
    messages = [request("narrow", f"run-{number}") for number in range(12)]
    await running.send(*messages)
    for message in messages:
        assert (await running.until(message.scorer_run_id)).state == S.SCORER_RUN_STATE_SUCCEEDED
    assert scorers.most["narrow"] == 2


async def test_a_blocked_loop_stalls_neither_leases_nor_calls(running: Service) -> None:
    """A scorer that blocks its event loop for twice the lease is not given to another worker, and calls continue."""
    message = request("blocking", input="1.5")
    await running.send(message)
    await running.until(message.scorer_run_id, "RUNNING")
    async with asyncio.timeout(1.0):
        assert (await running.get(message.scorer_run_id)).state == S.SCORER_RUN_STATE_RUNNING
    run = await running.until(message.scorer_run_id)
    assert (run.state, run.deliveries) == (S.SCORER_RUN_STATE_SUCCEEDED, 1)
    assert scorers.calls["blocking/run-1"] == 1


async def test_a_scorer_may_have_a_process(running: Service) -> None:
    """It runs outside this process, what it prints is not mistaken for an answer, and what it raises comes back."""
    run = await running.score(request("apart", "run-1", options={"action": "print"}))
    again = await running.score(request("apart", "run-2"))
    assert run.score.value == again.score.value != os.getpid()
    run = await running.score(request("apart", "run-3", options={"action": "raise"}))
    assert run.state == S.SCORER_RUN_STATE_FAILED
    assert (run.error.reason, run.error.error_class, run.error.message) == ("scorer_error", "KeyError", "'apart'")


async def test_processes_are_taken_in_turn(sqlite_url: str) -> None:
    """More work than there are processes, of two scorers: all of it is done, and none of it waits inside its time."""
    messages = [request(name, f"run-{n}") for name in ("apart", "apart-too") for n in range(7)]
    async with service(sqlite_url, scorer_processes=1) as running:
        await running.send(*messages)
        for message in messages:
            run = await running.until(message.scorer_run_id)
            assert (run.state, len(run.attempts)) == (S.SCORER_RUN_STATE_SUCCEEDED, 1)


async def test_what_kills_its_process_ends_failed(running: Service) -> None:
    """worker_lost after as many deaths as are allowed, and the service lives."""
    run = await running.score(request("apart", options={"action": "die"}))
    assert (run.state, run.error.reason) == (S.SCORER_RUN_STATE_FAILED, "worker_lost")
    assert [attempt.error.reason for attempt in run.attempts] == ["worker_lost"] * 3
    assert "exit code 7" in run.attempts[0].error.message
    assert (await running.score(request("apart", "run-2"))).state == S.SCORER_RUN_STATE_SUCCEEDED


async def test_a_process_is_killed_when_its_time_is_over(running: Service) -> None:
    """A time limit ends work that no thread could be stopped in; so a bad regular expression harms nobody."""
    run = await running.score(request("apart-hurried"))
    assert (run.state, run.error.reason) == (S.SCORER_RUN_STATE_FAILED, "timeout")


async def test_a_worker_that_stops_hands_back(sqlite_url: str, tmp_path: Path) -> None:
    """What does not end within the grace is due again at once, and that was no attempt."""
    message = request("waiting", input=str(tmp_path / "gate"))
    async with service(sqlite_url, scorer_grace_seconds=0.1) as running:
        await running.send(message)
        await running.until(message.scorer_run_id, "RUNNING")
    async with open_database(sqlite_url) as database:
        await migrate(database)
        found = await Queries(database).get("default", message.scorer_run_id)
    assert found is not None
    assert (found.run.state, found.run.failures, found.run.losses) == (S.SCORER_RUN_STATE_PENDING, 0, 0)
    assert [attempt.error_reason for attempt in found.attempts] == ["interrupted"]
    (tmp_path / "gate").touch()
    async with service(sqlite_url) as running:
        assert (await running.until(message.scorer_run_id)).state == S.SCORER_RUN_STATE_SUCCEEDED


async def test_a_thread_that_never_ends_is_handed_back_too(sqlite_url: str) -> None:
    """A stuck event loop does not keep the service from ending."""
    message = request("blocking", input="4")
    async with service(sqlite_url, scorer_grace_seconds=0.1) as running:
        await running.send(message)
        await running.until(message.scorer_run_id, "RUNNING")
    async with open_database(sqlite_url) as database:
        found = await Queries(database).get("default", message.scorer_run_id)
    assert found is not None
    assert found.run.state == S.SCORER_RUN_STATE_PENDING


async def test_two_replicas_share_the_work(results_url: str) -> None:
    """Each scorer run is carried out by one of them, once."""
    async with service(results_url) as one, service(results_url) as two:
        messages = [request("brevity", f"run-{number}") for number in range(100)]
        await one.send(*messages)
        workers = set()
        for message in messages:
            run = await two.until(message.scorer_run_id)
            assert (run.state, run.deliveries) == (S.SCORER_RUN_STATE_SUCCEEDED, 1)
            workers.add(run.attempts[0].worker)
    assert all(count == 1 for count in scorers.calls.values())


async def test_judges_are_slowed_down_together(sqlite_url: str, monkeypatch: Any) -> None:
    """With a burst of two and next to no rate, two of five attempts of judges are made, over all scorers that judge."""
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    async with service(sqlite_url, judge_model="openai-chat:none", judge_rate=0.001, judge_burst=2) as running:
        messages = [request(name, f"run-{n}") for name in ("toxicity", "bias") for n in range(3)]
        await running.send(*messages, request("threaded"))
        await running.until(request("threaded").scorer_run_id)
        ended = 0
        async with asyncio.timeout(20):
            while ended < 2:
                runs = [await running.get(message.scorer_run_id) for message in messages]
                ended = sum(run.waits for run in runs)
                await asyncio.sleep(0.05)
        assert sum(run.state == S.SCORER_RUN_STATE_PENDING for run in runs) == 4


async def test_fetched_samples_are_bounded_by_bytes(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are due, no more are in memory at once than there is room for, and all are scored; waiting for room
    takes nothing of their time."""
    there = most = 0
    size = 1024 * 1024

    async def fetch(job: Job) -> bytes:
        nonlocal there, most
        there += 1
        most = max(most, there)
        await asyncio.sleep(0.02)
        there -= 1
        sample = scorer_run_requested_pb2.Sample(run_id=job.run_id)
        sample.output.string_value = "x" * size
        return sample.SerializeToString()

    monkeypatch.setattr(Runs, "fetch", lambda runs, job: fetch(job))
    settings = {"scorer_memory_bytes": 24 * size, "scorer_max_fetched_bytes": size, "scorer_max_sample_bytes": 1024}
    messages = [request("threaded", f"run-{number}") for number in range(20)]
    for message in messages:
        message.sample.ClearField("output")
        message.sample.by_reference = True
    async with service(sqlite_url, scorer_timeout_seconds=5.0, **settings) as running:
        await running.send(*messages)
        for message in messages:
            run = await running.until(message.scorer_run_id)
            assert (run.state, run.score.value, len(run.attempts)) == (S.SCORER_RUN_STATE_SUCCEEDED, size, 1)
    assert most == 3
