"""What `fold` makes of logs, as JSON that clients in every language are held to: tests/vectors/fold.json.

`python -m tests.gateway.fold_vectors` writes the file again.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import Message

from runwire.agent.v1 import run_event_pb2 as pb
from runwire.agent.v1 import run_pb2
from runwire.fold import RunView, Step, ToolCall, Turn, fold
from runwire.values import to_struct, to_value

FILE: Final = Path(__file__).parents[1] / "vectors" / "fold.json"
RANDOM_LOGS: Final = 40
_KEYS: Final[dict[str, Any]] = {"__proto__": {"a": 1}, "": []}
_HARD: Final[tuple[Any, ...]] = (
    "",
    "plain",
    "a\u0000b",
    "</script>",
    "\U0001f600",
    None,
    0,
    -1.5,
    [1, [None]],
    {"__proto__": {"a": 1}, "": []},
)
_MOST: Final = 2**63 - 1


def as_json(view: RunView) -> dict[str, Any]:
    """The view, in the names and types of protobuf JSON; counts are numbers."""
    return {
        "runId": view.run_id,
        "agentId": view.agent_id,
        "state": run_pb2.RunState.Name(view.state),
        "ended": view.ended,
        "input": view.input,
        "output": view.output,
        "error": None if view.error is None else _message(view.error),
        "attempt": view.attempt,
        "steps": [_step(view.steps[number]) for number in sorted(view.steps)],
        "turns": [_turn(view.turns[number]) for number in sorted(view.turns)],
        "pending": [_message(each) for each in view.pending],
        "usage": _counts(view.usage),
        "lastSequence": view.last_sequence,
        "firstSequence": view.first_sequence,
        "partial": view.partial,
    }


def _step(step: Step) -> dict[str, Any]:
    return {
        "step": step.step,
        "attempt": step.attempt,
        "turn": step.turn,
        "name": step.name,
        "text": step.text,
        "reasoning": step.reasoning,
        "toolCalls": [_tool_call(each) for each in step.tool_calls],
        "custom": [{"type": each.type, "data": each.data} for each in step.custom],
        "finished": step.finished,
        "usage": _counts(step.usage),
    }


def _tool_call(call: ToolCall) -> dict[str, Any]:
    return {
        "toolCallId": call.tool_call_id,
        "toolName": call.tool_name,
        "arguments": call.arguments,
        "result": call.result,
        "outcome": pb.ToolCallOutcome.Name(call.outcome),
    }


def _turn(turn: Turn) -> dict[str, Any]:
    return {
        "turn": turn.turn,
        "message": turn.message,
        "messageNumber": turn.message_number,
        "state": run_pb2.RunState.Name(turn.state),
        "output": turn.output,
        "error": None if turn.error is None else _message(turn.error),
        "usage": _counts(turn.usage),
        "received": [{"messageNumber": number, "message": message} for number, message in turn.received],
        "steps": list(turn.steps),
    }


def _counts(usage: run_pb2.Usage) -> dict[str, int]:
    return {each.camelcase_name: getattr(usage, each.name) for each in usage.DESCRIPTOR.fields}


def _message(message: Message) -> dict[str, Any]:
    return json_format.MessageToDict(message)


def logs() -> Iterator[tuple[str, list[pb.RunEvent]]]:
    """Named logs: a life of each kind, and random ones, in which steps, turns and runs begin again at any place."""
    yield "nothing", []
    yield "begun in the middle", [_event(7, 1, 1, text_delta=pb.TextDelta(text="late"))]
    yield (
        "given twice",
        [
            _event(1, 1, 0, run_started=pb.RunStarted(run_id="r", agent_id="a", input=to_value("hi"))),
            *[_event(2, 1, 1, text_delta=pb.TextDelta(text="once"))] * 2,
        ],
    )
    yield "a payload that is not known", [pb.RunEvent(sequence=1, attempt=3)]
    for seed in range(RANDOM_LOGS):
        yield f"random {seed}", _random_log(random.Random(seed))


def _random_log(chance: random.Random) -> list[pb.RunEvent]:
    events: list[pb.RunEvent] = []
    attempt, conversation = 1, chance.random() < 0.4
    sequence = chance.choice([0, 0, 0, 5])
    for _ in range(chance.randrange(5, 50)):
        sequence += 1
        attempt += chance.random() < 0.08
        turn = chance.randrange(1, 4) if conversation else 0
        # A step belongs to one turn; step 0 to none.
        step = chance.randrange(0, 4)
        name, payload = _payload(chance, conversation)
        of_attempt = max(1, attempt - (chance.random() < 0.1))
        events.append(_event(sequence, of_attempt, step and step + 3 * turn, turn, **{name: payload}))
    return events


def _payload(chance: random.Random, conversation: bool) -> tuple[str, Message]:
    call = {"tool_call_id": chance.choice("xyz"), "tool_name": chance.choice(["look", ""])}
    value = to_value(chance.choice(_HARD))
    usage = run_pb2.Usage(requests=chance.choice([0, 1, _MOST]), input_tokens=chance.randrange(10**6))
    state = chance.choice([run_pb2.RUN_STATE_SUCCEEDED, run_pb2.RUN_STATE_FAILED])
    error = run_pb2.RunError(reason="AGENT_ERROR", message="no") if chance.random() < 0.5 else None
    pending = [run_pb2.PendingRequest(request_id="q", kind=run_pb2.PENDING_KIND_APPROVAL, arguments=value)]
    number = chance.randrange(1, 2**40)
    of_step: list[tuple[str, Message]] = [
        ("step_started", pb.StepStarted(name=chance.choice(["model", ""]))),
        ("text_delta", pb.TextDelta(text=chance.choice(["", "tick ", "\u202e<b>", "\U0001f600"]))),
        ("text_delta", pb.TextDelta(text="tock ")),
        ("reasoning_delta", pb.ReasoningDelta(text="why ")),
        ("tool_call_started", pb.ToolCallStarted(**call, arguments=value)),
        ("tool_call_finished", pb.ToolCallFinished(**call, result=value, outcome=chance.choice([0, 1, 4]))),  # type: ignore[arg-type]
        ("step_finished", pb.StepFinished(name="model", usage=usage)),
        ("custom", pb.CustomEvent(type=chance.choice(["note", ""]), data=to_struct({"value": 1}))),
    ]
    of_run: list[tuple[str, Message]] = [
        ("run_started", pb.RunStarted(run_id="r", agent_id="a", input=value)),
        ("run_suspended", pb.RunSuspended(pending=pending)),
        ("run_resumed", pb.RunResumed()),
        ("run_finished", pb.RunFinished(state=state, output=value, error=error, usage=usage)),
    ]
    of_turn: list[tuple[str, Message]] = [
        ("turn_started", pb.TurnStarted(message=value, message_number=number)),
        ("turn_finished", pb.TurnFinished(state=state, output=value, error=error, usage=usage)),
        ("message_received", pb.MessageReceived(message=value, message_number=number)),
    ]
    among: Sequence[tuple[str, Message]] = of_step
    if chance.random() < 0.12:
        among = of_run
    elif conversation and chance.random() < 0.2:
        among = of_turn
    return chance.choice(among)


def _event(sequence: int, attempt: int, step: int, turn: int = 0, **payload: Any) -> pb.RunEvent:
    return pb.RunEvent(sequence=sequence, attempt=attempt, step=step, turn=turn, **payload)


def vectors() -> list[dict[str, Any]]:
    """What the file holds."""
    return [
        {"name": name, "events": [_message(event) for event in events], "view": as_json(fold(events))}
        for name, events in logs()
    ]


def text() -> str:
    """The file: a vector a line. Sorted, because maps of protobuf have no order."""
    return "[\n" + ",\n".join(json.dumps(each, sort_keys=True) for each in vectors()) + "\n]\n"


if __name__ == "__main__":
    FILE.write_text(text())
