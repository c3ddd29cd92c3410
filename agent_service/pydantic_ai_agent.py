"""pydantic-ai agents as durable agents of this service, by way of pydantic-ai's own durable-execution surface.

The agent is left as it is: each attempt runs it with one more capability, which routes every model request and every
tool call through the journal (see `Steps`).
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Final, Union, get_type_hints

from pydantic import StringConstraints, TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic_ai import Agent, NativeOutput, PromptedOutput, TextOutput, ToolOutput
from pydantic_ai.durable_exec import (
    JSON_CODEC,
    BaseDurabilityCapability,
    DurabilityEngineSpec,
    DurableOperationId,
    EventStreamHandlerId,
    JournalCallableOperationBackend,
    ModelRequestId,
    RoleBasedOperationConfig,
    ToolsetCallToolId,
    conversation_id_from_run_id,
    replay_scope,
)
from pydantic_ai.exceptions import ApprovalRequired, ModelAPIError, ToolFailed, UsageLimitExceeded, UserError
from pydantic_ai.messages import ToolCallPart
from pydantic_ai.tools import (
    DeferredToolRequests,
    DeferredToolResults,
    ToolApproved,
    ToolDefinition,
    ToolDenied,
)
from pydantic_ai.tools import RunContext as AgentRunContext
from pydantic_ai.toolsets import AbstractToolset, ExternalToolset, FunctionToolset, WrapperToolset
from pydantic_ai.usage import UsageLimits

from agent_service.context import BudgetExceeded, ModelFailed, Retry, RunContext, Suspended
from agent_service.current import within_run
from agent_service.definition import Definition, ScorerRef
from agent_service.pydantic_ai_steps import AfterCrash, Body, Steps, arguments
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.client.values import from_struct, from_value, to_struct, to_value
from runwire.errors import ConfigurationError

MODEL_RETRY: Final = Retry(attempts=3, delay_seconds=1.0, max_delay_seconds=30.0)

Prompt = Annotated[str, StringConstraints(min_length=1)]


def durable_agent(
    agent: Agent[Any, Any],
    *,
    scorers: Sequence[ScorerRef] = (),
    version: str = "",
    on_version_change: str = "fail",
    limits: UsageLimits | None = None,
    description: str = "",
    concurrency: int | None = None,
    deps: Callable[[RunContext], Any] | None = None,
    not_repeatable: Mapping[str, AfterCrash] | None = None,
    retry: Retry = MODEL_RETRY,
    stall_seconds: float = 120.0,
) -> Definition:
    """Makes a pydantic-ai agent one that can be served: its `name` is the agent id, its input is a prompt, and its
    output is the agent's. The agent itself is not changed, and can go on being used without this service.

    After a crash no model response and no tool result that was complete is asked for again. A tool that was cut runs
    again with the same `current_idempotency_key()`, unless it is named in `not_repeatable` (or has the metadata
    `{"repeatable": False}`): then the model is told that nobody knows what became of it (`tell_model`), or the run is
    suspended until somebody says (`suspend`: to approve runs it again, to deny tells the model). Tools that need
    approval or are executed elsewhere suspend the run until ResumeRun.

    `limits` holds for the whole run, over all of its attempts (without it: pydantic-ai's 50 requests). `deps` makes the
    agent's dependencies, in each attempt. `retry` and `stall_seconds` (the longest time without a word from the
    provider) guard each request to the model.

    Raises ConfigurationError for an agent without a name or a model, for toolsets without an id, and for kinds of
    toolsets that cannot be made durable.
    """
    if not agent.name:
        raise ConfigurationError("durable_agent: the agent needs a name: Agent(..., name='assistant')")
    _check(agent)
    policies = dict(not_repeatable or {})
    for tool, policy in policies.items():
        if policy not in ("tell_model", "suspend"):
            raise ConfigurationError(f"durable_agent: not_repeatable[{tool!r}] is 'tell_model' or 'suspend'")

    async def body(run: RunContext, prompt: str) -> Any:
        steps = Steps(run, retry, stall_seconds)
        capability = _Durability(steps, run.run_id, policies)
        try:
            with within_run(run), replay_scope():
                result = await agent.run(
                    prompt,
                    deps=deps(run) if deps is not None else None,
                    usage_limits=limits,
                    capabilities=[capability],
                )
        except UsageLimitExceeded as error:
            raise BudgetExceeded(str(error)) from None
        except ModelAPIError as error:
            raise ModelFailed(str(error)) from error
        await steps.finish()
        return result.output

    return Definition(
        agent_id=agent.name,
        body=body,
        kind=run_pb2.AGENT_KIND_AGENT,
        input_type=Prompt,
        output_type=_output_type(agent),
        description=description or str(agent.description or ""),
        version=version,
        on_version_change=on_version_change,
        scorers=tuple(scorers),
        concurrency=concurrency,
    )


class _Backend(JournalCallableOperationBackend[None]):
    """Does each operation of pydantic-ai as a part of its step."""

    def __init__(self, agent_name: str, steps: Steps | None) -> None:
        config = RoleBasedOperationConfig[None](model=None, event=None, capability=None, tool=None)
        super().__init__(agent_name=agent_name, config=config)
        self._steps = steps

    async def execute(
        self,
        *,
        operation_id: DurableOperationId,
        name: str,
        body: Body,
        cache_key: tuple[object, ...],
        config: None,
    ) -> object:
        assert self._steps is not None, "executed outside of a run"
        match operation_id:
            case EventStreamHandlerId():
                return await body()
            case ModelRequestId():
                return await self._steps.request(body)
            case ToolsetCallToolId():
                return await self._steps.tool(body)
            case _:
                return await self._steps.unit(name, body)


class _Durability(BaseDurabilityCapability[Any]):
    """The capability that an attempt adds to the agent."""

    engine_spec: ClassVar[DurabilityEngineSpec] = DurabilityEngineSpec(
        engine_name="Runwire",
        durable_unit_noun="journal entry",
        durable_unit_plural="journal entries",
        durable_container_noun="run",
        codec=JSON_CODEC,
        # Tools are listed anew in each attempt: what was called is in the responses that are remembered.
        journal_discovery=False,
        cancellation_error_types=(Suspended,),
    )

    def __init__(self, steps: Steps | None, run_id: str = "", not_repeatable: Mapping[str, AfterCrash] = {}) -> None:
        super().__init__(event_stream_handler=steps.hear if steps is not None else None)
        self._steps = steps
        self._run_id = run_id
        self._not_repeatable = not_repeatable

    @property
    def in_durable_context(self) -> bool:
        return True

    def get_durable_operation_backend(self) -> _Backend:
        return _Backend(self.name, self._steps)

    def get_default_run_id(self) -> str | None:
        return self._run_id or None

    def get_default_conversation_id(self, run_id: str) -> str | None:
        return conversation_id_from_run_id(run_id)

    async def wrap_tool_execute(
        self,
        ctx: AgentRunContext[Any],
        *,
        call: ToolCallPart,
        tool_def: ToolDefinition,
        args: dict[str, Any],
        handler: Callable[[dict[str, Any]], Awaitable[Any]],
    ) -> Any:
        assert self._steps is not None
        after_crash = self._after_crash(tool_def)
        if after_crash is not None and self._steps.died_inside(call):
            if after_crash == "tell_model":
                return await self._steps.give_up(call)
            answer = self._steps.answer(call)
            if answer is None or not answer.HasField("approve"):
                # Collected with whatever else waits, once the other tools of the step are done.
                raise ApprovalRequired()
        with self._steps.calling(call, after_crash):
            return await handler(args)

    async def handle_deferred_tool_calls(
        self, ctx: AgentRunContext[Any], *, requests: DeferredToolRequests
    ) -> DeferredToolResults | None:
        """Answers what was answered by ResumeRun, and suspends the run for the rest."""
        assert self._steps is not None
        results, pending = DeferredToolResults(), []
        for call in requests.approvals:
            answer = self._steps.answer(call)
            if answer is None:
                pending.append(self._pending(ctx, call, run_pb2.PENDING_KIND_APPROVAL))
            else:
                results.approvals[call.tool_call_id] = _approval(answer)
        for call in requests.calls:
            answer = self._steps.answer(call)
            if answer is None:
                pending.append(self._pending(ctx, call, run_pb2.PENDING_KIND_EXTERNAL_TOOL))
            else:
                results.calls[call.tool_call_id] = _external(answer)
        if pending:
            raise Suspended(pending)
        return results

    def _pending(
        self, ctx: AgentRunContext[Any], call: ToolCallPart, kind: run_pb2.PendingKind
    ) -> run_pb2.PendingRequest:
        assert self._steps is not None
        pending = run_pb2.PendingRequest(
            request_id=self._steps.request_id(call),
            kind=kind,
            name=call.tool_name,
            arguments=to_value(arguments(call)),
        )
        definition = ctx.tool_manager.get_tool_def(call.tool_name) if ctx.tool_manager is not None else None
        if definition is not None:
            external = kind == run_pb2.PENDING_KIND_EXTERNAL_TOOL
            schema = definition.return_schema if external else definition.parameters_json_schema
            if schema:
                pending.schema.CopyFrom(to_struct(schema))
        return pending

    def _after_crash(self, tool: ToolDefinition) -> AfterCrash | None:
        if tool.name in self._not_repeatable:
            return self._not_repeatable[tool.name]
        return "tell_model" if (tool.metadata or {}).get("repeatable") is False else None


def _approval(answer: run_event_pb2.Answer) -> ToolApproved | ToolDenied:
    if answer.HasField("approve"):
        given = answer.approve.HasField("override_arguments")
        return ToolApproved(override_args=from_struct(answer.approve.override_arguments) if given else None)
    return ToolDenied(answer.deny.message) if answer.deny.message else ToolDenied()


def _external(answer: run_event_pb2.Answer) -> Any:
    if answer.HasField("data"):
        return from_value(answer.data)
    return ToolFailed(answer.deny.message or "Nobody executed the tool call.")


def _check(agent: Agent[Any, Any]) -> None:
    """Raises ConfigurationError for an agent that cannot be made durable."""
    capabilities: list[Any] = []
    agent.root_capability.apply(capabilities.append)
    for capability in capabilities:
        if isinstance(capability, BaseDurabilityCapability):
            raise ConfigurationError(
                f"durable_agent({agent.name!r}): {type(capability).__name__} makes it durable already; leave that out"
            )
    for toolset in agent.toolsets:
        toolset.apply(lambda leaf: _check_toolset(agent, leaf))
    try:
        _Durability(None).for_agent(agent)
    except UserError as error:
        raise ConfigurationError(f"durable_agent({agent.name!r}): {error}") from None


def _check_toolset(agent: Agent[Any, Any], leaf: AbstractToolset[Any]) -> None:
    if isinstance(leaf, FunctionToolset | ExternalToolset | WrapperToolset) or type(leaf).__module__.startswith(
        "pydantic_ai."
    ):
        return
    raise ConfigurationError(
        f"durable_agent({agent.name!r}): calls of {type(leaf).__name__} would not be remembered; wrap it: "
        f"DynamicToolset(lambda ctx: {type(leaf).__name__}(...), id='...')"
    )


def _output_type(agent: Agent[Any, Any]) -> Any:
    """What the agent returns, where pydantic can describe it; else anything."""
    try:
        union: Any = Union[tuple(_output_types(agent.output_type))]  # noqa: UP007 - of types known at run time
        TypeAdapter(union).json_schema(mode="serialization")
    except (PydanticUserError, AttributeError, NameError, TypeError, ValueError):
        return Any
    return union


def _output_types(declared: Any) -> Iterator[Any]:
    if isinstance(declared, list | tuple):
        for each in declared:
            yield from _output_types(each)
    elif isinstance(declared, ToolOutput):
        yield from _output_types(declared.output)
    elif isinstance(declared, NativeOutput | PromptedOutput):
        yield from _output_types(declared.outputs)
    elif isinstance(declared, TextOutput):
        yield from _output_types(declared.output_function)
    elif inspect.isroutine(declared):
        yield get_type_hints(declared).get("return", Any)
    elif declared is not DeferredToolRequests:
        yield declared
