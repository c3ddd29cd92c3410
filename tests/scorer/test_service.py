"""The calls of ScorerService, through real gRPC, on every database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from runwire.scorer.v1 import scorer_run_pb2, scorer_run_requested_pb2
from runwire.scorer.v1 import scorer_service_pb2 as pb
from runwire.scorer_requests import scorer_run_id
from tests.scorer.stage import Service, eventually, request, service

S = scorer_run_pb2


@pytest.fixture
async def running(results_url: str) -> AsyncIterator[Service]:
    """The service with nothing in it."""
    async with service(results_url) as started:
        yield started


async def refused(call: Any) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    """Status, reason and field violations of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    status = rpc_status.from_call(caught.value)  # type: ignore[arg-type]
    assert status is not None
    info, violations = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(violations)
    assert info.domain == "runwire.dev"
    return caught.value.code(), info.reason, {v.field: v.description for v in violations.field_violations}


async def test_a_run_is_scored(running: Service) -> None:
    """A message becomes a scorer run with its score, and leaves the queue."""
    run = await running.score(request(options={"keywords": ["cursor", "sequence"]}))
    assert run.state == S.SCORER_RUN_STATE_SUCCEEDED
    assert run.score.value == 0.5
    assert run.score.direction == S.SCORE_DIRECTION_HIGHER_IS_BETTER
    assert list(run.score.metadata["missing"]) == ["sequence"]
    assert (run.run_id, run.agent_id, run.scorer_version) == ("run-1", "librarian", "2")
    assert (run.deliveries, len(run.attempts), run.attempts[0].attempt) == (1, 1, 1)
    assert list(run.options["keywords"]) == ["cursor", "sequence"]
    async with asyncio.timeout(5):
        while await running.store.backlog("scorer-requests"):  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.01)


async def test_the_sample_is_returned_where_it_is_asked_for(running: Service) -> None:
    """GetScorerRun gives back what the message said, only on request."""
    message = request()
    await running.score(message)
    assert (await running.get(message.scorer_run_id, include_sample=True)).sample == message.sample
    assert not (await running.get(message.scorer_run_id)).HasField("sample")


async def test_a_malformed_message_can_be_looked_at(running: Service) -> None:
    """It is a scorer run that says so, also where its sample is asked for."""
    await running.send(b"\xff rubbish")
    wanted = pb.ScorerRunFilter(states=[S.SCORER_RUN_STATE_FAILED])
    async with asyncio.timeout(10):
        while not (found := await running.stub.ListScorerRuns(pb.ListScorerRunsRequest(filter=wanted))).scorer_runs:  # noqa: ASYNC110 - nobody announces it
            await asyncio.sleep(0.02)
    run = await running.get(found.scorer_runs[0].scorer_run_id, include_sample=True)
    assert run.error.reason == "malformed_request"
    redrive = await running.stub.RetryScorerRuns(pb.RetryScorerRunsRequest(filter=wanted))
    assert redrive.count == 0
    assert not (await running.stub.GetScorerStats(pb.GetScorerStatsRequest())).stats


async def test_large_answers_come_in_smaller_pages(running: Service) -> None:
    """A page, and a frame of a watch, is cut before it is larger than a client takes."""
    big = {"text": "x" * 60_000}
    messages = [request("includes", f"run-{number}", options=big) for number in range(90)]
    await running.send(*messages)
    for message in messages:
        await running.until(message.scorer_run_id)
    watched: set[str] = set()
    call = running.stub.WatchScorerRuns(pb.WatchScorerRunsRequest(all_runs=True))
    async for response in call:
        assert response.ByteSize() < 3 * 1024 * 1024
        watched |= {run.scorer_run_id for run in response.batch.scorer_runs}
        if len(watched) == len(messages):
            call.cancel()
            break
    ids, token = [], ""
    while True:
        page = await running.stub.ListScorerRuns(pb.ListScorerRunsRequest(page_size=1000, page_token=token))
        assert page.ByteSize() < 3 * 1024 * 1024
        ids += [run.scorer_run_id for run in page.scorer_runs]
        token = page.next_page_token
        if not token:
            break
    assert sorted(ids) == sorted(message.scorer_run_id for message in messages)


async def test_scorers_are_listed_in_pages(running: Service) -> None:
    """Each scorer once, in order, over any page size; a token belongs to its request."""
    whole = await running.stub.ListScorers(pb.ListScorersRequest(page_size=1000))
    names = [scorer.scorer_id for scorer in whole.scorers]
    assert names == sorted(names)
    assert {"keyword-coverage", "faithfulness", "staged"} <= set(names)
    assert not whole.next_page_token
    paged, token = [], ""
    while True:
        page = await running.stub.ListScorers(pb.ListScorersRequest(page_size=7, page_token=token))
        paged += [scorer.scorer_id for scorer in page.scorers]
        token = page.next_page_token
        if not token:
            break
    assert paged == names
    brevity = next(scorer for scorer in whole.scorers if scorer.scorer_id == "brevity")
    assert brevity.version == "2"
    judge = next(scorer for scorer in whole.scorers if scorer.scorer_id == "hallucination")
    assert (judge.judge, judge.direction, judge.prompt_version) == (True, S.SCORE_DIRECTION_LOWER_IS_BETTER, "2")


async def test_scorer_runs_are_listed_by_filter_and_page(running: Service) -> None:
    """Newest first, each once, and only those that fit."""
    for number in range(7):
        await running.send(
            request(run_id=f"run-{number}"), request("brevity", f"run-{number}", sampled=number % 2 == 0)
        )
    for number in range(7):
        await running.until(request(run_id=f"run-{number}").scorer_run_id)
        await running.until(request("brevity", f"run-{number}").scorer_run_id)

    async def ids(size: int = 1000, **wanted: Any) -> list[str]:
        found, token = [], ""
        while True:
            call = pb.ListScorerRunsRequest(filter=pb.ScorerRunFilter(**wanted), page_size=size, page_token=token)
            page = await running.stub.ListScorerRuns(call)
            assert len(page.scorer_runs) <= size
            found += [run.scorer_run_id for run in page.scorer_runs]
            token = page.next_page_token
            if not token:
                return found

    everything = await ids()
    assert len(everything) == len(set(everything)) == 14
    assert await ids(size=3) == everything
    assert set(await ids(run_id="run-3")) == {
        scorer_run_id("default", "run-3", s, "") for s in ("keyword-coverage", "brevity")
    }
    assert len(await ids(scorer_id="brevity", states=[S.SCORER_RUN_STATE_DECLINED])) == 3
    assert len(await ids(states=[S.SCORER_RUN_STATE_DECLINED, S.SCORER_RUN_STATE_SUCCEEDED])) == 14
    assert await ids(agent_id="nobody") == []
    middle = (await running.get(everything[6])).create_time
    newer, older = await ids(created_after=middle), await ids(created_before=middle)
    assert everything[6] not in newer + older
    assert set(newer) <= set(everything[:6])


async def test_a_token_belongs_to_its_request(running: Service) -> None:
    """A page token with another filter is refused."""
    for number in range(3):
        await running.score(request(run_id=f"run-{number}"))
    page = await running.stub.ListScorerRuns(pb.ListScorerRunsRequest(page_size=1))
    other = pb.ListScorerRunsRequest(filter=pb.ScorerRunFilter(run_id="run-1"), page_token=page.next_page_token)
    code, reason, fields = await refused(running.stub.ListScorerRuns(other))
    assert (code, reason, set(fields)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", {"page_token"})


async def test_a_watch_of_a_run_ends_when_all_are_terminal(running: Service) -> None:
    """All states end up terminal, then `ended`, then OK; also when the watch began before the first message."""
    call = running.stub.WatchScorerRuns(pb.WatchScorerRunsRequest(run_id="run-1"))
    messages = [request("brevity", siblings=3), request("flaky", siblings=3), request("threaded", siblings=3)]
    await running.send(*messages[:2])
    await running.until(messages[1].scorer_run_id)
    await running.send(messages[2])
    newest, frames = {}, []
    async with asyncio.timeout(10):
        async for response in call:
            frames.append(response.WhichOneof("frame"))
            newest.update({run.scorer_run_id: run.state for run in response.batch.scorer_runs})
    assert await call.code() == grpc.StatusCode.OK
    assert frames[-1] == "ended"
    assert newest == {message.scorer_run_id: S.SCORER_RUN_STATE_SUCCEEDED for message in messages}


async def test_a_watch_resumes_by_cursor(running: Service) -> None:
    """After a cut every later change is delivered, and a watch at the end has nothing but the end to say."""
    await running.score(request("brevity", "run-1"))
    cursor = ""
    call = running.stub.WatchScorerRuns(pb.WatchScorerRunsRequest(all_runs=True))
    async for response in call:
        cursor = response.cursor
        call.cancel()
        break
    await running.score(request("brevity", "run-2"))
    seen = set()
    call = running.stub.WatchScorerRuns(pb.WatchScorerRunsRequest(cursor=cursor, all_runs=True))
    async with asyncio.timeout(10):
        async for response in call:
            seen |= {run.run_id for run in response.batch.scorer_runs}
            if "run-2" in seen:
                call.cancel()
                break
    assert seen == {"run-2"}
    frames = [frame async for frame in running.stub.WatchScorerRuns(pb.WatchScorerRunsRequest(run_id="run-1"))]
    again = pb.WatchScorerRunsRequest(run_id="run-1", cursor=frames[-1].cursor)
    assert [f.WhichOneof("frame") async for f in running.stub.WatchScorerRuns(again)] == ["ended"]


async def test_a_watch_sends_heartbeats(running: Service) -> None:
    """While nothing happens the reader hears that the stream lives."""
    call = running.stub.WatchScorerRuns(
        pb.WatchScorerRunsRequest(run_id="never", heartbeat_interval=Duration(seconds=1))
    )
    async with asyncio.timeout(5):
        async for response in call:
            assert response.WhichOneof("frame") == "heartbeat"
            call.cancel()
            break


async def test_cursors_that_do_not_fit_are_refused(running: Service) -> None:
    """Malformed, of another watch, or beyond the newest change."""
    await running.score(request("brevity"))

    async def first(**fields: Any) -> Any:
        request = pb.WatchScorerRunsRequest(**fields, all_runs="run_id" not in fields)
        async for response in running.stub.WatchScorerRuns(request):
            return response

    cursor = (await first()).cursor
    code, reason, fields = await refused(first(cursor="nonsense"))
    assert (code, reason, set(fields)) == (grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_MALFORMED", {"cursor"})
    code, reason, _ = await refused(first(cursor=cursor, run_id="run-1"))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "CURSOR_MISMATCH")


def ad_hoc(scorer_id: str = "brevity", request_id: str = "", **fields: Any) -> pb.RequestScorerRunRequest:
    sample = scorer_run_requested_pb2.Sample()
    sample.output.string_value = "two words"
    return pb.RequestScorerRunRequest(scorer_id=scorer_id, request_id=request_id, sample=sample, **fields)


async def test_a_sample_is_scored_ad_hoc(running: Service) -> None:
    """With high priority, once for a request id, and with what version is wanted."""
    first = (await running.stub.RequestScorerRun(ad_hoc(request_id="one", scorer_version="1"))).scorer_run
    again = (await running.stub.RequestScorerRun(ad_hoc(request_id="one", scorer_version="1"))).scorer_run
    assert first.scorer_run_id == again.scorer_run_id
    assert first.priority == S.SCORER_RUN_PRIORITY_HIGH
    run = await running.until(first.scorer_run_id)
    assert (run.score.value, run.scorer_version) == (1 / 3, "1")
    other = (await running.stub.RequestScorerRun(ad_hoc())).scorer_run
    assert other.scorer_run_id != first.scorer_run_id
    code, reason, _ = await refused(running.stub.RequestScorerRun(ad_hoc(request_id="one", scorer_version="2")))
    assert (code, reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


async def test_an_unknown_scorer_is_not_found(running: Service) -> None:
    """Asking for it says so; a message that asks for it waits for a process that has it."""
    for call in (
        running.stub.RequestScorerRun(ad_hoc("nobody")),
        running.stub.RequestScorerRun(ad_hoc("brevity", scorer_version="9")),
        running.stub.PauseScorer(pb.PauseScorerRequest(scorer_id="nobody")),
        running.stub.ResumeScorer(pb.ResumeScorerRequest(scorer_id="nobody")),
    ):
        code, reason, _ = await refused(call)
        assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "SCORER_NOT_FOUND")
    await running.send(request("nobody"))
    await running.until(request("nobody").scorer_run_id, "PENDING")
    code, reason, _ = await refused(running.stub.GetScorerRun(pb.GetScorerRunRequest(scorer_run_id="nobody")))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "SCORER_RUN_NOT_FOUND")


async def test_failed_runs_are_redriven(running: Service) -> None:
    """By id and by filter, counted first; attempts are counted again and the history stays."""
    messages = [request("flaky", f"run-{n}", options={"failures": 6}) for n in range(3)]
    for message in messages:
        assert (await running.score(message)).state == S.SCORER_RUN_STATE_FAILED
    await running.score(request("brevity"))
    wanted = pb.ScorerRunFilter(states=[S.SCORER_RUN_STATE_FAILED])
    dry = await running.stub.RetryScorerRuns(pb.RetryScorerRunsRequest(filter=wanted, dry_run=True))
    assert (dry.count, set(dry.scorer_run_ids)) == (3, {message.scorer_run_id for message in messages})
    assert (await running.get(messages[0].scorer_run_id)).state == S.SCORER_RUN_STATE_FAILED
    one = await running.stub.RetryScorerRuns(
        pb.RetryScorerRunsRequest(scorer_run_ids=[messages[0].scorer_run_id, "unknown"])
    )
    assert list(one.scorer_run_ids) == [messages[0].scorer_run_id]
    run = await running.until(messages[0].scorer_run_id, "SUCCEEDED")
    assert (run.redrives, len(run.attempts), run.deliveries) == (1, 7, 2)
    assert [attempt.attempt for attempt in run.attempts] == list(range(1, 8))
    rest = await running.stub.RetryScorerRuns(pb.RetryScorerRunsRequest(filter=wanted))
    assert rest.count == 2
    for message in messages:
        await running.until(message.scorer_run_id, "SUCCEEDED")
    # A result is never overwritten: everything has one by now.
    everything = await running.stub.RetryScorerRuns(pb.RetryScorerRunsRequest(filter=pb.ScorerRunFilter()))
    assert everything.count == 0


async def test_rescoring_keeps_the_old_result(running: Service) -> None:
    """A newer version scores the same sample beside the older one, once however often it is asked."""
    old = await running.score(request("brevity", version="1"))
    call = pb.RetryScorerRunsRequest(scorer_run_ids=[old.scorer_run_id], scorer_version="2")
    dry = pb.RetryScorerRunsRequest(scorer_run_ids=[old.scorer_run_id], scorer_version="2", dry_run=True)
    assert (await running.stub.RetryScorerRuns(dry)).count == 1
    answer = await running.stub.RetryScorerRuns(call)
    assert answer.count == 1
    new = await running.until(answer.scorer_run_ids[0])
    assert (new.score.value, new.scorer_version, new.run_id) == (0.5, "2", "run-1")
    assert (await running.get(old.scorer_run_id)).score == old.score
    assert (await running.stub.RetryScorerRuns(call)).count == 0
    unknown = pb.RetryScorerRunsRequest(scorer_run_ids=[old.scorer_run_id], scorer_version="9")
    code, _, fields = await refused(running.stub.RetryScorerRuns(unknown))
    assert (code, set(fields)) == (grpc.StatusCode.INVALID_ARGUMENT, {"scorer_version"})


async def test_a_paused_scorer_holds_its_work(running: Service) -> None:
    """Requests are taken in and wait, others continue, and nothing is lost."""
    paused = await running.stub.PauseScorer(pb.PauseScorerRequest(scorer_id="brevity"))
    assert paused.scorer.paused
    held = request("brevity", "run-2")
    await running.send(held)
    await running.score(request("threaded", "run-1"))
    assert (await running.get(held.scorer_run_id)).state == S.SCORER_RUN_STATE_PENDING
    stats = (await running.stub.GetScorerStats(pb.GetScorerStatsRequest(scorer_id="brevity"))).stats[0]
    assert (stats.paused, stats.waiting) == (True, 1)
    assert stats.oldest_age.ToNanoseconds() > 0
    resumed = await running.stub.ResumeScorer(pb.ResumeScorerRequest(scorer_id="brevity"))
    assert not resumed.scorer.paused
    assert (await running.until(held.scorer_run_id)).state == S.SCORER_RUN_STATE_SUCCEEDED


async def test_waiting_and_running_work_is_cancelled(running: Service, tmp_path: Any) -> None:
    """A cancelled scorer run is terminal at once, and what its worker brings later is not taken."""
    await running.stub.PauseScorer(pb.PauseScorerRequest(scorer_id="brevity"))
    waiting, busy = request("brevity"), request("waiting", input=str(tmp_path / "gate"))
    await running.send(waiting, busy)
    await running.until(busy.scorer_run_id, "RUNNING")
    await running.until(waiting.scorer_run_id, "PENDING")
    dry = await running.stub.CancelScorerRuns(pb.CancelScorerRunsRequest(filter=pb.ScorerRunFilter(), dry_run=True))
    assert dry.count == 2
    answer = await running.stub.CancelScorerRuns(pb.CancelScorerRunsRequest(filter=pb.ScorerRunFilter(run_id="run-1")))
    assert answer.count == 2
    (tmp_path / "gate").touch()
    for message in (waiting, busy):
        run = await running.until(message.scorer_run_id)
        assert (run.state, run.error.reason) == (S.SCORER_RUN_STATE_CANCELLED, "cancelled")
        assert [attempt.error.reason for attempt in run.attempts] == ["cancelled"] * run.deliveries
    await running.score(request("threaded"))  # the worker continues
    assert (await running.get(busy.scorer_run_id)).state == S.SCORER_RUN_STATE_CANCELLED
    assert (await running.stub.CancelScorerRuns(pb.CancelScorerRunsRequest(filter=pb.ScorerRunFilter()))).count == 0


async def test_stats_add_up(running: Service) -> None:
    """Every state is counted once, and coverage is scored of eligible."""
    messages = [
        request("brevity", "run-1"),
        request("brevity", "run-2", output="one two three four"),
        request("brevity", "run-3", sampled=False, rate=0.5),
        request("hopeless", "run-1"),
        request("choosy", "run-1"),
    ]
    for message in messages:
        await running.score(message)
    answer = await running.stub.GetScorerStats(pb.GetScorerStatsRequest())
    by_name = {stats.scorer_id: stats for stats in answer.stats}
    assert set(by_name) == {"brevity", "hopeless", "choosy"}
    brevity = by_name["brevity"]
    counts = (brevity.eligible, brevity.sampled, brevity.scored, brevity.failed, brevity.declined, brevity.waiting)
    assert counts == (3, 2, 2, 0, 1, 0)
    assert brevity.coverage == pytest.approx(2 / 3)
    assert brevity.mean_score == 0.5
    assert 0 < brevity.latency_p50.ToNanoseconds() <= brevity.latency_p99.ToNanoseconds()
    assert not brevity.HasField("oldest_age")
    assert (by_name["choosy"].not_scorable, by_name["hopeless"].failed) == (1, 1)
    future = Timestamp(seconds=4_000_000_000)
    assert not (await running.stub.GetScorerStats(pb.GetScorerStatsRequest(created_after=future))).stats


@pytest.mark.parametrize(
    "method, wrong, field",
    [
        ("ListScorers", pb.ListScorersRequest(page_size=-1), "page_size"),
        ("ListScorers", pb.ListScorersRequest(page_token="?"), "page_token"),
        ("GetScorerRun", pb.GetScorerRunRequest(), "scorer_run_id"),
        ("GetScorerRun", pb.GetScorerRunRequest(scorer_run_id="a\0b"), "scorer_run_id"),
        ("ListScorerRuns", pb.ListScorerRunsRequest(page_size=-5), "page_size"),
        ("ListScorerRuns", pb.ListScorerRunsRequest(page_token="AAAA"), "page_token"),
        ("ListScorerRuns", pb.ListScorerRunsRequest(filter=pb.ScorerRunFilter(states=[0])), "filter.states[0]"),
        ("ListScorerRuns", pb.ListScorerRunsRequest(filter=pb.ScorerRunFilter(states=[77])), "filter.states[0]"),  # type: ignore[list-item]
        ("ListScorerRuns", pb.ListScorerRunsRequest(filter=pb.ScorerRunFilter(run_id="x" * 300)), "filter.run_id"),
        (
            "ListScorerRuns",
            pb.ListScorerRunsRequest(filter=pb.ScorerRunFilter(created_after=Timestamp(nanos=-1))),
            "filter.created_after",
        ),
        ("RequestScorerRun", pb.RequestScorerRunRequest(), "scorer_id"),
        ("RequestScorerRun", pb.RequestScorerRunRequest(scorer_id="brevity"), "sample"),
        (
            "RequestScorerRun",
            pb.RequestScorerRunRequest(
                scorer_id="brevity", sample=scorer_run_requested_pb2.Sample(context=["x" * 2_000_000])
            ),
            "sample",
        ),
        ("RequestScorerRun", ad_hoc(request_id="x" * 129), "request_id"),
        ("RetryScorerRuns", pb.RetryScorerRunsRequest(), "scorer_run_ids"),
        ("RetryScorerRuns", pb.RetryScorerRunsRequest(scorer_run_ids=["x"] * 1001), "scorer_run_ids"),
        ("CancelScorerRuns", pb.CancelScorerRunsRequest(), "scorer_run_ids"),
        (
            "CancelScorerRuns",
            pb.CancelScorerRunsRequest(scorer_run_ids=["x"], filter=pb.ScorerRunFilter(run_id="y")),
            "filter",
        ),
        ("PauseScorer", pb.PauseScorerRequest(), "scorer_id"),
        ("GetScorerStats", pb.GetScorerStatsRequest(scorer_id="\0"), "scorer_id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_wrong_field_values_are_named(sqlite_url: str, method: str, wrong: Any, field: str) -> None:
    """INVALID_ARGUMENT, with the field and what is wrong with it."""
    async with service(sqlite_url) as running:
        code, reason, fields = await refused(getattr(running.stub, method)(wrong))
    assert (code, reason, set(fields)) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST", {field})
    assert all(fields.values())


@pytest.mark.parametrize("seconds", [0, -1, 61])
async def test_a_heartbeat_has_its_bounds(sqlite_url: str, seconds: int) -> None:
    """1 to 60 seconds."""

    async def first(running: Service) -> None:
        call = pb.WatchScorerRunsRequest(all_runs=True, heartbeat_interval=Duration(seconds=seconds))
        async for _ in running.stub.WatchScorerRuns(call):
            return

    async with service(sqlite_url) as running:
        _, _, fields = await refused(first(running))
    assert set(fields) == {"heartbeat_interval"}


async def test_a_watch_is_told_of_the_drain(results_url: str) -> None:
    """A stream that this server ends is UNAVAILABLE, never OK."""
    async with service(results_url) as running:
        call = running.stub.WatchScorerRuns(
            pb.WatchScorerRunsRequest(all_runs=True, heartbeat_interval=Duration(seconds=1))
        )

        async def read() -> None:
            async for _ in call:
                running.stopping.set()

        code, reason, _ = await refused(read())
        assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "SERVER_DRAINING")


async def test_a_dry_run_of_a_rescore_counts_what_is_done(running: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scores of one run become one of the other version, also when they are in different batches; what a person
    asked for about that run is scored again apart."""
    monkeypatch.setattr("scorer_service.answers.controls._BATCH", 1)
    for version in ("", "2"):
        assert (await running.score(request("brevity", version=version))).scorer_version == "2"
    one = pb.RequestScorerRunRequest(scorer_id="brevity", scorer_version="2", sample=request("brevity").sample)
    asked = (await running.stub.RequestScorerRun(one)).scorer_run
    await running.until(asked.scorer_run_id)
    counts = []
    for dry_run in (True, False):
        again = pb.RetryScorerRunsRequest(filter=pb.ScorerRunFilter(), scorer_version="1", dry_run=dry_run)
        counts.append((await running.stub.RetryScorerRuns(again)).count)
    assert counts == [2, 2]


async def test_workers_and_queues(running: Service) -> None:
    """The process is listed with its scorers; what nobody has waits in a queue without workers, page by page."""
    (worker,) = (await running.stub.ListScorerWorkers(pb.ListScorerWorkersRequest())).workers
    assert "keyword-coverage" in [scorer.scorer_id for scorer in worker.scorers]
    assert worker.seen_time.seconds > 0
    (scorer,) = [
        scorer
        for scorer in (await running.stub.ListScorers(pb.ListScorersRequest())).scorers
        if scorer.scorer_id == "keyword-coverage"
    ]
    assert {holder.worker for holder in scorer.holders} == {worker.worker}
    await running.send(request("nobodys", "run-1"), request("nobodys", "run-2", version="9"))

    async def waits() -> bool:
        return len((await running.stub.ListScorerQueues(pb.ListScorerQueuesRequest())).queues) == 2

    await eventually(waits)
    first = await running.stub.ListScorerQueues(pb.ListScorerQueuesRequest(page_size=1))
    again = pb.ListScorerQueuesRequest(page_size=1, page_token=first.next_page_token)
    second = await running.stub.ListScorerQueues(again)
    found = [*first.queues, *second.queues]
    assert [(queue.scorer_id, queue.scorer_version) for queue in found] == [("nobodys", ""), ("nobodys", "9")]
    assert [(queue.due, queue.workers, queue.paused) for queue in found] == [(1, 0, False), (1, 0, False)]
    assert all(queue.oldest_due_age.ToNanoseconds() > 0 for queue in found)
    assert second.next_page_token == ""
