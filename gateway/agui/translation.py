"""The log of a run as AG-UI events.

A reader may come at any time. It is given RUN_STARTED, a snapshot of the messages as they are, a start for each that
is still being said, and from there on what is new: a client applies that to whatever it had before, and has the same.
The same way takes back what a crash made void: a snapshot without it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.parts import waits_for_somebody
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.values import from_struct, from_value

Members = dict[str, Any]

VERSION: Final = "1.0"
_KINDS: Final = {
    run_pb2.PENDING_KIND_APPROVAL: "tool_approval",
    run_pb2.PENDING_KIND_EXTERNAL_TOOL: "external_tool",
    run_pb2.PENDING_KIND_DATA: "data",
}


@dataclass
class _Item:
    """A message, a tool call with its result, or an event of the author's, in the order of the log."""

    kind: str
    id: str
    step: int
    text: list[str] = field(default_factory=list)
    open: bool = False
    members: Members = field(default_factory=dict)


class Translation:
    """One part of one run, for one AG-UI run of a client."""

    def __init__(self, run_id: str, part: int, asked: Members) -> None:
        self._asked = asked
        self._run_id = run_id
        self._part = part
        self._skip = part
        self._items: list[_Item] = []
        self._spoken: dict[int, _Item] = {}  # by step: where its next piece of text goes
        self._steps: dict[int, str] = {}  # those that are active, with the names they are shown by
        self._last: list[Members] = []
        self._taken_back: set[str] = set()  # reasoning, which a snapshot that holds none would leave where it is
        self._made = 0

    @property
    def ended(self) -> bool:
        """Whether the last event has been given."""
        return bool(self._last)

    def begin(self) -> list[Members]:
        """What a reader is given who comes now."""
        asked = self._asked
        started = {"type": "RUN_STARTED", "threadId": asked["threadId"], "runId": asked["runId"]}
        made: list[Members] = [{**started, "protocolVersion": VERSION}]
        made += [{"type": "STEP_STARTED", "stepName": name} for name in self._steps.values()]
        if self._made:  # also where all of it is void: a reader may still show it
            made.append(self._snapshot())
        made += [each.members for each in self._items if each.kind == "custom"]
        return [*made, *self._starts(), *self._last]

    def take(self, event: run_event_pb2.RunEvent) -> list[Members]:
        """What the next event adds."""
        if self.ended:
            return []
        if self._skip:
            self._skip -= waits_for_somebody(event)
            return []
        handle = self._HANDLERS.get(event.WhichOneof("payload") or "")
        return list(handle(self, event)) if handle is not None else []

    # Each handler gives the events that one event of the log becomes.

    def _run_started(self, event: run_event_pb2.RunEvent) -> Iterable[Members]:
        made = [member for step in list(self._steps) for member in self._leave(step)]
        return [*made, *self._take_back(lambda item: True)]

    def _step_started(self, event: run_event_pb2.RunEvent) -> Iterable[Members]:
        made = [*self._leave(event.step), *self._take_back(lambda item: item.step == event.step)]
        name = event.step_started.name
        shown = name if name not in self._steps.values() else f"{name} ({event.step})"
        self._steps[event.step] = shown
        return [*made, {"type": "STEP_STARTED", "stepName": shown}]

    def _step_finished(self, event: run_event_pb2.RunEvent) -> Iterable[Members]:
        return [*self._hush(event.step), *self._leave(event.step)]

    def _text(self, event: run_event_pb2.RunEvent) -> Iterable[Members]:
        return self._say("text", event.step, event.text_delta.text)

    def _reasoning(self, event: run_event_pb2.RunEvent) -> Iterable[Members]:
        return self._say("reasoning", event.step, event.reasoning_delta.text)

    def _say(self, kind: str, step: int, text: str) -> Iterable[Members]:
        if not text:
            return []
        made: list[Members] = []
        item = self._spoken.get(step)
        if item is None or item.kind != kind:
            made += self._hush(step)
            item = self._item(kind, step, open=True)
            self._spoken[step] = item
            made += _start(item)
        item.text.append(text)
        type = "TEXT_MESSAGE_CONTENT" if kind == "text" else "REASONING_MESSAGE_CONTENT"
        return [*made, {"type": type, "messageId": item.id, "delta": text}]

    def _tool_started(self, event: run_event_pb2.RunEvent) -> Iterable[Members]:
        call = event.tool_call_started
        made = [*self._hush(event.step), *self._take_back(self._is_call(event.step, call.tool_call_id))]
        return [*made, *self._call(event.step, call.tool_call_id, call.tool_name, _json(from_value(call.arguments)))]

    def _call(self, step: int, call_id: str, name: str, arguments: str) -> Iterable[Members]:
        item = self._item("tool", step)
        item.members = {"call": call_id, "name": name, "arguments": arguments}
        return [
            {"type": "TOOL_CALL_START", "toolCallId": item.id, "toolCallName": name},
            {"type": "TOOL_CALL_ARGS", "toolCallId": item.id, "delta": arguments},
            {"type": "TOOL_CALL_END", "toolCallId": item.id},
        ]

    def _tool_finished(self, event: run_event_pb2.RunEvent) -> Iterable[Members]:
        call = event.tool_call_finished
        made: list[Members] = []
        fits = self._is_call(event.step, call.tool_call_id)
        item = next((each for each in reversed(self._items) if fits(each)), None)
        if item is None or "result" in item.members:  # it was begun before the answer that this part follows
            made += self._call(event.step, call.tool_call_id, call.tool_name, "{}")
            item = self._items[-1]
        result = from_value(call.result)
        item.members["result"] = result if isinstance(result, str) else _json(result)
        if call.outcome != run_event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED:
            item.members["error"] = run_event_pb2.ToolCallOutcome.Name(call.outcome)
        about = {"messageId": f"{item.id}-result", "toolCallId": item.id, "role": "tool"}
        return [*made, {"type": "TOOL_CALL_RESULT", **about, "content": item.members["result"]}]

    def _custom(self, event: run_event_pb2.RunEvent) -> Iterable[Members]:
        item = self._item("custom", event.step)
        value = from_struct(event.custom.data)
        # A reader that joins again is given it again: the number tells.
        item.members = {"type": "CUSTOM", "name": event.custom.type, "value": value}
        item.members["metadata"] = {"sequence": event.sequence}
        return [item.members]

    def _suspended(self, event: run_event_pb2.RunEvent) -> Iterable[Members]:
        if not waits_for_somebody(event):
            return []
        wanted = [each for each in event.run_suspended.pending if each.kind != run_pb2.PENDING_KIND_TIME]
        interrupts = [self._interrupt(each) for each in wanted]
        return self._end(self._finish({"type": "interrupt", "interrupts": interrupts}))

    def _interrupt(self, pending: run_pb2.PendingRequest) -> Members:
        made: Members = {
            "id": f"{self._run_id}:{self._part}:{pending.request_id}",
            "reason": _KINDS.get(pending.kind, "data"),
            "message": pending.name,
            "metadata": {"name": pending.name, "arguments": from_value(pending.arguments)},
        }
        call = next((each.id for each in self._items if each.members.get("call") == pending.tool_call_id), None)
        if pending.tool_call_id and call is not None:
            made["toolCallId"] = call
        if pending.HasField("schema"):
            made["responseSchema"] = from_struct(pending.schema)
        if pending.HasField("deadline"):
            made["expiresAt"] = pending.deadline.ToJsonString()
        return made

    def _finished(self, event: run_event_pb2.RunEvent) -> Iterable[Members]:
        finished = event.run_finished
        if finished.state == run_pb2.RUN_STATE_FAILED:
            error = finished.error
            return self._end({"type": "RUN_ERROR", "message": error.message, "code": error.reason})
        if finished.state == run_pb2.RUN_STATE_CANCELLED:
            return self._end(self._finish({"type": "cancelled"}))
        result = {"result": from_value(finished.output)} if finished.HasField("output") else {}
        return self._end({**self._finish({"type": "success"}), **result})

    _HANDLERS: Final[dict[str, Callable[[Translation, run_event_pb2.RunEvent], Iterable[Members]]]] = {
        "run_started": _run_started,
        "step_started": _step_started,
        "step_finished": _step_finished,
        "text_delta": _text,
        "reasoning_delta": _reasoning,
        "tool_call_started": _tool_started,
        "tool_call_finished": _tool_finished,
        "custom": _custom,
        "run_suspended": _suspended,
        "run_finished": _finished,
    }

    def _finish(self, outcome: Members) -> Members:
        ids = {"threadId": self._asked["threadId"], "runId": self._asked["runId"]}
        return {"type": "RUN_FINISHED", **ids, "outcome": outcome}

    def _end(self, last: Members) -> Iterable[Members]:
        made = [member for step in list(self._spoken) for member in self._hush(step)]
        made += [member for step in list(self._steps) for member in self._leave(step)]
        self._last = [last]
        return [*made, last]

    def _item(self, kind: str, step: int, *, open: bool = False) -> _Item:
        item = _Item(kind, f"{self._prefix}{self._made}", step, open=open)
        self._made += 1
        self._items.append(item)
        return item

    @property
    def _prefix(self) -> str:
        return f"{self._run_id}-{self._part}-"

    def _is_call(self, step: int, call_id: str) -> Callable[[_Item], bool]:
        return lambda item: item.kind == "tool" and item.step == step and item.members["call"] == call_id

    def _hush(self, step: int) -> list[Members]:
        """Ends what a step says at the moment."""
        item = self._spoken.pop(step, None)
        if item is None:
            return []
        item.open = False
        return _ends(item)

    def _leave(self, step: int) -> list[Members]:
        name = self._steps.pop(step, None)
        return [{"type": "STEP_FINISHED", "stepName": name}] if name is not None else []

    def _take_back(self, void: Callable[[_Item], bool]) -> list[Members]:
        """Removes what is void, from what readers have too."""
        gone = [each for each in self._items if void(each)]
        if not gone:
            return []
        ends = [member for step in list(self._spoken) for member in _ends(self._spoken[step])]
        for item in gone:
            if self._spoken.get(item.step) is item:
                del self._spoken[item.step]
            if item.kind == "reasoning":
                self._taken_back.add(item.id)
        self._items = [each for each in self._items if not void(each)]
        return [*ends, self._snapshot(), *self._starts()]

    def _starts(self) -> list[Members]:
        """Opens again what is still being said; what was said of it is in the snapshot."""
        return [member for item in self._items if item.open for member in _start(item)]

    def _snapshot(self) -> Members:
        given = [each for each in self._asked["messages"] if not str(each.get("id", "")).startswith(self._prefix)]
        said = [message for item in self._items for message in _messages(item)]
        if not any(each["role"] == "reasoning" for each in said):
            said += [{"id": id, "role": "reasoning", "content": ""} for id in sorted(self._taken_back)]
        return {"type": "MESSAGES_SNAPSHOT", "messages": [*given, *said]}


def _start(item: _Item) -> list[Members]:
    if item.kind == "text":
        return [{"type": "TEXT_MESSAGE_START", "messageId": item.id, "role": "assistant"}]
    return [
        {"type": "REASONING_START", "messageId": item.id},
        {"type": "REASONING_MESSAGE_START", "messageId": item.id, "role": "reasoning"},
    ]


def _ends(item: _Item) -> list[Members]:
    types = ["TEXT_MESSAGE_END"] if item.kind == "text" else ["REASONING_MESSAGE_END", "REASONING_END"]
    return [{"type": type, "messageId": item.id} for type in types]


def _messages(item: _Item) -> list[Members]:
    if item.kind == "custom":
        return []
    if item.kind != "tool":
        role = "assistant" if item.kind == "text" else "reasoning"
        return [{"id": item.id, "role": role, "content": "".join(item.text)}]
    about = {"name": item.members["name"], "arguments": item.members["arguments"]}
    made: list[Members] = [
        {"id": item.id, "role": "assistant", "toolCalls": [{"id": item.id, "type": "function", "function": about}]}
    ]
    if "result" in item.members:
        result = {"id": f"{item.id}-result", "role": "tool", "toolCallId": item.id, "content": item.members["result"]}
        made.append({**result, "error": item.members["error"]} if "error" in item.members else result)
    return made


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
