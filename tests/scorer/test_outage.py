"""Outages, restarts and upgrades: what was done is not done again, and nothing is failed for who is away."""

from __future__ import annotations

import signal
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, text

from runwire.connect import open_store
from runwire.errors import StoreUnavailable
from runwire.loop import Wakeup
from runwire.scorer.v1 import scorer_run_pb2 as S
from runwire.scorer.v1 import scorer_service_pb2 as pb
from runwire.scorer_requests import QUEUE
from scorer_service.execution.executor import Limits
from scorer_service.execution.worker import Worker
from scorer_service.queue.intake import Intake
from scorer_service.queue.jobs import Jobs
from scorer_service.registry import load
from scorer_service.results import schema
from scorer_service.results.database import Database, open_database
from scorer_service.results.records import Finished, Job, NewRun, ScoreRecord, State
from scorer_service.scoring import RetryPolicy
from tests.scorer.processes import ScorerProcess
from tests.scorer.stage import SCORERS, eventually, request, send, service
from tests.servers import free_port


class Recorder:
    """An executor that only notes what it is given."""

    def __init__(self) -> None:
        self.submitted: list[Job] = []

    def silent_seconds(self) -> float:
        return 0.0

    def submit(self, jobs: Sequence[Job]) -> None:
        self.submitted += jobs

    def timeout_of(self, job: Job) -> float:
        return 1000.0

    def cancel(self, jobs: Sequence[Job]) -> None:
        pass

    def astray(self) -> Counter[str]:
        return Counter()


class Away:
    """A database that can be cut off."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.away = False

    def __getattr__(self, name: str) -> Any:
        if self.away:
            raise StoreUnavailable("it is away")
        return getattr(self._database, name)


async def worker_of(database: Any, worker: str = "w", **settings: float) -> tuple[Worker, Recorder, Jobs]:
    registry = load([SCORERS])
    jobs, executor = Jobs(database, worker=worker, **settings), Recorder()  # type: ignore[arg-type]
    await jobs.register(registry.versions)
    limits = Limits(1.0, RetryPolicy(), 100)
    made = Worker(jobs, registry, limits, executor, Wakeup(), concurrency=100)  # type: ignore[arg-type]
    return made, executor, jobs


def new(name: str) -> NewRun:
    return NewRun(name, "default", "brevity", run_id=name, sample=b"")


def done(job: Job, label: str = "") -> Finished:
    return Finished(job, State.SUCCEEDED, "1", ScoreRecord(1.0, label, "", "{}", 1, None))


async def lines(database: Database) -> list[Any]:
    return list(await database.read(lambda c: c.execute(select(schema.scorer_runs)).all()))


async def lapse(database: Database) -> None:
    """All leases are over."""
    over = schema.scorer_runs.update().where(schema.scorer_runs.c.state == int(State.RUNNING))
    await database.write(lambda connection: connection.execute(over.values(due_time=1.0)))


@pytest.mark.parametrize("written", [True, False], ids=["ended during the outage", "still running"])
async def test_the_only_worker_does_not_claim_its_own_again(database: Database, written: bool) -> None:
    """The database is away for longer than a lease. Whatever comes first afterwards, 100 of 100 are not paid twice, and
    nobody has died."""
    cut = Away(database)
    worker, executor, jobs = await worker_of(cut)
    await jobs.add([new(f"run-{number}") for number in range(100)])
    await worker.claim_once()
    assert len(executor.submitted) == 100
    cut.away = True
    if written:
        worker.deliver([done(job) for job in executor.submitted])
        with pytest.raises(StoreUnavailable):
            await worker.finish_once()
    else:
        with pytest.raises(StoreUnavailable):
            await worker.renew_once()
    cut.away = False
    await lapse(database)
    for _ in range(3):
        jobs.look_again()
        await worker.claim_once()
    if not written:
        worker.deliver([done(job) for job in executor.submitted])
        while await worker.finish_once() == 0:
            pass
    assert len(executor.submitted) == 100
    found = Counter((line.state, line.claims, line.deliveries, line.losses) for line in await lines(database))
    assert found == {(State.SUCCEEDED, 1, 1, 0): 100}


async def test_whoever_is_back_first_leaves_the_others_their_work(database: Database) -> None:
    """After an outage all leases are over. Other workers have time to renew theirs; what is new is claimed at once, and
    what nobody renews is, later."""
    cut = Away(database)
    first, executor, jobs = await worker_of(cut, worker="first", lease_seconds=2.0)
    second, other, _ = await worker_of(database, worker="second", lease_seconds=2.0)
    await jobs.add([new(f"run-{number}") for number in range(50)])
    await second.claim_once()
    assert len(other.submitted) == 50
    cut.away = True
    with pytest.raises(StoreUnavailable):
        await first.claim_once()
    cut.away = False
    await lapse(database)
    await jobs.add([new("new")])
    jobs.look_again()
    await first.claim_once()
    assert [job.run_id for job in executor.submitted] == ["new"]
    first._sparing_until = 0.0
    jobs.look_again()
    await first.claim_once()
    assert len(executor.submitted) == 51, "the other one died, it seems"


async def test_a_score_that_cannot_be_written_is_kept(database: Database) -> None:
    """The database does not take one, nobody knows why: the others are written, it is held and renewed and tried
    again, and never replaced by a failure."""
    worker, executor, jobs = await worker_of(database)
    await jobs.add([new(f"run-{number}") for number in range(20)])
    await worker.claim_once()
    await refuse_label(database, "odd")
    ended = [done(job, "odd" if job.run_id == "run-7" else "") for job in executor.submitted]
    worker.deliver(ended)
    await worker.finish_once()
    states = {line.run_id: line.state for line in await lines(database)}
    assert states == {f"run-{n}": State.RUNNING if n == 7 else State.SUCCEEDED for n in range(20)}
    await lapse(database)
    await worker.renew_once()
    jobs.look_again()
    await worker.claim_once()
    assert len(executor.submitted) == 20, "it is not scored again"
    await database.write(
        lambda connection: connection.execute(
            text("DROP TRIGGER odd ON scorer_runs" if not database.embedded else "DROP TRIGGER odd")
        )
    )
    worker._aside._waiting["run-7", 1].due_time = 0.0
    await worker.finish_once()
    assert {line.state for line in await lines(database)} == {State.SUCCEEDED}


async def refuse_label(database: Database, label: str) -> None:
    """The database raises when such a score is written."""
    when = "CREATE TRIGGER odd BEFORE UPDATE ON scorer_runs"
    statements = [f"{when} WHEN NEW.score_label = '{label}' BEGIN SELECT RAISE(ABORT, 'odd'); END"]
    if not database.embedded:
        statements = [
            "CREATE FUNCTION odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'odd'; END $$",
            f"{when} FOR EACH ROW WHEN (NEW.score_label = '{label}') EXECUTE FUNCTION odd()",
        ]
    for statement in statements:
        await database.write(lambda connection, s=statement: connection.execute(text(s)))  # type: ignore[misc]


async def test_a_rolling_upgrade_fails_nothing(results_url: str) -> None:
    """Two services with different scorers and versions share the work while the one is replaced by the other, and for a
    time neither has what some requests want: each is scored in the version that it asked for."""
    store = f"memory://{uuid.uuid4().hex}"
    wanted = [("brevity", "1"), ("brevity", "2"), ("brevity", "3"), ("brevity", ""), ("fresh", "1"), ("threaded", "")]

    def batch(name: str) -> list[Any]:
        return [request(scorer, f"{name}-{n}", version=version) for n in range(5) for scorer, version in wanted]

    old: dict[str, Any] = {"store": store, "scorers": SCORERS}
    late: dict[str, Any] = {"store": store, "scorers": "tests.scorer.next_scorers"}
    sent = []
    async with open_store(store), open_database(results_url) as database:
        async with service(results_url, **old) as first:
            sent += batch("before")
            await first.send(*sent)
            async with service(results_url, **late) as second:
                beside = batch("beside")
                await second.send(*beside)
                sent += beside
        async with service(results_url, **late) as second:
            after = batch("after")
            await second.send(*after)
            sent += after
            async with service(results_url, **old):

                async def all_ended() -> bool:
                    found = await lines(database)
                    return len(found) == len(sent) and all(line.due_time is None for line in found)

                await eventually(all_ended)
        found = await lines(database)
    assert Counter(line.state for line in found) == {State.SUCCEEDED: len(sent)}
    assert all(line.wanted_version in ("", line.scorer_version) for line in found)


async def test_a_request_waits_for_a_process_with_its_scorer(results_url: str) -> None:
    """Scorers deployed apart: a process without it leaves it PENDING, one that comes later scores it; and each can say
    who has what."""
    store = f"memory://{uuid.uuid4().hex}"
    async with open_store(store), service(results_url, store=store) as without:
        await without.send(request("fresh"))
        await without.score(request("threaded"))
        assert (await without.get(request("fresh").scorer_run_id)).state == S.SCORER_RUN_STATE_PENDING
        async with service(results_url, store=store, scorers="tests.scorer.next_scorers"):
            listed = {one.scorer_id: one for one in (await without.stub.ListScorers(pb.ListScorersRequest())).scorers}
            assert [one.version for one in listed["fresh"].holders] == ["1"]
            assert {one.version for one in listed["brevity"].holders} == {"1", "2", "3"}
            assert len({one.worker for one in listed["brevity"].holders}) == 2
            run = await without.until(request("fresh").scorer_run_id)
    assert (run.state, run.scorer_version) == (S.SCORER_RUN_STATE_SUCCEEDED, "1")


async def test_what_nobody_has_fails_in_the_end(results_url: str) -> None:
    """A name that no process ever had: FAILED, scorer_unknown, after the orphan time, with the reason."""
    async with service(results_url, scorer_orphan_seconds=0.5) as running:
        run = await running.score(request("no-such-scorer"))
        assert (run.state, run.error.reason) == (S.SCORER_RUN_STATE_FAILED, "scorer_unknown")
        assert (await running.score(request("threaded"))).state == S.SCORER_RUN_STATE_SUCCEEDED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_heeded_while_the_store_is_waited_for(tmp_path: Path, number: int) -> None:
    """A store that does not answer yet, with a long `start=`: the process ends at once, in order."""
    environment = {
        "RUNWIRE_STORE": f"redis://127.0.0.1:{free_port()}/0?start=3000",
        "RUNWIRE_RESULTS": f"sqlite:///{tmp_path}/scores.db",
        "RUNWIRE_LOG_LEVEL": "INFO",
    }
    with ScorerProcess(environment=environment) as process:
        process.wait_for_error("redis")
        process.signal(number)
        assert process.wait() == 0
        assert not [line for line in process.errors if "Traceback" in line]


def test_a_protocol_of_otlp_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """Rather than ignored: one line, exit code 2."""
    environment = {
        "RUNWIRE_STORE": f"sqlite:///{tmp_path}/runs.db",
        "RUNWIRE_RESULTS": f"sqlite:///{tmp_path}/scores.db",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }
    with ScorerProcess("--export", "otel", environment=environment) as process:
        assert process.wait() == 2
        assert [line for line in process.errors if "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/protobuf'" in line]
        assert len(process.errors) == 1


async def test_a_sqlite_file_that_is_moved_or_not_writable(sqlite_url: str, tmp_path: Path) -> None:
    """Nothing is written into a file that nobody will find again: it waits until the file is back, or another one is in
    its place."""
    path = tmp_path / "scores.db"
    async with open_database(sqlite_url) as database:
        _, _, jobs = await worker_of(database)
        await jobs.add([new("before")])
        path.rename(tmp_path / "moved.db")
        for work in (database.check, lambda: jobs.add([new("lost")])):
            with pytest.raises(StoreUnavailable, match="moved or removed"):
                await work()
        (tmp_path / "moved.db").rename(path)
        await database.check()
        await jobs.add([new("after")])
        assert {line.run_id for line in await lines(database)} == {"before", "after"}


async def test_a_disk_that_is_full_for_a_while(sqlite_url: str) -> None:
    """Nothing is failed, nor parked, for it: health says so, and the requests are taken in when there is room."""
    requests = [request("threaded", f"run-{n}", output="x" * 100_000) for n in range(20)]
    async with open_store("memory://") as store, open_database(sqlite_url) as database:
        jobs = Jobs(database, worker="w")
        intake = Intake(store, jobs, database, max_sample_bytes=2**20, on_new=lambda: None)
        await send(store, requests)
        await database.write(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 1"))
        for _ in range(3):
            with pytest.raises(StoreUnavailable, match="no room left"):
                await intake.run_once()
        assert await store.backlog(QUEUE) == 20
        await database.write(lambda connection: connection.exec_driver_sql("PRAGMA max_page_count = 100000"))
        await intake.run_once()
        assert Counter(line.state for line in await lines(database)) == {State.PENDING: 20}
        assert await store.backlog(QUEUE) == 0
