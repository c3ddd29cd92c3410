"""AG-UI: what is served is what its own package says is AG-UI, and what a client shows after any cut is the run."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from ag_ui.core import AgentCapabilities, Event
from pydantic import TypeAdapter

from gateway.agui.asked import checked, resumed
from gateway.agui.translation import Translation
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.client import to_value
from runwire.errors import InvalidRequest
from tests.client.processes import AgentProcess
from tests.gateway.conftest import GatewayProcess

EVENT: TypeAdapter[Any] = TypeAdapter(Event)
COUNT = 200


def ask(run: str, text: str = "", **more: Any) -> dict[str, Any]:
    message = {"id": "m1", "role": "user", "content": text}
    return {"threadId": "thread", "runId": run, "messages": [message], "tools": [], "context": [], **more}


def events(http: httpx.Client, agent: str, body: dict[str, Any], most: int | None = None) -> Iterator[dict[str, Any]]:
    """The events of one POST, each valid, until the end or the first `most`."""
    with http.stream("POST", f"/v1/agui/{agent}", json=body) as stream:
        assert stream.status_code == 200, stream.read()
        taken = 0
        for line in stream.iter_lines():
            if line.startswith("data:"):
                event: dict[str, Any] = json.loads(line[5:])
                EVENT.validate_python(event)
                yield event
                taken += 1
                if taken == most:
                    return


def test_capabilities(http: httpx.Client) -> None:
    """What an agent can do is said in the words of the protocol, streams that resume among it; none for no agent."""
    said = http.get("/v1/agui/ticker/capabilities").json()
    known = AgentCapabilities.model_validate(said)
    assert known.model_dump(by_alias=True, exclude_none=True) == said
    assert known.transport is not None
    assert known.transport.resumable
    assert known.model_extra in (None, {})
    assert http.get("/v1/agui/none/capabilities").status_code == 404


class Shown:
    """What the reference client shows: messages, kept through every cut, and rules that it holds streams to."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self.open: set[tuple[str, str]] = set()
        self.custom: dict[int, Any] = {}
        self.last: dict[str, Any] = {}
        self.begun = False

    def cut(self) -> None:
        self.open, self.begun = set(), False

    def take(self, event: dict[str, Any]) -> None:
        kind = event["type"]
        assert self.begun or kind == "RUN_STARTED"
        assert not self.last
        if kind == "RUN_STARTED":
            assert not self.begun
            self.begun = True
        elif kind.endswith(("_START", "_STARTED")) and kind != "REASONING_START":
            key = (kind.split("_")[0], event.get("messageId") or event.get("toolCallId") or event["stepName"])
            assert key not in self.open
            self.open.add(key)
            self._start(key)
        elif kind.endswith(("_END", "STEP_FINISHED")) and kind != "REASONING_END":
            key = (kind.split("_")[0], event.get("messageId") or event.get("toolCallId") or event["stepName"])
            self.open.remove(key)
        elif kind in ("TEXT_MESSAGE_CONTENT", "REASONING_MESSAGE_CONTENT"):
            assert (kind.split("_")[0], event["messageId"]) in self.open
            self._message(event["messageId"])["content"] += event["delta"]
        elif kind == "TOOL_CALL_ARGS":
            self._message(event["toolCallId"])["arguments"] += event["delta"]
        elif kind == "TOOL_CALL_RESULT":
            self.messages.append({"id": event["messageId"], "content": event["content"]})
        elif kind == "MESSAGES_SNAPSHOT":
            self._replace(event["messages"])
        elif kind == "CUSTOM":
            self.custom[event["metadata"]["sequence"]] = event["value"]
        elif kind in ("RUN_FINISHED", "RUN_ERROR"):
            assert not self.open
            self.last = event

    def _start(self, key: tuple[str, str]) -> None:
        if key[0] != "STEP" and not any(each["id"] == key[1] for each in self.messages):
            kind = {"role": key[0]}
            self.messages.append({"id": key[1], **kind, "content": "", "arguments": ""})

    def _message(self, id: str) -> dict[str, Any]:
        return next(each for each in self.messages if each["id"] == id)

    def _replace(self, messages: list[dict[str, Any]]) -> None:
        # Reasoning stays, unless the snapshot holds some.
        owned = any(each["role"] == "reasoning" for each in messages)
        kept = [each for each in self.messages if each.get("role") in ("REASONING", "reasoning") and not owned]
        made = [{"content": "", "arguments": _arguments(each), **each} for each in messages if each["role"] != "user"]
        self.messages = [*kept, *made]

    def said(self) -> list[str]:
        return [each["content"] or each.get("arguments", "") for each in self.messages]


def _arguments(message: dict[str, Any]) -> str:
    calls = message.get("toolCalls") or [{"function": {"arguments": ""}}]
    arguments: str = calls[0]["function"]["arguments"]
    return arguments


def read(http: httpx.Client, agent: str, body: dict[str, Any]) -> Shown:
    shown = Shown()
    for event in events(http, agent, body):
        shown.take(event)
    return shown


def test_a_run(http: httpx.Client) -> None:
    """A run's text, tool calls, results, own events and output are shown, and it has ended."""
    shown = read(http, "tooled", ask("a run", "cats"))
    assert shown.said() == ['{"query": "cats"}', '["a page"]', "looked it up\n"]
    assert list(shown.custom.values()) == [{"n": 1}]
    assert shown.last["outcome"] == {"type": "success"}
    assert shown.last["result"] == {"pages": 1}
    assert read(http, "tooled", ask("a run", "cats")).said() == shown.said()


def test_a_failed_run(http: httpx.Client) -> None:
    """A run that fails ends with its error, after what it said."""
    shown = read(http, "broken", ask("failed", "x"))
    assert shown.said() == ["so far so good"]
    assert (shown.last["type"], shown.last["code"]) == ("RUN_ERROR", "agent_error")


def test_random_cuts(http: httpx.Client) -> None:
    """The same POST after each of many cuts joins the same run, and what is shown at its end is what it said."""
    chance, shown, cuts = random.Random(17), Shown(), 0
    body = ask("cut", json.dumps({"count": COUNT, "interval_ms": 5}))
    while not shown.last:
        shown.cut()
        cuts += 1
        for event in events(http, "ticker", body, chance.randrange(1, 25)):
            shown.take(event)
    assert shown.said() == ["tick " * COUNT]
    assert cuts > 3


def test_gateways_die(agent_service: AgentProcess) -> None:
    """What is shown after gateways were killed is what the run said."""
    shown = Shown()
    body = ask("killed", json.dumps({"count": COUNT, "interval_ms": 10}))
    with GatewayProcess(agent_service.address, "127.0.0.1:1") as mortal:
        while not shown.last:
            shown.cut()
            mortal.start()
            with httpx.Client(base_url=mortal.url, timeout=30.0) as client:
                try:
                    for number, event in enumerate(events(client, "ticker", body)):
                        shown.take(event)
                        if number == 20:
                            mortal.kill()
                except httpx.TransportError:
                    pass
    assert shown.said() == ["tick " * COUNT]


def test_an_interrupt(http: httpx.Client) -> None:
    """A run that asks ends with an interrupt; the answer is the next run of the client, and may be posted twice."""
    asked = read(http, "asker", ask("asks", "who?"))
    (interrupt,) = asked.last["outcome"]["interrupts"]
    assert (asked.last["outcome"]["type"], interrupt["reason"]) == ("interrupt", "data")
    assert interrupt["metadata"]["arguments"] == {"why": "who?"}
    resume = [{"interruptId": interrupt["id"], "status": "resolved", "payload": "Ada"}]
    for _ in range(2):
        answered = read(http, "asker", ask("answers", "who?", resume=resume))
        assert answered.said() == ["hello Ada"]
        assert answered.last["runId"] == "answers"
        assert answered.last["result"] == "hello Ada"


@pytest.mark.parametrize(
    "agent, body, status, field",
    [
        ("none", ask("x", "x"), 404, None),
        ("ticker", ask("x", "no ticks"), 400, "input"),
        ("ticker", {**ask("x"), "threadId": ""}, 400, "threadId"),
        ("ticker", {**ask("x"), "runId": 3}, 400, "runId"),
        ("ticker", {**ask("x"), "messages": "x"}, 400, "messages"),
        ("ticker", {**ask("x"), "messages": []}, 400, "messages"),
        ("asker", {**ask("x"), "messages": [{"role": "user", "content": [{"type": "image"}]}]}, 400, "messages"),
        ("asker", ask("x", resume=[{"interruptId": "x"}]), 400, "resume"),
        ("asker", ask("x", resume=[{"interruptId": "none:0:q", "status": "odd"}]), 400, "resume"),
        ("asker", ask("x", resume=[{"interruptId": "none:0:q", "status": "cancelled"}]), 404, None),
    ],
)
def test_what_is_wrong(http: httpx.Client, agent: str, body: dict[str, Any], status: int, field: str | None) -> None:
    """A body that asks for nothing that there is, is an error with a status, never a stream."""
    answer = http.post(f"/v1/agui/{agent}", json=body)
    assert answer.status_code == status, answer.text
    if field is not None:
        assert field in [each["field"] for each in answer.json()["violations"]]


def log(*payloads: tuple[int, Any]) -> list[run_event_pb2.RunEvent]:
    """Events of these steps with these payloads."""
    fields = run_event_pb2.RunEvent.DESCRIPTOR.oneofs[0].fields
    names = {each.message_type.name: each.name for each in fields if each.message_type is not None}
    return [
        run_event_pb2.RunEvent(sequence=number, step=step, **{names[type(each).__name__]: each})
        for number, (step, each) in enumerate(payloads, 1)
    ]


BEGIN = run_event_pb2.StepStarted(name="model")
CALL = run_event_pb2.ToolCallStarted(tool_call_id="t", tool_name="look", arguments=to_value({"n": 1}))
RESULT = run_event_pb2.ToolCallFinished(
    tool_call_id="t", tool_name="look", result=to_value("no"), outcome=run_event_pb2.TOOL_CALL_OUTCOME_DENIED
)
DONE = run_event_pb2.RunFinished(state=run_pb2.RUN_STATE_SUCCEEDED, output=to_value("new"))


def say(text: str) -> run_event_pb2.TextDelta:
    return run_event_pb2.TextDelta(text=text)


def think(text: str) -> run_event_pb2.ReasoningDelta:
    return run_event_pb2.ReasoningDelta(text=text)


LOGS: dict[str, tuple[list[run_event_pb2.RunEvent], list[str]]] = {
    "a step again": (
        log((1, BEGIN), (1, think("old")), (1, say("old")), (1, BEGIN), (1, say("new")), (0, DONE)),
        ["", "new"],
    ),
    "another step continues": (
        log((1, BEGIN), (2, BEGIN), (2, say("ke")), (1, say("old")), (1, BEGIN), (2, say("pt")), (1, say("new")),
            (0, DONE)),
        ["kept", "new"],
    ),
    "a call again": (
        log((1, BEGIN), (1, say("so")), (1, CALL), (1, CALL), (1, RESULT), (1, say("new")), (0, DONE)),
        ["so", '{"n": 1}', "no", "new"],
    ),
    "the run again": (
        log((0, run_event_pb2.RunStarted()), (1, BEGIN), (1, think("old")), (1, CALL), (0, run_event_pb2.RunStarted()),
            (1, BEGIN), (1, think("new")), (0, DONE)),
        ["new"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LOGS)
def test_every_place_shows_the_same(name: str) -> None:
    """Whoever is cut anywhere and joins anywhere later is shown at the end what was never cut shows, all valid."""
    whole, said = LOGS[name]
    for cut in range(len(whole) + 1):
        for joined in range(cut, len(whole) + 1):
            shown = Shown()
            _show(shown, whole, 0, cut)
            if not shown.last:
                shown.cut()
                _show(shown, whole, joined, len(whole))
            assert [each for each in shown.said() if each] == [each for each in said if each], (cut, joined)
            assert shown.last["type"] == "RUN_FINISHED"


def _show(shown: Shown, whole: list[run_event_pb2.RunEvent], start: int, stop: int) -> None:
    """Shows what a reader gets who comes after `start` events and leaves after `stop`."""
    translation = Translation("r", 0, {"threadId": "t", "runId": "c", "messages": []})
    for event in whole[:start]:
        translation.take(event)
    made = translation.begin()
    for event in whole[start:stop]:
        made += translation.take(event)
    for each in made:
        EVENT.validate_python(each)
        shown.take(each)


def test_an_approval() -> None:
    """An approval names its tool call, and the call that it allowed has its result in the next part."""
    wanted = run_pb2.PendingRequest(request_id="q", kind=run_pb2.PENDING_KIND_APPROVAL, name="look", tool_call_id="t")
    whole = log((1, BEGIN), (1, CALL), (1, run_event_pb2.RunSuspended(pending=[wanted])))
    whole += log((1, run_event_pb2.RunResumed()), (1, RESULT), (0, DONE))
    body = {"threadId": "t", "runId": "c", "messages": []}
    first, second = Translation("r", 0, body), Translation("r", 1, body)
    made = [each for event in whole for each in first.take(event)]
    (interrupt,) = made[-1]["outcome"]["interrupts"]
    assert interrupt["toolCallId"] == made[1]["toolCallId"]
    after = [each for event in whole for each in second.take(event)]
    assert [each["type"] for each in after][:4] == [
        "TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "TOOL_CALL_RESULT",
    ]  # fmt: skip
    entry = {
        "interruptId": interrupt["id"],
        "status": "resolved",
        "payload": {"approved": True, "editedArgs": {"n": 2}},
    }
    run_id, part, (answer,) = resumed(checked({**ask("x"), "resume": [entry]}))
    assert (run_id, part, answer.request_id) == ("r", 0, "q")
    assert answer.approve.override_arguments.fields["n"].number_value == 2
    entry["payload"] = {"approved": False, "message": "no"}
    assert resumed(checked({**ask("x"), "resume": [entry]}))[2][0].deny.message == "no"
    with pytest.raises(InvalidRequest):
        resumed(checked({**ask("x"), "resume": [entry, {**entry, "interruptId": "other:0:q"}]}))
