"""pydantic-ai agents as agents of this service. The agent is left as it is: each attempt at a run executes it with one
more capability (see `Durability`), which routes every request to the model and every tool call through the journal."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Union, cast, get_type_hints

from pydantic import TypeAdapter
from pydantic.errors import PydanticUserError
from pydantic_ai import Agent, NativeOutput, PromptedOutput, TextOutput, ToolOutput
from pydantic_ai.durable_exec import BaseDurabilityCapability
from pydantic_ai.exceptions import ModelAPIError, UsageLimitExceeded, UserError
from pydantic_ai.models import Model
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import DeferredToolRequests
from pydantic_ai.toolsets import AbstractToolset, ExternalToolset, FunctionToolset
from pydantic_ai.usage import UsageLimits

from agent_service.agents.context import BudgetExceeded, ModelFailed, Retry, RunContext
from agent_service.agents.current import within_run
from agent_service.agents.definition import ORPHAN_AFTER_SECONDS, Definition, ScorerRef
from agent_service.agents.lifespans import Lifespan
from agent_service.log.remembered import MAX_PART_BYTES
from agent_service.pydantic_ai.durability import Durability
from agent_service.pydantic_ai.memory import HISTORY_BYTES, Compact, Memory
from agent_service.pydantic_ai.prompt import Prompt, to_user_prompt
from agent_service.pydantic_ai.replay import replay_scope
from agent_service.pydantic_ai.steps import AfterCrash, Steps
from agent_service.pydantic_ai.tries import AtTheEnd, Retries, policy
from runwire.agent.v1 import run_pb2
from runwire.errors import ConfigurationError

MODEL_RETRY: Final = Retry(attempts=3, delay_seconds=1.0, max_delay_seconds=30.0)
TOOL_RETRY: Final = Retry(attempts=3, delay_seconds=1.0, max_delay_seconds=30.0)


def durable_agent(
    agent: Agent[Any, Any],
    *,
    scorers: Sequence[ScorerRef] = (),
    version: str = "",
    on_version_change: str = "fail",
    orphan_after: float = ORPHAN_AFTER_SECONDS,
    limits: UsageLimits | None = None,
    description: str = "",
    concurrency: int | None = None,
    deps: Callable[[RunContext], Any] | None = None,
    tool_retry: Retries | Mapping[str, Retries] = TOOL_RETRY,
    on_tool_error: AtTheEnd | Mapping[str, AtTheEnd] = "fail_run",
    not_repeatable: Mapping[str, AfterCrash] | None = None,
    retry: Retry = MODEL_RETRY,
    stall_seconds: float = 120.0,
    lifespan: Lifespan | None = None,
    models: Sequence[str] | Mapping[str, Model | str] = (),
    model_settings: Sequence[str] = (),
    compact: Compact | None = None,
    history_bytes: int = HISTORY_BYTES,
) -> Definition:
    """Makes a pydantic-ai agent one that can be served: its `name` is the agent id, its input is a prompt, and its
    output is the agent's. The agent itself is not changed, and can still be used without this service.

    After a crash no model response and no tool result that was complete is asked for again. A tool that was cut runs
    again with the same `current_idempotency_key()`, unless it is named in `not_repeatable` (or has the metadata
    `{"repeatable": False}`): then the model is told that nobody knows what became of it (`tell_model`), or the run is
    suspended until somebody says (`suspend`: to approve runs it again, to deny tells the model). Tools that need
    approval or are executed elsewhere suspend the run until ResumeRun.

    `limits` holds for the whole run, over all of its attempts (without it: pydantic-ai's 50 requests), and counts what
    other agents use that its tools run with `usage=ctx.usage`. `deps` makes the agent's dependencies in each attempt,
    async or not.

    A tool that raises is called again by `tool_retry` (3 tries, by default, a second apart and doubling, with jitter),
    with the same idempotency key, unless it must not be repeated: a Retry, several for different classes of exceptions,
    or those by the tool's name. Each try is counted once, whatever process dies. What its last try raised ends the run,
    or is told to the model (`on_tool_error`, for all tools or by name). What pydantic-ai takes for an answer
    (ModelRetry, ToolFailed, ApprovalRequired and the like) is none of that. `retry` and `stall_seconds` (the longest
    time without a word from the provider) guard each request to the model.

    In a conversation the agent is given the messages of earlier turns. Once they have more than `history_bytes` (in
    pydantic-ai's JSON, 1 KiB to 1 MiB) the oldest turns are forgotten, until half of it is left. With `compact`,
    `async (messages) -> messages`, that function makes fewer of them instead, once: what it returned stands in their
    place from then on, whatever crashes. An event tells of either.

    Raises ConfigurationError for an agent without a name or a model, for toolsets without an id, for kinds of toolsets
    that cannot be made durable, and for arguments of another type.
    """
    _check_arguments(agent, deps=deps, limits=limits, retry=retry)
    tool_policy = policy(str(agent.name), tool_retry, on_tool_error, TOOL_RETRY)
    _check(agent)
    offered = dict(models) if isinstance(models, Mapping) else {name: name for name in models}
    if not 1024 <= history_bytes <= MAX_PART_BYTES:
        raise ConfigurationError(f"durable_agent: history_bytes is {history_bytes!r}; it is 1024 to {MAX_PART_BYTES}")
    policies = dict(not_repeatable or {})
    for tool, after_crash in policies.items():
        if after_crash not in ("tell_model", "suspend"):
            raise ConfigurationError(f"durable_agent: not_repeatable[{tool!r}] is 'tell_model' or 'suspend'")

    async def body(run: RunContext, input: Any) -> Any:
        prompt = to_user_prompt(input)
        run.only_model_steps = True
        steps = Steps(run, retry, tool_policy, stall_seconds)
        # pydantic-ai knows turns by run ids of their own.
        run_id = run.run_id if run.turns is None else f"{run.run_id}#{run.turns.number}"
        capability = Durability(steps, run_id, policies, "" if run.turns is None else run.run_id, offered)
        memory = Memory(run.turns, prompt, steps) if run.turns is not None else None
        try:
            with within_run(run), replay_scope():
                result = await agent.run(
                    prompt,
                    message_history=await memory.before(history_bytes, compact) if memory is not None else None,
                    deps=await _made(deps, run) if deps is not None else None,
                    usage_limits=limits,
                    model=_chosen(offered, run.model),
                    model_settings=cast(ModelSettings, dict(run.model_settings)) if run.model_settings else None,
                    capabilities=[capability],
                )
        except UsageLimitExceeded as error:
            raise BudgetExceeded(str(error)) from None
        except ModelAPIError as error:
            raise ModelFailed(str(error)) from error
        await steps.finish()
        if memory is not None:
            memory.result = result
        return result.output

    return Definition(
        agent_id=str(agent.name),
        body=body,
        kind=run_pb2.AGENT_KIND_AGENT,
        input_type=Prompt,
        output_type=_output_type(agent),
        description=description or str(agent.description or ""),
        version=version,
        on_version_change=on_version_change,
        orphan_after=orphan_after,
        scorers=tuple(scorers),
        concurrency=concurrency,
        lifespan=lifespan,
        models=tuple(offered),
        model_settings={name: _type_of_setting(name) for name in model_settings},
    )


def _check_arguments(agent: Any, *, deps: Any, limits: Any, retry: Any) -> None:
    """Raises ConfigurationError, with what to write, for what would fail in every run only."""
    if not isinstance(agent, Agent):
        raise ConfigurationError(f"durable_agent: expected a pydantic_ai.Agent, got {type(agent).__name__}")
    if not agent.name:
        raise ConfigurationError("durable_agent: the agent needs a name: Agent(..., name='assistant')")
    where = f"durable_agent({agent.name!r})"
    if deps is not None and not callable(deps):
        raise ConfigurationError(
            f"{where}: deps is {type(deps).__name__!r}; it must be a function of the run: deps=lambda run: ..."
        )
    if not isinstance(retry, Retry):
        raise ConfigurationError(f"{where}: retry is {retry!r}; it must be a Retry: Retry(attempts=3)")
    if limits is not None and not isinstance(limits, UsageLimits):
        raise ConfigurationError(
            f"{where}: limits is {limits!r}; it must be pydantic_ai.usage.UsageLimits: UsageLimits(request_limit=20)"
        )


def _type_of_setting(name: str) -> Any:
    """As pydantic-ai declares it, where pydantic can check that; else anything."""
    declared = get_type_hints(ModelSettings).get(name, Any)
    try:
        TypeAdapter(declared)
    except PydanticUserError:
        return Any
    return declared


def _chosen(offered: Mapping[str, Model | str], name: str) -> Model | str | None:
    """Raises ModelFailed for one that the agent offered when the run was accepted, and does not offer any more."""
    if name and name not in offered:
        raise ModelFailed(f"the run asked for the model {name!r}, which this version of the agent does not offer")
    return offered[name] if name else None


async def _made(deps: Callable[[RunContext], Any], run: RunContext) -> Any:
    made = deps(run)
    return await made if inspect.isawaitable(made) else made


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
        Durability(None).for_agent(agent)
    except UserError as error:
        raise ConfigurationError(f"durable_agent({agent.name!r}): {error}") from None


def _check_toolset(agent: Agent[Any, Any], leaf: AbstractToolset[Any]) -> None:
    known = isinstance(leaf, FunctionToolset | ExternalToolset) or type(leaf).__module__.startswith("pydantic_ai.")
    if not known:
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
