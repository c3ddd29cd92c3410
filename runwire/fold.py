"""From a run's events to its present view: text, tool calls, usage, state."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from runwire.agent.v1 import run_event_pb2, run_pb2
from runwire.values import Json, from_struct, from_value

_UNSET = run_pb2.RUN_STATE_UNSPECIFIED
_COUNTED = tuple(field.name for field in run_pb2.Usage.DESCRIPTOR.fields)
_MAX_COUNT = 2**63 - 1
"""What a field of Usage holds."""


@dataclass(slots=True)
class ToolCall:
    """A tool call, as far as it got."""

    tool_call_id: str
    tool_name: str
    arguments: Json = None
    result: Json = None
    outcome: run_event_pb2.ToolCallOutcome = run_event_pb2.TOOL_CALL_OUTCOME_UNSPECIFIED
    """TOOL_CALL_OUTCOME_UNSPECIFIED while the tool is being executed."""
    native: bool = False
    """Executed by the model's provider."""
    tries: int = 0
    """How often it raised and was called again."""
    error: run_pb2.RunError | None = None
    """What it raised, the last time."""

    @property
    def finished(self) -> bool:
        return self.outcome != run_event_pb2.TOOL_CALL_OUTCOME_UNSPECIFIED


@dataclass(slots=True)
class Draft:
    """A tool call that the model still writes."""

    tool_name: str
    _pieces: list[str] = field(default_factory=list)

    @property
    def arguments(self) -> str:
        """As far as it got: the beginning of a JSON object."""
        return "".join(self._pieces)


@dataclass(slots=True)
class Citation:
    """A source of what the model said."""

    url: str
    title: str
    source: str
    quote: str
    start: int
    end: int
    """Characters of the step's text that it is about; both 0: not said."""


@dataclass(slots=True)
class Custom:
    """An event of the agent author's own kind."""

    type: str
    data: dict[str, Json]


@dataclass(slots=True)
class Step:
    """One step of a run in its latest attempt. Step 0 holds what belongs to no step."""

    step: int
    attempt: int
    """The attempt whose events are shown; those of lower ones were discarded."""
    turn: int = 0
    """Of a conversation; 0: none."""
    name: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    custom: list[Custom] = field(default_factory=list)
    drafts: dict[str, Draft] = field(default_factory=dict)
    """Tool calls that are not made yet, by id. Short ones are never seen here."""
    citations: list[Citation] = field(default_factory=list)
    finished: bool = False
    usage: run_pb2.Usage = field(default_factory=run_pb2.Usage)
    _text: list[str] = field(default_factory=list)
    _reasoning: list[str] = field(default_factory=list)
    _output: list[str] = field(default_factory=list)
    _output_id: str = ""
    _places: dict[str, int] = field(default_factory=dict)
    """Of the tool calls in `tool_calls`, by id."""

    @property
    def text(self) -> str:
        """What the agent said in this step."""
        return "".join(self._text)

    @property
    def output_draft(self) -> str:
        """The structured output as far as it got: the beginning of a JSON object. Empty for a short one."""
        return "".join(self._output)

    @property
    def reasoning(self) -> str:
        """What the model reasoned in this step."""
        return "".join(self._reasoning)


@dataclass(slots=True)
class Turn:
    """One turn of a conversation: a message, and what the agent did with it."""

    turn: int
    message: Json = None
    message_number: int = 0
    state: run_pb2.RunState = run_pb2.RUN_STATE_RUNNING
    output: Json = None
    error: run_pb2.RunError | None = None
    usage: run_pb2.Usage = field(default_factory=run_pb2.Usage)
    received: list[tuple[int, Json]] = field(default_factory=list)
    """Number and content of each message that has steered it."""
    steps: dict[int, Step] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """What the agent said in this turn."""
        return "".join(self.steps[number].text for number in sorted(self.steps))

    @property
    def tool_calls(self) -> list[ToolCall]:
        return [call for number in sorted(self.steps) for call in self.steps[number].tool_calls]

    @property
    def finished(self) -> bool:
        return self.state != run_pb2.RUN_STATE_RUNNING


@dataclass(slots=True)
class RunView:
    """What a run looks like after the events so far."""

    run_id: str = ""
    agent_id: str = ""
    state: run_pb2.RunState = _UNSET
    """RUN_STATE_UNSPECIFIED before the first event."""
    input: Json = None
    output: Json = None
    error: run_pb2.RunError | None = None
    attempt: int = 0
    steps: dict[int, Step] = field(default_factory=dict)
    """By step number, in the order in which they first appeared."""
    turns: dict[int, Turn] = field(default_factory=dict)
    """Of a conversation, by number. Their steps are in `steps` too."""
    pending: list[run_pb2.PendingRequest] = field(default_factory=list)
    """What a suspended run waits for."""
    usage: run_pb2.Usage = field(default_factory=run_pb2.Usage)
    """Of the steps that are finished; of the whole run once it has ended."""
    last_sequence: int = 0
    partial: bool = False
    """Whether the events began in the middle of the run: what came before `first_sequence` is not in the view, neither
    text and steps nor the input and the agent."""
    first_sequence: int = 0
    """Of the first event that was added; 0 before."""

    @property
    def text(self) -> str:
        """All text in order of steps."""
        return "".join(step.text for step in self._ordered())

    @property
    def reasoning(self) -> str:
        return "".join(step.reasoning for step in self._ordered())

    @property
    def tool_calls(self) -> list[ToolCall]:
        return [call for step in self._ordered() for call in step.tool_calls]

    @property
    def citations(self) -> list[Citation]:
        return [citation for step in self._ordered() for citation in step.citations]

    @property
    def output_draft(self) -> str:
        """The structured output as the model writes it, in the newest step that has one."""
        return next((step.output_draft for step in reversed(self._ordered()) if step.output_draft), "")

    @property
    def custom(self) -> list[Custom]:
        return [event for step in self._ordered() for event in step.custom]

    @property
    def ended(self) -> bool:
        return self.state in (
            run_pb2.RUN_STATE_SUCCEEDED,
            run_pb2.RUN_STATE_FAILED,
            run_pb2.RUN_STATE_CANCELLED,
        )

    def _ordered(self) -> list[Step]:
        return [self.steps[number] for number in sorted(self.steps)]


class Fold:
    """Keeps a RunView up to date, one event at a time.

    Obeys the supersede rule: a step that begins again starts empty, and so does a run. An event at or below the
    last sequence changes nothing, so that an event given twice counts once. What an event costs does not depend on how
    many there were. The view keeps all text of the run.
    """

    def __init__(self) -> None:
        self.view = RunView()
        self._used = dict.fromkeys(_COUNTED, 0)
        """By the steps that are finished, kept as sums."""

    def add(self, event: run_event_pb2.RunEvent) -> RunView:
        """Takes the next event; returns the view, which is the same object every time."""
        view = self.view
        if event.sequence <= view.last_sequence:
            return view
        if not view.first_sequence:
            view.first_sequence, view.partial = event.sequence, event.sequence > 1
        view.last_sequence = event.sequence
        view.attempt = max(view.attempt, event.attempt)
        payload = event.WhichOneof("payload")
        if payload in _OF_TURN:
            turn = view.turns.setdefault(event.turn, Turn(event.turn))
            if payload == "turn_started":
                for step in turn.steps.values():  # begun again
                    self._count(step.usage, -1)
                    view.steps.pop(step.step, None)
            _OF_TURN[payload](view, turn, event)
        elif payload in _OF_RUN:
            _OF_RUN[payload](view, event)
            if payload == "run_started":
                self._used = dict.fromkeys(_COUNTED, 0)
        elif payload in _OF_STEP:
            self._add_to_step(event, payload)
        return view

    def _add_to_step(self, event: run_event_pb2.RunEvent, payload: str) -> None:
        view = self.view
        if view.state == _UNSET:
            view.state = run_pb2.RUN_STATE_RUNNING
        step = view.steps.get(event.step)
        if step is None or payload == "step_started":
            if step is not None:
                self._count(step.usage, -1)
            step = view.steps[event.step] = Step(event.step, event.attempt, event.turn)
            if event.turn:
                view.turns.setdefault(event.turn, Turn(event.turn)).steps[event.step] = step
        if event.attempt < step.attempt and event.step > 0:
            return
        if payload == "step_finished":
            self._count(step.usage, -1)
        _OF_STEP[payload](step, event)
        if payload == "step_finished":
            self._count(step.usage, 1)
            view.usage = run_pb2.Usage(**{name: min(used, _MAX_COUNT) for name, used in self._used.items()})

    def _count(self, usage: run_pb2.Usage, times: int) -> None:
        for name in _COUNTED:
            self._used[name] += times * getattr(usage, name)


def view_of_turn(view: RunView, number: int) -> RunView:
    """A turn of a conversation as if it were a run."""
    turn = view.turns.get(number, Turn(number))
    return RunView(
        view.run_id,
        view.agent_id,
        turn.state,
        turn.message,
        turn.output,
        turn.error,
        steps=turn.steps,
        usage=turn.usage,
    )


def fold(events: Iterable[run_event_pb2.RunEvent]) -> RunView:
    """The view after all of `events`, which ascend."""
    folded = Fold()
    for event in events:
        folded.add(event)
    return folded.view


def _run_started(view: RunView, event: run_event_pb2.RunEvent) -> None:
    started = event.run_started
    view.run_id, view.agent_id, view.input = started.run_id, started.agent_id, from_value(started.input)
    view.state = run_pb2.RUN_STATE_RUNNING
    view.partial = False  # from here on all counts, and nothing before
    view.steps.clear()
    view.turns.clear()
    view.pending, view.usage = [], run_pb2.Usage()


def _run_suspended(view: RunView, event: run_event_pb2.RunEvent) -> None:
    view.state = run_pb2.RUN_STATE_SUSPENDED
    view.pending = list(event.run_suspended.pending)


def _run_resumed(view: RunView, event: run_event_pb2.RunEvent) -> None:
    view.state = run_pb2.RUN_STATE_RUNNING
    view.pending = []


def _run_finished(view: RunView, event: run_event_pb2.RunEvent) -> None:
    finished = event.run_finished
    view.state, view.output, view.usage = finished.state, from_value(finished.output), finished.usage
    view.error = finished.error if finished.HasField("error") else None
    view.pending = []


def _turn_started(view: RunView, turn: Turn, event: run_event_pb2.RunEvent) -> None:
    started = event.turn_started
    turn.message, turn.message_number = from_value(started.message), started.message_number
    turn.state, turn.output, turn.error = run_pb2.RUN_STATE_RUNNING, None, None
    turn.steps.clear()
    turn.received.clear()
    view.state, view.pending = run_pb2.RUN_STATE_RUNNING, []


def _turn_finished(view: RunView, turn: Turn, event: run_event_pb2.RunEvent) -> None:
    finished = event.turn_finished
    turn.state, turn.output, turn.usage = finished.state, from_value(finished.output), finished.usage
    turn.error = finished.error if finished.HasField("error") else None
    view.state, view.pending = run_pb2.RUN_STATE_WAITING, []


def _message_received(view: RunView, turn: Turn, event: run_event_pb2.RunEvent) -> None:
    received = event.message_received
    turn.received.append((received.message_number, from_value(received.message)))


def _step_started(step: Step, event: run_event_pb2.RunEvent) -> None:
    step.name, step.attempt = event.step_started.name, event.attempt


def _text(step: Step, event: run_event_pb2.RunEvent) -> None:
    step._text.append(event.text_delta.text)


def _reasoning(step: Step, event: run_event_pb2.RunEvent) -> None:
    step._reasoning.append(event.reasoning_delta.text)


def _tool_call_started(step: Step, event: run_event_pb2.RunEvent) -> None:
    started = event.tool_call_started
    call = ToolCall(started.tool_call_id, started.tool_name, from_value(started.arguments), native=started.native)
    step.drafts.pop(call.tool_call_id, None)
    place = step._places.setdefault(call.tool_call_id, len(step.tool_calls))
    # A tool that is executed again after a crash begins again under the same id, and takes the place it had.
    step.tool_calls[place : place + 1] = [call]


def _tool_call_finished(step: Step, event: run_event_pb2.RunEvent) -> None:
    done = event.tool_call_finished
    place = step._places.setdefault(done.tool_call_id, len(step.tool_calls))
    if place == len(step.tool_calls):
        step.tool_calls.append(ToolCall(done.tool_call_id, done.tool_name))
    call = step.tool_calls[place]
    call.result, call.outcome = from_value(done.result), done.outcome
    if done.HasField("error"):
        call.error = done.error


def _tool_call_retried(step: Step, event: run_event_pb2.RunEvent) -> None:
    retried = event.tool_call_retried
    if (place := step._places.get(retried.tool_call_id)) is not None:
        call = step.tool_calls[place]
        call.tries, call.error = retried.tries, retried.error


def _tool_call_delta(step: Step, event: run_event_pb2.RunEvent) -> None:
    delta = event.tool_call_delta
    step.drafts.setdefault(delta.tool_call_id, Draft(delta.tool_name))._pieces.append(delta.arguments)


def _output_delta(step: Step, event: run_event_pb2.RunEvent) -> None:
    delta = event.output_delta
    if delta.output_id != step._output_id:
        step._output_id = delta.output_id
        step._output.clear()
    step._output.append(delta.text)


def _citation_added(step: Step, event: run_event_pb2.RunEvent) -> None:
    added = event.citation_added
    step.citations.append(Citation(added.url, added.title, added.source, added.quote, added.start, added.end))


def _step_finished(step: Step, event: run_event_pb2.RunEvent) -> None:
    step.finished = True
    step.drafts.clear()
    step.usage = event.step_finished.usage


def _custom(step: Step, event: run_event_pb2.RunEvent) -> None:
    step.custom.append(Custom(event.custom.type, from_struct(event.custom.data)))


_OF_RUN = {
    "run_started": _run_started,
    "run_suspended": _run_suspended,
    "run_resumed": _run_resumed,
    "run_finished": _run_finished,
}

_OF_TURN = {
    "turn_started": _turn_started,
    "turn_finished": _turn_finished,
    "message_received": _message_received,
}

_OF_STEP = {
    "step_started": _step_started,
    "text_delta": _text,
    "reasoning_delta": _reasoning,
    "tool_call_delta": _tool_call_delta,
    "tool_call_started": _tool_call_started,
    "tool_call_retried": _tool_call_retried,
    "tool_call_finished": _tool_call_finished,
    "output_delta": _output_delta,
    "citation_added": _citation_added,
    "step_finished": _step_finished,
    "custom": _custom,
}
