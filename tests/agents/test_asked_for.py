"""What whoever starts a run may say beside its input: context for the agent's code, a model and its settings."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic_ai import Agent, ModelResponse, TextPart
from pydantic_ai.messages import ModelMessage
from pydantic_ai.models.function import AgentInfo, FunctionModel

from agent_service import RunContext, current_run, durable_agent, workflow
from runwire.agent.v1 import run_pb2
from runwire.client import requests
from runwire.errors import AlreadyExists, InvalidRequest
from runwire.testing import serve
from runwire.values import from_struct, to_struct
from tests.agents.stage import Stage


@workflow(id="contextual")
async def contextual(ctx: RunContext, input: Any) -> Any:
    return {"context": dict(ctx.context), "model": ctx.model}


async def test_context_is_for_the_agents_code() -> None:
    """The agent reads it in every attempt, GetRun shows it, a repeat by request id returns it; no list has it, and the
    model is told nothing of it."""
    told: list[str] = []

    def says(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        told.append(repr(messages) + repr(info))
        return ModelResponse([TextPart(str(current_run().context["account"]))])

    agent = durable_agent(Agent(FunctionModel(says), name="agent"))
    given = {"account": "A-17", "nested": {"a": [1, None]}}
    async with serve([contextual, agent]) as services:
        run = await services.client.start_run("contextual", None, context=given, request_id="once")
        view = await services.follow(run.run_id)
        again = await services.client.start_run("contextual", None, context=given, request_id="once")
        shown = await services.client.get_run(run.run_id)
        listed = [each async for each in services.client.list_runs()]
        assert (await services.run("agent", "who?", context=given)).output == "A-17"
    assert view.output == {"context": given, "model": ""}
    assert [from_struct(each.context) for each in (run, again, shown)] == [given] * 3
    assert [each.HasField("context") for each in listed] == [False]
    assert "A-17" not in "".join(told)


async def test_context_is_a_part_of_the_request() -> None:
    """A request id with another context is another request; a context that is too large is refused by name."""
    async with serve([contextual]) as services:
        await services.client.start_run("contextual", None, context={"a": 1}, request_id="once")
        with pytest.raises(AlreadyExists):
            await services.client.start_run("contextual", None, context={"a": 2}, request_id="once")
        for large in ({"context": {"a": "x" * 70_000}}, {"model_settings": {"temperature": "x" * 5_000}}):
            with pytest.raises(InvalidRequest, match="at most"):
                await services.client.start_run("contextual", None, **large)


async def test_context_survives_crashes_and_forks() -> None:
    """Every attempt has it, and so has the run that continues from a failed one."""
    seen: list[Any] = []

    @workflow(id="failing")
    async def failing(ctx: RunContext, input: Any) -> None:
        seen.append(dict(ctx.context))
        await ctx.step("a", _nothing)
        raise ValueError("no")

    stage = Stage(failing)
    await stage.start(None, context=to_struct({"a": 1}))
    await stage.attempt(die_after=1)
    await stage.attempt()
    await (await stage.fork()).attempt()
    assert seen == [{"a": 1}] * len(seen)
    assert len(seen) >= 2


async def _nothing() -> None: ...


def model(name: str) -> FunctionModel:
    def says(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        return ModelResponse([TextPart(f"{name} {sorted((info.model_settings or {}).items())}")])

    return FunctionModel(says, model_name=name)


chooser = durable_agent(
    Agent(model("own"), name="chooser", model_settings={"temperature": 0.5, "seed": 1}),
    models={"small": model("small"), "large": model("large")},
    model_settings=["temperature", "max_tokens"],
)


@pytest.mark.parametrize(
    "choice, said",
    [
        ({}, "own [('seed', 1), ('temperature', 0.5)]"),
        ({"model": "large"}, "large [('seed', 1), ('temperature', 0.5)]"),
        ({"model_settings": {"temperature": 0.1}}, "own [('seed', 1), ('temperature', 0.1)]"),
        (
            {"model": "small", "model_settings": {"max_tokens": 5}},
            "small [('max_tokens', 5), ('seed', 1), ('temperature', 0.5)]",
        ),
    ],
)
async def test_a_run_chooses_its_model(choice: dict[str, Any], said: str) -> None:
    """What the agent offers is used for this run, over the agent's own; what is not chosen stays the agent's."""
    stage = Stage(chooser)
    view = await stage.finish("x", model=requests.model_choice(**choice))
    assert view.output == said
    assert (await stage.run()).model.model == choice.get("model", "")
    described = chooser.proto
    assert (list(described.models), list(described.model_settings)) == (
        ["large", "small"],
        ["max_tokens", "temperature"],
    )


@pytest.mark.parametrize(
    "agent_id, choice, path, said",
    [
        ("chooser", {"model": "huge"}, "model.model", "does not offer the model 'huge'; it offers"),
        ("chooser", {"model_settings": {"seed": 1}}, "model.settings.seed", "it offers max_tokens, temperature"),
        ("chooser", {"model_settings": {"temperature": "hot"}}, "model.settings.temperature", "valid number"),
        ("contextual", {"model": "large"}, "model.model", "it offers none"),
    ],
)
async def test_a_choice_that_is_not_offered(agent_id: str, choice: dict[str, Any], path: str, said: str) -> None:
    """It is refused before the run is accepted, by name, with what is offered."""
    stage = Stage(chooser if agent_id == "chooser" else contextual)
    with pytest.raises(InvalidRequest) as wrong:
        await stage.start("x", model=requests.model_choice(**choice))
    assert not stage.store.commits
    assert list(wrong.value.violations) == [path]
    assert said in wrong.value.violations[path]


async def test_the_choice_is_remembered() -> None:
    """After a crash the run continues with the model that it asked for."""
    stage = Stage(chooser)
    await stage.start("x", model=run_pb2.ModelChoice(model="large"))
    await stage.attempt(die_after=1)
    await stage.attempt()
    assert str((await stage.view()).output).startswith("large")


async def test_a_model_that_is_offered_no_more() -> None:
    """A run that asked for it fails and says so, where the agent has changed meanwhile."""
    stage = Stage(chooser)
    await stage.start("x", model=run_pb2.ModelChoice(model="large"))
    stage.definition = durable_agent(Agent(model("own"), name="chooser"))
    await stage.attempt()
    error = (await stage.view()).error
    assert error is not None
    assert (error.reason, "'large'" in error.message) == ("model_error", True)
