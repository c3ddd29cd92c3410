"""What a worker remembers of a log: as much as the client's fold where it is asked, and never more than its bound."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from agent_service.log.history import Excerpt, Past
from runwire.agent.v1 import run_event_pb2 as pb
from runwire.client import fold, from_value, to_value
from runwire.scorer.v1 import scorer_run_requested_pb2

MANY_BYTES = 1024 * 1024

OUTCOMES = st.sampled_from([pb.TOOL_CALL_OUTCOME_SUCCEEDED, pb.TOOL_CALL_OUTCOME_DENIED])
IDS = st.sampled_from(["a", "b"])
VALUES = st.sampled_from([None, 1, "one", [1, {"x": True}]]).map(to_value)
PAYLOADS = st.one_of(
    st.builds(lambda name: {"step_started": pb.StepStarted(name=name)}, st.text(max_size=3)),
    st.builds(lambda text: {"text_delta": pb.TextDelta(text=text)}, st.text(max_size=5)),
    st.just({"reasoning_delta": pb.ReasoningDelta(text="hm")}),
    st.builds(
        lambda i, v: {"tool_call_started": pb.ToolCallStarted(tool_call_id=i, tool_name="t", arguments=v)}, IDS, VALUES
    ),
    st.builds(
        lambda i, v, o: {"tool_call_finished": pb.ToolCallFinished(tool_call_id=i, tool_name="t", result=v, outcome=o)},
        IDS,
        VALUES,
        OUTCOMES,
    ),
    st.just({"step_finished": pb.StepFinished(name="s")}),
    st.just({"custom": pb.CustomEvent(type="x")}),
    st.just({"run_resumed": pb.RunResumed()}),
    st.just({"run_started": pb.RunStarted(run_id="r")}),
)


@st.composite
def logs(draw: st.DrawFn) -> Sequence[pb.RunEvent]:
    """Any events at all, by attempts that mostly rise."""
    drawn = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), PAYLOADS), max_size=40))
    return [
        pb.RunEvent(sequence=sequence, step=step, attempt=attempt, **payload)
        for sequence, (step, attempt, payload) in enumerate(drawn, start=1)
    ]


def excerpt_of(events: Iterable[pb.RunEvent], max_bytes: int = MANY_BYTES) -> Excerpt:
    excerpt = Excerpt(max_bytes)
    for event in events:
        excerpt.add(event)
    return excerpt


def calls_of(calls: Iterable[scorer_run_requested_pb2.SampleToolCall]) -> list[Any]:
    return [
        (call.step, call.tool_call_id, from_value(call.arguments), from_value(call.result), call.outcome)
        for call in calls
    ]


@given(logs())
def test_an_excerpt_says_what_the_fold_says(events: Sequence[pb.RunEvent]) -> None:
    """Steps, texts and tool calls of the sample are those of the view that clients have, by one supersede rule."""
    excerpt, view = excerpt_of(events), fold(events)
    steps = [view.steps[number] for number in sorted(view.steps) if number > 0]
    assert [(s.step, s.name, s.text) for s in excerpt.steps()] == [(s.step, s.name, s.text) for s in steps]
    names = {
        pb.TOOL_CALL_OUTCOME_SUCCEEDED: "succeeded",
        pb.TOOL_CALL_OUTCOME_DENIED: "denied",
        pb.TOOL_CALL_OUTCOME_UNSPECIFIED: "",
    }
    expected = [(s.step, c.tool_call_id, c.arguments, c.result, names[c.outcome]) for s in steps for c in s.tool_calls]
    assert calls_of(excerpt.tool_calls()) == expected


BEGUN_AGAIN = [
    pb.RunEvent(sequence=1, attempt=1, step=1, tool_call_finished=pb.ToolCallFinished(tool_call_id="a", outcome=1)),
    pb.RunEvent(sequence=2, attempt=2, step=1, tool_call_started=pb.ToolCallStarted(tool_call_id="a")),
]


@example(BEGUN_AGAIN)
@given(logs())
def test_the_past_says_what_the_fold_says(events: Sequence[pb.RunEvent]) -> None:
    """Which steps there are, under which names, which have ended, and which tool calls: by the same rule."""
    past, view = Past(), fold(events)
    for event in events:
        past.add(event)
    assert {n: (s.name, s.finished) for n, s in past.steps.items()} == {
        n: (s.name, s.finished) for n, s in view.steps.items()
    }
    told = {(n, call_id) for n, s in past.steps.items() for call_id in s.told}
    assert told == {(n, c.tool_call_id) for n, s in view.steps.items() for c in s.tool_calls if c.finished}


@given(logs(), st.integers(0, 600))
def test_an_excerpt_is_whole_or_nothing(events: Sequence[pb.RunEvent], max_bytes: int) -> None:
    """Under any bound the excerpt is either all that was said, or empty and says so."""
    bounded = excerpt_of(events, max_bytes)
    if bounded.whole:
        everything = excerpt_of(events)
        assert list(bounded.steps()) == list(everything.steps())
        assert list(bounded.tool_calls()) == list(everything.tool_calls())
        assert sum(step.ByteSize() for step in bounded.steps()) <= max_bytes
    else:
        assert list(bounded.steps()) == list(bounded.tool_calls()) == []


def test_a_step_said_again_makes_room() -> None:
    """A step that begins again gives back what its first try had taken, so that any number of tries is whole."""
    excerpt, sequence = Excerpt(1_000), count(1)
    for _ in range(100):
        excerpt.add(pb.RunEvent(sequence=next(sequence), attempt=1, step=1, step_started=pb.StepStarted(name="s")))
        excerpt.add(pb.RunEvent(sequence=next(sequence), attempt=1, step=1, text_delta=pb.TextDelta(text="x" * 700)))
    assert excerpt.whole
    assert [step.text for step in excerpt.steps()] == ["x" * 700]


def talk(kind: str, events: int) -> Iterator[pb.RunEvent]:
    """A run that says the same kind of thing without end."""
    for number in range(1, events + 1):
        payloads: dict[str, dict[str, Any]] = {
            "words": {"text_delta": pb.TextDelta(text="a")},
            "calls": {"tool_call_started": pb.ToolCallStarted(tool_call_id=str(number), tool_name="t")},
            "steps": {"step_started": pb.StepStarted(name=str(number))},
            "custom": {"custom": pb.CustomEvent(type="x" * 100)},
        }
        yield pb.RunEvent(sequence=number, attempt=1, step=number if kind == "steps" else 1, **payloads[kind])


def test_what_is_kept_is_bounded_whatever_is_said() -> None:
    """Words of a letter, tool calls, steps, events of one's own: none of them takes more than ten times the bound."""
    max_bytes = 64 * 1024
    for kind in ("words", "calls", "steps", "custom"):
        tracemalloc.start()
        excerpt = excerpt_of(talk(kind, 60_000), max_bytes)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 10 * max_bytes, kind
        assert excerpt.whole == (kind in ("words", "custom")), kind
