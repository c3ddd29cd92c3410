"""Scorers that are carried out elsewhere: what workers claim and report, through real gRPC, on both databases."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from runwire.client import ScorerClient
from runwire.client.worker import ScorerWork, ScorerWorker
from runwire.errors import ClaimLost
from runwire.identity.principal import SCORES_READ, SCORES_WORK
from runwire.scorer.v1 import scorer_port_pb2 as port_pb
from runwire.scorer.v1 import scorer_run_pb2 as S
from runwire.scorer.v1 import scorer_service_pb2 as pb
from runwire.scorer_errors import NonRetriableError, NotScorable, RetryAfter
from runwire.scorer_requests import scorer_run_id
from runwire.times import duration
from tests.identity.proofs import Proofs, metadata
from tests.scorer.stage import Service, eventually, request, service
from tests.scorer.test_service import refused

ID = "elsewhere"
VERSION = port_pb.ScorerVersion(scorer_id=ID, version="1")


class Hand:
    """A worker by hand: each of its calls is one RPC."""

    def __init__(self, it: Service, name: str = "w") -> None:
        self.it = it
        self.name = name

    async def register(self, version: str = "1", **fields: Any) -> port_pb.ExternalScorer:
        scorer = port_pb.ExternalScorer(scorer_id=ID, version=version, **fields)
        answer = await self.it.stub.RegisterScorer(port_pb.RegisterScorerRequest(scorer=scorer))
        return answer.scorer  # type: ignore[no-any-return]

    async def claim(self, **fields: Any) -> port_pb.ClaimScorerRunsResponse:
        given: dict[str, Any] = {"worker": self.name, "scorers": [VERSION], "max_scorer_runs": 10, **fields}
        given.setdefault("wait", duration(5.0))
        return await self.it.stub.ClaimScorerRuns(port_pb.ClaimScorerRunsRequest(**given))  # type: ignore[no-any-return]

    async def one(self, **fields: Any) -> port_pb.ClaimedScorerRun:
        (claimed,) = (await self.claim(**fields)).scorer_runs
        return claimed

    async def report(self, claimed: port_pb.ClaimedScorerRun, **fields: Any) -> port_pb.ReportScorerRunResponse:
        given = {
            "worker": self.name,
            "scorer_run_id": claimed.scorer_run_id,
            "claim": claimed.claim,
            "scorer_version": claimed.scorer_version,
            **fields,
        }
        return await self.it.stub.ReportScorerRun(port_pb.ReportScorerRunRequest(**given))  # type: ignore[no-any-return]


@pytest.fixture
async def it(results_url: str) -> AsyncIterator[Service]:
    """The service, with leases that end soon."""
    async with service(results_url, scorer_lease_seconds=2.0, scorer_retries=2) as started:
        yield started


@pytest.fixture
async def hand(it: Service) -> Hand:
    worker = Hand(it)
    await worker.register()
    return worker


async def lapse(it: Service, claimed: port_pb.ClaimedScorerRun) -> None:
    """Waits until the lease of a claim is over."""

    async def over() -> bool:
        now = Timestamp()
        now.GetCurrentTime()
        return now.ToNanoseconds() > claimed.lease_end_time.ToNanoseconds() + 50_000_000

    await eventually(over)


async def test_a_run_is_scored_elsewhere(it: Service, hand: Hand) -> None:
    """A worker gets the whole of what was asked, and its score stands as one of the service's own would: with attempt,
    direction, metadata and what a judge took; a repeated report changes nothing."""
    await hand.register("1", direction=S.SCORE_DIRECTION_LOWER_IS_BETTER)
    message = request(ID, options={"strict": True})
    message.traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await it.send(message)
    claimed = await hand.one()
    assert (claimed.scorer_run_id, claimed.claim, claimed.scorer_version) == (message.scorer_run_id, 1, "1")
    assert claimed.sample == message.sample
    assert dict(claimed.options) == {"strict": True}
    assert claimed.trace.traceparent == message.traceparent
    assert (await it.get(claimed.scorer_run_id)).state == S.SCORER_RUN_STATE_RUNNING
    score = S.Score(value=0.25, label="bad", reason="why", judgement=S.Judgement(model="m", input_tokens=7))
    score.metadata.update({"n": 1})
    for _ in range(2):
        answer = await hand.report(claimed, score=score, judging=S.Judging(model="m", requests=1, input_tokens=7))
        assert answer.state == S.SCORER_RUN_STATE_SUCCEEDED
    run = await it.get(claimed.scorer_run_id)
    assert (run.state, run.score.value, run.score.label, run.scorer_version) == (4, 0.25, "bad", "1")
    assert run.score.direction == S.SCORE_DIRECTION_LOWER_IS_BETTER
    assert run.score.metadata["n"] == 1
    assert (run.score.judgement.model, run.attempts[0].judging.input_tokens) == ("m", 7)
    assert (run.deliveries, len(run.attempts)) == (1, 1)
    stats = (await it.stub.GetScorerStats(pb.GetScorerStatsRequest(scorer_id=ID))).stats[0]
    assert (stats.scored, stats.coverage, stats.mean_score) == (1, 1.0, 0.25)


async def test_what_a_report_makes_of_an_attempt(it: Service, hand: Hand) -> None:
    """Errors, pauses, samples that cannot be scored and a worker that goes: each ends as it does inside."""
    await it.send(*(request(ID, f"run-{number}") for number in range(5)))
    runs = list[port_pb.ClaimedScorerRun]()
    while len(runs) < 5:
        runs += (await hand.claim()).scorer_runs
    soon = Duration(seconds=100)
    final = port_pb.AttemptError(message="bad options", reason="invalid_options", non_retriable=True)
    reports: list[tuple[dict[str, Any], str, str]] = [
        ({"error": port_pb.AttemptError(message="boom", error_class="E")}, "RETRYING", "scorer_error"),
        ({"error": final}, "FAILED", "invalid_options"),
        ({"error": port_pb.AttemptError(message="slow down", retry_after=soon)}, "RETRYING", "rate_limited"),
        ({"not_scorable": port_pb.AttemptNotScorable(reason="empty")}, "NOT_SCORABLE", "not_scorable"),
        ({"release": port_pb.AttemptRelease()}, "PENDING", ""),
    ]
    for claimed, (fields, state, reason) in zip(runs, reports, strict=True):
        answer = await hand.report(claimed, **fields)
        assert S.ScorerRunState.Name(answer.state) == f"SCORER_RUN_STATE_{state}"
        run = await it.get(claimed.scorer_run_id)
        assert (run.state, run.error.reason) == (answer.state, reason)
    waiting = await it.get(runs[2].scorer_run_id)
    assert waiting.waits == 1
    assert waiting.due_time.ToSeconds() - waiting.create_time.ToSeconds() >= 95
    assert not waiting.attempts


async def test_a_scorer_that_raises_is_tried_as_often_as_it_says(it: Service, hand: Hand) -> None:
    """`retries` of the registration holds, steps that were kept come with the next attempt of the same version, and a
    redrive counts again."""
    await hand.register(retries=1)
    message = request(ID)
    await it.send(message)
    steps = port_pb.ReportScorerRunRequest().steps
    steps.update({"analyze": {"words": 3}})
    error = port_pb.AttemptError(message="boom")
    await hand.report(await hand.one(), error=error, steps=steps)
    second = await hand.one()
    assert (second.failures, second.claim) == (1, 2)
    assert second.steps["analyze"]["words"] == 3
    assert (await hand.report(second, error=error)).state == S.SCORER_RUN_STATE_FAILED
    run = await it.get(message.scorer_run_id)
    assert [each.error.message for each in run.attempts] == ["boom", "boom"]
    assert run.attempts[0].partial_results["analyze"]["words"] == 3
    assert (await it.stub.RetryScorerRuns(pb.RetryScorerRunsRequest(scorer_run_ids=[run.scorer_run_id]))).count == 1
    third = await hand.one()
    assert (third.failures, third.claim, len(third.steps)) == (0, 3, 0)
    assert (await hand.report(third, score=S.Score(value=1))).state == S.SCORER_RUN_STATE_SUCCEEDED


async def test_a_late_report_is_refused_and_counted(it: Service, hand: Hand) -> None:
    """Who was silent for longer than its lease loses the scorer run to the next claim; what it says later is refused
    with a reason, counted, and changes nothing."""
    message = request(ID)
    await it.send(message)
    first = await hand.one(lease=duration(1.0))
    await lapse(it, first)
    other = Hand(it, "other")
    second = await other.one()
    assert second.claim == 2
    for fields in ({"score": S.Score(value=9)}, {"extension": port_pb.AttemptExtension()}):
        code, reason, _ = await refused(hand.report(first, **fields))
        assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CLAIM_LOST")
    code, reason, _ = await refused(hand.report(second, score=S.Score(value=9)))  # the claim of another
    assert reason == "CLAIM_LOST"
    assert (await other.report(second, score=S.Score(value=1))).state == S.SCORER_RUN_STATE_SUCCEEDED
    run = await it.get(message.scorer_run_id)
    assert (run.score.value, run.deliveries) == (1, 2)
    assert [each.error.reason for each in run.attempts] == ["worker_lost", ""]


async def test_leases_are_extended_up_to_the_time_an_attempt_may_take(it: Service, hand: Hand) -> None:
    """An extension keeps others away, and keeps steps; beyond the registered time the attempt ends, `timeout`."""
    await hand.register(timeout=duration(2.0), retries=0)
    message = request(ID)
    await it.send(message)
    claimed = await hand.one(lease=duration(1.0))
    steps = port_pb.ReportScorerRunRequest().steps
    steps.update({"analyze": 1})

    async def ended() -> bool:
        try:
            await hand.report(claimed, extension=port_pb.AttemptExtension(lease=Duration(seconds=1)), steps=steps)
        except grpc.aio.AioRpcError:
            return True
        assert not (await Hand(it, "other").claim(wait=None)).scorer_runs
        return False

    await eventually(ended)
    run = await it.get(message.scorer_run_id)
    assert (run.state, run.error.reason, run.deliveries) == (S.SCORER_RUN_STATE_FAILED, "timeout", 1)
    assert run.attempts[0].partial_results["analyze"] == 1


async def test_pauses_deadlines_and_cancellations_hold(it: Service, hand: Hand) -> None:
    """A paused scorer gives nothing out, a resumed one wakes who waits; a cancelled scorer run refuses its report."""
    await it.stub.PauseScorer(pb.PauseScorerRequest(scorer_id=ID))
    late = request(ID, "late")
    late.deadline.seconds = 1
    await it.send(request(ID, "run-1"), late)
    await it.until(late.scorer_run_id, "PENDING", "FAILED")
    assert not (await hand.claim(wait=duration(0.5))).scorer_runs
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(hand.claim())
        await it.stub.ResumeScorer(pb.ResumeScorerRequest(scorer_id=ID))
    claimed = list(waiting.result().scorer_runs) or [await hand.one()]
    assert [each.run_id for each in claimed] == ["run-1"]
    assert (await it.until(late.scorer_run_id)).error.reason == "deadline_exceeded"
    await it.stub.CancelScorerRuns(pb.CancelScorerRunsRequest(scorer_run_ids=[claimed[0].scorer_run_id]))
    assert (await refused(hand.report(claimed[0], score=S.Score(value=1))))[1] == "CLAIM_LOST"
    assert (await it.get(claimed[0].scorer_run_id)).state == S.SCORER_RUN_STATE_CANCELLED


async def test_what_killed_its_workers_is_given_by_itself(it: Service, hand: Hand) -> None:
    """After two deaths a scorer run goes only to a worker with nothing else in hand, alone; innocents continue
    meanwhile, and after as many deaths as inside it is FAILED, `worker_lost`."""
    message = request(ID, "killer")
    await it.send(message)
    claimed = await hand.one(lease=duration(1.0))
    await lapse(it, claimed)
    claimed = await hand.one(lease=duration(1.0))
    await lapse(it, claimed)
    innocent = request(ID, "innocent")
    await it.send(innocent)
    taken = list[port_pb.ClaimedScorerRun]()
    told = False
    for _ in range(10):
        answer = await hand.claim(in_hand=1, wait=duration(0.3))
        taken += answer.scorer_runs
        told = told or answer.alone_waiting
        if taken and told:
            break
    assert ([each.run_id for each in taken], told) == (["innocent"], True)
    await hand.report(taken[0], score=S.Score(value=1))
    alone = await hand.one()
    assert (alone.run_id, alone.alone) == ("killer", True)
    assert (await hand.report(alone, score=S.Score(value=1))).state == S.SCORER_RUN_STATE_SUCCEEDED


async def test_versions(it: Service, hand: Hand) -> None:
    """What asks for a version goes to whoever has it, a rescore with a registered version makes a scorer run of its
    own, and it is found by name in the list of scorers."""
    await hand.register("2", description="better")
    await it.send(request(ID, version="2"), request(ID))
    assert [each.scorer_version for each in (await hand.claim()).scorer_runs] == ["1"]
    newer = port_pb.ScorerVersion(scorer_id=ID, version="2")
    second = await hand.one(scorers=[newer])
    assert second.scorer_version == "2"
    assert (await refused(hand.report(second, score=S.Score(value=1), scorer_version="1")))[1] == "INVALID_REQUEST"
    await hand.report(second, score=S.Score(value=1))
    listed = {each.scorer_id: each for each in (await it.stub.ListScorers(pb.ListScorersRequest())).scorers}
    assert (listed[ID].external, listed[ID].version, listed[ID].description) == (True, "2", "better")
    assert {each.version for each in listed[ID].holders} == {"1", "2"}
    code, reason, _ = await refused(hand.claim(scorers=[port_pb.ScorerVersion(scorer_id=ID, version="3")]))
    assert (code, reason) == (grpc.StatusCode.NOT_FOUND, "SCORER_NOT_FOUND")
    inner = port_pb.ExternalScorer(scorer_id="brevity", version="9")
    register = it.stub.RegisterScorer(port_pb.RegisterScorerRequest(scorer=inner))
    assert (await refused(register))[2].keys() == {"scorer.scorer_id"}


async def test_a_scorer_that_was_paused_can_be_registered_again(it: Service, hand: Hand) -> None:
    """Who pauses an external scorer does not make it one of the service: its worker may say again what it is."""
    await it.stub.PauseScorer(pb.PauseScorerRequest(scorer_id=ID))
    assert (await hand.register()).scorer_id == ID
    assert (await it.stub.ResumeScorer(pb.ResumeScorerRequest(scorer_id=ID))).scorer.external
    assert (await hand.register()).scorer_id == ID


async def test_bad_reports_leave_an_attempt_as_it_was(it: Service, hand: Hand) -> None:
    """A score that is not finite, no report at all and an unknown version are refused, and the attempt continues."""
    await it.send(request(ID))
    claimed = await hand.one()
    for fields, field in (
        ({"score": S.Score(value=math.nan)}, "score.value"),
        ({"score": S.Score(value=math.inf)}, "score.value"),
        ({}, "score"),
        ({"score": S.Score(value=1), "scorer_version": "7"}, "scorer_version"),
        ({"score": S.Score(value=1), "worker": "a/b"}, "worker"),
    ):
        assert (await refused(hand.report(claimed, **fields)))[2].keys() == {field}
    huge = S.Score(value=1, label="x" * 100_000, reason="y" * 100_000)
    huge.metadata.update({str(number): "z" * 1000 for number in range(500)})
    assert (await hand.report(claimed, score=huge)).state == S.SCORER_RUN_STATE_SUCCEEDED
    kept = (await it.get(claimed.scorer_run_id)).score
    assert (len(kept.label), len(kept.reason)) == (255, 16_384)
    assert "..." in kept.metadata


async def test_large_samples_come_by_reference(it: Service, hand: Hand) -> None:
    """What is larger than a worker takes comes without its texts, and does not keep what is small from coming."""
    await it.send(request(ID, "large", output="x" * 200_000))
    claimed = await hand.one(max_sample_bytes=100_000)
    assert claimed.sample.by_reference
    assert claimed.ByteSize() < 10_000
    assert claimed.sample.run_id == "large"
    await it.send(*(request(ID, f"large-{number}", output="x" * 60_000) for number in range(3)))
    assert len((await hand.claim(max_sample_bytes=100_000)).scorer_runs) == 1


async def test_the_worker_of_the_package(sqlite_url: str) -> None:
    """ScorerWorker maps what its functions return and raise, keeps steps, extends leases beyond their length, and
    drains; the same rows end in the same states as those of scorers inside."""
    async with service(sqlite_url) as it, ScorerClient(it.address) as client:
        worker = ScorerWorker(client, concurrency=4, lease_seconds=1.0)
        tried = 0

        @worker.scorer("fine", version="1")
        async def fine(work: ScorerWork) -> float:
            return float(len(str(work.output).split()))

        @worker.scorer("sync", version="1", lower_is_better=True)
        def sync(work: ScorerWork) -> S.Score:
            return S.Score(value=0.5, label=str(work.options["style"]))

        @worker.scorer("patient", version="1")
        async def slow(work: ScorerWork) -> float:
            await asyncio.sleep(1.6)  # longer than its lease, which is extended
            return 1

        @worker.scorer("stepwise", version="1")
        async def stepwise(work: ScorerWork) -> float:
            nonlocal tried
            tried += 1
            if "analyze" in work.steps:
                return float(work.steps["analyze"])
            await work.keep("analyze", 0.75)
            raise RuntimeError("later")

        @worker.scorer("raises", version="1")
        async def raises(work: ScorerWork) -> Any:
            kinds = {
                "no": NotScorable("empty"),
                "never": NonRetriableError("bad", reason="invalid_options"),
                "later": RetryAfter(500),
                "nan": None,
            }
            if error := kinds[str(work.input)]:
                raise error
            return math.nan

        messages = [
            request("fine"),
            request("sync", options={"style": "terse"}),
            request("patient"),
            request("stepwise"),
            *(request("raises", f"run-{kind}", input=kind) for kind in ("no", "never", "later", "nan")),
        ]
        async with asyncio.TaskGroup() as group:
            group.create_task(worker.run())
            await it.send(*messages)
            ended = [await it.until(each.scorer_run_id) for each in messages if each.sample.run_id != "run-later"]
            later = await it.until(messages[6].scorer_run_id, "RETRYING")
            worker.stop()
    states = [S.ScorerRunState.Name(each.state).removeprefix("SCORER_RUN_STATE_") for each in ended]
    assert states == ["SUCCEEDED"] * 4 + ["NOT_SCORABLE", "FAILED", "FAILED"]
    assert [each.score.value for each in ended[:4]] == [5, 0.5, 1, 0.75]
    assert (ended[1].score.label, ended[1].score.direction) == ("terse", S.SCORE_DIRECTION_LOWER_IS_BETTER)
    assert (ended[2].deliveries, tried) == (1, 2)
    assert [each.error.reason for each in ended[4:]] == ["not_scorable", "invalid_options", "bad_score"]
    assert (later.error.reason, later.waits) == ("rate_limited", 1)


async def test_a_worker_that_ends_hands_back(sqlite_url: str) -> None:
    """What does not end within the grace is handed back at once, and is no failed attempt."""
    entered = asyncio.Event()
    async with service(sqlite_url) as it, ScorerClient(it.address) as client:
        worker = ScorerWorker(client, lease_seconds=60.0, grace_seconds=0.1)

        @worker.scorer(ID, version="1")
        async def hangs(work: ScorerWork) -> float:
            entered.set()
            await asyncio.Event().wait()
            return 1

        message = request(ID)
        await it.send(message)
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(worker.run())
            await entered.wait()
            worker.stop()
        run = await it.get(message.scorer_run_id)
        assert (run.state, run.attempts[0].error.reason) == (S.SCORER_RUN_STATE_PENDING, "interrupted")
        claimed = await Hand(it).one()
        with pytest.raises(ClaimLost):
            await client.report_scorer_run(
                port_pb.ReportScorerRunRequest(
                    worker=worker.name, scorer_run_id=claimed.scorer_run_id, claim=1, score=S.Score(value=1)
                )
            )


async def test_tenants_and_callers_are_apart(sqlite_url: str, tmp_path: Path) -> None:
    """Two tenants have a scorer of the same id: each claims its own scorer runs, sees its own worker and description
    alone, and can neither report nor guess a claim of the other; nor can another principal of the same tenant."""
    proofs = Proofs(tmp_path)
    async with service(sqlite_url, **proofs.settings) as it:
        hands = {}
        for tenant in ("acme", "other"):
            message = request(ID, f"run-{tenant}")
            message.tenant = tenant
            message.scorer_run_id = scorer_run_id(tenant, message.sample.run_id, ID, "")
            await it.send(message)
            token = proofs.token(f"worker-{tenant}", tenant, SCORES_WORK, SCORES_READ)
            hands[tenant] = Hand(replace(it, stub=Proven(it.stub, token)))
            await hands[tenant].register(description=f"of {tenant}")
        claimed = {tenant: await hand.one() for tenant, hand in hands.items()}
        assert {tenant: one.run_id for tenant, one in claimed.items()} == {t: f"run-{t}" for t in claimed}
        colleague = proofs.token("colleague", "acme", SCORES_WORK)
        thieves = [(hands["other"], "SCORER_RUN_NOT_FOUND")]
        thieves += [(Hand(replace(it, stub=Proven(it.stub, colleague))), "CLAIM_LOST")]
        for thief, reason in thieves:
            assert (await refused(thief.report(claimed["acme"], score=S.Score(value=9))))[1] == reason
        own = Hand(replace(it, stub=Proven(it.stub, proofs.token("own", "acme", SCORES_WORK, own=True))))
        assert (await refused(own.claim()))[1] == "OWN_ONLY"
        for tenant, hand in hands.items():
            await hand.report(claimed[tenant], score=S.Score(value=1))
            listed = (await hand.it.stub.ListScorers(pb.ListScorersRequest())).scorers
            (mine,) = [each for each in listed if each.scorer_id == ID]
            assert mine.description == f"of {tenant}"
            assert {each.worker for each in mine.holders} == {f"port:{tenant}/worker-{tenant}/w"}


class Proven:
    """A stub whose calls carry a token."""

    def __init__(self, stub: Any, token: str) -> None:
        self._stub = stub
        self._metadata = metadata(token)

    def __getattr__(self, name: str) -> Any:
        return partial(getattr(self._stub, name), metadata=self._metadata)
