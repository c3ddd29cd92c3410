"""The log of a run as the events of a response: a function of the log alone, so that every reading gives the same.

A response is what a run does until it ends or waits for somebody; what comes after an answer is the next response, as
that API has it: `resp_<run>` is the first, `resp_<run>_1` the one after the first answer. Sequence numbers are dense
from 0, so a reader that comes back with the last one is given what a translation from the beginning makes after it.

Text that was superseded cannot be called back: its item ends as `incomplete`, and the finished response lacks it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from gateway.parts import waits_for_somebody
from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.errors import RunNotFound
from runwire.values import from_value

Members = dict[str, Any]

_ID: Final = re.compile(r"resp_([\w.-]+?)(?:_(\d{1,6}))?", re.ASCII)
_STATES: Final = {
    run_pb2.RUN_STATE_SUCCEEDED: "completed",
    run_pb2.RUN_STATE_FAILED: "failed",
    run_pb2.RUN_STATE_CANCELLED: "cancelled",
}


@dataclass(frozen=True)
class ResponseId:
    """Names a part of a run: what it does after `answered` suspensions, until the next one or its end."""

    run_id: str
    answered: int = 0

    def __str__(self) -> str:
        return f"resp_{self.run_id}_{self.answered}" if self.answered else f"resp_{self.run_id}"

    @property
    def next(self) -> ResponseId:
        return ResponseId(self.run_id, self.answered + 1)

    @property
    def previous(self) -> ResponseId | None:
        return ResponseId(self.run_id, self.answered - 1) if self.answered else None


def response_id(text: str) -> ResponseId:
    """Reads an id back. Raises RunNotFound: what is no id names nothing."""
    match = _ID.fullmatch(text)
    if match is None:
        raise RunNotFound(f"no such response: {text!r}")
    return ResponseId(match[1], int(match[2] or 0))


@dataclass
class _Item:
    """One item of the output."""

    place: int
    step: int
    members: Members
    call_id: str = ""
    """Of a tool call, within its step."""
    text: list[str] = field(default_factory=list)
    open: bool = True
    superseded: bool = False

    @property
    def id(self) -> str:
        identifier: str = self.members["id"]
        return identifier


class Translation:
    """Takes the events of a run from the first one, and gives those of one response."""

    def __init__(self, run: run_pb2.Run, id: ResponseId) -> None:
        self.run_id = id.run_id
        self._run = run
        self._id = id
        self._skip = id.answered
        self._sequence = 0
        self._items: list[_Item] = []
        self._of_step: dict[int, list[_Item]] = {}  # what is not superseded
        self._spoken: dict[int, _Item] = {}  # by step: where its next piece of text goes
        self._given: dict[tuple[int, str], str] = {}  # arguments of calls of earlier responses
        self._usage = run_pb2.Usage()
        self._error: Members | None = None
        self._created_at = run.create_time.seconds
        self._completed_at: int | None = None
        self.status = "queued"

    @property
    def begun(self) -> bool:
        """Whether the log has got as far as this response."""
        return self._skip == 0

    @property
    def ended(self) -> bool:
        return self.status not in ("queued", "in_progress")

    def begin(self) -> list[Members]:
        """What can be said before the first event of the log."""
        return [self._snapshot("response.created")] if self.begun else []

    def take(self, event: run_event_pb2.RunEvent) -> list[Members]:
        """What the next event adds."""
        if self.ended:
            return []
        if not self.begun:
            return self._pass(event)
        made: list[Members] = []
        if self.status == "queued":
            self.status = "in_progress"
            made.append(self._snapshot("response.in_progress"))
        handle = self._HANDLERS.get(event.WhichOneof("payload") or "")
        if handle is not None:
            made += handle(self, event)
        return made

    def response(self) -> Members:
        """The response as it is after the events so far."""
        previous = self._id.previous
        return {
            "id": str(self._id),
            "object": "response",
            "created_at": self._created_at,
            "completed_at": self._completed_at,
            "status": self.status,
            "background": True,
            "model": self._run.agent_id,
            "output": [_shown(each) for each in self._items if not each.superseded],
            "error": self._error,
            "incomplete_details": None,
            "instructions": None,
            "metadata": dict(self._run.labels),
            "parallel_tool_calls": True,
            "previous_response_id": str(previous) if previous else None,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "usage": _usage(self._usage) if self.ended else None,
        }

    def _pass(self, event: run_event_pb2.RunEvent) -> list[Members]:
        """An event of an earlier response."""
        call = event.tool_call_started
        if call.tool_call_id:
            self._given[event.step, call.tool_call_id] = _json(from_value(call.arguments))
        if not waits_for_somebody(event):
            return []
        self._skip -= 1
        self._created_at = event.create_time.seconds
        return self.begin()

    # Each handler gives the events that one event of the log becomes.

    def _run_started(self, event: run_event_pb2.RunEvent) -> Iterator[Members]:
        for item in [each for each in self._items if not each.superseded]:
            yield from self._supersede(item)

    def _step_started(self, event: run_event_pb2.RunEvent) -> Iterator[Members]:
        for item in list(self._of_step.get(event.step, ())):
            yield from self._supersede(item)

    def _text(self, event: run_event_pb2.RunEvent) -> Iterator[Members]:
        yield from self._say(event.step, event.text_delta.text)

    def _say(self, step: int, text: str) -> Iterator[Members]:
        if not text:
            return
        item = self._spoken.get(step)
        if item is None or item.members["type"] != "message":
            yield from self._close_spoken(step)
            item = self._item(step, "msg", {"type": "message", "role": "assistant", "content": []})
            self._spoken[step] = item
            yield self._of(item, "response.output_item.added", item={**item.members, "status": "in_progress"})
            yield self._of(item, "response.content_part.added", content_index=0, part=_part(""))
        item.text.append(text)
        yield self._of(item, "response.output_text.delta", content_index=0, delta=text, logprobs=[])

    def _reasoning(self, event: run_event_pb2.RunEvent) -> Iterator[Members]:
        text = event.reasoning_delta.text
        if not text:
            return
        item = self._spoken.get(event.step)
        if item is None or item.members["type"] != "reasoning":
            yield from self._close_spoken(event.step)
            item = self._item(event.step, "rs", {"type": "reasoning", "summary": []})
            self._spoken[event.step] = item
            part = {"type": "summary_text", "text": ""}
            yield self._of(item, "response.output_item.added", item={**item.members, "status": "in_progress"})
            yield self._of(item, "response.reasoning_summary_part.added", summary_index=0, part=part)
        item.text.append(text)
        yield self._of(item, "response.reasoning_summary_text.delta", summary_index=0, delta=text)

    def _tool_started(self, event: run_event_pb2.RunEvent) -> Iterator[Members]:
        call = event.tool_call_started
        earlier = self._call(event.step, call.tool_call_id)
        if earlier is not None:
            yield from self._supersede(earlier)
        yield from self._close_spoken(event.step)
        yield from self._begin_call(event.step, call.tool_call_id, call.tool_name, _json(from_value(call.arguments)))

    def _begin_call(self, step: int, call_id: str, name: str, arguments: str) -> Iterator[Members]:
        members = {"type": "mcp_call", "name": name, "server_label": self._run.agent_id, "arguments": arguments}
        item = self._item(step, "mcp", members)
        item.call_id = call_id
        begun = {**members, "id": item.id, "arguments": "", "status": "in_progress"}
        yield self._of(item, "response.output_item.added", item=begun)
        yield self._of(item, "response.mcp_call.in_progress")
        yield self._of(item, "response.mcp_call_arguments.delta", delta=arguments)
        yield self._of(item, "response.mcp_call_arguments.done", arguments=arguments)

    def _tool_finished(self, event: run_event_pb2.RunEvent) -> Iterator[Members]:
        call = event.tool_call_finished
        item = self._call(event.step, call.tool_call_id)
        if item is None or not item.open:
            arguments = self._given.get((event.step, call.tool_call_id), "{}")
            yield from self._begin_call(event.step, call.tool_call_id, call.tool_name, arguments)
            item = self._items[-1]
        result = from_value(call.result)
        text = result if isinstance(result, str) else _json(result)
        if call.outcome == run_event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED:
            item.members["output"] = text
        else:
            content = [{"type": "text", "text": text}]
            item.members["error"] = {"type": "mcp_tool_execution_error", "content": content}
        word = "completed" if "output" in item.members else "failed"
        yield self._of(item, f"response.mcp_call.{word}")
        yield from self._close(item, word)

    def _step_finished(self, event: run_event_pb2.RunEvent) -> Iterator[Members]:
        yield from self._close_spoken(event.step)
        for name in ("requests", "input_tokens", "output_tokens", "tool_calls"):
            setattr(self._usage, name, getattr(self._usage, name) + getattr(event.step_finished.usage, name))

    def _suspended(self, event: run_event_pb2.RunEvent) -> Iterator[Members]:
        if not waits_for_somebody(event):
            return
        yield from self._close_all("completed")
        for pending in event.run_suspended.pending:
            if pending.kind != run_pb2.PENDING_KIND_TIME:
                yield from self._ask(event.step, pending)
        yield self._end("completed", event)

    def _ask(self, step: int, pending: run_pb2.PendingRequest) -> Iterator[Members]:
        """What the run waits for, as the kind of item that this API answers."""
        arguments = _json(from_value(pending.arguments))
        if pending.kind == run_pb2.PENDING_KIND_APPROVAL:
            members = {
                "type": "mcp_approval_request",
                "id": pending.request_id,
                "name": pending.name,
                "server_label": self._run.agent_id,
                "arguments": arguments,
            }
        else:
            members = {
                "type": "function_call",
                "call_id": pending.request_id,
                "name": pending.name,
                "arguments": arguments,
            }
        item = self._item(step, "fc", members)
        begun = {**item.members, "status": "in_progress", "arguments": ""}
        if members["type"] == "function_call":
            yield self._of(item, "response.output_item.added", item=begun)
            yield self._of(item, "response.function_call_arguments.delta", delta=arguments)
            name = pending.name
            yield self._of(item, "response.function_call_arguments.done", arguments=arguments, name=name)
        else:
            yield self._of(item, "response.output_item.added", item=item.members)
        yield from self._close(item, "completed")

    def _finished(self, event: run_event_pb2.RunEvent) -> Iterator[Members]:
        finished = event.run_finished
        status = _STATES[finished.state]
        yield from self._close_all("completed" if status == "completed" else "incomplete")
        if status == "completed":
            output = from_value(finished.output) if finished.HasField("output") else None
            if output is not None and not self._said(output):
                yield from self._say(-1, output if isinstance(output, str) else _json(output))
                yield from self._close_all("completed")
        if status == "failed":
            message = f"{finished.error.reason}: {finished.error.message}"
            self._error = {"code": "server_error", "message": message}
        self._usage = finished.usage
        yield self._end(status, event)

    _HANDLERS: Final[dict[str, Callable[[Translation, run_event_pb2.RunEvent], Iterator[Members]]]] = {
        "run_started": _run_started,
        "step_started": _step_started,
        "text_delta": _text,
        "reasoning_delta": _reasoning,
        "tool_call_started": _tool_started,
        "tool_call_finished": _tool_finished,
        "step_finished": _step_finished,
        "run_suspended": _suspended,
        "run_finished": _finished,
    }

    def _end(self, status: str, event: run_event_pb2.RunEvent) -> Members:
        self.status = status
        self._completed_at = event.create_time.seconds
        return self._snapshot(f"response.{status}")

    def _said(self, output: Any) -> bool:
        """Whether the output is what the agent has said, as a whole or as the last thing."""
        said = ["".join(each.text) for each in self._items if each.members["type"] == "message" and not each.superseded]
        return isinstance(output, str) and output.strip() in (*(text.strip() for text in said), "".join(said).strip())

    def _call(self, step: int, call_id: str) -> _Item | None:
        """The newest call of this id in the step."""
        calls = (each for each in reversed(self._of_step.get(step, [])) if each.members["type"] == "mcp_call")
        return next((each for each in calls if each.call_id == call_id), None)

    def _item(self, step: int, kind: str, members: Members) -> _Item:
        place = len(self._items)
        item = _Item(place, step, {"id": f"{kind}_{self._id.run_id}_{self._id.answered}_{place}", **members})
        self._items.append(item)
        self._of_step.setdefault(step, []).append(item)
        return item

    def _supersede(self, item: _Item) -> Iterator[Members]:
        yield from self._close(item, "incomplete")
        item.superseded = True
        self._of_step[item.step].remove(item)

    def _close_spoken(self, step: int, status: str = "completed") -> Iterator[Members]:
        item = self._spoken.get(step)
        if item is not None:
            yield from self._close(item, status)

    def _close_all(self, status: str) -> Iterator[Members]:
        for item in list(self._items):
            # A call that is still open has no result here, however the run ended.
            yield from self._close(item, "incomplete" if item.members["type"] == "mcp_call" else status)

    def _close(self, item: _Item, status: str) -> Iterator[Members]:
        if not item.open:
            return
        item.open = False
        if self._spoken.get(item.step) is item:
            del self._spoken[item.step]
        text = "".join(item.text)
        if item.members["type"] == "message":
            item.members["content"] = [_part(text)]
            yield self._of(item, "response.output_text.done", content_index=0, text=text, logprobs=[])
            yield self._of(item, "response.content_part.done", content_index=0, part=_part(text))
        elif item.members["type"] == "reasoning":
            part = {"type": "summary_text", "text": text}
            item.members["summary"] = [part]
            yield self._of(item, "response.reasoning_summary_text.done", summary_index=0, text=text)
            yield self._of(item, "response.reasoning_summary_part.done", summary_index=0, part=part)
        if item.members["type"] != "mcp_approval_request":
            item.members["status"] = status
        yield self._of(item, "response.output_item.done", item=item.members)

    def _snapshot(self, type: str) -> Members:
        return self._event({"type": type, "response": self.response()})

    def _of(self, item: _Item, type: str, /, **members: Any) -> Members:
        about = {} if "item" in members else {"item_id": item.id}
        return self._event({"type": type, "output_index": item.place, **about, **members})

    def _event(self, members: Members) -> Members:
        made = {**members, "sequence_number": self._sequence}
        self._sequence += 1
        return made


def _shown(item: _Item) -> Members:
    """The item as far as it got."""
    if not item.open:
        return item.members
    text = "".join(item.text)
    if item.members["type"] == "message":
        return {**item.members, "status": "in_progress", "content": [_part(text)]}
    if item.members["type"] == "reasoning":
        return {**item.members, "status": "in_progress", "summary": [{"type": "summary_text", "text": text}]}
    return {**item.members, "status": "in_progress"}


def _part(text: str) -> Members:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: run_pb2.Usage) -> Members:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
