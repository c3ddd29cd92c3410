"""The view of a run, and the supersede rule."""

from __future__ import annotations

from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runwire.agent.v1 import run_event_pb2 as pb
from runwire.agent.v1 import run_pb2
from runwire.client import Fold, fold, to_struct, to_value


class Log:
    """Writes events with ascending sequences."""

    def __init__(self) -> None:
        self.events: list[pb.RunEvent] = []
        self._sequences = count(1)

    def add(self, *, attempt: int = 1, step: int = 0, **payload: object) -> None:
        self.events.append(
            pb.RunEvent(sequence=next(self._sequences), attempt=attempt, step=step, **payload)  # type: ignore[arg-type]
        )

    def text(self, text: str, *, attempt: int = 1, step: int = 1) -> None:
        self.add(attempt=attempt, step=step, text_delta=pb.TextDelta(text=text))

    def begin(self, step: int, *, attempt: int = 1, name: str = "model") -> None:
        self.add(attempt=attempt, step=step, step_started=pb.StepStarted(name=name))


def whole_run() -> list[pb.RunEvent]:
    """Two steps with a tool call, of which the second crashed in the middle and was executed again."""
    log = Log()
    log.add(run_started=pb.RunStarted(run_id="r", agent_id="a", input=to_value("question")))
    log.begin(1)
    log.add(step=1, reasoning_delta=pb.ReasoningDelta(text="hm"))
    log.add(
        step=1,
        tool_call_started=pb.ToolCallStarted(tool_call_id="t1", tool_name="search", arguments=to_value({"q": "x"})),
    )
    log.add(
        step=1,
        tool_call_finished=pb.ToolCallFinished(
            tool_call_id="t1",
            tool_name="search",
            result=to_value(["page"]),
            outcome=pb.TOOL_CALL_OUTCOME_SUCCEEDED,
        ),
    )
    log.add(step=1, step_finished=pb.StepFinished(name="model", usage=run_pb2.Usage(requests=1, input_tokens=5)))
    log.begin(2)
    log.text("the ans", step=2)
    log.add(step=2, custom=pb.CustomEvent(type="note", data=to_struct({"n": 1})))
    log.begin(2, attempt=2)
    log.text("the answer", step=2, attempt=2)
    log.add(
        step=2, attempt=2, step_finished=pb.StepFinished(name="model", usage=run_pb2.Usage(requests=1, input_tokens=7))
    )
    log.add(
        attempt=2,
        run_finished=pb.RunFinished(
            state=run_pb2.RUN_STATE_SUCCEEDED, output=to_value("the answer"), usage=run_pb2.Usage(requests=2)
        ),
    )
    return log.events


def test_whole() -> None:
    """Text, tool calls, usage, state and output are as the last attempt of each step left them."""
    view = fold(whole_run())
    assert (view.run_id, view.agent_id, view.input, view.attempt) == ("r", "a", "question", 2)
    assert view.text == "the answer"
    assert view.reasoning == "hm"
    assert view.custom == []
    assert [(call.tool_name, call.arguments, call.result) for call in view.tool_calls] == [
        ("search", {"q": "x"}, ["page"])
    ]
    assert view.tool_calls[0].finished
    assert view.state == run_pb2.RUN_STATE_SUCCEEDED
    assert view.output == "the answer"
    assert view.usage.requests == 2
    assert view.ended
    assert view.error is None


@given(st.integers(min_value=0, max_value=13), st.integers(min_value=0, max_value=13))
def test_incremental_and_repeated(first: int, again: int) -> None:
    """Folding in pieces, with a piece given twice, is the same as folding at once."""
    events = whole_run()
    folded = Fold()
    for event in [*events[:first], *events[min(again, first) : first], *events[first:]]:
        folded.add(event)
    assert folded.view == fold(events)


def test_usage_adds_up_before_the_end() -> None:
    """While a run is under way its usage is the sum of its finished steps."""
    view = fold(whole_run()[:-1])
    assert (view.usage.requests, view.usage.input_tokens) == (2, 12)
    assert view.state == run_pb2.RUN_STATE_RUNNING


def test_supersede_is_for_one_step_only() -> None:
    """A step that begins again discards its own events and no other step's."""
    log = Log()
    log.begin(1)
    log.text("one", step=1)
    log.begin(2)
    log.text("two", step=2)
    log.text("free", step=0)
    log.begin(2, attempt=3)
    view = fold(log.events)
    assert {number: step.text for number, step in view.steps.items()} == {1: "one", 2: "", 0: "free"}
    assert view.steps[2].attempt == 3


def test_late_events_of_a_lower_attempt_are_discarded() -> None:
    """What a superseded attempt left behind the new beginning does not count."""
    log = Log()
    log.begin(1)
    log.begin(1, attempt=2)
    log.text("old", attempt=1)
    log.text("new", attempt=2)
    assert fold(log.events).text == "new"


def test_suspended() -> None:
    """A suspended run shows what it waits for, until it is resumed."""
    log = Log()
    log.add(run_suspended=pb.RunSuspended(pending=[run_pb2.PendingRequest(request_id="q1", name="delete")]))
    assert fold(log.events).state == run_pb2.RUN_STATE_SUSPENDED
    assert [request.request_id for request in fold(log.events).pending] == ["q1"]
    log.add(attempt=2, run_resumed=pb.RunResumed())
    assert fold(log.events).state == run_pb2.RUN_STATE_RUNNING
    assert fold(log.events).pending == []


@pytest.mark.timeout(30)
def test_many_deltas() -> None:
    """A hundred thousand deltas fold in linear time: quadratic copying would run into the time limit."""
    folded = Fold()
    for sequence in range(1, 100_001):
        folded.add(pb.RunEvent(sequence=sequence, step=1, attempt=1, text_delta=pb.TextDelta(text="0123456789" * 10)))
    assert len(folded.view.text) == 10_000_000


def test_a_step_begun_again_in_the_same_attempt_starts_empty() -> None:
    """A model request that is repeated after its provider failed shows only what the last try said."""
    log = Log()
    log.begin(1)
    log.text("cut of")
    log.begin(1)
    log.text("whole")
    assert fold(log.events).text == "whole"


def test_a_tool_begun_again_replaces_its_call() -> None:
    """A tool that a crash made run again stands once in the view, in its old place."""
    log = Log()
    log.begin(1)
    for call in ("a", "b"):
        log.add(step=1, tool_call_started=pb.ToolCallStarted(tool_call_id=call, tool_name="t"))
    log.add(attempt=2, step=1, tool_call_started=pb.ToolCallStarted(tool_call_id="a", tool_name="t"))
    assert [call.tool_call_id for call in fold(log.events).tool_calls] == ["a", "b"]


def test_a_run_begun_again_starts_empty() -> None:
    """A run restarted because its agent changed shows nothing of what the old code did."""
    log = Log()
    log.add(run_started=pb.RunStarted(run_id="r", agent_id="a"))
    log.begin(1)
    log.text("old")
    log.add(attempt=2, run_started=pb.RunStarted(run_id="r", agent_id="a"))
    view = fold(log.events)
    assert (view.text, view.steps, view.run_id) == ("", {}, "r")


@given(st.lists(st.tuples(st.integers(1, 4), st.booleans(), st.integers(0, 9)), max_size=40))
def test_usage_is_the_sum_of_the_finished_steps(said: list[tuple[int, bool, int]]) -> None:
    """However steps begin, end and begin again, what has ended is counted once, each step by its last end."""
    log, last = Log(), {}
    for step, ends, tokens in said:
        last.pop(step, None)
        if ends:
            usage = run_pb2.Usage(requests=1, input_tokens=tokens, output_tokens=2 * tokens, tool_calls=3 * tokens)
            log.add(attempt=1, step=step, step_finished=pb.StepFinished(usage=usage))
            last[step] = usage
        else:
            log.begin(step)
    log.begin(5)
    log.add(attempt=1, step=5, step_finished=pb.StepFinished())
    view = fold(log.events)
    for name in ("requests", "input_tokens", "output_tokens", "tool_calls"):
        assert getattr(view.usage, name) == sum(getattr(usage, name) for usage in last.values()), name


def test_usage_beyond_what_can_be_told_is_the_most_that_can() -> None:
    """Steps whose usage adds up to more than 64 bits are folded: the sum stays at the greatest number there is."""
    log = Log()
    for step in (1, 2):
        log.add(attempt=1, step=step, step_finished=pb.StepFinished(usage=run_pb2.Usage(input_tokens=2**63 - 1)))
    assert fold(log.events).usage.input_tokens == 2**63 - 1


class Counting(dict[int, object]):
    """Counts how often it is gone through."""

    walks = 0

    def values(self):  # type: ignore[no-untyped-def]
        type(self).walks += 1
        return super().values()


def test_a_step_costs_the_same_however_many_there_were() -> None:
    """Neither steps nor tool calls are gone through again for one more of them."""
    folded = Fold()
    folded.view.steps = Counting()  # type: ignore[assignment]
    sequence = count(1)
    for step in range(1, 5_001):
        for payload in (
            {"step_started": pb.StepStarted(name="s")},
            {"tool_call_started": pb.ToolCallStarted(tool_call_id="t")},
            {"step_finished": pb.StepFinished(usage=run_pb2.Usage(requests=1))},
        ):
            folded.add(pb.RunEvent(sequence=next(sequence), attempt=1, step=step, **payload))  # type: ignore[arg-type]
    assert folded.view.usage.requests == 5_000
    assert Counting.walks == 0


@pytest.mark.timeout(30)
def test_many_tool_calls_of_one_step() -> None:
    """Thirty thousand calls of one step fold in linear time: looking for each among all would take minutes."""
    folded = Fold()
    for number in range(30_000):
        start = pb.ToolCallStarted(tool_call_id=str(number), tool_name="t")
        done = pb.ToolCallFinished(tool_call_id=str(number), outcome=pb.TOOL_CALL_OUTCOME_SUCCEEDED)
        folded.add(pb.RunEvent(sequence=2 * number + 1, attempt=1, step=1, tool_call_started=start))
        folded.add(pb.RunEvent(sequence=2 * number + 2, attempt=1, step=1, tool_call_finished=done))
    assert all(call.finished for call in folded.view.tool_calls)
