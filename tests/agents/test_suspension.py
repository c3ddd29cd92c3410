"""Tools that wait for a person or for somebody else: the run is suspended, and continues with the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

from pydantic_ai import Agent, ApprovalRequired, CallDeferred, RunContext
from pydantic_ai.messages import ModelMessage, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel
from pydantic_ai.tools import ToolDefinition
from pydantic_ai.toolsets import ExternalToolset

from agent_service.pydantic_ai.agent import durable_agent
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.client import approve, deny, supply
from runwire.values import from_struct, from_value
from tests.agents.stage import Stage

SUCCEEDED = run_event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED
DENIED = run_event_pb2.TOOL_CALL_OUTCOME_DENIED
FAILED = run_event_pb2.TOOL_CALL_OUTCOME_FAILED

FORM = ToolDefinition(
    name="fill_form",
    parameters_json_schema={"type": "object", "properties": {"name": {"type": "string"}}},
    return_schema={"type": "object"},
)


def caller(*calls: tuple[str, str, str], ran: Counter[str]) -> Agent[None, str]:
    """Calls these tools (name, arguments, id) at once, and says what they returned."""

    async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | dict[int, DeltaToolCall]]:
        ran["model"] += 1
        if len(messages) == 1:
            for index, (name, arguments, id) in enumerate(calls):
                yield {index: DeltaToolCall(name, json_args=arguments, tool_call_id=id)}
        else:
            parts = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
            yield "; ".join(f"{part.tool_name}: {part.content}" for part in parts)

    toolsets = [ExternalToolset([FORM], id="forms")]
    agent = Agent(FunctionModel(stream_function=speak), name="caller", toolsets=toolsets)

    @agent.tool_plain
    def look(place: str) -> str:
        ran["look"] += 1
        return f"saw {place}"

    @agent.tool_plain(requires_approval=True)
    def delete(path: str) -> str:
        ran["delete"] += 1
        return f"deleted {path}"

    @agent.tool
    def pay(context: RunContext[None], amount: int) -> str:
        ran["pay"] += 1
        if amount > 10 and not context.tool_call_approved:
            raise ApprovalRequired()
        return f"paid {amount}"

    @agent.tool_plain
    def ask_elsewhere(question: str) -> str:
        ran["ask_elsewhere"] += 1
        raise CallDeferred()

    return agent


async def suspended(*calls: tuple[str, str, str]) -> tuple[Stage, Counter[str], run_pb2.Run]:
    ran: Counter[str] = Counter()
    stage = Stage(durable_agent(caller(*calls, ran=ran)))
    await stage.start("do it")
    await stage.attempt()
    run = await stage.run()
    assert run.state == run_pb2.RUN_STATE_SUSPENDED
    return stage, ran, run


async def go_on(stage: Stage) -> Any:
    """The view of the run once it has ended."""
    await stage.attempt()
    view = await stage.view()
    assert view.state == run_pb2.RUN_STATE_SUCCEEDED, view
    return view


async def test_says_what_it_waits_for() -> None:
    """Each waiting call is a request with a stable id, its kind, name, arguments and schema; what need not wait is
    done before."""
    _, ran, run = await suspended(
        ("look", '{"place": "here"}', "a"), ("delete", '{"path": "/tmp"}', "b"), ("fill_form", '{"name": "Ada"}', "c")
    )

    approval, external = run.pending
    assert (approval.request_id, approval.kind) == ("tool/1/b", run_pb2.PENDING_KIND_APPROVAL)
    assert (approval.name, from_value(approval.arguments)) == ("delete", {"path": "/tmp"})
    assert "path" in from_struct(approval.schema)["properties"]  # type: ignore[operator]
    assert (external.request_id, external.kind) == ("tool/1/c", run_pb2.PENDING_KIND_EXTERNAL_TOOL)
    assert (external.name, from_value(external.arguments)) == ("fill_form", {"name": "Ada"})
    assert from_struct(external.schema) == {"type": "object"}
    assert ran == {"model": 1, "look": 1}
    assert run.usage.tool_calls == 1
    assert run.usage.requests == 1


async def test_goes_on_with_the_answers() -> None:
    """Approved tools run once, with the arguments of whoever approved; a result from elsewhere is used as it is; what
    was done before the suspension is not done again."""
    stage, ran, _ = await suspended(
        ("look", '{"place": "here"}', "a"), ("delete", '{"path": "/tmp"}', "b"), ("fill_form", "{}", "c")
    )

    await stage.resume(approve("tool/1/b", override_arguments={"path": "/tmp/x"}), supply("tool/1/c", {"age": 36}))
    view = await go_on(stage)

    assert view.output == "look: saw here; delete: deleted /tmp/x; fill_form: {'age': 36}"
    assert ran == {"model": 2, "look": 1, "delete": 1}
    calls = {call.tool_call_id: (call.outcome, call.result) for call in view.tool_calls}
    assert calls == {"a": (SUCCEEDED, "saw here"), "b": (SUCCEEDED, "deleted /tmp/x"), "c": (SUCCEEDED, {"age": 36})}
    assert [call.arguments for call in view.tool_calls if call.tool_call_id == "b"] == [{"path": "/tmp/x"}]
    kinds = [event.WhichOneof("payload") for event in await stage.events()]
    assert kinds.count("run_suspended") == kinds.count("run_resumed") == 1
    assert kinds.count("step_started") == 2


async def test_waits_for_the_rest() -> None:
    """A run of which only some requests are answered continues waiting for the others, and keeps what it was told."""
    stage, ran, _ = await suspended(("delete", '{"path": "/a"}', "a"), ("delete", '{"path": "/b"}', "b"))

    await stage.resume(approve("tool/1/a"))
    await stage.attempt()
    assert (await stage.run()).state == run_pb2.RUN_STATE_SUSPENDED
    assert ran["delete"] == 0

    await stage.resume(deny("tool/1/b", "not that one"))
    view = await go_on(stage)
    assert view.output == "delete: deleted /a; delete: not that one"
    assert ran["delete"] == 1
    assert {call.tool_call_id: call.outcome for call in view.tool_calls} == {"a": SUCCEEDED, "b": DENIED}


async def test_denies_without_words() -> None:
    """A denial without a message is told to the model all the same, and the tool does not run."""
    stage, ran, _ = await suspended(("delete", '{"path": "/a"}', "a"))
    await stage.resume(deny("tool/1/a"))
    view = await go_on(stage)
    assert "denied" in view.output
    assert ran["delete"] == 0


async def test_a_tool_may_ask_by_itself() -> None:
    """A tool that raises ApprovalRequired or CallDeferred suspends the run; its call is no result, and it runs again
    once approved."""
    stage, _, run = await suspended(("pay", '{"amount": 50}', "a"), ("ask_elsewhere", '{"question": "why"}', "b"))
    assert {request.request_id: request.kind for request in run.pending} == {
        "tool/1/a": run_pb2.PENDING_KIND_APPROVAL,
        "tool/1/b": run_pb2.PENDING_KIND_EXTERNAL_TOOL,
    }
    assert [call.finished for call in (await stage.view()).tool_calls] == [False, False]

    await stage.resume(approve("tool/1/a"), supply("tool/1/b", "because"))
    view = await go_on(stage)

    assert view.output == "pay: paid 50; ask_elsewhere: because"
    assert view.usage.tool_calls == 1


async def test_wrong_override_is_told_to_the_model() -> None:
    """Arguments of an approval that do not fit the tool do not reach it."""
    stage, ran, _ = await suspended(("delete", '{"path": "/a"}', "a"))
    await stage.resume(approve("tool/1/a", override_arguments={"path": 7}))
    await stage.attempt()
    assert ran["delete"] == 0
    [call] = (await stage.view()).steps[1].tool_calls
    assert call.outcome == FAILED


async def test_dies_after_the_answer() -> None:
    """A process that dies while it continues with answers loses neither them nor what was done, and tells each end of a
    call once."""
    calls = (("look", '{"place": "here"}', "a"), ("delete", '{"path": "/tmp"}', "b"), ("fill_form", "{}", "c"))
    die_after = 0
    while True:
        die_after += 1
        stage, ran, _ = await suspended(*calls)
        await stage.resume(approve("tool/1/b"), supply("tool/1/c", "filled"))
        if not await stage.attempt(die_after=die_after):
            break
        if not (await stage.view()).ended:
            await stage.attempt()
        view = await stage.view()
        assert view.output == "look: saw here; delete: deleted /tmp; fill_form: filled"
        assert ran["look"] == 1
        assert view.usage.tool_calls == 2
        told = Counter(
            e.tool_call_finished.tool_call_id for e in await stage.events() if e.HasField("tool_call_finished")
        )
        assert told == {"a": 1, "b": 1, "c": 1}
    assert die_after > 5
