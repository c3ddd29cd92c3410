"""Judges, against a server that speaks the OpenAI protocol: each formula on a worked example, and every bad answer."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from runwire.errors import ConfigurationError
from runwire.scorer.v1 import scorer_run_pb2 as S
from runwire.scorer.v1 import scorer_service_pb2 as pb
from scorer_service import NotScorable, Sample, ToolCall, run_scorer
from scorer_service.meter import METER, Meter
from scorer_service.registry import load
from scorer_service.scorers.model import configured_judge
from scorer_service.scorers.prompt import MAX_PROMPT_LENGTH
from scorer_service.scoring import ProviderUnavailable
from tests.scorer.openai_server import Answer, OpenAIServer, failure
from tests.scorer.stage import request, service

MODEL = "openai-chat:gpt-4o-mini"


@pytest.fixture
def openai(monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenAIServer]:
    """A server, and an environment that leads to it."""
    with OpenAIServer() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
        yield server


SAMPLE = Sample(
    input="What is a cursor, and is it secret?",
    output="A cursor is a position. It is no secret.",
    ground_truth="A cursor is a position in a log. It is no secret.",
    context=["A cursor is a position in a log.", "Bananas are yellow.", "A cursor is no secret."],
    tool_calls=[ToolCall(tool_name="search", arguments={"query": "cursor"}), ToolCall(tool_name="weather")],
)


def verdicts(*said: str) -> dict[str, Any]:
    return {"verdicts": [{"item": str(number), "verdict": verdict} for number, verdict in enumerate(said, 1)]}


def str_or_nothing(value: object) -> str:
    return value if isinstance(value, str) else ""


EXAMPLES: list[tuple[str, dict[str, Any], dict[str, Any], float]] = [
    # (2 + 0.3 * 1) / 4
    ("answer-relevancy", {}, verdicts("yes", "yes", "unsure", "no"), 0.575),
    # (1 + 0.8 + 0.5 + 0 - 1) / 4
    (
        "answer-similarity",
        {},
        {
            "units": [{"unit": "u", "match": match} for match in ("exact", "same meaning", "partial", "missing")],
            "contradictions": ["one"],
        },
        0.325,
    ),
    ("faithfulness", {}, verdicts("yes", "no", "unsure", "yes"), 0.5),
    ("hallucination", {}, verdicts("yes", "no", "unsure", "yes", "yes"), 0.4),
    ("hallucination", {}, verdicts(), 0.0),
    ("toxicity", {}, verdicts("yes", "no", "unsure", "no"), 0.25),
    ("bias", {}, verdicts("no", "yes"), 0.5),
    ("bias", {}, verdicts(), 0.0),
    # 0.4 * 1 + 0.3 * 1/2 + 0.2 * 0.5 + 0.1 * 1
    (
        "prompt-alignment",
        {},
        {
            "intent": 1,
            "requirements": [{"requirement": "a", "fulfilled": True}, {"requirement": "b", "fulfilled": False}],
            "completeness": 0.5,
            "form": 1,
        },
        0.75,
    ),
    # useful: places 1 and 3: (1/1 + 2/3) / 2
    ("context-precision", {}, verdicts("yes", "no", "yes"), 5 / 6),
    ("context-precision", {}, verdicts("no", "no", "no"), 0.0),
    # numbered 3, 1, 2: the third passage is the useful one
    (
        "context-precision",
        {},
        {"verdicts": [{"item": "3", "verdict": "yes"}, {"item": 1, "verdict": "no"}, {"item": "2", "verdict": "no"}]},
        1 / 3,
    ),
    # (1 + 0 + 1) / 3 - 0.1 * 1 - 0.15 * 1
    (
        "context-relevance",
        {},
        {
            "passages": [
                {"relevance": "high", "used": True},
                {"relevance": "none", "used": False},
                {"relevance": "high", "used": False},
            ],
            "missing": ["who issues it"],
        },
        2 / 3 - 0.25,
    ),
    # by number: the weight of the second criterion is 3
    (
        "rubric",
        {"criteria": ["cites its sources", {"text": "short", "weight": 3}]},
        {"verdicts": [{"item": 2, "verdict": "yes"}, {"item": 1, "verdict": "no"}]},
        0.75,
    ),
    # (1 + 0.85 + 0.6 + 0.1) / 4 - 0.1
    (
        "noise-sensitivity",
        {"baseline": "A cursor is a position."},
        {
            "relevance": "none",
            "accuracy": "minimal",
            "completeness": "moderate",
            "distraction": "severe",
            "issues": ["it believed the noise"],
        },
        0.5375,
    ),
    # one right call of two, one missing
    (
        "tool-call-accuracy-judge",
        {"tools": {"search": "Searches.", "cite": "Cites."}},
        {"calls": verdicts("yes", "no")["verdicts"], "missing": ["cite"]},
        1 / 3,
    ),
    # weights 3 of 4
    (
        "rubric",
        {"criteria": [{"text": "short", "weight": 3}, "cites its sources"]},
        verdicts("yes", "no"),
        0.75,
    ),
]


@pytest.mark.parametrize("scorer_id, options, said, value", EXAMPLES, ids=str_or_nothing)
async def test_a_worked_example(
    openai: OpenAIServer, scorer_id: str, options: dict[str, Any], said: dict[str, Any], value: float
) -> None:
    """From the judge's answer to the score by the documented formula; model, prompt version, tokens and cost are
    told, and what is judged goes to the model as data."""
    openai.says(said)
    score = await run_scorer(scorer_id, SAMPLE, options, judge=MODEL)
    assert score.value == pytest.approx(value)
    assert score.judgement is not None
    assert (score.judgement.model, score.judgement.prompt_version) == (MODEL, "2")
    assert (score.judgement.input_tokens, score.judgement.output_tokens) == (100, 20)
    assert score.judgement.cost_usd == pytest.approx(100 * 0.15e-6 + 20 * 0.6e-6)
    assert score.reason
    assert openai.prompt()


def test_every_judge_has_an_example() -> None:
    """No judge is left out above."""
    assert {example[0] for example in EXAMPLES} == {scorer.id for scorer in load([]) if scorer.judge}


@pytest.mark.parametrize(
    "scorer_id, sample",
    [
        ("answer-relevancy", Sample(input="?", output="")),
        ("answer-similarity", Sample(input="?", output="x")),
        ("faithfulness", Sample(input="?", output="x")),
        ("hallucination", Sample(input="?", output="x")),
        ("context-precision", Sample(input="?", output="x")),
        ("context-relevance", Sample(input="?", output="x")),
        ("toxicity", Sample(input="?", output="  ")),
    ],
)
async def test_what_cannot_be_judged_is_not_asked(openai: OpenAIServer, scorer_id: str, sample: Sample) -> None:
    """NOT_SCORABLE, and no request to the model."""
    with pytest.raises(NotScorable):
        await run_scorer(scorer_id, sample, judge=MODEL)
    assert openai.requests == []


async def test_results_of_tools_are_context(openai: OpenAIServer) -> None:
    """Without passages the answer has to rest on what the tools returned."""
    openai.says(verdicts("yes"))
    sample = Sample(input="?", output="x", tool_calls=[ToolCall(tool_name="t", result={"found": 1})])
    assert (await run_scorer("faithfulness", sample, judge=MODEL)).value == 1
    assert openai.prompt()["context"] == ['{"found": 1}']


async def test_what_is_too_long_is_cut_and_told(openai: OpenAIServer) -> None:
    """In the middle of the longest text: the model is told, and so is who reads the score; the rest is whole."""
    openai.says(verdicts("yes"))
    sample = Sample(input="?", output=f"begin {'x' * 1_000_000} end", context=["short"])
    score = await run_scorer("faithfulness", sample, judge=MODEL)
    prompt = openai.prompt()
    assert len(str(prompt)) <= MAX_PROMPT_LENGTH + 200
    assert prompt["output"].startswith("begin ")
    assert prompt["output"].endswith(" end")
    assert "characters cut" in prompt["output"]
    assert (prompt["context"], prompt["cut"]) == (["short"], {"output": 1_000_010})
    assert "`cut`" in str(openai.requests[0]["messages"])
    assert score.metadata["cut"] == {"output": 1_000_010}


async def test_what_has_too_many_parts_is_not_judged(openai: OpenAIServer) -> None:
    """NOT_SCORABLE, and no request to the model."""
    with pytest.raises(NotScorable, match="too many parts"):
        await run_scorer("faithfulness", Sample(output="x", context=["passage " * 20] * 10_000), judge=MODEL)
    assert openai.requests == []


async def test_a_run_is_judged(sqlite_url: str, openai: OpenAIServer) -> None:
    """In the service: the judgement is stored with the score."""
    openai.says(verdicts("no", "yes"))
    async with service(sqlite_url, judge_model=MODEL) as running:
        run = await running.get((await running.score(request("toxicity"))).scorer_run_id)
    assert (run.state, run.score.value) == (S.SCORER_RUN_STATE_SUCCEEDED, 0.5)
    assert run.score.direction == S.SCORE_DIRECTION_LOWER_IS_BETTER
    judgement = run.score.judgement
    assert (judgement.model, judgement.prompt_version) == (MODEL, "2")
    assert (judgement.input_tokens, judgement.output_tokens) == (100, 20)
    assert judgement.cost_usd > 0
    assert "analyze" in run.attempts[0].partial_results


async def test_a_malformed_answer_is_asked_for_again(openai: OpenAIServer) -> None:
    """Once within the attempt; both requests are paid for."""
    openai.says({"verdicts": "none"}).says(verdicts("yes"))
    score = await run_scorer("toxicity", SAMPLE, judge=MODEL)
    assert score.value == 1
    assert len(openai.requests) == 2
    assert score.judgement is not None
    assert score.judgement.input_tokens == 200


@pytest.mark.parametrize("kind", ["wrong form", "not JSON", "text", "wrong number"])
async def test_a_judge_that_does_not_answer_is_failed(sqlite_url: str, openai: OpenAIServer, kind: str) -> None:
    """An attempt that fails is repeated; in the end it is FAILED, with no score at all."""
    {
        "wrong form": lambda: openai.says({"verdicts": [{"verdict": "perhaps"}]}),
        "not JSON": lambda: openai.says("{not json"),
        "text": lambda: openai.says_text("It seems fine to me."),
        "wrong number": lambda: openai.says(verdicts("yes", "yes", "yes", "yes", "yes")),
    }[kind]()
    message = request("rubric", options={"criteria": ["short"]})
    async with service(sqlite_url, judge_model=MODEL, scorer_retries=1) as running:
        run = await running.score(message)
    assert (run.state, run.error.reason, len(run.attempts)) == (S.SCORER_RUN_STATE_FAILED, "scorer_error", 2)
    assert not run.HasField("score")


async def test_a_refusal_is_final(sqlite_url: str, openai: OpenAIServer) -> None:
    """A model that will not judge is not asked again."""
    openai.refuses()
    async with service(sqlite_url, judge_model=MODEL) as running:
        run = await running.score(request("toxicity"))
    assert (run.state, run.error.reason, len(run.attempts)) == (S.SCORER_RUN_STATE_FAILED, "judge_refused", 1)


async def test_a_rate_limit_is_waited_for(sqlite_url: str, openai: OpenAIServer) -> None:
    """The next attempt is due when the provider says, that was none, and the client does not repeat by itself."""
    openai.fails(429, "slow down", Retry_After="30")
    message = request("toxicity")
    async with service(sqlite_url, judge_model=MODEL) as running:
        await running.send(message)
        run = await running.until(message.scorer_run_id, "RETRYING")
    assert 29 < (run.due_time.ToNanoseconds() - run.create_time.ToNanoseconds()) / 1e9 < 45
    assert (run.error.reason, run.waits, len(run.attempts)) == ("rate_limited", 1, 0)
    assert len(openai.requests) == 1


async def test_a_rate_limit_passes(sqlite_url: str, openai: OpenAIServer) -> None:
    """Afterwards it is judged."""
    openai.fails(429, "slow down", Retry_After="0").fails(503, "overloaded").says(verdicts("no"))
    async with service(sqlite_url, judge_model=MODEL) as running:
        run = await running.score(request("toxicity"))
    assert (run.state, run.score.value) == (S.SCORER_RUN_STATE_SUCCEEDED, 0.0)
    assert (run.waits, len(run.attempts)) == (2, 1)


class Limit:
    """A provider that takes so many requests a second, and refuses the others with Retry-After."""

    def __init__(self, per_second: float, retry_after: str = "1") -> None:
        self.per_second = per_second
        self.retry_after = retry_after
        self.taken = self.refused = 0
        self._tokens, self._time = per_second, time.monotonic()
        self._lock = threading.Lock()

    def __call__(self) -> Answer | None:
        with self._lock:
            now = time.monotonic()
            self._tokens = min(self.per_second, self._tokens + (now - self._time) * self.per_second)
            self._time = now
            if self._tokens >= 1:
                self._tokens -= 1
                self.taken += 1
                return None
            self.refused += 1
            return failure(429, "slow down", Retry_After=self.retry_after)


@pytest.mark.parametrize("per_second", [8, pytest.param(3, marks=pytest.mark.chaos)])
async def test_a_provider_with_a_limit_is_asked_no_faster(
    results_url: str, openai: OpenAIServer, per_second: float
) -> None:
    """A fifth more requests than are needed are sent at most, by two replicas together, and all is scored, with no
    failed attempt."""
    openai.says(verdicts("no"))
    openai.refuse = limit = Limit(per_second)
    messages = [request("toxicity", f"run-{number}") for number in range(60)]
    async with service(results_url, judge_model=MODEL) as one, service(results_url, judge_model=MODEL):
        await one.send(*messages)
        for message in messages:
            run = await one.until(message.scorer_run_id, limit=60)
            assert (run.state, len(run.attempts)) == (S.SCORER_RUN_STATE_SUCCEEDED, 1)
    assert limit.taken == 60
    assert limit.refused <= 12


async def test_a_provider_that_is_down_fails_nothing(
    sqlite_url: str, openai: OpenAIServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is asked in vain (here more often than attempts are repeated), all is scored afterwards; it is
    asked seldom while it is down, and not stormed when it is back."""
    openai.says(verdicts("no"))
    monkeypatch.setattr("scorer_service.queue.pace.MAX_PAUSE_SECONDS", 0.1)
    tries = itertools.count(1)

    def refuse() -> Answer | None:
        return failure(503, "down") if next(tries) <= 8 else None

    openai.refuse = refuse
    messages = [request("toxicity", f"run-{number}") for number in range(30)]
    async with service(sqlite_url, judge_model=MODEL, scorer_retries=0) as running:
        await running.send(*messages)
        for message in messages:
            run = await running.until(message.scorer_run_id, limit=60)
            assert (run.state, len(run.attempts)) == (S.SCORER_RUN_STATE_SUCCEEDED, 1)
    assert len(openai.requests) == 8 + len(messages)


@pytest.mark.parametrize(
    "status, headers, reason",
    [
        (429, {"Retry_After": "864000"}, "rate_limited"),
        (429, {"Retry_After": "-5"}, "rate_limited"),
        (429, {"Retry_After": "Wed, 21 Oct 2065 07:28:00 GMT"}, "rate_limited"),
        (429, {"Retry_After": "soon"}, "rate_limited"),
        (500, {}, "provider_unavailable"),
        (502, {}, "provider_unavailable"),
        (503, {"Retry_After": "99999999999999999999"}, "provider_unavailable"),
        (529, {}, "provider_unavailable"),
    ],
)
async def test_what_the_provider_is_waited_for(
    sqlite_url: str, openai: OpenAIServer, status: int, headers: dict[str, str], reason: str
) -> None:
    """A limit and an outage are no attempt, and the pause is an hour at most (and what is random), whatever is asked
    for."""
    openai.fails(status, "no", **headers)
    message = request("toxicity")
    async with service(sqlite_url, judge_model=MODEL, scorer_retries=0, scorer_retry_first_seconds=60.0) as running:
        await running.send(message)
        run = await running.until(message.scorer_run_id, "RETRYING")
    assert (run.error.reason, len(run.attempts)) == (reason, 0)
    assert run.waits >= 1  # the pause is drawn from 0 on
    assert run.due_time.seconds - run.create_time.seconds <= 3700


async def test_what_cannot_be_had_is_not_waited_for_without_end(sqlite_url: str, openai: OpenAIServer) -> None:
    """Once that has lasted for as long as the service is told, the scorer run is FAILED, with the reason."""
    openai.fails(503, "down")
    async with service(sqlite_url, judge_model=MODEL, scorer_wait_seconds=0.05) as running:
        run = await running.score(request("toxicity"))
    assert (run.state, run.error.reason) == (S.SCORER_RUN_STATE_FAILED, "provider_unavailable")
    assert (len(run.attempts), run.attempts[0].judging.requests) == (1, 1)


async def test_a_provider_that_hangs_is_waited_for(sqlite_url: str, openai: OpenAIServer) -> None:
    """A request that nobody answers in time is an outage, no bad answer."""
    gate, slow = threading.Event(), iter([True])
    openai.says(verdicts("no"))

    def refuse() -> Answer | None:
        if next(slow, False):
            gate.wait(20)
        return None

    openai.refuse = refuse
    message = request("toxicity")
    async with service(sqlite_url, judge_model=MODEL, judge_timeout_seconds=0.3, scorer_retries=0) as running:
        run = await running.score(message)
        gate.set()
    assert (run.state, run.waits, len(run.attempts)) == (S.SCORER_RUN_STATE_SUCCEEDED, 1, 1)


async def test_what_was_asked_is_kept_where_nobody_answers(openai: OpenAIServer) -> None:
    """The prompt of a request that the provider refuses is kept with the attempt, with an empty answer, once."""
    openai.refuse = lambda: failure(503, "down")
    meter = Meter(with_content=True)
    token = METER.set(meter)
    try:
        with pytest.raises(ProviderUnavailable):
            await configured_judge(MODEL).ask("Judge.", "the prompt", str)
    finally:
        METER.reset(token)
    assert [(each["prompt"], each["answer"]) for each in meter.exchanges] == [("Judge.\n\nthe prompt", "")]


@pytest.mark.parametrize("keep", [False, True])
async def test_every_attempt_keeps_what_it_took(sqlite_url: str, openai: OpenAIServer, keep: bool) -> None:
    """Requests, tokens and cost, of failed attempts too; what was said only where the service is told to keep it."""
    openai.says({"verdicts": "none"}).says({"verdicts": "none"}).says(verdicts("no"))
    async with service(sqlite_url, judge_model=MODEL, scorer_keep_content=keep) as running:
        run = await running.get((await running.score(request("toxicity"))).scorer_run_id)
        (listed,) = (await running.stub.ListScorerRuns(pb.ListScorerRunsRequest())).scorer_runs
    assert run.state == S.SCORER_RUN_STATE_SUCCEEDED
    failed, scored = (attempt.judging for attempt in run.attempts)
    assert (failed.model, failed.requests, failed.input_tokens, failed.output_tokens) == (MODEL, 2, 200, 40)
    assert (scored.requests, scored.input_tokens, scored.output_tokens) == (1, 100, 20)
    assert failed.cost_usd == pytest.approx(2 * scored.cost_usd)
    assert [len(judging.exchanges) for judging in (failed, scored)] == ([2, 1] if keep else [0, 0])
    assert not any(attempt.judging.exchanges for attempt in listed.attempts)
    if keep:
        assert "A cursor is a position." in scored.exchanges[0].prompt
        assert "verdicts" in scored.exchanges[0].answer


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -5, "completion_tokens": 10**30, "total_tokens": 0},
        {"prompt_tokens": 2**63, "completion_tokens": 2**62, "total_tokens": 2**64},
    ],
)
async def test_a_usage_that_cannot_be_does_no_harm(
    sqlite_url: str, openai: OpenAIServer, usage: dict[str, int]
) -> None:
    """What a provider says of tokens is cut to what can be kept and listed."""
    openai.says(verdicts("no"))
    openai.answers[0][1]["usage"] = usage
    async with service(sqlite_url, judge_model=MODEL, scorer_retries=0) as running:
        run = await running.score(request("toxicity"))
        assert len((await running.stub.ListScorerRuns(pb.ListScorerRunsRequest())).scorer_runs) == 1
    assert run.state in (S.SCORER_RUN_STATE_SUCCEEDED, S.SCORER_RUN_STATE_FAILED)
    assert all(0 <= attempt.judging.input_tokens <= 2**53 for attempt in run.attempts)


@pytest.mark.parametrize(
    "model, given, sent",
    [("gpt-4o-mini", None, 0.0), ("gpt-5", None, None), ("unknown-1", None, None), ("unknown-1", 0.7, 0.7)],
)
async def test_a_temperature_is_sent_to_models_that_take_one(
    openai: OpenAIServer, model: str, given: float | None, sent: float | None
) -> None:
    """Or to all, where it was set: a model that reasons refuses the whole request for it."""
    openai.says(verdicts("no"))
    judge = configured_judge(f"openai-chat:{model}", temperature=given)
    await run_scorer("toxicity", SAMPLE, judge=judge)
    assert openai.requests[0].get("temperature") == sent


async def test_a_wrong_key_is_final_and_unsaid(sqlite_url: str, openai: OpenAIServer) -> None:
    """What the provider quotes of a key appears nowhere."""
    openai.fails(401, "Incorrect API key provided: sk-secret")
    async with service(sqlite_url, judge_model=MODEL) as running:
        run = await running.score(request("toxicity"))
    assert (run.state, len(run.attempts)) == (S.SCORER_RUN_STATE_FAILED, 1)
    assert "401" in run.error.message
    assert "sk-secret" not in str(run)


async def test_without_a_model_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """A judge in a notebook needs a model."""
    monkeypatch.delenv("RUNWIRE_JUDGE_MODEL", raising=False)
    with pytest.raises(ConfigurationError, match="RUNWIRE_JUDGE_MODEL"):
        await run_scorer("toxicity", SAMPLE)


def test_judges_work_in_several_event_loops(openai: OpenAIServer) -> None:
    """A notebook calls asyncio.run more than once."""
    openai.says(verdicts("no"))
    for _ in range(2):
        assert asyncio.run(run_scorer("toxicity", SAMPLE, judge=MODEL)).value == 0
