"""What a worker remembers of a run's log: what earlier attempts did, and what the run's scorers are to be shown.

The log itself is in the store. A worker that kept all of it would grow with every event of every run that it executes.
So it keeps two small things: `Past`, of a size with the steps and tool calls that earlier attempts finished, and for a
run with scorers an `Excerpt`, bounded in bytes whatever the run says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from google.protobuf import struct_pb2

from runwire.agent.v1 import run_event_pb2
from runwire.scorer.v1 import scorer_run_requested_pb2
from runwire.scorer_requests import OUTCOMES

_PART_BYTES: Final = 64
"""What a step or a tool call counts for beside its texts, so that many empty ones are bounded too."""

OF_STEP: Final = frozenset(
    {
        "step_started",
        "text_delta",
        "reasoning_delta",
        "tool_call_delta",
        "output_delta",
        "citation_added",
        "tool_call_retried",
        "tool_call_started",
        "tool_call_finished",
        "step_finished",
        "custom",
    }
)


@dataclass(slots=True)
class PastStep:
    """A step that an earlier attempt began."""

    attempt: int
    name: str = ""
    finished: bool = False
    told: set[str] = field(default_factory=set)
    """Ids of the tool calls whose end is in the log."""


class Past:
    """What the log says was done before this attempt, by the supersede rule of run_event.proto."""

    def __init__(self) -> None:
        self.steps: dict[int, PastStep] = {}
        """By step number."""

    def add(self, event: run_event_pb2.RunEvent) -> None:
        """Takes the next event."""
        payload = event.WhichOneof("payload")
        if payload == "run_started":
            self.steps.clear()
        if payload not in OF_STEP:
            return
        step = self.steps.get(event.step)
        if step is None or payload == "step_started":
            step = self.steps[event.step] = PastStep(event.attempt)
        if event.attempt < step.attempt and event.step > 0:
            return
        if payload == "step_started":
            step.name = event.step_started.name
        elif payload == "step_finished":
            step.finished = True
        elif payload == "tool_call_started":
            step.told.discard(event.tool_call_started.tool_call_id)  # begun again
        elif payload == "tool_call_finished":
            step.told.add(event.tool_call_finished.tool_call_id)


@dataclass(slots=True)
class _Part:
    """What is kept of a step. Bytes, and no objects: a word of a model would take twenty times its length."""

    attempt: int
    name: str = ""
    text: bytearray = field(default_factory=bytearray)
    calls: dict[str, bytes] = field(default_factory=dict)
    """SampleToolCalls by id, as they go into the sample."""
    size: int = _PART_BYTES


class Excerpt:
    """The steps and tool calls of a run's sample, in at most `max_bytes`.

    What would be more is not kept at all, and the sample is by reference then: a sample is whole, or it is none.
    """

    def __init__(self, max_bytes: int) -> None:
        self.whole = True
        """Whether this is all that was said."""
        self._max_bytes = max_bytes
        self._size = 0
        self._parts: dict[int, _Part] = {}

    def add(self, event: run_event_pb2.RunEvent) -> None:
        """Takes the next event."""
        payload = event.WhichOneof("payload")
        if payload == "run_started":
            self._forget(whole=True)
        elif self.whole and event.step > 0 and payload in OF_STEP:
            self._add(event, payload)
            if self._size > self._max_bytes:
                self._forget(whole=False)

    def _forget(self, *, whole: bool) -> None:
        self.whole, self._size = whole, 0
        self._parts.clear()

    def _add(self, event: run_event_pb2.RunEvent, payload: str) -> None:
        part = self._parts.get(event.step)
        if part is None or payload == "step_started":
            self._size -= part.size if part else 0
            part = self._parts[event.step] = _Part(event.attempt)
            self._size += part.size
        if event.attempt < part.attempt:
            return
        before = part.size
        if payload == "step_started":
            part.name = event.step_started.name
            part.size += len(part.name.encode())
        elif payload == "text_delta":
            text = event.text_delta.text.encode()
            part.text += text
            part.size += len(text)
        elif payload == "tool_call_started":
            _keep(part, _started(event))
        elif payload == "tool_call_finished":
            _keep(part, _finished(event, part.calls.get(event.tool_call_finished.tool_call_id)))
        self._size += part.size - before

    def steps(self) -> Iterator[scorer_run_requested_pb2.SampleStep]:
        """In order of their numbers."""
        for number, part in sorted(self._parts.items()):
            yield scorer_run_requested_pb2.SampleStep(step=number, name=part.name, text=part.text.decode())

    def tool_calls(self) -> Iterator[scorer_run_requested_pb2.SampleToolCall]:
        """In order of steps, and within a step in order of their beginning."""
        for _, part in sorted(self._parts.items()):
            for call in part.calls.values():
                yield scorer_run_requested_pb2.SampleToolCall.FromString(call)


def _keep(part: _Part, call: scorer_run_requested_pb2.SampleToolCall) -> None:
    """A call that is begun again takes the place that it had."""
    data, before = call.SerializeToString(), part.calls.get(call.tool_call_id)
    part.size += len(data) - (len(before) if before is not None else -_PART_BYTES)
    part.calls[call.tool_call_id] = data


def _started(event: run_event_pb2.RunEvent) -> scorer_run_requested_pb2.SampleToolCall:
    started = event.tool_call_started
    return scorer_run_requested_pb2.SampleToolCall(
        tool_call_id=started.tool_call_id,
        tool_name=started.tool_name,
        arguments=started.arguments if started.HasField("arguments") else _null(),
        result=_null(),
        step=event.step,
    )


def _finished(event: run_event_pb2.RunEvent, before: bytes | None) -> scorer_run_requested_pb2.SampleToolCall:
    done = event.tool_call_finished
    call = scorer_run_requested_pb2.SampleToolCall(
        tool_call_id=done.tool_call_id, tool_name=done.tool_name, arguments=_null(), step=event.step
    )
    if before is not None:
        call = scorer_run_requested_pb2.SampleToolCall.FromString(before)
    call.result.CopyFrom(done.result if done.HasField("result") else _null())
    call.outcome = OUTCOMES.get(done.outcome, "")
    return call


def _null() -> struct_pb2.Value:
    return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
