"""What scorers may be, and what they are refused for."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from pydantic import BaseModel

from runwire.errors import ConfigurationError
from runwire.scorer.v1 import scorer_run_pb2, scorer_run_requested_pb2
from runwire.scorer_requests import scorer_run_id
from scorer_service import (
    BadScore,
    NonRetriableError,
    NotScorable,
    Pipeline,
    RetryAfter,
    RetryPolicy,
    Sample,
    Score,
    run_scorer,
    scorer,
)
from scorer_service.registry import Registry, load, scorers_of
from scorer_service.results.records import Priority, State, printable
from scorer_service.samples import from_wire
from scorer_service.scoring import evaluate

SAMPLE = Sample(input="in", output="out")


class Limit(BaseModel):
    limit: int = 3


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), "1", None])
def test_a_score_is_a_finite_number(value: Any) -> None:
    """Anything else is refused where it is made."""
    with pytest.raises(BadScore):
        Score(value)


async def test_a_function_is_a_scorer() -> None:
    """Async or not, with a number or a Score, with and without options; and it can still be called."""

    @scorer(id="plain", version="1")
    async def plain(sample: Sample) -> float:
        """Says what it does.

        And how."""
        return 1

    @scorer(id="threaded", version="1")
    def threaded(sample: Sample, options: Limit) -> Score:
        assert threading.current_thread() is not threading.main_thread()
        return Score(options.limit, "label")

    @scorer(id="boolean", version="1")
    async def boolean(sample: Sample, options: dict[str, Any]) -> bool:
        return bool(options)

    assert await run_scorer(plain, SAMPLE) == Score(1.0)
    assert plain.description == "Says what it does."
    assert await plain(SAMPLE) == 1
    assert await run_scorer(threaded, SAMPLE, {"limit": 7}) == Score(7.0, "label")
    assert await run_scorer(boolean, SAMPLE) == Score(0.0)


async def test_what_is_no_score_is_refused() -> None:
    """Text, None, NaN, a number beyond all that a double holds."""
    for wrong in ("good", None, float("nan"), 10**400):

        @scorer(id="wrong", version="1")
        async def returns_it(sample: Sample, wrong: Any = wrong) -> Any:
            return wrong

        with pytest.raises(BadScore):
            await run_scorer(returns_it, SAMPLE)


async def test_not_scorable_may_be_returned() -> None:
    """As well as raised."""

    @scorer(id="shy", version="1")
    async def shy(sample: Sample) -> NotScorable:
        return NotScorable("no")

    with pytest.raises(NotScorable, match="no"):
        await run_scorer(shy, SAMPLE)


async def test_a_pipeline_hands_results_on_by_name() -> None:
    """Each step gets what it names; completed steps are told, and are not done again."""
    seen: list[str] = []

    class Parts(BaseModel):
        parts: list[str]

    async def preprocess(sample: Sample, options: Limit) -> Parts:
        seen.append("preprocess")
        return Parts(parts=[sample.output_text] * options.limit)

    def analyze(sample: Sample, preprocessed: Parts) -> int:
        seen.append("analyze")
        return len(preprocessed.parts)

    async def score(sample: Sample, analysis: int, preprocessed: Parts) -> float:
        seen.append("score")
        assert isinstance(preprocessed, Parts)
        return analysis / 10

    async def reason(sample: Sample, score: Score, analysis: int) -> str:
        seen.append("reason")
        return f"{analysis} parts: {score.value}"

    globals()["Parts"] = Parts  # where the annotations are looked up
    pipeline = Pipeline("p", "1", preprocess=preprocess, analyze=analyze, score=score, reason=reason)
    done: dict[str, Any] = {}
    whole = await evaluate(pipeline, SAMPLE, {"limit": 4}, on_step=done.__setitem__)
    assert whole == Score(0.4, reason="4 parts: 0.4")
    assert seen == ["preprocess", "analyze", "score", "reason"]
    assert done["preprocess"] == {"parts": ["out"] * 4}
    assert done["analyze"] == 4
    seen.clear()
    del done["score"]
    assert await evaluate(pipeline, SAMPLE, {"limit": 4}, done=done) == whole
    assert seen == ["score", "reason"]


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda: scorer(id="", version="1")(lambda sample: 1), "id"),
        (lambda: scorer(id="a\nb", version="1")(lambda sample: 1), "id"),
        (lambda: scorer(id="a", version="")(lambda sample: 1), "version"),
        (lambda: scorer(id="a", version="1")(lambda: 1), "no sample"),
        (lambda: scorer(id="a", version="1")(lambda sample, surprise: 1), "surprise"),
        (lambda: scorer(id="a", version="1", direction="sideways")(lambda sample: 1), "direction"),  # type: ignore[arg-type]
        (lambda: scorer(id="a", version="1", concurrency=0)(lambda sample: 1), "concurrency"),
        (lambda: scorer(id="a", version="1", timeout_seconds=0)(lambda sample: 1), "timeout_seconds"),
        (lambda: scorer(id="a", version="1", process=True)(asyncio.sleep), "process"),
        (lambda: load(["no.such.module"]), "no.such.module"),
        (lambda: scorers_of("json"), "no scorers"),
    ],
)
def test_wrong_scorers_are_refused(make: Any, words: str) -> None:
    """When they are made, with what is wrong."""
    with pytest.raises(ConfigurationError, match=words):
        make()


def _scorer(name: str, version: str) -> Any:
    return scorer(id=name, version=version)(lambda sample: 1)


def test_the_newest_version_counts_numbers() -> None:
    """10 is newer than 9, 1.10 than 1.9, and a release than its preview."""
    for versions, newest in [(("9", "10"), "10"), (("1.9", "1.10", "1.2"), "1.10"), (("2.0", "2.rc1"), "2.0")]:
        registry = Registry([_scorer("a", version) for version in versions])
        assert registry.newest("a").version == newest
        assert registry.find("a", versions[0]) is not None
        assert registry.find("a", "none") is None
        assert "none" in registry.problem("a", "none")
        assert registry.problem("a") == ""
        assert "'b'" in registry.problem("b")


def test_two_scorers_of_one_name_and_version_are_refused() -> None:
    """Which of them would it be?"""
    with pytest.raises(ConfigurationError, match="two scorers"):
        Registry([_scorer("a", "1"), _scorer("a", "1")])


def test_ones_own_scorer_replaces_a_prebuilt_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its id."""
    import sys
    import types

    module = types.ModuleType("own_scorers")
    module.own = _scorer("includes", "77")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_scorers", module)
    assert load(["own_scorers"]).newest("includes").version == "77"
    assert load([]).newest("includes").version == "2"


def test_delays_double_up_to_a_limit() -> None:
    """15 s, 30 s, ... at most 2 h; and no overflow, however often."""
    policy = RetryPolicy()
    assert [policy.ceiling(failures) for failures in (1, 2, 3)] == [15, 30, 60]
    assert policy.ceiling(20) == policy.ceiling(10_000) == 7200


def test_retry_after_takes_a_timedelta() -> None:
    """Or seconds, never negative."""
    from datetime import timedelta

    assert RetryAfter(timedelta(minutes=2)).delay_seconds == 120
    assert RetryAfter(-1).delay_seconds == 0


def test_reasons_are_machine_readable() -> None:
    """A scorer may give its own."""
    assert NonRetriableError("x").reason == "scorer_error"
    assert NonRetriableError("x", reason="mine").reason == "mine"


def test_samples_come_over_the_wire() -> None:
    """Every field of the message is a field of the sample."""
    message = scorer_run_requested_pb2.Sample(
        run_id="r",
        agent_id="a",
        agent_version="v",
        run_state="failed",
        error_reason="agent_error",
        error_message="no",
        labels={"k": "v"},
        context=["c"],
    )
    message.input.struct_value.update({"n": 3, "f": 0.5, "l": [True, None, "x"]})
    message.output.number_value = 2.0
    message.ground_truth.string_value = "truth"
    message.tool_calls.add(tool_name="t", tool_call_id="i", outcome="denied", step=2).arguments.bool_value = True
    message.steps.add(step=1, name="model", text="said")
    message.usage.requests = 4
    message.start_time.FromSeconds(1_700_000_000)
    sample = from_wire(message)
    assert sample.input == {"n": 3, "f": 0.5, "l": [True, None, "x"]}
    assert isinstance(sample.output, int)
    assert sample.model_dump(exclude={"input"}) == {
        "output": 2,
        "run_id": "r",
        "agent_id": "a",
        "agent_version": "v",
        "run_state": "failed",
        "error_reason": "agent_error",
        "error_message": "no",
        "tool_calls": [
            {"tool_name": "t", "arguments": True, "result": None, "outcome": "denied", "tool_call_id": "i", "step": 2}
        ],
        "steps": [{"step": 1, "name": "model", "text": "said"}],
        "usage": {"requests": 4, "input_tokens": 0, "output_tokens": 0, "tool_calls": 0},
        "labels": {"k": "v"},
        "start_time": sample.start_time,
        "end_time": None,
        "ground_truth": "truth",
        "context": ["c"],
        "turn": 0,
        "turns": [],
    }
    wire_names = {field.name for field in message.DESCRIPTOR.fields} - {"by_reference"}  # where to fetch it
    assert set(Sample.model_fields) == wire_names


def test_states_are_those_of_the_contract() -> None:
    """The numbers in the database are the numbers on the wire."""
    wire = scorer_run_pb2.ScorerRunState.items()
    assert {name.removeprefix("SCORER_RUN_STATE_"): number for name, number in wire if number} == {
        state.name: state.value for state in State
    }
    priorities = scorer_run_pb2.ScorerRunPriority.items()
    assert {name.removeprefix("SCORER_RUN_PRIORITY_"): number for name, number in priorities if number} == {
        priority.name: priority.value for priority in Priority
    }


def test_a_scorer_run_has_the_identity_of_the_contract() -> None:
    """The first 32 hex digits of a sha256, as the comment in the .proto says."""
    import hashlib

    expected = hashlib.sha256(b"default\0run-1\0brevity\0").hexdigest()[:32]
    assert scorer_run_id("default", "run-1", "brevity", "") == expected


def test_text_is_made_fit_for_every_database() -> None:
    """NUL goes, lone surrogates are replaced, and what is too long is cut."""
    assert printable("a\0b\ud800c") == "ab?c"
    assert len(printable("x" * 5000)) == 2000
