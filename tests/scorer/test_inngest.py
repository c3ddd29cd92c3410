"""Scorers as Inngest functions, by the SDK's own mocked trigger, against the real service."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from runwire.client import ScorerClient
from runwire.scorer.v1 import scorer_port_pb2 as port_pb
from runwire.scorer.v1 import scorer_run_pb2 as S
from scorer_service import NonRetriableError, NotScorable, Pipeline, RetryAfter, Sample, Score
from scorer_service.push.events import event_of
from scorer_service.push.targets import Target
from tests.scorer.stage import Service, request, service
from tests.scorer.test_port import ID, Hand

inngest: Any = pytest.importorskip("inngest", reason="MISSING inngest: not installed")
mocked: Any = pytest.importorskip("inngest.experimental.mocked")
CLIENT = inngest.Inngest(app_id="tests", event_key="key", is_production=False)
MOCK = mocked.Inngest(app_id="tests")
scorer_function: Any = pytest.importorskip("scorer_service.inngest").scorer_function
TARGET = Target(scorer_id=ID, version="1", executor="inngest", url="https://inn.gs/e/key")
calls: Counter[str] = Counter()


async def analyze(sample: Sample) -> list[str]:
    calls["analyze"] += 1
    return sample.output_text.split()


async def score(sample: Sample, analysis: list[str], options: dict[str, Any]) -> Score:
    calls["score"] += 1
    match options.get("raises"):
        case "once" if calls["score"] == 1:
            raise RuntimeError("not yet")
        case "always":
            raise RuntimeError("never")
        case "later":
            raise RetryAfter(30, "busy")
        case "bad":
            raise NonRetriableError("no such option", reason="invalid_options")
        case "no":
            raise NotScorable("nothing to score")
    return Score(len(analysis), "words", metadata={"first": analysis[0]})


async def reason(sample: Sample, score: Score) -> str:
    calls["reason"] += 1
    return f"{score.value:g} words"


PIPELINE = Pipeline(ID, "1", analyze=analyze, score=score, reason=reason)


def test_the_event_is_what_the_sdk_sends() -> None:
    """What a dispatcher posts is the request that the SDK itself makes of the same event: path, method and body."""
    claimed = port_pb.ClaimedScorerRun(scorer_run_id="abc", claim=3, scorer_id=ID, scorer_version="1", run_id="r")
    body, headers = event_of(TARGET, claimed, "push:w", 1_700_000_000.0)
    (ours,) = json.loads(body)
    event = inngest.Event(name=ours["name"], data=ours["data"], id=ours["id"], ts=ours["ts"])
    theirs: Any = CLIENT._build_send_request([event])
    assert (theirs.method, theirs.url.path) == ("POST", "/e/key")
    assert json.loads(theirs.content) == [ours]
    assert theirs.headers["content-type"] == headers["Content-Type"]
    assert (ours["id"], ours["name"]) == ("abc:3", "scorer.run.requested")


async def triggered(it: Service, **options: Any) -> tuple[Any, S.ScorerRun, port_pb.ClaimedScorerRun]:
    """The result of the function for a claim of a scorer run with these options, and what became of that."""
    calls.clear()
    hand = Hand(it)
    await hand.register(retries=0)
    message = request(ID, f"run-{options}", options=options)
    await it.send(message)
    claimed = await hand.one(lease={"seconds": 60})
    function = scorer_function(CLIENT, PIPELINE, lambda: ScorerClient(it.address), retries=2, concurrency=10)
    (event,) = json.loads(event_of(TARGET, claimed, "w", 1.0)[0])
    found = await asyncio.to_thread(mocked.trigger, function, inngest.Event(**event), MOCK)
    if found.status is mocked.Status.FAILED:  # what the mock leaves to the platform
        error = {"name": type(found.error).__name__, "message": str(found.error)}
        context = SimpleNamespace(event=inngest.Event(name="f", data={"event": event, "error": error}))
        failed: Any = function._opts.on_failure
        await failed(context)
    return found, await it.get(claimed.scorer_run_id), claimed


async def test_steps(sqlite_url: str) -> None:
    """Each step of a pipeline is a step of Inngest's, carried out once although one fails; the score comes as from
    inside, and the results of steps are kept."""
    async with service(sqlite_url) as it:
        found, run, _ = await triggered(it, raises="once")
        assert found.status is mocked.Status.COMPLETED
        assert found.output == "reported"
        assert (run.state, run.score.value, run.score.reason) == (S.SCORER_RUN_STATE_SUCCEEDED, 5, "5 words")
        assert (run.score.label, run.score.metadata["first"]) == ("words", "A")
        assert calls == {"analyze": 1, "score": 2, "reason": 1}


@pytest.mark.parametrize(
    "raises, state, error, attempts",
    [
        ("no", S.SCORER_RUN_STATE_NOT_SCORABLE, "not_scorable", 1),
        ("bad", S.SCORER_RUN_STATE_FAILED, "invalid_options", None),
        ("always", S.SCORER_RUN_STATE_FAILED, "scorer_error", 3),
        ("later", S.SCORER_RUN_STATE_FAILED, "scorer_error", 3),
    ],
)
async def test_errors(sqlite_url: str, raises: str, state: int, error: str, attempts: int | None) -> None:
    """What a scorer raises is Inngest's own kind of error, and when Inngest gives up it is reported with its reason."""
    async with service(sqlite_url) as it:
        found, run, _ = await triggered(it, raises=raises)
        assert (run.state, run.error.reason) == (state, error)
        assert attempts in (None, calls["score"])
        kinds = {"bad": inngest.NonRetriableError, "later": inngest.RetryAfterError}
        if raises in kinds:
            assert isinstance(found.error, kinds[raises])


async def test_a_claim_that_is_lost(sqlite_url: str) -> None:
    """A function whose claim was cancelled meanwhile ends, and changes nothing."""
    async with service(sqlite_url) as it:
        _, run, claimed = await triggered(it)
        assert run.state == S.SCORER_RUN_STATE_SUCCEEDED
        claimed.claim = 7
        (event,) = json.loads(event_of(TARGET, claimed, "w", 1.0)[0])
        function = scorer_function(CLIENT, PIPELINE, lambda: ScorerClient(it.address), retries=0)
        found = await asyncio.to_thread(mocked.trigger, function, inngest.Event(**event), MOCK)
        assert found.status is mocked.Status.FAILED
        assert "is lost" in str(found.error)
        assert (await it.get(run.scorer_run_id)) == run
