"""What becomes of every kind of message."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import text
from sqlalchemy.engine import Connection

from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.connect import open_store
from runwire.errors import StoreUnavailable
from runwire.frames import event_check, frame
from runwire.pubsub import Commit, Schedule, Store
from runwire.scorer.v1 import scorer_run_pb2 as S
from runwire.scorer.v1 import scorer_run_requested_pb2, scorer_service_pb2
from runwire.scorer_requests import QUEUE
from scorer_service.answers.queries import Filter, Queries
from scorer_service.queue.intake import Intake
from scorer_service.queue.jobs import Jobs
from scorer_service.results import schema
from scorer_service.results.database import Database
from scorer_service.results.records import State
from tests.scorer.stage import request, send, service


@pytest.fixture
async def store() -> AsyncIterator[Store]:
    """A store in memory."""
    async with open_store("memory://") as opened:
        yield opened


def intake_of(store: Store, database: Database, jobs: Any = None, **settings: Any) -> Intake:
    return Intake(
        store,
        jobs or Jobs(database, worker="w"),
        database,
        max_sample_bytes=settings.get("max_sample_bytes", 4096),
        on_new=lambda: None,
    )


async def rows(database: Database) -> dict[str, Any]:
    page = await Queries(database).page(Filter("default"), limit=1000)
    return {one.run.scorer_run_id: one.run for one in page.found}


async def test_every_message_becomes_a_row(store: Store, database: Database) -> None:
    """Sampled or not, understood or not, with a scorer that is here or not: each is kept with its state, and the queue
    is empty afterwards."""
    nan = request("brevity", "nan")
    nan.options["x"] = float("nan")
    nul = request("brevity", "nul\0nul")
    messages = [
        request("brevity", "good", siblings=7),
        request("brevity", "declined", sampled=False, rate=0.25),
        request("nobody", "unknown"),
        request("brevity", "version", version="99"),
        b"\xff\xff\xff these are no protobuf bytes",
        nan,
        nul,
        request("", "nameless"),
        request("brevity", "rate", rate=7.0),
    ]
    await send(store, messages)
    await intake_of(store, database).run_once()
    assert await store.backlog(QUEUE) == 0
    found = await rows(database)
    assert len(found) == len(messages)
    states = {line.run_id or line.scorer_run_id: (State(line.state), line.error_reason) for line in found.values()}
    malformed = (State.FAILED, "malformed_request")
    bodies = [each if isinstance(each, bytes) else each.SerializeToString() for each in messages[4:]]
    assert states == {
        "good": (State.PENDING, None),
        "declined": (State.DECLINED, None),
        "unknown": (State.PENDING, None),
        "version": (State.PENDING, None),
        **{sha256(body).hexdigest()[:32]: malformed for body in bodies},
    }
    good = next(line for line in found.values() if line.run_id == "good")
    assert (good.siblings, good.rate, good.agent_id) == (7, 1.0, "librarian")


async def test_what_was_not_understood_is_kept(store: Store, database: Database) -> None:
    """The bytes of a malformed message can still be read."""
    await send(store, [b"\xff rubbish"])
    await intake_of(store, database).run_once()
    (key,) = await rows(database)
    found = await Queries(database).get("default", key, with_sample=True)
    assert found is not None
    assert found.sample == b"\xff rubbish"


async def test_a_message_that_comes_again_changes_nothing(store: Store, database: Database) -> None:
    """Intake that died before it acknowledged costs a repeat, not a second row."""

    class Forgetful:
        """A store whose acknowledgement is lost the first time."""

        failures = 1

        async def acknowledge(self, queue: str, message_ids: Any) -> None:
            if self.failures:
                self.failures -= 1
                raise StoreUnavailable("lost")
            await store.acknowledge(queue, message_ids)

        async def receive(self, queue: str, **settings: Any) -> Any:
            return await store.receive(queue, **{**settings, "lease_seconds": 0.01})

    await send(store, [request("brevity", f"run-{number}") for number in range(3)])
    intake = intake_of(Forgetful(), database)  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable):
        await intake.run_once()
    assert await store.backlog(QUEUE) == 3
    async with asyncio.timeout(10):
        while await store.backlog(QUEUE):
            await intake.run_once()
    assert len(await rows(database)) == 3


class Picky(Jobs):
    """The database does not take a row of the run `bad`, and nobody knows why, until it is healed."""

    healed = False

    def add_on(self, connection: Any, new_runs: Any) -> None:
        if not self.healed and any(new.run_id == "bad" for new in new_runs):
            connection.execute(text("SELECT CAST(1 AS no_such_type) FROM no_such_table"))
        super().add_on(connection, new_runs)


async def test_one_row_that_the_database_does_not_take_holds_up_nobody(store: Store, database: Database) -> None:
    """The others of its batch are taken in; it is parked, not failed, and taken in once the database takes it."""
    picky = Picky(database, worker="w")
    intake = intake_of(store, database, picky)
    names = [f"run-{number}" for number in range(20)]
    await send(store, [request("brevity", name) for name in (*names[:7], "bad", *names[7:])])
    await intake.run_once()
    assert await store.backlog(QUEUE) == 0
    assert {line.run_id: line.error_reason for line in (await rows(database)).values()} == dict.fromkeys(names)
    due = schema.parked_requests.update().values(due_time=0.0)
    await database.write(lambda connection: connection.execute(due))
    await intake.retry_once()
    assert (await database.read(parked))[0].tries == 2, "it waits longer each time, and for ever"
    picky.healed = True
    await database.write(lambda connection: connection.execute(due))
    await intake.retry_once()
    assert await database.read(parked) == []
    assert {line.run_id for line in (await rows(database)).values()} == {*names, "bad"}


def parked(connection: Connection) -> list[Any]:
    return list(connection.execute(schema.parked_requests.select()).all())


async def test_what_cannot_even_be_parked_stays_in_the_queue(store: Store, database: Database) -> None:
    """Nothing is acknowledged that is nowhere else, and those beside it are taken in."""
    await database.write(lambda connection: connection.execute(text("DROP TABLE parked_requests")))
    await send(store, [request("brevity", name) for name in ("a", "bad", "b")])
    await intake_of(store, database, Picky(database, worker="w")).run_once()
    assert await store.backlog(QUEUE) == 1
    assert {line.run_id for line in (await rows(database)).values()} == {"a", "b"}


async def test_samples_are_shared(store: Store, database: Database) -> None:
    """The scorers of one run keep one copy of its sample."""
    await send(store, [request(scorer_id, "run-1") for scorer_id in ("brevity", "flaky", "threaded")])
    await intake_of(store, database).run_once()
    assert len({line.sample_id for line in (await rows(database)).values()}) == 1


async def test_times_are_those_of_the_request(store: Store, database: Database) -> None:
    """Creation is when the run asked, and the deadline is kept."""
    message = request("brevity")
    message.request_time.CopyFrom(Timestamp(seconds=1_700_000_000))
    message.deadline.CopyFrom(Timestamp(seconds=1_800_000_000))
    await send(store, [message])
    await intake_of(store, database).run_once()
    (line,) = (await rows(database)).values()
    assert (line.create_time, line.deadline) == (1_700_000_000, 1_800_000_000)


def _log(output: str) -> tuple[bytes, bytes, int]:
    """Body, check and last sequence of a run's log: a step that was superseded, a tool call, a long output."""
    events: list[run_event_pb2.RunEvent] = []

    def add(step: int = 0, attempt: int = 1, **payload: Any) -> None:
        events.append(run_event_pb2.RunEvent(sequence=len(events) + 1, attempt=attempt, step=step, **payload))

    started = run_event_pb2.RunStarted(run_id="run-1", agent_id="librarian")
    started.input.string_value = "What is a cursor?"
    add(run_started=started)
    add(1, step_started=run_event_pb2.StepStarted(name="model"))
    add(1, text_delta=run_event_pb2.TextDelta(text="superseded"))
    add(1, 2, step_started=run_event_pb2.StepStarted(name="model"))
    add(1, 2, tool_call_started=run_event_pb2.ToolCallStarted(tool_call_id="c", tool_name="search"))
    done = run_event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED
    add(1, 2, tool_call_finished=run_event_pb2.ToolCallFinished(tool_call_id="c", outcome=done))
    finished = run_event_pb2.RunFinished(state=run_pb2.RUN_STATE_SUCCEEDED)
    finished.output.string_value = output
    add(0, 2, run_finished=finished)
    wire = [event.SerializeToString() for event in events]
    return b"".join(map(frame, wire)), event_check(wire[-1]), len(wire)


async def _write_run(store: Store, output: str) -> None:
    body, check, last = _log(output)
    await store.commit(Commit("default/run-1", create=True, queue="agents", schedule=Schedule.DUE))
    (claim,) = await store.claim(["agents"], holder="agents", limit=1, lease_seconds=60)
    commit = Commit(
        "default/run-1", attempt=claim.head.attempt, first=1, last=last, events=body, check=check, final=4, retention=60
    )
    await store.commit(commit)


def by_reference(run_id: str, scorer_id: str = "threaded", **fields: Any) -> Any:
    """A request whose sample the agent service left out."""
    message = request(scorer_id, run_id, **fields)
    message.sample.ClearField("output")
    message.sample.by_reference = True
    return message


async def test_a_sample_by_reference_is_fetched_from_its_run(sqlite_url: str) -> None:
    """What its message left out is read from the run's log when it is scored."""
    output = "A cursor is a position. " * 200
    async with service(sqlite_url) as running:
        await _write_run(running.store, output)
        run = await running.score(by_reference("run-1"))
        assert (run.state, run.score.value) == (S.SCORER_RUN_STATE_SUCCEEDED, len(output))
        assert (await running.get(run.scorer_run_id, include_sample=True)).sample.by_reference
        tools = await running.score(by_reference("run-1", "called-tool", options={"tool": "search"}))
        assert tools.score.value == 1


async def test_a_sample_that_cannot_be_fetched_is_refused(sqlite_url: str) -> None:
    """The run is not there, or too large: FAILED with the reason, at once."""
    output = "A cursor is a position. " * 200
    async with service(sqlite_url, scorer_max_fetched_bytes=3000) as running:
        gone = await running.score(by_reference("no-such-run"))
        assert (gone.state, gone.error.reason) == (S.SCORER_RUN_STATE_FAILED, "sample_lost")
        await _write_run(running.store, output)
        large = await running.score(by_reference("run-1"))
        assert (large.state, large.error.reason) == (S.SCORER_RUN_STATE_FAILED, "sample_too_large")


async def test_a_whole_sample_of_a_foreign_producer_is_scored(sqlite_url: str) -> None:
    """Whoever sends it with the message has no run that it could be read from: above 1 MiB it is kept as it came, and
    above the limit it is refused by name."""
    async with service(sqlite_url, scorer_max_fetched_bytes=3 * 1024 * 1024) as running:
        run = await running.score(request("threaded", "foreign", output="x" * 2_000_000))
        assert (run.state, run.score.value) == (S.SCORER_RUN_STATE_SUCCEEDED, 2_000_000)
        large = await running.score(request("threaded", "larger", output="x" * 4_000_000))
        assert (large.state, large.error.reason) == (S.SCORER_RUN_STATE_FAILED, "sample_too_large")
        assert large.run_id == "larger"


async def test_a_message_of_another_language_may_leave_out_what_it_can(store: Store, database: Database) -> None:
    """Only the scorer and the run are needed; what says nothing about sampling is sampled."""
    message = scorer_run_requested_pb2.ScorerRunRequested(scorer_id="brevity")
    message.sample.run_id = "run-1"
    await send(store, [message])
    await intake_of(store, database).run_once()
    (key,) = await rows(database)
    assert key == request("brevity", "run-1").scorer_run_id
    assert (await rows(database))[key].state == State.PENDING


async def test_times_that_are_none_and_options_that_nobody_can_read_stop_nobody(
    store: Store, database: Database
) -> None:
    """They are malformed, and what comes behind them is taken in."""
    timeless, deep = request("brevity", "timeless"), request("brevity", "deep")
    timeless.request_time.seconds = 10**15
    inner = deep.options
    for _ in range(31):
        inner = inner.fields["x"].struct_value
    await send(store, [timeless, deep, request("brevity", "good")])
    await intake_of(store, database).run_once()
    assert await store.backlog(QUEUE) == 0
    lines = sorted((line.run_id, line.error_reason or "") for line in (await rows(database)).values())
    assert lines == [("", "malformed_request"), ("", "malformed_request"), ("good", "")]


async def test_what_a_newer_producer_adds_is_no_fault(store: Store, database: Database) -> None:
    """Fields that this release does not know, in the request and in its sample: taken in, and the sample keeps them."""
    unknown = b"\xfa\x7f\x05later"  # field 2047
    message = request("brevity", "newer")
    message.sample.MergeFromString(unknown)
    await send(store, [message.SerializeToString() + unknown])
    await intake_of(store, database).run_once()
    (line,) = (await rows(database)).values()
    assert (line.run_id, line.state) == ("newer", State.PENDING)
    found = await Queries(database).get("default", line.scorer_run_id, with_sample=True)
    assert found is not None
    assert unknown in (found.sample or b"")


async def test_numbers_and_sizes_that_no_row_holds_are_malformed(store: Store, database: Database) -> None:
    """Found by validation, before the database could say anything; nothing is parked."""
    siblings, options = request("brevity", "siblings"), request("brevity", "options")
    siblings.sibling_count = -1
    options.options.update({"x": "y" * 300_000})
    long = request("brevity", "x" * 300)
    text_of_nul = request("brevity", "trace")
    text_of_nul.tracestate = "a\0b"
    await send(store, [siblings, options, long, text_of_nul])
    await intake_of(store, database).run_once()
    reasons = [(line.state, line.error_reason) for line in (await rows(database)).values()]
    assert reasons == [(State.FAILED, "malformed_request")] * 4
    assert await database.read(parked) == []


async def test_foreign_garbage_parks_nothing(store: Store, database: Database) -> None:
    """5,000 mutations of a request: each becomes a row, and what the database says is never asked."""
    rng = random.Random(11)
    whole = request("brevity", "run", options={"a": [1, {"b": None}]}).SerializeToString()
    bodies = set()
    while len(bodies) < 5000:
        body = bytearray(whole)
        for _ in range(rng.randrange(1, 6)):
            body[rng.randrange(len(body))] = rng.randrange(256)
        bodies.add(bytes(body[: rng.choice([len(body), rng.randrange(1, len(body))])]))
    await send(store, sorted(bodies))
    intake = intake_of(store, database)
    while await store.backlog(QUEUE):
        await intake.run_once()
    assert await database.read(parked) == []


async def test_a_watch_of_a_run_without_scorers_ends(sqlite_url: str) -> None:
    """Once the run has ended and nothing is in the queue, nothing will come: `ended`, not silence for ever."""
    async with service(sqlite_url) as running:
        await running.send(b"somebody else's, which has to be taken in first")
        await _write_run(running.store, "done")
        call = running.stub.WatchScorerRuns(scorer_service_pb2.WatchScorerRunsRequest(run_id="run-1"))
        async with asyncio.timeout(20):
            assert [frame.WhichOneof("frame") async for frame in call] == ["ended"]
        assert await call.code() == grpc.StatusCode.OK
