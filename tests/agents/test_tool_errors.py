"""What an exception of a tool does: it is called again by a policy; then the run fails, or the model is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic_ai import Agent, ModelResponse, ModelRetry, TextPart
from pydantic_ai.exceptions import ToolFailed
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from agent_service import NonRetriable, Retry, RunContext, durable_agent, workflow
from agent_service.log import record
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.errors import ConfigurationError
from runwire.fold import RunView
from tests.agents.stage import Stage


def fast(attempts: int, on: Any = Exception) -> Retry:
    return Retry(attempts=attempts, delay_seconds=0.0, on=on)


def says(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Calls the tool once, then says what it was told."""
    last = messages[-1]
    assert isinstance(last, ModelRequest)
    told = [
        str(part.content) for part in last.parts if not hasattr(part, "timestamp") or part.part_kind != "user-prompt"
    ]
    if any(isinstance(part, ToolReturnPart) or part.part_kind == "retry-prompt" for part in last.parts):
        return ModelResponse([TextPart("; ".join(told))])
    return ModelResponse([ToolCallPart("shake", {}, "a")])


def shaky(raises: list[Exception], calls: list[int], **given: Any) -> Any:
    """An agent whose tool raises these, one at a call, and then holds."""
    agent = Agent(FunctionModel(says), name="shaky")

    @agent.tool_plain
    def shake() -> str:
        calls.append(len(calls))
        if len(calls) <= len(raises):
            raise raises[len(calls) - 1]
        return "held"

    return durable_agent(agent, **given)


NO, LATE, ODD = ConnectionError("no"), TimeoutError("late"), KeyError("odd")


@pytest.mark.parametrize(
    "raises, tool_retry, calls",
    [
        ([NO, NO], fast(3), 3),
        ([NO, NO, NO], fast(3), 3),
        ([NO], fast(3, on=TimeoutError), 1),
        ([LATE, LATE], fast(3, on=(TimeoutError, ConnectionError)), 3),
        ([LATE, NO], [fast(5, on=TimeoutError), fast(2, on=ConnectionError)], 2),
        ([NO, LATE], [fast(5, on=TimeoutError), fast(2, on=ConnectionError)], 3),
        ([ODD], [fast(5, on=TimeoutError), fast(2, on=ConnectionError)], 1),
        ([NO, NO, NO], {"shake": fast(4)}, 4),
        ([NO, NO, NO], {"other": fast(9), "": fast(2)}, 2),
        ([NonRetriable("never")], fast(5), 1),
    ],
)
async def test_a_policy_is_by_class_and_tool(raises: list[Exception], tool_retry: Any, calls: int) -> None:
    """A tool is called as often as the first policy says whose class it is; then the run fails with what was raised,
    and the log has each try."""
    done: list[int] = []
    stage = Stage(shaky(raises, done, tool_retry=tool_retry))
    view = await stage.finish("x")
    assert len(done) == calls
    (call,) = view.tool_calls
    assert call.tries == min(calls, len(raises)) - (calls <= len(raises))
    if calls > len(raises):
        assert (view.output, call.result) == ("held", "held")
    else:
        assert view.error is not None
        assert view.error.error_class == type(raises[calls - 1]).__name__
        assert call.outcome == run_event_pb2.TOOL_CALL_OUTCOME_FAILED
        assert call.error is not None
        assert (call.error.reason, call.error.error_class) == ("tool_error", view.error.error_class)


@pytest.mark.parametrize("by_name", [False, True])
async def test_the_model_is_told(by_name: bool) -> None:
    """Where the policy says so the model gets what the last try raised, without secrets, and the run continues."""
    done: list[int] = []
    error = ConnectionError("refused by db, password=hunter2")
    end: Any = {"shake": "tell_model"} if by_name else "tell_model"
    view = await Stage(shaky([error] * 2, done, tool_retry=fast(2), on_tool_error=end)).finish("x")
    assert len(done) == 2
    assert view.state == run_pb2.RUN_STATE_SUCCEEDED
    assert "ConnectionError: refused by db" in str(view.output)
    assert "hunter2" not in str(view.output)
    assert view.tool_calls[0].outcome == run_event_pb2.TOOL_CALL_OUTCOME_FAILED


@pytest.mark.parametrize("answer, said", [(ModelRetry("again"), "again"), (ToolFailed("gone"), "gone")])
async def test_what_pydantic_ai_takes_for_an_answer(answer: Exception, said: str) -> None:
    """It is no failure: the tool is called once, and the model is told as without this service."""
    done: list[int] = []
    view = await Stage(shaky([answer], done, tool_retry=fast(5))).finish("x")
    assert len(done) == 1
    assert said in str(view.output)


async def _to_the_end(stage: Stage, die_after: int) -> RunView:
    await stage.start("x")
    await stage.attempt(die_after=die_after)
    if (view := await stage.view()).state not in record.TERMINAL:
        await stage.attempt()
        view = await stage.view()
    return view


@pytest.mark.parametrize("end", ["fail_run", "tell_model"])
async def test_each_try_counts_once_across_crashes(end: str) -> None:
    """A process that dies at any commit gives the tool no more tries than its policy: what raised is in the journal."""
    for die_after in range(1, 10):
        done: list[int] = []
        stage = Stage(shaky([NO] * 9, done, tool_retry=fast(3), on_tool_error=end))
        view = await _to_the_end(stage, die_after)
        assert len(done) in (3, 4), die_after  # one that was cut, and of which nothing is remembered, is called again
        assert view.tool_calls[0].outcome == run_event_pb2.TOOL_CALL_OUTCOME_FAILED
        if end == "tell_model":
            assert "ConnectionError: no" in str(view.output)
        else:
            assert view.error is not None
            assert (view.error.error_class, view.error.message) == ("ConnectionError", "no")
        told = [event.tool_call_retried for event in await stage.events() if event.HasField("tool_call_retried")]
        assert [each.tries for each in told] == [1, 2]


async def test_a_pause_continues_after_a_crash() -> None:
    """What is left of it is waited for, and not all of it again."""
    for die_after in range(1, 9):
        done: list[int] = []
        stage = Stage(shaky([NO], done, tool_retry=Retry(attempts=2, delay_seconds=1000, max_delay_seconds=1000)))
        await stage.start("x")
        await stage.attempt(die_after=die_after)
        stored = await stage.store.get(stage.topic)
        if stored is not None and any("failed/" in name for name in stored.fields):
            break
    assert len(done) == 1
    stage.clock.seconds += 1001
    await stage.attempt()
    assert (len(done), (await stage.view()).output) == (2, "held")


@pytest.mark.parametrize("raises", [1, 9])
async def test_a_run_that_continues_a_failed_one_tries_anew(raises: int) -> None:
    """What a failed run gave up is not given up for ever."""
    done: list[int] = []
    stage = Stage(shaky([NO] * (raises + 1), done, tool_retry=fast(2)))
    await stage.finish("x")
    fork = await stage.fork()
    await fork.attempt()
    view = await fork.view()
    assert len(done) == (3 if raises == 1 else 4)
    assert view.output == ("held" if raises == 1 else None)


async def test_a_tool_that_must_not_be_repeated_and_raised() -> None:
    """It is called once, also where the process dies right after: that it raised is known."""
    for die_after in range(1, 8):
        done: list[int] = []
        stage = Stage(shaky([NO] * 9, done, not_repeatable={"shake": "tell_model"}, tool_retry=fast(5)))
        view = await _to_the_end(stage, die_after)
        assert len(done) <= 1, die_after
        assert view.state in record.TERMINAL


@pytest.mark.parametrize(
    "given, said",
    [
        ({"tool_retry": 3}, "tool_retry is 3; it must be a Retry"),
        ({"tool_retry": {"pay": "often"}}, r"tool_retry\['pay'\] is 'often'"),
        ({"tool_retry": [Retry(), 3]}, "must be a Retry, or several"),
        ({"on_tool_error": "ignore"}, "it can be 'fail_run' or 'tell_model'"),
        ({"on_tool_error": {"pay": "ignore"}}, "it can be 'fail_run' or 'tell_model'"),
    ],
)
def test_a_policy_that_is_none(given: dict[str, Any], said: str) -> None:
    """It is refused when the agent is defined."""
    with pytest.raises(ConfigurationError, match=said):
        shaky([], [], **given)


@pytest.mark.parametrize("on", [BaseException, "ConnectionError", (), (ValueError, 3), ConnectionError("x")])
def test_classes_that_are_none(on: Any) -> None:
    """Only classes of exceptions can be waited for; none at all is allowed, and never tried again."""
    if on == ():
        assert Retry(on=on).on == ()
        return
    with pytest.raises(ValueError, match="on is"):
        Retry(on=on)


async def test_steps_of_workflows_by_class() -> None:
    """`ctx.step` heeds the classes of its policy too."""
    done: list[Exception] = []

    def raising(error: Exception) -> Callable[[], Any]:
        async def step() -> None:
            done.append(error)
            raise error

        return step

    @workflow(id="flow")
    async def flow(ctx: RunContext, input: Any) -> None:
        for name, error in (("a", NO), ("b", LATE)):
            try:
                await ctx.step(name, raising(error), retry=fast(3, on=ConnectionError))
            except OSError:
                pass

    await Stage(flow).finish(None)
    assert done == [NO, NO, NO, LATE]
