"""Starting, getting, listing, cancelling and answering runs, through real gRPC."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Literal

import grpc
import pytest
from google.protobuf import duration_pb2, timestamp_pb2
from pydantic import BaseModel, Field

from agent_service import Definition, RunContext, ScorerRef, workflow
from agent_service.log import record
from runwire import frames
from runwire.agent.v1 import agent_service_pb2 as pb
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.identity.principal import Principal
from runwire.pubsub import Commit
from runwire.values import from_struct, from_value, to_value
from tests.service.replica import ENDED, Refusal, dense, eventually, mortal_worker, refused, replica, topic_of
from tests.service.test_errors import is_refusal
from tests.service.test_frames import Held, bulk, speak, steps


class Part(BaseModel):
    name: str
    amount: int = Field(ge=1)


class Order(BaseModel):
    parts: list[Part]
    speed: Literal["slow", "fast"] = "slow"


@workflow(id="order", version="3", scorers=[ScorerRef("brevity", sampling=0.5, options={"words": 9})])
async def order(ctx: RunContext, input: Order) -> Order:
    """Takes an order.

    And more.
    """
    return input


@workflow(id="echo")
async def echo(ctx: RunContext, input: Any) -> Any:
    return input


@workflow(id="fails")
async def fails(ctx: RunContext, message: str) -> None:
    raise KeyError(message)


def wrong_input(refusal: Refusal) -> set[str]:
    is_refusal(refusal, grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert all(refusal.violations.values())
    return set(refusal.violations)


def starting(agent_id: str, input: Any = None, **fields: Any) -> pb.StartRunRequest:
    return pb.StartRunRequest(agent_id=agent_id, input=to_value(input), **fields)


# ListAgents


async def test_agents_are_listed_with_their_types(sqlite_url: str) -> None:
    """An agent is listed in order of its id, with its kind, version, first sentence, schemas and scorers."""
    async with replica(sqlite_url, steps, order, echo) as it:
        listed = await it.stub.ListAgents(pb.ListAgentsRequest())
    assert [agent.agent_id for agent in listed.agents] == ["echo", "order", "steps"]
    assert not listed.next_page_token
    agent = listed.agents[1]
    assert (agent.version, agent.description, agent.kind) == ("3", "Takes an order.", run_pb2.AGENT_KIND_WORKFLOW)
    assert from_struct(agent.input_schema)["required"] == ["parts"]
    assert from_struct(agent.output_schema)["type"] == "object"
    [scorer] = agent.scorers
    assert (scorer.scorer_id, scorer.sampling, from_struct(scorer.options)) == ("brevity", 0.5, {"words": 9})


async def test_agents_are_listed_in_pages(sqlite_url: str) -> None:
    """Pages of any size give each agent once."""
    async with replica(sqlite_url, steps, order, echo, speak) as it:
        for size in (1, 2, 3, 4, 5):
            request, found = pb.ListAgentsRequest(page_size=size), []
            while True:
                page = await it.stub.ListAgents(request)
                assert 0 < len(page.agents) <= size
                found += [agent.agent_id for agent in page.agents]
                if not page.next_page_token:
                    break
                request.page_token = page.next_page_token
            assert found == ["echo", "order", "speak", "steps"]


# StartRun


async def test_a_started_run(url: str) -> None:
    """StartRun answers with the run as it was accepted: queued, with all that was asked for, and a cursor."""
    async with replica(url, order, role="serve") as it:
        run = await it.start(
            "order",
            {"parts": []},
            labels={"tier": "gold"},
            scorers=[run_pb2.ScorerRef(scorer_id="extra"), run_pb2.ScorerRef(scorer_id="brevity", sampling=1.0)],
            timeout=duration_pb2.Duration(seconds=90),
        )
        assert (run.agent_id, run.agent_version, run.state) == ("order", "3", run_pb2.RUN_STATE_QUEUED)
        assert from_value(run.input) == {"parts": []}
        assert dict(run.labels) == {"tier": "gold"}
        assert run.timeout.seconds == 90
        assert [(scorer.scorer_id, scorer.sampling) for scorer in run.scorers] == [("brevity", 1.0), ("extra", 0.0)]
        assert (run.attempt, run.last_sequence, run.cancel_requested) == (0, 0, False)
        assert run.HasField("create_time")
        assert not any(run.HasField(name) for name in ("start_time", "end_time", "expire_time", "output", "error"))
        assert await it.get(run.run_id) == run


async def test_a_run_without_a_request_id_is_a_new_one(url: str) -> None:
    """Each call starts another run."""
    async with replica(url, echo) as it:
        runs = [await it.start("echo", "same") for _ in range(3)]
    assert len({run.run_id for run in runs}) == 3


async def test_a_repeated_request_is_the_same_run(url: str) -> None:
    """The same request id with the same request gives the same run, before and after its end; it runs once."""
    async with replica(url, echo) as it:
        first = await it.start("echo", {"a": 1, "b": 2}, request_id="one", labels={"x": "1", "y": "2"})
        again = await it.start("echo", {"b": 2, "a": 1}, request_id="one", labels={"y": "2", "x": "1"})
        assert again.run_id == first.run_id
        done = await it.ended(first.run_id)
        after = await it.start("echo", {"a": 1, "b": 2}, request_id="one", labels={"x": "1", "y": "2"})
        assert after == done
        # The trace context is that of a call, and not of the request.
        assert (await it.start("echo", "t", request_id="two", traceparent="00-a-b-01")).run_id == (
            await it.start("echo", "t", request_id="two", traceparent="00-c-d-01")
        ).run_id
        listed = await it.stub.ListRuns(pb.ListRunsRequest())
    assert len(listed.runs) == 2


async def test_a_request_id_with_another_request(url: str) -> None:
    """The same id with another body is refused, whichever field differs, with the run that has it."""
    async with replica(url, echo, order) as it:
        run = await it.start("echo", "a", request_id="one")
        others: list[dict[str, Any]] = [
            {"agent_id": "echo", "input": "b"},
            {"agent_id": "order", "input": {"parts": []}},
            {"agent_id": "echo", "input": "a", "labels": {"x": "y"}},
            {"agent_id": "echo", "input": "a", "timeout": duration_pb2.Duration(seconds=1)},
            {"agent_id": "echo", "input": "a", "scorers": [run_pb2.ScorerRef(scorer_id="s")]},
        ]
        for other in others:
            refusal = await refused(it.stub.StartRun(starting(**other, request_id="one")))
            is_refusal(refusal, grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
            assert refusal.metadata == {"run_id": run.run_id}


async def test_a_request_id_whose_run_is_purged(url: str) -> None:
    """A repeat that comes after the run was purged starts nothing, and is not blamed on another request."""
    async with replica(url, echo, retention_seconds=0.1) as it:
        run = await it.start("echo", "a", request_id="one")
        await eventually(lambda: is_purged(it, run.run_id))
        refusal = await refused(it.stub.StartRun(starting("echo", "a", request_id="one")))
    is_refusal(refusal, grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")
    assert "purged" in refusal.message
    assert refusal.metadata["run_id"] == run.run_id


async def is_purged(it: Any, run_id: str) -> bool:
    stored = await it.store.get(topic_of(run_id))
    return stored is not None and stored.head.expired


async def test_the_same_request_at_once_on_two_replicas(url: str) -> None:
    """However often one request arrives at once, and wherever: it is one run, executed once."""
    executed: list[str] = []

    @workflow(id="counted")
    async def counted(ctx: RunContext, input: Any) -> None:
        executed.append(ctx.run_id)

    async with replica(url, counted) as one, replica(url, counted) as two:
        request = starting("counted", "x", request_id="same")
        answers = await asyncio.gather(*(it.stub.StartRun(request) for it in (one, two) * 10))
        assert len({answer.run.run_id for answer in answers}) == 1
        await one.ended(answers[0].run.run_id)
    assert len(executed) == 1


async def test_different_requests_at_once_with_one_id(url: str) -> None:
    """Of several requests with one id one wins; the others are refused, and nothing of them is left."""
    async with replica(url, echo) as one, replica(url, echo) as two:
        calls = [
            it.stub.StartRun(starting("echo", number, request_id="same"))
            for number, it in enumerate((one, two, one, two, one, two))
        ]
        answers = await asyncio.gather(*(_settled(call) for call in calls))
        won = [answer for answer in answers if isinstance(answer, pb.StartRunResponse)]
        assert len(won) == 1
        lost = [answer for answer in answers if not isinstance(answer, pb.StartRunResponse)]
        assert {answer.code() for answer in lost} == {grpc.StatusCode.ALREADY_EXISTS}
        assert (await one.ended(won[0].run.run_id)).output == won[0].run.input


async def _settled(call: Any) -> Any:
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return error


async def test_an_agent_that_is_not_there(sqlite_url: str) -> None:
    """The error names what there is."""
    async with replica(sqlite_url, echo, speak) as it:
        refusal = await refused(it.stub.StartRun(starting("nobody", "x")))
        is_refusal(refusal, grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND")
        assert refusal.metadata == {"agent_id": "nobody"}
        assert "echo" in refusal.message
        assert "speak" in refusal.message
        assert wrong_input(await refused(it.stub.StartRun(starting("", "x")))) == {"agent_id"}
        assert not (await it.stub.ListRuns(pb.ListRunsRequest())).runs


async def test_input_that_does_not_fit(sqlite_url: str) -> None:
    """Each path of the input that is wrong is named, nothing is stored, and the id is free for a right request."""
    async with replica(sqlite_url, order, speak) as it:
        wrong = {"parts": [{"name": "a", "amount": 1}, {"name": 3, "amount": 0}, {}], "speed": "warp"}
        refusal = await refused(it.stub.StartRun(starting("order", wrong, request_id="one")))
        assert wrong_input(refusal) == {
            "input.parts[1].name",
            "input.parts[1].amount",
            "input.parts[2].name",
            "input.parts[2].amount",
            "input.speed",
        }
        for input in (None, "text", 3, True, []):
            assert wrong_input(await refused(it.stub.StartRun(starting("order", input)))) == {"input"}
        unset = pb.StartRunRequest(agent_id="order")
        assert wrong_input(await refused(it.stub.StartRun(unset))) == {"input"}
        assert wrong_input(await refused(it.stub.StartRun(starting("order", {})))) == {"input.parts"}
        assert not (await it.stub.ListRuns(pb.ListRunsRequest())).runs
        assert (await it.do("order", {"parts": []}, request_id="one")).state == run_pb2.RUN_STATE_SUCCEEDED


async def test_input_at_the_limit(sqlite_url: str) -> None:
    """An input of 1 MiB is taken, run and read back; one byte more is refused."""
    text = "x" * (1024 * 1024 - 4)
    assert to_value(text).ByteSize() == 1024 * 1024
    async with replica(sqlite_url, echo) as it:
        run = await it.do("echo", text)
        assert run.state == run_pb2.RUN_STATE_SUCCEEDED
        assert run.output.string_value == text
        assert wrong_input(await refused(it.stub.StartRun(starting("echo", text + "x")))) == {"input"}


@pytest.mark.parametrize(
    "field, fields",
    [
        ("request_id", {"request_id": "r" * 129}),
        ("labels", {"labels": {str(number): "" for number in range(33)}}),
        ("labels['']", {"labels": {"": "x"}}),
        (f"labels['{'k' * 63}']", {"labels": {"k" * 64: "x"}}),
        ("labels['k']", {"labels": {"k": "v" * 256}}),
        ("timeout", {"timeout": duration_pb2.Duration()}),
        ("timeout", {"timeout": duration_pb2.Duration(seconds=-1)}),
        ("scorers[1].scorer_id", {"scorers": [run_pb2.ScorerRef(scorer_id="a"), run_pb2.ScorerRef()]}),
        ("scorers[0].sampling", {"scorers": [run_pb2.ScorerRef(scorer_id="a", sampling=1.5)]}),
        ("scorers[0].sampling", {"scorers": [run_pb2.ScorerRef(scorer_id="a", sampling=float("nan"))]}),
        ("scorers", {"scorers": [run_pb2.ScorerRef(scorer_id=str(number)) for number in range(33)]}),
        ("scorers", {"scorers": [run_pb2.ScorerRef(scorer_id="a", options={"text": "x" * 256 * 1024})]}),
        ("scorers[0].match_states", {"scorers": [run_pb2.ScorerRef(scorer_id="a", match_states=[2])]}),
        ("scorers[0].match_states", {"scorers": [run_pb2.ScorerRef(scorer_id="a", match_states=[99])]}),
        ("traceparent", {"traceparent": "0" * 600}),
        ("tracestate", {"traceparent": "00-a-b-01", "tracestate": "0" * 600}),
    ],
)
async def test_a_wrong_field_of_start(sqlite_url: str, field: str, fields: dict[str, Any]) -> None:
    """Each field of StartRunRequest that is wrong is named."""
    async with replica(sqlite_url, echo) as it:
        assert wrong_input(await refused(it.stub.StartRun(starting("echo", "x", **fields)))) == {field}


async def test_labels_at_their_limits(sqlite_url: str) -> None:
    """32 labels with keys of 63 and values of 255 characters, not bytes, are taken."""
    labels = {f"{number:0>63}": "ü" * 255 for number in range(32)}
    async with replica(sqlite_url, echo) as it:
        run = await it.start("echo", "x", labels=labels, request_id="r" * 128)
        assert dict((await it.get(run.run_id)).labels) == labels


async def test_a_trace_context_in_the_metadata(sqlite_url: str) -> None:
    """Metadata that could be no trace context is left out, as W3C has it: the caller did not name a field."""
    async with replica(sqlite_url, echo) as it:
        for traceparent in ("00-" + "a" * 32 + "-" + "b" * 16 + "-01", "0" * 600):
            metadata = (("traceparent", traceparent), ("tracestate", "vendor=1"))
            run = (await it.stub.StartRun(starting("echo", "x"), metadata=metadata)).run
            stored = await it.store.get(topic_of(run.run_id), ["trace"])
            assert stored is not None
            kept = f"{traceparent}\nvendor=1" if len(traceparent) < 512 else "\n"
            assert stored.fields["trace"].decode() == kept


# GetRun


async def test_a_run_that_succeeded(url: str) -> None:
    """GetRun tells all there is of a run that ended: output, times in order, attempts, cursor, when it expires."""
    async with replica(url, order, retention_seconds=100.0) as it:
        run = await it.do("order", {"parts": [{"name": "a", "amount": 2}]})
        assert run.state == run_pb2.RUN_STATE_SUCCEEDED
        assert from_value(run.output) == {"parts": [{"name": "a", "amount": 2}], "speed": "slow"}
        assert not run.HasField("error")
        times = [run.create_time, run.start_time, run.end_time, run.expire_time]
        stamps = [stamp.ToMicroseconds() for stamp in times]
        assert stamps == sorted(stamps)
        assert (stamps[3] - stamps[2]) / 1e6 == pytest.approx(100.0, abs=5.0)
        [attempt] = run.attempts
        assert (attempt.attempt, attempt.outcome, bool(attempt.worker)) == (1, "finished", True)
        assert attempt.HasField("end_time")
        assert run.attempt == 1
        log = await it.log(run.run_id)
        assert run.last_sequence == len(log)
        assert log[-1].run_finished.output == run.output
        assert await it.watched(run.run_id, cursor=run.cursor) == []


async def test_a_run_that_failed(url: str) -> None:
    """What the agent raised is the run's error: its class and words, no traceback; the log tells the same."""
    async with replica(url, fails) as it:
        run = await it.do("fails", "no such thing")
        assert run.state == run_pb2.RUN_STATE_FAILED
        assert (run.error.reason, run.error.error_class) == ("agent_error", "KeyError")
        assert run.error.message == "'no such thing'"
        assert not run.HasField("output")
        assert (await it.log(run.run_id))[-1].run_finished.error == run.error


async def test_a_run_that_is_running(url: str) -> None:
    """A run under way has its attempt, its start and as many events as there are."""
    held = Held()
    async with replica(url, held.definition) as it:
        run = await it.start("held")
        held.words.put_nowait("a")
        async with it.watch(run.run_id) as watch:
            await watch.until_event("text_delta")
        running = await it.get(run.run_id)
        assert (running.state, running.attempt, running.last_sequence) == (run_pb2.RUN_STATE_RUNNING, 1, 3)
        assert running.HasField("start_time")
        assert not running.HasField("expire_time")
        assert [attempt.outcome for attempt in running.attempts] == [""]


# ListRunEvents


async def test_pages_are_what_is_watched(url: str) -> None:
    """The pages of ListRunEvents, of any size, are byte for byte the events of WatchRun and of the store."""
    async with replica(url, steps, bulk) as it:
        for agent_id, input in (("steps", 20), ("bulk", [3] * 300 + [100_000] * 5)):
            run = await it.do(agent_id, input)
            page = await it.store.read(topic_of(run.run_id), 0, max_events=100_000, max_bytes=1 << 30)
            stored = [event for entry in page.entries for event in frames.events(entry.body)]
            assert len(stored) == run.last_sequence
            watched = await it.watched(run.run_id)
            assert [event.SerializeToString() for event in watched] == stored
            for size in (0, 1 if agent_id == "steps" else 50, 7, 1000):
                pages = await it.pages(run.run_id, page_size=size)
                assert [event.SerializeToString() for page in pages for event in page.events] == stored
                assert all(len(page.events) <= (size or 100) for page in pages)
                assert pages[-1].cursor == run.cursor


async def test_pages_go_on_from_their_cursors(url: str) -> None:
    """The cursor of a page is good for the next page, for WatchRun and, at the end, for what comes later."""
    async with replica(url, steps) as it:
        run = await it.do("steps", 5)
        whole = await it.log(run.run_id)
        seen: list[run_event_pb2.RunEvent] = []
        for page in await it.pages(run.run_id, page_size=4):
            seen += page.events
            assert await it.log(run.run_id, cursor=page.cursor) == whole[len(seen) :]
            assert await it.watched(run.run_id, cursor=page.cursor) == whole[len(seen) :]


async def test_pages_of_a_run_under_way(url: str) -> None:
    """The last page has no token and a cursor, from which later events are read once they are there."""
    held = Held()
    async with replica(url, held.definition) as it:
        run = await it.start("held")
        held.words.put_nowait("a")
        async with it.watch(run.run_id) as watch:
            await watch.until_event("text_delta")
        [page] = await it.pages(run.run_id)
        assert len(page.events) == 3
        [empty] = await it.pages(run.run_id, cursor=page.cursor)
        assert (list(empty.events), empty.cursor, empty.next_page_token) == ([], page.cursor, "")
        held.words.put_nowait("")
        await it.ended(run.run_id)
        assert dense(await it.log(run.run_id, cursor=page.cursor), after=3)


async def test_pages_of_an_empty_log(url: str) -> None:
    """A run that was not begun has one page without events, whose cursor is the beginning."""
    async with replica(url, echo, role="serve") as it:
        run = await it.start("echo", "x")
        [page] = await it.pages(run.run_id)
    assert not page.events
    assert page.cursor == run.cursor


# ListRuns


async def listed(it: Any, **fields: Any) -> list[str]:
    """The ids of all runs that fit, page by page."""
    request, found = pb.ListRunsRequest(**fields), []
    while True:
        page = await it.stub.ListRuns(request)
        found += [run.run_id for run in page.runs]
        if not page.next_page_token:
            return found
        request.page_token = page.next_page_token


async def test_runs_are_listed_newest_first(url: str) -> None:
    """Pages of any size give each run once, newest first, as GetRun shows it."""
    async with replica(url, echo) as it:
        runs = [await it.start("echo", number) for number in range(7)]
        for run in runs:
            await it.ended(run.run_id)
        newest_first = [run.run_id for run in reversed(runs)]
        for size in (0, 1, 2, 3, 7, 8):
            assert await listed(it, page_size=size) == newest_first
        shown = (await it.stub.ListRuns(pb.ListRunsRequest())).runs
        assert list(shown) == [await it.get(run_id) for run_id in newest_first]


async def test_runs_are_filtered(url: str) -> None:
    """By agent, by state, by all of several labels, by time, and by all of that at once."""
    async with replica(url, echo, fails) as it:
        good = await it.do("echo", "x", labels={"tier": "gold", "of": "a"})
        bad = await it.do("fails", "x", labels={"tier": "gold", "of": "b"})
        plain = await it.do("echo", "x")
        ids = {"good": good.run_id, "bad": bad.run_id, "plain": plain.run_id}

        async def found(**fields: Any) -> set[str]:
            runs = await listed(it, **fields, page_size=1)
            return {name for name, run_id in ids.items() if run_id in runs}

        assert await found() == {"good", "bad", "plain"}
        assert await found(agent_id="echo") == {"good", "plain"}
        assert await found(agent_id="nobody") == set()
        assert await found(states=[run_pb2.RUN_STATE_FAILED]) == {"bad"}
        assert await found(states=[run_pb2.RUN_STATE_QUEUED, run_pb2.RUN_STATE_RUNNING]) == set()
        assert await found(states=list(ENDED)) == {"good", "bad", "plain"}
        assert await found(labels={"tier": "gold"}) == {"good", "bad"}
        assert await found(labels={"tier": "gold", "of": "b"}) == {"bad"}
        assert await found(labels={"tier": ""}) == set()
        assert await found(created_after=bad.create_time) == {"bad", "plain"}
        assert await found(created_before=bad.create_time) == {"good"}
        assert await found(created_after=good.create_time, created_before=plain.create_time) == {"good", "bad"}
        assert await found(created_before=timestamp_pb2.Timestamp(seconds=1)) == set()
        assert await found(agent_id="echo", labels={"tier": "gold"}, states=[run_pb2.RUN_STATE_SUCCEEDED]) == {"good"}


async def test_a_page_of_runs_is_bounded_in_bytes(url: str) -> None:
    """Runs with large inputs fill more pages, and no page is larger than a client takes by default (4 MiB)."""
    text = "x" * 900_000
    async with replica(url, echo) as it:
        runs = [await it.do("echo", text) for _ in range(6)]
        assert await listed(it) == [run.run_id for run in reversed(runs)]


async def test_a_token_outlives_the_runs_around_it(url: str) -> None:
    """A page continues where the one before it ended, although that run is purged by then and newer ones were
    started."""
    async with replica(url, echo) as it, replica(url, speak, retention_seconds=0.1) as short:
        last = [(await it.do("echo", number, labels={"k": "v"})).run_id for number in range(3)]
        gone = await short.start("speak", ["x"], labels={"k": "v"})
        await it.ended(gone.run_id)
        requests = [pb.ListRunsRequest(page_size=1), pb.ListRunsRequest(page_size=1, labels={"k": "v"})]
        for request in requests:
            request.page_token = (await it.stub.ListRuns(request)).next_page_token
        await eventually(lambda: is_purged(it, gone.run_id))
        await it.store.sweep()
        await it.do("echo", "new", labels={"k": "v"})
        for request in requests:
            found = []
            while True:
                page = await it.stub.ListRuns(request)
                found += [run.run_id for run in page.runs]
                if not page.next_page_token:
                    break
                request.page_token = page.next_page_token
            assert found[-1] == last[0]
            assert set(found) <= set(last)


async def test_runs_of_an_earlier_version_are_listed(url: str) -> None:
    """A run that was written without its brief is listed as it is, in the lists that it stands in."""
    async with replica(url, echo) as it:
        run = await it.do("echo", "x")
        old = Commit(
            topic_of("old"),
            create=True,
            indexes=[record.index_of("default"), record.index_of("default", "echo")],
            puts={
                record.RUN: run_pb2.Run(
                    run_id="old", agent_id="echo", state=run_pb2.RUN_STATE_QUEUED
                ).SerializeToString()
            },
        )
        await it.store.commit(old)
        assert await listed(it) == ["old", run.run_id]
        assert await listed(it, agent_id="echo", page_size=1) == ["old", run.run_id]


async def test_a_large_run_is_listed_without_its_large_fields(url: str) -> None:
    """A list shows what is small of a run, and names what it leaves out; GetRun has all of it. Small runs are whole."""
    refs = [run_pb2.ScorerRef(scorer_id="s", match_labels={"none": "x" * 100})]
    async with replica(url, echo) as it:
        large = await it.do("echo", "x" * 5_000, labels={"a": "b"}, scorers=refs)
        small = await it.do("echo", "x")
        shown = {run.run_id: run for run in (await it.stub.ListRuns(pb.ListRunsRequest())).runs}
        whole = await it.get(large.run_id)
    assert shown[small.run_id] == small
    assert not small.omitted
    assert not whole.omitted
    brief = shown[large.run_id]
    assert set(brief.omitted) == {"input", "output"}
    assert brief.ByteSize() < record.MAX_BRIEF_BYTES + 1000
    del brief.omitted[:]
    brief.input.CopyFrom(whole.input)
    brief.output.CopyFrom(whole.output)
    assert brief == whole


def test_what_is_listed_of_a_run_is_bounded() -> None:
    """Whichever of its fields are large, all that is left of them is their names."""
    text = "x" * 20_000
    run = run_pb2.Run(
        run_id="r",
        input=to_value(text),
        output=to_value([text]),
        scorers=[run_pb2.ScorerRef(scorer_id=text)],
        pending=[run_pb2.PendingRequest(name=text)],
        attempts=[run_pb2.Attempt(worker=text)],
        error=run_pb2.RunError(reason="agent_error", message=text),
        labels={"a": "b"},
    )
    kept = record.puts(run)
    brief = run_pb2.Run.FromString(kept[record.BRIEF])
    assert set(brief.omitted) == {"input", "output", "scorers", "pending", "attempts", "error.message"}
    assert (brief.run_id, dict(brief.labels), brief.error.reason) == ("r", {"a": "b"}, "agent_error")
    assert len(kept[record.BRIEF]) < 200
    assert run_pb2.Run.FromString(kept[record.RUN]) == run


async def test_a_state_is_found_as_runs_pass_through_it(url: str) -> None:
    """Each run is in the list of the state that it is in now, and in no other, from its start to its end."""
    gate = asyncio.Event()

    @workflow(id="waits")
    async def waits(ctx: RunContext, input: Any) -> str:
        await gate.wait()
        return str(await ctx.suspend("answer"))

    every = [state for state in run_pb2.RunState.values() if state]

    async def states(it: Any, run_id: str) -> list[int]:
        return [state for state in every if run_id in await listed(it, states=[state], labels={"k": "v"})]

    async with replica(url, waits) as it:
        run = await it.start("waits", labels={"k": "v"})
        for expected in (run_pb2.RUN_STATE_RUNNING, run_pb2.RUN_STATE_SUSPENDED, run_pb2.RUN_STATE_SUCCEEDED):
            await eventually(lambda wanted=expected: is_in(it, run.run_id, wanted))
            assert await states(it, run.run_id) == [expected]
            assert await listed(it, states=every, agent_id="waits") == [run.run_id]
            gate.set()
            if expected == run_pb2.RUN_STATE_SUSPENDED:
                await it.stub.ResumeRun(
                    pb.ResumeRunRequest(
                        run_id=run.run_id,
                        answers=[run_event_pb2.Answer(request_id="suspend/answer", data=to_value("yes"))],
                    )
                )


async def is_in(it: Any, run_id: str, state: run_pb2.RunState) -> bool:
    return bool((await it.get(run_id)).state == state)


async def test_filters_that_no_run_can_fit(url: str) -> None:
    """More labels than a run may have, and states that there are not, are refused, with the field named."""
    async with replica(url, echo) as it:
        await it.do("echo", 1, labels={"a": "b"})
        for wrong, field in (
            ({"labels": {str(number): "" for number in range(40)}}, "labels"),
            ({"states": [100]}, "states[0]"),
            ({"states": [0]}, "states[0]"),
            ({"states": [*range(5_000)]}, "states"),
        ):
            refusal = await refused(listed(it, **wrong))
            assert (refusal.code, list(refusal.violations)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
        assert len(await listed(it, states=[*range(1, 7)])) == 1


async def test_a_rare_label_among_many_runs(url: str) -> None:
    """A page of the one run that fits does not read the runs around it: the store is asked once, for one run."""
    async with replica(url, echo, role="serve") as it:
        wanted = await it.start("echo", 0, labels={"customer": "acme"})
        for number in range(30):
            await it.start("echo", number, labels={"customer": f"other-{number}"})
        asked: list[int] = []
        scan = it.store.scan

        async def counting(*args: Any, **fields: Any) -> Any:
            page = await scan(*args, **fields)
            asked.append(len(page.found))
            return page

        it.store.scan = counting
        assert await listed(it, labels={"customer": "acme"}) == [wanted.run_id]
    assert asked == [1]


async def test_purged_runs_are_not_listed(url: str) -> None:
    """A run of which only the tombstone is left is not in the list, and does not end it."""
    async with replica(url, echo) as it, replica(url, speak, retention_seconds=0.1) as short:
        first = await it.do("echo", 1)
        gone = await short.start("speak", ["x"])
        last = await it.do("echo", 2)
        await eventually(lambda: is_purged(it, gone.run_id))
        assert await listed(it, page_size=1) == [last.run_id, first.run_id]


# CancelRun


async def test_cancel_a_run_that_is_queued(url: str) -> None:
    """A run that no worker has begun ends CANCELLED without its agent being called."""
    called: list[str] = []

    @workflow(id="called")
    async def called_workflow(ctx: RunContext, input: Any) -> None:
        called.append(ctx.run_id)

    async with replica(url, called_workflow, role="serve") as it:
        run = await it.start("called")
        answer = await it.cancel(run.run_id, "changed my mind")
        assert answer.cancel_requested
        assert answer.state == run_pb2.RUN_STATE_QUEUED
        async with replica(url, called_workflow):
            done = await it.ended(run.run_id)
    assert done.state == run_pb2.RUN_STATE_CANCELLED
    assert not called


async def test_cancel_a_run_that_is_running(url: str) -> None:
    """From another replica than the one that executes it: the run ends CANCELLED, what it said is kept."""
    held = Held()
    async with replica(url, held.definition) as it, replica(url, held.definition, role="serve") as other:
        run = await other.start("held")
        held.words.put_nowait("so far")
        async with other.watch(run.run_id) as watch:
            await watch.until_event("text_delta")
            assert (await other.cancel(run.run_id)).cancel_requested
            assert (await other.cancel(run.run_id, "again")).cancel_requested
            await watch.rest()
        done = await it.get(run.run_id)
    assert done.state == run_pb2.RUN_STATE_CANCELLED
    assert not done.HasField("error")
    assert watch.frames[-1].ended.state == run_pb2.RUN_STATE_CANCELLED
    assert [event.text_delta.text for event in watch.events if event.HasField("text_delta")] == ["so far"]
    assert [attempt.outcome for attempt in done.attempts] == ["finished"]


async def test_cancel_a_run_that_heeds_it(url: str) -> None:
    """An agent that looks for cancellation ends in its own way: its partial output is kept."""

    @workflow(id="heeds")
    async def heeds(ctx: RunContext, input: Any) -> str:
        assert not ctx.cancelled
        await ctx.emit_text("working")
        await ctx.wait_cancelled()
        await ctx.emit_text("stopped")
        return "half"

    async with replica(url, heeds) as it:
        run = await it.start("heeds")
        async with it.watch(run.run_id) as watch:
            await watch.until_event("text_delta")
            await it.cancel(run.run_id)
            await watch.rest()
        done = await it.get(run.run_id)
    assert (done.state, done.output.string_value) == (run_pb2.RUN_STATE_CANCELLED, "half")
    assert [event.text_delta.text for event in watch.events if event.HasField("text_delta")] == ["working", "stopped"]


async def test_cancel_is_forced_after_the_grace(url: str) -> None:
    """An agent that looks for cancellation and does not end is stopped after the grace."""
    stopped = asyncio.Event()

    @workflow(id="dawdles")
    async def dawdles(ctx: RunContext, input: Any) -> None:
        await ctx.emit_text("begun")
        await ctx.wait_cancelled()
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    async with replica(url, dawdles, cancel_grace_seconds=0.2) as it:
        run = await it.start("dawdles")
        async with it.watch(run.run_id) as watch:
            await watch.until_event("text_delta")
            await it.cancel(run.run_id)
            await watch.rest()
        assert (await it.get(run.run_id)).state == run_pb2.RUN_STATE_CANCELLED
        assert stopped.is_set()


async def test_cancel_a_run_that_waits(url: str) -> None:
    """A suspended run is woken and ends CANCELLED; nothing waits for an answer any more."""
    async with replica(url, asks) as it:
        run = await it.start("asks", ["name"])
        await it.suspended(run.run_id)
        await it.cancel(run.run_id)
        done = await it.ended(run.run_id)
        assert done.state == run_pb2.RUN_STATE_CANCELLED
        assert not done.pending
        refusal = await refused(it.resume(run.run_id, data("suspend/name", "x")))
        is_refusal(refusal, grpc.StatusCode.FAILED_PRECONDITION, "NOT_SUSPENDED")


async def test_cancel_a_run_that_has_ended(url: str) -> None:
    """Nothing happens, and the run is returned as it is."""
    async with replica(url, echo) as it:
        run = await it.do("echo", "x")
        assert await it.cancel(run.run_id) == run
        assert await it.get(run.run_id) == run


# ResumeRun


@workflow(id="asks")
async def asks(ctx: RunContext, names: list[str]) -> dict[str, Any]:
    """Waits for an answer to each name, one after the other."""
    return {name: await ctx.suspend(name, {"about": name}, answer_type=str) for name in names}


def data(request_id: str, answer: Any) -> run_event_pb2.Answer:
    return run_event_pb2.Answer(request_id=request_id, data=to_value(answer))


async def test_a_run_that_waits_says_for_what(url: str) -> None:
    """A suspended run names what it waits for, with data and schema, in GetRun and in the log alike."""
    async with replica(url, asks) as it:
        run = await it.start("asks", ["name"])
        waiting = await it.suspended(run.run_id)
        assert waiting.state == run_pb2.RUN_STATE_SUSPENDED
        [pending] = waiting.pending
        assert (pending.request_id, pending.name, pending.kind) == ("suspend/name", "name", run_pb2.PENDING_KIND_DATA)
        assert from_value(pending.arguments) == {"about": "name"}
        assert from_struct(pending.schema) == {"type": "string"}
        assert not pending.HasField("deadline")
        assert (await it.log(run.run_id))[-1].run_suspended.pending[0] == pending
        assert [attempt.outcome for attempt in waiting.attempts] == ["suspended"]


async def test_an_answer_is_taken_once(url: str) -> None:
    """The first answer resumes the run; a second one is refused with the time of the first, also after the end."""
    async with replica(url, asks) as it, replica(url, asks, role="serve") as other:
        run = await it.start("asks", ["name"])
        await it.suspended(run.run_id)
        await other.resume(run.run_id, data("suspend/name", "Ada"))
        done = await it.ended(run.run_id)
        assert from_value(done.output) == {"name": "Ada"}
        assert [attempt.outcome for attempt in done.attempts] == ["suspended", "finished"]
        for replica_ in (it, other):
            refusal = await refused(replica_.resume(run.run_id, data("suspend/name", "Bob")))
            is_refusal(refusal, grpc.StatusCode.FAILED_PRECONDITION, "ALREADY_ANSWERED")
            assert refusal.metadata["request_id"] == "suspend/name"
            answered = timestamp_pb2.Timestamp()
            answered.FromJsonString(refusal.metadata["answer_time"])
            assert done.create_time.ToMicroseconds() <= answered.ToMicroseconds() <= done.end_time.ToMicroseconds()
        log = await it.log(run.run_id)
        [resumed] = [event.run_resumed for event in log if event.HasField("run_resumed")]
        assert [answer.data.string_value for answer in resumed.answers] == ["Ada"]


async def test_answers_at_once(url: str) -> None:
    """Of several answers at once, from several replicas, one is taken and all others are refused."""
    async with replica(url, asks) as it, replica(url, asks) as other:
        run = await it.start("asks", ["name"])
        await it.suspended(run.run_id)
        calls = [
            one.stub.ResumeRun(pb.ResumeRunRequest(run_id=run.run_id, answers=[data("suspend/name", str(number))]))
            for number, one in enumerate((it, other) * 4)
        ]
        answers = await asyncio.gather(*(_settled(call) for call in calls))
        taken = [number for number, answer in enumerate(answers) if isinstance(answer, pb.ResumeRunResponse)]
        assert len(taken) == 1
        assert {answer.code() for answer in answers if not isinstance(answer, pb.ResumeRunResponse)} == {
            grpc.StatusCode.FAILED_PRECONDITION
        }
        assert from_value((await it.ended(run.run_id)).output) == {"name": str(taken[0])}


async def test_one_question_after_another(url: str) -> None:
    """A run may wait several times; answers to earlier questions are not asked for again."""
    async with replica(url, asks) as it:
        run = await it.start("asks", ["a", "b"])
        await it.suspended(run.run_id)
        refusal = await refused(it.resume(run.run_id, data("suspend/b", "early")))
        is_refusal(refusal, grpc.StatusCode.FAILED_PRECONDITION, "NOT_SUSPENDED")
        await it.resume(run.run_id, data("suspend/a", "1"))
        async with it.watch(run.run_id) as watch:
            await watch.until(lambda frame: any(e.run_suspended.pending[0].name == "b" for e in _suspensions(frame)))
        await it.resume(run.run_id, data("suspend/b", "2"))
        done = await it.ended(run.run_id)
    assert from_value(done.output) == {"a": "1", "b": "2"}


def _suspensions(frame: pb.WatchRunResponse) -> list[run_event_pb2.RunEvent]:
    return [event for event in frame.batch.events if event.HasField("run_suspended")]


async def test_answers_that_are_wrong(url: str) -> None:
    """No answers, none of the right kind, too large, unknown: refused with the path, and the run waits on."""
    async with replica(url, asks, speak) as it:
        run = await it.start("asks", ["name"])
        waiting = await it.suspended(run.run_id)
        bare = run_event_pb2.Answer(request_id="suspend/name")
        approval = run_event_pb2.Answer(request_id="suspend/name", approve=run_event_pb2.Approve())
        denial = run_event_pb2.Answer(request_id="suspend/name", deny=run_event_pb2.Deny(message="no"))
        assert wrong_input(await refused(it.resume(run.run_id))) == {"answers"}
        assert wrong_input(await refused(it.resume(run.run_id, bare))) == {"answers[0]"}
        assert wrong_input(await refused(it.resume(run.run_id, approval))) == {"answers[0].approve"}
        assert wrong_input(await refused(it.resume(run.run_id, denial))) == {"answers[0].deny"}
        large = data("suspend/name", "x" * 1024 * 1024)
        assert wrong_input(await refused(it.resume(run.run_id, large))) == {"answers"}
        unknown = await refused(it.resume(run.run_id, data("suspend/name", "x"), data("suspend/other", "x")))
        is_refusal(unknown, grpc.StatusCode.FAILED_PRECONDITION, "NOT_SUSPENDED")
        assert "suspend/other" in unknown.message
        twice = await refused(it.resume(run.run_id, data("suspend/name", "x"), data("suspend/name", "y")))
        assert wrong_input(twice) == {"answers[1].request_id"}
        assert await it.get(run.run_id) == waiting
        ended = await it.do("speak", ["a"])
        refusal = await refused(it.resume(ended.run_id, data("suspend/name", "x")))
        is_refusal(refusal, grpc.StatusCode.FAILED_PRECONDITION, "NOT_SUSPENDED")


async def test_a_run_that_does_not_wait_takes_no_answer(url: str) -> None:
    """A running run, and one that waits for a time, take no answer."""
    held = Held()

    @workflow(id="sleeps")
    async def sleeps(ctx: RunContext, input: Any) -> None:
        await ctx.sleep(60)

    async with replica(url, held.definition, sleeps) as it:
        running = await it.start("held")
        async with it.watch(running.run_id) as watch:
            await watch.until_event("run_started")
        sleeping = await it.suspended((await it.start("sleeps")).run_id)
        [pending] = sleeping.pending
        assert pending.kind == run_pb2.PENDING_KIND_TIME
        assert pending.deadline.seconds - sleeping.start_time.seconds == pytest.approx(60, abs=2)
        for run_id, request_id in ((running.run_id, "suspend/x"), (sleeping.run_id, pending.request_id)):
            refusal = await refused(it.resume(run_id, data(request_id, "x")))
            is_refusal(refusal, grpc.StatusCode.FAILED_PRECONDITION, "NOT_SUSPENDED")


async def test_an_answer_that_does_not_fit(url: str) -> None:
    """An answer that is not of the type the workflow asked for fails the run with words that say so."""

    @workflow(id="counts")
    async def counts(ctx: RunContext, input: Any) -> int:
        return int(await ctx.suspend("count", answer_type=int))

    async with replica(url, counts) as it:
        run = await it.start("counts")
        await it.suspended(run.run_id)
        await it.resume(run.run_id, data("suspend/count", "many"))
        done = await it.ended(run.run_id)
    assert (done.state, done.error.error_class) == (run_pb2.RUN_STATE_FAILED, "ValidationError")


async def test_nobody_answers_in_time(url: str) -> None:
    """A request that lapses raises TimeoutError in the workflow, which may continue."""
    async with replica(url, goes_on_alone(0.3)) as it:
        run = await it.start("impatient")
        async with it.watch(run.run_id) as watch:
            await watch.until_event("run_suspended")
            [pending] = watch.events[-1].run_suspended.pending
            assert pending.HasField("deadline")
        done = await it.ended(run.run_id)
        assert (done.state, done.output.string_value) == (run_pb2.RUN_STATE_SUCCEEDED, "nobody")
        refusal = await refused(it.resume(run.run_id, data("suspend/name", "late")))
        is_refusal(refusal, grpc.StatusCode.FAILED_PRECONDITION, "NOT_SUSPENDED")


def goes_on_alone(seconds: float) -> Definition:
    @workflow(id="impatient")
    async def impatient(ctx: RunContext, input: Any) -> str:
        try:
            return str(await ctx.suspend("name", timeout=seconds))
        except TimeoutError:
            await ctx.emit_text("nobody")
        if input == "stays":
            await asyncio.Event().wait()
        return "nobody"

    return impatient


async def test_an_answer_after_its_time(url: str) -> None:
    """A request that has lapsed takes no answer, also before any worker has noticed: nobody is told that an answer was
    taken which the run will never see."""
    impatient = goes_on_alone(1.0)
    async with replica(url, impatient, role="serve") as it:
        run = await it.start("impatient")
        async with mortal_worker(url, impatient, lease_seconds=60), it.watch(run.run_id) as watch:
            await watch.until_event("run_suspended")
        [pending] = watch.events[-1].run_suspended.pending

        async def lapsed() -> bool:
            return await it.store.now() > pending.deadline.ToNanoseconds() / 1e9

        await eventually(lapsed)
        refusal = await refused(it.resume(run.run_id, data("suspend/name", "late")))
        is_refusal(refusal, grpc.StatusCode.FAILED_PRECONDITION, "NOT_SUSPENDED")
        assert "lapsed" in refusal.message
        async with mortal_worker(url, impatient):
            assert (await it.ended(run.run_id)).output.string_value == "nobody"


class SlowClock:
    """A store that tells the time as it was before `meanwhile`."""

    def __init__(self, store: Any, meanwhile: Callable[[], Awaitable[object]]) -> None:
        self._store = store
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def now(self) -> float:
        time: float = await self._store.now()
        await self._meanwhile()
        return time


async def test_an_answer_that_meets_the_lapse(url: str) -> None:
    """An answer that was in time, but would be stored when the run has gone on without it, is refused."""
    impatient = goes_on_alone(0.5)
    async with replica(url, impatient) as it:
        run = await it.start("impatient", "stays")
        async with it.watch(run.run_id) as watch:
            await watch.until_event("run_suspended")

            going = asyncio.Lock()  # others look at the clock too, and one reads the stream at a time

            async def until_it_went_on() -> None:
                async with going:
                    if not any(event.HasField("text_delta") for event in watch.events):
                        await watch.until_event("text_delta")

            async with replica(url, role="serve", wrap=lambda store: SlowClock(store, until_it_went_on)) as other:
                refusal = await refused(other.resume(run.run_id, data("suspend/name", "late")))
        is_refusal(refusal, grpc.StatusCode.FAILED_PRECONDITION, "NOT_SUSPENDED")
        await it.cancel(run.run_id)
        assert (await it.ended(run.run_id)).state == run_pb2.RUN_STATE_CANCELLED


async def test_large_answers_do_not_hold_up_the_run(url: str) -> None:
    """Answers that together are larger than an event may be reach the run all the same, and it ends."""

    @workflow(id="collects")
    async def collects(ctx: RunContext, input: Any) -> int:
        total = 0
        for number in range(3):
            total += len(await ctx.suspend(f"piece {number}"))
        return total

    piece = "x" * 1_000_000
    async with replica(url, collects) as it:
        run = await it.start("collects")
        for number in range(3):
            await eventually(lambda number=number: waits_for(it, run.run_id, f"piece {number}"))
            await it.resume(run.run_id, data(f"suspend/piece {number}", piece))
        done = await it.ended(run.run_id)
    assert from_value(done.output) == 3_000_000


async def waits_for(it: Any, run_id: str, name: str) -> bool:
    return any(pending.name == name for pending in (await it.get(run_id)).pending)


def test_run_ids_are_derived_from_tenant_and_request_id() -> None:
    """The id of a run is a function of tenant and request id alone, so that every replica finds the same."""
    from agent_service.runs import run_id_of

    one = Principal("one", "default", frozenset({"runs:write"}))
    assert run_id_of(one, "one") == hashlib.sha256(b"default\0one").hexdigest()[:32]
    assert run_id_of(replace(one, tenant="other"), "one") != run_id_of(one, "one")
    assert run_id_of(replace(one, subject="two"), "one") == run_id_of(one, "one")
