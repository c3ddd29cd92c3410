"""Agents as models of the OpenAI Responses API, used by the unmodified `openai` package."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import ResponseStreamEvent

from gateway.responses.asked import text_of
from gateway.responses.translation import ResponseId, Translation, response_id
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.client import to_value
from runwire.errors import InvalidRequest, RunNotFound
from tests.client.processes import AgentProcess
from tests.gateway.conftest import GatewayProcess

TERMINAL = {"response.completed", "response.failed", "response.incomplete", "response.cancelled"}
COUNT = 150


def client_of(url: str, retries: int = 2) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=retries, timeout=30.0)


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with client_of(gateway.url) as made:
        yield made


def ticks(count: int, interval_ms: int = 0) -> str:
    return f'{{"count": {count}, "interval_ms": {interval_ms}}}'


def numbers(taken: list[Any]) -> list[int]:
    return [each.sequence_number for each in taken]


def text(taken: list[Any]) -> str:
    return "".join(each.delta for each in taken if each.type == "response.output_text.delta")


def test_a_response_as_a_whole(client: openai.OpenAI) -> None:
    """A response is waited for, and found again by its id with what was asked in its metadata."""
    made = client.responses.create(model="ticker", input=ticks(3), metadata={"team": "a b"})
    assert made.status == "completed"
    assert made.output_text == 'tick tick tick {"count": 3}'
    assert made.metadata == {"team": "a b"}
    assert client.responses.retrieve(made.id) == made
    assert "ticker" in [each.id for each in client.models.list()]


def test_background(client: openai.OpenAI) -> None:
    """A background response is answered at once and ends as cancelled when it is asked to."""
    made = client.responses.create(model="ticker", input=ticks(10_000, 20), background=True)
    assert made.status in ("queued", "in_progress")
    client.responses.cancel(made.id)
    types: list[str] = [each.type for each in client.responses.retrieve(made.id, stream=True)]
    assert types[-1] == "response.cancelled"
    assert client.responses.retrieve(made.id).status == "cancelled"


def test_every_number_is_exact(client: openai.OpenAI) -> None:
    """Numbers are dense from 0, and whoever comes back with any of them gets every event after it, and only these."""
    made = client.responses.create(model="tooled", input="cats", stream=True)
    whole = list(made)
    assert numbers(whole) == list(range(len(whole)))
    assert whole[-1].type == "response.completed"
    identifier = whole[-1].response.id
    for event in whole[:-1]:
        rest = client.responses.retrieve(identifier, stream=True, starting_after=event.sequence_number)
        assert list(rest) == whole[event.sequence_number + 1 :]


def test_the_final_response_is_its_events(client: openai.OpenAI) -> None:
    """What the package's own accumulation makes of the deltas is the response at the end, tool calls included."""
    with client.responses.stream(model="tooled", input="cats") as stream:
        events = list(stream)
    assert events[-1].type == "response.completed"
    final: Any = events[-1].response
    done = [each.item.id for each in events if each.type == "response.output_item.done"]
    assert [each.id for each in final.output] == done
    call = final.output[0]
    assert (call.type, call.name, call.arguments) == ("mcp_call", "search", '{"query": "cats"}')
    assert (call.output, call.status) == ('["a page"]', "completed")
    assert final.output_text == 'looked it up\n{"pages": 1}'


def test_a_failed_response(client: openai.OpenAI) -> None:
    """A run that fails is a failed response with what it said until then, not an HTTP error."""
    *_, last = client.responses.create(model="broken", input="x", stream=True)
    assert last.type == "response.failed"
    assert last.response.error is not None
    assert "no luck today" in last.response.error.message
    assert last.response.output_text == "so far so good"


def test_random_cuts(client: openai.OpenAI) -> None:
    """A response read through cuts at random places is whole, each event once; no cut is an end."""
    identifier = client.responses.create(model="ticker", input=ticks(COUNT, 2), background=True).id
    chance = random.Random(17)
    taken: list[ResponseStreamEvent] = []
    while not taken or taken[-1].type not in TERMINAL:
        after: Any = {"starting_after": numbers(taken)[-1]} if taken else {}
        with client.responses.retrieve(identifier, stream=True, **after) as stream:
            for _, event in zip(range(chance.randrange(1, 20)), stream, strict=False):
                taken.append(event)
    assert numbers(taken) == list(range(len(taken)))
    assert text(taken) == "tick " * COUNT + f'{{"count": {COUNT}}}'


def test_gateways_and_services_die(agent_service: AgentProcess) -> None:
    """A response whose gateways are killed one after the other, and the service once, is whole."""
    taken: list[ResponseStreamEvent] = []
    kills = 0
    with GatewayProcess(agent_service.address, "127.0.0.1:1") as mortal:
        mortal.start()
        with client_of(mortal.url) as client:
            identifier = client.responses.create(model="ticker", input=ticks(COUNT, 10), background=True).id
        while not taken or taken[-1].type not in TERMINAL:
            taken += _until_killed(mortal, identifier, taken)
            kills += 1
            if kills == 1:
                agent_service.kill()
                agent_service.start()
            mortal.kill()  # the last events may have been fewer than it was to die of
            mortal.start()
    assert kills > 1
    assert numbers(taken) == list(range(len(taken)))
    assert taken[-1].type == "response.completed"
    # What the service's death made void was streamed, and is not in the finished response.
    assert taken[-1].response.output_text == "tick " * COUNT + f'{{"count": {COUNT}}}'


def _until_killed(mortal: GatewayProcess, identifier: str, taken: list[Any]) -> list[Any]:
    """What arrives until the gateway is killed, which is after 20 events."""
    more: list[Any] = []
    after: Any = {"starting_after": taken[-1].sequence_number} if taken else {}
    with client_of(mortal.url) as client:
        try:
            for event in client.responses.retrieve(identifier, stream=True, **after):
                more.append(event)
                if len(more) == 20:
                    mortal.kill()
        except (openai.APIConnectionError, httpx.TransportError):
            pass
    return more


def test_a_gateway_that_drains_is_no_end(agent_service: AgentProcess) -> None:
    """A call that waits for a whole response when its gateway ends is told so and not answered with half of it; the
    same call with the same Idempotency-Key joins the same response."""
    ask: Any = {"model": "ticker", "input": ticks(10_000, 20), "metadata": {"mark": "drained"}}
    ask["extra_headers"] = {"Idempotency-Key": "drained"}
    with GatewayProcess(agent_service.address, "127.0.0.1:1") as mortal, ThreadPoolExecutor() as pool:
        mortal.start()
        with client_of(mortal.url, retries=0) as client:
            waiting = pool.submit(lambda: client.responses.create(**ask))
            while not httpx.get(f"{mortal.url}/v1/runs?label=mark%3Ddrained").json().get("runs"):
                pass
            assert mortal.process is not None
            mortal.process.terminate()
            error = waiting.exception(timeout=20)
        assert isinstance(error, openai.InternalServerError)
        assert error.response.headers["x-should-retry"] == "true"
        assert mortal.process.wait(timeout=20) in (0, -15)
        mortal.process = None
        mortal.start()
        with client_of(mortal.url) as client:
            again = client.responses.create(background=True, **ask)
            assert again.id in error.message
            client.responses.cancel(again.id)


def test_an_answer_makes_the_next_response(client: openai.OpenAI) -> None:
    """A run that asks is a response that ends with a function call; its output, once, makes the next response."""
    asked = client.responses.create(model="asker", input="who?")
    call = asked.output[0]
    assert call.type == "function_call"
    assert (asked.status, call.name, call.arguments) == ("completed", "name", '{"why": "who?"}')
    output: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "Ada"}]
    assert client.responses.retrieve(f"{asked.id}_1").status == "queued"
    answered = client.responses.create(model="asker", previous_response_id=asked.id, input=output)
    assert answered.output_text == "hello Ada"
    assert answered.previous_response_id == asked.id
    assert client.responses.retrieve(answered.id) == answered
    assert client.responses.retrieve(asked.id) == asked
    assert numbers(list(client.responses.retrieve(answered.id, stream=True)))[0] == 0
    with pytest.raises(openai.ConflictError):
        client.with_options(max_retries=0).responses.create(previous_response_id=asked.id, input=output)


@pytest.mark.parametrize(
    "ask, kind, param",
    [
        ({"model": "none", "input": "x"}, openai.NotFoundError, None),
        ({"model": "ticker", "input": "x"}, openai.BadRequestError, "input"),
        ({"model": "ticker", "input": '{"count": 0}'}, openai.BadRequestError, "input"),
        ({"model": "ticker"}, openai.BadRequestError, "input"),
        ({"input": "x"}, openai.BadRequestError, "model"),
        ({"model": "asker", "input": "x", "instructions": "be brief"}, openai.BadRequestError, "instructions"),
        ({"model": "asker", "input": "x", "tools": [{"type": "web_search"}]}, openai.BadRequestError, "tools"),
        ({"model": "asker", "input": "x", "max_output_tokens": 5}, openai.BadRequestError, "max_output_tokens"),
        ({"model": "asker", "input": "x", "stream": "yes"}, openai.BadRequestError, "stream"),
        ({"model": "asker", "input": "x", "metadata": {"a" * 64: "b"}}, openai.BadRequestError, "metadata"),
        ({"input": "and then?", "previous_response_id": "RUN"}, openai.BadRequestError, "previous_response_id"),
        ({"input": "and then?", "previous_response_id": "none"}, openai.NotFoundError, None),
    ],
)
def test_what_is_wrong(
    client: openai.OpenAI, ask: dict[str, Any], kind: type[openai.APIStatusError], param: str
) -> None:
    """What cannot be done is refused as that API refuses, and names the parameter."""
    if ask.get("previous_response_id") == "RUN":
        made = client.responses.create(model="ticker", input=ticks(1))
        ask = {**ask, "previous_response_id": made.id}
    with pytest.raises(kind) as caught:
        client.post("/responses", body=ask, cast_to=object)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


@pytest.mark.parametrize("path", ["/responses/none", "/responses/resp_none", "/responses/resp_a_b?stream=true"])
def test_no_such_response(client: openai.OpenAI, path: str) -> None:
    """An id that names nothing is 404."""
    with pytest.raises(openai.NotFoundError):
        client.get(path, cast_to=object)


@pytest.mark.parametrize("query", ["starting_after=1", "stream=true&starting_after=-1", "stream=maybe"])
def test_a_wrong_query(client: openai.OpenAI, query: str) -> None:
    """A query that is none is an error, never a stream from somewhere."""
    made = client.responses.create(model="ticker", input=ticks(1))
    with pytest.raises(openai.BadRequestError):
        client.get(f"/responses/{made.id}?{query}", cast_to=object)


def test_a_number_beyond_the_end(client: openai.OpenAI) -> None:
    """A number that the response never had is told of at its end, and not taken for a cut for ever."""
    made = client.responses.create(model="ticker", input=ticks(1))
    (told,) = client.responses.retrieve(made.id, stream=True, starting_after=10_000)
    assert told.type == "error"
    assert "10000 is beyond the last event" in told.message


def test_a_quiet_stream_is_readable(client: openai.OpenAI) -> None:
    """What keeps a quiet stream open, this API's clients skip."""
    with client.responses.create(model="ticker", input=ticks(2, 600), stream=True) as stream:
        assert next(reversed(list(stream))).type == "response.completed"


def log(*payloads: Any, step: int = 1) -> list[run_event_pb2.RunEvent]:
    """Events that carry these payloads."""
    fields = run_event_pb2.RunEvent.DESCRIPTOR.oneofs[0].fields
    names = {each.message_type.name: each.name for each in fields if each.message_type is not None}
    return [
        run_event_pb2.RunEvent(sequence=number, step=step, **{names[type(each).__name__]: each})
        for number, each in enumerate(payloads, 1)
    ]


def translated(events: list[run_event_pb2.RunEvent], answered: int = 0) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    translation = Translation(run_pb2.Run(run_id="r", agent_id="a"), ResponseId("r", answered))
    made = [*translation.begin(), *(each for event in events for each in translation.take(event))]
    assert [each["sequence_number"] for each in made] == list(range(len(made)))
    return made, translation.response()


SUCCEEDED = run_event_pb2.RunFinished(state=run_pb2.RUN_STATE_SUCCEEDED, output=to_value("new"))


@pytest.mark.parametrize("again", [run_event_pb2.StepStarted(name="model"), run_event_pb2.RunStarted(run_id="r")])
def test_superseded_text(again: Any) -> None:
    """What a crash made void ends as incomplete where it was streamed, and the finished response lacks it."""
    said = [run_event_pb2.TextDelta(text=each) for each in ("old", "new")]
    reasoned = run_event_pb2.ReasoningDelta(text="hm")
    call = run_event_pb2.ToolCallStarted(tool_call_id="t", tool_name="look")
    made, response = translated(log(reasoned, said[0], call, again, said[1], SUCCEEDED))
    ends = [each["item"] for each in made if each["type"] == "response.output_item.done"]
    assert [(each["type"], each["status"]) for each in ends] == [
        ("reasoning", "completed"),
        ("message", "completed"),
        ("mcp_call", "incomplete"),
        ("message", "completed"),
    ]
    assert [each["content"][0]["text"] for each in response["output"]] == ["new"]


def test_a_tool_call_told_again() -> None:
    """A call that is begun again takes the place of the one that was cut."""
    call = run_event_pb2.ToolCallStarted(tool_call_id="t", tool_name="look", arguments=to_value({"n": 1}))
    done = run_event_pb2.ToolCallFinished(tool_call_id="t", tool_name="look", result=to_value("denied"))
    done.outcome = run_event_pb2.TOOL_CALL_OUTCOME_DENIED
    _, response = translated(log(call, call, done, SUCCEEDED))
    shown, message = response["output"]
    assert (shown["status"], shown["arguments"]) == ("failed", '{"n": 1}')
    assert shown["error"]["content"][0]["text"] == "denied"
    assert message["content"][0]["text"] == "new"


def test_an_approval_and_what_follows() -> None:
    """An approval ends one response; the call that it allowed belongs to the next one, with its arguments."""
    call = run_event_pb2.ToolCallStarted(tool_call_id="t", tool_name="rm", arguments=to_value({"n": 1}))
    pause = run_event_pb2.RunSuspended(pending=[run_pb2.PendingRequest(kind=run_pb2.PENDING_KIND_TIME)])
    wanted = run_pb2.PendingRequest(request_id="q", kind=run_pb2.PENDING_KIND_APPROVAL, name="rm")
    asks = run_event_pb2.RunSuspended(pending=[wanted])
    done = run_event_pb2.ToolCallFinished(tool_call_id="t", tool_name="rm", result=to_value("gone"))
    done.outcome = run_event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED
    events = log(pause, run_event_pb2.RunResumed(), call, asks, run_event_pb2.RunResumed(), done, SUCCEEDED)
    first, second = translated(events)[1], translated(events, answered=1)[1]
    assert [(each["type"], each["id"]) for each in first["output"]][1] == ("mcp_approval_request", "q")
    assert first["status"] == "completed"
    assert [each["type"] for each in second["output"]] == ["mcp_call", "message"]
    assert (second["output"][0]["output"], second["output"][0]["arguments"]) == ("gone", '{"n": 1}')
    assert second["previous_response_id"] == first["id"]


@pytest.mark.parametrize("id", [ResponseId("0a"), ResponseId("0a", 12)])
def test_ids_are_read_back(id: ResponseId) -> None:
    """What is written as an id is read back as the same response."""
    assert response_id(str(id)) == id


@pytest.mark.parametrize("text", ["", "resp_", "resp_a b", "x", "resp_ä"])
def test_what_is_no_id(text: str) -> None:
    """Anything else names no response."""
    with pytest.raises(RunNotFound):
        response_id(text)


@pytest.mark.parametrize(
    "given",
    [
        "hi",
        [{"role": "user", "content": "hi"}],
        [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}],
    ],
)
def test_messages_that_are_text(given: Any) -> None:
    """Text, and one message of a user with text, are the same input."""
    assert text_of(given) == "hi"


@pytest.mark.parametrize(
    "given",
    [
        3,
        [],
        ["hi"],
        [{"role": "system", "content": "hi"}],
        [{"role": "user"}],
        [{"role": "user", "content": [{"type": "input_image"}]}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    ],
)
def test_messages_that_no_agent_takes(given: Any) -> None:
    """Whatever an agent would not see is refused."""
    with pytest.raises(InvalidRequest):
        text_of(given)
