"""runwire.testing, as somebody who has an agent uses it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from pydantic_ai import Agent

from agent_service import Retry, RunContext, ScorerRef, durable_agent, workflow
from runwire.client import approve, deny
from runwire.testing import Services, call, called, scripted, serve
from scorer_service import Sample, Score, scorer

pytest_plugins = ["pytester"]

assistant = Agent("test", name="assistant")


@assistant.tool_plain
async def look_up(city: str) -> str:
    return f"sun in {city}"


@assistant.tool_plain(requires_approval=True)
async def delete(path: str) -> str:
    return f"deleted {path}"


@scorer(id="says-sun", version="1")
async def says_sun(sample: Sample) -> Score:
    return Score(1.0 if "sun" in str(sample.output) else 0.0, reason=str(sample.input))


served = durable_agent(assistant, scorers=[ScorerRef("says-sun")])


async def test_tools_and_scores() -> None:
    """A scripted model calls tools, and a scorer of one's own scores the run."""
    both = [call("look_up", city="Rome"), call("look_up", city="Oslo")]
    with scripted(assistant, both, "there is sun"):
        async with serve([served], scorers=[says_sun]) as services:
            view = await services.run("assistant", "How is the weather?")
            scores = await services.scores(view.run_id)
    assert view.output == "there is sun"
    assert called(view) == [("look_up", {"city": "Rome"}), ("look_up", {"city": "Oslo"})]
    assert {name: scored.score.value for name, scored in scores.items()} == {"says-sun": 1.0}


async def test_turns_and_their_scores() -> None:
    """Each turn of a conversation has its answer, its tool calls and its scores."""
    with scripted(assistant, "rain", call("look_up", city="Bern"), "sun in Bern"):
        async with serve([served], scorers=[says_sun]) as services, services.conversation("assistant") as chat:
            first, second = await chat.ask("Today?"), await chat.ask("And in Bern?")
            scores = [(await services.scores(chat.run_id, turn=turn))["says-sun"] for turn in (1, 2)]
    assert [first.output, second.output] == ["rain", "sun in Bern"]
    assert called(second) == [("look_up", {"city": "Bern"})]
    assert [(scored.score.value, scored.score.reason) for scored in scores] == [(0.0, "Today?"), (1.0, "And in Bern?")]


@pytest.mark.parametrize(
    "answer, said", [(approve, "deleted /tmp"), (deny, {"return_value": "The tool call was denied."})]
)
async def test_an_approval(answer: Any, said: Any) -> None:
    """A run that waits is returned as it waits, and continues with an answer."""
    with scripted(assistant, call("delete", path="/tmp"), "done"):
        async with serve([served]) as services:
            view = await services.run("assistant", "Clean up")
            [pending] = view.pending
            assert (pending.name, view.output) == ("delete", None)
            view = await services.resume(view.run_id, answer(pending.request_id))
    assert view.output == "done"
    assert view.tool_calls[0].result == said


async def test_a_script_that_is_over() -> None:
    """The run fails, and says why."""
    with scripted(assistant):
        async with serve([served]) as services:
            view = await services.run("assistant", "Hello?")
    assert view.error is not None
    assert "the script has 0 replies" in view.error.message


@workflow(id="patient")
async def patient(ctx: RunContext, input: str) -> str:
    await ctx.sleep(timedelta(days=30))
    return f"{input} at last"


async def test_time_is_moved() -> None:
    """A sleep of a month is over at once."""
    began = time.monotonic()
    async with serve([patient]) as services:
        run = await services.client.start_run("patient", "here")
        async with asyncio.timeout(20), services.client.watch(run.run_id) as stream:
            async for event in stream:
                if event.HasField("run_suspended"):
                    services.advance(timedelta(days=31))
        view = await services.follow(run.run_id)
    assert view.output == "here at last"
    assert time.monotonic() - began < 86_400


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    async with serve([patient]) as services:
        yield services


async def test_in_a_fixture(services: Services) -> None:
    """`serve` can be entered and left in a fixture of one's own."""
    assert [agent.agent_id for agent in await services.client.list_agents()] == ["patient"]


PLAIN = """
from pydantic_ai import Agent
from agent_service import durable_agent
from runwire.testing import scripted

agent = Agent("test", name="plain")

def test_plain(runwire_services):
    with scripted(agent, "one", "two"):
        services = runwire_services([durable_agent(agent)])
        assert services.run("plain", "hello").output == "one"
        assert [turn.output for turn in services.converse("plain", "a", "b")] == ["one", "two"]

async def unused(): ...

def test_serve(runwire_serve):
    import asyncio

    async def body():
        with scripted(agent, "one"):
            async with runwire_serve([durable_agent(agent)]) as services:
                return (await services.run("plain", "hello")).output

    assert asyncio.run(body()) == "one"
"""


def test_the_plugin(pytester: pytest.Pytester) -> None:
    """Its fixtures serve tests that are not asynchronous."""
    pytester.makepyfile(PLAIN)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.assert_outcomes(passed=2)


def test_the_plugin_asks_for_no_service() -> None:
    """Where only the client is installed pytest loads the plugin all the same, and nothing of a service with it."""
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('agent_service', 'scorer_service', 'pydantic', 'structlog', 'jwt')))\n"
        "import runwire.testing.plugin"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@workflow(id="shaky")
async def shaky(ctx: RunContext, input: Any) -> int:
    tries: list[int] = []

    async def shake() -> int:
        tries.append(1)
        if len(tries) < 4:
            raise ConnectionError
        return len(tries)

    return await ctx.step("shake", shake, retry=Retry(attempts=9, delay_seconds=3_600))


async def test_pauses_between_tries_take_no_time() -> None:
    """Steps, tools and requests that are tried again after hours are tried again at once."""
    agent = Agent("test", name="persistent")
    calls: list[int] = []

    @agent.tool_plain
    def shake() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionError
        return "held"

    hourly = Retry(attempts=3, delay_seconds=3_600, max_delay_seconds=3_600)
    async with serve([shaky, durable_agent(agent, tool_retry=hourly)]) as services:
        assert (await services.run("shaky")).output == 4
        with scripted(agent, call("shake"), "done"):
            view = await services.run("persistent", "go")
    assert (view.output, view.tool_calls[0].tries) == ("done", 2)


async def test_what_a_test_raises_comes_out_as_it_is() -> None:
    """A failed assertion is no group of errors."""
    with pytest.raises(AssertionError, match="mine"):
        async with serve([patient]):
            raise AssertionError("mine")


async def test_a_conversation_as_it_is_now() -> None:
    """`view` shows all turns."""
    with scripted(assistant, "one", call("look_up", city="Bern"), "two"):
        async with serve([served]) as services, services.conversation("assistant") as chat:
            await chat.ask("a")
            await chat.ask("b")
            view = await services.view(chat.run_id)
    assert [turn.output for turn in view.turns.values()] == ["one", "two"]
    assert called(view.turns[2]) == [("look_up", {"city": "Bern"})]
