"""The capability that makes an attempt at a pydantic-ai agent durable, on pydantic-ai's own durable-execution surface.

pydantic-ai hands every request to the model and every call of a tool to the backend here, as a unit of work with a
JSON payload; `Steps` does each once.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar

from pydantic_ai import CallToolsNode
from pydantic_ai.capabilities import AgentNode, NodeResult
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
)
from pydantic_ai.exceptions import ApprovalRequired, ToolFailed
from pydantic_ai.messages import ModelMessage, ToolCallPart
from pydantic_ai.models import (
    CompletedStreamedResponse,
    Model,
    ModelRequestContext,
    ModelRequestParameters,
    StreamedResponse,
)
from pydantic_ai.models.wrapper import WrapperModel
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import (
    DeferredToolRequests,
    DeferredToolResults,
    RunContext,
    ToolApproved,
    ToolDefinition,
    ToolDenied,
)

from agent_service.agents.context import MAX_PENDING_VALUE_BYTES, Suspended
from agent_service.pydantic_ai.events import arguments
from agent_service.pydantic_ai.growth import Growth
from agent_service.pydantic_ai.steps import AfterCrash, Body, Steps
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.values import carry_struct, carry_text, carry_value, from_struct, from_value


class _Streaming(WrapperModel):
    """A model that is asked to stream also where it cannot: its whole answer is then one piece."""

    def __init__(self, wrapped: Model, growth: Growth) -> None:
        super().__init__(wrapped)
        self._growth = growth

    @asynccontextmanager
    async def request_stream(
        self,
        messages: list[ModelMessage],
        model_settings: ModelSettings | None,
        model_request_parameters: ModelRequestParameters,
        run_context: RunContext[Any] | None = None,
    ) -> AsyncIterator[StreamedResponse]:
        self._growth.output_tools = frozenset(tool.name for tool in model_request_parameters.output_tools)
        async with AsyncExitStack() as stack:
            arguments = (messages, model_settings, model_request_parameters)
            try:
                stream = await stack.enter_async_context(self.wrapped.request_stream(*arguments, run_context))
            except (NotImplementedError, AssertionError):  # what pydantic-ai's models without streaming raise
                response = await self.wrapped.request(*arguments)
                stream = CompletedStreamedResponse(
                    response, model_request_parameters=model_request_parameters, replay_events=True
                )
            yield stream


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


class Durability(BaseDurabilityCapability[Any]):
    """The capability that an attempt adds to the agent."""

    engine_spec: ClassVar[DurabilityEngineSpec] = DurabilityEngineSpec(
        engine_name="Runwire",
        durable_unit_noun="journal entry",
        durable_unit_plural="journal entries",
        durable_container_noun="run",
        codec=JSON_CODEC,
        # Tools are listed again in each attempt: what was called is in the responses that are remembered.
        journal_discovery=False,
        cancellation_error_types=(Suspended,),
    )

    def __init__(
        self,
        steps: Steps | None,
        run_id: str = "",
        not_repeatable: Mapping[str, AfterCrash] = {},
        conversation_id: str = "",
        models: Mapping[str, Model | str] = {},
    ) -> None:
        named = {name: model for name, model in models.items() if isinstance(model, Model)}
        super().__init__(event_stream_handler=steps.hear if steps is not None else None, models=named or None)
        self._steps = steps
        self._run_id = run_id
        self._conversation_id = conversation_id
        self._not_repeatable = not_repeatable

    @property
    def in_durable_context(self) -> bool:
        return True

    def get_durable_operation_backend(self) -> _Backend:
        return _Backend(self.name, self._steps)

    def get_default_run_id(self) -> str | None:
        return self._run_id or None

    def get_default_conversation_id(self, run_id: str) -> str | None:
        return self._conversation_id or conversation_id_from_run_id(run_id)

    async def wrap_tool_execute(
        self,
        ctx: RunContext[Any],
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
        with self._steps.calling(call, ctx.usage, after_crash):
            return await handler(args)

    async def before_model_request(
        self, ctx: RunContext[Any], request_context: ModelRequestContext
    ) -> ModelRequestContext:
        """Gives the model what was said in the conversation meanwhile."""
        request_context = await super().before_model_request(ctx, request_context)
        if self._steps is not None:
            for message in await self._steps.steered():
                ctx.enqueue(*([message] if isinstance(message, str) else message))
        return request_context

    async def after_node_run(
        self, ctx: RunContext[Any], *, node: AgentNode[Any], result: NodeResult[Any]
    ) -> NodeResult[Any]:
        """Tells an answer that is not what the provider said: one of a cache, or one that a guard has changed."""
        if isinstance(result, CallToolsNode) and self._steps is not None:
            await self._steps.answered(result.model_response)
        return result

    def get_wrapper_model(self, model: Model) -> Model:
        return model if self._steps is None else _Streaming(model, self._steps.growth)

    async def handle_deferred_tool_calls(
        self, ctx: RunContext[Any], *, requests: DeferredToolRequests
    ) -> DeferredToolResults | None:
        """Answers what was answered by ResumeRun, and suspends the run for the rest."""
        assert self._steps is not None
        results, pending = DeferredToolResults(), []
        for call in requests.approvals:
            answer = self._steps.answer(call)
            if answer is None:
                pending.append(self._pending(ctx, call, run_pb2.PENDING_KIND_APPROVAL, requests.metadata))
            else:
                results.approvals[call.tool_call_id] = _approval(answer)
                _say(results, call, answer)
        for call in requests.calls:
            answer = self._steps.answer(call)
            if answer is None:
                pending.append(self._pending(ctx, call, run_pb2.PENDING_KIND_EXTERNAL_TOOL, requests.metadata))
            else:
                results.calls[call.tool_call_id] = _external(answer)
                _say(results, call, answer)
        if pending:
            raise Suspended(pending)
        return results

    def _pending(
        self,
        ctx: RunContext[Any],
        call: ToolCallPart,
        kind: run_pb2.PendingKind,
        metadata: Mapping[str, Mapping[str, Any]],
    ) -> run_pb2.PendingRequest:
        assert self._steps is not None
        pending = run_pb2.PendingRequest(
            request_id=self._steps.request_id(call),
            kind=kind,
            name=carry_text(call.tool_name),
            arguments=carry_value(arguments(call), MAX_PENDING_VALUE_BYTES),
            tool_call_id=carry_text(call.tool_call_id),
        )
        if said := metadata.get(call.tool_call_id):
            pending.metadata.CopyFrom(carry_struct(said, MAX_PENDING_VALUE_BYTES))
        definition = ctx.tool_manager.get_tool_def(call.tool_name) if ctx.tool_manager is not None else None
        if definition is not None:
            external = kind == run_pb2.PENDING_KIND_EXTERNAL_TOOL
            schema = definition.return_schema if external else definition.parameters_json_schema
            if schema:
                pending.schema.CopyFrom(carry_struct(schema, MAX_PENDING_VALUE_BYTES))
        return pending

    def _after_crash(self, tool: ToolDefinition) -> AfterCrash | None:
        if tool.name in self._not_repeatable:
            return self._not_repeatable[tool.name]
        return "tell_model" if (tool.metadata or {}).get("repeatable") is False else None


def _say(results: DeferredToolResults, call: ToolCallPart, answer: run_event_pb2.Answer) -> None:
    """Gives the tool what the person who decided says to it."""
    if answer.HasField("metadata"):
        results.metadata[call.tool_call_id] = from_struct(answer.metadata)


def _approval(answer: run_event_pb2.Answer) -> ToolApproved | ToolDenied:
    if answer.HasField("approve"):
        given = answer.approve.HasField("override_arguments")
        return ToolApproved(override_args=from_struct(answer.approve.override_arguments) if given else None)
    return ToolDenied(answer.deny.message) if answer.deny.message else ToolDenied()


def _external(answer: run_event_pb2.Answer) -> Any:
    if answer.HasField("data"):
        return from_value(answer.data)
    return ToolFailed(answer.deny.message or "Nobody executed the tool call.")
