"""A real provider protocol: OpenAI's, from a server on loopback that fails in every way."""

from __future__ import annotations

import pytest
from openai import AsyncOpenAI
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider

from agent_service import Retry
from agent_service.pydantic_ai.agent import durable_agent
from runwire.agent.v1 import run_pb2
from runwire.fold import RunView
from tests.agents.provider import Call, Cut, Provider, Refuse, Speak, Stall, provider
from tests.agents.stage import Stage

KEY = "sk-test-abcdefghijklmnopqrstuvwxyz0123456789"
QUICKLY = Retry(attempts=3, delay_seconds=0.001, max_delay_seconds=0.01)


Kind = type[OpenAIChatModel] | type[OpenAIResponsesModel]


def speaker(served: Provider, *, stall_seconds: float = 5.0, kind: Kind = OpenAIChatModel) -> Stage:
    client = AsyncOpenAI(base_url=served.url, api_key=KEY, max_retries=0)
    model = kind("local", provider=OpenAIProvider(openai_client=client))
    agent = Agent(model, name="speaker")

    @agent.tool_plain
    def add(a: int, b: int) -> int:
        return a + b

    return Stage(durable_agent(agent, retry=QUICKLY, stall_seconds=stall_seconds))


def starts(view_events: object) -> int:
    return sum(event.WhichOneof("payload") == "step_started" for event in view_events)  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [OpenAIChatModel, OpenAIResponsesModel])
async def test_speaks_openai(kind: Kind) -> None:
    """Text and tool calls of a real provider's stream reach the log, and its usage is counted."""
    async with provider(Call("add", {"a": 2, "b": 3}), Speak(["It ", "is ", "5."])) as served:
        stage = speaker(served, kind=kind)
        view = await stage.finish("2 + 3?")
    assert view.output == "It is 5."
    assert [(call.arguments, call.result) for call in view.tool_calls] == [({"a": 2, "b": 3}, 5)]
    assert (view.usage.requests, view.usage.input_tokens, view.usage.output_tokens) == (2, 14, 6)
    deltas = [e.text_delta.text for e in await stage.events() if e.WhichOneof("payload") == "text_delta"]
    assert deltas == ["It ", "is ", "5."]


@pytest.mark.parametrize(
    "failure",
    [Refuse(429), Refuse(500), Refuse(503), Refuse(529), Cut(["It is ab"]), Cut([]), Stall(["It is ab"]), Stall()],
    ids=lambda failure: f"{type(failure).__name__}-{getattr(failure, 'status', len(getattr(failure, 'words', ())))}",
)
@pytest.mark.parametrize("kind", [OpenAIChatModel, OpenAIResponsesModel])
async def test_tries_again(failure: Refuse | Cut | Stall, kind: Kind) -> None:
    """A provider that limits, fails, cuts its stream or falls silent is asked again; what it said before is
    superseded, by a step that begins again in the same attempt."""
    async with provider(failure, failure, Speak(["It ", "is 5."])) as served:
        stage = speaker(served, stall_seconds=0.2, kind=kind)
        view = await stage.finish("2 + 3?")
    assert view.state == run_pb2.RUN_STATE_SUCCEEDED
    assert view.output == view.text == "It is 5."
    assert len(served.requests) == 3
    assert starts(await stage.events()) == 3
    assert (await stage.run()).attempt == 1
    assert view.usage.requests == 1


@pytest.mark.parametrize("failure", [Refuse(500), Cut(["It is"]), Stall()], ids=lambda failure: type(failure).__name__)
async def test_gives_up(failure: Refuse | Cut | Stall) -> None:
    """After the attempts of its policy the run fails with reason model_error; the text that came stays in the log."""
    async with provider(failure) as served:
        stage = speaker(served, stall_seconds=0.2)
        view = await stage.finish("2 + 3?")
    assert failed(view) == "model_error"
    assert len(served.requests) == QUICKLY.attempts


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_does_not_insist(status: int) -> None:
    """What will not get better is not tried again; the error says what it was, and holds no key."""
    async with provider(Refuse(status, f"Incorrect API key provided: {KEY}")) as served:
        view = await speaker(served).finish("2 + 3?")
    assert failed(view) == "model_error"
    assert len(served.requests) == 1
    assert view.error is not None
    assert str(status) in view.error.message
    assert KEY not in view.error.message


async def test_waits_as_long_as_it_is_told() -> None:
    """Retry-After is heeded, within the longest delay of the policy."""
    async with provider(Refuse(429, headers={"retry-after": "3600"}), Speak(["5"])) as served:
        view = await speaker(served).finish("2 + 3?")
    assert view.output == "5"
    assert len(served.requests) == 2


def failed(view: RunView) -> str:
    assert view.state == run_pb2.RUN_STATE_FAILED
    assert view.error is not None
    return view.error.reason
